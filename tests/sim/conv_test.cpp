// Convolutions on simulated chips: the reference's bits on any chip and mapping, and an account
// that a walk over every position of the image confirms.
#include "quern/sim/conv.hpp"

#include <cstring>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "quern/sim/gemm.hpp"
#include "quern/sim/presets.hpp"
#include "quern/testing/conformance_conv.hpp"
#include "small_chip.hpp"
#include "support.hpp"

using namespace quern;
using quern::testing::ConvCase;
using quern::testing::Random;
using support::small_chip;

static_assert(ConvBackend<sim::Backend>);

namespace {

/// A problem with its images, without values.
struct Layer {
  ConvProblem problem;
  Spatial in;
  Index images;

  Result<sim::Report> on(const sim::Backend& chip, const sim::Trace& trace = {}) const {
    return sim::estimate(chip, problem, in, images, trace);
  }
  Index outputs() const {
    const Spatial out = output_extent(problem, in);
    return images * out[0] * out[1] * out[2];
  }
};

Layer random_layer(Random& r, Index most = 40) {
  Layer l;
  ConvProblem& p = l.problem;
  const std::size_t first = r.pick<std::size_t>({0, 1, 1, 1, 2});
  const Index sizes[] = {most / 3, most, most * 4};
  l.in = {1, 1, 1};
  for (std::size_t d = first; d < 3; ++d) {
    l.in[d] = r.between(1, sizes[first]);
    p.kernel[d] = r.between(1, l.in[d] < 5 ? l.in[d] : 5);
    p.stride[d] = r.pick<Index>({1, 1, 2, 3, 7});
    p.dilation[d] = r.pick<Index>({1, 1, 1, 2, 3});
    p.pad_begin[d] = r.one_in(2) ? 0 : r.between(0, p.kernel[d]);
    p.pad_end[d] = r.between(0, (p.kernel[d] - 1) * p.dilation[d]);
    if (r.one_in(10)) p.pad_begin[d] += r.between(8, 12);
  }
  l.images = r.one_in(3) ? r.between(2, 9) : 1;
  p.groups = r.one_in(3) ? r.between(2, 6) : 1;
  p.in_channels = p.groups * (r.one_in(3) ? 1 : r.between(1, 40));
  p.out_channels = p.groups * (r.one_in(3) ? 1 : r.between(1, 40));
  p.a = DType::s8;
  return l;
}

sim::Mapping random_mapping(Random& r, const sim::Chip& chip, Index most_m) {
  sim::Mapping m;
  m.dataflow = chip.array.dataflows.weight_stationary   ? sim::Dataflow::weight_stationary
               : chip.array.dataflows.output_stationary ? sim::Dataflow::output_stationary
                                                        : sim::Dataflow::input_stationary;
  m.tile = {r.between(1, r.one_in(2) ? 40 : most_m), r.between(1, 40), r.between(1, 200)};
  m.order = r.pick({sim::Mapping::Order::rows_outer, sim::Mapping::Order::columns_outer});
  m.split = r.pick({sim::Mapping::Split::rows, sim::Mapping::Split::columns});
  m.results = r.pick<Index>({1, 4});
  m.lines = r.one_in(2);
  return m;
}

bool same_work(const sim::Report& x, const sim::Report& y) {
  return x.cycles == y.cycles && x.stalls == y.stalls && x.load_cycles == y.load_cycles &&
         x.stream_cycles == y.stream_cycles && x.skew_cycles == y.skew_cycles &&
         x.dma_cycles == y.dma_cycles && x.vector_cycles == y.vector_cycles && x.folds == y.folds &&
         std::memcmp(&x.counts, &y.counts, sizeof(sim::Counts)) == 0;
}

/// An element of a group's image.
using Element = std::tuple<Index, Index, Index, Index, Index>;

/// What rows [0, size) of a tile touch with terms [k, k + count).
std::set<Element> touched(const Layer& l, const sim::RowTiles& rows, Index tile, Index k,
                          Index count) {
  const ConvProblem& p = l.problem;
  const Spatial out = output_extent(p, l.in);
  std::set<Element> all;
  for (Index i = 0; i < rows.size(tile); ++i) {
    Index image = rows.row(tile, i);
    Spatial o = {};
    for (std::size_t d = 3; d-- > 0; image /= out[d]) o[d] = image % out[d];
    for (Index term = k; term < k + count; ++term) {
      const Index channel = term % p.group_inputs();
      Index tap = term / p.group_inputs();
      bool inside = true;
      Spatial at = {};
      for (std::size_t d = 3; d-- > 0; tap /= p.kernel[d]) {
        at[d] = o[d] * p.stride[d] + tap % p.kernel[d] * p.dilation[d] - p.pad_begin[d];
        inside &= at[d] >= 0 && at[d] < l.in[d];
      }
      if (inside) all.insert({image, at[0], at[1], at[2], channel});
    }
  }
  return all;
}

}  // namespace

