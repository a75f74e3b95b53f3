// Convolutions on the CPU: random ones against the reference on every target, and what run() and
// prepare() promise besides the result. Outputs in other layouts: conv_layout_test.cpp; transposed
// ones: conv_transpose_test.cpp.
#include "conv_case.hpp"

#include <cmath>
#include <string>
#include <vector>

#include "quern/core/thread_pool.hpp"

using namespace quern;
using conv_case::ConvCase;
using conv_case::has_fma;
using conv_case::same_bytes;
using quern::testing::Random;

namespace {

/// A 3 x 3 convolution of 2 images of 5 x 4 x 3 channels into 7, padded by 1; valid as it stands.
struct Valid {
  std::vector<std::uint8_t> a = std::vector<std::uint8_t>(2 * 5 * 4 * 3, 200);
  std::vector<std::int8_t> b = std::vector<std::int8_t>(7 * 3 * 3 * 3, -3);
  std::vector<std::int32_t> c = std::vector<std::int32_t>(2 * 5 * 4 * 7, 7);
  ConvProblem problem{.in_channels = 3,
                      .out_channels = 7,
                      .kernel = {1, 3, 3},
                      .pad_begin = {0, 1, 1},
                      .pad_end = {0, 1, 1},
                      .a_zero_point = 100};
  ConvArgs args{.a = ConstImageView::channels_last(a.data(), DType::u8, 2, {1, 5, 4}, 3),
                .c = ImageView::channels_last(c.data(), DType::s32, 2, {1, 5, 4}, 7)};
  FilterView weights() const { return FilterView::inputs_last(b.data(), problem); }
  static constexpr Index kPositions = 2 * 5 * 4;
};

}  // namespace

TEST_CASE("conv: random problems give the reference's bits on every target, and no more") {
  const std::vector<cpu::Backend> backends = cpu::Backend::all();
  Index not_empty = 0, failures = 0;
  const Index cases = support::scaled(600);
  for (Index seed = 0; seed < cases && failures < 5; ++seed) {
    const ConvCase c{std::uint64_t(seed)};
    not_empty += !c.empty();
    for (const std::string& failure : c.failures(backends)) {
      ++failures;
      FAIL_CHECK(failure);
    }
  }
  CHECK(not_empty > cases / 2);
}

TEST_CASE("conv: the bits do not depend on the executor") {
  Serial serial;
  ThreadPool two(2), three(3), four(4);
  const Parallel executors[] = {serial, two, three, four};
  for (Index seed = 0; seed < support::scaled(60); ++seed) {
    const ConvCase c{std::uint64_t(10000 + seed)};
    const auto conv = prepare(cpu::Backend(), c.p, c.weights());
    REQUIRE(conv);
    AlignedBuffer first;
    for (const Parallel& executor : executors) {
      AlignedBuffer actual = c.memory();
      const Workspace workspace(conv->workspace_bytes(c.positions(), executor.concurrency()));
      const Error e = conv->run(c.args(actual), workspace, executor);
      CHECK_MESSAGE(!e, e << ", " << c.describe());
      if (&executor == executors) {
        first = std::move(actual);
      } else {
        CHECK_MESSAGE(same_bytes(first, actual), c.describe());
      }
    }
  }
}

TEST_CASE("conv: large enough to be split among the workers") {
  Valid v;
  constexpr Index kSide = 40, kIn = 24, kOut = 40;
  Random r(1);
  std::vector<std::uint8_t> a(kSide * kSide * kIn);
  std::vector<std::int8_t> b(kOut * 9 * kIn);
  for (auto& x : a) x = std::uint8_t(r.bits());
  for (auto& x : b) x = std::int8_t(r.bits());
  v.problem.in_channels = kIn;
  v.problem.out_channels = kOut;
  const FilterView weights = FilterView::inputs_first(b.data(), v.problem);
  const Spatial extent = {1, kSide, kSide};
  std::vector<std::int32_t> expected(kSide * kSide * kOut), actual(expected.size());
  ConvArgs args{.a = ConstImageView::channels_first(a.data(), DType::u8, 1, extent, kIn),
                .c = ImageView::channels_last(expected.data(), DType::s32, 1, extent, kOut)};
  reference_conv(v.problem, weights, args);
  args.c.data = actual.data();
  const auto conv = prepare(cpu::Backend(), v.problem, weights);
  REQUIRE(conv);
  for (Index threads = 1; threads <= 4; ++threads) {
    ThreadPool pool(threads);
    std::fill(actual.begin(), actual.end(), 0);
    const Workspace workspace(conv->workspace_bytes(kSide * kSide, threads));
    CHECK_FALSE(conv->run(args, workspace, pool));
    CHECK(actual == expected);
  }
}

