// Convolutions on the CPU: random ones against the reference on every target, and what run() and
// prepare() promise besides the result.
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "quern/core/thread_pool.hpp"
#include "quern/cpu/conv.hpp"
#include "quern/ops/conv_reference.hpp"
#include "quern/testing/gemm_compare.hpp"
#include "quern/testing/operands.hpp"
#include "support.hpp"

using namespace quern;
using quern::testing::Random;
using Kind = Step::Kind;

namespace {

/// Whether float sums are the reference's to the bit: not where there is no fused multiply-add.
bool has_fma(const cpu::Backend& backend) {
  const std::string name = backend.name();
  for (const char* without : {"SCALAR", "EMU128", "SSE2", "SSSE3", "SSE4"}) {
    if (name.starts_with(without)) return false;
  }
  return true;
}

AlignedBuffer copy(const AlignedBuffer& from) {
  AlignedBuffer to(from.size());
  if (from.size() != 0) std::memcpy(to.data(), from.data(), from.size());
  return to;
}

bool same_bytes(const AlignedBuffer& x, const AlignedBuffer& y) {
  return x.size() == y.size() && (x.size() == 0 || std::memcmp(x.data(), y.data(), x.size()) == 0);
}

template <class Void>
bool is_empty(const AnyImage<Void>& x) {
  return x.batch * x.positions() * x.channels == 0;
}

/// An image within 0xFF bytes: 64 and more before it, 64 after it, and those in its gaps.
struct Image {
  AlignedBuffer memory;
  Index offset = 0;
  ImageView view;

  ImageView in(const AlignedBuffer& other) const {
    ImageView v = view;
    if (v.data != nullptr) v.data = other.data() + offset;
    return v;
  }
};

Image place(ImageView v, Index skip) {
  Image image;
  image.view = v;
  if (is_empty(v)) return image;
  Index span = (v.batch - 1) * v.batch_stride + (v.channels - 1) * v.channel_stride + 1;
  for (std::size_t d = 0; d < 3; ++d) span += (v.extent[d] - 1) * v.strides[d];
  image.offset = 64 + skip * size_of(v.type);
  image.memory = AlignedBuffer(std::size_t(image.offset + span * size_of(v.type)) + 64);
  std::memset(image.memory.data(), 0xFF, image.memory.size());
  image.view.data = image.memory.data() + image.offset;
  return image;
}

/// Channels last, as a slice of an image with more of them: positions stay evenly spaced.
ImageView slice(Random& r, DType type, Index n, const Spatial& e, Index c) {
  const Index wide = c + (r.one_in(2) ? 0 : r.between(1, 21));
  ImageView v = ImageView::channels_last(nullptr, type, n, e, wide);
  v.channels = c;
  return v;
}

/// What an input may be: a slice; channels first; rows, planes and images with gaps; or every
/// dimension's stride in any order.
ImageView any_image(Random& r, DType type, Index n, const Spatial& e, Index c) {
  if (r.one_in(3)) return slice(r, type, n, e, c);
  if (r.one_in(3)) return ImageView::channels_first(nullptr, type, n, e, c);
  Index order[5] = {0, 1, 2, 3, 4}, strides[5] = {}, next = 1;  // channels, width, ..., batch
  const Index sizes[5] = {c, e[2], e[1], e[0], n};
  if (r.one_in(2)) {
    for (Index i = 4; i > 0; --i) std::swap(order[i], order[r.between(0, i)]);
  }
  for (const Index d : order) {
    next += r.one_in(3) ? r.between(0, 3) : 0;
    strides[d] = next;
    next *= sizes[d] > 0 ? sizes[d] : 1;
  }
  return {nullptr, type, n, e, c, strides[4], {strides[3], strides[2], strides[1]}, strides[0]};
}

/// As testing::fill_any() for a matrix (positions, channels).
void fill(Random& r, const ImageView& v, bool tame = false) {
  const Index rows = v.batch * v.positions();
  AlignedBuffer dense(std::size_t(rows * v.channels * size_of(v.type)));
  const MatrixView m(dense.data(), v.type, rows, v.channels);
  if (is_float(v.type) && tame) {
    testing::fill(m, [&](Index, Index, Index) { return double(r.uniform(-1.0f, 1.0f)); });
  } else {
    testing::fill_any(r, m);
  }
  for (Index row = 0; row < rows; ++row) {
    Index left = row;
    Spatial at = {};
    for (std::size_t d = 3; d-- > 0; left /= v.extent[d]) at[d] = left % v.extent[d];
    for (Index j = 0; j < v.channels; ++j) {
      std::memcpy(element(v, left, at, j), element(m, 0, row, j), std::size_t(size_of(v.type)));
    }
  }
}

/// A random convolution and one call of it.
class ConvCase {
 public:
  explicit ConvCase(std::uint64_t seed) : seed_(seed), r_(seed) {
    choose_types();
    choose_sizes();
    choose_weights();
    if (integer()) choose_zero_points();
    a_ = place(any_image(r_, p.a, batch_, in_, p.in_channels), r_.between(0, 3));
    fill(r_, a_.view, true);
    choose_epilogue();
    c_ = place(slice(r_, p.c, batch_, out_, p.out_channels), r_.between(0, 3));
    if (in_place_) fill(r_, c_.view, true);
  }
  ConvCase(const ConvCase&) = delete;

