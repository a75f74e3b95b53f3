#!/usr/bin/env python3
"""Measures ONNX Runtime on all-MiniLM-L6-v2, as a peer of examples/minilm: minilm_onnxruntime.py FOLDER [PROGRAM]

The network of examples/minilm/export.py (FOLDER is the one given there, or a new one) becomes an ONNX graph,
in f32 and by ONNX Runtime's own dynamic quantization (quantize_dynamic: s8 weights for each output, u8
activations). Sentences of 32 tokens run one at a time on one thread; the time is a median. With PROGRAM,
examples/minilm, its --bench is run in turn with them.

Both graphs are compared with the network written out in NumPy: the largest difference, the smallest cosine
on the sentences of expected.py. onnxruntime and onnx are installed into FOLDER/peer_venv if this Python
lacks them.
"""
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples/minilm"))
import expected
import export
from peer import enter_environment

PACKAGES = [*export.PACKAGES, "onnxruntime==1.32.0", "onnx==1.23.2"]
TOKENS, RUNS = 32, 51


class Graph:
    """An ONNX graph that grows: op() adds a node, constant() an initializer; both return a name."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, value, kind="float32"):
        import numpy
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(numpy.ascontiguousarray(value, kind), name))
        return name

    def op(self, kind, *inputs, outputs=1, **attributes):
        from onnx import helper

        names = [f"x{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def linear(self, x, weight_and_bias):
        weight, bias = weight_and_bias
        return self.op("Add", self.op("MatMul", x, self.constant(weight.T)), self.constant(bias))

    def norm(self, x, weight_and_bias, epsilon):
        return self.op("LayerNormalization", x, *(self.constant(part) for part in weight_and_bias), epsilon=epsilon)


def build(model, path):
    """tokens (1, n) to the sentence's vector (1, hidden). One sentence needs no mask."""
    import onnx
    from onnx import TensorProto, helper

    c, w, g = model.config, model.weights, Graph()
    hidden, heads, epsilon = c["hidden_size"], c["num_attention_heads"], c["layer_norm_eps"]
    split = g.constant([0, 0, heads, hidden // heads], "int64")
    join = g.constant([0, 0, hidden], "int64")
    zero, one = g.constant([0], "int64"), g.constant([1], "int64")
    count = g.op("Shape", "tokens", start=1, end=2)
    x = g.op("Gather", g.constant(w["embeddings.word_embeddings.weight"]), "tokens")
    place = g.constant(w["embeddings.position_embeddings.weight"] + w["embeddings.token_type_embeddings.weight"][0])
    x = g.op("Add", x, g.op("Slice", place, zero, count))
    x = g.norm(x, (w["embeddings.LayerNorm.weight"], w["embeddings.LayerNorm.bias"]), epsilon)
    for layer in model.layers():
        q, k, v = (g.op("Reshape", part, split)
                   for part in g.op("Split", g.linear(x, layer["qkv"]), outputs=3, axis=2, num_outputs=3))
        q, v = (g.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
        scores = g.op("Mul", g.op("MatMul", q, g.op("Transpose", k, perm=[0, 2, 3, 1])),
                      g.constant((hidden // heads) ** -0.5))
        mixed = g.op("Transpose", g.op("MatMul", g.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        attended = g.linear(g.op("Reshape", mixed, join), layer["project"])
        x = g.norm(g.op("Add", x, attended), layer["attention_norm"], epsilon)
        inner = g.op("Gelu", g.linear(x, layer["up"]))
        x = g.norm(g.op("Add", x, g.linear(inner, layer["down"])), layer["norm"], epsilon)
    mean = g.op("ReduceMean", x, one, keepdims=0)
    g.nodes.append(helper.make_node("LpNormalization", [mean], ["vector"], axis=1, p=2))
    graph = helper.make_graph(g.nodes, "minilm", [helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, "n"])],
                              [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [1, hidden])], g.constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)


def session(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(network, tokens):
    import numpy

    return network.run(["vector"], {"tokens": numpy.array([tokens], numpy.int64)})[0][0]


def milliseconds(network, tokens):
    import numpy

    tokens = numpy.array([tokens], numpy.int64)
    times = []
    for i in range(RUNS + 3):  # the first few warm up
        start = time.perf_counter()
        network.run(["vector"], {"tokens": tokens})
        if i >= 3:
            times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main(folder, program):
    folder.mkdir(parents=True, exist_ok=True)
    enter_environment(folder / "peer_venv", PACKAGES)
    import numpy
    from onnxruntime import quantization

    model = export.Model(folder / "minilm")
    paths = {"f32": folder / "minilm_f32.onnx", "int8": folder / "minilm_int8.onnx"}
    build(model, paths["f32"])
    quantization.quantize_dynamic(paths["f32"], paths["int8"], op_types_to_quantize=["MatMul"], per_channel=True,
                                  weight_type=quantization.QuantType.QInt8)
    layers = expected.double_layers(model)
    texts = [model.tokens(text) for text in expected.sentences()]
    wanted = [expected.vector(model, layers, tokens) for tokens in texts[:100]]
    tokens = [i * 7919 % model.config["vocab_size"] for i in range(TOKENS)]
    for name, path in paths.items():
        network = session(path)
        vectors = [run(network, tokens) for tokens in texts[:100]]
        apart = max(numpy.abs(x - y).max() for x, y in zip(vectors, wanted))
        cosine = min(float(x @ y) for x, y in zip(vectors, wanted))
        print(f"ONNX Runtime, {name}, {TOKENS} tokens, one thread: {milliseconds(network, tokens):.3f} ms "
              f"(median of {RUNS}); largest difference {apart:.2g}, smallest cosine {cosine:.6f}")
        if program:
            command = [program, "--model", folder / "minilm.bin", "--bench", str(TOKENS)]
            subprocess.run(command + (["--int8"] if name == "int8" else []), check=True)


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    try:
        main(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve() if sys.argv[2:] else None)
    except (OSError, subprocess.CalledProcessError) as failure:
        sys.exit(f"minilm_onnxruntime.py: {failure}")
