#include "quern/sim/gemm.hpp"

#include <cmath>
#include <vector>

#include "quern/cpu/gemm.hpp"
#include "quern/testing/conformance.hpp"
#include "small_chip.hpp"
#include "support.hpp"

using namespace quern;
using support::small_chip;

static_assert(GemmBackend<sim::Backend>);

TEST_CASE("sim gemm: conforms on chips of every kind") {
  testing::Random random(3);
  for (std::uint64_t i = 0; i < 12; ++i) {
    testing::ConformanceOptions options;
    options.seed = 1000 * i + 1;
    options.count = support::scaled(25);
    options.threads = 2;
    options.exact_floats = false;
    const sim::Chip chip = small_chip(random);
    const testing::Report report = testing::conformance_gemm(sim::Backend(chip), options);
    for (const std::string& line : report.failures) FAIL_CHECK(line);
  }
}

TEST_CASE("sim gemm: values do not depend on the mapping") {
  testing::Random random(11);
  for (std::uint64_t seed = 1; seed <= std::uint64_t(support::scaled(100)); ++seed) {
    const testing::GemmCase c(testing::Random(seed), 100000, seed);
    if (!is_int8(c.problem().b) || c.rows() == 0) continue;
    CAPTURE(seed);
    sim::Chip chip = small_chip(random);
    for (sim::Buffer* b : {&chip.a, &chip.b, &chip.c}) b->kib = 4096;
    AlignedBuffer expected_memory = c.c_memory(), memory = c.c_memory();
    const GemmArgs expected = c.args(expected_memory.data(), c.rows());
    reference_gemm(c.problem(), c.weights(), expected);
    sim::Options options;
    options.mapping.emplace();
    options.mapping->dataflow =
        chip.array.dataflows.weight_stationary   ? sim::Dataflow::weight_stationary
        : chip.array.dataflows.output_stationary ? sim::Dataflow::output_stationary
                                                 : sim::Dataflow::input_stationary;
    options.mapping->tile = {random.between(1, 40), random.between(1, 40), random.between(1, 40)};
    options.mapping->order =
        random.pick({sim::Mapping::Order::rows_outer, sim::Mapping::Order::columns_outer});
    options.mapping->split = random.pick({sim::Mapping::Split::rows, sim::Mapping::Split::columns});
    auto op = prepare(sim::Backend(chip, options), c.problem(), c.weights());
    INFO(op.error().what());
    REQUIRE(op);
    const GemmArgs args = c.args(memory.data(), c.rows());
    const Workspace workspace(op->workspace_bytes(c.rows() * args.a.batch));
    CHECK(op->run(args, workspace).code() == Code::ok);
    CHECK(testing::difference(c.problem(), c.weights(), expected, args.c, expected_memory, memory,
                              true) == "");
  }
}

TEST_CASE("sim gemm: floats accumulate in the machine's order") {
  testing::Random random(4);
  const Index m = 5, n = 7, k = 23;
  for (const DType type : {DType::f32, DType::bf16}) {
    std::vector<float> a, b;
    const auto value = [&] {
      const float x = random.uniform(-3.0f, 3.0f);
      return type == DType::bf16 ? to_float(to_bf16(x)) : x;
    };
    for (Index i = 0; i < m * k; ++i) a.push_back(value());
    for (Index i = 0; i < k * n; ++i) b.push_back(value());
    std::vector<bf16> narrow_a, narrow_b;
    for (const float x : a) narrow_a.push_back(to_bf16(x));
    for (const float x : b) narrow_b.push_back(to_bf16(x));
    const bool narrow = type == DType::bf16;
    const ConstMatrixView av(narrow ? static_cast<const void*>(narrow_a.data()) : a.data(), type, m,
                             k),
        bv(narrow ? static_cast<const void*>(narrow_b.data()) : b.data(), type, k, n);
    for (const sim::Dataflow d :
         {sim::Dataflow::weight_stationary, sim::Dataflow::output_stationary,
          sim::Dataflow::input_stationary}) {
      sim::Chip chip;
      chip.array.rows = 4;
      chip.array.columns = 3;
      chip.array.dataflows = sim::Dataflows::only(d);
      chip.array.cycles_per_mac = {1, 1, 1, 1};
      std::vector<float> c(static_cast<std::size_t>(m * n));
      auto op =
          prepare(sim::Backend(chip), {.n = n, .k = k, .a = type, .b = type, .c = DType::f32}, bv);
      REQUIRE(op);
      const Workspace workspace(op->workspace_bytes(m));
      REQUIRE(!op->run({.a = av, .c = {c.data(), DType::f32, m, n}}, workspace));
      const Index fold = d == sim::Dataflow::output_stationary ? k : 4;
      for (Index i = 0; i < m; ++i) {
        for (Index j = 0; j < n; ++j) {
          float sum = 0;
          for (Index k0 = 0; k0 < k; k0 += fold) {
            float part = 0;
            for (Index x = k0; x < std::min(k0 + fold, k); ++x) {
              part = std::fma(a[std::size_t(i * k + x)], b[std::size_t(x * n + j)], part);
            }
            sum = k0 == 0 ? part : sum + part;
          }
          CHECK(c[std::size_t(i * n + j)] == sum);
        }
      }
    }
  }
}

TEST_CASE("sim gemm: types and chips that are refused, with the reason") {
  sim::Chip chip;
  chip.name = "edge";
  const auto why = [&](const GemmProblem& p) { return supports(sim::Backend(chip), p); };
  CHECK(!why({.n = 3, .k = 3}));
  CHECK(std::string(
            why({.n = 3, .k = 3, .a = DType::bf16, .b = DType::bf16, .c = DType::f32}).what()) ==
        "gemm: edge does not multiply bf16 x bf16");
  CHECK(why({.n = -1, .k = 3}).code() == Code::bad_shape);
  chip.array.rows = 0;
  CHECK(std::string(why({.n = 3, .k = 3}).what()) ==
        "chip edge: array.rows is 0; it must be at least 1, at most 65536");
  chip.array.rows = 64;
  chip.c.kib = 0.5;
  CHECK(
      std::string(why({.n = 300, .k = 300}).what()) ==
      "chip edge: the buffers (a 256, b 256, c 0.5 KiB) cannot hold one tile of its 64 x 16 array");
  chip.c.kib = 64;
  sim::Options options{.mapping = sim::Mapping{.tile = {1000, 1000, 10}}};
  CHECK(std::string(sim::estimate(sim::Backend(chip, options), {.n = 1000, .k = 1000}, 1000)
                        .error()
                        .what()) ==
        "mapping: a tile of 1000 x 1000 x 10 needs 10000, 10000, 4000000 bytes of buffers a, b, c; "
        "chip edge has 256, 256, 64 KiB");
  options.mapping->tile.k = 0;
  CHECK(sim::estimate(sim::Backend(chip, options), {.n = 10, .k = 10}, 10).error().code() ==
        Code::bad_value);
  options.mapping = sim::Mapping{.dataflow = sim::Dataflow::output_stationary, .tile = {4, 4, 4}};
  CHECK(sim::estimate(sim::Backend(chip, options), {.n = 10, .k = 10}, 10).error().code() ==
        Code::unsupported);
  CHECK(sim::estimate(sim::Backend(chip), {.n = 10, .k = 10}, -1).error().code() ==
        Code::bad_shape);
  CHECK(sim::estimate(sim::Backend(chip), {.n = 10, .k = 10}, Index{1} << 60).error().code() ==
        Code::bad_shape);
}