  ConvProblem p;
  FilterView weights() const {
    return last_ ? FilterView::inputs_last(weights_.data(), p)
                 : FilterView::inputs_first(weights_.data(), p);
  }
  AlignedBuffer memory() const { return copy(c_.memory); }
  ConvArgs args(const AlignedBuffer& c) const {
    ConvArgs args{.a = a_.view, .c = c_.in(c), .residual = residual_.view, .row_scales = rows_};
    if (in_place_) args.residual = args.c;
    return args;
  }
  Index positions() const { return batch_ * out_[0] * out_[1] * out_[2]; }
  bool integer() const { return is_int8(p.a); }
  bool empty() const { return is_empty(c_.view); }

  AlignedBuffer expected() const {
    AlignedBuffer c = memory();
    reference_conv(p, weights(), args(c));
    return c;
  }

  /// Where `actual` is not what is expected, or nothing. Inexact float sums may differ by what
  /// float_tolerance() grants the products behind them.
  std::string difference(const AlignedBuffer& expected, AlignedBuffer& actual, bool exact) const {
    if (same_bytes(expected, actual)) return {};
    if (exact || integer()) return "the bytes in and around c differ";
    const ConvArgs want = args(expected), got = args(actual);
    const Index n = p.group_outputs(), rows = positions();
    for (Index g = 0; g < p.groups; ++g) {
      std::vector<float> a, b;
      gather(g, a, b);
      const Index k = p.taps() * p.group_inputs();
      const ConstMatrixView w(b.data(), DType::f32, k, n);
      const auto matrix = [&](const auto& x) {
        return ConstMatrixView(static_cast<const std::byte*>(x.data) + g * n * size_of(x.type),
                               x.type, rows, n, pitch(x));
      };
      GemmArgs product{
          .a = ConstMatrixView(a.data(), DType::f32, rows, k), .c = {}, .row_scales = rows_};
      const AlignedBuffer before = memory();  // where the residual still is, if it is in place
      if (p.epilogue.has(Kind::residual)) product.residual = matrix(args(before).residual);
      const ConstMatrixView x = matrix(want.c), y = matrix(got.c);
      for (Index i = 0; i < rows; ++i) {
        for (Index j = 0; j < n; ++j) {
          const double off = std::fabs(double(load_float(x, 0, i, j)) - load_float(y, 0, i, j));
          if (!(off <= testing::float_tolerance(detail::group_gemm(p, g), w, product, 0, i, j))) {
            return "c[" + std::to_string(i) + ", " + std::to_string(g * n + j) + "] is off by " +
                   std::to_string(off);
          }
          const std::size_t size = std::size_t(size_of(p.c));
          std::memcpy(const_cast<std::byte*>(element(y, 0, i, j)), element(x, 0, i, j), size);
        }
      }
    }
    return same_bytes(expected, actual) ? "" : "bytes around c changed";
  }

