#!/usr/bin/env python3
"""Measures ONNX Runtime on one thread, with constant weights: MatMulInteger, u8 x s8 -> s32, and
QLinearConv, u8 x s8 -> 8 bits.

    onnxruntime_peer.py [--json OUTPUT] [--saturating] 256x256x256 resnet50/3x3_64_56 ...

Without VNNI, ONNX Runtime saturates by default; session.x64quantprecision=1 asks for its exact kernels.
Products are measured with that, unless --saturating is given; convolutions in both ways, as onnxruntime
and as onnxruntime_default. Convolutions have channels last, as in quern_bench, through ONNX Runtime's own
QLinearConv; their output is u8 with a zero point of 128, since it offers no s8 output for u8 inputs.

The JSON is in Google Benchmark's format, for summary.py. Arguments are workloads of quern_bench; others
are skipped. The packages onnxruntime and onnx are installed into a virtual environment beside OUTPUT (or
in the temporary folder) if Python does not have them. Times are CPU times, as in quern_bench, and include
the call from Python, some 5 microseconds.
"""
import argparse
import re
import subprocess
import sys

import peer

PACKAGES = ["onnxruntime==1.32.0", "onnx==1.23.2"]


def enter_environment(folder):
    peer.enter_environment(folder, PACKAGES)


class Session:
    """A graph of one node, bound to its input and output."""

    def __init__(self, node, constants, a, c, exact):
        import numpy
        import onnx
        import onnxruntime
        from onnx import helper

        def declare(name, array):
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

        graph = helper.make_graph([node], "one", [declare("a", a)], [declare("c", c)], [
            onnx.numpy_helper.from_array(numpy.asarray(value), name) for name, value in constants.items()])
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        if exact:
            options.add_session_config_entry("session.x64quantprecision", "1")
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                                    providers=["CPUExecutionProvider"])
        self.binding = self.session.io_binding()
        self.inputs = onnxruntime.OrtValue.ortvalue_from_numpy(a)
        self.outputs = onnxruntime.OrtValue.ortvalue_from_numpy(c)
        self.binding.bind_ortvalue_input("a", self.inputs)
        self.binding.bind_ortvalue_output("c", self.outputs)

    def run(self):
        self.session.run_with_iobinding(self.binding)

    def result(self):
        return self.outputs.numpy()


class Gemm:
    """One shape, with data of the same kind as quern_bench's."""

    def __init__(self, shape):
        import numpy

        self.m, self.n, k = shape
        self.macs = self.m * self.n * k
        random = numpy.random.default_rng(1)
        self.a = random.integers(0, 256, (self.m, k), dtype=numpy.uint8)
        self.b = random.integers(-128, 128, (k, self.n), dtype=numpy.int8)

    def session(self, exact):
        import numpy
        from onnx import helper

        node = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
        return Session(node, {"b": self.b}, self.a, numpy.zeros((self.m, self.n), numpy.int32), exact)

    def check(self, result, sample=2048):
        """How many of how many outputs differ from exact arithmetic."""
        import numpy

        random = numpy.random.default_rng(2)
        i, j = random.integers(0, self.m, sample), random.integers(0, self.n, sample)
        exact = numpy.einsum("sk,ks->s", self.a[i].astype(numpy.int64), self.b[:, j].astype(numpy.int64))
        return int((result[i, j] != exact).sum()), sample


class Conv:
    """One layer, with data of the same kind as quern_bench's."""

    def __init__(self, layer):
        import numpy

        self.layer = layer
        self.macs = layer.macs()
        random = numpy.random.default_rng(1)
        self.a = random.integers(0, 256, (1, *layer.size, layer.inputs), dtype=numpy.uint8)
        self.b = random.integers(-128, 128, layer.weights_shape(), dtype=numpy.int8)
        deviation = 147 * 74 * (self.b[0].size ** 0.5)
        self.scales = (50 / deviation * random.uniform(0.75, 1.25, layer.outputs)).astype(numpy.float32)

    def session(self, exact):
        import numpy
        from onnx import helper

        layer = self.layer
        begins, ends = layer.pads()
        rank = len(layer.kernel)
        node = helper.make_node(
            "QLinearConv", ["a", "one", "a_zero", "b", "b_scale", "b_zero", "one", "c_zero"], ["c"],
            domain="com.microsoft", channels_last=1, group=layer.groups, kernel_shape=layer.kernel,
            strides=[layer.stride] * rank, dilations=[layer.dilation] * rank, pads=[*begins, *ends])
        constants = {"one": numpy.float32(1), "a_zero": numpy.uint8(0), "b": self.b, "b_scale": self.scales,
                     "b_zero": numpy.zeros(layer.outputs, numpy.int8), "c_zero": numpy.uint8(128)}
        c = numpy.zeros((1, *layer.extent(), layer.outputs), numpy.uint8)
        return Session(node, constants, self.a, c, exact)

    def check(self, result):
        import numpy

        positions, channels = self.layer.sample()
        sums = self.layer.sums(self.a[0], self.b, positions, channels)
        scaled = numpy.rint(sums.astype(numpy.float32) * self.scales[channels]) + 128
        exact = numpy.clip(scaled, 0, 255).astype(numpy.uint8)
        return int((result[0][(*positions.T, channels)] != exact).sum()), len(channels)


def benchmarks(name, saturating):
    """(benchmark's name, label, operation, whether exact) for what a workload is measured in."""
    if re.fullmatch(r"\d+x\d+x\d+", name):
        gemm = Gemm(tuple(int(x) for x in name.split("x")))
        mode = "saturating" if saturating else "exact mode"
        yield f"gemm/u8s8s32/onnxruntime/{name}", f"MatMulInteger, {mode}", gemm, not saturating
    elif layer := peer.Conv.parse(name):
        conv = Conv(layer)
        yield f"conv/u8s8s8/onnxruntime/{name}", "QLinearConv, exact mode", conv, True
        yield f"conv/u8s8s8/onnxruntime_default/{name}", "QLinearConv, default mode", conv, False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="+", metavar="WORKLOAD")
    parser.add_argument("--saturating", action="store_true",
                        help="products in ONNX Runtime's default instead of its exact mode")
    peer.add_options(parser)
    arguments = parser.parse_args()
    enter_environment(peer.environment_beside(arguments.json, "onnxruntime_venv"))

    import onnxruntime

    runs = []
    for workload in arguments.workloads:
        for name, label, operation, exact in benchmarks(workload, arguments.saturating):
            session = operation.session(exact)
            speeds = peer.repetitions(session.run, operation.macs, arguments.repetitions, arguments.min_time)
            runs += peer.entries(name, label, speeds, *operation.check(session.result()))
    mode = "products saturating" if arguments.saturating else "products in exact mode"
    peer.write(arguments.json, {"onnxruntime": f"{onnxruntime.__version__}, {mode}"}, runs)


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"onnxruntime_peer.py: {error}")
