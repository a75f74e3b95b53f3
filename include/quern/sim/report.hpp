// What running something on a chip costs.
#pragma once

#include <array>
#include <string>

#include "quern/sim/array.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// How a product was cut: tiles of this extent, in this order of loops (k is always innermost, so
/// that sums stay on the chip until they are finished).
struct Mapping {
  enum class Order : std::uint8_t {
    rows_outer,     ///< for m: for n: for k: activations are reused while the columns pass
    columns_outer,  ///< for n: for m: for k: weights are reused while the rows pass
  };
  enum class Split : std::uint8_t { rows, columns };  ///< what the dies share out

  Dataflow dataflow = Dataflow::weight_stationary;
  Extent tile;
  Order order = Order::columns_outer;
  Split split = Split::rows;  ///< rows: weights are in every die's memory. columns: every die has
                              ///< its part of the weights and gets the activations over the links
  Index results = 4;          ///< tiles of C in flight, at most
  bool lines = false;  ///< of a convolution: buffer a holds lines of the image from the first
                       ///< tile that touches them to the last, and no others
  bool operator==(const Mapping&) const = default;
};

/// Why the array waited.
enum class Stall : std::uint8_t { dram_a, dram_b, dram_c, link, buffer, vector, store };
inline constexpr int kStalls = 7;
constexpr const char* name(Stall s) {
  constexpr const char* kNames[] = {"dram_a", "dram_b", "dram_c", "link",
                                    "buffer", "vector", "store"};
  return kNames[static_cast<std::uint8_t>(s)];
}

/// What was done, whole chip: the factors of the energy table.
struct Counts {
  Index macs = 0;
  Index register_a = 0, register_b = 0, register_c = 0;  ///< accesses in processing elements
  Index buffer_a_read_bytes = 0, buffer_a_write_bytes = 0;
  Index buffer_b_read_bytes = 0, buffer_b_write_bytes = 0;
  Index buffer_c_read_bytes = 0, buffer_c_write_bytes = 0;
  Index dram_read_bytes = 0, dram_write_bytes = 0;
  Index link_bytes = 0;
  Index vector_steps = 0, vector_functions = 0;  ///< elements x steps

  /// f(name, member) for every count.
  template <class F>
  static void for_each(F&& f) {
    using C = Counts;
    f("macs", &C::macs);
    f("register_a", &C::register_a);
    f("register_b", &C::register_b);
    f("register_c", &C::register_c);
    f("buffer_a_read_bytes", &C::buffer_a_read_bytes);
    f("buffer_a_write_bytes", &C::buffer_a_write_bytes);
    f("buffer_b_read_bytes", &C::buffer_b_read_bytes);
    f("buffer_b_write_bytes", &C::buffer_b_write_bytes);
    f("buffer_c_read_bytes", &C::buffer_c_read_bytes);
    f("buffer_c_write_bytes", &C::buffer_c_write_bytes);
    f("dram_read_bytes", &C::dram_read_bytes);
    f("dram_write_bytes", &C::dram_write_bytes);
    f("link_bytes", &C::link_bytes);
    f("vector_steps", &C::vector_steps);
    f("vector_functions", &C::vector_functions);
  }
  Counts& operator+=(const Counts& other) {
    for_each([&](const char*, Index Counts::*count) { this->*count += other.*count; });
    return *this;
  }
};

/// Picojoules by component.
struct EnergyUse {
  static constexpr int kParts = 7;
  static constexpr const char* kNames[kParts] = {"mac",  "registers", "buffers", "vector",
                                                 "dram", "link",      "idle"};
  std::array<double, kParts> pj = {};

  double total() const {
    double sum = 0;
    for (const double part : pj) sum += part;
    return sum;
  }
  EnergyUse& operator+=(const EnergyUse& other) {
    for (std::size_t i = 0; i < pj.size(); ++i) pj[i] += other.pj[i];
    return *this;
  }
};

/// Counts times energies. `mac_pj`: of the type that was multiplied.
inline EnergyUse energy_of(const Counts& c, const Energy& e, double mac_pj, double seconds) {
  const auto times = [](Index count, double pj) { return static_cast<double>(count) * pj; };
  EnergyUse use;
  use.pj = {
      times(c.macs, mac_pj),
      times(c.register_a, e.register_a_pj) + times(c.register_b, e.register_b_pj) +
          times(c.register_c, e.register_c_pj),
      times(c.buffer_a_read_bytes, e.buffer_a_pj_per_byte) +
          times(c.buffer_a_write_bytes, e.buffer_a_pj_per_byte) +
          times(c.buffer_b_read_bytes, e.buffer_b_pj_per_byte) +
          times(c.buffer_b_write_bytes, e.buffer_b_pj_per_byte) +
          times(c.buffer_c_read_bytes, e.buffer_c_pj_per_byte) +
          times(c.buffer_c_write_bytes, e.buffer_c_pj_per_byte),
      times(c.vector_steps, e.vector_step_pj) + times(c.vector_functions, e.vector_function_pj),
      times(c.dram_read_bytes, e.dram_pj_per_byte) + times(c.dram_write_bytes, e.dram_pj_per_byte),
      times(c.link_bytes, e.link_pj_per_byte),
      e.idle_w * seconds * 1e12};
  return use;
}

/// One operation on one chip. Times are those of the die that ends last; counts and energies are
/// the whole chip's. cycles = start_up_cycles + compute_cycles + stall_cycles, and
/// compute_cycles = load_cycles + stream_cycles + skew_cycles.
struct Report {
  std::string chip;
  Extent extent;    ///< of one product; rows of all batch elements that share weights together
  Index batch = 1;  ///< products: weight matrices, or groups of a convolution
  DType a = DType::s8, b = DType::s8, c = DType::s32;
  Index input_bytes = 0;  ///< of A in memory; of a convolution, of what its taps touch
  Mapping mapping;

  Index cycles = 0;
  Index start_up_cycles = 0;
  Index compute_cycles = 0;                ///< the array has work
  Index stall_cycles = 0;                  ///< it waits, from its first operand to the last store
  std::array<Index, kStalls> stalls = {};  ///< stall_cycles by cause
  Index load_cycles = 0;                   ///< compute_cycles: the stationary operand is shifted in
  Index stream_cycles = 0;                 ///< compute_cycles: products are made
  Index skew_cycles = 0;    ///< compute_cycles: a wavefront fills or leaves the array
  Index dma_cycles = 0;     ///< DRAM is busy
  Index vector_cycles = 0;  ///< the vector unit is busy

  Index folds = 0;                ///< all arrays, all dies
  double mapping_efficiency = 0;  ///< share of the array that folds cover
  double utilization = 0;         ///< products made of those possible in `cycles`
  double seconds = 0;
  Counts counts;
  EnergyUse energy;
};

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