  std::string describe() const {
    const auto s = [](const Spatial& x) {
      std::string text = "(";
      for (const Index e : x) text += std::to_string(e) + (&e == &x[2] ? ")" : ", ");
      return text;
    };
    std::string text = "seed " + std::to_string(seed_) + ": " + name(p.a) + " x " + name(p.b) +
                       " -> " + name(p.c) + ", " + std::to_string(p.in_channels) + " to " +
                       std::to_string(p.out_channels) + " channels in " + std::to_string(p.groups) +
                       " groups, " + std::to_string(batch_) + " images of " + s(in_) + ", kernel " +
                       s(p.kernel) + ", stride " + s(p.stride) + ", dilation " + s(p.dilation) +
                       ", pads " + s(p.pad_begin) + " and " + s(p.pad_end) + ", steps";
    for (const Step& step : p.epilogue) text += std::string(" ") + name(step.kind);
    return text;
  }

 private:
  void choose_types() {
    using D = DType;
    if (r_.one_in(3)) {
      p.a = r_.pick({D::f32, D::f32, D::bf16, D::f16});
      p.b = r_.pick({D::f32, D::f32, D::bf16, D::f16});
      p.c = r_.pick({D::f32, D::f32, D::bf16, D::f16, D::s8, D::u8});
    } else {
      p.a = r_.pick({D::u8, D::s8});
      p.b = r_.pick({D::u8, D::s8});
      p.c = r_.pick({D::s32, D::s32, D::s8, D::u8, D::f32, D::bf16, D::f16});
    }
    if (is_int8(p.c)) p.c_zero_point = zero_point(p.c);
  }

  void choose_sizes() {
    const bool depthwise = r_.one_in(5);
    p.groups = depthwise ? r_.pick<Index>({1, 3, 8, 17, 40}) : r_.one_in(3) ? r_.between(2, 5) : 1;
    const auto channels = [&] { return r_.pick<Index>({1, 2, 3, 4, 5, 7, 8, 13, 16, 31, 64, 67}); };
    const Index inputs = depthwise ? 1 : channels(),
                outputs = depthwise ? r_.between(1, 2) : channels();
    p.in_channels = p.groups * (r_.one_in(40) ? 0 : inputs);
    p.out_channels = p.groups * (r_.one_in(40) ? 0 : outputs);
    batch_ = r_.one_in(3) ? r_.between(0, 3) : 1;
    if (r_.one_in(6)) return choose_dense_3x3();
    const bool pointwise = r_.one_in(4);
    const std::size_t first = std::size_t(r_.pick({0, 1, 1, 1, 2}));  // 3D, 2D, 1D
    for (std::size_t d = first; d < 3; ++d) {
      in_[d] = r_.between(r_.one_in(20) ? 0 : 1, first == 0 ? 6 : 11);
      if (pointwise) continue;
      p.kernel[d] = r_.between(1, first == 2 ? 7 : 3);
      p.stride[d] = r_.between(1, 3);
      p.dilation[d] = r_.between(1, 3);
      const bool pads = !r_.one_in(3);
      p.pad_begin[d] = pads ? r_.between(0, 4) : 0;
      p.pad_end[d] = pads ? r_.between(0, 4) : 0;
    }
    if (!pointwise && r_.one_in(4)) pad_same(p, in_, r_.one_in(2));
    if (pointwise && r_.one_in(3)) p.stride[2] = 2;
    out_ = output_extent(p, in_);
  }

  /// Many channels, 3 x 3 and stride 1: there are faster ways than patches.
  void choose_dense_3x3() {
    p.groups = 1;
    p.in_channels = r_.pick<Index>({16, 16, 32, 48, 24});
    p.out_channels = r_.pick<Index>({16, 17, 31, 32, 50});
    p.kernel = {1, 3, 3};
    in_ = {r_.one_in(6) ? 2 : 1, r_.between(2, 13), r_.between(2, 13)};
    const bool same = r_.one_in(2);
    for (std::size_t d = 1; d < 3; ++d) {
      p.pad_begin[d] = same ? 1 : r_.between(0, 4);
      p.pad_end[d] = same ? 1 : r_.between(0, 4);
    }
    out_ = output_extent(p, in_);
  }