TEST_CASE("sim conv: conforms on chips of every kind") {
  Random random(3);
  for (std::uint64_t i = 0; i < 12; ++i) {
    testing::ConformanceOptions options;
    options.seed = 1000 * i + 1;
    options.count = 25;
    options.threads = 2;
    options.exact_floats = false;
    const sim::Chip chip = small_chip(random);
    const testing::Report report = testing::conformance_conv(sim::Backend(chip), options);
    for (const std::string& line : report.failures) FAIL_CHECK(line);
  }
}

TEST_CASE("sim conv: conforms on every preset") {
  std::uint64_t seed = 1;
  for (const sim::Preset& preset : sim::presets()) {
    CAPTURE(std::string(preset.name));
    testing::ConformanceOptions options;
    options.seed = seed += 1000;
    options.count = 8;
    options.threads = 1;
    options.exact_floats = false;
    const sim::Backend chip(sim::preset(preset.name).value());
    const testing::Report report = testing::conformance_conv(chip, options);
    for (const std::string& line : report.failures) FAIL_CHECK(line);
  }
}

TEST_CASE("sim conv: values do not depend on the mapping, and output stationary floats are exact") {
  Random random(11);
  Index ran = 0;
  for (std::uint64_t seed = 1; seed <= std::uint64_t(support::scaled(300)); ++seed) {
    const ConvCase c(Random(seed), 60000, seed);
    const Index positions = c.positions(c.size());
    if (c.problem().transposed || positions * c.problem().out_channels == 0) continue;
    INFO(c.describe());
    sim::Chip chip = small_chip(random);
    if (!is_int8(c.problem().b)) {
      chip.array.dataflows = sim::Dataflows::only(sim::Dataflow::output_stationary);
    }
    for (sim::Buffer* b : {&chip.a, &chip.b, &chip.c}) b->kib = random.pick({8.0, 4096.0});
    const sim::Mapping mapping = random_mapping(random, chip, positions);
    auto op = prepare(sim::Backend(chip, {.mapping = mapping}), c.problem(), c.weights());
    if (!op) continue;  // its tile does not fit
    AlignedBuffer expected_memory = c.c_memory(), memory = c.c_memory();
    const ConvArgs expected = c.args(expected_memory.data(), c.size()),
                   args = c.args(memory.data(), c.size());
    const Workspace workspace(op->workspace_bytes(positions));
    const Error e = op->run(args, workspace);
    if (e.code() == Code::bad_value) continue;  // with that many rows it does not
    INFO(e.what());
    REQUIRE(e.code() == Code::ok);
    reference_conv(c.problem(), c.weights(), expected);
    CHECK(testing::difference(c.problem(), c.weights(), expected, args.c, expected_memory, memory,
                              true) == "");
    ++ran;
  }
  CHECK(ran > support::scaled(300) / 5);
}

