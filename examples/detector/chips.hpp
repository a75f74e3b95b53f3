// A layer on a simulated chip.
#pragma once

#include "layers.hpp"
#include "quern/sim/conv.hpp"
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

/// The simulator's report of a layer.
inline Result<sim::Report> estimate(const sim::Backend& chip, const Layer& layer) {
  return sim::estimate(chip, layer.problem(), layer.extent, 1);
}

inline Result<Cost> cost_of(const sim::Backend& chip, const Layer& layer) {
  const auto report = estimate(chip, layer);
  if (!report) return report.error();
  return Cost{report->cycles, report->seconds, report->energy.total() * 1e-12};
}

}  // namespace detector
