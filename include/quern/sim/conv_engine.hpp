// Convolution on chips whose array has a way of its own to convolve (array.conv.dataflow): what it
// costs. Values do not depend on it.
#pragma once

#include "quern/sim/conv_channel_atoms.hpp"
#include "quern/sim/conv_row_stationary.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

inline bool has_conv_engine(const Chip& chip) {
  return chip.array.conv.dataflow != ConvDataflow::product;
}

/// Cycles and bytes. `chip` is valid and has an engine.
inline Result<ConvCost> conv_cost(const Chip& chip, const ConvShape& shape) {
  ConvCost cost;
  if (shape.empty()) return cost;
  const bool rows = chip.array.conv.dataflow == ConvDataflow::row_stationary;
  const Error e = rows ? detail::RowStationary(chip, shape).measure(&cost)
                       : detail::ChannelAtoms(chip, shape).measure(&cost);
  if (e) return e;
  return cost;
}

/// The whole account of a convolution on such a chip. Chip and problem are valid, the types are
/// among those that the array multiplies.
inline Result<Report> account_conv(const Chip& chip, const ConvProblem& p, const Spatial& in,
                                   Index batch, Index residual_bytes = 4) {
  const Result<ConvShape> shape = ConvShape::of(p, in, batch, residual_bytes);
  if (!shape) return shape.error();
  const Result<ConvCost> measured = conv_cost(chip, *shape);
  if (!measured) return measured.error();
  const ConvCost& cost = *measured;
  // As kMostCycles; counts below are within bytes of it.
  if (cost.cycles() > 1e17) {
    return Error::make(Code::unsupported, "chip %.40s: the convolution takes more than 1e17 cycles",
                       chip.name.c_str());
  }
  const auto whole = [](double x) { return static_cast<Index>(std::ceil(x)); };
  const auto stall = [](Stall s) { return static_cast<std::size_t>(s); };
  const bool empty = shape->empty();
  Report r;
  r.chip = chip.name;
  r.extent = {shape->images * shape->positions(), shape->filters, shape->channels * shape->taps()};
  r.batch = shape->groups;
  r.input_bytes = batch * in[0] * in[1] * in[2] * p.in_channels * size_of(p.a);
  r.a = p.a;
  r.b = p.b;
  r.c = p.c;
  r.mapping.dataflow = Dataflow::weight_stationary;
  r.mapping.tile = cost.tile;

  r.start_up_cycles = whole(cost.start_up);
  r.load_cycles = whole(cost.load);
  r.stream_cycles = whole(cost.stream);
  r.compute_cycles = r.load_cycles + r.stream_cycles;
  r.stalls[stall(Stall::dram_a)] = whole(cost.input_stall);
  r.stalls[stall(Stall::dram_b)] = whole(cost.weight_stall);
  r.stalls[stall(Stall::buffer)] = whole(cost.bus_stall);
  r.stalls[stall(Stall::vector)] = whole(cost.result_stall);
  for (const Index s : r.stalls) r.stall_cycles += s;
  r.cycles = r.start_up_cycles + r.compute_cycles + r.stall_cycles;
  r.dma_cycles = whole(cost.dma);
  r.vector_cycles = whole(cost.vector);

  const double outputs = shape->macs() / static_cast<double>(empty ? 1 : r.extent.k);
  Index steps = p.c == DType::s32 ? 0 : 1;
  for (Index i = 0; i < p.epilogue.count; ++i) ++steps;
  Counts& c = r.counts;
  c.macs = c.register_a = c.register_b = c.register_c = whole(shape->macs());
  c.buffer_a_write_bytes = whole(cost.input_bytes);
  c.buffer_b_write_bytes = whole(cost.weight_bytes);
  c.buffer_a_read_bytes = whole(cost.a_reads);
  c.buffer_b_read_bytes = whole(cost.b_reads);
  c.buffer_c_read_bytes = whole(cost.c_reads);
  c.buffer_c_write_bytes = whole(cost.c_writes);
  c.dram_read_bytes = c.buffer_a_write_bytes + c.buffer_b_write_bytes;
  c.dram_write_bytes = whole(cost.output_bytes);
  c.vector_steps = whole(outputs) * steps;

  const double elements = static_cast<double>(chip.array.rows * chip.array.columns);
  const double products = shape->macs() * static_cast<double>(cycles_per_mac(chip.array, p.a, p.b));
  r.folds = whole(cost.folds);
  if (cost.places > 0) r.mapping_efficiency = products / cost.places;
  if (r.cycles != 0) r.utilization = products / (static_cast<double>(r.cycles) * elements);
  r.seconds = static_cast<double>(r.cycles) / (chip.clock_mhz * 1e6);
  const Energy& e = chip.energy;
  r.energy = energy_of(c, e,
                       is_int8(p.b)                      ? e.mac_s8_pj
                       : p.a != DType::f32 && p.a == p.b ? e.mac_f16_pj
                                                         : e.mac_f32_pj,
                       r.seconds);
  return r;
}

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
