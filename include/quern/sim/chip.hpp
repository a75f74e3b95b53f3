// An accelerator as data. A Chip says what there is (arrays, buffers, memory, vector unit, dies,
// energies); it says nothing about kernels, which are mapped to it automatically.
//
//        DRAM ---- DMA ----> buffer a (activations) --+
//          |                 buffer b (weights) ------+--> arrays --> buffer c (accumulators)
//          +<--------------------------------- vector unit <----------------+
//
// Every die has all of this; dies exchange activations over links. All quantities have their unit
// in their name. for_each_field() lists every one with its rule: validation, files and sweeps read
// that list, so a new quantity is added in two places, both in this file.
#pragma once

#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "quern/core/dtype.hpp"
#include "quern/core/error.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// Which operand stays in the processing elements while the others stream past. With an array of
/// R x C and a product (M x K) (K x N), one fold holds
enum class Dataflow : std::uint8_t {
  weight_stationary,  ///< R of K by C of N weights; M rows of activations stream
  output_stationary,  ///< R of M by C of N sums; K terms stream
  input_stationary,   ///< R of K by C of M activations; N columns of weights stream
};

/// What happens between two folds.
enum class FoldModel : std::uint8_t {
  drain,    ///< a fold begins when the one before has left the array: Samajdar et al., "A
            ///< systematic methodology for characterizing scalability of DNN accelerators using
            ///< SCALE-Sim" (ISPASS 2020)
  overlap,  ///< a fold follows the one before through the array without a gap
};

constexpr const char* name(Dataflow d) {
  constexpr const char* kNames[] = {"weight_stationary", "output_stationary", "input_stationary"};
  return kNames[static_cast<std::uint8_t>(d)];
}
constexpr const char* name(FoldModel f) { return f == FoldModel::drain ? "drain" : "overlap"; }

/// How an array convolves, if it does so in a way of its own.
enum class ConvDataflow : std::uint8_t {
  product,         ///< as a product whose rows are patches of the image
  row_stationary,  ///< a row of the kernel stays in an element, conv_row_stationary.hpp (Eyeriss)
  channel_atoms,   ///< R channels x C kernels at one tap a cycle, conv_channel_atoms.hpp (NVDLA)
};
inline constexpr ConvDataflow kConvDataflows[] = {
    ConvDataflow::product, ConvDataflow::row_stationary, ConvDataflow::channel_atoms};
constexpr const char* name(ConvDataflow d) {
  constexpr const char* kNames[] = {"product", "row_stationary", "channel_atoms"};
  return kNames[static_cast<std::uint8_t>(d)];
}

inline constexpr double kUnlimited = std::numeric_limits<double>::infinity();

/// The dataflows an array can be set to.
struct Dataflows {
  bool weight_stationary = true;
  bool output_stationary = false;
  bool input_stationary = false;

  constexpr bool has(Dataflow d) const {
    return d == Dataflow::weight_stationary   ? weight_stationary
           : d == Dataflow::output_stationary ? output_stationary
                                              : input_stationary;
  }
  static constexpr Dataflows only(Dataflow d) {
    return {d == Dataflow::weight_stationary, d == Dataflow::output_stationary,
            d == Dataflow::input_stationary};
  }
  bool operator==(const Dataflows&) const = default;
};

/// Cycles that one multiplication and addition takes a processing element; 0: not offered. bf16,
/// f16 and f32 accumulate in f32, s8 (s8 and u8 in any combination) in s32 modulo 2^32.
struct CyclesPerMac {
  Index s8 = 1, f16 = 0, bf16 = 0, f32 = 0;
  bool operator==(const CyclesPerMac&) const = default;
};

/// Convolution on an array built for it. A word is one element of any operand.
struct ConvEngine {
  ConvDataflow dataflow = ConvDataflow::product;
  // row_stationary
  Index filters_per_element = 16;    ///< that share an element's row of the input, at most
  Index weight_words = 256;          ///< scratchpad of an element
  Index input_words = 16;            ///< scratchpad of an element
  Index weight_words_per_cycle = 1;  ///< into the array
  Index input_words_per_cycle = 1;   ///< into the array
  Index sum_words_per_cycle = 1;     ///< into the array, and as many out of it
  // channel_atoms
  Index result_cycles = 1;   ///< until the C results of one position have left the accumulators
  Index result_latency = 0;  ///< until its place is free again, beyond those
  bool operator==(const ConvEngine&) const = default;
};

