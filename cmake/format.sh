#!/usr/bin/env bash
# cmake/format.sh [--check]  formats the C++ sources in place, or only reports what is not formatted.
# Version 14, whatever else is installed: other versions format differently.
set -euo pipefail
cd "$(dirname "$0")/.."
source cmake/packages.sh
need clang-format-14

mode=-i
if [[ ${1-} == --check ]]; then mode="--dry-run -Werror"; fi
# shellcheck disable=SC2086  # two words on purpose
find include tests bench examples cmake packaging \( -name '*.hpp' -o -name '*.cpp' \) -print0 |
  xargs -0 clang-format-14 $mode
