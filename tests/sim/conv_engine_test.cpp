#include "quern/sim/conv_engine.hpp"

#include <algorithm>
#include <string>

#if __has_include(<toml++/toml.h>)
#include "quern/sim/chip_toml.hpp"
#endif

#include "quern/sim/conv.hpp"
#include "quern/sim/presets.hpp"
#include "quern/testing/random.hpp"
#include "support.hpp"

using namespace quern;
using sim::Chip;
using sim::ConvDataflow;
using sim::Report;

namespace {

/// A convolution of s8 in two dimensions with its images.
struct Layer {
  ConvProblem problem;
  Spatial in = {1, 1, 1};
  Index images = 1;

  Spatial out() const { return output_extent(problem, in); }
  double macs() const {
    const Spatial o = out();
    return static_cast<double>(images * o[0] * o[1] * o[2]) *
           static_cast<double>(problem.out_channels * problem.taps() * problem.group_inputs());
  }
};

Layer random_layer(testing::Random& random, Index most = 40) {
  Layer x;
  ConvProblem& p = x.problem;
  p.a = p.b = p.c = DType::s8;
  p.groups = random.pick<Index>({1, 1, 1, 2, 3});
  p.in_channels = p.groups * random.between(1, most);
  p.out_channels = p.groups * random.between(1, most);
  for (std::size_t d = 1; d < 3; ++d) {
    p.kernel[d] = random.between(1, 5);
    p.stride[d] = random.pick<Index>({1, 1, 2, 3});
    p.dilation[d] = random.pick<Index>({1, 1, 2});
    p.pad_begin[d] = random.between(0, 2);
    p.pad_end[d] = random.between(0, 2);
    x.in[d] = random.between(1, most);
  }
  x.images = random.between(1, 4);
  return x;
}

Chip chip_of(ConvDataflow d) {
  return sim::preset(d == ConvDataflow::row_stationary ? "eyeriss" : "nvdla_small").value();
}
constexpr ConvDataflow kEngines[] = {ConvDataflow::row_stationary, ConvDataflow::channel_atoms};

Report cost(const Chip& chip, const Layer& x) {
  const Result<Report> r = sim::account_conv(chip, x.problem, x.in, x.images);
  REQUIRE_MESSAGE(r, r.error().what());
  return *r;
}

/// The loops of NVDLA's sequence generator, package by package; weights take a kernel a cycle.
Index packages(const Chip& chip, const Layer& x) {
  const Index r = chip.array.rows, c = chip.array.columns;
  const Spatial o = x.out();
  Index cycles = 0;
  for (Index kernel = 0; kernel < x.problem.group_outputs(); kernel += c) {
    const Index positions = o[1] * o[2];
    for (Index first = 0, stripe; first < positions; first += stripe) {
      const Index left = positions - first;
      stripe = left >= 4 * c ? 2 * c : left <= 2 * c ? left : c;
      for (Index channel = 0; channel < x.problem.group_inputs(); channel += r) {
        cycles += x.problem.taps() * std::max(stripe, c);
      }
    }
  }
  return cycles * x.problem.groups * x.images;
}

}  // namespace

TEST_CASE("sim::account_conv: parts add up, and no array beats its peak") {
  testing::Random random(1);
  for (Index i = 0; i < support::scaled(400); ++i) {
    const Layer x = random_layer(random);
    for (const ConvDataflow d : kEngines) {
      CAPTURE(i);
      CAPTURE(name(d));
      const Chip chip = chip_of(d);
      const Report r = cost(chip, x);
      CHECK(r.cycles == r.start_up_cycles + r.compute_cycles + r.stall_cycles);
      CHECK(r.compute_cycles == r.load_cycles + r.stream_cycles);
      Index stalls = 0;
      for (const Index s : r.stalls) stalls += s;
      CHECK(stalls == r.stall_cycles);
      const double peak = static_cast<double>(chip.array.rows * chip.array.columns);
      CHECK(static_cast<double>(r.counts.macs) == x.macs());
      CHECK(static_cast<double>(r.stream_cycles) * peak >= x.macs());
      CHECK(r.mapping_efficiency <= 1);
      CHECK(r.utilization <= r.mapping_efficiency + 1e-12);
      CHECK(r.cycles >= r.dma_cycles - r.counts.dram_write_bytes);  // stores are posted
      if (x.macs() == 0) CHECK(r.cycles == 0);
    }
  }
}