TEST_CASE("sim conv: loads bring what tiles touch, lines once, and buffers hold it") {
  Random random(21);
  Index with_lines = 0, without = 0;
  for (Index i = 0; i < support::scaled(400); ++i) {
    Layer l = random_layer(random, 9);
    l.problem.in_channels = l.problem.groups * random.between(1, 3);
    l.problem.out_channels = l.problem.groups * random.between(1, 3);
    if (l.images > 3) l.images = 3;
    sim::Chip chip = small_chip(random);
    chip.a.kib = random.pick({0.05, 0.2, 0.5, 2.0, 16.0});
    sim::Mapping mapping = random_mapping(random, chip, l.outputs() + 1);
    mapping.tile.n = random.between(1, 3);
    const sim::Backend backend(chip, {.mapping = mapping});
    const sim::Work work = backend.work_of(l.problem, l.in, l.images, 4);
    const bool dense = l.problem.dilation == Spatial{1, 1, 1};
    CAPTURE(i);
    for (Index die = 0; die < chip.dies; ++die) {
      const sim::Tiling tiling(chip, work, mapping, die);
      if (!tiling.fits() || tiling.empty()) continue;
      const sim::RowTiles& rows = tiling.rows();
      std::set<Element> brought, everything;
      std::map<std::pair<Index, Index>, std::set<Element>> parts;  // of (tile, k), cached
      const auto part = [&](Index tile, Index k, Index count) -> const std::set<Element>& {
        auto [at, is_new] = parts.try_emplace({tile, k});
        if (is_new) at->second = touched(l, rows, tile, k, count);
        return at->second;
      };
      std::vector<Index> slots(sim::Tiling::kMostSlots, -1);  // tiles in them, of this pass
      std::vector<std::set<Element>> other(slots.size());     // what tiles of earlier passes need
      Index covered = 0, last = -1;
      tiling.lower([&](const sim::Instruction& x) {
        if (x.kind == sim::Instruction::Kind::multiply) covered += x.size.m * x.size.n * x.size.k;
        if (x.kind != sim::Instruction::Kind::load_a) return true;
        const std::set<Element>& needed = part(x.rows, x.k, x.size.k);
        const Index bytes = x.dram_bytes + x.link_bytes;  // an element is a byte
        everything.insert(needed.begin(), needed.end());
        if (!rows.lines()) {
          CHECK(bytes >= Index(needed.size()));
          CHECK(bytes <= x.size.m * x.size.k);
          const bool whole = x.size.k % l.problem.group_inputs() == 0 &&
                             (x.size.k == l.problem.group_inputs() || x.size.k == tiling.part().k);
          if (dense && whole) CHECK(bytes == Index(needed.size()));
          ++without;
          return true;
        }
        ++with_lines;
        if (x.rows <= last) {  // a new pass
          for (std::size_t s = 0; s < slots.size(); ++s) {
            if (slots[s] < 0) continue;
            other[s] = part(slots[s], 0, tiling.part().k);
            slots[s] = -1;
          }
          brought.clear();
        }
        last = x.rows;
        const std::size_t before = brought.size();
        brought.insert(needed.begin(), needed.end());
        if (dense) CHECK(bytes == Index(brought.size() - before));
        if (!dense) CHECK(bytes >= 0);
        slots[std::size_t(x.a)] = x.rows;
        other[std::size_t(x.a)].clear();
        // Every slot's tile may still be waiting for the array.
        std::set<Element> live;
        Index oldest = x.rows, held = 0;
        for (const Index tile : slots) {
          if (tile >= 0 && tile < oldest) oldest = tile;
        }
        for (Index tile = oldest; tile < rows.tiles(); ++tile) {
          for (const Element& e : part(tile, 0, tiling.part().k)) {
            if (brought.count(e) != 0) live.insert(e);
          }
        }
        std::set<Element> old;
        for (const auto& o : other) old.insert(o.begin(), o.end());
        held = Index(live.size() + old.size());
        if (dense) CHECK(held <= Index(chip.a.kib * 1024));
        return true;
      });
      CHECK(covered == work.batch * tiling.part().macs());
      if (dense && tiling.dram_bytes() > 0 && chip.dies == 1) {
        CHECK(Index(everything.size()) * work.batch == work.input_bytes());
      }
    }
  }
  CHECK(with_lines > support::scaled(500));
  CHECK(without > support::scaled(500));
}

