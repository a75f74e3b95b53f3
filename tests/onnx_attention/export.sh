#!/usr/bin/env bash
# tests/onnx_attention/export.sh  writes ONNX's node tests of attention and the operators around it
# to build/onnx_attention, where every build's tests find them. Needs the Python package index once.
set -euo pipefail
cd "$(dirname "$0")/../.."
source cmake/packages.sh

python=$(python_tool "$(cat tests/onnx/requirements.txt)" python)
mkdir -p build/onnx_attention
"$python" tests/onnx_attention/export_cases.py build/onnx_attention
