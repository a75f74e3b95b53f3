// Packed weights come from files: whatever is wrong with one is found before anything runs.
#include <cstring>
#include <utility>
#include <vector>

#include "quern/cpu/gemm.hpp"
#include "quern/testing/operands.hpp"
#include "support.hpp"

using namespace quern;

namespace {

using Bytes = std::vector<std::byte>;

constexpr GemmProblem kProblem{.n = 33, .k = 70};

Bytes packed_bytes(const cpu::Backend& backend, const GemmProblem& p = kProblem) {
  quern::testing::Random random(1);
  const auto b = quern::testing::any_layout(random, p.b, p.batch, p.k, p.n, false, false);
  quern::testing::fill_any(random, b.view);
  const auto packed = pack(backend, p, b.view);
  REQUIRE_MESSAGE(packed, packed.error());
  const std::span<const std::byte> bytes = packed->bytes();
  return Bytes(bytes.begin(), bytes.end());
}

/// from_bytes() and prepare(): the first error, or none.
Error load(const cpu::Backend& backend, const Bytes& bytes, const GemmProblem& p = kProblem) {
  auto packed = cpu::PackedWeights::from_bytes(bytes);
  if (!packed) return packed.error();
  return prepare(backend, p, std::move(*packed)).error();
}

}  // namespace

TEST_CASE("packed weights: what was written is read back, on every backend") {
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    const Error e = load(backend, packed_bytes(backend));
    CHECK_MESSAGE(!e, backend.name() << ": " << e);
  }
}

TEST_CASE("packed weights: the bytes may lie at any address") {
  const cpu::Backend backend;
  const Bytes bytes = packed_bytes(backend);
  Bytes shifted(bytes.size() + 1);
  std::memcpy(shifted.data() + 1, bytes.data(), bytes.size());
  CHECK(cpu::PackedWeights::from_bytes(std::span(shifted).subspan(1)));
}

TEST_CASE("packed weights: truncated ones are refused, at any length") {
  const cpu::Backend backend;
  const Bytes bytes = packed_bytes(backend);
  Index accepted = 0;
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const Error e = load(backend, Bytes(bytes.begin(), bytes.begin() + std::ptrdiff_t(size)));
    accepted += e.code() != Code::bad_packed;
  }
  CHECK(accepted == 0);
}

TEST_CASE("packed weights: bytes too many are refused") {
  const cpu::Backend backend;
  Bytes bytes = packed_bytes(backend);
  bytes.push_back(std::byte{0});
  CHECK(load(backend, bytes).code() == Code::bad_packed);
}

TEST_CASE("packed weights: any corrupted byte is seen, a changed version among them") {
  const cpu::Backend backend;
  Bytes bytes = packed_bytes(backend);
  Index accepted = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    for (const std::byte flip : {std::byte{1}, std::byte{0x80}}) {
      bytes[at] ^= flip;
      const Error e = load(backend, bytes);
      accepted += e.code() != Code::bad_packed;
      bytes[at] ^= flip;
    }
  }
  CHECK(accepted == 0);
  CHECK_FALSE(load(backend, bytes));
}

TEST_CASE(
    "packed weights: those of another problem are refused, and the message says what differs") {
  const cpu::Backend backend;
  const auto refuses = [&](GemmProblem other, const char* number) {
    const Error e = load(backend, packed_bytes(backend), other);
    CAPTURE(e);
    CHECK(e.code() == Code::bad_packed);
    CHECK(support::says(e, number));
  };
  refuses({.n = 34, .k = 70}, "34");
  refuses({.n = 33, .k = 71}, "71");
  refuses({.n = 70, .k = 33}, "33");
  refuses({.n = 33, .k = 70, .batch = 2}, "2");
  refuses({.n = 33, .k = 70, .b = DType::u8}, "u8");
  refuses({.n = 33, .k = 70, .a = DType::f32, .b = DType::f32, .c = DType::f32}, "f32");
}

TEST_CASE("packed weights: a problem that is wrong itself is refused for that") {
  const cpu::Backend backend;
  CHECK(load(backend, packed_bytes(backend), {.n = -1, .k = 70}).code() == Code::bad_shape);
}

TEST_CASE("packed weights: those of another instruction set give the right bits or are refused") {
  const std::vector<cpu::Backend> all = cpu::Backend::all();
  for (const cpu::Backend& from : all) {
    const Bytes bytes = packed_bytes(from);
    for (const cpu::Backend& to : all) {
      auto packed = cpu::PackedWeights::from_bytes(bytes);
      REQUIRE(packed);
      auto op = prepare(to, kProblem, std::move(*packed));
      if (!op) {
        CHECK(op.error().code() == Code::bad_packed);
        continue;
      }
      const Bytes own = packed_bytes(to);
      auto right = prepare(to, kProblem, std::move(*cpu::PackedWeights::from_bytes(own)));
      REQUIRE(right);
      const std::vector<std::uint8_t> a(70, 200);
      std::vector<std::int32_t> c[2] = {std::vector<std::int32_t>(33),
                                        std::vector<std::int32_t>(33)};
      Index at = 0;
      for (const cpu::Gemm* gemm : {&*op, &*right}) {
        const Workspace workspace(static_cast<std::size_t>(gemm->workspace_bytes(1)));
        const Error e = gemm->run({.a = Matrix<const std::uint8_t>{a.data(), 1, 70},
                                   .c = Matrix<std::int32_t>{c[at++].data(), 1, 33}},
                                  workspace);
        CHECK_MESSAGE(!e, e);
      }
      CHECK(c[0] == c[1]);
    }
  }
}
