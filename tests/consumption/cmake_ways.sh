# shellcheck shell=bash disable=SC2154
# Sourced: the ways to use quern from CMake. Expects $root, $here, $work, $version, $minor and check().

cmake=${CMAKE:-cmake}

# install_quern PREFIX [-D...]...
install_quern() {
  local prefix=$1
  shift
  "$cmake" -S "$root" -B "$prefix-build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DQUERN_BUILD_TESTS=OFF \
    -DQUERN_BUILD_BENCHMARKS=OFF -DQUERN_BUILD_EXAMPLES=OFF -DCMAKE_INSTALL_LIBDIR=lib "$@"
  "$cmake" --build "$prefix-build"
  "$cmake" --install "$prefix-build" --prefix "$prefix"
}

# consume NAME HOW [-D...]...  configures, builds and runs the consumer project.
consume() {
  local build=$work/$1 how=$2
  shift 2
  "$cmake" -S "$here" -B "$build" -G Ninja -DHOW="$how" "$@" &&
    "$cmake" --build "$build" &&
    "$build/consumer"
}

# A package must work wherever its folder is moved, and know nothing of where it was built.
relocate() {
  mv "$work/installed" "$work/prefix"
  mv "$work/installed-compiled" "$work/prefix-compiled"
  if grep -rlF -e "$root/include" -e "$root/cmake" -e "$work" "$work/prefix" "$work/prefix-compiled" \
    --include='*.cmake' --include='*.pc'; then
    echo "name the build's folders" && return 1
  fi
}

header_only_layout() {
  local unexpected
  unexpected=$(cd "$work/prefix" && find . -type f ! -path './include/quern/*.hpp' \
    ! -path './share/cmake/quern/*' ! -path './share/pkgconfig/*' ! -path './share/licenses/quern/*')
  if [[ -n $unexpected ]]; then echo "installed in unexpected places: $unexpected" && return 1; fi
  diff <(cd "$root/include" && find . -name '*.hpp' | sort) \
    <(cd "$work/prefix/include" && find . -type f | sort)
}

check_cmake_ways() {
  local prefix=-DCMAKE_PREFIX_PATH=$work/prefix next
  next=${minor%.*}.$((${minor#*.} + 1))

  check "cmake: add_subdirectory" consume subdirectory subdirectory -DQUERN_SOURCE="$root"
  check "cmake: add_subdirectory, quern::static" \
    consume subdirectory_static subdirectory -DQUERN_SOURCE="$root" -DUSE=quern::static
  check "cmake: add_subdirectory, quern::compiled" \
    consume subdirectory_compiled subdirectory -DQUERN_SOURCE="$root" -DUSE=quern::compiled
  check "cmake: FetchContent with a source directory" consume fetch fetch \
    -DFETCHCONTENT_SOURCE_DIR_QUERN="$root" -DFETCHCONTENT_FULLY_DISCONNECTED=ON

  check "cmake: install, headers only" install_quern "$work/installed"
  check "cmake: install, with the compiled library" \
    install_quern "$work/installed-compiled" -DQUERN_BUILD_COMPILED=ON
  check "cmake: installed packages can be moved" relocate
  check "cmake: header-only install has nothing but headers and descriptions" header_only_layout

  check "cmake: find_package $version" consume package package "$prefix" -DWANT="$version"
  check "cmake: find_package $minor, quern::static" \
    consume package_static package "$prefix" -DWANT="$minor" -DUSE=quern::static
  check "cmake: find_package, quern::compiled" consume package_compiled package \
    -DCMAKE_PREFIX_PATH="$work/prefix-compiled" "-DWANT=$minor;COMPONENTS;compiled" -DUSE=quern::compiled
  check "cmake: find_package $next is refused" \
    fails "requested version \"$next\"" consume newer package "$prefix" -DWANT="$next"
  check "cmake: find_package $minor.99 is refused" \
    fails "requested version \"$minor.99\"" consume patch package "$prefix" -DWANT="$minor.99"
  check "cmake: a component that is not there is refused" \
    fails "installed without: compiled" consume component package "$prefix" "-DWANT=COMPONENTS;compiled"
}
