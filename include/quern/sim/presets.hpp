// Published accelerators as chips. Every number that a preset sets stands beside its source and how
// far that can be trusted; what the model leaves out is said in `summary`. docs/chips.md has it all
// as tables.
//
//   sim::Chip chip = sim::preset("gemmini16").value();
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "quern/sim/chip_fields.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

struct Preset {
  std::string_view name;
  std::string_view summary;  ///< what it is, and what of it is not described
  Chip (*chip)();
};

namespace preset_data {

inline constexpr char kHigh[] = "high", kMedium[] = "medium", kLow[] = "low",
                      kAssumed[] = "assumption";

/// A chip under construction: a number cannot be set without its source.
class Cited {
 public:
  explicit Cited(const char* name, Chip base = {}) : chip_(std::move(base)) { chip_.name = name; }

  /// Says that what is known of one chip is assumed for another.
  Cited& assume_all(const std::string& because) {
    for (Source& s : chip_.sources) {
      s.source = because + s.source;
      s.confidence = kAssumed;
    }
    return *this;
  }

  /// `value` is of the field's type, or an int for any number.
  template <class V>
  Cited& set(std::string_view key, V value, const std::string& source, const char* confidence) {
    bool done = false;
    for_each_field(chip_, [&]<class T>(std::string_view k, T& field, const Rule&) {
      if (k != key) return;
      if constexpr (std::is_same_v<T, V>) {
        field = value;
        done = true;
      } else if constexpr (std::is_same_v<V, int> && !std::is_same_v<T, bool> &&
                           std::is_arithmetic_v<T>) {
        field = static_cast<T>(value);
        done = true;
      }
    });
    std::erase_if(chip_.sources, [&](const Source& s) { return s.key == key; });
    // The test of the presets' keys finds those that are set to no avail.
    chip_.sources.push_back({(done ? "" : "not set: ") + std::string(key), source, confidence});
    return *this;
  }

  operator Chip() const { return chip_; }

