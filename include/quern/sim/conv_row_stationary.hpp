// Convolution as Eyeriss does it (Chen, Krishna, Emer, Sze, "Eyeriss: an energy-efficient
// reconfigurable accelerator for deep convolutional neural networks", JSSC 52(1), 2017).
//
// An element keeps a row of the kernel and slides it over a row of the input. A set of elements,
// as many rows as the kernel has and `e` columns, makes e rows of the output: rows of the kernel
// enter along its rows, rows of the input along diagonals, sums go up its columns. Wide sets are
// folded: a set of 5 x 27 lies in an array of 12 x 14 as 5 x 14 on 5 x 13. Several sets work on
// other filters (t) or on other channels of the same sums (r). The letters are the paper's:
//
//   n images, e output rows, p x t filters, q x r channels in one pass; m filters whose sums stay
//
// A pass loads the kernels' rows and the first input words (nothing else runs meanwhile: the
// scratchpads hold one pass), then multiplies, one product a cycle and element:
//
//   p t q r R S / weight rate  +  q r rows S / input rate  +  max(n q S p F, input, sums)
//
// where input and sums are what has to enter, or enter and leave, over their buses meanwhile.
//
// Passes go through all channels while the sums of n images, e rows and m filters wait in the
// buffer (a and c, one memory in banks, each bank for input or for sums); then through the filters
// beyond m, so the input is read M / m times; then through rows and images, for each of which all
// weights are read again. The chip is built to save energy: of the mappings that fit, and that are
// within a tenth of the fastest, the one with the least DRAM traffic is taken; of equals, the
// fastest. (The tenth is quern's choice. The mappings that the paper publishes for AlexNet are up
// to 9 % slower than the fastest.)
//
// A kernel of more rows than the array, or columns than the scratchpad, is cut; its parts are more
// channels. Rows of output that do not fit are cut as well.
#pragma once

#include "quern/sim/conv_shape.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// The paper's letters; `width`: output columns at a time.
struct RowMapping {
  Index n = 0, e = 0, p = 0, q = 0, r = 0, t = 0, m = 0, width = 0;
  bool operator==(const RowMapping&) const = default;
};

namespace detail {

class RowStationary {
 public:
  RowStationary(const Chip& chip, const ConvShape& shape)
      : chip_(chip), engine_(chip.array.conv), s_(shape) {
    // Parts of the kernel that fit an element, and the array.
    const Index row_parts = divide_up(s_.height.kernel, chip.array.rows);
    const Index words =
        engine_.input_words < engine_.weight_words ? engine_.input_words : engine_.weight_words;
    const Index column_parts = divide_up(s_.width.kernel, words);
    rows_ = divide_up(s_.height.kernel, row_parts);
    columns_ = divide_up(s_.width.kernel, column_parts);
    channels_ = s_.channels * row_parts * column_parts;
    word_bytes_ = d(size_of(s_.a) > 2 ? size_of(s_.a) : 2);
    const double banks = d(chip.a.banks + chip.c.banks);
    banks_ = chip.a.kib + chip.c.kib == kUnlimited ? kUnlimited : banks;
    bank_words_ = (chip.a.kib + chip.c.kib) * 1024 / banks / word_bytes_;
  }

  Error measure(ConvCost* cost, RowMapping* mapping = nullptr) {
    search();
    if (found_) {
      limit_ = kSlack * cycles_;
      choosing_ = true;
      search();
    } else {
      return Error::make(Code::unsupported,
                         "chip %.40s: the buffers a and c (%g KiB in %lld banks) cannot hold the "
                         "input and the sum of one output",
                         chip_.name.c_str(), chip_.a.kib + chip_.c.kib,
                         static_cast<long long>(chip_.a.banks + chip_.c.banks));
    }
    account(*cost);
    if (mapping != nullptr) *mapping = best_;
    return {};
  }

 private:
  static constexpr Index kMost = 16;     ///< candidates of each kind
  static constexpr double kSlack = 1.1;  ///< of time, given for less traffic

