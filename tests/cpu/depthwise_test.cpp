// Depthwise convolutions on the CPU: every path against the reference, on every target.
#include <cstring>
#include <string>
#include <vector>

#include "quern/core/thread_pool.hpp"
#include "quern/cpu/conv.hpp"
#include "quern/ops/conv_reference.hpp"
#include "quern/testing/operands.hpp"
#include "support.hpp"

using namespace quern;
using quern::testing::Random;

namespace {

/// Whether float sums are the reference's to the bit: not where there is no fused multiply-add.
bool has_fma(const cpu::Backend& backend) {
  const std::string name = backend.name();
  for (const char* without : {"EMU128", "SSE2", "SSSE3", "SSE4"}) {
    if (name.starts_with(without)) return false;
  }
  return true;
}

/// A custom step that shows which position and channel it is told.
void flip_signs(const void*, float* values, Index row, Index col, Index count) {
  for (Index i = 0; i < count; ++i) {
    if ((row + col + i) % 3 == 0) values[i] = -values[i];
  }
}

/// A random depthwise convolution and one call of it. Images are channels last (a slice of more of
/// them), first, or rows with gaps.
class Case {
 public:
  explicit Case(std::uint64_t seed) : r_(seed) {
    using D = DType;
    const bool floats = r_.one_in(3);
    p.a = floats ? r_.pick({D::f32, D::f32, D::f32, D::bf16, D::f16}) : r_.pick({D::u8, D::s8});
    p.b = floats ? r_.pick({D::f32, D::f32, D::bf16}) : r_.pick({D::s8, D::s8, D::u8});
    p.c = floats ? r_.pick({D::f32, D::f32, D::u8}) : r_.pick({D::s8, D::u8, D::s32, D::f32});
    p.groups = p.in_channels = r_.pick<Index>({1, 15, 16, 17, 33, 48, r_.between(1, 40)});
    p.out_channels = p.groups * r_.pick<Index>({1, 1, 1, 2, 3});
    batch_ = r_.between(1, 2);
    const Spatial kernels[] = {{1, 1, 1}, {1, 2, 2}, {1, 3, 3}, {1, 3, 3}, {1, 5, 5}, {1, 7, 7},
                               {1, 1, 5}, {1, 6, 1}, {2, 3, 3}, {3, 2, 1}, {1, 4, 3}, {1, 9, 2}};
    p.kernel = kernels[r_.between(0, 11)];
    const bool same = r_.one_in(2), dilates = r_.one_in(4);
    for (std::size_t d = p.kernel[0] > 1 ? 0 : 1; d < 3; ++d) {
      in_[d] = r_.between(1, d == 0 ? 3 : r_.one_in(6) ? 40 : 17);
      p.stride[d] = r_.pick<Index>({1, 1, 2, 3});
      if (dilates) p.dilation[d] = r_.between(1, 4);
      p.pad_begin[d] = same ? p.kernel[d] / 2 : r_.between(0, 4);
      p.pad_end[d] = same ? p.kernel[d] / 2 : r_.between(0, 4);
    }
    if (r_.one_in(20)) in_[2] = 700;
    out_ = output_extent(p, in_);
    weights_ = random(p.b, p.out_channels * p.taps());
    if (!floats) choose_zero_points();
    if (is_int8(p.c)) p.c_zero_point = zero_point(p.c);
    a_ = place(a, p.a, in_, p.in_channels);
    choose_epilogue();
    place(c, p.c, out_, p.out_channels);
    expected_ = c_memory_ = std::vector<std::byte>(memory_size_, std::byte{0x55});
    reference_conv(p, weights(), args(expected_));
  }

  FilterView weights() const { return FilterView::inputs_first(weights_.data(), p); }
  ConvArgs args(std::vector<std::byte>& memory) const {
    ConvArgs args{.a = a, .c = c, .row_scales = rows_};
    args.c.data = memory.data();
    args.residual = residual;
    return args;
  }
  bool empty() const { return batch_ * out_[0] * out_[1] * out_[2] == 0; }

