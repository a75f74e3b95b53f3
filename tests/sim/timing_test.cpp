#include "quern/sim/timing.hpp"

#include <cstring>
#include <vector>

#include "quern/sim/gemm.hpp"
#include "small_chip.hpp"
#include "support.hpp"

using namespace quern;
using support::small_chip;

namespace {

struct Case {
  sim::Chip chip;
  GemmProblem problem;
  Index m;
};

Case random_case(std::uint64_t seed) {
  testing::Random random(seed);
  Case c{small_chip(random), {}, random.between(1, 120)};
  c.problem.n = random.between(1, 120);
  c.problem.k = random.between(1, 200);
  c.problem.batch = random.one_in(4) ? random.between(1, 3) : 1;
  c.problem.a = random.pick({DType::s8, DType::u8, DType::f32});
  c.problem.c = DType::f32;
  return c;
}

sim::Report report(const sim::Chip& chip, const Case& c, const sim::Trace& trace = {}) {
  auto r = sim::estimate(sim::Backend(chip), c.problem, c.m, 1, trace);
  INFO(r.error().what());
  REQUIRE(r);
  return *r;
}

}  // namespace

TEST_CASE("sim timing: cycles add up, and are at least what array and memory need") {
  for (std::uint64_t seed = 1; seed <= std::uint64_t(support::scaled(300)); ++seed) {
    const Case c = random_case(seed);
    CAPTURE(seed);
    const sim::Report r = report(c.chip, c);
    CHECK(r.cycles == r.start_up_cycles + r.compute_cycles + r.stall_cycles);
    CHECK(r.compute_cycles == r.load_cycles + r.stream_cycles + r.skew_cycles);
    Index stalls = 0;
    for (const Index s : r.stalls) {
      CHECK(s >= 0);
      stalls += s;
    }
    CHECK(stalls == r.stall_cycles);
    const double bytes = static_cast<double>(r.counts.dram_read_bytes + r.counts.dram_write_bytes);
    const double rate = c.chip.dram.gb_per_s * c.chip.dram.efficiency * 1e3 / c.chip.clock_mhz;
    CHECK(static_cast<double>(r.cycles) >= bytes / rate / static_cast<double>(c.chip.dies) - 1);
    CHECK(r.cycles >= r.dma_cycles);
    CHECK(r.cycles >= r.vector_cycles);
    CHECK(r.counts.macs == c.problem.batch * c.m * c.problem.n * c.problem.k);
    CHECK(r.utilization > 0);
    CHECK(r.utilization <= 1);
    CHECK(r.mapping_efficiency <= 1);
  }
}

TEST_CASE("sim timing: every operand is fetched, every result written, and once if it fits") {
  for (std::uint64_t seed = 1; seed <= std::uint64_t(support::scaled(200)); ++seed) {
    Case c = random_case(seed);
    c.problem.a = DType::s8;
    CAPTURE(seed);
    const Index a = c.problem.batch * c.m * c.problem.k,
                b = c.problem.batch * c.problem.k * c.problem.n,
                out = c.problem.batch * c.m * c.problem.n * 4;
    sim::Report r = report(c.chip, c);
    CHECK(r.counts.dram_read_bytes >= a + b);
    CHECK(r.counts.dram_write_bytes == out);
    for (sim::Buffer* buffer : {&c.chip.a, &c.chip.b, &c.chip.c}) buffer->kib = 1024;
    r = report(c.chip, c);
    const Index copies = r.mapping.split == sim::Mapping::Split::rows ? c.chip.dies : 1;
    CHECK(r.counts.dram_read_bytes <= a + b * copies);
    CHECK(r.counts.dram_read_bytes >= a + b);
  }
}

TEST_CASE("sim timing: faster parts and larger buffers never cost cycles") {
  for (std::uint64_t seed = 1; seed <= std::uint64_t(support::scaled(300)); ++seed) {
    const Case c = random_case(seed);
    CAPTURE(seed);
    const Index before = report(c.chip, c).cycles;
    const auto improve = [&](const char* what, auto change) {
      CAPTURE(what);
      sim::Chip better = c.chip;
      change(better);
      CHECK(report(better, c).cycles <= before);
    };
    improve("bandwidth", [](sim::Chip& x) { x.dram.gb_per_s *= 1.5; });
    improve("latency", [](sim::Chip& x) { x.dram.latency_ns *= 0.5; });
    improve("dma", [](sim::Chip& x) { x.dma.bytes_per_cycle *= 2; });
    improve("link", [](sim::Chip& x) { x.link.gb_per_s *= 2; });
    improve("lanes", [](sim::Chip& x) { x.vector.lanes *= 2; });
    improve("buffer a", [](sim::Chip& x) { x.a.kib *= 2; });
    improve("buffer b", [](sim::Chip& x) { x.b.kib *= 2; });
    improve("buffer c", [](sim::Chip& x) { x.c.kib *= 2; });
    improve("double buffering of a", [](sim::Chip& x) { x.a.double_buffered = true; });
    improve("double buffering of b", [](sim::Chip& x) { x.b.double_buffered = true; });
    improve("double buffering of c", [](sim::Chip& x) { x.c.double_buffered = true; });
    improve("ideal memory", [](sim::Chip& x) { x = with_ideal_memory(x); });
  }
}

