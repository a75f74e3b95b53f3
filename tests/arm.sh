#!/usr/bin/env bash
# The kernels for Arm, cross-compiled and run under qemu-user: NEON with and without dot products, and
# SVE2 with vectors of 128, 256 and 512 bits. Static dispatch: each program has one instruction set.
set -euo pipefail
cd "$(dirname "$0")/.."
source cmake/packages.sh
need g++-aarch64-linux-gnu:aarch64-linux-gnu-g++ qemu-user-static:qemu-aarch64-static libhwy-dev doctest-dev

out=build/arm
mkdir -p "$out"
# Highway's and doctest's headers do not depend on the architecture, the rest of /usr/include does.
mkdir -p "$out/include"
ln -sfn /usr/include/hwy "$out/include/hwy"
ln -sfn /usr/include/doctest "$out/include/doctest"
export QUERN_TEST_SCALE=${QUERN_TEST_SCALE:-0.1}

build() {  # NAME FLAGS...
  local name=$1
  shift
  aarch64-linux-gnu-g++ -std=c++20 -O2 -static -pthread -Wall -Wextra -Wno-psabi -DQUERN_STATIC_DISPATCH "$@" \
    -Iinclude -Itests -isystem "$out/include" \
    tests/main.cpp tests/cpu/gemm_test.cpp tests/cpu/conv_conformance_test.cpp \
    tests/ops/activation_test.cpp -o "$out/$name"
}
passed=0 failed=0
check() {  # TITLE PROGRAM QEMU_ARGUMENTS...
  local title=$1 program=$2
  shift 2
  if qemu-aarch64-static "$@" "$out/$program" --no-intro >"$out/log" 2>&1; then
    ((++passed))
    echo "ok      $title: $(grep -o 'MESSAGE: .*' "$out/log" | cut -c10- | paste -sd';')"
  else
    ((++failed))
    echo "FAILED  $title" && cat "$out/log"
  fi
}
build neon &
build dot -march=armv8.2-a+dotprod
wait
build sve2 -march=armv8-a+sve2
check "NEON" neon -cpu cortex-a53
check "NEON with dot products" dot -cpu max
for bytes in 16 32 64; do
  check "SVE2, $((bytes * 8)) bits" sve2 -cpu "max,sve-default-vector-length=$bytes"
done
echo "$passed passed, $failed failed"
((failed == 0))