  /// What is wrong, or nothing.
  std::string run(const cpu::Backend& backend, Parallel executor = {}) const {
    const auto conv = prepare(backend, p, weights());
    if (!conv) return conv.error().what();
    const bool fast = conv->kernel().find("depthwise") != std::string::npos;
    std::vector<std::byte> actual = c_memory_;
    const Workspace workspace(
        conv->workspace_bytes(batch_ * c.positions(), executor.concurrency()));
    if (Error e = conv->run(args(actual), workspace, executor)) return e.what();
    if (is_float(p.a) && !has_fma(backend)) return {};
    return actual == expected_ ? "" : fast ? "bytes differ" : "bytes differ, and not depthwise";
  }

  std::string describe() const {
    std::string text = std::string(name(p.a)) + " x " + name(p.b) + " -> " + name(p.c) + ", " +
                       std::to_string(p.in_channels) + " to " + std::to_string(p.out_channels) +
                       " channels";
    const auto add = [&](const char* what, const Spatial& s) {
      text += std::string(", ") + what;
      for (const Index x : s) text.append(" ").append(std::to_string(x));
    };
    add("image", in_);
    add("kernel", p.kernel);
    add("stride", p.stride);
    add("dilation", p.dilation);
    add("pads", p.pad_begin);
    add("and", p.pad_end);
    for (const Step& s : p.epilogue) text += std::string(" ") + name(s.kind);
    return text;
  }

  ConvProblem p;
  ConstImageView a;
  ImageView c;
  ConstImageView residual;

 private:
  std::vector<std::byte> random(DType type, Index count) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(count * size_of(type)));
    const MatrixView m(bytes.data(), type, 1, count);
    if (is_float(type)) {
      testing::fill(m, [&](Index, Index, Index) { return double(r_.uniform(-1.0f, 1.0f)); });
    } else {
      testing::fill_integers(r_, m);
    }
    return bytes;
  }

  template <class Void>
  std::vector<std::byte> place(AnyImage<Void>& view, DType type, const Spatial& e, Index channels) {
    const Index wide = channels + r_.pick<Index>({0, 0, 3, 16}), kind = r_.between(0, 3);
    view = kind == 0 ? AnyImage<Void>::channels_first(nullptr, type, batch_, e, channels)
                     : AnyImage<Void>::channels_last(nullptr, type, batch_, e, wide);
    view.channels = channels;
    if (kind == 1) {
      view.strides[1] += 7;
      view.strides[0] = view.strides[1] * e[1];
      view.batch_stride = view.strides[0] * e[0];
    }
    memory_size_ = 0;
    if (batch_ * view.positions() * channels == 0) return {};
    const Spatial last = {e[0] - 1, e[1] - 1, e[2] - 1};
    Index span = (batch_ - 1) * view.batch_stride + (channels - 1) * view.channel_stride + 1;
    for (std::size_t d = 0; d < 3; ++d) span += last[d] * view.strides[d];
    memory_size_ = static_cast<std::size_t>(span * size_of(type));
    std::vector<std::byte> bytes = random(type, span);
    view.data = bytes.data();
    return bytes;
  }

  std::int32_t zero_point(DType t) {
    const Index low = lowest(t), high = highest(t);
    return std::int32_t(r_.one_in(3) ? r_.pick({low, high}) : r_.between(low, high));
  }
  void choose_zero_points() {
    if (!r_.one_in(3)) p.a_zero_point = zero_point(p.a);
    if (r_.one_in(2)) return;
    const Index count = r_.one_in(2) ? 1 : p.out_channels;
    for (Index j = 0; j < count; ++j) {
      zeros_.push_back(r_.one_in(2) && p.b == DType::u8 ? 128 : zero_point(p.b));
    }
    p.b_zero_points = zeros_;
  }

  std::span<const float> floats(Index count, float low, float high) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& v : values) v = r_.uniform(low, high);
    arrays_.push_back(std::move(values));
    return arrays_.back();
  }
  void choose_epilogue() {
    Epilogue& e = p.epilogue;
    if (p.c == DType::s32) {
      if (r_.one_in(2)) add_bias();
      return;
    }
    if (!is_float(p.a)) {
      if (r_.one_in(2)) add_bias();
      const float most = r_.pick({0.002f, 0.02f, 0.9f, 3.0f, 1e30f});
      e.add(epilogue::scale(floats(r_.one_in(3) ? 1 : p.out_channels, most / 2, most)));
    } else if (r_.one_in(2)) {
      e.add(epilogue::bias(floats(p.out_channels, -1.0f, 1.0f)));
    }
    for (Index i = r_.between(0, 2); i > 0; --i) {
      e.add(r_.one_in(2) ? epilogue::relu()
                         : epilogue::clamp(r_.uniform(-60.0f, 3.0f), r_.uniform(3.0f, 60.0f)));
    }
    if (!r_.one_in(4)) return;
    switch (r_.between(0, 3)) {
      case 0:
        e.add(epilogue::custom(flip_signs));
        break;
      case 1:
        e.add(epilogue::row_scale());
        for (Index i = batch_ * out_[0] * out_[1] * out_[2]; i > 0; --i) {
          rows_.push_back(r_.uniform(-2.0f, 2.0f));
        }
        break;
      case 2:
        e.add(epilogue::residual(0.5f));
        residual_ = place(residual, r_.pick({DType::s8, DType::f32}), out_, p.out_channels);
        break;
      default:
        e.add(epilogue::bias(floats(p.out_channels, -9.0f, 9.0f)));
    }
  }
  void add_bias() {
    for (Index j = 0; j < p.out_channels; ++j) {
      bias_.push_back(std::int32_t(r_.between(-100000, 100000)));
    }
    p.epilogue.add(epilogue::bias(bias_));
  }

  Random r_;
  Index batch_ = 1;
  Spatial in_ = {1, 1, 1}, out_ = {};
  std::size_t memory_size_ = 0;
  std::vector<std::byte> weights_, a_, residual_, c_memory_, expected_;
  std::vector<std::int32_t> zeros_, bias_;
  std::vector<float> rows_;
  std::vector<std::vector<float>> arrays_;
};

}  // namespace

