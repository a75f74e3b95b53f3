// The state of a timer, and when it repeats. A long program is a few iterations of its loops again
// and again: once an iteration leaves every unit as an earlier one did, only later, all the others
// will, so they need not be walked. Exact: nothing is extrapolated that could come out differently.
#pragma once

#include <algorithm>

#include "quern/sim/program.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// When the units of a die are free, and what is in its buffers.
struct Clocks {
  static constexpr Index kLongest = Index{1} << 60;  ///< no duration is longer
  static constexpr Index kMostEngines = 16;          ///< more never wait: there are few operands

  struct Slot {
    Index ready = 0;  ///< filled; c: free for new sums
    Index busy = 0;   ///< read until; c: the sums are complete
    Stall why = Stall::store;
  };

  Clocks(const Chip& chip, const Tiling& tiling)
      : engines(chip.dma.engines < kMostEngines ? chip.dma.engines : kMostEngines),
        a_used(tiling.a_slots()),
        b_used(tiling.b_slots()),
        c_used(tiling.c_slots()) {
    const Index start = chip.array.start_up_cycles;
    for_each([start](Index& t) { t = start; });
    quantized = residual = 0;
  }

  Index array_free, results, load_free;  ///< results: the last sums have left the array
  Index dram_free, link_free, vector_free, stored, quantized, residual;
  Index engine_free[kMostEngines];
  Index next_engine = 0;
  const Index engines, a_used, b_used, c_used;  ///< engines and slots there are
  Slot a[Tiling::kMostSlots], b[Tiling::kMostSlots], c[Tiling::kMostResults];

  /// f(time) for every time.
  template <class F>
  void for_each(F&& f) {
    for (Index* t : {&array_free, &results, &load_free, &dram_free, &link_free, &vector_free,
                     &stored, &quantized, &residual}) {
      f(*t);
    }
    for (Index& t : engine_free) f(t);
    for (Slot* slots : {a, b}) {
      for (Index i = 0; i < Tiling::kMostSlots; ++i) f(slots[i].ready), f(slots[i].busy);
    }
    for (Slot& s : c) f(s.ready), f(s.busy);
  }
};

/// What only ever grows.
struct Totals {
  std::array<Index, kStalls> stalls = {};
  Index load = 0, stream = 0, skew = 0, dma = 0, vector = 0;  ///< cycles
  Index folds = 0;
  double mapped = 0;  ///< processing elements that held something, summed over folds
  Counts counts;

  /// Grows n times as much again as it did since `before`.
  void repeat(const Totals& before, Index n) {
    for (std::size_t i = 0; i < stalls.size(); ++i) stalls[i] += n * (stalls[i] - before.stalls[i]);
    for (Index Totals::*sum : {&Totals::load, &Totals::stream, &Totals::skew, &Totals::dma,
                               &Totals::vector, &Totals::folds}) {
      this->*sum += n * (this->*sum - before.*sum);
    }
    mapped += static_cast<double>(n) * (mapped - before.mapped);
    Counts::for_each([&](const char*, Index Counts::*count) {
      counts.*count += n * (counts.*count - before.counts.*count);
    });
  }
};

/// Remembers where a timer stood after some iteration of each loop, and compares those after it:
/// a state may come back after a few iterations, such as when engines take turns.
class SteadyState {
 public:
  /// `link_time`: of the longest transfer over links, latency included.
  SteadyState(bool preload, Index link_time) : preload_(preload), link_time_(link_time) {}