TEST_CASE("conv: a workspace for some positions serves fewer of them") {
  Valid v;
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    const auto conv = prepare(backend, v.problem, v.weights());
    REQUIRE(conv);
    const Workspace workspace(conv->workspace_bytes(1000));
    for (Index h = 0; h < 9; ++h) {
      const Spatial extent = {1, h, 100};
      std::vector<std::uint8_t> a(std::size_t(h * 100 * 3), 1);
      std::vector<std::int32_t> c(std::size_t(h * 100 * 7));
      CHECK_FALSE(conv->run({.a = ConstImageView::channels_last(a.data(), DType::u8, 1, extent, 3),
                             .c = ImageView::channels_last(c.data(), DType::s32, 1, extent, 7)},
                            workspace));
    }
  }
}

TEST_CASE("conv: the workspace is enough where groups differ in their kernels") {
  // The weights of the first group let no pair of products saturate, those of the others do.
  for (const bool first_is_tame : {false, true}) {
    ConvProblem p{.in_channels = 3 * 40, .out_channels = 3 * 24, .groups = 3, .kernel = {1, 3, 3}};
    std::vector<std::int8_t> b(std::size_t(p.out_channels * p.taps() * p.group_inputs()));
    for (std::size_t i = 0; i < b.size(); ++i) {
      b[i] = (i < b.size() / 3) == first_is_tame ? std::int8_t(i % 5) : std::int8_t(-128);
    }
    std::vector<std::uint8_t> a(std::size_t(8 * 8 * p.in_channels), 255);
    std::vector<std::int32_t> expected(std::size_t(6 * 6 * p.out_channels));
    const FilterView weights = FilterView::inputs_last(b.data(), p);
    ConvArgs args{
        .a = ConstImageView::channels_last(a.data(), DType::u8, 1, {1, 8, 8}, p.in_channels),
        .c = ImageView::channels_last(expected.data(), DType::s32, 1, {1, 6, 6}, p.out_channels)};
    reference_conv(p, weights, args);
    for (const cpu::Backend& backend : cpu::Backend::all()) {
      CAPTURE(backend.name());
      const auto conv = prepare(backend, p, weights);
      REQUIRE(conv);
      std::vector<std::int32_t> actual(expected.size());
      args.c.data = actual.data();
      const Workspace workspace(conv->workspace_bytes(36));
      const Error e = conv->run(args, workspace);
      CHECK_MESSAGE(!e, e);
      CHECK(actual == expected);
    }
  }
}

TEST_CASE("conv: run does not allocate") {
  for (Index seed = 0; seed < 50; ++seed) {
    const ConvCase c{std::uint64_t(20000 + seed)};
    const auto conv = prepare(cpu::Backend(), c.p, c.weights());
    REQUIRE(conv);
    AlignedBuffer memory = c.memory();
    const ConvArgs args = c.args(memory);
    const Workspace workspace(conv->workspace_bytes(c.positions()));
    const Index before = support::allocations();
    const Error e = conv->run(args, workspace);
    const Index after = support::allocations();
    CHECK_MESSAGE(!e, e);
    CHECK(after == before);
  }
}

TEST_CASE("conv: a workspace that is too small is refused, and nothing is written") {
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    for (Index seed = 0; seed < 40; ++seed) {
      const ConvCase c{std::uint64_t(30000 + seed)};
      if (c.empty()) continue;
      const auto conv = prepare(backend, c.p, c.weights());
      REQUIRE(conv);
      const AlignedBuffer untouched = c.memory();
      AlignedBuffer actual = c.memory();
      const Workspace workspace(conv->workspace_bytes(c.positions()) - 1);
      const Error e = conv->run(c.args(actual), workspace);
      CHECK(e.code() == Code::no_workspace);
      CHECK(support::says(e, std::to_string(workspace.size())));
      CHECK(support::says(e, std::to_string(c.positions()) + " positions on 1 workers"));
      CHECK(same_bytes(untouched, actual));
      CHECK(conv->run(c.args(actual), {}).code() == Code::no_workspace);
      CHECK(same_bytes(untouched, actual));
    }
  }
}

TEST_CASE("conv: run refuses bad arguments, and writes nothing") {
  const auto refuses = [](auto spoil, Code code, const char* words) {
    Valid v;
    const std::vector<std::int32_t> before = v.c;
    const auto conv = prepare(cpu::Backend(), v.problem, v.weights());
    REQUIRE(conv);
    const Workspace workspace(conv->workspace_bytes(Valid::kPositions));
    spoil(v);
    const Error e = conv->run(v.args, workspace);
    CAPTURE(e);
    CHECK(e.code() == code);
    CHECK(support::says(e, words));
    CHECK(v.c == before);
  };
  refuses([](Valid& v) { v.args.a.channels = 2; }, Code::bad_shape, "channels");
  refuses([](Valid& v) { v.args.c.extent[1] = 4; }, Code::bad_shape, "must be 2 x (1, 5, 4)");
  refuses([](Valid& v) { v.args.a.data = nullptr; }, Code::bad_data, "conv: a is null");
  refuses([](Valid& v) { v.args.a.type = DType::s8; }, Code::unsupported, "hold s8 and s32");
}