/// A systolic array of rows x columns processing elements; see array.hpp for its timing.
struct Array {
  Index rows = 16, columns = 16;
  Index count = 1;  ///< arrays per die; folds are dealt out to them
  Dataflows dataflows;
  FoldModel fold_model = FoldModel::drain;
  bool preload = false;       ///< stationary registers are doubled: the next fold's operand is
                              ///< loaded while this one streams (overlap only)
  Index start_up_cycles = 0;  ///< once for each operation: commands, configuration
  CyclesPerMac cycles_per_mac;
  ConvEngine conv;
  bool operator==(const Array&) const = default;
};

/// Elementwise work: epilogues, quantization.
struct Vector {
  Index lanes = 16;                 ///< elements at a time, per die
  double cycles_per_step = 1;       ///< of an addition, multiplication, conversion or clamp
  double cycles_per_function = 16;  ///< of an exponential or error function; native units: 1 to 4
  bool operator==(const Vector&) const = default;
};

/// On-chip memory of one operand, per die.
struct Buffer {
  double kib = 256;
  Index banks = 1, ports = 1;
  double bank_bytes_per_cycle = kUnlimited;  ///< of each port
  bool double_buffered = true;  ///< can be filled (c: emptied) while the array uses another part

  double bytes_per_cycle() const {
    return bank_bytes_per_cycle * static_cast<double>(banks) * static_cast<double>(ports);
  }
  bool operator==(const Buffer&) const = default;
};

/// Movers between DRAM and buffers, per die.
struct Dma {
  Index engines = 2;                    ///< transfers under way at a time
  double bytes_per_cycle = kUnlimited;  ///< of each engine
  bool operator==(const Dma&) const = default;
};

/// Off-chip memory, per die.
struct Dram {
  double gb_per_s = 25.6;  ///< peak
  double efficiency = 1;   ///< share of the peak that long transfers reach
  double latency_ns = 100;
  Index burst_bytes = 64;  ///< a transfer takes the time of whole bursts
  bool operator==(const Dram&) const = default;
};

/// Between dies; each direction, per die.
struct Link {
  double gb_per_s = 100;
  double latency_ns = 20;
  bool operator==(const Link&) const = default;
};

/// Picojoules, for whole operations: `register` is one access of a processing element to its
/// operand (a, b: a read; c: an accumulation).
struct Energy {
  double mac_s8_pj = 0, mac_f16_pj = 0, mac_f32_pj = 0;  ///< bf16 costs as f16
  double register_a_pj = 0, register_b_pj = 0, register_c_pj = 0;
  double buffer_a_pj_per_byte = 0, buffer_b_pj_per_byte = 0, buffer_c_pj_per_byte = 0;
  double vector_step_pj = 0, vector_function_pj = 0;  ///< of one element
  double dram_pj_per_byte = 0;
  double link_pj_per_byte = 0;
  double idle_w = 0;  ///< drawn all the time, whole chip
  bool operator==(const Energy&) const = default;
};

/// Where a number comes from. Presets have one for every number they set.
struct Source {
  std::string key;         ///< a field's, or a section's: "array.rows", "energy"
  std::string source;      ///< "ISCA 2017, table 2"
  std::string confidence;  ///< high, medium, low, assumption
  bool operator==(const Source&) const = default;
};

struct Chip {
  std::string name = "unnamed";
  double clock_mhz = 1000;
  Index dies = 1;
  Array array;
  Vector vector;
  Buffer a, b, c;  ///< activations, weights, accumulators (4 bytes an element)
  Dma dma;
  Dram dram;
  Link link;
  Energy energy;
  std::vector<Source> sources;
  bool operator==(const Chip&) const = default;
};

/// What a field may be.
struct Rule {
  enum class Kind : std::uint8_t { at_least_0, at_least_1, rate, fraction } kind;
  double most = 1e12;

  bool allows(double v) const {
    const bool low_enough = v <= most || (most == kUnlimited && v == kUnlimited);
    switch (kind) {
      case Kind::at_least_0:
        return v >= 0 && low_enough;
      case Kind::at_least_1:
        return v >= 1 && low_enough;
      case Kind::rate:
        return v >= 1e-3 && low_enough;
      case Kind::fraction:
        return v > 0 && v <= 1;
    }
    return false;
  }
  const char* words() const {
    constexpr const char* kWords[] = {"at least 0", "at least 1", "at least 0.001",
                                      "above 0, at most 1"};
    return kWords[static_cast<std::uint8_t>(kind)];
  }
};

