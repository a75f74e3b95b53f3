// How long a systolic array takes: closed forms. stepped.hpp, which moves every operand of every
// processing element cycle by cycle, arrives at the same numbers.
//
// One fold. The stationary operand enters through the columns, a row of it each cycle (R cycles;
// sums, which are made in place, need none). Then t steps stream, one a cycle, each row and each
// column one cycle behind its neighbour, so that the last processing element ends R + C - 2 cycles
// after the first:
//
//   drain    load + t + R + C - 2 for every fold: 2R + C - 2 + t, output stationary R + C - 2 + t
//   overlap  load + t for every fold, and R + C - 2 once, after the last. Loaded words and partial
//            sums share the path down a column, so the next fold's words may follow right behind
//            the last sums; the array only ever waits for a word's turn on that path. Output
//            stationary: max(t, R), for a column delivers the R sums of a fold one each cycle.
//   preload  overlap with doubled registers and a path of their own: max(t, load) for every fold
//            but the first, which takes load + t. It does nothing for sums, which are not loaded.
//
// Output stationary assumes one output bus a column. An element that takes several cycles for a
// multiplication makes it in narrower passes that each move on after one cycle, so the skew stays.
// Pieces of k that several arrays work on are added in the same accumulators at no cost.
#pragma once

#include "quern/core/memory.hpp"
#include "quern/sim/chip.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// The sizes of a product: (m x k) (k x n).
struct Extent {
  Index m = 0, n = 0, k = 0;
  bool operator==(const Extent&) const = default;
  constexpr Index macs() const { return m * n * k; }
};

/// A product cut into folds: the stationary operand is `rows` x `columns`, and t steps stream past
/// each of the rows / R (rounded up) x columns / C pieces.
struct Folds {
  Index rows, columns, t;

  static constexpr Folds of(Dataflow d, const Extent& e) {
    return d == Dataflow::weight_stationary   ? Folds{e.k, e.n, e.m}
           : d == Dataflow::output_stationary ? Folds{e.m, e.n, e.k}
                                              : Folds{e.k, e.m, e.n};
  }
  constexpr Index count(const Array& a) const {
    return divide_up(rows, a.rows) * divide_up(columns, a.columns);
  }
  /// Share of the processing elements that hold something, over all folds.
  constexpr double mapping_efficiency(const Array& a) const {
    const Index f = count(a);
    return f == 0 ? 0
                  : static_cast<double>(rows) * static_cast<double>(columns) /
                        (static_cast<double>(f) * static_cast<double>(a.rows * a.columns));
  }
};

/// Cycles that one multiplication and addition takes in a problem of these types; 0: not offered.
constexpr Index cycles_per_mac(const Array& array, DType a, DType b) {
  const CyclesPerMac& c = array.cycles_per_mac;
  if (is_int8(b)) return c.s8;  // A of floats is quantized to s8 on the way
  if (a == DType::bf16 && b == DType::bf16) return c.bf16;
  if (a == DType::f16 && b == DType::f16) return c.f16;
  return c.f32;
}

/// The time of a product on the arrays of a die.
struct ArrayTime {
  Index folds = 0;      ///< of the product, over all arrays
  Index per_array = 0;  ///< of the busiest array
  Index load = 0;       ///< cycles to load the stationary operand of one fold
  Index stream = 0;     ///< cycles that one fold streams
  Index period = 0;     ///< from the beginning of a fold to that of the next
  Index last = 0;       ///< from the beginning of the last fold to its last result

  /// Until the array can take the next product's first fold.
  constexpr Index occupied() const { return per_array * period; }
  /// Until the last result has left the array.
  constexpr Index results() const { return per_array == 0 ? 0 : (per_array - 1) * period + last; }
};

/// `mac`: cycles_per_mac(). Folds are dealt out to the arrays; with fewer folds than arrays the
/// streams are shared out as well, if that does not cut sums apart.
constexpr ArrayTime time_of(const Array& array, Dataflow dataflow, Index mac, const Extent& e) {
  const Folds f = Folds::of(dataflow, e);
  ArrayTime t;
  t.folds = f.count(array);
  if (t.folds == 0 || f.t == 0) return t;
  const bool sums = dataflow == Dataflow::output_stationary;
  const Index sharing = sums || t.folds >= array.count ? 1 : array.count / t.folds;
  const Index skew = array.rows + array.columns - 2;
  t.per_array = array.count == 1 ? t.folds : divide_up(t.folds, array.count);
  t.load = sums ? 0 : array.rows;
  t.stream = (sharing == 1 ? f.t : divide_up(f.t, sharing)) * mac;
  t.last = t.load + t.stream + skew;
  if (array.fold_model == FoldModel::drain) {
    t.period = t.last;
  } else if (sums) {
    t.period = t.stream > array.rows ? t.stream : array.rows;
  } else if (array.preload) {
    t.period = t.stream > t.load ? t.stream : t.load;
  } else {
    t.period = t.load + t.stream;
  }
  return t;
}

/// A product that nothing delays: every operand is there, every result is taken.
constexpr Index ideal_cycles(const Array& array, Dataflow dataflow, Index mac, const Extent& e) {
  return time_of(array, dataflow, mac, e).results();
}

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
