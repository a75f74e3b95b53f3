"""quern_bench's JSON files, read: medians, wrong results, and the machine's ceilings."""
import json
import statistics

MIB = 1 << 20


class Results:
    def __init__(self, paths):
        self.runs = {}  # name -> one entry of the JSON for each repetition
        self.errors = {}
        self.context = {}
        for path in paths:
            with open(path, encoding="utf-8") as file:
                document = json.load(file)
            self.context = {**document["context"], **self.context}
            for run in document["benchmarks"]:
                if run["run_type"] != "iteration":
                    continue  # Google Benchmark's own means and medians
                if run.get("error_occurred"):
                    self.errors[run["name"]] = run["error_message"]
                else:
                    self.runs.setdefault(run["name"], []).append(run)

    def value(self, name, counter="GMAC/s"):
        """The median, or None when it was not measured."""
        runs = self.runs.get(name)
        return statistics.median(run[counter] for run in runs) if runs else None

    def gemm(self, types, who, workload):
        return self.value(f"gemm/{types}/{who}/{workload}")

    def wrong(self, types, who, workload, kind="gemm"):
        """The share of checked outputs that differ from exact arithmetic, in the worst repetition."""
        runs = self.runs.get(f"{kind}/{types}/{who}/{workload}", [])
        return max((run["wrong"] / run["checked"] for run in runs), default=0)

    def conv(self, types, who, layer):
        return self.value(f"conv/{types}/{who}/{layer}")

    def layers(self):
        """Convolutions, in the order of measuring."""
        names = ("/".join(name.split("/")[3:5]) for name in self.runs if name.startswith("conv/"))
        return list(dict.fromkeys(names))

    def workloads(self):
        """Those of plain shapes, in the order of measuring."""
        names = (name.split("/")[3] for name in self.runs if name.startswith("gemm/"))
        return [name for name in dict.fromkeys(names) if name[0].isdigit()]

    def peak(self, prefixes, kinds):
        values = [self.value(f"peak/{p}/{k}") for p in prefixes for k in kinds]
        return max((v for v in values if v), default=None)


def dimensions(workload):
    return tuple(int(x) for x in workload.split("x"))


class Ceiling:
    """What the machine allows: arithmetic of the instruction sets in use, and reading the weights."""

    def __init__(self, results):
        self.results = results
        target = results.context.get("quern_target", "")
        self.sets = [name for name, prefix in (("avx2", "AVX"), ("avx512", "AVX3")) if target.startswith(prefix)]
        self.has_dot = target.endswith("+dot")
        if self.has_dot:
            self.sets.append("avxvnni")

    def compute(self, types, who):
        if types == "f32f32f32":
            return self.results.peak(self.sets, ["f32_fma"])
        kinds = ["s16_madd"]
        if self.has_dot:
            kinds.append("u8s8_vnni")
        if who.endswith("7bit"):  # elsewhere maddubs saturates: no way to multiply full-range numbers
            kinds.append("u8s8_maddubs")
        return self.results.peak(self.sets, kinds)

    def memory(self, types, workload):
        m, n, k = dimensions(workload)
        weight_bytes = n * k * (4 if types == "f32f32f32" else 1)
        place = "16MiB" if weight_bytes <= 16 * MIB else "64MiB" if weight_bytes <= 64 * MIB else "memory"
        bandwidth = self.results.value(f"peak/read/{place}", "GB/s")
        return bandwidth and bandwidth * m * n * k / weight_bytes

    def gemm(self, types, who, workload):
        limits = [self.compute(types, who), self.memory(types, workload)]
        return None if None in limits else min(limits)
