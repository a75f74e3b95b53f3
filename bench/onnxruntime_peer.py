#!/usr/bin/env python3
"""Measures ONNX Runtime's MatMulInteger, u8 x s8 -> s32 with constant weights, on one thread.

    onnxruntime_peer.py [--json OUTPUT] [--saturating] 256x256x256 128x768x768 ...

Without VNNI, ONNX Runtime saturates by default; session.x64quantprecision=1 asks for its exact kernels,
and that is what is measured here unless --saturating is given. The JSON is in Google Benchmark's format, for
summary.py. Arguments that are not of the form MxNxK are skipped. The packages onnxruntime and onnx
are installed into a virtual environment beside OUTPUT (or in the temporary folder) if Python
does not have them. Times are CPU times, as in quern_bench, and include the call from Python, some
5 microseconds.
"""
import argparse
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import venv

PACKAGES = ["onnxruntime==1.32.0", "onnx==1.23.2"]


def enter_environment(folder):
    """Goes on in a virtual environment that has the packages, unless this Python has them."""
    if all(importlib.util.find_spec(p.split("==")[0]) for p in PACKAGES):
        return
    python = folder / "bin/python"
    if pathlib.Path(sys.prefix) == folder:
        sys.exit(f"{folder} lacks one of {', '.join(PACKAGES)}")
    if not python.exists() or subprocess.run([python, "-c", "import onnx, onnxruntime"], check=False,
                                             stderr=subprocess.DEVNULL).returncode != 0:
        print(f"Installing {', '.join(PACKAGES)} into {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "--quiet", "--disable-pip-version-check", "--retries", "1",
                        "install", *PACKAGES], check=True)
    os.execv(python, [python, *sys.argv])


def session(b, saturating):
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    k, n = b.shape
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])], "gemm",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, ["m", k])],
        [helper.make_tensor_value_info("c", TensorProto.INT32, ["m", n])],
        [onnx.numpy_helper.from_array(b, "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if not saturating:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Gemm:
    """One shape, ready to run, with data of the same kind as quern_bench's."""

    def __init__(self, shape, saturating):
        import numpy
        import onnxruntime

        self.shape = m, n, k = shape
        random = numpy.random.default_rng(1)
        self.a = random.integers(0, 256, (m, k), dtype=numpy.uint8)
        self.b = random.integers(-128, 128, (k, n), dtype=numpy.int8)
        self.c = numpy.zeros((m, n), numpy.int32)
        self.session = session(self.b, saturating)
        self.binding = self.session.io_binding()
        self.binding.bind_ortvalue_input("a", onnxruntime.OrtValue.ortvalue_from_numpy(self.a))
        self.c_value = onnxruntime.OrtValue.ortvalue_from_numpy(self.c)
        self.binding.bind_ortvalue_output("c", self.c_value)

    def seconds(self, iterations):
        run, binding = self.session.run_with_iobinding, self.binding
        start = time.thread_time()
        for _ in range(iterations):
            run(binding)
        return (time.thread_time() - start) / iterations

    def check(self, sample=2048):
        """How many of how many outputs differ from exact arithmetic."""
        import numpy

        m, n, _ = self.shape
        random = numpy.random.default_rng(2)
        i, j = random.integers(0, m, sample), random.integers(0, n, sample)
        exact = numpy.einsum("sk,ks->s", self.a[i].astype(numpy.int64), self.b[:, j].astype(numpy.int64))
        return int((self.c_value.numpy()[i, j] != exact).sum()), sample


def measure(shape, repetitions, min_time, saturating):
    gemm = Gemm(shape, saturating)
    gemm.seconds(1)
    iterations = max(1, round(min_time / gemm.seconds(3)))
    speeds = []
    for _ in range(repetitions):
        speeds.append(1e-9 * shape[0] * shape[1] * shape[2] / gemm.seconds(iterations))
    wrong, checked = gemm.check()
    return speeds, wrong, checked


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="+", metavar="MxNxK")
    parser.add_argument("--json", type=pathlib.Path, metavar="OUTPUT")
    parser.add_argument("--saturating", action="store_true", help="ONNX Runtime's default instead of its exact mode")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--min-time", type=float, default=0.04, help="seconds for each repetition")
    arguments = parser.parse_args()
    folder = arguments.json.parent.parent if arguments.json else pathlib.Path(tempfile.gettempdir())
    enter_environment(folder.resolve() / "onnxruntime_venv")

    import onnxruntime

    mode = "saturating" if arguments.saturating else "exact mode"
    runs = []
    for name in arguments.shapes:
        if not re.fullmatch(r"\d+x\d+x\d+", name):
            continue
        shape = tuple(int(x) for x in name.split("x"))
        speeds, wrong, checked = measure(shape, arguments.repetitions, arguments.min_time, arguments.saturating)
        print(f"{name:16} {sorted(speeds)[len(speeds) // 2]:7.1f} GMAC/s, {wrong} of {checked} wrong", file=sys.stderr)
        runs += [{"name": f"gemm/u8s8s32/onnxruntime/{name}", "run_type": "iteration", "repetition_index": r,
                  "label": f"MatMulInteger, {mode}", "GMAC/s": speed, "checked": checked, "wrong": wrong}
                 for r, speed in enumerate(speeds)]
    if arguments.json:
        context = {"onnxruntime": f"{onnxruntime.__version__}, {mode}"}
        arguments.json.write_text(json.dumps({"context": context, "benchmarks": runs}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"onnxruntime_peer.py: {error}")
