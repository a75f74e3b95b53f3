// What the network would cost on chips of the simulator.
//
// The network as an accelerator would run it: s8 activations and weights, s8 between the layers,
// scales, biases, GELU and residuals applied on the way out; activations stay on the chip where
// they fit, weights come from memory for each product. Attention is two products for each head and
// sentence; softmax counts as one function and three steps of the vector unit for each score, for
// which SiLU stands in. LayerNorm and the embeddings are left out.
#pragma once

#include <algorithm>
#include <utility>

#include "file.hpp"
#include "quern/sim/presets.hpp"
#include "quern/sim/sim.hpp"
#include "quern/sim/text.hpp"

namespace minilm {

namespace sim = quern::sim;

/// So many sentences (or images) of so many tokens, at once.
struct Load {
  Index sequences = 1, tokens = 128;
  double every = 0;  ///< seconds; 0: not said
};

/// One product of a layer.
struct Product {
  const char* name;
  Index m, n, k, batch;
  quern::Step last = {};
  bool has_last = false;
};

inline std::vector<Product> products(const Shape& s, const Load& load) {
  namespace epilogue = quern::epilogue;
  const Index rows = load.sequences * load.tokens, heads = load.sequences * s.heads;
  const Index size = s.hidden / s.heads;
  return {{"qkv", rows, 3 * s.hidden, s.hidden, 1},
          {"scores", load.tokens, load.tokens, size, heads, epilogue::silu(), true},
          {"mix", load.tokens, size, load.tokens, heads},
          {"project", rows, s.hidden, s.hidden, 1, epilogue::residual(), true},
          {"up", rows, s.feed_forward, s.hidden, 1, epilogue::gelu(), true},
          {"down", rows, s.hidden, s.feed_forward, 1, epilogue::residual(), true}};
}

inline Result<sim::Report> estimate(const sim::Backend& chip, const Product& product) {
  using quern::DType;
  const float scale = 1;
  const std::vector<std::int32_t> bias(static_cast<std::size_t>(product.n));
  quern::GemmProblem p{.n = product.n,
                       .k = product.k,
                       .batch = product.batch,
                       .a = DType::s8,
                       .b = DType::s8,
                       .c = DType::s8};
  if (product.batch == 1) p.epilogue.add(quern::epilogue::bias(bias));  // with weights
  p.epilogue.add(quern::epilogue::scale({&scale, 1}));
  if (product.has_last) p.epilogue.add(product.last);
  return sim::estimate(chip, p, product.m, product.batch, {}, DType::s8);
}

/// Prints what each product costs, all layers together, and the sums.
inline Error print_costs(const std::string& preset, const Shape& s, const Load& load) {
  auto chip = sim::preset(preset);
  if (!chip) return chip.error();
  const sim::Backend backend(std::move(*chip), {.keep_activations = true});
  std::printf("%s: %lld x %lld tokens, %lld layers\n\n%-8s %-26s %12s %9s %9s %6s\n",
              preset.c_str(), static_cast<long long>(load.sequences),
              static_cast<long long>(load.tokens), static_cast<long long>(s.layers), "product",
              "M x N x K", "cycles", "ms", "mJ", "use");
  const double layers = static_cast<double>(s.layers);
  Index cycles = 0;
  double seconds = 0, joules = 0;
  for (const Product& p : products(s, load)) {
    const auto report = estimate(backend, p);
    if (!report) return report.error();
    std::string shape = sim::format("%lld x %lld x %lld", static_cast<long long>(p.m),
                                    static_cast<long long>(p.n), static_cast<long long>(p.k));
    if (p.batch != 1) shape += sim::format(", %lld times", static_cast<long long>(p.batch));
    const Index total = s.layers * report->cycles;
    const double time = layers * report->seconds, energy = layers * report->energy.total() * 1e-12;
    std::printf("%-8s %-26s %12s %9.4f %9.4f %6s\n", p.name, shape.c_str(),
                sim::grouped(total).c_str(), time * 1e3, energy * 1e3,
                sim::percent(report->utilization).c_str());
    cycles += total;
    seconds += time;
    joules += energy;
  }
  std::printf("%-8s %-26s %12s %9.4f %9.4f\n", "total", "", sim::grouped(cycles).c_str(),
              seconds * 1e3, joules * 1e3);
  if (load.every > 0) {
    const double busy = seconds / load.every;
    std::printf("every %g ms: busy for %s of the time, %s\n", load.every * 1e3,
                sim::percent(busy).c_str(),
                busy > 1 ? "which is too slow"
                         : (sim::amount(joules / load.every, "W") + " on average").c_str());
  }
  std::printf("\n");
  return {};
}

}  // namespace minilm
