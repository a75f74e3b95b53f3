// Convolutions on the CPU with outputs and residuals anywhere in memory, above all channels first.
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

/// u8 x s8 -> s8 (batch, 1, height, width, channels) with a bias, scales, a residual and a clamp.
struct Layer {
  ConvProblem problem;
  Spatial in, out;
  Index batch;
  std::vector<std::uint8_t> a;
  std::vector<std::int8_t> b, residual;
  std::vector<std::int32_t> bias;
  std::vector<float> scales;

  Layer(const ConvProblem& p, const Spatial& extent, Index images)
      : problem(p), in(extent), out(output_extent(p, extent)), batch(images) {
    Random r(7);
    a.resize(std::size_t(batch * in[0] * in[1] * in[2] * p.in_channels));
    b.resize(std::size_t(p.out_channels * p.taps() * p.group_inputs()));
    residual.resize(std::size_t(positions() * p.out_channels));
    for (auto& x : a) x = std::uint8_t(r.bits());
    for (auto& x : b) x = std::int8_t(r.bits());
    for (auto& x : residual) x = std::int8_t(r.bits());
    for (Index j = 0; j < p.out_channels; ++j) {
      bias.push_back(std::int32_t(r.between(-500, 500)));
      scales.push_back(r.uniform(0.0001f, 0.003f));
    }
    problem.a_zero_point = 120;
    problem.c = DType::s8;
    problem.epilogue = {epilogue::bias(bias), epilogue::scale(scales), epilogue::residual(0.5f, 3),
                        epilogue::clamp(-100.0f, 90.0f)};
  }
  Index positions() const { return batch * out[0] * out[1] * out[2]; }
  FilterView weights() const { return FilterView::inputs_first(b.data(), problem); }

  template <class Void>
  AnyImage<Void> view(Void* data, DType type, const Spatial& e, Index channels, bool first) const {
    return first ? AnyImage<Void>::channels_first(data, type, batch, e, channels)
                 : AnyImage<Void>::channels_last(data, type, batch, e, channels);
  }
  ConvArgs args(std::vector<std::int8_t>& c, bool a_first, bool c_first, bool r_first) const {
    const Index n = problem.out_channels;
    return {.a = view<const void>(a.data(), DType::u8, in, problem.in_channels, a_first),
            .c = view<void>(c.data(), DType::s8, out, n, c_first),
            .residual = view<const void>(residual.data(), DType::s8, out, n, r_first)};
  }

  void check_layouts(const char* kernel) const {
    ThreadPool three(3);
    for (int layouts = 0; layouts < 8; ++layouts) {
      CAPTURE(layouts);
      const bool a = layouts & 1, c = layouts & 2, r = layouts & 4;
      std::vector<std::int8_t> expected(residual.size());
      reference_conv(problem, weights(), args(expected, a, c, r));
      for (const cpu::Backend& backend : cpu::Backend::all()) {
        const auto conv = prepare(backend, problem, weights());
        REQUIRE_MESSAGE(conv, conv.error());
        CAPTURE(conv->kernel());
        if (backend.name() == cpu::Backend().name()) CHECK(conv->kernel().find(kernel) == 0);
        const Workspace workspace(conv->workspace_bytes(positions(), 3));
        std::vector<std::int8_t> actual(residual.size());
        const Error e = conv->run(args(actual, a, c, r), workspace, three);
        CHECK_MESSAGE(!e, e);
        CHECK(actual == expected);
      }
    }
  }
};

}  // namespace

TEST_CASE("conv layouts: random problems give the reference's bits on every target") {
  const std::vector<cpu::Backend> backends = cpu::Backend::all();
  Index failures = 0;
  const Index cases = support::scaled(400);
  for (Index seed = 0; seed < cases && failures < 5; ++seed) {
    const ConvCase c(std::uint64_t(40000 + seed), Outputs::any);
    for (const std::string& failure : c.failures(backends)) {
      ++failures;
      FAIL_CHECK(failure);
    }
  }
}