TEST_CASE("sim conv: 1 x 1 with stride 1 is a product") {
  Random random(5);
  for (Index i = 0; i < support::scaled(60); ++i) {
    const sim::Backend chip(small_chip(random));
    Layer l = random_layer(random);
    l.problem = {.in_channels = random.between(1, 100),
                 .out_channels = random.between(1, 100),
                 .a = random.pick({DType::s8, DType::u8}),
                 .c = random.pick({DType::s32, DType::f32})};
    const auto conv = l.on(chip);
    const auto gemm = sim::estimate(chip,
                                    {.n = l.problem.out_channels,
                                     .k = l.problem.in_channels,
                                     .a = l.problem.a,
                                     .c = l.problem.c},
                                    l.outputs());
    REQUIRE(conv);
    REQUIRE(gemm);
    CHECK(same_work(*conv, *gemm));
    CHECK(conv->extent == gemm->extent);
    CHECK(conv->mapping == gemm->mapping);
    CHECK(conv->input_bytes == gemm->input_bytes);
    CHECK(conv->energy.pj == gemm->energy.pj);
  }
}

TEST_CASE("sim conv: cycles add up, and are at least what array and memory need") {
  Random random(6);
  for (Index i = 0; i < support::scaled(300); ++i) {
    const sim::Chip chip = small_chip(random);
    const Layer l = random_layer(random);
    CAPTURE(i);
    const auto r = l.on(sim::Backend(chip));
    INFO(r.error().what());
    REQUIRE(r);
    CHECK(r->cycles == r->start_up_cycles + r->compute_cycles + r->stall_cycles);
    CHECK(r->compute_cycles == r->load_cycles + r->stream_cycles + r->skew_cycles);
    Index stalls = 0;
    for (const Index s : r->stalls) {
      CHECK(s >= 0);
      stalls += s;
    }
    CHECK(stalls == r->stall_cycles);
    const Index macs = l.problem.groups * r->extent.macs();
    CHECK(r->counts.macs == macs);
    CHECK(r->counts.dram_write_bytes == l.outputs() * l.problem.out_channels * 4);
    const Index weights = l.problem.taps() * l.problem.group_inputs() * l.problem.out_channels;
    const bool dense = l.problem.dilation == Spatial{1, 1, 1};
    if (macs > 0 && dense) CHECK(r->counts.dram_read_bytes >= r->input_bytes + weights);
    const double bytes = double(r->counts.dram_read_bytes + r->counts.dram_write_bytes);
    const double rate = chip.dram.gb_per_s * chip.dram.efficiency * 1e3 / chip.clock_mhz;
    CHECK(double(r->cycles) >= bytes / rate / double(chip.dies) - 1);
    // Every fold streams for as many cycles as it has steps.
    const sim::Folds folds = sim::Folds::of(r->mapping.dataflow, r->extent);
    const double arrays = double(chip.array.count * chip.dies);
    const double least = double(l.problem.groups) * double(folds.count(chip.array)) *
                         double(folds.t * chip.array.cycles_per_mac.s8) / arrays;
    CHECK(double(r->stream_cycles) >= least - 1);
    CHECK(r->utilization <= 1);
    CHECK(r->mapping_efficiency <= 1);
  }
}

