#!/usr/bin/env bash
# quern_sim_test.sh QUERN_SIM  runs examples/quern_sim as people would: right and wrong.
set -u
quern_sim=$(realpath "$1")
cd "$(dirname "$0")/../.." || exit 1
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
failures=0

fail() {
  echo "quern_sim $1: $2"
  failures=$((failures + 1))
}

# good "ARGUMENTS" TEXT...: it succeeds, says nothing on stderr, and its output has each text.
good() {
  local arguments=$1
  shift
  # shellcheck disable=SC2086  # words on purpose
  "$quern_sim" $arguments >"$out/stdout" 2>"$out/stderr" || fail "$arguments" "exit status $?"
  [[ -s $out/stderr ]] && fail "$arguments" "$(cat "$out/stderr")"
  for text in "$@"; do
    grep -qF -- "$text" "$out/stdout" || fail "$arguments" "no '$text' in its output"
  done
}

# refused "ARGUMENTS" TEXT [STATUS]: nothing on stdout, one line with the text on stderr.
refused() {
  # shellcheck disable=SC2086
  "$quern_sim" $1 >"$out/stdout" 2>"$out/stderr"
  local status=$?
  [[ $status == "${3-2}" ]] || fail "$1" "exit status $status"
  [[ -s $out/stdout ]] && fail "$1" "output beside an error"
  [[ $(wc -l <"$out/stderr") == 1 ]] || fail "$1" "not one line: $(cat "$out/stderr")"
  grep -qF -- "$2" "$out/stderr" || fail "$1" "said $(cat "$out/stderr")"
}

work="--gemm 64x96x128"
tpu="--preset tpu_v1 $work"

good "--help" "--gemm MxNxK" "--conv CONV"
good "--preset tpu_v1 --conv 56x56x64:64:k3:p1" "3136 x 64 x 576" "lines of the image" "would help"
good "--preset tpu_v1 --conv 14x14x512:512:k3:p1:g512 --json" '"m": 196' '"batch": 512'
good "--preset tpu_v1 --conv 9x12x3:8:k1x7:s1x2:p0x3:d1x1:n5 --json" '"m": 270' '"k": 21'
good "--list" "tpu_v1" "gemmini16"
good "$tpu" "64 x 96 x 128" "bound by" "roofline" "would help"
good "$tpu --json" '"chip": "tpu_v1"' '"m": 64' '"n": 96' '"k": 128' '"energy_pj": {'
good "--preset=tpu_v1 --gemm=64x96x128 --json" '"m": 64'
good "$tpu --json --types s8s8s8 --batch 3" '"types": "s8s8s8"' '"batch": 3'
good "$tpu --json --dataflow os --dies 2" '"dataflow": "output_stationary"' '"dies": 2'
good "$tpu --json --fold-model drain" '"fold_model": "drain"'
good "$tpu --json --set clock_mhz=350" '"clock_mhz": 350'
good "$tpu --set dram.gb_per_s=10 --set dram.efficiency=0.5" "DRAM 10.0 GB/s, 50.0 % of it usable"
good "--preset gemmini16 $work --types f32s8f32" "f32 x s8 -> f32"
# Alone, an array takes folds times cycles per fold: SCALE-Sim's numbers, which start at 0, and 1.
good "--array 32x32 --dataflow ws --ideal-memory --gemm 512x512x512 --json" '"cycles": 155136,'
good "--array 32x32 --dataflow os --ideal-memory --gemm 128x768x768 --json" '"cycles": 79680,'
good "--array 128x128 --dataflow is --ideal-memory --gemm 1x1000x2048 --json" '"cycles": 22112,'

refused "" "no chip"
refused "$work" "no chip"
refused "--preset tpu_v1" "no work"
refused "--preset tpu_v2 $work" "there are tpu_v1"
refused "--array 8x8 $tpu" "exclude each other"
refused "a.toml b.toml $work" "two chips"
refused "--array 8 $work" "RxC"
refused "--array 8x0 $work" "RxC"
refused "--preset tpu_v1 --gemm 64x96" "MxNxK"
refused "--preset tpu_v1 --gemm 0x96x1" "MxNxK"
refused "--preset tpu_v1 --gemm 64x96x1.5" "MxNxK"
refused "--preset tpu_v1 --gemm 1000000x1000000x1000000" "at most 1e+14"
refused "--preset tpu_v1 --gemm" "wants a value"
refused "--preset tpu_v1 --gemm --json" "wants a value"
refused "$tpu $work" "given twice"
refused "$tpu --bogus" "no option --bogus"
refused "$tpu -j" "no option -j"
refused "$tpu --json=yes" "takes no value"
refused "$tpu --batch -1" "--batch is a whole number"
refused "$tpu --types u8" "types are three"
refused "$tpu --types s8f32f32" "s8 x f32 is not offered"
refused "$tpu --types f32f32f32" "does not multiply f32 x f32"
refused "$tpu --dataflow rs" "ws, os or is"
refused "$tpu --fold-model none" "\"drain\" or \"overlap\""
refused "$tpu --dies 3" "at most 2"
refused "$tpu --set clock" "KEY=VALUE"
refused "$tpu --set clock=1" "no key clock"
refused "$tpu --set clock_mhz=fast" "not 'fast'"
refused "$tpu --set clock_mhz=nan" "not 'nan'"
refused "$tpu --sweep clock_mhz" "KEY=V1,V2"
refused "$tpu --sweep clock_mhz=1,,2" "empty"
refused "$tpu --sweep clock_mhz=1,x" "not 'x'"
refused "$tpu --sweep clock_mhz=1,2 --trace $out/t.json" "--trace shows one run"
refused "$tpu --plot $out/p.svg" "--plot shows"
refused "$tpu --sweep clock_mhz=1,2 --plot $out/p.png" "FILE.svg or FILE.html"
refused "$tpu --network $out/none" "exclude each other"
refused "$tpu --conv 9x9x3:8:k3" "exclude each other"
refused "--preset tpu_v1 --conv 9x9x3:8" "a convolution is"
refused "--preset tpu_v1 --conv 9x9x3:8:k3:k3" "a convolution is"
refused "--preset tpu_v1 --conv 9x9x3:8:k3:x1" "a convolution is"
refused "--preset tpu_v1 --conv 9x9x3:8:k11" "has no output"
refused "--preset tpu_v1 --conv 9x9x3:8:k3:g2" "2 groups must divide"
refused "--preset tpu_v1 --conv 9x9x3:8:k3 --batch 2" "--batch goes with --gemm"
refused "--preset tpu_v1 --network $out/none" "cannot be opened"
refused "$tpu --trace $out/none/t.json" "cannot write" 1
refused "--preset tpu_v1 --toml --json" "--toml writes the chip and nothing else"

