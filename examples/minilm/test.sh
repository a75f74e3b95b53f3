#!/usr/bin/env bash
# examples/minilm/test.sh PROGRAM          what it refuses, and costs: needs no network
# examples/minilm/test.sh PROGRAM FOLDER   whether it computes what export.py wrote into FOLDER; skipped
#                                          when nothing is there
set -uo pipefail
program=$1 folder=${2-}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failures=0

# expect STATUS PATTERN [ARGUMENT...]: the program's exit status, and what it says.
expect() {
  local status=$1 pattern=$2 said
  shift 2
  said=$("$program" "$@" 2>&1 </dev/null)
  if (($? != status)) || ! grep -q -- "$pattern" <<<"$said"; then
    printf 'FAILED: %s %s\n  wanted status %d and "%s", got:\n%s\n' "$program" "$*" "$status" "$pattern" "$said"
    ((++failures))
  fi
}
# u32 NUMBER...: little-endian bytes.
u32() {
  local x
  for x in "$@"; do
    # shellcheck disable=SC2059  # the format is made of escapes
    printf "$(printf '\\x%02x' $((x & 255)) $((x >> 8 & 255)) $((x >> 16 & 255)) $((x >> 24 & 255)))"
  done
}
# signed FILE: appends its CRC-32, which gzip knows.
signed() {
  gzip -c "$1" >"$1.gz"
  tail -c 8 "$1.gz" | head -c 4 >>"$1"
}

if [[ -n $folder ]]; then
  model=$folder/minilm.bin
  if [[ ! -s $model ]]; then
    echo "minilm: skipped, since examples/minilm/export.py has not written $model"
    exit 0
  fi
  for precision in '' --int8; do
    # shellcheck disable=SC2086  # no argument, or one
    expect 0 ': as published' --model "$model" $precision --check "$folder/minilm.check"
  done
  # As the model's documentation prints them.
  expect 0 '0.6660  *1.0000  *0.1411' --model "$model" 'The weather is lovely today.' \
    "It's so sunny outside!" 'He drove to the stadium.'
  expect 0 '^101 103 102 $' --model "$model" --tokens '[MASK]'
  expect 1 'prepared for 512' --model "$model" --bench 513

  head -c 1000000 "$model" >"$scratch/cut"
  expect 1 'is cut off or has grown: it is 1000000 bytes' --model "$scratch/cut" x
  cp "$model" "$scratch/damaged"
  printf '\x55' | dd of="$scratch/damaged" bs=1 seek=5000000 conv=notrunc status=none
  expect 1 'is damaged: its CRC-32' --model "$scratch/damaged" x
  expect 1 'is foreign: it does not begin with quernchk' --model "$model" --check "$model"
else
  expect 1 'No such file' --model "$scratch/none" x
  printf 'short' >"$scratch/file"
  expect 1 'is foreign: it is too short' --model "$scratch/file" x
  head -c 100 /dev/zero >"$scratch/file"
  expect 1 'is foreign: it does not begin with quernbrt' --model "$scratch/file" x
  { printf 'quernbrt' && u32 2 0 28 0 0; } >"$scratch/file"
  expect 1 'has version 2; this program reads version 1' --model "$scratch/file" x
  { printf 'quernbrt' && u32 1 0 29 0 0; } >"$scratch/file"
  expect 1 'it is 28 bytes long but says 29' --model "$scratch/file" x
  { printf 'quernbrt' && u32 1 0 28 0 0; } >"$scratch/file"
  expect 1 'is damaged: its CRC-32 is' --model "$scratch/file" x
  { printf 'quernbrt' && u32 1 0 68 0   0 4 1 1 4 4 2 0 0 0; } >"$scratch/file"
  signed "$scratch/file"
  expect 1 'has a size of 0; 1 to 2^20' --model "$scratch/file" x
  { printf 'quernbrt' && u32 1 0 68 0   1 5 1 2 4 4 2 0 0 0; } >"$scratch/file"
  signed "$scratch/file"
  expect 1 '2 heads share 5' --model "$scratch/file" x
  { printf 'quernbrt' && u32 1 0 68 0   1048576 1048576 1048576 1 1048576 2 2 4294967295 0 0; } >"$scratch/file"
  signed "$scratch/file"
  expect 1 'does not hold what its sizes promise' --model "$scratch/file" x

  expect 1 'neither --model nor --chip'
  expect 1 'there is no option --fast' --fast
  expect 1 '--model needs a value' --model
  expect 1 'not 8x0' --chip gemmini16 --batch 8x0
  expect 1 'not -1' --chip gemmini16 --every -1
  expect 1 'no preset is called abacus' --chip abacus
  expect 0 '^qkv  *1568 x 1152 x 384 ' --chip tesla_fsd_hw3 --batch 8x196 --every 36
  expect 0 'busy for [0-9.]* % of the time, ' --chip gemmini16 --batch 1x64 --every 20
  expect 0 'sentences to vectors' --help
fi
((failures == 0)) && echo "minilm: all as it should be"
exit $((failures != 0))
