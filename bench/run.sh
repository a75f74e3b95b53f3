#!/usr/bin/env bash
# bench/run.sh BUILD_DIR [--onnxruntime]  measures everything and prints the tables, in 5 minutes or so.
#
# QUERN_BENCH_TARGET=AVX2 bench/run.sh BUILD_DIR  holds quern, oneDNN and OpenBLAS to AVX2
#
# --onnxruntime adds ONNX Runtime in its exact mode. It and the weights of all-MiniLM-L6-v2 are Python
# packages, installed below BUILD_DIR; what cannot be had is left out with a notice. The raw results
# stay in BUILD_DIR/bench/results.
set -euo pipefail
build=$(cd "${1:?the build directory}" && pwd)/bench
here=$(cd "$(dirname "$0")" && pwd)
results=$build/results
repetitions=${QUERN_BENCH_REPETITIONS:-5}
min_time=${QUERN_BENCH_MIN_TIME:-0.04}

# Holds the peers to the same instruction set. oneDNN's variable has an old name and a new one;
# XNNPACK and ONNX Runtime have none.
target=${QUERN_BENCH_TARGET-}
case ${target^^} in
  '') ;;
  AVX2) export DNNL_MAX_CPU_ISA=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 OPENBLAS_CORETYPE=Haswell ;;
  SSE4) export DNNL_MAX_CPU_ISA=SSE41 ONEDNN_MAX_CPU_ISA=SSE41 OPENBLAS_CORETYPE=Nehalem ;;
  *) echo "Only quern is held to $target; its peers use what they find." >&2 ;;
esac
export QUERN_BENCH_LAYERS=$build/minilm.layers
if [[ ! -s $QUERN_BENCH_LAYERS ]] && ! python3 "$here/minilm.py" "$QUERN_BENCH_LAYERS"; then
  unset QUERN_BENCH_LAYERS
fi

# Result files are numbered, since the tables list shapes in the order of measuring.
count=100
next_file() { file=$results/$((count++))-${1//\//_}.json; }

# measure NAME FILTER: repetitions of the benchmarks that match alternate in random order, so that
# whatever else the machine does meets all of them alike.
measure() {
  printf '%5d s  %s\n' "$SECONDS" "$1" >&2
  next_file "$1"
  "$build/quern_bench" --benchmark_filter="$2" --benchmark_out="$file" \
    --benchmark_enable_random_interleaving=true --benchmark_repetitions="$repetitions" \
    --benchmark_min_time="$min_time" >/dev/null 2>"$results/log" || { cat "$results/log" >&2; return 1; }
}

# One process for each workload: implementations are compared within a few seconds of each other, and
# memory holds one workload at a time.
benchmarks=$("$build/quern_bench" --benchmark_list_tests)
mapfile -t workloads < <(sed -nE 's,^gemm/[^/]+/[^/]+/([^:]*)$,\1,p' <<<"$benchmarks" | awk '!seen[$0]++')
rm -rf "$results"
mkdir -p "$results"
measure peaks '^peak/'
for workload in "${workloads[@]}"; do
  variants=''
  if [[ $workload == 1024x1024x1024 ]]; then variants='(/threads:2)?'; fi
  measure "$workload" "^gemm/[^/]+/[^/]+/$workload$variants\$"
  if [[ ${2-} == --onnxruntime && $workload == [0-9]* ]]; then
    next_file "$workload-onnxruntime"
    python3 "$here/onnxruntime_peer.py" --json "$file" \
      --repetitions "$repetitions" --min-time "$min_time" "$workload" >&2 ||
      echo "        without ONNX Runtime" >&2
  fi
done
measure peaks_again '^peak/'
python3 "$here/summary.py" "$results"/*.json
