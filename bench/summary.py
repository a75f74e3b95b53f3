#!/usr/bin/env python3
"""Prints quern_bench's results as tables: summary.py [--markdown] RESULT.json...

Speeds are medians over repetitions, in 10^9 multiply-adds a second (GMAC/s). Exits with 1 if quern
returned a wrong result or failed.
"""
import argparse
import statistics
import sys

from conv_tables import print_convs
from results import Ceiling, Results, dimensions
from tables import Printer, best, geometric_mean, number, percent, ratio, wrong_words

# Title, types, quern's variant, peers.
COMPARISONS = [
    ("u8 x s8 -> s32, full-range weights", "u8s8s32", "quern", ["onednn", "onnxruntime"]),
    ("u8 x s8 -> s32, 7-bit weights", "u8s8s32", "quern_7bit", ["onednn_7bit"]),
    ("s8 x s8 -> s32", "s8s8s32", "quern", ["onednn"]),
    ("s8 x s8 -> s8, requantized", "s8s8s8", "quern", ["onednn", "xnnpack"]),
    ("f32 x f32 -> f32", "f32f32f32", "quern", ["onednn", "openblas"]),
]
# Goal, types, quern's variant, peers (the best one counts), must reach, aim.
GOALS = [
    ("oneDNN s8s8s32 (saturates without VNNI)", "s8s8s32", "quern", ["onednn"], 1.3, 1.6),
    ("oneDNN u8s8s32 (saturates without VNNI)", "u8s8s32", "quern", ["onednn"], 0.85, 1.0),
    ("oneDNN u8s8s32, 7-bit weights", "u8s8s32", "quern_7bit", ["onednn_7bit"], 1.0, 1.05),
    ("ONNX Runtime u8s8, exact mode", "u8s8s32", "quern", ["onnxruntime"], 1.1, 1.3),
    ("XNNPACK qs8", "s8s8s8", "quern", ["xnnpack"], 1.5, 1.8),
    ("f32, the better of oneDNN and OpenBLAS", "f32f32f32", "quern", ["onednn", "openblas"], 0.95, 1.05),
]
MANY_ROWS = 64  # from this M on, shapes count in the goals' means


def comparison_row(results, workload, types, quern, peers, label, extra=()):
    ours = results.gemm(types, quern, workload)
    theirs = [results.gemm(types, peer, workload) for peer in peers]
    onednn = results.gemm(types, next((p for p in peers if p.startswith("onednn")), ""), workload)
    wrong = wrong_words((who, results.wrong(types, who, workload)) for who in [quern, *peers])
    return [label, number(ours), *map(number, theirs), number(ratio(ours, best(theirs)), 2),
            number(ratio(ours, onednn), 2), *extra, wrong]


def print_comparisons(results, ceiling, out):
    for title, types, quern, all_peers in COMPARISONS:
        peers = [p for p in all_peers if any(results.gemm(types, p, w) for w in results.workloads())]
        rows = []
        for workload in results.workloads():
            ours = results.gemm(types, quern, workload)
            if ours is None:
                continue
            share = percent(ratio(ours, ceiling.gemm(types, quern, workload)))
            rows.append(comparison_row(results, workload, types, quern, peers, workload, [share]))
        if rows:
            out.heading(f"{title}, GMAC/s")
            out.table(["M x N x K", quern, *peers, "/best peer", "/oneDNN", "of ceiling", "wrong outputs"], rows)


def print_minilm(results, out):
    rows = []
    for sequence in (1, 32, 128):
        workload = f"minilm/{sequence}"
        if results.gemm("u8s8s32", "quern", workload):
            rows.append(comparison_row(results, workload, "u8s8s32", "quern", ["onednn"], str(sequence)))
    if rows:
        out.heading("All 36 linear layers of all-MiniLM-L6-v2, int8 per output channel, u8 x s8 -> s32, GMAC/s")
        out.table(["sequence", "quern", "onednn", "/best peer", "/oneDNN", "wrong outputs"], rows)
    else:
        out.text("\nall-MiniLM-L6-v2 was not measured (see minilm.py).")