# Chips' files, where it was built with toml++.
if "$quern_sim" --preset gemmini16 --toml >"$out/chip.toml" 2>"$out/stderr"; then
  good "$out/chip.toml $work --json" '"chip": "gemmini16"'
  good "examples/chips/edge16.toml $work" "edge16: 16 x 16"
  printf '[array]\nrow = 3\n' >"$out/bad.toml"
  refused "$out/bad.toml $work" "bad.toml:2:1: there is no key array.row"
  refused "$out/none.toml $work" "none.toml"
else
  grep -q "without toml++" "$out/stderr" || fail "--toml" "$(cat "$out/stderr")"
  refused "chip.toml $work" "without toml++"
fi

# Networks.
good "--preset gemmini16 --network examples/networks/minilm_128.txt" feed_forward "total" "1.36 GMAC"
good "--preset gemmini16 --network examples/networks/resnet50_gemms.txt --json" \
  '"layers": [' '"name": "conv5_3x3"' '"total": {'
good "--preset tpu_v1 --network examples/networks/resnet50.txt" conv5_down "4.09 GMAC"
[[ $(awk '/:/ && !/^#/ { n += NF > 2 ? $3 : 1 } END { print n }' examples/networks/resnet50.txt) == 53 ]] ||
  fail resnet50 "not 53 convolutions"
network() {
  printf '%b' "$1" >"$out/net.txt"
  refused "--preset tpu_v1 --network $out/net.txt" "$2"
}
network '# nothing\n\n' "net.txt: no layers"
network 'a 1x2x3\n\nb 1x2\n' "net.txt:3: a product is MxNxK"
network 'a\n' "net.txt:1: a layer is NAME MxNxK"
network 'a 1x2x3 0\n' "net.txt:1: a count is"
network 'a 1x2x3 2 u8 s8\n' "net.txt:1: a layer is"
network 'a 1x2x3 2 u8s8\n' "net.txt:1: types are"
network 'a 1x2x3 u8s8s32 2\n' "net.txt:1: '2' comes after the types"
network 'good 1x2x3\nb 1x2x3 f32f32f32\n' "layer b: gemm: tpu_v1 does not multiply"
printf 'a 1x2x3 # comment\r\nb 4x5x6 2 s8s8s8\n' >"$out/net.txt"
good "--preset tpu_v1 --network $out/net.txt" "s8s8s8"

# Sweeps, pictures, traces.
good "$tpu --sweep array=8x8,16x16" "8x8" "16x16"
good "$tpu --sweep dataflow=ws,os,is --json" '"sweep": "dataflow"' '"value": "is"'
good "$tpu --sweep dram.gb_per_s=10,20,40 --plot $out/p.svg" "dram.gb_per_s"
head -c 4 "$out/p.svg" | grep -q '<svg' || fail "--plot" "no picture"
good "--preset tpu_v1 --network $out/net.txt --plot $out/p.html"
grep -q '</html>' "$out/p.html" || fail "--plot" "no page"
grep -vE 'xmlns=' "$out/p.svg" "$out/p.html" | grep -q 'http' && fail "--plot" "needs the network"
good "$tpu --trace $out/t.json" "bound by"
grep -q '"ph": "X"' "$out/t.json" || fail "--trace" "no events"

# Everything that claims to be JSON, or XML, is.
if command -v python3 >/dev/null; then
  for arguments in "$tpu" "--preset gemmini16 --network examples/networks/minilm_128.txt" \
    "$tpu --ideal-memory --sweep array=8x8,16x16" \
    "--array 8x8 --ideal-memory --network $out/net.txt --sweep dataflow=ws,os"; do
    # shellcheck disable=SC2086
    "$quern_sim" $arguments --json |
      python3 -c 'import json, sys; json.load(sys.stdin, parse_constant=lambda c: 1 / 0)' ||
      fail "$arguments --json" "not JSON"
  done
  python3 -m json.tool "$out/t.json" /dev/null || fail "--trace" "not JSON"
  python3 -c "import sys, xml.dom.minidom as m; m.parse(sys.argv[1])" "$out/p.svg" ||
    fail "--plot" "not XML"
fi

[[ $failures == 0 ]] || exit 1
echo "quern_sim: all as expected"
