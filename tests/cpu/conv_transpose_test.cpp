// Transposed convolutions on the CPU: random ones against the reference on every target, and those
// whose phases are out of the ordinary.
#include <string>
#include <vector>

#include "conv_case.hpp"
#include "quern/core/thread_pool.hpp"

using namespace quern;
using conv_case::ConvCase;
using conv_case::Outputs;
using conv_case::same_bytes;
using quern::testing::Random;

namespace {

/// u8 x s8 -> s32 of random bytes, channels last: whether the CPU has the reference's sums.
void agrees(ConvProblem p, const Spatial& in, Index batch = 1, std::uint64_t seed = 1) {
  Random r(seed);
  p.transposed = true;
  p.a_zero_point = 77;
  std::vector<std::int32_t> bias(std::size_t(p.out_channels), 0);
  for (auto& x : bias) x = std::int32_t(r.between(-1000, 1000));
  p.epilogue = {epilogue::bias(bias)};
  const Spatial out = output_extent(p, in);
  const Index positions = batch * out[0] * out[1] * out[2];
  std::vector<std::uint8_t> a(std::size_t(batch * in[0] * in[1] * in[2] * p.in_channels));
  std::vector<std::int8_t> b(std::size_t(p.out_channels * p.taps() * p.group_inputs()));
  for (auto& x : a) x = std::uint8_t(r.bits());
  for (auto& x : b) x = std::int8_t(r.bits());
  std::vector<std::int32_t> expected(std::size_t(positions * p.out_channels));
  const FilterView weights = FilterView::transposed(b.data(), p);
  ConvArgs args{.a = ConstImageView::channels_last(a.data(), p.a, batch, in, p.in_channels),
                .c = ImageView::channels_last(expected.data(), p.c, batch, out, p.out_channels)};
  REQUIRE_FALSE(validate(p));
  REQUIRE_FALSE(validate(p, args));
  reference_conv(p, weights, args);
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    CAPTURE(backend.name());
    std::vector<std::int32_t> actual(expected.size(), -1);
    args.c.data = actual.data();
    const auto conv = prepare(backend, p, weights);
    REQUIRE_MESSAGE(conv, conv.error());
    const Workspace workspace(conv->workspace_bytes(positions));
    const Error e = conv->run(args, workspace);
    CHECK_MESSAGE(!e, e);
    CHECK(actual == expected);
  }
}

}  // namespace

TEST_CASE("transposed conv: random problems give the reference's bits on every target") {
  const std::vector<cpu::Backend> backends = cpu::Backend::all();
  Index not_empty = 0, failures = 0;
  const Index cases = support::scaled(600);
  for (Index seed = 0; seed < cases && failures < 5; ++seed) {
    const ConvCase c(std::uint64_t(50000 + seed), seed % 2 ? Outputs::any : Outputs::even_rows,
                     true);
    not_empty += !c.empty();
    for (const std::string& failure : c.failures(backends)) {
      ++failures;
      FAIL_CHECK(failure);
    }
  }
  CHECK(not_empty > cases / 2);
}

TEST_CASE("transposed conv: the bits do not depend on the executor, and run does not allocate") {
  Serial serial;
  ThreadPool two(2), four(4);
  const Parallel executors[] = {serial, two, four};
  for (Index seed = 0; seed < support::scaled(60); ++seed) {
    const ConvCase c(std::uint64_t(60000 + seed), Outputs::any, true);
    const auto conv = prepare(cpu::Backend(), c.p, c.weights());
    REQUIRE(conv);
    AlignedBuffer first;
    for (const Parallel& executor : executors) {
      AlignedBuffer actual = c.memory();
      const Workspace workspace(conv->workspace_bytes(c.positions(), executor.concurrency()));
      const ConvArgs args = c.args(actual);
      const Index before = support::allocations();
      const Error e = conv->run(args, workspace, executor);
      const Index after = support::allocations();
      CHECK_MESSAGE(!e, e << ", " << c.describe());
      if (&executor == executors) {
        CHECK(after == before);
        first = std::move(actual);
      } else {
        CHECK_MESSAGE(same_bytes(first, actual), c.describe());
      }
    }
  }
}

TEST_CASE("transposed conv: what decoders and generators use") {
  ConvProblem p{.in_channels = 40, .out_channels = 24, .kernel = {1, 2, 2}, .stride = {1, 2, 2}};
  agrees(p, {1, 9, 11}, 2);
  p.kernel = {1, 4, 4};
  p.pad_begin = p.pad_end = {0, 1, 1};
  agrees(p, {1, 9, 11});
  p.kernel = {1, 3, 3};
  p.output_pad = {0, 1, 1};
  agrees(p, {1, 9, 11});
  p.groups = 8;
  agrees(p, {1, 5, 6}, 2);
  p.in_channels = p.out_channels = p.groups = 19;
  agrees(p, {1, 5, 6}, 2);
}

TEST_CASE("transposed conv: strides beyond the kernel leave outputs that are the bias alone") {
  ConvProblem p{.in_channels = 5, .out_channels = 18, .kernel = {1, 1, 2}, .stride = {1, 3, 5}};
  agrees(p, {1, 4, 3}, 2);
  p.output_pad = {0, 2, 4};
  agrees(p, {1, 4, 3}, 2);
  p.groups = 1;
  p.in_channels = 0;
  agrees(p, {1, 4, 3}, 2);
  // Taps of an even dilation never meet the odd positions between.
  agrees({.in_channels = 3,
          .out_channels = 2,
          .kernel = {1, 1, 3},
          .stride = {1, 1, 4},
          .dilation = {1, 1, 2}},
         {1, 2, 5});
  agrees({.in_channels = 3, .out_channels = 2, .stride = {1, Index{1} << 40, 1}}, {1, 1, 5});
}

TEST_CASE("transposed conv: pads beyond the image, and images of nothing") {
  agrees({.in_channels = 3,
          .out_channels = 2,
          .kernel = {1, 1, 3},
          .stride = {1, 1, 2},
          .pad_begin = {0, 0, 7},
          .pad_end = {0, 0, 1}},
         {1, 1, 6});
  agrees({.in_channels = 3, .out_channels = 2, .kernel = {1, 1, 3}, .pad_end = {0, 0, 20}},
         {1, 1, 6});
  agrees({.in_channels = 3, .out_channels = 2, .kernel = {1, 2, 3}}, {1, 0, 6});
  agrees({.in_channels = 3, .out_channels = 2, .kernel = {1, 2, 3}}, {1, 2, 3}, 0);
  agrees({.in_channels = 3, .out_channels = 0, .kernel = {1, 2, 3}, .stride = {1, 5, 5}},
         {1, 2, 3});
}

TEST_CASE("transposed conv: kernels of any size without channels cost nothing") {
  constexpr Index kHuge = Index{1} << 38;
  ConvProblem p{
      .out_channels = 1, .kernel = {1, 1, kHuge}, .stride = {1, 1, kHuge}, .transposed = true};
  CHECK(prepare(cpu::Backend(), p, FilterView::transposed(nullptr, p)));
  p.transposed = false;
  CHECK(prepare(cpu::Backend(), p, FilterView::inputs_last(nullptr, p)));
}
