// Chips nobody would build, on which small products need many tiles.
#pragma once

#include "quern/sim/chip.hpp"
#include "quern/testing/random.hpp"

namespace support {

/// Any chip that multiplies every type: small arrays, small buffers, slow memory.
inline quern::sim::Chip small_chip(quern::testing::Random& random) {
  using quern::Index;
  using quern::sim::Buffer;
  quern::sim::Chip chip;
  chip.name = "small";
  chip.clock_mhz = random.pick({100.0, 1000.0, 2000.0});
  chip.dies = random.between(1, 2);
  quern::sim::Array& array = chip.array;
  array.rows = random.between(1, 20);
  array.columns = random.between(1, 20);
  array.count = random.pick<Index>({1, 1, 2, 7});
  array.dataflows = {random.one_in(2), random.one_in(2), random.one_in(2)};
  if (array.dataflows == quern::sim::Dataflows{false, false, false}) {
    array.dataflows.output_stationary = true;
  }
  if (random.one_in(2)) {
    array.fold_model = quern::sim::FoldModel::overlap;
    array.preload = random.one_in(2);
  }
  array.start_up_cycles = random.pick<Index>({0, 0, 100});
  array.cycles_per_mac = {1, random.between(1, 4), random.between(1, 4), random.between(1, 4)};
  for (Buffer* b : {&chip.a, &chip.b, &chip.c}) {
    b->kib = random.pick({2.0, 4.0, 16.0, 64.0});
    b->double_buffered = random.one_in(2);
    b->banks = random.between(1, 4);
    if (random.one_in(3)) b->bank_bytes_per_cycle = static_cast<double>(random.between(1, 32));
  }
  chip.vector.lanes = random.between(1, 32);
  chip.dma.engines = random.between(1, 4);
  if (random.one_in(3)) chip.dma.bytes_per_cycle = static_cast<double>(random.between(1, 32));
  chip.dram.gb_per_s = random.pick({0.5, 4.0, 32.0});
  chip.dram.efficiency = random.pick({1.0, 0.7});
  chip.dram.latency_ns = random.pick({0.0, 50.0, 400.0});
  chip.dram.burst_bytes = random.pick<Index>({1, 32, 64});
  chip.link.gb_per_s = random.pick({1.0, 50.0});
  return chip;
}

}  // namespace support
