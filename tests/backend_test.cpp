// The Backend concept: who is one, who is not, and the memory that comes with it.
#include "quern/backend.hpp"

#include <cstring>
#include <string>

#include "quern/cpu/conv.hpp"
#include "quern/cpu/gemm.hpp"
#include "quern/testing/backend_memory.hpp"
#include "support.hpp"
#include "testing/far_backend.hpp"

using namespace quern;

namespace {

struct Nameless : HostMemory {};
struct Forgetful {
  std::string name() const { return "no memory"; }
};
struct MemoryOnly : HostMemory {
  std::string name() const { return "no operation"; }
};

/// As cpu::Gemm, but run() may throw.
struct Throwing {
  std::size_t workspace_bytes(Index, Index = 1) const { return 0; }
  Error run(const GemmArgs&, std::span<std::byte>, Parallel = {}) const { return {}; }
  const GemmProblem& problem() const;
  std::string kernel() const { return ""; }
};

}  // namespace

namespace conv_only {  // convolutions, and no product
struct Backend : MemoryOnly {};
Error supports(const Backend&, const ConvProblem&);
Result<cpu::Conv> prepare(const Backend&, const ConvProblem&, const FilterView&);
}  // namespace conv_only

TEST_CASE("what a backend and a prepared operation are, compilers know") {
  static_assert(GemmBackend<cpu::Backend>);
  static_assert(GemmBackend<toy::Backend>);
  static_assert(GemmBackend<far::Backend>);
  static_assert(PreparedGemm<cpu::Gemm>);
  static_assert(!Backend<Nameless>);
  static_assert(!Backend<Forgetful>);
  static_assert(Backend<MemoryOnly> && !GemmBackend<MemoryOnly>);
  static_assert(!PreparedGemm<Throwing>);
  static_assert(!Backend<int>);
  static_assert(ConvBackend<cpu::Backend>);
  static_assert(ConvBackend<toy::Backend>);
  static_assert(ConvBackend<far::Backend>);
  static_assert(PreparedConv<cpu::Conv> && !PreparedConv<cpu::Gemm> && !PreparedGemm<cpu::Conv>);
  static_assert(ConvBackend<conv_only::Backend> && !GemmBackend<conv_only::Backend>);
  static_assert(!ConvBackend<MemoryOnly>);
}

TEST_CASE("one function serves every backend") {
  const std::uint8_t a[] = {1, 2, 3, 4, 5, 6};
  const std::int8_t b[] = {1, -1, 2, -2, 3, -3};
  const auto product = [&](const auto& backend) {
    std::int32_t c[4] = {};
    auto gemm =
        prepare(backend, GemmProblem{.n = 2, .k = 3}, Matrix<const std::int8_t>{b, 3, 2}).value();
    auto a_there = testing::uploaded(backend, std::as_bytes(std::span(a))).value();
    auto c_there = backend.allocate(sizeof c).value();
    auto scratch = backend.allocate(static_cast<std::size_t>(gemm.workspace_bytes(2))).value();
    const Error e =
        gemm.run({.a = {a_there.data(), DType::u8, 2, 3}, .c = {c_there.data(), DType::s32, 2, 2}},
                 {scratch.data(), scratch.size()});
    CHECK_MESSAGE(!e, e);
    CHECK(!backend.download(std::as_writable_bytes(std::span(c)), c_there));
    return std::to_string(c[0]) + " " + std::to_string(c[1]) + " " + std::to_string(c[2]) + " " +
           std::to_string(c[3]);
  };
  CHECK(product(cpu::Backend()) == "14 -14 32 -32");
  CHECK(product(toy::Backend()) == "14 -14 32 -32");
  CHECK(product(far::Backend()) == "14 -14 32 -32");
}

TEST_CASE("one function convolves on every backend") {
  const std::uint8_t a[] = {1, 2, 3, 4, 5, 6};  // 2 x 3 pixels
  const std::int8_t b[] = {1, 2, 3, 4};         // 2 x 2
  const auto convolution = [&](const auto& backend) {
    std::int32_t c[2] = {};
    const ConvProblem p{.in_channels = 1, .out_channels = 1, .kernel = {1, 2, 2}};
    auto conv = prepare(backend, p, FilterView::inputs_last(b, p)).value();
    auto a_there = testing::uploaded(backend, std::as_bytes(std::span(a))).value();
    auto c_there = backend.allocate(sizeof c).value();
    auto scratch = backend.allocate(static_cast<std::size_t>(conv.workspace_bytes(2))).value();
    const Error e =
        conv.run({.a = ConstImageView::channels_last(a_there.data(), DType::u8, 1, {1, 2, 3}, 1),
                  .c = ImageView::channels_last(c_there.data(), DType::s32, 1, {1, 1, 2}, 1)},
                 {scratch.data(), scratch.size()});
    CHECK_MESSAGE(!e, e);
    CHECK(!backend.download(std::as_writable_bytes(std::span(c)), c_there));
    return std::to_string(c[0]) + " " + std::to_string(c[1]);
  };
  CHECK(convolution(cpu::Backend()) == "37 47");
  CHECK(convolution(toy::Backend()) == "37 47");
  CHECK(convolution(far::Backend()) == "37 47");
}

TEST_CASE("memory: everything comes back, and a byte too many is refused") {
  CHECK(testing::memory_problem(cpu::Backend()) == "");
  CHECK(testing::memory_problem(far::Backend()) == "");
}

TEST_CASE("the program's memory: a refused copy says both sizes and copies nothing") {
  const HostMemory memory;
  auto buffer = memory.allocate(3).value();
  std::byte bytes[4] = {};
  const Error up = memory.upload(buffer, bytes), down = memory.download(bytes, buffer);
  CHECK(up.code() == Code::bad_shape);
  CHECK(support::says(up, "4 bytes do not fit a buffer of 3"));
  CHECK(down.code() == Code::bad_shape);
}

TEST_CASE("the program's memory: nothing can be allocated, uploaded and downloaded") {
  const HostMemory memory;
  auto buffer = memory.allocate(0).value();
  CHECK(buffer.size() == 0);
  CHECK(!memory.upload(buffer, {}));
  CHECK(!memory.download({}, buffer));
}
