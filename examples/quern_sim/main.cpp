// What a matrix product, or a network of them, costs on a chip: cycles and where they go, memory
// traffic, energy, and what would help. `quern_sim --help` says how to ask.
//
// Exit status: 0, 2 for anything wrong with the command line or the files it names, 1 when output
// cannot be written.
#include <cstdio>
#include <string>
#include <vector>

#include "advice.hpp"
#include "chip.hpp"
#include "network.hpp"
#include "options.hpp"
#include "plot.hpp"
#include "run.hpp"
#include "sweep.hpp"

namespace {

using namespace tool;

int refuse(const Error& error) {
  std::fprintf(stderr, "quern_sim: %s\n", error.what());
  return 2;
}

int print(const std::string& text) {
  const bool good =
      std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (good) return 0;
  std::fprintf(stderr, "quern_sim: cannot write to the standard output\n");
  return 1;
}

int write_file(const std::string& path, const std::string& text) {
  std::FILE* out = std::fopen(path.c_str(), "wb");
  bool good = out != nullptr;
  if (good) {
    good = std::fwrite(text.data(), 1, text.size(), out) == text.size();
    if (std::fclose(out) != 0) good = false;
  }
  if (good) return 0;
  std::fprintf(stderr, "quern_sim: cannot write %s\n", path.c_str());
  return 1;
}

int list() {
  std::string text;
  for (const sim::Preset& p : sim::presets()) {
    const std::string_view first = p.summary.substr(0, p.summary.find(". "));
    text += sim::format("%-18s ", std::string(p.name).c_str()).append(first);
    text += first.ends_with('.') ? "\n" : ".\n";
  }
  return print(text);
}

int sweep(const Options& o, const sim::Chip& chip, const std::vector<Layer>& layers) {
  auto runs = run_sweep(chip, o, layers);
  if (!runs) return refuse(runs.error());
  if (!o.plot.empty()) {
    const int status = write_file(o.plot, plot_of(o, *runs));
    if (status != 0) return status;
  }
  return print(o.json ? sweep_json(o, *runs, layers) : sweep_text(o, *runs, layers));
}

int simulate(const Options& o, const sim::Chip& chip, const std::vector<Layer>& layers) {
  sim::ChromeTrace trace(chip.clock_mhz);
  auto run = run_layers(chip, layers, o.trace.empty() ? nullptr : &trace);
  if (!run) return refuse(run.error());
  if (!o.trace.empty()) {
    const int status = write_file(o.trace, trace.json());
    if (status != 0) return status;
    if (trace.dropped() > 0) {
      std::fprintf(stderr, "quern_sim: %s has %s\n", o.trace.c_str(), trace.note().c_str());
    }
  }
  if (!o.network.empty()) {
    if (!o.plot.empty()) {
      const int status = write_file(o.plot, plot_of(o, *run, layers));
      if (status != 0) return status;
    }
    return print(o.json ? network_json(*run, layers, o.network) : network_text(*run, layers));
  }
  const sim::Report& report = run->reports[0];
  if (o.json) return print(to_json(report, chip));
  return print(to_text(report, chip) + "\n" + advice_text(chip, layers[0], report));
}

}  // namespace

int main(int argc, char** argv) {
  const auto options = parse_options({argv + (argc > 0), argv + argc});
  if (!options) return refuse(options.error());
  const Options& o = *options;
  if (o.help) return print(kHelp);
  if (o.list) return list();
  const auto chip = chip_of(o);
  if (!chip) return refuse(chip.error());
  if (o.toml) {
    const auto text = chip_file(*chip);
    return text ? print(*text) : refuse(text.error());
  }
  const auto layers = layers_of(o);
  if (!layers) return refuse(layers.error());
  return o.sweep_key.empty() ? simulate(o, *chip, *layers) : sweep(o, *chip, *layers);
}
