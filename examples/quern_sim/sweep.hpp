// The same work for several values of one field.
#pragma once

#include <string>
#include <vector>

#include "chip.hpp"
#include "run.hpp"

namespace tool {

/// One run for each value, in order.
inline Result<std::vector<Run>> run_sweep(const sim::Chip& chip, const Options& o,
                                          const std::vector<Layer>& layers) {
  std::vector<Run> runs;
  for (const std::string& value : o.sweep_values) {
    sim::Chip changed = chip;
    Error e = set_field(changed, {o.sweep_key, value});
    if (!e) e = validate(changed);
    if (e) return bad("--sweep: %s", e.what());
    auto run = run_layers(changed, layers);
    if (!run) return bad("%.40s=%.40s: %s", o.sweep_key.c_str(), value.c_str(), run.error().what());
    runs.push_back(std::move(*run));
  }
  return runs;
}

inline std::string sweep_text(const Options& o, const std::vector<Run>& runs,
                              const std::vector<Layer>& layers) {
  constexpr char kRow[] = "%-18.18s %15s %11s %7s %8s %11s %11s %10s  %s\n";
  std::string text = sim::chip_text(runs[0].chip);
  if (layers.size() == 1) text += sim::product_text(runs[0].reports[0]);
  text += "  both as with the first value\n\n";
  text += sim::format(kRow, o.sweep_key.c_str(), "cycles", "time", "faster", "util", "DRAM",
                      "energy", "pJ/MAC", layers.size() == 1 ? "bound by" : "");
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const Total& t = runs[i].total;
    const sim::Report& r = runs[i].reports[0];
    const double macs = static_cast<double>(t.macs);
    const bool energy = t.energy.total() > 0;
    text += sim::format(
        kRow, o.sweep_values[i].c_str(), sim::grouped(t.cycles).c_str(),
        sim::amount(t.seconds, "s").c_str(),
        sim::format("%.2f x", t.seconds > 0 ? runs[0].total.seconds / t.seconds : 0.0).c_str(),
        sim::percent(t.utilization()).c_str(),
        sim::amount(static_cast<double>(t.dram_read_bytes + t.dram_write_bytes), "B").c_str(),
        energy ? sim::amount(t.energy.total() * 1e-12, "J").c_str() : "-",
        energy ? sim::format("%.3g", t.energy.total() / macs).c_str() : "-",
        layers.size() == 1
            ? sim::format("%s, %s", name(bound_of(r)), sim::detail::words(r.mapping.dataflow))
                  .c_str()
            : "");
  }
  return text;
}

inline std::string sweep_json(const Options& o, const std::vector<Run>& runs,
                              const std::vector<Layer>& layers) {
  sim::Json json;
  json.object().member("chip", runs[0].chip.name).member("sweep", o.sweep_key);
  json.key("points").array();
  for (std::size_t i = 0; i < runs.size(); ++i) {
    json.object().member("value", o.sweep_values[i]);
    if (o.network.empty()) {
      write_members(json, runs[i].reports[0], runs[i].chip);
    } else {
      json.key("layers");
      write_layers(json, runs[i], layers);
      json.key("total").object();
      write_members(json, runs[i].total);
      json.end();
    }
    json.end();
  }
  json.end().end();
  return json.text() + "\n";
}

}  // namespace tool
