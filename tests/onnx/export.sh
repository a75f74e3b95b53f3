#!/usr/bin/env bash
# tests/onnx/export.sh  writes ONNX's node tests to build/onnx, where every build's tests find them.
# Needs the Python package index once.
set -euo pipefail
cd "$(dirname "$0")/../.."
source cmake/packages.sh

python=$(python_tool "$(cat tests/onnx/requirements.txt)" python)
mkdir -p build/onnx
"$python" tests/onnx/export_cases.py build/onnx