TEST_CASE("sim conv: an image that fits is fetched once") {
  Random random(8);
  for (Index i = 0; i < support::scaled(100); ++i) {
    sim::Chip chip = small_chip(random);
    chip.dies = 1;
    for (sim::Buffer* b : {&chip.a, &chip.b, &chip.c}) b->kib = 4096;
    Layer l = random_layer(random);
    l.problem.dilation = {1, 1, 1};
    CAPTURE(i);
    const auto r = l.on(sim::Backend(chip));
    REQUIRE(r);
    const Index weights = l.problem.taps() * l.problem.group_inputs() * l.problem.out_channels;
    if (l.outputs() == 0) continue;
    // Small tiles may be faster although their edges are fetched again; with lines they are not.
    if (r->mapping.lines) CHECK(r->counts.dram_read_bytes == r->input_bytes + weights);
    sim::Mapping lines = r->mapping;
    lines.lines = true;
    const auto again = l.on(sim::Backend(chip, {.mapping = lines}));
    if (!again) continue;
    CHECK(again->counts.dram_read_bytes == r->input_bytes + weights);
  }
}

TEST_CASE("sim conv: faster parts and larger buffers never cost cycles") {
  Random random(9);
  for (Index i = 0; i < support::scaled(100); ++i) {
    const sim::Chip chip = small_chip(random);
    const Layer l = random_layer(random);
    CAPTURE(i);
    const Index before = l.on(sim::Backend(chip)).value().cycles;
    const auto improve = [&](const char* what, auto change) {
      CAPTURE(what);
      sim::Chip better = chip;
      change(better);
      CHECK(l.on(sim::Backend(better)).value().cycles <= before);
    };
    improve("bandwidth", [](sim::Chip& x) { x.dram.gb_per_s *= 1.5; });
    improve("latency", [](sim::Chip& x) { x.dram.latency_ns *= 0.5; });
    improve("dma", [](sim::Chip& x) { x.dma.bytes_per_cycle *= 2; });
    improve("lanes", [](sim::Chip& x) { x.vector.lanes *= 2; });
    improve("buffer a", [](sim::Chip& x) { x.a.kib *= 2; });
    improve("buffer b", [](sim::Chip& x) { x.b.kib *= 2; });
    improve("buffer c", [](sim::Chip& x) { x.c.kib *= 2; });
    improve("double buffering", [](sim::Chip& x) { x.a.double_buffered = true; });
    improve("ideal memory", [](sim::Chip& x) { x = with_ideal_memory(x); });
  }
}

TEST_CASE("sim conv: recognizing a steady state changes nothing") {
  // A trace needs every event, so nothing is skipped.
  Random random(99);
  Index ran = 0;
  for (Index i = 0; i < support::scaled(400); ++i) {
    const sim::Chip chip = small_chip(random);
    Layer l = random_layer(random, 100);
    if (random.one_in(2)) l.images *= random.between(1, 20);
    const sim::Mapping mapping = random_mapping(random, chip, l.outputs() + 1);
    const sim::Backend backend(chip, {.mapping = mapping, .keep_activations = random.one_in(3)});
    CAPTURE(i);
    const auto skipping = l.on(backend);
    if (!skipping) continue;  // the tile does not fit
    const auto walking = l.on(backend, [](const sim::Event&) {});
    REQUIRE(walking);
    CHECK(same_work(*skipping, *walking));
    ++ran;
  }
  CHECK(ran > support::scaled(400) / 4);
}

TEST_CASE("sim conv: depthwise convolutions leave an array nearly empty") {
  const sim::Backend chip(sim::preset("tpu_v1").value());
  const Layer l{{.in_channels = 512,
                 .out_channels = 512,
                 .groups = 512,
                 .kernel = {1, 3, 3},
                 .pad_begin = {0, 1, 1},
                 .pad_end = {0, 1, 1}},
                {1, 14, 14},
                1};
  const sim::Report r = l.on(chip).value();
  CHECK(r.batch == 512);
  CHECK(r.extent == sim::Extent{196, 1, 9});
  CHECK(r.mapping_efficiency == doctest::Approx(9.0 / 65536));
  CHECK(r.folds == 512);
}

TEST_CASE("sim conv: dies share images, or the output of one") {
  Random random(31);
  for (Index i = 0; i < 40; ++i) {
    sim::Chip chip = small_chip(random);
    chip.dies = 2;
    const Layer l = random_layer(random);
    const auto r = l.on(sim::Backend(chip));
    REQUIRE(r);
    CHECK(r->counts.macs == l.problem.groups * r->extent.macs());
  }
}

