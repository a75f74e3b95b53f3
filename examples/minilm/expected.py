"""What the network has to compute: varied sentences, their tokens and, by NumPy, their vectors."""
import functools
import math
import random
import struct

# Languages, punctuation, numbers, white space, combining and invisible characters, words that are too long.
SENTENCES = [
    "", " ", "a", "The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.",
    "That is a happy person", "That is a very happy person", "That is a happy dog", "Today is a sunny day",
    "Turn left at the second traffic light, then merge onto I-280 South toward San José.",
    "Pick up the red block; put it on the green one.", "Emergency stop: obstacle at 3.5 m!",
    "int main() { return std::printf(\"%d\\n\", x[i] << 2) & 0xFF; }", "https://example.org/a?b=c&d=%20#e",
    "user.name+tag@mail.example.com", "3.14159 2,718,281 1e-9 0xDEADBEEF 50% $1,299.00 €5 £7 ¥900 ½ ² №5",
    "Der Übergrößenträger aß Süßes in Köln.", "L'été dernier, où étiez-vous ? À l'hôtel, déjà…",
    "El niño comió una piñata; ¿y tú? ¡Olé!", "São Paulo não é a capital do Brasil.", "Ærøskøbing på dansk",
    "Zażółć gęślą jaźń", "Příliš žluťoučký kůň úpěl ďábelské ódy", "Árvíztűrő tükörfúrógép",
    "İstanbul'da ılık bir gün, IŞIK", "Съешь ещё этих мягких французских булок, да выпей чаю",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία ΟΔΥΣΣΕΥΣ", "עברית: שלום עולם", "مرحبا بالعالم، كيف حالك؟",
    "نستعلیق فارسی می‌خواهم", "नमस्ते दुनिया, आप कैसे हैं?", "สวัสดีชาวโลก", "今日はとても良い天気ですね。",
    "機械学習モデルを量子化する", "我喜欢机器学习，但是天气不好。", "안녕하세요 세계! 기계 학습", "Tiếng Việt có nhiều dấu",
    "ქართული ენა", "Հայերեն լեզու", "አማርኛ ቋንቋ", "བོད་ཡིག", "emoji 😀👩‍👩‍👧‍👦🇩🇪❤️ done", "ﬁne ﬂow ﬃ Ǆ ǆ ß ẞ ſ",
    "[CLS] is not [MASK] but [UNK], [PAD] or [SEP]", "[cls] [ MASK ] [[SEP]]", "don't can't won't I'm you're o'clock",
    "a-b–c—d―e…f·g•h", "«guillemets» „Gänsefüßchen“ ‘single’ 「括弧」", "x\ty\nz\r\nw\u00a0v\u3000u\u2003t",
    "zero\u200bwidth\u200djoiner\ufeffbom soft\u00adhyphen", "nul\x00char \x07bell \x7fdel \x85nel \ufffdreplacement",
    "e\u0301 a\u030a\u0323 o\u0308\u0304 \u0301alone", "\u212b \u2126 \u1e9b\u0323 \u1fef \u037e \uf900 \ufa2d",
    "\u1112\u1161\u11ab \u302e\u302f\u0ac8", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ＦＵＬＬ１２３！？ ①②③ Ⅷ ㎏", "word" * 24 + "word", "w" * 100, "w" * 101,
    "é" * 100, "é" * 101, "supercalifragilisticexpialidocious antidisestablishmentarianism", "## ##ing #hashtag ##",
    "\U00020000\U0002a6d6 \U0001f600 \U000e0001 \U0010ffff \ue000 \u0378", "   many   spaces   ", "!!!???...,,,;;;:::",
]
WORDS = """the a of to and in robot camera road lane pedestrian cyclist truck gripper joint torque battery map sensor
learning quantization kernel matrix attention simulator energy latency model drives walks grasps opens turns stops sees
plans quickly safely never always red small heavy autonomous electric wonderful terrible cheap seven 42 2026 Berlin Paris
Tokyo Wikipedia because although while if whether not she they we you river mountain coffee music doctor lawyer child""".split()


