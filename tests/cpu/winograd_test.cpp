#include "quern/cpu/winograd.hpp"

#include <vector>

#include "quern/core/thread_pool.hpp"
#include "quern/cpu/conv.hpp"
#include "quern/ops/conv_reference.hpp"
#include "quern/testing/random.hpp"
#include "support.hpp"

using namespace quern;

namespace {

/// A 3 x 3 convolution with stride 1 whose bytes come from `value`.
struct Layer {
  ConvProblem problem;
  Spatial extent;
  Index batch = 1;
  std::vector<std::uint8_t> a, b;
  std::vector<float> scales;

  template <class Value>
  Layer(const ConvProblem& p, const Spatial& e, Index n, Value value)
      : problem(p), extent(e), batch(n) {
    problem.kernel = {p.kernel[0], 3, 3};
    a.resize(static_cast<std::size_t>(n * e[0] * e[1] * e[2] * p.in_channels));
    b.resize(static_cast<std::size_t>(p.out_channels * problem.taps() * p.in_channels));
    for (auto& x : a) x = static_cast<std::uint8_t>(value());
    for (auto& x : b) x = static_cast<std::uint8_t>(value());
  }

  /// C, by the reference if there is no backend; `used`: whether the backend may use Winograd.
  std::vector<std::uint8_t> run(const cpu::Backend* backend, Parallel executor = {},
                                bool* used = nullptr) const {
    const Spatial out = output_extent(problem, extent);
    const Index positions = batch * out[0] * out[1] * out[2];
    std::vector<std::uint8_t> c(
        static_cast<std::size_t>(positions * problem.out_channels * size_of(problem.c)));
    const ConvArgs args{
        .a = ConstImageView::channels_last(a.data(), problem.a, batch, extent, problem.in_channels),
        .c = ImageView::channels_last(c.data(), problem.c, batch, out, problem.out_channels)};
    const FilterView filter = FilterView::inputs_last(b.data(), problem);
    CHECK_FALSE(validate(problem));
    CHECK_FALSE(validate(problem, args));
    if (backend == nullptr) {
      reference_conv(problem, filter, args);
      return c;
    }
    const auto op = prepare(*backend, problem, filter);
    REQUIRE(op);
    if (used != nullptr) *used = op->kernel().rfind("winograd", 0) == 0;
    const Workspace workspace(op->workspace_bytes(positions, executor.concurrency()));
    CHECK_FALSE(op->run(args, workspace, executor));
    return c;
  }
};

}  // namespace

TEST_CASE("winograd: the direct form's bits, for any zero points, edges and epilogues") {
  testing::Random random(21);
  ThreadPool three(3);
  Index used = 0;
  for (Index i = 0; i < support::scaled(60); ++i) {
    ConvProblem p{.in_channels = 16 * random.between(1, 4), .out_channels = random.between(16, 50)};
    if (random.one_in(3)) {
      p.kernel[0] = random.between(2, 4);
      p.stride[0] = random.between(1, 2);
      p.dilation[0] = random.between(1, 2);
    }
    p.pad_begin = {random.between(0, 7), random.between(0, 3), random.between(0, 3)};
    p.pad_end = {random.between(0, 2), random.between(0, 3), random.between(0, 3)};
    p.a = random.pick({DType::s8, DType::u8});
    p.b = random.pick({DType::s8, DType::u8});
    p.a_zero_point = static_cast<std::int32_t>(random.between(lowest(p.a), highest(p.a)));
    std::vector<std::int32_t> zeros, bias;
    if (random.one_in(2)) {
      for (Index j = 0; j < p.out_channels; ++j) {
        zeros.push_back(static_cast<std::int32_t>(random.between(lowest(p.b), highest(p.b))));
      }
      p.b_zero_points = zeros;
    }
    if (random.one_in(2)) {
      for (Index j = 0; j < p.out_channels; ++j) {
        bias.push_back(static_cast<std::int32_t>(random.between(-100000, 100000)));
      }
      p.epilogue.add(epilogue::bias(std::span<const std::int32_t>(bias)));
    }
    std::vector<float> scales(static_cast<std::size_t>(p.out_channels), 0.002f);
    if (random.one_in(2)) {
      p.c = DType::s8;
      p.epilogue.add(epilogue::scale(scales));
    }
    const Layer layer(p, {random.between(1, 3), random.between(9, 24), random.between(9, 24)},
                      random.between(1, 2), [&] { return random.bits(); });
    const std::vector<std::uint8_t> expected = layer.run(nullptr);
    CAPTURE(i);
    for (const cpu::Backend& backend : cpu::Backend::all()) {
      bool winograd = false;
      CAPTURE(backend.name());
      CHECK(layer.run(&backend, three, &winograd) == expected);
      used += winograd ? 1 : 0;
    }
  }
  if (cpu::Backend::all().size() > 2) CHECK(used > 0);
}

TEST_CASE("winograd: sums as large as they get, where scaled sums in 32 bits would overflow") {
  // Sums of 127 * 127 * 9 * channels pass 3.7e6, the most that a sum scaled by 576 can be, at 26
  // channels, and 2^25, the most here, at 232: from there on the channels are cut into slices.
  for (const Index channels : {16, 32, 64, 224, 240, 512}) {
    for (const DType type : {DType::s8, DType::u8}) {
      ConvProblem p{.in_channels = channels, .out_channels = 16, .overflow = Overflow::wrap};
      p.pad_begin = p.pad_end = {0, 1, 1};
      p.a = p.b = type;
      for (const int value : {127, type == DType::s8 ? -128 : 255}) {
        const Layer layer(p, {1, 12, 12}, 1, [value] { return value; });
        const std::vector<std::uint8_t> expected = layer.run(nullptr);
        CAPTURE(channels);
        CAPTURE(value);
        for (const cpu::Backend& backend : cpu::Backend::all()) {
          CAPTURE(backend.name());
          CHECK(layer.run(&backend) == expected);
        }
      }
    }
  }
}

TEST_CASE("winograd: wide images are cut into blocks, which threads share") {
  testing::Random random(4);
  ConvProblem p{.in_channels = 64, .out_channels = 32};
  p.pad_begin = p.pad_end = {0, 1, 1};
  const Layer layer(p, {1, 10, 700}, 1, [&] { return random.bits(); });
  const std::vector<std::uint8_t> expected = layer.run(nullptr);
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    CAPTURE(backend.name());
    for (Index threads = 1; threads <= 4; ++threads) {
      ThreadPool pool(threads);
      CHECK(layer.run(&backend, pool) == expected);
    }
  }
}

TEST_CASE("winograd: many weights are transformed in pieces, and small images share a block") {
  testing::Random random(5);
  ThreadPool three(3);
  for (const bool extreme : {false, true}) {
    ConvProblem p{.in_channels = 272, .out_channels = 150, .overflow = Overflow::wrap};
    p.pad_begin = p.pad_end = {0, 1, 1};
    p.a = DType::u8;
    p.a_zero_point = 255;
    const std::vector<std::int32_t> zeros(150, 127);
    if (extreme) p.b_zero_points = zeros;  // |w - zb| = 255: three slices
    for (const Index images : {1, 2, 5}) {
      const Layer layer(p, {1, 7, 7}, images, [&] { return extreme ? 128 : random.bits(); });
      const std::vector<std::uint8_t> expected = layer.run(nullptr);
      CAPTURE(extreme);
      CAPTURE(images);
      for (const cpu::Backend& backend : cpu::Backend::all()) {
        CAPTURE(backend.name());
        CHECK(layer.run(&backend) == expected);
        CHECK(layer.run(&backend, three) == expected);
      }
    }
  }
}
