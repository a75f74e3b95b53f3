// GEMM on the CPU: every instruction set this machine can run, against the reference.
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "quern/cpu/gemm.hpp"
#include "quern/testing/conformance.hpp"
#include "support.hpp"

using namespace quern;
using quern::testing::ConformanceOptions;

namespace {

constexpr Index kProblems = 1000;  // per backend

/// Targets whose multiply-add rounds once, as the reference does.
bool has_fused_multiply_add(const cpu::Backend& backend) {
  const std::string name = backend.name();
  for (const char* without : {"SCALAR", "EMU128", "SSE2", "SSSE3", "SSE4"}) {
    if (name.starts_with(without)) return false;
  }
  return true;
}

const std::uint8_t kA[] = {1, 2, 3, 4, 5, 6};
const std::int8_t kB[] = {1, -1, 2, -2, 3, -3};
const GemmProblem kProblem{.n = 2, .k = 3};
const ConstMatrixView kWeights = Matrix<const std::int8_t>{kB, 3, 2};

}  // namespace

TEST_CASE("every backend gives the reference's bits, for any thread count, without allocating") {
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    ConformanceOptions options;
    options.count = support::scaled(kProblems);
    options.exact_floats = has_fused_multiply_add(backend);
    options.allocations = support::allocations;
    const auto report = conformance_gemm(backend, options);
    for (const std::string& line : report.failures) FAIL_CHECK(backend.name() << ": " << line);
    MESSAGE(backend.name() << ": " << report.problems << " problems, " << report.runs << " runs");
  }
}

TEST_CASE("the first use: describe, prepare, run") {
  const auto gemm = prepare(cpu::Backend(), kProblem, kWeights);
  REQUIRE(gemm);
  std::int32_t c[4] = {};
  const Workspace workspace(static_cast<std::size_t>(gemm->workspace_bytes(2)));
  const Error e = gemm->run(
      {.a = Matrix<const std::uint8_t>{kA, 2, 3}, .c = Matrix<std::int32_t>{c, 2, 2}}, workspace);
  CHECK_MESSAGE(!e, e);
  const std::int32_t expected[] = {14, -14, 32, -32};
  for (int i = 0; i < 4; ++i) CHECK(c[i] == expected[i]);
}

TEST_CASE("a prepared operation moves, and run() is noexcept") {
  static_assert(std::is_nothrow_move_constructible_v<cpu::Gemm>);
  static_assert(noexcept(std::declval<const cpu::Gemm&>().run(std::declval<const GemmArgs&>(),
                                                              std::span<std::byte>())));
}

TEST_CASE("a prepared operation can run in two threads at a time") {
  const auto gemm = prepare(cpu::Backend(), kProblem, kWeights);
  REQUIRE(gemm);
  ThreadPool pool(4);
  std::vector<int> right(64);
  pool.parallel_for(64, [&](Index index, Index) {
    std::int32_t c[4] = {};
    const Workspace workspace(static_cast<std::size_t>(gemm->workspace_bytes(2)));
    const Error e = gemm->run(
        {.a = Matrix<const std::uint8_t>{kA, 2, 3}, .c = Matrix<std::int32_t>{c, 2, 2}}, workspace);
    right[static_cast<std::size_t>(index)] = !e && c[0] == 14 && c[3] == -32;
  });
  CHECK(right == std::vector<int>(64, 1));
}

TEST_CASE("backends: the best first, each found by its name in any case, others refused") {
  const std::vector<cpu::Backend> all = cpu::Backend::all();
  REQUIRE_FALSE(all.empty());
  CHECK(all.front().name() == cpu::Backend().name());
  for (const cpu::Backend& backend : all) {
    std::string lower = backend.name();
    for (char& letter : lower) {
      if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
    }
    const auto found = cpu::Backend::named(lower);
    REQUIRE(found);
    CHECK(found->name() == backend.name());
  }
  const auto unknown = cpu::Backend::named("abacus");
  REQUIRE_FALSE(unknown);
  CHECK(unknown.error().code() == Code::unsupported);
  CHECK(support::says(unknown.error(), "abacus"));
}

TEST_CASE("supports and prepare refuse what validate refuses, and say why") {
  const cpu::Backend cpu;
  GemmProblem p = kProblem;
  CHECK_FALSE(supports(cpu, p));
  p.k = 4;
  CHECK(prepare(cpu, p, kWeights).error().code() == Code::bad_shape);
  CHECK(pack(cpu, p, kWeights).error().code() == Code::bad_shape);
  p.k = -1;
  CHECK(supports(cpu, p).code() == Code::bad_shape);
  CHECK(prepare(cpu, p, kWeights).error().code() == Code::bad_shape);
  p = kProblem;
  p.b = DType::f32;
  CHECK(supports(cpu, p).code() == Code::unsupported);
  CHECK(prepare(cpu, p, kWeights).error().code() == Code::unsupported);
}

TEST_CASE("a workspace for some rows serves any batch of so many rows") {
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    for (std::uint64_t seed = 0; seed < 100; ++seed) {
      const quern::testing::GemmCase c(quern::testing::Random(seed), 20'000);
      const auto gemm = prepare(backend, c.problem(), c.weights());
      REQUIRE(gemm);
      AlignedBuffer memory = c.c_memory();
      const Workspace workspace(gemm->workspace_bytes(c.rows()));
      const Error e = gemm->run(c.args(memory.data(), c.rows()), workspace);
      CHECK_MESSAGE(!e, e << ", " << c.describe());
    }
  }
}

TEST_CASE("run refuses a workspace that is too small, and writes nothing") {
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    const auto gemm = prepare(backend, kProblem, kWeights);
    REQUIRE(gemm);
    std::int32_t c[4] = {7, 7, 7, 7};
    std::byte byte{};
    const Error e =
        gemm->run({.a = Matrix<const std::uint8_t>{kA, 2, 3}, .c = Matrix<std::int32_t>{c, 2, 2}},
                  std::span(&byte, 1));
    CHECK(e.code() == Code::no_workspace);
    CHECK(support::says(e, "1 bytes"));
    for (const std::int32_t v : c) CHECK(v == 7);
  }
}
