// Convolution as NVDLA does it (nvdla.org, unit description; the RTL of its branch nv_small).
//
// An array of R x C multiplies R channels of one input position by one tap of C kernels each cycle.
// Weights of one tap stay for a stripe of at most 2C output positions; they take C cycles to enter
// (a kernel a cycle, while the stripe before runs), so a stripe takes at least that long:
//
//   for C kernels: for stripes of positions: for R channels: for taps: max(positions, C) cycles
//
// Sums of a stripe wait in accumulators until all channels and taps are in, then leave through a
// buffer of one stripe, `result_cycles` for each position. A stripe's last products wait for places
// there, which come back `result_latency` after: 2C positions for every
// 2C * result_cycles + result_latency at best.
//
// The layer begins when all of its input is in the convolution buffer (a and b, one memory in
// banks), the C kernels when their weights are. Input and weights take turns on the memory
// interface; weights run ahead as far as banks are left, and the places of C kernels become free
// when they are done. Input that leaves no place for the weights of C kernels is cut into strips
// of output rows. Strips, groups and images are layers one after the other, each with a start.
#pragma once

#include <array>

#include "quern/sim/conv_shape.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {
namespace detail {

class ChannelAtoms {
 public:
  ChannelAtoms(const Chip& chip, const ConvShape& shape)
      : chip_(chip),
        s_(shape),
        mac_(d(cycles_per_mac(chip.array, shape.a, shape.b))),
        byte_(chip.clock_mhz / (chip.dram.gb_per_s * 1e3 * chip.dram.efficiency)),
        latency_(std::ceil(chip.dram.latency_ns * chip.clock_mhz * 1e-3)),
        buffer_((chip.a.kib + chip.b.kib) * 1024),
        banks_(d(chip.a.banks + chip.b.banks)) {}

  Error measure(ConvCost* cost) {
    const Index rows = most_rows();
    if (rows == 0) {
      return Error::make(Code::unsupported,
                         "chip %.40s: one row of outputs needs %.0f bytes of input and %.0f of "
                         "weights; the convolution buffer has %.0f in %.0f banks",
                         chip_.name.c_str(), input_bytes(1), group_bytes(), buffer_, banks_);
    }
    const Index strips = divide_up(s_.height.out, rows), share = divide_up(s_.height.out, strips);
    const Index whole = s_.height.out / share, rest = s_.height.out % share;
    const double layers = d(s_.groups) * d(s_.images);
    if (whole > 0) add_layers(*cost, share, layers * d(whole));
    if (rest > 0) add_layers(*cost, rest, layers);
    return {};
  }

 private:
  /// NVDLA stores weights in pieces of 128 bytes.
  static constexpr Index kWeightPiece = 128;
  /// Of many groups of kernels the first are simulated; the others take as long as the last.
  static constexpr Index kSimulated = 2048;

  static double d(Index x) { return static_cast<double>(x); }
  Index atoms() const { return divide_up(s_.channels, chip_.array.rows); }

  double input_bytes(Index out_rows) const {
    const Index reach = s_.height.reach(out_rows);
    return d(reach < s_.height.in ? reach : s_.height.in) * d(s_.width.in) *
           d(atoms() * chip_.array.rows) * d(size_of(s_.a));
  }
  double kernel_bytes() const { return d(s_.channels) * d(s_.taps()) * d(size_of(s_.b)); }
  /// Weights of the kernels that run together.
  double group_bytes() const {
    const Index columns = chip_.array.columns;
    return d(columns < s_.filters ? columns : s_.filters) * kernel_bytes();
  }
  /// Bytes that are left for weights.
  double weight_room(Index out_rows) const {
    if (buffer_ == kUnlimited) return kUnlimited;
    return buffer_ - std::ceil(input_bytes(out_rows) * banks_ / buffer_) * buffer_ / banks_;
  }
  bool fits(Index out_rows) const { return weight_room(out_rows) >= group_bytes(); }

  Index most_rows() const {
    if (!fits(1)) return 0;
    Index low = 1, high = s_.height.out + 1;  // low fits, high does not
    if (fits(s_.height.out)) return s_.height.out;
    while (high - low > 1) {
      const Index middle = low + (high - low) / 2;
      (fits(middle) ? low : high) = middle;
    }
    return low;
  }