def goal_rows(results, ceiling):
    """(goal, measured, must, aim, what is better), measured may be None."""
    many = [w for w in results.workloads() if dimensions(w)[0] >= MANY_ROWS]
    for title, types, quern, peers, must, aim in GOALS:
        ratios = []
        for workload in many:
            theirs = best(results.gemm(types, peer, workload) for peer in peers)
            ratios.append(ratio(results.gemm(types, quern, workload), theirs))
        ratios = [r for r in ratios if r]
        partly = f" ({len(ratios)} of {len(many)} shapes)" if ratios and len(ratios) < len(many) else ""
        yield f"{title}{partly}", geometric_mean(ratios), must, aim, "x"
    for workload in ("37x53x71", "100x100x100"):
        pair = [results.gemm("u8s8s32", who, workload) for who in ("quern", "onednn")]
        yield f"oneDNN u8s8s32 at {workload}", ratio(*pair), 1.0, None, "x"
    for workload in ("1x4096x4096", "4x4096x4096", "16x4096x4096", "1x8192x8192"):
        for types in ("u8s8s32", "s8s8s32"):
            ours = results.gemm(types, "quern", workload)
            limits = {"arithmetic": ceiling.compute(types, "quern"), "memory": ceiling.memory(types, workload)}
            if None in limits.values():
                continue
            lower = min(limits, key=limits.get)
            title = f"{types} {workload} of its ceiling ({lower}, {limits[lower]:.0f} GMAC/s)"
            yield title, ratio(ours, limits[lower]), 0.8, None, "%"
    cube = "1024x1024x1024"
    pair = [results.value(f"gemm/u8s8s32/quern/{cube}{threads}", "real_time") for threads in ("", "/threads:2")]
    yield f"2 threads against 1 at {cube}", ratio(*pair), 1.8, None, "x"
    for workload in ("128x768x768", "128x3072x768"):
        pair = [results.gemm(types, "quern", workload) for types in ("s8s8s8", "s8s8s32")]
        yield f"s8 output against s32 output at {workload}", ratio(*pair), 1 / 1.1, None, "x"


def print_goals(results, ceiling, out):
    def show(value, unit):
        return percent(value) if unit == "%" and value is not None else number(value, 2)

    rows = []
    for title, value, must, aim, unit in goal_rows(results, ceiling):
        if value is None:
            verdict = "not measured"
        elif aim is not None and value >= aim:
            verdict = "reached, and the aim"
        else:
            verdict = "reached" if value >= must else "SHORT"
        rows.append([title, show(value, unit), show(must, unit), show(aim, unit), verdict])
    out.heading(f"Goals of matrix products: quern's speed relative to ... (geometric means over the shapes with M >= {MANY_ROWS})")
    out.table(["relative to", "measured", "must", "aim", ""], rows)


def print_machine(results, out):
    out.heading("Measured on")
    for key in ("cpu", "compiler", "flags", "dispatch", "quern", "highway", "onednn", "openblas", "xnnpack",
                "onnxruntime", "ncnn"):
        if key in results.context:
            out.text(f"  {key}: {results.context[key]}")
    if "held_to" in results.context:
        out.text(f"  HELD TO {results.context['held_to']} by QUERN_BENCH_TARGET: quern, and those of the above that say so; "
                 "XNNPACK, ONNX Runtime and ncnn choose for themselves")
    kernels = {}
    for name, runs in results.runs.items():
        if not name.startswith("peak/") and runs[0].get("label"):
            kernels.setdefault(name.split("/")[2], {}).update(dict.fromkeys(runs[0]["label"].split(" + ")))
    for who, labels in kernels.items():
        out.text(f"  kernels of {who}: {'; '.join(labels)}")

    peaks = [(name, runs[0]) for name, runs in sorted(results.runs.items()) if name.startswith("peak/")]
    if peaks:
        out.heading("Ceilings of one core")
        out.table(["", "", ""], [
            [name[5:], number(results.value(name, unit)), unit + (f", {run['label']}" if run.get("label") else "")]
            for name, run in peaks for unit in ("GMAC/s", "GB/s") if unit in run])

    if results.runs:
        print_noise(results, out)


def print_noise(results, out):
    spreads, shares = {}, []
    for name, runs in results.runs.items():
        speeds = [run.get("GMAC/s") or run.get("GB/s") for run in runs]
        spreads[name] = (max(speeds) - min(speeds)) / statistics.median(speeds)
        if "/threads:" not in name:
            shares += [run["cpu_time"] / run["real_time"] for run in runs if run.get("real_time")]
    worst = max(spreads, key=spreads.get)
    out.text(f"\nNoise (range of the repetitions / median): typically {percent(statistics.median(spreads.values()))}, "
             f"at most {percent(spreads[worst])} ({worst}).")
    if shares and statistics.fmean(shares) < 0.95:
        out.text(f"THE MACHINE WAS BUSY: benchmarks had their core for {percent(statistics.fmean(shares))} of the time.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="RESULT.json")
    parser.add_argument("--markdown", action="store_true", help="tables for a README")
    arguments = parser.parse_args()
    results = Results(arguments.results)
    ceiling = Ceiling(results)
    out = Printer(arguments.markdown)

    print_machine(results, out)
    print_comparisons(results, ceiling, out)
    print_minilm(results, out)
    print_convs(results, out)
    print_goals(results, ceiling, out)

    ours = [name for name in results.runs if "/quern" in name]
    bad = [name for name in ours if any(run["wrong"] for run in results.runs[name])]
    checked = sum(results.runs[name][0]["checked"] for name in ours)
    for name, message in results.errors.items():
        out.text(f"FAILED {name}: {message}")
    if bad:
        out.text(f"\nquern was WRONG in {len(bad)} of {len(ours)} benchmarks: {', '.join(bad)}")
    else:
        out.text(f"\nquern: none of {checked:,.0f} checked outputs differs from exact arithmetic (f32: from its error bound).")
    failed = any("/quern" in name for name in results.errors)
    return 1 if bad or failed else 0


if __name__ == "__main__":
    sys.exit(main())