TEST_CASE("depthwise: random problems give the reference's bits on every target, and no more") {
  const std::vector<cpu::Backend> backends = cpu::Backend::all();
  Index not_empty = 0, failures = 0;
  const Index cases = support::scaled(1500);
  for (Index seed = 0; seed < cases && failures < 5; ++seed) {
    const Case c{std::uint64_t(seed)};
    not_empty += !c.empty();
    for (const cpu::Backend& backend : backends) {
      const std::string text = c.run(backend);
      failures += text != "";
      CHECK_MESSAGE(text == "", backend.name()
                                    << ", seed " << seed << ": " << text << ": " << c.describe());
    }
  }
  CHECK(not_empty > cases * 3 / 4);
}

TEST_CASE("depthwise: the bits do not depend on the executor") {
  ThreadPool three(3), five(5);
  const Parallel executors[] = {three, five};
  for (Index seed = 0; seed < support::scaled(150); ++seed) {
    const Case c{std::uint64_t(50000 + seed)};
    for (const Parallel& executor : executors) {
      const std::string text = c.run(cpu::Backend(), executor);
      CHECK_MESSAGE(text == "", "seed " << seed << ": " << text << ": " << c.describe());
    }
  }
}

TEST_CASE(
    "depthwise: saturated inputs and weights do not overflow, with the kernel for bytes too") {
  for (const DType type : {DType::u8, DType::s8}) {
    for (const std::int32_t za : {std::int32_t(lowest(type)), std::int32_t(highest(type))}) {
      ConvProblem p{.in_channels = 16, .out_channels = 16, .groups = 16, .kernel = {1, 4, 4}};
      p.pad_begin = p.pad_end = {0, 2, 2};
      p.a = type;
      p.a_zero_point = za;
      const std::vector<std::int8_t> b(16 * 16, -128);
      const std::vector<std::uint8_t> a(9 * 9 * 16, type == DType::u8 ? 255 : 0x80);
      std::vector<std::int32_t> expected(10 * 10 * 16), actual(expected.size());
      const FilterView weights = FilterView::inputs_last(b.data(), p);
      ConvArgs args{.a = ConstImageView::channels_last(a.data(), type, 1, {1, 9, 9}, 16),
                    .c = ImageView::channels_last(expected.data(), DType::s32, 1, {1, 10, 10}, 16)};
      reference_conv(p, weights, args);
      args.c.data = actual.data();
      for (const cpu::Backend& backend : cpu::Backend::all()) {
        const auto conv = prepare(backend, p, weights);
        REQUIRE(conv);
        const Workspace workspace(conv->workspace_bytes(100));
        CHECK_FALSE(conv->run(args, workspace));
        CHECK_MESSAGE(actual == expected, backend.name());
      }
    }
  }
}
