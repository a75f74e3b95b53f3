"""summary.py's tables of convolutions."""
from tables import best, geometric_mean, number, ratio, wrong_words

# Types, and the columns beside quern: (title, types, implementation). XNNPACK and ncnn have s8 activations
# only; beside u8 they show what a network costs there.
COMPARISONS = [
    ("u8s8s8", [("onednn", "u8s8s8", "onednn"), ("ort", "u8s8s8", "onnxruntime"),
                ("ort_default", "u8s8s8", "onnxruntime_default"), ("xnnpack_s8", "s8s8s8", "xnnpack"),
                ("ncnn_s8", "s8s8s8", "ncnn")]),
    ("s8s8s8", [("onednn", "s8s8s8", "onednn"), ("xnnpack", "s8s8s8", "xnnpack"), ("ncnn", "s8s8s8", "ncnn")]),
    ("f32f32f32", [("onednn", "f32f32f32", "onednn")]),
]
DEPTHWISE = [("onednn_u8", "u8s8s8", "onednn"), ("onednn_s8", "s8s8s8", "onednn"),
             ("onednn_f32", "f32f32f32", "onednn"), ("xnnpack_s8", "s8s8s8", "xnnpack")]
THREE_BY_THREE = ["resnet50/3x3_64_56", "resnet50/3x3_128_28", "resnet50/3x3_256_14", "resnet50/3x3_512_7"]


def is_depthwise(layer):
    return layer.split("/")[1].startswith("dw")


def measured(results, columns):
    return [c for c in columns if any(results.conv(c[1], c[2], layer) for layer in results.layers())]


def wrong(results, columns, layer):
    return wrong_words((title, results.wrong(types, who, layer, "conv")) for title, types, who in columns)


def best_exact(results, columns, layer):
    return best(results.conv(types, who, layer) for _, types, who in columns
                if not results.wrong(types, who, layer, "conv"))


def print_comparison(results, types, columns, out):
    columns = measured(results, columns)
    rows = []
    for layer in results.layers():
        ours = results.conv(types, "quern", layer)
        if ours is None or is_depthwise(layer):
            continue
        theirs = [results.conv(t, who, layer) for _, t, who in columns]
        rows.append([layer, number(ours), *map(number, theirs), number(ratio(ours, best(theirs)), 2),
                     number(ratio(ours, best_exact(results, columns, layer)), 2),
                     number(ratio(ours, results.conv(types, "onednn", layer)), 2),
                     wrong(results, [("quern", types, "quern"), *columns], layer)])
    if not rows:
        return
    out.heading(f"Convolutions, {types}, GMAC/s")
    out.table(["layer", "quern", *(c[0] for c in columns), "/best peer", "/best exact", "/oneDNN", "wrong outputs"], rows)
    print_three_by_three(results, types, columns, out)
    print_total(results, types, columns, out)


def print_three_by_three(results, types, columns, out):
    """quern against each peer, geometric means."""
    def mean(their_types, who):
        ratios = [ratio(results.conv(types, "quern", layer), results.conv(their_types, who, layer))
                  for layer in THREE_BY_THREE]
        return None if None in ratios else geometric_mean(ratios)

    words = [f"{number(mean(t, who), 2)} x {title}" for title, t, who in columns if mean(t, who)]
    exact = [ratio(results.conv(types, "quern", layer), best_exact(results, columns, layer)) for layer in THREE_BY_THREE]
    if None not in exact:
        words.append(f"{number(geometric_mean(exact), 2)} x the best exact peer of each layer")
    if words:
        out.text(f"\nResNet-50's four 3 x 3 layers with stride 1, geometric mean: quern is {', '.join(words)}.")
    threads = [ratio(results.value(f"conv/{types}/quern/{layer}", "real_time"),
                     results.value(f"conv/{types}/quern/{layer}/threads:2", "real_time")) for layer in THREE_BY_THREE]
    if None not in threads:
        out.text(f"2 threads against 1: {', '.join(number(t, 2) for t in threads)}; "
                 f"geometric mean {number(geometric_mean(threads), 2)}.")


def print_total(results, types, columns, out):
    layer = "resnet50/all"
    times = [(title, results.value(f"conv/{t}/{who}/{layer}", "cpu_time"))
             for title, t, who in [("quern", types, "quern"), *columns] if results.conv(t, who, layer)]
    if times:
        words = (f"{title} {number(time / 1000)} ms" for title, time in times)  # Google Benchmark: us
        out.text(f"\nResNet-50, all 53 convolutions of one image: {', '.join(words)}.")


def print_depthwise(results, out):
    rows, ratios = [], {}
    ours = [(f"quern_{t}", types, "quern") for t, types in
            (("u8", "u8s8s8"), ("s8", "s8s8s8"), ("f32", "f32f32f32"))]
    for layer in filter(is_depthwise, results.layers()):
        speeds = [results.conv(types, "quern", layer) for _, types, _ in ours]
        theirs = [results.conv(types, who, layer) for _, types, who in DEPTHWISE]
        against = [ratio(speeds[0], best(theirs)), ratio(speeds[1], best(theirs)), ratio(speeds[2], theirs[2])]
        for (title, _, _), r in zip(ours, against):
            if r:
                ratios.setdefault(title, []).append(r)
        rows.append([layer, *map(number, speeds), *map(number, theirs), *(number(r, 2) for r in against),
                     wrong(results, [*ours, *DEPTHWISE], layer)])
    if not rows:
        return
    out.heading("Depthwise convolutions, GMAC/s")
    out.table(["layer", *(c[0] for c in ours), *(c[0] for c in DEPTHWISE), "u8/best peer", "s8/best peer", "f32/f32",
               "wrong outputs"], rows)
    means = (f"{title} {number(geometric_mean(r), 2)}" for title, r in ratios.items())
    out.text(f"\nGeometric means against the best of oneDNN int8, oneDNN f32 and XNNPACK (f32: oneDNN f32): {', '.join(means)}.")


def print_convs(results, out):
    for types, columns in COMPARISONS:
        print_comparison(results, types, columns, out)
    print_depthwise(results, out)