TEST_CASE("conv layouts: channels first and last of every image, by patches") {
  const Layer layer({.in_channels = 20,
                     .out_channels = 37,
                     .kernel = {1, 3, 3},
                     .stride = {1, 2, 1},
                     .pad_begin = {0, 1, 1},
                     .pad_end = {0, 1, 1}},
                    {1, 13, 15}, 2);
  layer.check_layouts("patches");
  Layer grouped = Layer({.in_channels = 20, .out_channels = 68, .groups = 4, .kernel = {1, 1, 3}},
                        {2, 5, 15}, 2);
  grouped.check_layouts("patches");
}

TEST_CASE("conv layouts: channels first and last of every image, by Winograd") {
  const Layer layer({.in_channels = 32,
                     .out_channels = 37,
                     .kernel = {1, 3, 3},
                     .pad_begin = {0, 1, 1},
                     .pad_end = {0, 1, 1}},
                    {1, 14, 17}, 2);
  layer.check_layouts(cpu::Winograd::suits(cpu::Backend().kernels(), layer.problem) ? "winograd"
                                                                                    : "patches");
}

TEST_CASE("conv layouts: channels first and last of every image, depthwise") {
  const Layer layer({.in_channels = 37,
                     .out_channels = 37,
                     .groups = 37,
                     .kernel = {1, 3, 3},
                     .pad_begin = {0, 1, 1},
                     .pad_end = {0, 1, 1}},
                    {1, 14, 17}, 2);
  layer.check_layouts("");
}

TEST_CASE("conv layouts: many rows, so that blocks and runs end in different places") {
  const Layer layer({.in_channels = 3, .out_channels = 20}, {1, 37, 41}, 2);
  layer.check_layouts("");
}

TEST_CASE("conv layouts: custom steps are told positions and channels of the whole output") {
  const auto number = [](const void*, float* values, Index row, Index col, Index count) {
    for (Index i = 0; i < count; ++i) values[i] = float(row * 100 + col + i);
  };
  for (const bool transposed : {false, true}) {
    for (const bool first : {false, true}) {
      for (const Index groups : {1, 3, 6}) {
        ConvProblem p{.in_channels = 6,
                      .out_channels = 24,
                      .groups = groups,
                      .kernel = {1, 2, 2},
                      .stride = {1, 2, 3},
                      .transposed = transposed,
                      .c = DType::f32,
                      .epilogue = {epilogue::custom(number)}};
        const Spatial in = {1, 4, 5}, out = output_extent(p, in);
        const Index positions = 2 * out[1] * out[2];
        const std::vector<std::uint8_t> a(2 * 4 * 5 * 6);
        const std::vector<std::int8_t> b(24 * 4 * 6);
        std::vector<float> c(std::size_t(positions * 24), -1.0f);
        const ConvArgs args{.a = ConstImageView::channels_last(a.data(), DType::u8, 2, in, 6),
                            .c = first
                                     ? ImageView::channels_first(c.data(), DType::f32, 2, out, 24)
                                     : ImageView::channels_last(c.data(), DType::f32, 2, out, 24)};
        const auto conv = prepare(cpu::Backend(), p, FilterView::inputs_last(b.data(), p));
        REQUIRE_MESSAGE(conv, conv.error());
        const cpu::Conv copy = *conv;
        const Workspace workspace(copy.workspace_bytes(positions));
        const Error e = copy.run(args, workspace);
        CHECK_MESSAGE(!e, e);
        Index wrong = 0;
        for (Index row = 0; row < positions; ++row) {
          const Index image = row / out[2] / out[1];
          const Spatial at = {0, row / out[2] % out[1], row % out[2]};
          for (Index j = 0; j < 24; ++j) {
            const auto* got = reinterpret_cast<const float*>(element(args.c, image, at, j));
            wrong += *got != float(row * 100 + j);
          }
        }
        CHECK(wrong == 0);
      }
    }
  }
}
