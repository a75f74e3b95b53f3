#!/usr/bin/env bash
# tests/fuzz/run.sh [SECONDS]  fuzzes descriptions, arguments and packed weights, 60 s unless told.
set -euo pipefail
cd "$(dirname "$0")/../.."
source cmake/packages.sh
need clang:clang++ libclang-rt-14-dev libhwy-dev

mkdir -p build/fuzz/corpus
clang++ -std=c++20 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
  -Iinclude tests/fuzz/gemm_fuzz.cpp -o build/fuzz/gemm_fuzz -lhwy -pthread
build/fuzz/gemm_fuzz -max_total_time="${1:-60}" -timeout=20 -max_len=4096 -print_final_stats=1 \
  -artifact_prefix=build/fuzz/ build/fuzz/corpus 2>&1 | tee build/fuzz/log | tail -n 25