  static double d(Index x) { return static_cast<double>(x); }
  static double parts(Index all, Index one) { return d(divide_up(all, one)); }
  static Index least(Index x, Index y) { return x < y ? x : y; }

  /// What a mapping moves and takes, one group.
  struct Totals {
    double weights = 0, input = 0;                      ///< words from DRAM
    double load = 0, fill = 0, multiply = 0, busy = 0;  ///< cycles; busy: with waits for buses
    double entered = 0, sums = 0;                       ///< words into the array; in and out again
    double passes = 0;
    double cycles() const { return load + fill + busy; }
  };

  Totals totals(const RowMapping& x) const {
    const double images = d(s_.images), all_m = d(s_.filters), all_c = d(channels_);
    const double strips = parts(s_.height.out, x.e), widths = parts(s_.width.out, x.width);
    const double rounds = parts(s_.images, x.n) * strips * widths;  // weights are read in each
    const double filter_passes = parts(s_.filters, x.p * x.t),
                 channel_passes = parts(channels_, x.q * x.r);
    const double in_rows = d(s_.height.met(x.e, rows_)),
                 in_columns = d(s_.width.met(x.width, columns_));
    Totals t;
    t.passes = rounds * filter_passes * channel_passes;
    t.weights = rounds * all_m * all_c * d(rows_ * columns_);
    const double input = images * strips * widths * all_c * in_rows * in_columns;
    t.input = input * parts(s_.filters, x.m);
    t.entered = input * filter_passes;
    t.sums = images * all_m * d(s_.height.out) * d(s_.width.out) * channel_passes;
    t.load = std::ceil(t.weights / d(engine_.weight_words_per_cycle));
    t.fill = std::ceil(rounds * filter_passes * all_c * in_rows * d(columns_) /
                       d(engine_.input_words_per_cycle));
    t.multiply = images * strips * parts(s_.filters, x.t) * parts(channels_, x.r) * d(columns_) *
                 d(s_.width.out) * d(cycles_per_mac(chip_.array, s_.a, s_.b));
    t.busy = t.multiply;
    for (const double bus : {t.entered / d(engine_.input_words_per_cycle) - t.fill,
                             t.sums / d(engine_.sum_words_per_cycle)}) {
      if (std::ceil(bus) > t.busy) t.busy = std::ceil(bus);
    }
    return t;
  }

  void search() {
    for (Index width = s_.width.out;; width = divide_up(width, 2)) {
      for (Index j = 1; j <= kMost; ++j) {
        if (j <= chip_.array.columns) try_rows(width, chip_.array.columns / j);
        if (j > 1) try_rows(width, chip_.array.columns * j);
      }
      if (width == 1) return;
    }
  }

  /// Sets of at most this many columns, those of all strips alike.
  void try_rows(Index width, Index e) {
    const Index array_columns = chip_.array.columns;
    RowMapping x;
    x.width = width;
    x.e = divide_up(s_.height.out, divide_up(s_.height.out, e));
    const Index levels = chip_.array.rows / rows_;  // sets above each other
    const Index sets = x.e <= array_columns ? levels * (array_columns / x.e)
                                            : levels / divide_up(x.e, array_columns);
    for (x.r = 1; x.r <= least(sets, least(channels_, kMost)); ++x.r) {
      x.t = least(sets / x.r, s_.filters);
      x.p = least(least(engine_.filters_per_element, engine_.weight_words / columns_),
                  divide_up(s_.filters, x.t));
      for (; x.p > 0; x.p /= 2) {
        if (try_images(x)) break;  // fewer filters at a time are no help if these fit
      }
    }
  }

  bool try_images(RowMapping x) {
    const Index most_q =
        least(least(engine_.input_words / columns_, engine_.weight_words / (columns_ * x.p)),
              least(divide_up(channels_, x.r), kMost));
    bool fits = false;
    for (Index j = 1; j <= kMost && j <= s_.images; ++j) {
      x.n = divide_up(s_.images, j);
      for (x.q = most_q; x.q > 0; --x.q) {
        x.m = most_filters(x);
        if (x.m == 0) continue;
        fits = true;
        consider(x);
      }
    }
    return fits;
  }

