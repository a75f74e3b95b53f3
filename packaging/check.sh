#!/usr/bin/env bash
# The Conan recipe and the vcpkg port, tested without a remote and without vcpkg; and that all
# descriptions of quern agree. Needs the Python package index once, for Conan.
set -euo pipefail
cd "$(dirname "$0")/.."
source cmake/packages.sh
source cmake/checks.sh
need g++:c++ cmake:cmake ninja-build:ninja pkg-config:pkg-config libhwy-dev python3:python3

root=$PWD
work=$root/build/packaging
rm -rf "$work" && mkdir -p "$work"
conan=$(python_tool conan==2.34.0 conan)
export CONAN_HOME=$work/conan  # nothing of the user's own Conan is touched
export CONAN_CMAKE_GENERATOR=Ninja
unset CMAKE_TOOLCHAIN_FILE

# ---- Versions -------------------------------------------------------------------------------------

# The macros' values, joined by dots.
version=$(sed -n 's/^#define QUERN_VERSION_.* //p' include/quern/version.hpp | paste -sd.)
same_version() {
  if [[ $1 != "$version" ]]; then echo "$1, but version.hpp says $version" && return 1; fi
}
cmake_version() {
  cmake -S . -B "$work/version" -G Ninja -DQUERN_BUILD_{TESTS,BENCHMARKS,EXAMPLES}=OFF
  same_version "$(sed -n 's/^CMAKE_PROJECT_VERSION:STATIC=//p' "$work/version/CMakeCache.txt")"
}
conan_version() {
  same_version "$("$conan" inspect . --format=json |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["version"])')"
}
vcpkg_version() {
  same_version "$(python3 -c 'import json; print(json.load(open("packaging/vcpkg/vcpkg.json"))["version"])')"
}
check "version: $version in CMake" cmake_version
check "version: $version in conanfile.py" conan_version
check "version: $version in vcpkg.json" vcpkg_version

# Options that the recipes set must exist.
options_exist() {
  local option
  # shellcheck disable=SC2013  # words on purpose
  for option in $(grep -oh 'QUERN_BUILD_[A-Z]*' packaging/vcpkg/portfile.cmake); do
    grep -q "^option($option " CMakeLists.txt || { echo "no option $option" && return 1; }
  done
}
check "options named in the port exist" options_exist

# ---- Conan, with the system's Highway as the only other package -----------------------------------

conan_create() {
  "$conan" profile detect
  "$conan" export packaging/conan/highway --version=1.0.3
  "$conan" create . --no-remote --build=missing -s compiler.cppstd=20
}
conan_refuses_cpp17() {
  fails "C++" "$conan" create . --no-remote --build=missing -s compiler.cppstd=17
}
# One package for all settings, made of headers and the licence.
conan_layout() {
  local package folder unexpected
  package=$("$conan" list "quern/$version:*" --format=json | python3 -c '
import json, sys
[recipe] = json.load(sys.stdin)["Local Cache"].values()
[revision] = recipe["revisions"].values()
[package] = revision["packages"]  # a second one would mean that settings make a difference
print(package)')
  folder=$("$conan" cache path "quern/$version:$package")
  unexpected=$(cd "$folder" && find . -type f ! -path './include/quern/*.hpp' ! -path './licenses/LICENSE' \
    ! -name conaninfo.txt ! -name conanmanifest.txt)
  if [[ -n $unexpected ]]; then echo "unexpected in the package: $unexpected" && return 1; fi
}
check "conan: create and test the package" conan_create
check "conan: the package holds headers only" conan_layout
check "conan: C++17 is refused" conan_refuses_cpp17

# ---- vcpkg ----------------------------------------------------------------------------------------

vcpkg_run() { cmake -DSOURCE="$root" -DWORK="$work/vcpkg" -P packaging/vcpkg/run_port.cmake; }
vcpkg_lint() { cmake -DSOURCE="$root" -DWORK="$work/vcpkg" -P packaging/vcpkg/lint_port.cmake; }
vcpkg_use() {
  cmake -S packaging/conan/test_package -B "$work/vcpkg-consumer" -G Ninja \
    -DCMAKE_PREFIX_PATH="$work/vcpkg/packages"
  cmake --build "$work/vcpkg-consumer"
  "$work/vcpkg-consumer/test_package"
}
check "vcpkg: the port builds" vcpkg_run
check "vcpkg: the package passes the lint" vcpkg_lint
check "vcpkg: a project can use the package" vcpkg_use

report_checks