 private:
  Chip chip_;
};

/// How energies go from 45 nm to smaller transistors, judged by a memory: CACTI 7's 256 KB.
struct Scaling {
  double factor;
  const char* why;
};
inline constexpr Scaling kUnscaled = {1, "as it is"};
inline constexpr Scaling k22nm = {0.3, "x 0.3, CACTI's ratio of 22 to 45 nm"};
inline constexpr Scaling k7nm = {0.15, "x 0.15, half of CACTI's ratio of 22 to 45 nm"};

/// Energies of arithmetic for chips that publish none.
inline Cited& set_energy_of_int8(Cited& chip, const Scaling& scaling) {
  const double x = scaling.factor;
  const char* confidence = x == 1 ? kLow : kAssumed;
  const std::string from = " pJ (Horowitz, ISSCC 2014, 45 nm), " + std::string(scaling.why);
  return chip.set("energy.mac_s8_pj", 0.3 * x, "8-bit mult 0.2 + 32-bit add 0.1" + from, confidence)
      .set("energy.register_a_pj", 0.03 * x, "as an 8-bit add, 0.03" + from, kAssumed)
      .set("energy.register_b_pj", 0.03 * x, "as an 8-bit add, 0.03" + from, kAssumed)
      .set("energy.register_c_pj", 0.1 * x, "as a 32-bit add, 0.1" + from, kAssumed)
      .set("energy.vector_step_pj", 3.7 * x, "fp32 mult, 3.7" + from, confidence)
      .set("energy.vector_function_pj", 37 * x, "ten fp32 mults of 3.7" + from, kAssumed);
}

inline Cited& set_energy_of_buffers(Cited& chip, double pj_per_byte, const char* source) {
  return chip.set("energy.buffer_a_pj_per_byte", pj_per_byte, source, kLow)
      .set("energy.buffer_b_pj_per_byte", pj_per_byte, source, kLow)
      .set("energy.buffer_c_pj_per_byte", pj_per_byte, source, kLow);
}

inline Chip tpu_v1() {
  constexpr char kPaper[] = "Jouppi et al., ISCA 2017, section 2 and table 2";
  Cited chip("tpu_v1");
  chip.set("clock_mhz", 700, kPaper, kHigh)
      .set("array.rows", 256, kPaper, kHigh)
      .set("array.columns", 256, kPaper, kHigh)
      .set("array.dataflows", Dataflows::only(Dataflow::weight_stationary), kPaper, kHigh)
      .set("array.fold_model", FoldModel::overlap, "ISCA 2017: matrix unit is pipelined", kMedium)
      .set("array.preload", true, "ISCA 2017: weight tiles of 64 KiB are double-buffered", kHigh)
      .set("vector.lanes", 256, "one accumulator row of 256 a cycle, as the array makes", kAssumed)
      .set("vector.cycles_per_function", 1, "ISCA 2017: nonlinear functions are hardware", kLow)
      .set("buffer.a.kib", 24 * 1024, "ISCA 2017: 24 MiB unified buffer", kHigh)
      .set("buffer.a.ports", 2,
           "167 GiB/s to the array and from it (ISCA 2017, figure 1, as redrawn)", kMedium)
      .set("buffer.a.bank_bytes_per_cycle", 256.0,
           "167 GiB/s are 256 bytes a cycle (ISCA 2017, figure 1, as redrawn)", kMedium)
      .set("buffer.b.kib", 256, "ISCA 2017: weight FIFO of 4 tiles of 64 KiB", kHigh)
      .set("buffer.c.kib", 4096, "ISCA 2017: 4 MiB accumulators, 4096 x 256 x 32 bits", kHigh)
      .set("dram.gb_per_s", 34,
           "ISCA 2017: weight memory; activations, which come over PCIe at 14 GiB/s, share it here",
           kHigh)
      .set("energy.dram_pj_per_byte", 56.5, "DRAMsim3, DDR3-1600 (the chip has DDR3-2133)", kLow)
      .set("energy.idle_w", 28, "ISCA 2017, table 2: measured, one die", kHigh);
  set_energy_of_int8(chip, kUnscaled);
  return set_energy_of_buffers(chip, 2.2, "CACTI 7: 256 KB bank, 32 nm, 35.4 pJ per 16 bytes");
}

inline Chip eyeriss() {
  constexpr char kPaper[] = "Chen et al., JSSC 52(1), 2017";
  constexpr char kMapping[] = "JSSC 2017, mappings of AlexNet; also in NPUsim's eyeriss_paper";
  constexpr char kBuses[] =
      "JSSC 2017: buses of 64, 16 and 64 bits for weights, input and sums (not checked)";
  constexpr char kBanks[] = "JSSC 2017: 25 banks of 4 KiB, for input or for sums (not checked)";
  constexpr char kGlb[] = "mean of 18.18 (read) and 14.14 (write) pJ per 8 bytes; Accelergy, 65 nm";
  Cited chip("eyeriss");
  chip.set("clock_mhz", 200, kPaper, kHigh)
      .set("array.rows", 12, kPaper, kHigh)
      .set("array.columns", 14, kPaper, kHigh)
      .set("array.dataflows", Dataflows{true, true, true},
           "for products, which the chip has no dataflow for; see array.conv", kAssumed)
      .set("array.fold_model", FoldModel::overlap,
           "layers C1-C5 spend 83-96 % of processing time multiplying (JSSC 2017, table 5)", kLow)
      .set("array.cycles_per_mac.s8", 1, "8-bit operands take the place of 16-bit ones", kAssumed)
      .set("array.cycles_per_mac.f16", 1, "stands for 16-bit fixed point: the same bytes", kAssumed)
      .set("array.conv.dataflow", ConvDataflow::row_stationary, kPaper, kHigh)
      .set("array.conv.filters_per_element", 16, kMapping, kMedium)
      .set("array.conv.weight_words", 224, "JSSC 2017: 448 bytes, 16-bit words", kHigh)
      .set("array.conv.input_words", 12, "JSSC 2017: 24 bytes, 16-bit words", kHigh)
      .set("array.conv.weight_words_per_cycle", 4, kBuses, kMedium)
      .set("array.conv.input_words_per_cycle", 1, kBuses, kMedium)
      .set("array.conv.sum_words_per_cycle", 4, kBuses, kMedium)
      .set("vector.lanes", 14, "one per column; ReLU is all the chip has", kAssumed)
      .set("buffer.a.kib", 50, "half of 100 KB for activations and sums; the split is not checked",
           kAssumed)
      .set("buffer.a.banks", 12, kBanks, kMedium)
      .set("buffer.b.kib", 8, "what is left of 108 KB (JSSC 2017); the split is not checked", kLow)
      .set("buffer.c.kib", 50, "half of 100 KB for activations and sums; the split is not checked",
           kAssumed)
      .set("buffer.c.banks", 13, kBanks, kMedium)
      .set("dram.gb_per_s", 0.48,
           "link at 60 MHz (JSSC 2017) of 64 bits (not checked); no compression", kLow)
      .set("energy.mac_s8_pj", 0.208, "Accelergy, Eyeriss-like, 65 nm, 8 bits", kMedium)
      .set("energy.mac_f16_pj", 0.832, "four times 8 bits: a multiplier grows by the square",
           kAssumed)
      .set("energy.register_a_pj", 0.112,
           "Accelergy, 65 nm: 112 fJ/MAC, taken for the ifmap scratchpad (0.202 pJ an access)",
           kMedium)
      .set("energy.register_b_pj", 1.007,
           "Accelergy, 65 nm: 1,007 fJ/MAC, taken for the weight scratchpad (1.977 pJ an access)",
           kMedium)
      .set("energy.register_c_pj", 0.387,
           "Accelergy, 65 nm: 387 fJ/MAC, taken for the sum scratchpad (0.251 pJ an access)",
           kMedium)
      .set("energy.vector_step_pj", 0.1, "32-bit add, Horowitz, 45 nm, as it is", kLow)
      .set("energy.dram_pj_per_byte", 64,
           "Accelergy, LPDDR4: 512 pJ per 64 bits; 3,381 fJ/MAC is then 572,550 bytes, all of "
           "MobileNet's first layer being 552,800",
           kMedium);
  return set_energy_of_buffers(chip, 2.02, kGlb);
}

inline Chip gemmini16() {
  constexpr char kRepository[] = "Gemmini repository, default configuration";
  Cited chip("gemmini16");
  chip.set("clock_mhz", 1000, "frame rates are given at 1 GHz; not checked", kLow)
      .set("array.rows", 16, kRepository, kHigh)
      .set("array.columns", 16, kRepository, kHigh)
      .set("array.dataflows", Dataflows{true, true, false}, kRepository, kHigh)
      .set("array.fold_model", FoldModel::overlap,
           "F(M + 16) is within 0.5 % of published RTL cycles of 256^3 and 512^3", kMedium)
      .set("array.start_up_cycles", 1950,
           "calibrated on published RTL cycles of four products; see docs/simulator.md", kAssumed)
      .set("vector.lanes", 16, "one per column: a row of the accumulator a cycle", kAssumed)
      .set("buffer.a.kib", 128, "half of the 256 KB scratchpad, which a and b share", kAssumed)
      .set("buffer.b.kib", 128, "half of the 256 KB scratchpad, which a and b share", kAssumed)
      .set("buffer.c.kib", 64, kRepository, kHigh)
      .set("dma.bytes_per_cycle", 16, "repository: 128-bit bus", kHigh)
      .set("dram.gb_per_s", 16, "128-bit bus at 1 GHz; the memory behind it keeps up", kMedium)
      .set("energy.dram_pj_per_byte", 48.8, "DRAMsim3, DDR4-2400", kLow);
  set_energy_of_int8(chip, kUnscaled);
  return set_energy_of_buffers(chip, 1.66, "CACTI 7: 128 KB bank, 32 nm, 26.5 pJ per 16 bytes");
}

inline Chip nvdla_small() {
  constexpr char kSpec[] = "nvdla/hw, nv_small.spec";
  constexpr char kBench[] =
      "nvdla/hw, Verilator test bench: one read of 8 bytes every other cycle, 32 cycles later";
  Cited chip("nvdla_small");
  chip.set("clock_mhz", 1000, "a round number; not checked", kLow)
      .set("array.rows", 8, "nvdla/hw, nv_small.spec: 8 channels, atomic C", kHigh)
      .set("array.columns", 8, "nvdla/hw, nv_small.spec: 8 kernels, atomic K", kHigh)
      .set("array.dataflows", Dataflows::only(Dataflow::weight_stationary),
           "nvdla/hw, CMAC: weights stay for a stripe of outputs", kHigh)
      .set("array.fold_model", FoldModel::overlap, "adder trees: nothing drains", kMedium)
      .set("array.preload", true, "nvdla/hw, CMAC: shadow registers take the next weights", kHigh)
      .set("array.start_up_cycles", 124,
           "calibrated on RTL cycles of a convolution with one product; see docs/simulator.md",
           kAssumed)
      .set("array.conv.dataflow", ConvDataflow::channel_atoms,
           "nvdla/hw, CSC: stripes, channels, taps", kHigh)
      .set("array.conv.result_cycles", 9,
           "nvdla/hw, CACC delivery: a read, then 8 results, one a cycle", kHigh)
      .set("array.conv.result_latency", 42, "nvdla/hw: registers counted from CSC to CACC and back",
           kMedium)
      .set("vector.lanes", 1, "nvdla/hw, nv_small.spec: SDP throughput 1", kHigh)
      .set("buffer.a.kib", 64, "half of the 128 KB convolution buffer", kAssumed)
      .set("buffer.a.banks", 16, "half of 32 banks (nv_small.spec)", kAssumed)
      .set("buffer.b.kib", 64, "half of the 128 KB convolution buffer", kAssumed)
      .set("buffer.b.banks", 16, "half of 32 banks (nv_small.spec)", kAssumed)
      .set("buffer.c.kib", 16, "the accumulator's size is not in the sources at hand", kAssumed)
      .set("dma.bytes_per_cycle", 8, "nvdla/hw, nv_small.spec: 64-bit data backbone", kHigh)
      .set("dram.gb_per_s", 4, kBench, kHigh)
      .set("dram.latency_ns", 32, kBench, kHigh)
      .set("dram.burst_bytes", 8, kSpec, kHigh)
      .set("energy.dram_pj_per_byte", 48.8, "DRAMsim3, LPDDR4-2400", kLow);
  set_energy_of_int8(chip, kUnscaled);
  return set_energy_of_buffers(chip, 0.98, "CACTI 7: 64 KB bank, 32 nm, 15.7 pJ per 16 bytes");
}

inline Chip tesla_fsd_hw3() {
  constexpr char kPaper[] = "Talpes et al., IEEE Micro 2020; WikiChip";
  Cited chip("tesla_fsd_hw3");
  chip.set("clock_mhz", 2000, kPaper, kHigh)
      .set("array.rows", 96, kPaper, kHigh)
      .set("array.columns", 96, kPaper, kHigh)
      .set("array.count", 2, "IEEE Micro 2020: two NPUs, 36.86 TOPS each", kHigh)
      .set("array.dataflows", Dataflows::only(Dataflow::output_stationary),
           "NPUsim's configuration", kMedium)
      .set("array.fold_model", FoldModel::overlap,
           "above 80 % of peak on Inception, batch 1 (IEEE Micro 2020), needs it", kLow)
      .set("vector.lanes", 192, "one per column of each NPU, as sums are shifted out", kAssumed)
      .set("buffer.a.kib", 32 * 1024, "half of 2 x 32 MiB, which a and b share", kAssumed)
      .set("buffer.a.banks", 2, "one path for each NPU", kAssumed)
      .set("buffer.a.bank_bytes_per_cycle", 256, "IEEE Micro 2020: activations read", kHigh)
      .set("buffer.b.kib", 32 * 1024, "half of 2 x 32 MiB, which a and b share", kAssumed)
      .set("buffer.b.banks", 2, "one path for each NPU", kAssumed)
      .set("buffer.b.bank_bytes_per_cycle", 128, "IEEE Micro 2020: weights read", kHigh)
      .set("buffer.c.kib", 144, "96 x 96 sums of 32 bits in each NPU, twice", kAssumed)
      .set("dram.gb_per_s", 68, "LPDDR4 (not checked); shared with the CPUs, which is left out",
           kLow)
      .set("energy.dram_pj_per_byte", 48.8, "DRAMsim3, LPDDR4-2400", kLow);
  set_energy_of_int8(chip, k22nm);
  return set_energy_of_buffers(chip, 1.19, "CACTI 7: 256 KB bank, 22 nm, 19.0 pJ per 16 bytes");
}

inline Chip dojo_d1() {
  constexpr char kTalks[] = "Tesla, AI Day 2021 and Hot Chips 34, as reported";
  Cited chip("dojo_d1");
  chip.set("clock_mhz", 2000, kTalks, kMedium)
      .set("array.count", 354, "nodes; AI Day 2021, Hot Chips 34, as reported", kMedium)
      .set("array.rows", 8, "362 TFLOPS are 256 MACs a node and cycle: 8 x 32", kMedium)
      .set("array.columns", 32, "362 TFLOPS are 256 MACs a node and cycle: 8 x 32", kMedium)
      .set("array.dataflows", Dataflows{true, true, false}, "programmable nodes", kAssumed)
      .set("array.fold_model", FoldModel::overlap, "programmable nodes", kAssumed)
      .set("array.cycles_per_mac.bf16", 1, "362 TFLOPS", kMedium)
      .set("array.cycles_per_mac.f32", 16, "22.6 TFLOPS", kMedium)
      .set("array.cycles_per_mac.s8", 1, "the rate of CFP8", kAssumed)
      .set("vector.lanes", 354 * 16, "16 floats of a 512-bit SIMD unit in each node (not checked)",
           kLow)
      .set("vector.cycles_per_function", 8, "a short polynomial on the SIMD unit", kAssumed)
      .set("buffer.a.kib", 354 * 512, "354 x 1.25 MB; 0.4 of it", kAssumed)
      .set("buffer.a.banks", 354, "every node has its own", kMedium)
      .set("buffer.a.bank_bytes_per_cycle", 100,
           "half of 400 GB/s of loads in each node (not checked)", kLow)
      .set("buffer.b.kib", 354 * 512, "354 x 1.25 MB; 0.4 of it", kAssumed)
      .set("buffer.b.banks", 354, "every node has its own", kMedium)
      .set("buffer.b.bank_bytes_per_cycle", 100,
           "half of 400 GB/s of loads in each node (not checked)", kLow)
      .set("buffer.c.kib", 354 * 256, "354 x 1.25 MB; 0.2 of it", kAssumed)
      .set("dram.gb_per_s", 160,
           "no memory of its own; 5 interface processors of 800 GB/s for 25 dies (not checked)",
           kAssumed)
      .set("link.gb_per_s", 4000, "4 TB/s for each edge of the die", kMedium)
      .set("energy.mac_f16_pj", 0.3, "fp16 mult 1.1 + fp32 add 0.9 pJ (Horowitz, 45 nm), x 0.15",
           kAssumed)
      .set("energy.mac_f32_pj", 0.69, "fp32 mult 3.7 + add 0.9 pJ (Horowitz, 45 nm), x 0.15",
           kAssumed)
      .set("energy.dram_pj_per_byte", 12.6, "DRAMsim3, HBM2", kLow);
  set_energy_of_int8(chip, k7nm);
  return set_energy_of_buffers(chip, 1.19, "CACTI 7: 256 KB bank, 22 nm, 19.0 pJ per 16 bytes");
}

inline Chip simba36() {
  constexpr char kPe[] = "16 PEs of 8 x 8 MACs in a chiplet (not checked)";
  Cited chip("simba36");
  chip.set("clock_mhz", 1736, "36 x 16 x 64 MACs then make 128 TOPS (Shao et al., MICRO 2019)",
           kLow)
      .set("array.count", 36 * 16, "36 chiplets (MICRO 2019) of 16 PEs (not checked)", kLow)
      .set("array.rows", 8, kPe, kLow)
      .set("array.columns", 8, kPe, kLow)
      .set("array.dataflows", Dataflows::only(Dataflow::weight_stationary), "weights stay in a PE",
           kLow)
      .set("array.fold_model", FoldModel::overlap, "vector MACs: nothing drains", kLow)
      .set("array.preload", true, "a PE's weight buffer feeds the next", kAssumed)
      .set("vector.lanes", 36 * 16, "one per PE", kAssumed)
      .set("buffer.a.kib", 36 * 192, "64 KiB global + 16 x 8 KiB in each chiplet (not checked)",
           kLow)
      .set("buffer.a.banks", 36 * 16, "one in each PE", kLow)
      .set("buffer.b.kib", 36 * 512, "16 x 32 KiB in each chiplet (not checked)", kLow)
      .set("buffer.b.banks", 36 * 16, "one in each PE", kLow)
      .set("buffer.c.kib", 36 * 48, "16 x 3 KiB in each chiplet (not checked)", kLow)
      .set("buffer.c.banks", 36 * 16, "one in each PE", kLow)
      .set("dram.gb_per_s", 128, "the prototype has none of its own", kAssumed)
      .set("energy.dram_pj_per_byte", 48.8, "DRAMsim3, DDR4-2400", kLow);
  set_energy_of_int8(chip, k22nm);
  return set_energy_of_buffers(chip, 0.53, "CACTI 7: 64 KB bank, 22 nm, 8.4 pJ per 16 bytes");
}

inline Chip ai5_assumed() {
  constexpr char kCompute[] = "8 x compute, with tesla_fsd_hw3 in place of the unpublished AI4";
  constexpr char kMemory[] = "8 x, like compute; the 9 x that are claimed are for all memory";
  constexpr char kMixed[] = "mixed precision is claimed: half the rate of int8";
  Cited chip("ai5_assumed", tesla_fsd_hw3());
  chip.assume_all("as tesla_fsd_hw3, AI4 being unpublished: ");
  set_energy_of_int8(chip, k7nm);
  return chip.set("array.count", 16, kCompute, kAssumed)
      .set("array.cycles_per_mac.f16", 2, kMixed, kAssumed)
      .set("array.cycles_per_mac.bf16", 2, kMixed, kAssumed)
      .set("vector.lanes", 16 * 96, kCompute, kAssumed)
      .set("vector.cycles_per_function", 2, "native softmax is claimed", kAssumed)
      .set("buffer.a.kib", 8 * 32 * 1024, kMemory, kAssumed)
      .set("buffer.a.banks", 16, "one path for each array", kAssumed)
      .set("buffer.b.kib", 8 * 32 * 1024, kMemory, kAssumed)
      .set("buffer.b.banks", 16, "one path for each array", kAssumed)
      .set("buffer.c.kib", 8 * 144, kCompute, kAssumed)
      .set("dram.gb_per_s", 340, "5 x bandwidth, with tesla_fsd_hw3 in place of AI4", kAssumed)
      .set("energy.mac_f16_pj", 0.3, "fp16 mult 1.1 + fp32 add 0.9 pJ (Horowitz, 45 nm), x 0.15",
           kAssumed);
}

inline Chip ai5_assumed_dual() {
  return Cited("ai5_assumed_dual", ai5_assumed())
      .set("dies", 2, "a package of two dies is rumoured", kAssumed)
      .set("link.gb_per_s", 1000, "three times the die's memory bandwidth", kAssumed)
      .set("link.latency_ns", 10, "neighbours in a package", kAssumed)
      .set("energy.link_pj_per_byte", 4, "0.5 pJ a bit, usual for dies side by side", kAssumed);
}

inline constexpr Preset kAll[] = {
    {"tpu_v1",
     "Google's first TPU, one die. Activations come from DRAM, where the chip has them from the "
     "host; nothing fixes the order of instructions.",
     tpu_v1},
    {"eyeriss",
     "MIT's Eyeriss in 65 nm. Convolutions are row stationary; products, for which the chip has no "
     "dataflow, take one of the usual ones. Compression and zero gating are left out.",
     eyeriss},
    {"gemmini16",
     "Berkeley's Gemmini as configured by default. The scratchpad, one memory, is described as two "
     "halves.",
     gemmini16},
    {"nvdla_small",
     "NVIDIA's NVDLA, nv_small, with the memory of its RTL's test bench. The convolution buffer, "
     "one memory, is described as two halves; for products, its adder trees as an 8 x 8 array.",
     nvdla_small},
    {"tesla_fsd_hw3",
     "The two NPUs of Tesla's FSD chip. Their SRAMs, one memory each, are described as halves of "
     "one for both NPUs; CPUs and GPU are left out.",
     tesla_fsd_hw3},
    {"dojo_d1",
     "Tesla's D1 die: 354 nodes as 354 arrays. Node memories are added up and split; the mesh "
     "between nodes, 512 GB/s in each direction, is left out.",
     dojo_d1},
    {"simba36",
     "NVIDIA's Simba, 36 chiplets as one die of 576 arrays. Lost: the two meshes, within and "
     "between chiplets, and that remote chiplets are slower.",
     simba36},
    {"ai5_assumed",
     "What Tesla's AI5 could be, from claims relative to an unpublished AI4. Every number is an "
     "assumption.",
     ai5_assumed},
    {"ai5_assumed_dual", "Two dies of ai5_assumed. Every number is an assumption.",
     ai5_assumed_dual},
};

}  // namespace preset_data

/// All presets.
inline std::span<const Preset> presets() { return preset_data::kAll; }

/// The chip of that name, or an Error that lists the names.
inline Result<Chip> preset(std::string_view name) {
  std::string names;
  for (const Preset& p : presets()) {
    if (p.name == name) return p.chip();
    names.append(names.empty() ? "" : ", ").append(p.name);
  }
  return Error::make(Code::bad_value, "no preset is called %.*s; there are %s",
                     static_cast<int>(name.size() < 40 ? name.size() : 40), name.data(),
                     names.c_str());
}

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