  /// Filters whose sums fit beside a pass's input, in whole passes.
  Index most_filters(const RowMapping& x) const {
    const Index pass = x.p * x.t, all = round_up(s_.filters, pass);
    const double input =
        d(x.n * x.q * x.r) * d(s_.height.met(x.e, rows_)) * d(s_.width.met(x.width, columns_));
    const double sums = d(x.n * x.e) * d(x.width);
    if (banks_ == kUnlimited) return all;
    const double left = (banks_ - std::ceil(input / bank_words_)) * bank_words_;
    if (left < sums * d(pass)) return 0;
    const double most = std::floor(left / (sums * d(pass))) * d(pass);
    return most < d(all) ? static_cast<Index>(most) : all;
  }

  /// Finds the fastest; then, choosing, the one with the least traffic among those near it.
  void consider(const RowMapping& x) {
    const Totals t = totals(x);
    const double traffic = t.weights + t.input, cycles = t.cycles();
    if (choosing_
            ? cycles > limit_ || traffic > traffic_ || (traffic == traffic_ && cycles >= cycles_)
            : found_ && cycles >= cycles_) {
      return;
    }
    found_ = true;
    best_ = x;
    traffic_ = traffic;
    cycles_ = cycles;
  }

  void account(ConvCost& cost) const {
    const Totals t = totals(best_);
    const double groups = d(s_.groups), a_bytes = d(size_of(s_.a)), b_bytes = d(size_of(s_.b));
    const double outputs = d(s_.images) * d(s_.filters) * d(s_.positions());
    cost.start_up = d(chip_.array.start_up_cycles);
    cost.load = groups * (t.load + t.fill);
    cost.stream = groups * t.multiply;
    cost.bus_stall = groups * (t.busy - t.multiply);
    cost.input_bytes = groups * (t.input * a_bytes + outputs * d(s_.residual_bytes));
    cost.weight_bytes = groups * t.weights * b_bytes;
    cost.output_bytes = groups * outputs * d(size_of(s_.c));
    cost.a_reads = groups * t.entered * word_bytes_;
    cost.b_reads = cost.weight_bytes;
    // Sums come back for every pass, and once to leave.
    cost.c_reads = cost.c_writes = groups * t.sums * word_bytes_;
    cost.folds = groups * t.passes;
    cost.places = cost.stream * d(chip_.array.rows) * d(chip_.array.columns);
    cost.tile = {best_.n * best_.e * best_.width, best_.p * best_.t,
                 best_.q * best_.r * rows_ * columns_};

    // Passes are prefetched: the array waits for the first, and for what DRAM cannot keep up with.
    const double byte = chip_.clock_mhz / (chip_.dram.gb_per_s * 1e3 * chip_.dram.efficiency);
    const double latency = std::ceil(chip_.dram.latency_ns * chip_.clock_mhz * 1e-3);
    cost.dma = (cost.input_bytes + cost.weight_bytes + cost.output_bytes) * byte;
    const double passes = t.passes * groups;
    const double first_input = latency + std::ceil(cost.input_bytes * byte / passes),
                 first_weights = std::ceil(cost.weight_bytes * byte / passes);
    cost.input_stall = first_input;
    cost.weight_stall = first_weights;
    const double behind = std::ceil(cost.dma) - cost.cycles() + cost.start_up;
    if (behind > 0) cost.input_stall += behind;
  }

  const Chip& chip_;
  const ConvEngine& engine_;
  const ConvShape& s_;
  Index rows_ = 1, columns_ = 1, channels_ = 1;
  double word_bytes_ = 2, banks_ = 1, bank_words_ = 0;
  RowMapping best_;
  double traffic_ = 0, cycles_ = 0, limit_ = 0;
  bool found_ = false, choosing_ = false;
};

}  // namespace detail
}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
