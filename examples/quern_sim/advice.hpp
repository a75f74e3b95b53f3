// What would help: the same work on chips that are better in one respect each.
#pragma once

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "run.hpp"

namespace tool {

struct Suggestion {
  std::string what;
  double speed_up = 1;
  double energy = 1;  // relative to now
};

class Adviser {
 public:
  Adviser(const sim::Chip& chip, const Layer& layer, const sim::Report& now)
      : chip_(chip), layer_(layer), now_(now) {}

  /// Was there no time left for some?
  bool incomplete() const { return incomplete_; }

  /// All that help by 2 % or more, the best first.
  std::vector<Suggestion> suggestions() {
    memory();
    arrays();
    more_rows();
    std::sort(found_.begin(), found_.end(), [](const Suggestion& x, const Suggestion& y) {
      return x.speed_up != y.speed_up ? x.speed_up > y.speed_up : x.what < y.what;
    });
    return std::move(found_);
  }

 private:
  void memory() {
    if (std::isfinite(chip_.dram.gb_per_s)) {
      change(sim::format("twice the DRAM bandwidth (%g GB/s)", 2 * chip_.dram.gb_per_s),
             [](sim::Chip& c) { c.dram.gb_per_s *= 2; });
    }
    if (chip_.dram.latency_ns > 0) {
      change(sim::format("half the DRAM latency (%g ns)", chip_.dram.latency_ns / 2),
             [](sim::Chip& c) { c.dram.latency_ns /= 2; });
    }
    if (std::isfinite(chip_.dma.bytes_per_cycle)) {
      change("DMA engines twice as fast", [](sim::Chip& c) { c.dma.bytes_per_cycle *= 2; });
    }
    change(
        sim::format("twice the DMA engines (%lld)", 2 * static_cast<long long>(chip_.dma.engines)),
        [](sim::Chip& c) { c.dma.engines *= 2; });
    if (!chip_.a.double_buffered || !chip_.b.double_buffered || !chip_.c.double_buffered) {
      change("double buffering", [](sim::Chip& c) {
        c.a.double_buffered = c.b.double_buffered = c.c.double_buffered = true;
      });
    }
    change("buffers twice as large", [](sim::Chip& c) {
      c.a.kib *= 2;
      c.b.kib *= 2;
      c.c.kib *= 2;
    });
    change("buffers twice as wide", [](sim::Chip& c) {
      for (sim::Buffer* b : {&c.a, &c.b, &c.c}) b->bank_bytes_per_cycle *= 2;
    });
    if (chip_.dies > 1) {
      change(sim::format("links twice as fast (%g GB/s)", 2 * chip_.link.gb_per_s),
             [](sim::Chip& c) { c.link.gb_per_s *= 2; });
    }
  }

  void arrays() {
    const sim::Array& a = chip_.array;
    for (const auto d : {sim::Dataflow::weight_stationary, sim::Dataflow::output_stationary,
                         sim::Dataflow::input_stationary}) {
      if (a.dataflows.has(d)) continue;
      change(std::string("dataflow ") + sim::detail::words(d),
             [d](sim::Chip& c) { c.array.dataflows = sim::Dataflows::only(d); });
    }
    if (a.fold_model == sim::FoldModel::drain) {
      change("folds that overlap instead of draining",
             [](sim::Chip& c) { c.array.fold_model = sim::FoldModel::overlap; });
    } else if (!a.preload) {
      change("preloading the next fold's operand", [](sim::Chip& c) { c.array.preload = true; });
    }
    change(a.count == 1
               ? "a second array"
               : sim::format("twice the arrays (%lld)", 2 * static_cast<long long>(a.count)),
           [](sim::Chip& c) { c.array.count *= 2; });
    if (a.start_up_cycles > 0) {
      change("no start-up cycles", [](sim::Chip& c) { c.array.start_up_cycles = 0; });
    }
    change(sim::format("twice the vector lanes (%lld)",
                       2 * static_cast<long long>(chip_.vector.lanes)),
           [](sim::Chip& c) { c.vector.lanes *= 2; });
    if (chip_.dies == 1) {
      change("a second die", [](sim::Chip& c) { c.dies = 2; });
    }
  }

  /// The same weights for more rows.
  void more_rows() {
    Layer twice = layer_;
    twice.m *= 2;
    if (twice.m > kMostExtent) return;
    if (twice.conv) twice.conv->images *= 2;
    consider(sim::format("twice the rows, m = %lld (time and energy of each row)",
                         static_cast<long long>(twice.m)),
             chip_, twice, 2);
  }

  template <class F>
  void change(std::string what, F&& f) {
    sim::Chip better = chip_;
    f(better);
    if (!validate(better)) consider(std::move(what), better, layer_, 1);
  }

  void consider(std::string what, const sim::Chip& chip, const Layer& layer, double work) {
    // Large products on small chips take seconds each to map.
    if (Clock::now() - start_ > std::chrono::seconds(3)) {
      incomplete_ = true;
      return;
    }
    const auto r = estimate_layer(chip, layer);
    if (!r || r->cycles == 0) return;
    const double speed_up =
        work * static_cast<double>(now_.cycles) / static_cast<double>(r->cycles);
    if (speed_up < 1.02) return;
    const double before = now_.energy.total();
    found_.push_back(
        {std::move(what), speed_up, before > 0 ? r->energy.total() / (work * before) : 1});
  }

  const sim::Chip& chip_;
  const Layer& layer_;
  const sim::Report& now_;
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
  bool incomplete_ = false;
  std::vector<Suggestion> found_;
};

inline std::string advice_text(const sim::Chip& chip, const Layer& layer, const sim::Report& now) {
  constexpr std::size_t kMost = 6;
  Adviser adviser(chip, layer, now);
  auto all = adviser.suggestions();
  if (all.size() > kMost) all.resize(kMost);
  const std::string rest =
      adviser.incomplete() ? "  (not all was tried: it would take long)\n" : "";
  if (all.empty()) return "nothing that was tried makes this faster by 2 % or more\n" + rest;
  std::string text = "what would help, each by itself\n";
  for (const Suggestion& s : all) {
    text += sim::format("  %-54s %6.2f x faster", s.what.c_str(), s.speed_up);
    if (now.energy.total() > 0) text += sim::format(", %4.2f x the energy", s.energy);
    text += "\n";
  }
  return text + rest;
}

}  // namespace tool