TEST_CASE("sim::account_conv: g groups cost g times one") {
  testing::Random random(2);
  for (Index i = 0; i < support::scaled(100); ++i) {
    Layer x = random_layer(random);
    x.problem.in_channels = x.problem.group_inputs();
    x.problem.out_channels = x.problem.group_outputs();
    x.problem.groups = 1;
    Layer many = x;
    many.problem.groups = 4;
    many.problem.in_channels *= 4;
    many.problem.out_channels *= 4;
    for (const ConvDataflow d : kEngines) {
      CAPTURE(i);
      CAPTURE(name(d));
      const Report one = cost(chip_of(d), x), four = cost(chip_of(d), many);
      CHECK(four.stream_cycles == 4 * one.stream_cycles);
      CHECK(four.load_cycles == 4 * one.load_cycles);
      CHECK(four.counts.macs == 4 * one.counts.macs);
      CHECK(four.counts.dram_read_bytes == 4 * one.counts.dram_read_bytes);
      CHECK(four.cycles <= 4 * one.cycles);
    }
  }
}

TEST_CASE("sim::account_conv: a larger layer never takes fewer cycles on channel atoms") {
  testing::Random random(3);
  const Chip small = chip_of(ConvDataflow::channel_atoms);
  Chip large = small;
  large.a.kib = 1 << 20;
  for (Index i = 0; i < support::scaled(400); ++i) {
    const Layer x = random_layer(random, random.one_in(4) ? 100 : 40);
    CAPTURE(i);
    const auto larger = [&](auto&& change) {
      Layer y = x;
      change(y);
      CHECK(cost(large, y).cycles >= cost(large, x).cycles);
      // Less room for weights lets the input come sooner, for it shares the memory interface.
      CHECK(1.01 * static_cast<double>(cost(small, y).cycles) >=
            static_cast<double>(cost(small, x).cycles));
    };
    larger([](Layer& y) { ++y.images; });
    larger([](Layer& y) { ++y.in[1]; });
    larger([](Layer& y) { ++y.in[2]; });
    larger([](Layer& y) { y.problem.in_channels += y.problem.groups; });
    larger([](Layer& y) { y.problem.out_channels += y.problem.groups; });
  }
}

// The mapping is not the fastest, but within a tenth of it.
TEST_CASE("sim::account_conv: twice the layer never takes less on row stationary, within a tenth") {
  testing::Random random(4);
  const Chip chip = chip_of(ConvDataflow::row_stationary);
  for (Index i = 0; i < support::scaled(200); ++i) {
    const Layer x = random_layer(random);
    const Index cycles = cost(chip, x).cycles;
    CAPTURE(i);
    const auto larger = [&](auto&& change) {
      Layer y = x;
      change(y);
      CHECK(1.1 * static_cast<double>(cost(chip, y).cycles) >= static_cast<double>(cycles));
    };
    larger([](Layer& y) { y.images *= 2; });
    larger([](Layer& y) { y.in[1] *= 2; });
    larger([](Layer& y) { y.in[2] *= 2; });
    larger([](Layer& y) { y.problem.in_channels *= 2; });
    larger([](Layer& y) { y.problem.out_channels *= 2; });
  }
}

TEST_CASE("sim::account_conv: without memory limits channel atoms take NVDLA's packages") {
  testing::Random random(5);
  Chip chip = chip_of(ConvDataflow::channel_atoms);
  chip = sim::with_ideal_memory(chip);
  chip.array.start_up_cycles = 0;
  chip.array.conv.result_cycles = 1;
  chip.array.conv.result_latency = 0;
  for (Index i = 0; i < support::scaled(300); ++i) {
    chip.array.rows = random.pick<Index>({1, 8, 16});
    chip.array.columns = random.pick<Index>({1, 8, 16});
    const Layer x = random_layer(random);
    CAPTURE(i);
    const Report r = cost(chip, x);
    CHECK(r.compute_cycles == packages(chip, x));
    CHECK(r.cycles == r.compute_cycles);
  }
}

TEST_CASE("sim::account_conv: channel atoms read and write whole atoms, each once, if all fits") {
  testing::Random random(6);
  const Chip chip = chip_of(ConvDataflow::channel_atoms);
  for (Index i = 0; i < support::scaled(200); ++i) {
    Layer x = random_layer(random, 24);
    x.problem.groups = 1;
    x.problem.stride = {1, 1, 1};
    const Spatial o = x.out();
    if (x.macs() == 0 || o[1] < x.in[1]) continue;  // all lines are needed then
    CAPTURE(i);
    const auto up = [](Index v) { return round_up(v, 8); };
    const ConvProblem& p = x.problem;
    const Report r = cost(chip, x);
    CHECK(r.counts.buffer_a_write_bytes == x.images * x.in[1] * x.in[2] * up(p.in_channels));
    CHECK(r.counts.buffer_b_write_bytes ==
          x.images * round_up(p.out_channels * p.in_channels * p.taps(), 128));
    CHECK(r.counts.dram_write_bytes == x.images * o[1] * o[2] * up(p.out_channels));
  }
}

