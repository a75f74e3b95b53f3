#!/usr/bin/env python3
"""Measures ncnn's 8-bit convolution, 3 x 3 with stride 1, on one thread.

    ncnn_peer.py [--json OUTPUT] resnet50/3x3_64_56 ...

ncnn takes and gives floats: converting them to 8 bits and back is part of its time. Its weights and
activations are in [-127, 127], and its output is the sums, not requantized. Its Winograd form returns
wrong sums without a word where they are large (all values 127: from 32 input channels on); random data
do not get there.

The JSON is in Google Benchmark's format, for summary.py. Arguments are workloads of quern_bench; others
than these convolutions are skipped. The packages ncnn and numpy are installed into a virtual environment
beside OUTPUT (or in the temporary folder) if Python does not have them. Times are CPU times, as in
quern_bench, and include the calls from Python, some 10 microseconds.
"""
import argparse
import struct
import subprocess
import sys

import peer

PACKAGES = ["ncnn==1.0.20261020", "numpy"]


class Conv:
    """One layer, ready to run."""

    def __init__(self, layer):
        import ncnn
        import numpy

        self.layer = layer
        random = numpy.random.default_rng(1)
        self.b = random.integers(-127, 128, layer.weights_shape(), dtype=numpy.int8)
        self.a = random.integers(-127, 128, (layer.inputs, *layer.size)).astype(numpy.float32)
        self.net = ncnn.Net()
        self.net.opt.num_threads = 1
        self.net.load_param_mem(
            "7767517\n2 2\n"
            "Input a 0 1 a\n"
            f"Convolution c 1 1 a c 0={layer.outputs} 1={layer.kernel[0]} 4={layer.pads()[0][0]} 6={self.b.size} "
            "8=2\n")  # it has scales for 8 bits
        # A tag for 8-bit weights, the weights, and scales that are all 1: of each output channel, of the input.
        self.model = (struct.pack("<I", 0x000D4B38) + self.b.tobytes() + bytes(-self.b.size % 4) +
                      numpy.ones(layer.outputs + 1, "<f4").tobytes())
        self.net.load_model_mem(self.model)
        self.input = ncnn.Mat(self.a)
        self.output = None

    def run(self):
        extractor = self.net.create_extractor()
        extractor.input("a", self.input)
        _, self.output = extractor.extract("c")

    def check(self):
        """How many of how many outputs differ from exact arithmetic."""
        import numpy

        positions, channels = self.layer.sample()
        sums = self.layer.sums(numpy.moveaxis(self.a, 0, -1), self.b, positions, channels)
        result = numpy.array(self.output)[(channels, *positions.T)]
        return int((result != sums.astype(numpy.float32)).sum()), len(channels)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="+", metavar="WORKLOAD")
    peer.add_options(parser)
    arguments = parser.parse_args()
    peer.enter_environment(peer.environment_beside(arguments.json, "ncnn_venv"), PACKAGES)

    import ncnn

    runs = []
    for workload in arguments.workloads:
        layer = peer.Conv.parse(workload)
        if layer is None or layer.kernel != (3, 3) or layer.stride != 1 or layer.groups != 1:
            continue
        conv = Conv(layer)
        speeds = peer.repetitions(conv.run, layer.macs(), arguments.repetitions, arguments.min_time)
        runs += peer.entries(f"conv/s8s8s8/ncnn/{workload}", "int8, floats at both ends", speeds, *conv.check())
    peer.write(arguments.json, {"ncnn": f"{ncnn.__version__}, int8, floats at both ends"}, runs)


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"ncnn_peer.py: {error}")
