// A layer on a simulated chip.
#pragma once

#include "layers.hpp"
#include "quern/sim/presets.hpp"
#include "quern/sim/sim.hpp"
#include "quern/sim/text.hpp"

namespace detector {

namespace sim = quern::sim;

struct Cost {
  Index cycles = 0;
  double seconds = 0, joules = 0;

  Cost& operator+=(const Cost& other) {
    cycles += other.cycles;
    seconds += other.seconds;
    joules += other.joules;
    return *this;
  }
};

/// The simulator's report of a layer: of a product for each group, whose rows are the output
/// positions and whose columns the group's output channels. Patches that overlap count in full, so
/// that depthwise layers cost more than on a chip that slides over the image.
inline Result<sim::Report> estimate(const sim::Backend& chip, const Layer& layer) {
  const ConvProblem& p = layer.shape;
  const float scale = 1;  // as costly as one for each channel
  const quern::GemmProblem product{.n = p.group_outputs(),
                                   .k = p.taps() * p.group_inputs(),
                                   .batch = p.groups,
                                   .a = p.a,
                                   .b = p.b,
                                   .c = p.c,
                                   .epilogue = {quern::epilogue::scale({&scale, 1})}};
  return sim::estimate(chip, product, layer.positions(), p.groups);
}

inline Result<Cost> cost_of(const sim::Backend& chip, const Layer& layer) {
  const auto report = estimate(chip, layer);
  if (!report) return report.error();
  return Cost{report->cycles, report->seconds, report->energy.total() * 1e-12};
}

}  // namespace detector