TEST_CASE(
    "sim::account_conv: input that does not fit is cut into strips, whose edges are read twice") {
  Chip chip = chip_of(ConvDataflow::channel_atoms);
  Layer x;
  x.problem = {.in_channels = 64, .out_channels = 16, .kernel = {1, 3, 3}, .a = DType::s8};
  x.problem.c = DType::s8;
  x.in = {1, 100, 50};  // 312 KiB
  const Report small = cost(chip, x);
  chip.a.kib = 1024;
  const Report large = cost(chip, x);
  CHECK(large.counts.buffer_a_write_bytes == 100 * 50 * 64);
  CHECK(small.counts.buffer_a_write_bytes > large.counts.buffer_a_write_bytes);
  CHECK((small.counts.buffer_a_write_bytes - large.counts.buffer_a_write_bytes) % (2 * 50 * 64) ==
        0);
  CHECK(small.cycles > large.cycles);
  CHECK(small.stream_cycles == large.stream_cycles);

  x.problem.in_channels = 8192;
  const Error e =
      sim::account_conv(chip_of(ConvDataflow::channel_atoms), x.problem, x.in, 1).error();
  CHECK(e.code() == Code::unsupported);
  CHECK(support::says(e, "one row of outputs needs 1228800 bytes of input and 589824 of weights"));
  CHECK(support::says(e, "the convolution buffer has 131072 in 32 banks"));
}

TEST_CASE("sim::account_conv: results that cannot leave hold channel atoms up") {
  const Chip chip = chip_of(ConvDataflow::channel_atoms);
  Layer x;  // one package for each stripe of 16 positions, whose results take 9 x 16 + 42 cycles
  x.problem = {.in_channels = 8, .out_channels = 8, .a = DType::s8};
  x.problem.c = DType::s8;
  x.in = {1, 40, 40};
  const Report r = cost(chip, x);
  CHECK(r.stream_cycles == 1600);
  CHECK(r.stalls[static_cast<std::size_t>(sim::Stall::vector)] == 99 * (186 - 16) + 8 * 16);
}

TEST_CASE(
    "sim::account_conv: row stationary cuts kernels and lines that are larger than the array") {
  Chip chip = chip_of(ConvDataflow::row_stationary);
  Layer x;
  x.problem = {.in_channels = 2, .out_channels = 3, .kernel = {1, 31, 29}, .a = DType::s8};
  x.problem.c = DType::s8;
  x.in = {1, 40, 3000};
  const Report r = cost(chip, x);
  CHECK(static_cast<double>(r.stream_cycles) * 168 >= x.macs());
  CHECK(static_cast<double>(r.stream_cycles) * 168 < 4 * x.macs());

  chip.a.kib = chip.c.kib = 0.001;
  const Error e = sim::account_conv(chip, x.problem, x.in, 1).error();
  CHECK(e.code() == Code::unsupported);
  CHECK(support::says(e, "the buffers a and c (0.002 KiB in 25 banks) cannot hold the input and"));
}

TEST_CASE("sim::account_conv: buses that are too narrow hold row stationary up") {
  Layer x;
  x.problem = {.in_channels = 64, .out_channels = 64, .kernel = {1, 3, 3}, .a = DType::s8};
  x.problem.c = DType::s8;
  x.in = {1, 28, 28};
  Index before = 0;
  for (const Index words : {16, 4, 1}) {
    Chip chip = chip_of(ConvDataflow::row_stationary);
    chip.array.conv.sum_words_per_cycle = words;
    chip.array.conv.input_words_per_cycle = words;
    chip.array.conv.weight_words_per_cycle = words;
    const Index cycles = cost(chip, x).cycles;
    CHECK(cycles > before);
    before = cycles;
  }
}

TEST_CASE(
    "sim::account_conv: three dimensions and transposed convolutions count all their products") {
  for (const ConvDataflow d : kEngines) {
    Layer x;
    x.problem = {.in_channels = 16, .out_channels = 16, .kernel = {2, 3, 3}, .a = DType::s8};
    x.problem.c = DType::s8;
    x.in = {5, 9, 9};
    CHECK(static_cast<double>(cost(chip_of(d), x).counts.macs) == x.macs());
    x.problem.transposed = true;
    x.problem.stride = {1, 2, 2};
    const Report r = cost(chip_of(d), x);
    const Spatial o = x.out();
    CHECK(o[1] == 19);
    CHECK(static_cast<double>(r.counts.macs) == x.macs());
  }
}

