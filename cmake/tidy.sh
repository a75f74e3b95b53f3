#!/usr/bin/env bash
# cmake/tidy.sh  runs clang-tidy over everything a user of quern can include; checks: .clang-tidy.
# A consumer's translation unit reaches all of it; static dispatch, so that each kernel is seen once.
set -euo pipefail
cd "$(dirname "$0")/.."
source cmake/packages.sh
need clang-tidy-14 libhwy-dev libstdc++-12-dev

clang-tidy-14 --quiet --warnings-as-errors='*' tests/consumption/main.cpp -- \
  -std=c++20 -Iinclude -march=haswell -maes -DQUERN_STATIC_DISPATCH