  /// Groups differ in the kind of their values: kernels may be chosen by them.
  void choose_weights() {
    last_ = r_.one_in(2);
    const Index k = p.taps() * p.group_inputs(), n = p.group_outputs();
    weights_ = AlignedBuffer(std::size_t(p.groups * n * k * size_of(p.b)));
    for (Index g = 0; g < p.groups && n * k > 0; ++g) {
      const MatrixView m(weights_.data() + g * n * k * size_of(p.b), p.b, k, n, 1, k);
      if (integer()) {
        testing::fill_integers(r_, m);
      } else {
        testing::fill(m, [&](Index, Index, Index) { return double(r_.uniform(-1.0f, 1.0f)); });
      }
    }
  }

  std::int32_t zero_point(DType t) {
    const Index low = lowest(t), high = highest(t);
    return std::int32_t(r_.one_in(3) ? r_.pick({low, high}) : r_.between(low, high));
  }

  void choose_zero_points() {
    if (!r_.one_in(3)) p.a_zero_point = zero_point(p.a);
    if (r_.one_in(2)) return;
    const Index count = r_.one_in(2) ? 1 : p.out_channels;
    for (Index j = 0; j < count; ++j) zeros_.push_back(zero_point(p.b));
    p.b_zero_points = zeros_;
  }

  std::span<const float> floats(Index count, float low, float high) {
    std::vector<float> values(std::size_t(count), 0.0f);
    for (float& v : values) v = r_.uniform(low, high);
    arrays_.push_back(std::move(values));
    return arrays_.back();
  }

  void choose_epilogue() {
    const Index n = p.out_channels;
    if (integer() && r_.one_in(2)) {
      for (Index j = 0; j < n; ++j) bias_.push_back(std::int32_t(r_.between(-100000, 100000)));
      p.epilogue.add(epilogue::bias(std::span<const std::int32_t>(bias_)));
    }
    if (p.c == DType::s32) return;
    if (integer() || r_.one_in(2)) {
      const float most = integer() ? 0.01f : is_int8(p.c) ? 60.0f : 2.0f;
      p.epilogue.add(epilogue::scale(floats(r_.one_in(3) ? 1 : n, most / 50, most)));
    }
    for (Index steps = r_.between(0, 4); steps > 0; --steps) {
      switch (r_.between(0, 6)) {
        case 0:
          p.epilogue.add(epilogue::bias(floats(n, -20, 20)));
          break;
        case 1:
          p.epilogue.add(epilogue::relu());
          break;
        case 2:
          p.epilogue.add(epilogue::clamp(-30.0f, r_.uniform(-20.0f, 60.0f)));
          break;
        case 3:
          p.epilogue.add(r_.pick({epilogue::gelu(), epilogue::gelu_tanh(), epilogue::silu()}));
          break;
        case 4:
          if (rows_.empty()) {
            for (Index i = 0; i < positions(); ++i) rows_.push_back(r_.uniform(-2.0f, 2.0f));
          }
          p.epilogue.add(epilogue::row_scale());
          break;
        case 5:
          add_residual();
          break;
        default:
          if (p.groups == 1) p.epilogue.add(epilogue::custom(flip_signs));
      }
    }
  }

  void add_residual() {
    using D = DType;
    if (!p.epilogue.has(Kind::residual)) {
      in_place_ = r_.one_in(2);
      const D type = in_place_ ? p.c : r_.pick({D::s8, D::u8, D::s32, D::f32, D::bf16, D::f16});
      if (!in_place_) {
        residual_ = place(slice(r_, type, batch_, out_, p.out_channels), r_.between(0, 3));
        fill(r_, residual_.view, true);
      }
      residual_type_ = type;
    }
    p.epilogue.add(epilogue::residual(residual_type_ == D::s32 ? 0x1p-25f : 0.75f,
                                      is_int8(residual_type_) ? zero_point(residual_type_) : 0));
  }

