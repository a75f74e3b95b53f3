// Layers on a chip, one after the other, and their sums.
#pragma once

#include <string>
#include <vector>

#include "network.hpp"
#include "quern/sim/conv.hpp"
#include "quern/sim/gemm.hpp"
#include "quern/sim/print.hpp"
#include "quern/sim/trace.hpp"

namespace tool {

namespace sim = quern::sim;

/// What layers cost together, each as often as it occurs.
struct Total {
  Index cycles = 0, compute_cycles = 0, stall_cycles = 0, macs = 0;
  Index dram_read_bytes = 0, dram_write_bytes = 0;
  double seconds = 0;
  sim::EnergyUse energy;
  double busy_cycles = 0;  // of which every processing element would make a product

  double utilization() const { return cycles == 0 ? 0 : busy_cycles / static_cast<double>(cycles); }
  void add(const sim::Report& r, Index count) {
    cycles += r.cycles * count;
    compute_cycles += r.compute_cycles * count;
    stall_cycles += r.stall_cycles * count;
    macs += r.counts.macs * count;
    dram_read_bytes += r.counts.dram_read_bytes * count;
    dram_write_bytes += r.counts.dram_write_bytes * count;
    const double times = static_cast<double>(count);
    seconds += r.seconds * times;
    for (std::size_t i = 0; i < energy.pj.size(); ++i) energy.pj[i] += r.energy.pj[i] * times;
    busy_cycles += r.utilization * static_cast<double>(r.cycles) * times;
  }
};

struct Run {
  sim::Chip chip;
  std::vector<sim::Report> reports;  // of the layers
  Total total;
};

inline Result<sim::Report> estimate_layer(const sim::Chip& chip, const Layer& layer,
                                          const sim::Trace& trace = {}) {
  if (layer.conv) {
    quern::ConvProblem conv = layer.conv->problem;
    conv.a = layer.a;
    conv.b = layer.b;
    conv.c = layer.c;
    return sim::estimate(sim::Backend(chip), conv, layer.conv->in, layer.conv->images, trace);
  }
  const quern::GemmProblem problem{.n = layer.n,
                                   .k = layer.k,
                                   .batch = layer.batch,
                                   .a = layer.a,
                                   .b = layer.b,
                                   .c = layer.c,
                                   .overflow = quern::Overflow::wrap};
  return sim::estimate(sim::Backend(chip), problem, layer.m, layer.batch, trace);
}

/// A trace has every layer once.
inline Result<Run> run_layers(const sim::Chip& chip, const std::vector<Layer>& layers,
                              sim::ChromeTrace* trace = nullptr) {
  Run run{chip, {}, {}};
  for (const Layer& layer : layers) {
    auto report = estimate_layer(chip, layer, trace != nullptr ? trace->sink() : sim::Trace{});
    if (!report) {
      return layers.size() == 1 ? report.error()
                                : bad("layer %.60s: %s", layer.name.c_str(), report.error().what());
    }
    if (trace != nullptr) trace->advance(report->cycles);
    run.total.add(*report, layer.count);
    run.reports.push_back(std::move(*report));
  }
  return run;
}

inline void write_members(sim::Json& json, const Total& t) {
  json.member("cycles", t.cycles).member("compute_cycles", t.compute_cycles);
  json.member("stall_cycles", t.stall_cycles).member("macs", t.macs);
  json.member("dram_read_bytes", t.dram_read_bytes);
  json.member("dram_write_bytes", t.dram_write_bytes);
  json.member("utilization", t.utilization());
  write_member(json, "energy_pj", t.energy);
  json.member("seconds", t.seconds);
}

/// The layers' reports, each with its name and count.
inline void write_layers(sim::Json& json, const Run& run, const std::vector<Layer>& layers) {
  json.array();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    json.object().member("name", layers[i].name).member("count", layers[i].count);
    write_members(json, run.reports[i], run.chip);
    json.end();
  }
  json.end();
}

/// A network as JSON.
inline std::string network_json(const Run& run, const std::vector<Layer>& layers,
                                const std::string& file) {
  sim::Json json;
  json.object().member("chip", run.chip.name).member("network", file);
  json.key("layers");
  write_layers(json, run, layers);
  json.key("total").object();
  write_members(json, run.total);
  json.end().end();
  return json.text() + "\n";
}

/// A network as a table.
inline std::string network_text(const Run& run, const std::vector<Layer>& layers) {
  constexpr char kRow[] = "%-18.18s %17s %5s %11s %13s %7s %5s  %-8s %8s %8s\n";
  std::string text = sim::chip_text(run.chip) + "\n";
  text += sim::format(kRow, "layer", "m x n x k", "count", "types", "cycles", "time", "util",
                      "bound by", "DRAM", "energy");
  const auto energy = [](double pj) {
    return pj > 0 ? sim::amount(pj * 1e-12, "J") : std::string("-");
  };
  const auto bytes = [](Index read, Index written) {
    return sim::amount(static_cast<double>(read + written), "B");
  };
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const sim::Report& r = run.reports[i];
    const Layer& l = layers[i];
    Total one;
    one.add(r, l.count);
    text += sim::format(
        kRow, l.name.c_str(),
        sim::format("%s%lldx%lldx%lld", l.batch > 1 ? (std::to_string(l.batch) + "*").c_str() : "",
                    static_cast<long long>(l.m), static_cast<long long>(l.n),
                    static_cast<long long>(l.k))
            .c_str(),
        std::to_string(l.count).c_str(), sim::type_names(l.a, l.b, l.c).c_str(),
        sim::grouped(one.cycles).c_str(),
        sim::percent(static_cast<double>(one.cycles) / static_cast<double>(run.total.cycles))
            .c_str(),
        sim::format("%.1f", 100 * r.utilization).c_str(), name(bound_of(r)),
        bytes(one.dram_read_bytes, one.dram_write_bytes).c_str(),
        energy(one.energy.total()).c_str());
  }
  const Total& t = run.total;
  text += sim::format(kRow, "total", "", "", "", sim::grouped(t.cycles).c_str(), "100.0 %",
                      sim::format("%.1f", 100 * t.utilization()).c_str(), "",
                      bytes(t.dram_read_bytes, t.dram_write_bytes).c_str(),
                      energy(t.energy.total()).c_str());
  return text + sim::format("\n%s for the network, %s; %.1f in a second; counts are included\n",
                            sim::amount(t.seconds, "s").c_str(),
                            sim::amount(static_cast<double>(t.macs), "MAC").c_str(),
                            t.seconds > 0 ? 1 / t.seconds : 0.0);
}

}  // namespace tool