def sentences(count=200):
    """The list above, some too long, and random ones of common words."""
    rng = random.Random(1)
    many = [" ".join(rng.choice(WORDS) for _ in range(length)) for length in (126, 127, 253, 254, 255, 300, 600)]
    texts = SENTENCES + many + [" ".join(reversed(SENTENCES))]
    while len(texts) < count:
        words = [rng.choice(WORDS) for _ in range(rng.randint(1, 60))]
        texts.append(" ".join(words).capitalize() + rng.choice([".", "!", "?", ""]))
    return texts[:count]


def nasty(count=2000):
    """Random characters of all scripts: only tokens are expected of them."""
    rng = random.Random(2)
    blocks = [(0, 0x80), (0x80, 0x250), (0x250, 0x590), (0x590, 0x1000), (0x1000, 0x2000), (0x2000, 0x3400), (0x300, 0x370),
              (0x4E00, 0x5000), (0xAC00, 0xAD00), (0xA000, 0xD7FF), (0xE000, 0x10000), (0x10000, 0x20000), (0x20000, 0x110000)]
    for _ in range(count):
        own = rng.sample(blocks, rng.randint(1, 3))
        text = "".join(chr(rng.randrange(*rng.choice(own))) if rng.random() < 0.6 else rng.choice("aeiounst eER[#'")
                       for _ in range(rng.randint(1, 40)))
        yield text + rng.choice(["", "[MASK]", "[SEP]x", " [UNK"])


@functools.cache
def erf_table(points=1 << 16):
    """Linear interpolation between them is within 1e-8."""
    import numpy

    x = numpy.linspace(-6, 6, points)
    return x, numpy.array([math.erf(value) for value in x])


def norm(x, weight_and_bias, epsilon):
    weight, bias = weight_and_bias
    centered = x - x.mean(-1, keepdims=True)
    return centered / ((centered ** 2).mean(-1, keepdims=True) + epsilon) ** 0.5 * weight + bias


def double_layers(model):
    return [{name: [array.astype("f8") for array in part] for name, part in layer.items()} for layer in model.layers()]


def vector(model, layers, tokens):
    """The published network in double precision, for one sentence: nothing is padded or masked."""
    import numpy

    c, w = model.config, model.weights
    epsilon, heads = c["layer_norm_eps"], c["num_attention_heads"]

    def linear(x, weight_and_bias):
        return x @ weight_and_bias[0].T + weight_and_bias[1]

    x = (w["embeddings.word_embeddings.weight"][tokens].astype(numpy.float64) +
         w["embeddings.position_embeddings.weight"][:len(tokens)] + w["embeddings.token_type_embeddings.weight"][0])
    x = norm(x, (w["embeddings.LayerNorm.weight"], w["embeddings.LayerNorm.bias"]), epsilon)
    for layer in layers:
        # (tokens, 3, heads, size) -> q, k and v of (heads, tokens, size)
        q, k, v = linear(x, layer["qkv"]).reshape(len(tokens), 3, heads, -1).transpose(1, 2, 0, 3)
        scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1])
        weights = numpy.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(x.shape)
        x = norm(x + linear(mixed, layer["project"]), layer["attention_norm"], epsilon)
        inner = linear(x, layer["up"])
        inner *= (1 + numpy.interp(inner / math.sqrt(2), *erf_table())) / 2
        x = norm(x + linear(inner, layer["down"]), layer["norm"], epsilon)
    mean = x.mean(0)
    return mean / numpy.linalg.norm(mean)


def check_bytes(model):
    """The body of minilm.check, see check.hpp."""
    records = [(text, True) for text in sentences()] + [(text, False) for text in nasty()]
    layers = double_layers(model)
    body = [struct.pack("<II", len(records), model.config["hidden_size"])]
    for text, with_vector in records:
        tokens, utf8 = model.tokens(text), text.encode()
        body.append(struct.pack("<III", len(utf8), len(tokens), with_vector))
        body.append(struct.pack(f"<{len(tokens)}i", *tokens))
        if with_vector:
            body.append(vector(model, layers, tokens).astype("<f4").tobytes())
        body.append(utf8 + bytes(-len(utf8) % 4))
    return b"".join(body)
