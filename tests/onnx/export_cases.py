#!/usr/bin/env python3
"""Writes ONNX's node tests of integer matrix products to DIR/cases.txt, for onnx_test.cpp.

    export_cases.py DIR

The `onnx` package (pinned in requirements.txt) holds the generators of its node tests; they run
offline. The file is words separated by blanks and line ends:

    onnx VERSION
    case NAME OPERATOR COUNT      then COUNT tensors: the inputs in order, then the output
    TYPE RANK EXTENT... VALUE...  in row-major order

Values are integers; a float32 or float16 is the integer with its bits, so nothing is rounded. An
input that is left out has the type `none` and no more.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx.backend.test.case.node import collect_testcases

OPERATORS = ("MatMulInteger", "QLinearMatMul")
BITS = {"float32": np.uint32, "float16": np.uint16}


def tensor(array: np.ndarray) -> str:
    kind = array.dtype.name
    values = np.ascontiguousarray(array).view(BITS.get(kind, array.dtype)).ravel()
    return " ".join(str(word) for word in (kind, array.ndim, *array.shape, *values.tolist()))


def lines(case):
    (node,) = case.model.graph.node
    ((inputs, outputs),) = case.data_sets
    given = dict(zip((value.name for value in case.model.graph.input), inputs))
    yield f"case {case.name.removeprefix('test_')} {node.op_type} {len(node.input) + 1}"
    for name in node.input:
        yield tensor(np.asarray(given[name])) if name else "none"
    yield tensor(np.asarray(outputs[0]))


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")  # the generators of other operators divide by zero on purpose
    cases = [
        case
        for case in collect_testcases(None)
        if len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type in OPERATORS
    ]
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    text = [f"onnx {onnx.__version__}"]
    for case in sorted(cases, key=lambda case: case.name):
        text.extend(lines(case))
    (folder / "cases.txt").write_text("\n".join(text) + "\n", encoding="ascii")
    print(f"{len(cases)} cases of onnx {onnx.__version__} written to {folder / 'cases.txt'}")
    return 0 if cases else 1


if __name__ == "__main__":
    sys.exit(main())