  /// If the iterations since the one remembered only moved everything on by the time they took,
  /// moves on by as many such periods as are still to come and returns the number of iterations;
  /// else returns 0. Beyond kLongest cycles the array is only free at `limit`.
  Index skip(Clocks& t, Totals& totals, const Repeats& at, Index limit) {
    Snapshot& before = snapshots_[at.level];
    const Index period = before.at.left - at.left;
    if (period < 1 || before.at.at + period * at.step != at.at || !matches(before, t, at)) {
      if (at.remember) take(before, t, totals, at);
      return 0;
    }
    before.at.left = -1;
    const Index n = at.left / period;
    Index time = 0;
    if (!multiply_fits(n, t.array_free - before.array_free, &time) || time > Clocks::kLongest) {
      t.array_free = limit;
      return n * period;
    }
    t.for_each([time](Index& x) { x += time; });
    totals.repeat(before.totals, n);
    // The slots that the next iteration begins with have moved on too.
    const auto rotate = [n](Clocks::Slot* slot, Index used, Index from, Index to) {
      if (used > 1) std::rotate(slot, slot + used - n * (to - from + used) % used, slot + used);
    };
    rotate(t.a, t.a_used, before.at.a, at.a);
    rotate(t.b, t.b_used, before.at.b, at.b);
    rotate(t.c, t.c_used, before.at.c, at.c);
    return n * period;
  }

 private:
  /// Everything that the future depends on, relative to array_free.
  struct Snapshot {
    Repeats at = {.left = -1};
    Index array_free = 0;
    Index times[12 + Clocks::kMostEngines + 6 * Tiling::kMostSlots + 3 * Tiling::kMostResults];
    Totals totals;
  };

  static Index larger(Index a, Index b) { return a > b ? a : b; }

  void take(Snapshot& s, const Clocks& t, const Totals& totals, const Repeats& at) const {
    s.at = at;
    s.array_free = t.array_free;
    s.totals = totals;
    Index* out = s.times;
    visit(t, at, [&](Index time) {
      *out++ = time;
      return true;
    });
  }
  bool matches(const Snapshot& s, const Clocks& t, const Repeats& at) const {
    const Index* then = s.times;
    return visit(t, at, [&](Index time) { return *then++ == time; });
  }

  /// Calls f(time) until it returns false. Times that are so long past that they cannot matter any
  /// more count as the latest such.
  template <class F>
  bool visit(const Clocks& t, const Repeats& at, F&& f) const {
    const auto add = [&](Index time) { return f(time - t.array_free); };
    // Within a tile of C, the next epilogue comes after products that are still to be made.
    const Index vector =
        at.level == Repeats::terms ? larger(t.vector_free, t.array_free) : t.vector_free;
    if (!add(t.results) || !add(t.dram_free) || !add(larger(t.stored, t.array_free)) ||
        !add(vector) || (preload_ && !add(t.load_free))) {
      return false;
    }
    // DRAM and engines begin nothing before dram_free. A link may, as often as there are slots;
    // what it has brought by then, before the DRAM brings its part of the tile, does not matter.
    const Index past = t.dram_free < t.array_free ? t.dram_free : t.array_free;
    const Index link_past = link_time_ < Clocks::kLongest / Tiling::kMostSlots
                                ? past - link_time_ * t.a_used
                                : -Clocks::kLongest;
    if (!add(larger(t.residual, past)) || !add(larger(t.quantized, link_past)) ||
        !add(larger(t.link_free, link_past))) {
      return false;
    }
    for (Index e = 0; e < t.engines; ++e) {
      if (!add(larger(t.engine_free[(t.next_engine + e) % t.engines], past))) return false;
    }
    const auto slots = [&](const Clocks::Slot* slot, Index used, Index first, Index busy_past) {
      for (Index i = 0; i < used; ++i) {
        const Clocks::Slot& x = slot[first + i < used ? first + i : first + i - used];
        const bool awaited = x.ready > t.array_free;
        if (!add(awaited ? x.ready : t.array_free) || !add(larger(x.busy, busy_past)) ||
            !f(awaited ? static_cast<Index>(x.why) : 0)) {
          return false;
        }
      }
      return true;
    };
    return slots(t.a, t.a_used, at.a, link_past) && slots(t.b, t.b_used, at.b, past) &&
           slots(t.c, t.c_used, at.c, past);
  }

  const bool preload_;
  const Index link_time_;
  Snapshot snapshots_[Repeats::kLevels];
};

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
