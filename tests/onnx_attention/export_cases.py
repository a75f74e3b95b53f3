#!/usr/bin/env python3
"""Writes ONNX's tests of attention and its neighbours to DIR/cases.txt, for onnx_attention.cpp.

    export_cases.py DIR

The `onnx` package (pinned in tests/onnx/requirements.txt) holds the generators of its node tests,
which run offline. The file is words separated by blanks and line ends:

    onnx VERSION
    case NAME OPERATOR ATTRIBUTES INPUTS OUTPUTS
    NAME COUNT VALUE...           for each attribute, numbers or one word
    TYPE RANK EXTENT... VALUE...  for each input, then for each output; row-major

Values are integers; a float is the integer with its bits, so nothing is rounded. A tensor that is
left out has the type `none` and no more.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx.backend.test.case.node import collect_testcases

OPERATORS = (
    "Attention",
    "Gelu",
    "LayerNormalization",
    "LogSoftmax",
    "RMSNormalization",
    "RotaryEmbedding",
    "Softmax",
    "SwiGLU",
    "TensorScatter",
)
BITS = {"bool": np.uint8, "float32": np.uint32, "float16": np.uint16, "bfloat16": np.uint16}


def tensor(array: np.ndarray) -> str:
    kind = array.dtype.name
    values = np.ascontiguousarray(array).view(BITS.get(kind, array.dtype)).ravel()
    return " ".join(str(word) for word in (kind, array.ndim, *array.shape, *values.tolist()))


def attribute(value: onnx.AttributeProto) -> str:
    word = onnx.helper.get_attribute_value(value)
    words = word if isinstance(word, list) else [word]
    text = (w.decode("ascii") if isinstance(w, bytes) else str(w) for w in words)
    return " ".join((value.name, str(len(words)), *text))


def tensors(names, arrays):
    """The arrays belong to the names that are not empty."""
    given = iter(arrays)
    return [tensor(np.asarray(next(given))) if name else "none" for name in names]


def lines(case):
    (node,) = case.model.graph.node
    ((inputs, outputs),) = case.data_sets
    ins, outs = tensors(node.input, inputs), tensors(node.output, outputs)
    counts = f"{len(node.attribute)} {len(ins)} {len(outs)}"
    yield f"case {case.name.removeprefix('test_')} {node.op_type} {counts}"
    yield from map(attribute, node.attribute)
    yield from ins
    yield from outs


def wanted(case) -> bool:
    nodes = case.model.graph.node
    return len(nodes) == 1 and nodes[0].op_type in OPERATORS


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")  # the generators of other operators divide by zero on purpose
    cases = sorted(filter(wanted, collect_testcases(None)), key=lambda case: case.name)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    text = [f"onnx {onnx.__version__}"]
    for case in cases:
        text.extend(lines(case))
    (folder / "cases.txt").write_text("\n".join(text) + "\n", encoding="ascii")
    print(f"{len(cases)} cases of onnx {onnx.__version__} written to {folder / 'cases.txt'}")
    return 0 if cases else 1


if __name__ == "__main__":
    sys.exit(main())