TEST_CASE("sim::account_conv: too much of anything is refused, nothing costs nothing") {
  for (const ConvDataflow d : kEngines) {
    Layer x;
    x.problem = {.in_channels = 1 << 20, .out_channels = 1 << 20, .a = DType::s8};
    const Chip chip = chip_of(d);
    const auto refusal = [&](const Spatial& in, Index images) {
      return sim::account_conv(chip, x.problem, in, images).error();
    };
    CHECK(support::says(refusal({1, 1 << 20, 1 << 20}, 1), "more than 2^52 products"));
    CHECK(support::says(refusal({1, -1, 1}, 1), "none can be negative"));
    CHECK(support::says(refusal({1, 1, 1}, -1), "none can be negative"));
    x.problem.in_channels = 0;
    x.in = {1, 8, 8};
    CHECK(cost(chip, x).cycles == 0);
    x.problem.in_channels = 8;
    x.images = 0;
    CHECK(cost(chip, x).cycles == 0);
  }
}

TEST_CASE("sim::validate: engines are described for one array on one die") {
  Chip chip;
  chip.array.conv.dataflow = ConvDataflow::channel_atoms;
  CHECK_FALSE(sim::validate(chip));
  CHECK(sim::has_conv_engine(chip));
  CHECK_FALSE(sim::has_conv_engine(Chip{}));
  chip.array.count = 3;
  CHECK(support::says(sim::validate(chip),
                      "array.conv.dataflow = \"channel_atoms\" needs one array on one die, not 3 "
                      "on each of 1"));
}

TEST_CASE("sim::estimate: a convolution is costed on the engine, unless a mapping is given") {
  const Layer x{
      {.in_channels = 16, .out_channels = 16, .kernel = {1, 3, 3}, .a = DType::s8}, {1, 12, 12}, 2};
  for (const ConvDataflow d : kEngines) {
    const Chip chip = chip_of(d);
    const Report r = sim::estimate(sim::Backend(chip), x.problem, x.in, x.images).value();
    CHECK(r.cycles == cost(chip, x).cycles);
    const sim::Mapping by_hand = {.tile = {16, 8, 8}};
    const auto product =
        sim::estimate(sim::Backend(chip, {.mapping = by_hand}), x.problem, x.in, x.images);
    REQUIRE(product);
    CHECK(product->mapping == by_hand);
    CHECK(product->counts.macs == r.counts.macs);
  }
}

TEST_CASE("sim::account_conv: no layer takes long to cost") {
  for (const ConvDataflow d : kEngines) {
    Layer x;
    x.problem = {.in_channels = 1, .out_channels = 1 << 20, .kernel = {1, 3, 3}, .a = DType::s8};
    x.in = {1, 3, 1 << 10};
    x.images = 1 << 10;
    CHECK(static_cast<double>(cost(chip_of(d), x).counts.macs) == x.macs());
    x.problem.out_channels = 8;
    x.in = {1, 1 << 20, 1 << 10};
    CHECK(static_cast<double>(cost(chip_of(d), x).counts.macs) == x.macs());
  }
}

#if __has_include(<toml++/toml.h>)
TEST_CASE("sim::chip_from_toml: a convolution engine is described as everything else") {
  const Chip chip = sim::chip_from_toml(R"(
[array]
rows = 8
columns = 8
[array.conv]
dataflow = "channel_atoms"
result_cycles = 9
)")
                        .value();
  CHECK(chip.array.conv.dataflow == ConvDataflow::channel_atoms);
  CHECK(chip.array.conv.result_cycles == 9);
  for (const ConvDataflow d : kEngines) {
    CHECK(sim::chip_from_toml(sim::to_toml(chip_of(d))).value().array == chip_of(d).array);
  }
  const auto refusal = [](const char* text) { return sim::chip_from_toml(text, "c").error(); };
  CHECK(support::says(refusal("array.conv.dataflow = \"rows\""),
                      "c:1:23: array.conv.dataflow is \"rows\"; it must be \"product\", "
                      "\"row_stationary\" or \"channel_atoms\""));
  CHECK(support::says(refusal("array.conv.result_cycles = 0"), "it must be at least 1"));
  CHECK(
      support::says(refusal("array.conv.input_word = 3"), "did you mean array.conv.input_words?"));
  CHECK(support::says(refusal("dies = 2\narray.conv.dataflow = \"channel_atoms\""),
                      "c:2:23: chip unnamed: array.conv.dataflow = \"channel_atoms\" needs one "
                      "array on one die"));
}
#endif
