// The convolutions of a text detector, PP-OCRv4, one after the other: how fast this CPU runs each,
// whether its outputs are exact, and what it would cost on other chips.
//
// The layers come from a file that a script makes of the network (a Python package, 15 MB):
//
//   python3 bench/detector.py build/detector.layers
//   build/examples/detector --layers build/detector.layers
//
// Without a file, a few made-up layers with random weights run. Activations are random.
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chips.hpp"
#include "layers.hpp"
#include "run.hpp"

namespace {

using namespace detector;

constexpr char kHelp[] =
    R"(detector: convolutions of a text detector on this CPU and on simulated chips.

  --layers FILE   layers that bench/detector.py wrote; without it, a few made-up ones
  --target NAME   the instruction set, such as AVX2, instead of the best
  --chip NAME     a preset of the simulator, any number of times;
                  without it, tesla_fsd_hw3 and ai5_assumed
)";

struct Options {
  std::string layers, target;
  std::vector<std::string> chips;
  bool help = false;
};

Result<Options> parse(int count, const char* const* arguments) {
  Options o;
  for (int i = 1; i < count; ++i) {
    const std::string_view name = arguments[i];
    if (name == "--help") {
      o.help = true;
      continue;
    }
    if (name != "--layers" && name != "--target" && name != "--chip") {
      return bad("there is no option %.60s; see --help", arguments[i]);
    }
    if (++i == count) return bad("%s needs a value", arguments[i - 1]);
    name == "--layers"   ? void(o.layers = arguments[i])
    : name == "--target" ? void(o.target = arguments[i])
                         : o.chips.push_back(arguments[i]);
  }
  if (o.chips.empty()) o.chips = {"tesla_fsd_hw3", "ai5_assumed"};
  return o;
}

/// "80x80x96 to 24, 3x3 /2 depthwise".
std::string shape_text(const Layer& layer) {
  const ConvProblem& p = layer.shape;
  const auto number = [](Index i) { return std::to_string(i); };
  std::string text = number(layer.extent[1]) + 'x' + number(layer.extent[2]) + 'x' +
                     number(p.in_channels) + " to " + number(p.out_channels) + ", " +
                     number(p.kernel[1]) + 'x' + number(p.kernel[2]);
  if (p.stride[1] != 1 || p.stride[2] != 1) {
    text += " /" + number(p.stride[1]);
    if (p.stride[2] != p.stride[1]) text += 'x' + number(p.stride[2]);
  }
  if (p.groups == 1) return text;
  return text + (p.groups == p.in_channels ? " depthwise" : ", " + number(p.groups) + " groups");
}

/// Prints how the CPU fares; the number of outputs that differ from the reference.
Result<Index> print_cpu(const quern::cpu::Backend& backend, const std::vector<Layer>& layers) {
  constexpr char kColumns[] = "%-22s %-34s %9s %9s %7s %6s  %s\n";
  std::printf("CPU: %s, one thread, median times\n\n", backend.name().c_str());
  std::printf(kColumns, "layer", "shape", "MAC", "us", "GMAC/s", "exact", "algorithm");
  Outcome total;
  Index macs = 0;
  const auto print = [&](const std::string& name, const std::string& shape, Index count,
                         const Outcome& o) {
    const double n = static_cast<double>(count);
    std::printf(kColumns, name.c_str(), shape.c_str(), sim::amount(n, "").c_str(),
                sim::format("%.1f", o.seconds * 1e6).c_str(),
                sim::format("%.1f", n / o.seconds * 1e-9).c_str(), o.inexact == 0 ? "yes" : "NO",
                o.kernel.c_str());
  };
  for (const Layer& layer : layers) {
    const auto outcome = run(backend, layer);
    if (!outcome) return bad("layer %.40s: %s", layer.name.c_str(), outcome.error().what());
    print(layer.name, shape_text(layer), layer.macs(), *outcome);
    total.seconds += outcome->seconds;
    total.compared += outcome->compared;
    total.inexact += outcome->inexact;
    macs += layer.macs();
  }
  print("total", "", macs, total);
  std::printf("\n%s outputs compared with the reference, bit for bit; inexact: %s\n\n",
              sim::grouped(total.compared).c_str(), sim::grouped(total.inexact).c_str());
  return total.inexact;
}

/// Prints what each layer costs on each chip.
Error print_chips(const std::vector<sim::Backend>& chips, const std::vector<Layer>& layers) {
  const auto print = [](const Cost& c) {
    std::printf("  %11s %8.4f %9.2f", sim::grouped(c.cycles).c_str(), c.seconds * 1e3,
                c.joules * 1e6);
  };
  std::printf("%-22s", "Simulated");
  for (const auto& chip : chips) std::printf("  %30s", chip.chip().name.c_str());
  std::printf("\n%-22s", "layer");
  for (std::size_t i = 0; i < chips.size(); ++i) {
    std::printf("  %11s %8s %9s", "cycles", "ms", "uJ");
  }
  std::vector<Cost> totals(chips.size());
  for (const Layer& layer : layers) {
    std::printf("\n%-22s", layer.name.c_str());
    for (std::size_t i = 0; i < chips.size(); ++i) {
      const auto cost = cost_of(chips[i], layer);
      if (!cost) return bad("layer %.40s: %s", layer.name.c_str(), cost.error().what());
      print(*cost);
      totals[i] += *cost;
    }
  }
  std::printf("\n%-22s", "total");
  for (const Cost& c : totals) print(c);
  std::printf("\n");
  return {};
}

/// The number of inexact outputs.
Result<Index> run_all(const Options& o) {
  const auto layers = o.layers.empty() ? built_in_layers() : read_layers(o.layers);
  if (!layers) return layers.error();
  const auto cpu = o.target.empty() ? quern::cpu::Backend() : quern::cpu::Backend::named(o.target);
  if (!cpu) return cpu.error();
  std::vector<sim::Backend> chips;
  for (const std::string& name : o.chips) {
    auto chip = sim::preset(name);
    if (!chip) return chip.error();
    chips.emplace_back(std::move(*chip));
  }
  auto inexact = print_cpu(*cpu, *layers);
  if (!inexact) return inexact;
  if (Error e = print_chips(chips, *layers)) return e;
  return inexact;
}

}  // namespace

int main(int count, char** arguments) {
  const auto options = parse(count, arguments);
  if (options && options->help) return std::fputs(kHelp, stdout) < 0;
  const auto inexact = options ? run_all(*options) : Result<Index>(options.error());
  if (!inexact) std::fprintf(stderr, "detector: %s\n", inexact.error().what());
  return inexact && *inexact == 0 ? 0 : 1;
}