TEST_CASE("sim conv: nothing to do takes no time") {
  const sim::Backend chip(sim::preset("gemmini16").value());
  const ConvProblem p{.in_channels = 3, .out_channels = 5, .kernel = {1, 3, 3}};
  CHECK(sim::estimate(chip, p, {1, 2, 9})->counts.macs == 0);  // the kernel does not fit
  CHECK(sim::estimate(chip, p, {1, 9, 9}, 0)->counts.macs == 0);
  CHECK(sim::estimate(chip, {.in_channels = 0, .out_channels = 5, .kernel = {1, 3, 3}}, {1, 9, 9})
            ->counts.dram_write_bytes == 49 * 5 * 4);
  CHECK(sim::estimate(chip, {.in_channels = 3, .out_channels = 0}, {1, 9, 9})
            ->counts.dram_write_bytes == 0);
}

TEST_CASE("sim conv: what is refused, with the reason") {
  sim::Chip chip;
  chip.name = "edge";
  const ConvProblem p{.in_channels = 3, .out_channels = 5, .kernel = {1, 3, 3}};
  const auto why = [&](const ConvProblem& q) { return supports(sim::Backend(chip), q); };
  CHECK(!why(p));
  ConvProblem q = p;
  q.a = q.b = q.c = DType::f32;
  CHECK(std::string(why(q).what()) == "conv: edge does not multiply f32 x f32");
  q = p;
  q.transposed = true;
  CHECK(why(q).code() == Code::unsupported);
  q = p;
  q.pad_end = {0, 0, 19};
  CHECK(std::string(why(q).what()) ==
        "conv: edge: 19 positions are padded; with this kernel, at most 18 are simulated");
  q = p;
  q.groups = 2;
  CHECK(why(q).code() == Code::bad_shape);
  const sim::Backend backend(chip);
  const auto code = [&](const Spatial& in, Index images) {
    return sim::estimate(backend, p, in, images).error().code();
  };
  constexpr Index kMost = Index{1} << 40;
  CHECK(code({1, -1, 9}, 1) == Code::bad_shape);
  CHECK(code({1, 9, 9}, -1) == Code::bad_shape);
  CHECK(code({1, 9, kMost + 1}, 1) == Code::bad_shape);
  CHECK(code({1, kMost, kMost}, 1) == Code::bad_shape);
  CHECK(code({1, 1 << 30, 1 << 29}, 1) == Code::bad_shape);  // more than 2^58 products
  q = p;
  q.stride = {1, 1 << 20, 1 << 20};
  CHECK(sim::estimate(backend, q, {1, kMost, 1 << 20}).error().code() == Code::bad_shape);
  const std::vector<std::int8_t> weights(135);
  CHECK(prepare(backend, p, FilterView::inputs_last(nullptr, p)).error().code() == Code::bad_data);
  FilterView wrong = FilterView::inputs_last(weights.data(), p);
  wrong.type = DType::u8;
  CHECK(prepare(backend, p, wrong).error().code() == Code::unsupported);
  chip.a.kib = 0.001;
  CHECK(why(p).code() == Code::unsupported);
}

TEST_CASE("sim conv: no layer takes long to cost") {
  for (const char* name : {"tpu_v1", "gemmini16", "simba36"}) {
    const sim::Backend chip(sim::preset(name).value());
    const ConvProblem p{.in_channels = 64,
                        .out_channels = 64,
                        .kernel = {1, 3, 3},
                        .pad_begin = {0, 1, 1},
                        .pad_end = {0, 1, 1}};
    const auto r = sim::estimate(chip, p, {1, 100'000, 100'000}, 3);
    REQUIRE(r);
    CHECK(r->counts.macs == Index{3} * 100'000 * 100'000 * 64 * 64 * 9);
  }
}