TEST_CASE("sim timing: without memory limits only the array remains") {
  testing::Random random(5);
  for (int i = 0; i < 200; ++i) {
    sim::Chip chip = sim::with_ideal_memory(small_chip(random));
    chip.dies = 1;
    chip.array.start_up_cycles = 0;
    const Index m = random.between(1, 100), n = random.between(1, 100), k = random.between(1, 100);
    const auto r = sim::estimate(sim::Backend(chip), {.n = n, .k = k}, m).value();
    const Index ideal =
        sim::ideal_cycles(chip.array, r.mapping.dataflow, chip.array.cycles_per_mac.s8, {m, n, k});
    // Several arrays may be better balanced when the product is cut into tiles.
    CHECK(r.cycles <= ideal);
    if (chip.array.count == 1) CHECK(r.cycles == ideal);
    CHECK(r.stall_cycles == 0);
  }
}

TEST_CASE("sim timing: events are the units' work, in order and one at a time") {
  for (std::uint64_t seed = 1; seed <= std::uint64_t(support::scaled(60)); ++seed) {
    Case c = random_case(seed);
    c.chip.dies = 1;
    CAPTURE(seed);
    std::vector<sim::Event> events;
    const sim::Report r = report(c.chip, c, [&](const sim::Event& e) { events.push_back(e); });
    Index last_array = 0, last_vector = 0, busy = 0;
    for (const sim::Event& e : events) {
      CHECK(e.begin < e.end);
      CHECK(e.end <= r.cycles);
      if (e.unit == sim::Event::Unit::array) {
        CHECK(e.begin >= last_array);
        last_array = e.end;
        busy += e.end - e.begin;
      }
      if (e.unit == sim::Event::Unit::vector && std::string(e.what) == "epilogue") {
        CHECK(e.begin >= last_vector);
        last_vector = e.end;
      }
    }
    CHECK(busy <= r.compute_cycles);
  }
}

TEST_CASE("sim timing: recognizing a steady state changes nothing") {
  // A trace needs every event, so nothing is skipped.
  testing::Random random(99);
  for (Index i = 0; i < support::scaled(300); ++i) {
    const sim::Chip chip = small_chip(random);
    const GemmProblem problem{.n = random.between(1, 300),
                              .k = random.between(1, 300),
                              .batch = random.one_in(4) ? random.between(1, 3) : 1,
                              .a = random.pick({DType::s8, DType::f32}),
                              .c = DType::f32};
    using Mapping = sim::Mapping;
    Mapping mapping;
    mapping.dataflow = chip.array.dataflows.weight_stationary   ? sim::Dataflow::weight_stationary
                       : chip.array.dataflows.output_stationary ? sim::Dataflow::output_stationary
                                                                : sim::Dataflow::input_stationary;
    mapping.tile = {random.between(5, 60), random.between(5, 60), random.between(20, 200)};
    mapping.order = random.pick({Mapping::Order::rows_outer, Mapping::Order::columns_outer});
    mapping.split = random.pick({Mapping::Split::rows, Mapping::Split::columns});
    const sim::Backend backend(chip, {.mapping = mapping, .keep_activations = random.one_in(2)});
    const Index m = random.between(1, 300);
    const auto skipping = sim::estimate(backend, problem, m);
    if (!skipping) continue;  // the tile does not fit
    const auto walking = sim::estimate(backend, problem, m, 1, [](const sim::Event&) {});
    CAPTURE(i);
    CHECK(skipping->cycles == walking->cycles);
    CHECK(skipping->stalls == walking->stalls);
    CHECK(skipping->load_cycles == walking->load_cycles);
    CHECK(skipping->skew_cycles == walking->skew_cycles);
    CHECK(skipping->dma_cycles == walking->dma_cycles);
    CHECK(skipping->folds == walking->folds);
    CHECK(std::memcmp(&skipping->counts, &walking->counts, sizeof(sim::Counts)) == 0);
  }
}

TEST_CASE("sim timing: no product takes long to cost") {
  sim::Chip chip;
  chip.array.rows = chip.array.columns = 8;
  const sim::Backend backend(chip);
  const auto r =
      sim::estimate(backend, {.n = 100'000, .k = 100'000, .overflow = Overflow::wrap}, 100'000);
  REQUIRE(r);
  CHECK(r->counts.macs == Index{1'000'000'000'000'000});
  CHECK(r->utilization > 0.9);
  const auto longer = sim::estimate(
      backend, {.n = 100'000'000, .k = 100'000'000, .overflow = Overflow::wrap}, 100'000'000);
  CHECK(longer.error().code() == Code::bad_shape);
  sim::Chip slow = chip;
  slow.dram.gb_per_s = 0.001;
  slow.clock_mhz = 1e6;
  const auto too_long = sim::estimate(sim::Backend(slow), {.n = 1 << 20, .k = 1 << 15}, 1 << 20);
  CHECK(too_long.error().code() == Code::unsupported);
}