  /// Exact, and shows which position and channel it is told.
  static void flip_signs(const void*, float* values, Index row, Index col, Index count) {
    for (Index i = 0; i < count; ++i) {
      if ((row + col + i) % 3 == 0) values[i] = -values[i];
    }
  }

  /// The patches and the weights of one group as matrices of floats.
  void gather(Index g, std::vector<float>& a, std::vector<float>& b) const {
    const auto load = [](const void* at, DType type) {
      return load_float(ConstMatrixView(at, type, 1, 1), 0, 0, 0);
    };
    const Index inputs = p.group_inputs(), n = p.group_outputs();
    const FilterView w = weights();
    for (Index row = 0; row < positions(); ++row) {
      for (Index t = 0; t < p.taps(); ++t) {
        Index left = row, tap = t;
        Spatial at = {};
        bool inside = true;
        for (std::size_t d = 3; d-- > 0; left /= out_[d], tap /= p.kernel[d]) {
          at[d] = left % out_[d] * p.stride[d] + tap % p.kernel[d] * p.dilation[d] - p.pad_begin[d];
          inside &= at[d] >= 0 && at[d] < in_[d];
        }
        for (Index i = 0; i < inputs; ++i) {
          a.push_back(inside ? load(element(a_.view, left, at, g * inputs + i), p.a) : 0.0f);
        }
      }
    }
    for (Index t = 0; t < p.taps(); ++t) {
      const Index x = t % p.kernel[2], y = t / p.kernel[2] % p.kernel[1],
                  z = t / p.kernel[2] / p.kernel[1];
      for (Index i = 0; i < inputs; ++i) {
        for (Index j = g * n; j < (g + 1) * n; ++j) {
          const Index offset = j * w.out_stride + z * w.strides[0] + y * w.strides[1] +
                               x * w.strides[2] + i * w.in_stride;
          b.push_back(load(static_cast<const std::byte*>(w.data) + offset * size_of(p.b), p.b));
        }
      }
    }
  }

  std::uint64_t seed_;
  Random r_;
  Index batch_ = 1;
  Spatial in_ = {1, 1, 1}, out_ = {};
  bool last_ = false, in_place_ = false;
  DType residual_type_ = DType::f32;
  AlignedBuffer weights_;
  Image a_, c_, residual_;
  std::vector<std::int32_t> zeros_, bias_;
  std::vector<float> rows_;
  std::vector<std::vector<float>> arrays_;  // scales and biases, wherever the steps point
};

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
    AlignedBuffer expected = c.memory();
    const Error problem = validate(c.p), call = validate(c.p, c.args(expected));
    REQUIRE_MESSAGE(!problem, problem << ", " << c.describe());
    REQUIRE_MESSAGE(!call, call << ", " << c.describe());
    expected = c.expected();
    not_empty += !c.empty();
    for (const cpu::Backend& backend : backends) {
      const auto conv = prepare(backend, c.p, c.weights());
      REQUIRE_MESSAGE(conv, conv.error() << ", " << c.describe());
      AlignedBuffer actual = c.memory();
      const Workspace workspace(conv->workspace_bytes(c.positions()));
      const Error e = conv->run(c.args(actual), workspace);
      const std::string difference =
          e ? std::string(e.what()) : c.difference(expected, actual, has_fma(backend));
      failures += difference != "";
      CHECK_MESSAGE(difference == "", backend.name() << ", " << c.describe());
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
  v.problem.in_channels = 4;
  v.problem.out_channels = 8;
  v.problem.c = DType::f32;
  v.problem.epilogue = {epilogue::custom([](const void*, float*, Index, Index, Index) {})};
  const Error custom = prepare(cpu::Backend(), v.problem, v.weights()).error();
  CHECK(custom.code() == Code::unsupported);
  CHECK(support::says(custom, "custom steps with 2 groups"));
}
