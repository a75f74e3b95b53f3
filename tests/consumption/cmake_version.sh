#!/usr/bin/env bash
# cmake_version.sh VERSION  the ways to use quern from CMake, with that version of CMake (from PyPI).
set -euo pipefail
cd "$(dirname "$0")/../.."
source cmake/packages.sh
source cmake/checks.sh
need g++:c++ ninja-build:ninja libhwy-dev

root=$PWD
here=$root/tests/consumption
work=$root/build/consumption-cmake-$1
rm -rf "$work" && mkdir -p "$work"
version=$(sed -n 's/^#define QUERN_VERSION_.* //p' include/quern/version.hpp | paste -sd.)
minor=${version%.*}
CMAKE=$(python_tool "cmake==$1" cmake)
source tests/consumption/cmake_ways.sh

check_cmake_ways
report_checks