  void add_layers(ConvCost& cost, Index out_rows, double layers) const {
    const Array& array = chip_.array;
    const Index columns = array.columns, kernel_groups = divide_up(s_.filters, columns);
    const double positions = d(out_rows) * d(s_.width.out), packages = d(atoms()) * d(s_.taps());
    const double input = input_bytes(out_rows), weights = kernel_bytes() * d(s_.filters);

    // One group of kernels: products, what weights take beyond them, results that do not get away.
    const double stripe = positions < 2 * d(columns) ? positions : 2 * d(columns);
    const double issue = packages * (positions * mac_ > d(columns) ? positions * mac_ : d(columns));
    const double result = result_cycles();
    const double leave = positions * (result + d(array.conv.result_latency) / (2 * d(columns)));
    const double period = issue > leave ? issue : leave;

    const Loading loading = load(input, weights, weight_room(out_rows), period, kernel_groups);
    // The last results leave from the first cycle of the last package on.
    const double last = stripe * mac_ > d(columns) ? stripe * mac_ : d(columns);
    const double tail = stripe * result > last ? stripe * result - last : 0;

    cost.start_up += layers * d(array.start_up_cycles);
    cost.stream += layers * d(kernel_groups) * packages * positions * mac_;
    cost.load += layers * d(kernel_groups) * (issue - packages * positions * mac_);
    // ... and nothing waits behind the last stripe.
    const double stripes = std::ceil(positions / (2 * d(columns)));
    const double waits = (period - issue) * (d(kernel_groups) - 1 / stripes);
    cost.result_stall += layers * (waits + tail);
    cost.vector += layers * d(kernel_groups) * positions * d(array.conv.result_cycles);
    cost.input_stall += layers * loading.input_wait;
    cost.weight_stall += layers * loading.weight_wait;
    cost.folds += layers * d(kernel_groups) * packages * stripes;

    const double padded = d(kernel_groups * columns), outputs = positions * d(s_.filters);
    const double piece = kWeightPiece;
    cost.input_bytes += layers * (input + outputs * d(s_.residual_bytes));
    cost.weight_bytes += layers * std::ceil(weights / piece) * piece;
    cost.output_bytes += layers * positions * padded * d(size_of(s_.c));
    cost.a_reads +=
        layers * d(kernel_groups) * packages * positions * d(array.rows * size_of(s_.a));
    cost.b_reads += layers * stripes * weights;
    // Sums are added in accumulators of their own, and read once more when they leave.
    cost.c_writes += layers * packages * positions * padded * 4;
    cost.c_reads += layers * packages * positions * padded * 4;
    cost.dma +=
        layers *
        (input + outputs * d(s_.residual_bytes) + weights + positions * padded * d(size_of(s_.c))) *
        byte_;
    cost.places +=
        layers * d(kernel_groups) * packages * positions * mac_ * d(array.rows * columns);
    cost.tile = {static_cast<Index>(stripe), columns, array.rows};
  }

  /// Cycles that the results of a position need to leave, through the vector unit and to DRAM.
  double result_cycles() const {
    const double unit = d(chip_.array.conv.result_cycles),
                 dram = d(chip_.array.columns * size_of(s_.c)) * byte_;
    return unit > dram ? unit : dram;
  }

  struct Loading {
    double input_wait = 0, weight_wait = 0;  ///< cycles without work
  };

  /// Waits of one layer with `groups` groups of kernels that take `period` cycles each.
  Loading load(double input, double weights, double room, double period, Index groups) const {
    const double group = group_bytes();
    double there = weights < room ? weights : room;  // comes in turns with the input
    if (there > input) there = input;
    const double first = there;
    double clock = latency_ + (input + there) * byte_;  // until when `there` is complete
    const double begin = clock;
    std::array<double, kSimulated> done;
    double free = 0, idle = 0, last = begin;
    Index released = 0;
    const Index simulated = groups < kSimulated ? groups : kSimulated;
    for (Index g = 0; g < simulated; ++g) {
      const double end = d(g + 1) * group, needed = end < weights ? end : weights;
      while (there < needed) {
        const double possible = free + room < needed ? free + room : needed;
        if (possible > there) {
          clock += (possible - there) * byte_;
          there = possible;
        } else {
          const double freed = done[static_cast<std::size_t>(released++)] + latency_;
          if (freed > clock) clock = freed;
          free += group;
        }
      }
      const double ready = needed > first && clock > last ? clock : last;
      idle += ready - last;
      last = ready + period;
      done[static_cast<std::size_t>(g)] = last;
    }
    Loading waits;
    if (groups > simulated) {
      const std::size_t end = kSimulated - 1;
      idle += d(groups - simulated) * (done[end] - done[end - 1] - period);
    }
    waits.input_wait = latency_ + input * byte_;
    waits.weight_wait = begin - waits.input_wait + idle;
    return waits;
  }

  const Chip& chip_;
  const ConvShape& s_;
  const double mac_, byte_, latency_, buffer_, banks_;
};

}  // namespace detail
}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
