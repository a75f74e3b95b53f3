// The generator: everything it makes is valid, repeatable, and sooner or later everything is made.
#include <cstring>
#include <set>
#include <string>

#include "quern/testing/gemm_problems.hpp"
#include "support.hpp"

using namespace quern;
using quern::testing::GemmCase;

TEST_CASE("every case is valid, with all its rows and with fewer") {
  for (Index seed = 0; seed < support::scaled(1000); ++seed) {
    const GemmCase c(static_cast<std::uint64_t>(seed));
    AlignedBuffer memory = c.c_memory();
    const Error weights = validate(c.problem(), c.weights());
    CHECK_MESSAGE(!weights, c.describe() << ": " << weights);
    for (const Index m : {c.rows(), c.rows() / 2, Index{0}}) {
      const Error call = validate(c.problem(), c.args(memory.data(), m));
      CHECK_MESSAGE(!call, c.describe() << ": " << call);
    }
    CHECK(c.rows() * c.problem().n * c.problem().k * c.args(memory.data(), 0).a.batch <=
          GemmCase::kMaxWork);
  }
}

TEST_CASE("a seed makes the same case every time") {
  for (const std::uint64_t seed : {1u, 2u, 77u}) {
    const GemmCase a(seed), b(seed);
    CHECK(a.describe() == b.describe());
    const AlignedBuffer x = a.c_memory(), y = b.c_memory();
    REQUIRE(x.size() == y.size());
    CHECK((x.size() == 0 || std::memcmp(x.data(), y.data(), x.size()) == 0));
  }
}

TEST_CASE("a fuzzer's bytes decide, and the seed decides when they run out") {
  using quern::testing::Random;
  const std::uint8_t bytes[] = {3, 200};
  Random random(bytes);
  CHECK(random.between(0, 9) == 3);
  CHECK(random.between(0, 99) == 0);
  CHECK(random.between(5, 6) <= 6);
  const GemmCase c(Random(std::span<const std::uint8_t>(), 9));
  CHECK(c.describe().substr(12) == GemmCase(Random(9)).describe().substr(12));
}

TEST_CASE("numbers of a seed are the same on every platform") {
  quern::testing::Random random(0);
  CHECK(random.bits() == 0xE220A8397B1DCDAFu);  // splitmix64's published first value
  CHECK(random.bits() == 0x6E789E6AA1B965F4u);
}

TEST_CASE("all types, steps, layouts and sizes turn up") {
  std::set<std::string> seen;
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    const GemmCase c(quern::testing::Random(seed), 2000);
    const GemmProblem& p = c.problem();
    const GemmArgs args = c.args(c.c_memory().data(), c.rows());
    seen.insert(std::string(name(p.a)) + name(p.b) + name(p.c));
    seen.insert(std::string(name(p.a)) + name(p.b));
    for (const Step& s : p.epilogue) seen.insert(name(s.kind));
    if (p.epilogue.has(Step::Kind::residual)) {
      seen.insert(args.residual.data == args.c.data ? "in place" : name(args.residual.type));
    }
    if (p.a_zero_points == ZeroPoints::per_row) seen.insert("zero points per row");
    if (args.a.col_stride != 1) seen.insert("a transposed");
    if (c.weights().col_stride != 1) seen.insert("b transposed");
    if (args.c.row_stride != p.n) seen.insert("gap in c");
    if (p.batch > 1) seen.insert("weights per batch");
    if (p.batch == 1 && args.a.batch > 1) seen.insert("weights shared");
    if (p.overflow == Overflow::wrap) seen.insert("wraps");
    if (p.k == 0) seen.insert("k = 0");
    if (p.k > 1024) seen.insert("k > 1024");
    if (c.rows() == 0) seen.insert("m = 0");
    if (p.n == 0) seen.insert("n = 0");
  }
  const std::string reals[] = {"f32", "bf16", "f16"}, bytes[] = {"s8", "u8"};
  const auto check = [&](const std::string& what) { CHECK_MESSAGE(seen.count(what) == 1, what); };
  for (const std::string out : {"s8", "u8", "f32", "bf16", "f16"}) {
    for (const std::string& a : bytes) {
      for (const std::string& b : bytes) check(a + b + out);
    }
    for (const std::string& a : reals) {
      for (const std::string& b : bytes) check(a + b + out);
      check(a + a + out);
      for (const std::string& b : reals) check(a + b);
    }
  }
  for (const char* what : {"u8s8s32",
                           "s8u8s32",
                           "bias_s32",
                           "scale",
                           "row_scale",
                           "bias",
                           "relu",
                           "clamp",
                           "gelu",
                           "gelu_tanh",
                           "silu",
                           "residual",
                           "custom",
                           "in place",
                           "s8",
                           "u8",
                           "s32",
                           "f32",
                           "bf16",
                           "f16",
                           "zero points per row",
                           "a transposed",
                           "b transposed",
                           "gap in c",
                           "weights per batch",
                           "weights shared",
                           "wraps",
                           "k = 0",
                           "k > 1024",
                           "m = 0",
                           "n = 0"}) {
    check(what);
  }
}