/// Calls f(key, field, rule) for every quantity: field is an Index, double, bool, FoldModel,
/// ConvDataflow or Dataflows of the chip (const or not). Keys are as in files: "array.rows".
template <class AnyChip, class F>
void for_each_field(AnyChip& chip, F&& f) {
  using K = Rule::Kind;
  constexpr Rule size{K::at_least_1, 65536}, count{K::at_least_1, 1e6}, cycles{K::at_least_0, 1e9},
      cost{K::at_least_0}, rate{K::rate, kUnlimited}, flag{K::at_least_0, 1};
  f("clock_mhz", chip.clock_mhz, Rule{K::rate, 1e6});
  f("dies", chip.dies, Rule{K::at_least_1, 2});
  f("array.rows", chip.array.rows, size);
  f("array.columns", chip.array.columns, size);
  f("array.count", chip.array.count, count);
  f("array.dataflows", chip.array.dataflows, flag);
  f("array.fold_model", chip.array.fold_model, flag);
  f("array.preload", chip.array.preload, flag);
  f("array.start_up_cycles", chip.array.start_up_cycles, cycles);
  constexpr Rule per_mac{K::at_least_0, 1024};
  f("array.cycles_per_mac.s8", chip.array.cycles_per_mac.s8, per_mac);
  f("array.cycles_per_mac.f16", chip.array.cycles_per_mac.f16, per_mac);
  f("array.cycles_per_mac.bf16", chip.array.cycles_per_mac.bf16, per_mac);
  f("array.cycles_per_mac.f32", chip.array.cycles_per_mac.f32, per_mac);
  f("array.conv.dataflow", chip.array.conv.dataflow, flag);
  f("array.conv.filters_per_element", chip.array.conv.filters_per_element, size);
  f("array.conv.weight_words", chip.array.conv.weight_words, size);
  f("array.conv.input_words", chip.array.conv.input_words, size);
  f("array.conv.weight_words_per_cycle", chip.array.conv.weight_words_per_cycle, size);
  f("array.conv.input_words_per_cycle", chip.array.conv.input_words_per_cycle, size);
  f("array.conv.sum_words_per_cycle", chip.array.conv.sum_words_per_cycle, size);
  f("array.conv.result_cycles", chip.array.conv.result_cycles, size);
  f("array.conv.result_latency", chip.array.conv.result_latency, cycles);
  f("vector.lanes", chip.vector.lanes, count);
  f("vector.cycles_per_step", chip.vector.cycles_per_step, Rule{K::at_least_0, 1e6});
  f("vector.cycles_per_function", chip.vector.cycles_per_function, Rule{K::at_least_0, 1e6});
  const auto buffer = [&](const char* const(&key)[5], auto& b) {
    f(key[0], b.kib, rate);
    f(key[1], b.banks, count);
    f(key[2], b.ports, Rule{K::at_least_1, 64});
    f(key[3], b.bank_bytes_per_cycle, rate);
    f(key[4], b.double_buffered, flag);
  };
  buffer({"buffer.a.kib", "buffer.a.banks", "buffer.a.ports", "buffer.a.bank_bytes_per_cycle",
          "buffer.a.double_buffered"},
         chip.a);
  buffer({"buffer.b.kib", "buffer.b.banks", "buffer.b.ports", "buffer.b.bank_bytes_per_cycle",
          "buffer.b.double_buffered"},
         chip.b);
  buffer({"buffer.c.kib", "buffer.c.banks", "buffer.c.ports", "buffer.c.bank_bytes_per_cycle",
          "buffer.c.double_buffered"},
         chip.c);
  f("dma.engines", chip.dma.engines, Rule{K::at_least_1, 1024});
  f("dma.bytes_per_cycle", chip.dma.bytes_per_cycle, rate);
  f("dram.gb_per_s", chip.dram.gb_per_s, rate);
  f("dram.efficiency", chip.dram.efficiency, Rule{K::fraction});
  f("dram.latency_ns", chip.dram.latency_ns, Rule{K::at_least_0, 1e6});
  f("dram.burst_bytes", chip.dram.burst_bytes, Rule{K::at_least_1, 65536});
  f("link.gb_per_s", chip.link.gb_per_s, rate);
  f("link.latency_ns", chip.link.latency_ns, Rule{K::at_least_0, 1e6});
  f("energy.mac_s8_pj", chip.energy.mac_s8_pj, cost);
  f("energy.mac_f16_pj", chip.energy.mac_f16_pj, cost);
  f("energy.mac_f32_pj", chip.energy.mac_f32_pj, cost);
  f("energy.register_a_pj", chip.energy.register_a_pj, cost);
  f("energy.register_b_pj", chip.energy.register_b_pj, cost);
  f("energy.register_c_pj", chip.energy.register_c_pj, cost);
  f("energy.buffer_a_pj_per_byte", chip.energy.buffer_a_pj_per_byte, cost);
  f("energy.buffer_b_pj_per_byte", chip.energy.buffer_b_pj_per_byte, cost);
  f("energy.buffer_c_pj_per_byte", chip.energy.buffer_c_pj_per_byte, cost);
  f("energy.vector_step_pj", chip.energy.vector_step_pj, cost);
  f("energy.vector_function_pj", chip.energy.vector_function_pj, cost);
  f("energy.dram_pj_per_byte", chip.energy.dram_pj_per_byte, cost);
  f("energy.link_pj_per_byte", chip.energy.link_pj_per_byte, cost);
  f("energy.idle_w", chip.energy.idle_w, cost);
}

