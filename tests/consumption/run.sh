#!/usr/bin/env bash
# Uses quern in each of the ways that a user may, from this source tree and offline.
set -euo pipefail
cd "$(dirname "$0")/../.."
source cmake/packages.sh
source cmake/checks.sh
need g++:c++ cmake:cmake ninja-build:ninja pkg-config:pkg-config libhwy-dev

root=$PWD
here=$root/tests/consumption
work=$root/build/consumption
rm -rf "$work" && mkdir -p "$work"

# The macros' values, joined by dots.
version=$(sed -n 's/^#define QUERN_VERSION_.* //p' include/quern/version.hpp | paste -sd.)
minor=${version%.*}
source tests/consumption/cmake_ways.sh

# ---- A plain compiler -----------------------------------------------------------------------------

cxx=${CXX:-c++}
# compile NAME SOURCES-AND-FLAGS...  builds and runs a program with nothing but -I.
compile() {
  local program=$work/$1
  shift
  "$cxx" -std=c++20 -Wall -Wextra -Werror -I"$root/include" "$@" -o "$program"
  "$program"
}
all_units=("$here/main.cpp" "$here/highway_first.cpp" "$here/contrib_after.cpp" -DSECOND_UNITS)
# AVX2, where this machine has it. Highway's AVX2 also wants AES, which no -march of that age includes.
avx2=()
if grep -qw avx2 /proc/cpuinfo; then avx2=(-march=haswell -maes); fi

check "plain: run-time dispatch, -lhwy" compile dynamic "$here/main.cpp" -O2 -lhwy
check "plain: run-time dispatch, no exceptions, no RTTI" \
  compile bare "$here/main.cpp" -O1 -fno-exceptions -fno-rtti -lhwy
check "plain: static dispatch, no library, no flags" \
  compile static "$here/main.cpp" -DQUERN_STATIC_DISPATCH
check "plain: static dispatch, ${avx2[*]-}" \
  compile static_avx2 "$here/main.cpp" -O2 -DQUERN_STATIC_DISPATCH "${avx2[@]}"
check "three units, any include order: run-time dispatch" compile units "${all_units[@]}" -O1 -lhwy
check "three units, any include order: static dispatch" \
  compile units_static "${all_units[@]}" -O1 -DQUERN_STATIC_DISPATCH "${avx2[@]}" -lhwy

# Units of one program built for different machines must not share inline functions.
unlike_units() {
  "$cxx" -std=c++20 -O1 -Iinclude -DSECOND_UNITS -c "$here/main.cpp" -o "$work/main.o"
  "$cxx" -std=c++20 -O1 -Iinclude "${avx2[@]}" -c "$here/highway_first.cpp" -o "$work/first.o"
  "$cxx" -std=c++20 -O1 -Iinclude "${avx2[@]}" -DQUERN_STATIC_DISPATCH \
    -c "$here/contrib_after.cpp" -o "$work/after.o"
  "$cxx" "$work/main.o" "$work/first.o" "$work/after.o" -lhwy -o "$work/unlike" && "$work/unlike"
}
check "three units of different flags and modes in one program" unlike_units

compiled_by_hand() {
  "$cxx" -std=c++20 -O1 -Iinclude -DQUERN_COMPILED -c cmake/quern_compiled.cpp -o "$work/library.o"
  compile compiled "$here/main.cpp" -DQUERN_COMPILED "$work/library.o" -lhwy
}
check "plain: compiled library, by hand" compiled_by_hand

compiled_without_highway() {
  ! "$cxx" -std=c++20 -Iinclude -DQUERN_COMPILED -M "$here/main.cpp" | grep 'hwy/'
}
check "compiled library: its users include nothing of Highway's" compiled_without_highway
check "static and compiled together are refused" fails "exclude each other" \
  compile both "$here/main.cpp" -DQUERN_STATIC_DISPATCH -DQUERN_COMPILED

# ---- Each public header alone ---------------------------------------------------------------------

# A header with an include guard is for users and must compile alone, and twice. One without is a
# fragment that is included once a target; those are named -inl.hpp or live under dispatch/.
headers_alone() {
  local header
  for header in $(cd include && find quern -name '*.hpp' | sort); do
    if ! grep -q '^#pragma once' "include/$header"; then
      if [[ $header == *-inl.hpp || $header == */dispatch/* ]]; then continue; fi
      echo "$header has no '#pragma once', but is not named as a fragment" && return 1
    fi
    printf '#include "%s"\n#include "%s"\nint main() {}\n' "$header" "$header" |
      "$cxx" -std=c++20 -Wall -Wextra -Wconversion -Wno-sign-conversion -Werror -fsyntax-only \
        -Iinclude "$@" -x c++ - || { echo "in $header" && return 1; }
  done
}
check "each header alone: run-time dispatch" headers_alone
check "each header alone: static dispatch" headers_alone -DQUERN_STATIC_DISPATCH "${avx2[@]}"
check "each header alone: compiled" headers_alone -DQUERN_COMPILED

# ---- CMake ----------------------------------------------------------------------------------------

check_cmake_ways

# ---- pkg-config -----------------------------------------------------------------------------------

# with_pc MODULE [FLAG]...  the compile line that a makefile would have.
with_pc() {
  local module=$1
  shift
  export PKG_CONFIG_PATH=$work/prefix/share/pkgconfig:$work/prefix-compiled/lib/pkgconfig
  # shellcheck disable=SC2046  # words on purpose
  "$cxx" -std=c++20 "$@" "$here/main.cpp" $(pkg-config --cflags --libs "$module") -o "$work/$module"
  "$work/$module"
}
check "pkg-config: quern" with_pc quern
check "pkg-config: quern-static" with_pc quern-static "${avx2[@]}"
check "pkg-config: quern-compiled" with_pc quern-compiled

static_pc_without_library() {
  export PKG_CONFIG_PATH=$work/prefix/share/pkgconfig
  ! pkg-config --libs quern-static | grep hwy
}
check "pkg-config: quern-static asks for no library" static_pc_without_library

report_checks
