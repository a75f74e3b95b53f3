"""What the peers measured from Python share: their packages, convolutions by name, repetitions, JSON."""
import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import venv


def enter_environment(folder, packages):
    """Goes on in a virtual environment that has the packages ("name==version"), unless this Python has them."""
    names = [p.split("==")[0] for p in packages]
    if all(importlib.util.find_spec(name) for name in names):
        return
    python = folder / "bin/python"
    if pathlib.Path(sys.prefix) == folder:
        sys.exit(f"{folder} lacks one of {', '.join(packages)}")
    if not python.exists() or subprocess.run([python, "-c", f"import {', '.join(names)}"], check=False,
                                             stderr=subprocess.DEVNULL).returncode != 0:
        print(f"Installing {', '.join(packages)} into {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "--quiet", "--disable-pip-version-check", "--retries", "1",
                        "install", *packages], check=True)
    os.execv(python, [python, *sys.argv])


def environment_beside(output, name):
    """Where enter_environment() should put its folder: beside that of OUTPUT, or in the temporary folder."""
    return (output.parent.parent if output else pathlib.Path(tempfile.gettempdir())).resolve() / name


def add_options(parser):
    parser.add_argument("--json", type=pathlib.Path, metavar="OUTPUT")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--min-time", type=float, default=0.04, help="seconds for each repetition")


@dataclasses.dataclass
class Conv:
    """A convolution by its name in quern_bench, see conv_workloads.cpp. Sizes are for each dimension."""
    groups: int
    kernel: tuple
    stride: int
    dilation: int
    inputs: int
    outputs: int
    size: tuple

    GRAMMAR = re.compile(r"\w+/(dw)?(\d+(?:x\d+)*)(?:s(\d+))?(?:d(\d+))?_(\d+)(?:_(\d+))?_(\d+(?:x\d+)*)")

    @classmethod
    def parse(cls, name):
        match = cls.GRAMMAR.fullmatch(name)
        if not match:
            return None
        depthwise, kernel, stride, dilation, inputs, outputs, size = match.groups()
        kernel, size = (tuple(map(int, text.split("x"))) for text in (kernel, size))
        return cls(int(inputs) if depthwise else 1, kernel, int(stride or 1), int(dilation or 1), int(inputs),
                   int(outputs or inputs), size * len(kernel) if len(size) == 1 else size)

    def pads(self):
        """At the beginnings, at the ends."""
        total = [self.dilation * (k - 1) for k in self.kernel]
        ends = [0 if len(self.kernel) == 1 else t // 2 for t in total]
        return [t - e for t, e in zip(total, ends)], ends

    def extent(self):
        """Of the output; what is padded is what the kernel reaches beyond one element."""
        return tuple((n - 1) // self.stride + 1 for n in self.size)

    def weights_shape(self):
        return (self.outputs, self.inputs // self.groups, *self.kernel)

    def macs(self):
        return math.prod(self.extent()) * math.prod(self.weights_shape())

    def sums(self, image, weights, positions, channels):
        """Exact sums at these outputs: image (*size, inputs), weights as weights_shape()."""
        import numpy

        begins, ends = self.pads()
        padded = numpy.pad(image, [*zip(begins, ends), (0, 0)])
        per_group = self.inputs // self.groups
        sums = []
        for position, channel in zip(positions, channels):
            first = channel // (self.outputs // self.groups) * per_group
            window = tuple(slice(o * self.stride, o * self.stride + self.dilation * (k - 1) + 1, self.dilation)
                           for o, k in zip(position, self.kernel))
            patch = padded[(*window, slice(first, first + per_group))].astype(numpy.int64)
            sums.append((numpy.moveaxis(patch, -1, 0) * weights[channel]).sum())
        return numpy.array(sums)

    def sample(self, count=512):
        """Positions and channels of outputs to check."""
        import numpy

        random = numpy.random.default_rng(2)
        positions = random.integers(0, self.extent(), (count, len(self.size)))
        return positions, random.integers(0, self.outputs, count)


def repetitions(run, macs, count, min_time):
    """GMAC/s of CPU time in each of `count` repetitions of run()."""
    def seconds(iterations):
        start = time.thread_time()
        for _ in range(iterations):
            run()
        return (time.thread_time() - start) / iterations

    seconds(1)
    iterations = max(1, round(min_time / seconds(3)))
    return [1e-9 * macs / seconds(iterations) for _ in range(count)]


def entries(name, label, speeds, wrong, checked):
    """One benchmark's repetitions in Google Benchmark's format."""
    print(f"{name:48} {sorted(speeds)[len(speeds) // 2]:7.1f} GMAC/s, {wrong} of {checked} wrong", file=sys.stderr)
    return [{"name": name, "run_type": "iteration", "repetition_index": r, "label": label, "GMAC/s": speed,
             "checked": checked, "wrong": wrong} for r, speed in enumerate(speeds)]


def write(output, context, runs):
    if output:
        output.write_text(json.dumps({"context": context, "benchmarks": runs}, indent=1), encoding="utf-8")
