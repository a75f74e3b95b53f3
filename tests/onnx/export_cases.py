#!/usr/bin/env python3
"""Writes ONNX's tests of matrix products and convolutions to DIR/cases.txt, for onnx_test.cpp.

    export_cases.py DIR

The `onnx` package (pinned in requirements.txt) holds the generators of its node tests, which run
offline, and the convolutions of PyTorch's own tests as files. The file is words separated by blanks
and line ends:

    onnx VERSION
    case NAME OPERATOR ATTRIBUTES TENSORS
    NAME COUNT VALUE...           for each attribute, integers or one word
    TYPE RANK EXTENT... VALUE...  for each tensor: the inputs in order, then the output; row-major

Values are integers; a float32 or float16 is the integer with its bits, so nothing is rounded. An
input that is left out has the type `none` and no more.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.loader import load_model_tests

OPERATORS = ("MatMulInteger", "QLinearMatMul", "ConvInteger", "QLinearConv", "Conv", "ConvTranspose")
BITS = {"float32": np.uint32, "float16": np.uint16}


def tensor(array: np.ndarray) -> str:
    kind = array.dtype.name
    values = np.ascontiguousarray(array).view(BITS.get(kind, array.dtype)).ravel()
    return " ".join(str(word) for word in (kind, array.ndim, *array.shape, *values.tolist()))


def attribute(value: onnx.AttributeProto) -> str:
    word = onnx.helper.get_attribute_value(value)
    words = word if isinstance(word, list) else [word]
    text = (w.decode("ascii") if isinstance(w, bytes) else str(w) for w in words)
    return " ".join((value.name, str(len(words)), *text))


def lines(name, model, inputs, outputs):
    (node,) = model.graph.node
    given = {value.name: numpy_helper.to_array(value) for value in model.graph.initializer}
    free = [value.name for value in model.graph.input if value.name not in given]
    given.update(zip(free, inputs, strict=True))
    tensors = [tensor(np.asarray(given[name])) if name else "none" for name in node.input]
    counts = f"{len(node.attribute)} {len(tensors) + 1}"
    yield f"case {name.removeprefix('test_')} {node.op_type} {counts}"
    yield from map(attribute, node.attribute)
    yield from tensors
    yield tensor(np.asarray(outputs[0]))


def wanted(model) -> bool:
    return len(model.graph.node) == 1 and model.graph.node[0].op_type in OPERATORS


def generated():
    for case in collect_testcases(None):
        if wanted(case.model):
            ((inputs, outputs),) = case.data_sets
            yield case.name, case.model, inputs, outputs


def stored(kind):
    """The tests that come as files, with one set of data each."""
    for case in load_model_tests(kind=kind):
        model = onnx.load(Path(case.model_dir) / "model.onnx")
        if wanted(model):
            data = Path(case.model_dir) / "test_data_set_0"
            count = len(list(data.glob("input_*.pb")))
            files = [*(data / f"input_{i}.pb" for i in range(count)), data / "output_0.pb"]
            *inputs, output = (numpy_helper.to_array(onnx.load_tensor(file)) for file in files)
            yield case.name, model, inputs, [output]


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")  # the generators of other operators divide by zero on purpose
    cases = [*generated(), *stored("pytorch-converted"), *stored("pytorch-operator")]
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    text = [f"onnx {onnx.__version__}"]
    for case in sorted(cases, key=lambda case: case[0]):
        text.extend(lines(*case))
    (folder / "cases.txt").write_text("\n".join(text) + "\n", encoding="ascii")
    print(f"{len(cases)} cases of onnx {onnx.__version__} written to {folder / 'cases.txt'}")
    return 0 if cases else 1


if __name__ == "__main__":
    sys.exit(main())
