#!/usr/bin/env bash
# From a fresh clone to an answer, on a Debian 12 with nothing but a C++ compiler:
#
#   cmake/bootstrap.sh test [PRESET]   builds the tests and runs them; presets: CMakePresets.json
#   cmake/bootstrap.sh bench [ARG...]  builds the benchmarks and prints the comparison; arguments go to
#                                      bench/run.sh
#
# Missing Debian packages are installed first, by name, as root or through sudo. When nothing is
# missing, it needs neither root nor a network.
set -euo pipefail
cd "$(dirname "$0")/.."
trap 'echo "bootstrap.sh stopped: this failed: $BASH_COMMAND" >&2' ERR
source cmake/packages.sh

jobs=$(nproc)
base=(g++:c++ cmake:cmake ninja-build:ninja libhwy-dev)

run_tests() {
  local preset=$1 build=build/$1 log total failed start=$SECONDS
  need "${base[@]}" doctest-dev libtomlplusplus-dev
  if [[ $preset == clang ]]; then need clang:clang++ libomp-dev; fi
  if [[ $preset == release ]]; then build=build/test; fi  # build/release has benchmarks too

  cmake --preset "$preset" -B "$build" -DQUERN_BUILD_BENCHMARKS=OFF
  cmake --build "$build" --parallel "$jobs"
  log=$build/ctest.log
  ctest --test-dir "$build" --parallel "$jobs" --output-on-failure --no-tests=error | tee "$log" || true

  # ctest's last line but one: "98% tests passed, 1 tests failed out of 57".
  read -r failed total < <(
    sed -nE 's/^[0-9]+% tests passed, ([0-9]+) tests? failed out of ([0-9]+).*/\1 \2/p' "$log")
  if ((failed == 0)); then
    echo "quern ($preset) does what it promises on this machine:" \
      "all $total tests passed, $((SECONDS - start)) s."
  else
    echo "$failed of $total tests failed ($preset). To see one again:" \
      "ctest --test-dir $build --output-on-failure -R NAME"
  fi
  echo "$((total - failed)) passed, $failed failed"
  ((failed == 0))
}

run_benchmarks() {
  need "${base[@]}" pkg-config:pkg-config python3:python3 python3-venv libbenchmark-dev \
    libdnnl-dev libopenblas-dev libxnnpack-dev libpthreadpool-dev
  cmake --preset release -B build/bench -DQUERN_BUILD_TESTS=OFF -DQUERN_BUILD_EXAMPLES=OFF
  cmake --build build/bench --parallel "$jobs" --target quern_bench
  bench/run.sh build/bench "$@"
}

case ${1-} in
  test) run_tests "${2-release}" ;;
  bench) run_benchmarks "${@:2}" ;;
  *)
    sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0"
    exit 2
    ;;
esac