TEST_CASE("conv: row scales must be finite, and nothing is written otherwise") {
  Valid v;
  v.problem.c = DType::f32;
  v.problem.epilogue = {epilogue::row_scale()};
  v.args.c.type = DType::f32;
  const std::vector<std::int32_t> before = v.c;
  const auto conv = prepare(cpu::Backend(), v.problem, v.weights());
  REQUIRE(conv);
  const Workspace workspace(conv->workspace_bytes(Valid::kPositions));
  for (const float bad : {NAN, HUGE_VALF, -HUGE_VALF}) {
    std::vector<float> scales(Valid::kPositions, 1.0f);
    scales.back() = bad;
    v.args.row_scales = scales;
    const Error e = conv->run(v.args, workspace);
    CHECK(e.code() == Code::bad_value);
    CHECK(support::says(e, "row scale"));
    CHECK(v.c == before);
  }
}

TEST_CASE("conv: weights, zero points, scales and biases are copied by prepare") {
  Valid v;
  std::vector<std::int32_t> zeros(7, 3), bias(7, -1000);
  std::vector<float> scales(7, 0.5f);
  v.problem.b_zero_points = zeros;
  v.problem.c = DType::f32;
  v.args.c.type = DType::f32;
  v.problem.epilogue = {epilogue::bias(bias), epilogue::scale(scales)};
  reference_conv(v.problem, v.weights(), v.args);
  const std::vector<std::int32_t> expected = v.c;
  const auto conv = prepare(cpu::Backend(), v.problem, v.weights());
  REQUIRE(conv);
  std::fill(v.b.begin(), v.b.end(), std::int8_t{99});
  std::fill(zeros.begin(), zeros.end(), 50);
  std::fill(bias.begin(), bias.end(), 12345);
  std::fill(scales.begin(), scales.end(), 77.0f);
  std::fill(v.c.begin(), v.c.end(), 0);
  const Workspace workspace(conv->workspace_bytes(Valid::kPositions));
  CHECK_FALSE(conv->run(v.args, workspace));
  CHECK(v.c == expected);
  CHECK(conv->problem().b_zero_points.empty());
}

TEST_CASE("conv: a prepared operation moves, and runs in many threads at a time") {
  static_assert(std::is_nothrow_move_constructible_v<cpu::Conv>);
  static_assert(noexcept(std::declval<const cpu::Conv&>().run(std::declval<const ConvArgs&>(),
                                                              std::span<std::byte>())));
  Valid v;
  reference_conv(v.problem, v.weights(), v.args);
  const auto conv = prepare(cpu::Backend(), v.problem, v.weights());
  REQUIRE(conv);
  ThreadPool pool(4);
  std::vector<int> right(32);
  pool.parallel_for(32, [&](Index index, Index) {
    std::vector<std::int32_t> c(v.c.size());
    ConvArgs args = v.args;
    args.c.data = c.data();
    const Workspace workspace(conv->workspace_bytes(Valid::kPositions));
    right[std::size_t(index)] = !conv->run(args, workspace) && c == v.c;
  });
  CHECK(right == std::vector<int>(32, 1));
}

TEST_CASE("conv: padding adds nothing where no input is left at all") {
  // An image of no height with rows of padding: every term is outside, so the bias is all there is.
  Valid v;
  const std::vector<std::int32_t> bias{1, 2, 3, 4, 5, 6, 7};
  v.problem.epilogue = {epilogue::bias(bias)};
  v.problem.pad_begin = v.problem.pad_end = {0, 2, 1};
  std::vector<std::int32_t> c(2 * 4 * 7);
  const ConvArgs args{.a = ConstImageView::channels_last(nullptr, DType::u8, 1, {1, 0, 4}, 3),
                      .c = ImageView::channels_last(c.data(), DType::s32, 1, {1, 2, 4}, 7)};
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    std::fill(c.begin(), c.end(), -1);
    const auto conv = prepare(backend, v.problem, v.weights());
    REQUIRE(conv);
    const Workspace workspace(conv->workspace_bytes(8));
    const Error e = conv->run(args, workspace);
    CHECK_MESSAGE(!e, e);
    for (std::size_t i = 0; i < c.size(); ++i) CHECK(c[i] == bias[i % 7]);
  }
}

TEST_CASE("conv: prepare refuses what validate refuses, null weights and other types") {
  Valid v;
  FilterView b = v.weights();
  b.type = DType::u8;
  const Error other = prepare(cpu::Backend(), v.problem, b).error();
  CHECK(other.code() == Code::unsupported);
  CHECK(support::says(other, "b holds u8 but the problem says s8"));
  b = v.weights();
  b.data = nullptr;
  const Error null = prepare(cpu::Backend(), v.problem, b).error();
  CHECK(null.code() == Code::bad_data);
  CHECK(support::says(null, "b is null"));
  v.problem.groups = 2;
  CHECK(prepare(cpu::Backend(), v.problem, v.weights()).error().code() == Code::bad_shape);
}