namespace detail {
struct FieldCheck {
  const char* chip;
  Error* error;

  template <class T>
  void operator()(const char* key, const T& field, const Rule& rule) const {
    if constexpr (std::is_same_v<T, Index> || std::is_same_v<T, double>) {
      const double v = static_cast<double>(field);
      if (*error || rule.allows(v)) return;
      *error = Error::make(Code::bad_value, "chip %.40s: %s is %g; it must be %s%s", chip, key, v,
                           rule.words(), limit(rule).text);
    }
  }
  struct Limit {
    char text[40];
  };
  static Limit limit(const Rule& rule) {
    Limit l = {};
    if (rule.kind != Rule::Kind::fraction && rule.most != kUnlimited) {
      std::snprintf(l.text, sizeof l.text, ", at most %g", rule.most);
    }
    return l;
  }
};
}  // namespace detail

/// Everything that can be wrong with a chip by itself.
inline Error validate(const Chip& chip) {
  Error error;
  for_each_field(chip, detail::FieldCheck{chip.name.c_str(), &error});
  if (error) return error;
  const Array& a = chip.array;
  const char* who = chip.name.c_str();
  if (a.dataflows == Dataflows{false, false, false}) {
    return Error::make(Code::bad_value, "chip %.40s: array.dataflows is empty; name at least one",
                       who);
  }
  if (a.preload && a.fold_model == FoldModel::drain) {
    return Error::make(Code::bad_value,
                       "chip %.40s: array.preload needs fold_model = \"overlap\": a drained array "
                       "has nothing to load beside",
                       who);
  }
  if (a.conv.dataflow != ConvDataflow::product && (a.count > 1 || chip.dies > 1)) {
    return Error::make(Code::bad_value,
                       "chip %.40s: array.conv.dataflow = \"%s\" needs one array on one die, not "
                       "%lld on each of %lld",
                       who, name(a.conv.dataflow), static_cast<long long>(a.count),
                       static_cast<long long>(chip.dies));
  }
  const CyclesPerMac& m = a.cycles_per_mac;
  if (m.s8 + m.f16 + m.bf16 + m.f32 == 0) {
    return Error::make(Code::bad_value,
                       "chip %.40s: array.cycles_per_mac is 0 for every type: it computes nothing",
                       who);
  }
  return {};
}

/// The same chip with memory, links and buffers that never limit: what remains is the array.
inline Chip with_ideal_memory(Chip chip) {
  for (Buffer* b : {&chip.a, &chip.b, &chip.c}) {
    b->kib = b->bank_bytes_per_cycle = kUnlimited;
    b->double_buffered = true;
  }
  chip.dma.bytes_per_cycle = chip.dram.gb_per_s = chip.link.gb_per_s = kUnlimited;
  chip.dram.latency_ns = chip.link.latency_ns = 0;
  return chip;
}

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
