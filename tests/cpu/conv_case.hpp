// Random convolutions for the tests of the CPU's.
#pragma once

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "quern/cpu/conv.hpp"
#include "quern/ops/conv_reference.hpp"
#include "quern/testing/gemm_compare.hpp"
#include "quern/testing/operands.hpp"
#include "support.hpp"

namespace conv_case {

using namespace quern;
using quern::testing::Random;
using Kind = Step::Kind;

/// Whether float sums are the reference's to the bit: not where there is no fused multiply-add.
inline bool has_fma(const cpu::Backend& backend) {
  const std::string name = backend.name();
  for (const char* without : {"SCALAR", "EMU128", "SSE2", "SSSE3", "SSE4"}) {
    if (name.starts_with(without)) return false;
  }
  return true;
}

inline AlignedBuffer copy(const AlignedBuffer& from) {
  AlignedBuffer to(from.size());
  if (from.size() != 0) std::memcpy(to.data(), from.data(), from.size());
  return to;
}

inline bool same_bytes(const AlignedBuffer& x, const AlignedBuffer& y) {
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

inline Image place(ImageView v, Index skip) {
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
inline ImageView slice(Random& r, DType type, Index n, const Spatial& e, Index c) {
  const Index wide = c + (r.one_in(2) ? 0 : r.between(1, 21));
  ImageView v = ImageView::channels_last(nullptr, type, n, e, wide);
  v.channels = c;
  return v;
}

/// What an image may be: a slice; channels first; rows, planes and images with gaps; or every
/// dimension's stride in any order.
inline ImageView any_image(Random& r, DType type, Index n, const Spatial& e, Index c) {
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

/// Every element of an image as a matrix (positions, channels).
inline AlignedBuffer dense(const ConstImageView& v) {
  const Index size = size_of(v.type), rows = v.batch * v.positions();
  AlignedBuffer all(std::size_t(rows * v.channels * size));
  for (Index row = 0; row < rows; ++row) {
    Index left = row;
    Spatial at = {};
    for (std::size_t d = 3; d-- > 0; left /= v.extent[d]) at[d] = left % v.extent[d];
    for (Index j = 0; j < v.channels; ++j) {
      std::memcpy(all.data() + (row * v.channels + j) * size, element(v, left, at, j),
                  std::size_t(size));
    }
  }
  return all;
}

/// As testing::fill_any() for a matrix (positions, channels).
inline void fill(Random& r, const ImageView& v, bool tame = false) {
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

enum class Outputs { even_rows, any };

/// A random convolution and one call of it.
class ConvCase {
 public:
  explicit ConvCase(std::uint64_t seed, Outputs outputs = Outputs::even_rows,
                    bool transposed = false)
      : seed_(seed), outputs_(outputs), r_(seed) {
    p.transposed = transposed;
    choose_types();
    choose_sizes();
    choose_weights();
    if (integer()) choose_zero_points();
    a_ = place(any_image(r_, p.a, batch_, in_, p.in_channels), r_.between(0, 3));
    fill(r_, a_.view, true);
    choose_epilogue();
    c_ = place(output(p.c), r_.between(0, 3));
    if (in_place_) fill(r_, c_.view, true);
  }
  ConvCase(const ConvCase&) = delete;

  ConvProblem p;
  FilterView weights() const {
    return last_          ? FilterView::inputs_last(weights_.data(), p)
           : p.transposed ? FilterView::transposed(weights_.data(), p)
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
    const Index n = p.group_outputs(), rows = positions(), k = p.taps() * p.group_inputs();
    const bool adds = p.epilogue.has(Kind::residual);
    const AlignedBuffer before = memory();  // where the residual still is, if it is in place
    const ConstImageView r = args(before).residual;
    const AlignedBuffer residual = adds ? dense(r) : AlignedBuffer();
    for (Index g = 0; g < p.groups; ++g) {
      std::vector<float> a, b;
      gather(g, a, b);
      const ConstMatrixView w(b.data(), DType::f32, k, n);
      GemmProblem problem = detail::group_gemm(p, g);
      problem.k = k;
      GemmArgs product{
          .a = ConstMatrixView(a.data(), DType::f32, rows, k), .c = {}, .row_scales = rows_};
      if (adds) {
        product.residual = ConstMatrixView(residual.data() + g * n * size_of(r.type), r.type, rows,
                                           n, p.out_channels);
      }
      for (Index i = 0; i < rows; ++i) {
        Index image = i;
        Spatial at = {};
        for (std::size_t d = 3; d-- > 0; image /= out_[d]) at[d] = image % out_[d];
        for (Index j = 0; j < n; ++j) {
          const void* x = element(want.c, image, at, g * n + j);
          void* y = element(got.c, image, at, g * n + j);
          const auto value = [&](const void* e) {
            return double(load_float(ConstMatrixView(e, p.c, 1, 1), 0, 0, 0));
          };
          const double off = std::fabs(value(x) - value(y));
          if (!(off <= testing::float_tolerance(problem, w, product, 0, i, j))) {
            return "c[" + std::to_string(i) + ", " + std::to_string(g * n + j) + "] is off by " +
                   std::to_string(off);
          }
          std::memcpy(y, x, std::size_t(size_of(p.c)));
        }
      }
    }
    return same_bytes(expected, actual) ? "" : "bytes around c changed";
  }

  /// What is wrong on each of these, with a description.
  std::vector<std::string> failures(const std::vector<cpu::Backend>& backends) const {
    std::vector<std::string> all;
    AlignedBuffer want = memory();
    for (const Error& e : {validate(p), validate(p, args(want))}) {
      if (e) return {e.what() + (": " + describe())};
    }
    want = expected();
    for (const cpu::Backend& backend : backends) {
      const auto conv = prepare(backend, p, weights());
      if (!conv) return {conv.error().what() + (": " + describe())};
      AlignedBuffer actual = memory();
      const Workspace workspace(conv->workspace_bytes(positions()));
      const Error e = conv->run(args(actual), workspace);
      const std::string text =
          e ? std::string(e.what()) : difference(want, actual, has_fma(backend));
      if (text != "") all.push_back(backend.name() + ": " + text + ": " + describe());
    }
    return all;
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
                       ", pads " + s(p.pad_begin) + " and " + s(p.pad_end);
    if (p.transposed) text += ", transposed, " + s(p.output_pad) + " more";
    if (outputs_ == Outputs::any) {
      const ImageView& c = c_.view;
      text += ", strides of c " + std::to_string(c.batch_stride) + " " + s(c.strides) + " " +
              std::to_string(c.channel_stride);
    }
    text += ", steps";
    for (const Step& step : p.epilogue) text += std::string(" ") + name(step.kind);
    return text;
  }

 private:
  ImageView output(DType type) {
    return outputs_ == Outputs::any ? any_image(r_, type, batch_, out_, p.out_channels)
                                    : slice(r_, type, batch_, out_, p.out_channels);
  }

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
    if (!p.transposed && r_.one_in(6)) return choose_dense_3x3();
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
      if (p.transposed) choose_output_pad(d);
    }
    if (!pointwise && r_.one_in(4)) pad_same(p, in_, r_.one_in(2));
    if (pointwise && r_.one_in(3)) p.stride[2] = r_.between(2, 4);
    out_ = output_extent(p, in_);
  }

  void choose_output_pad(std::size_t d) {
    const Index limit = p.stride[d] > p.dilation[d] ? p.stride[d] : p.dilation[d];
    if (r_.one_in(2)) p.output_pad[d] = r_.between(0, limit - 1);
    // Few outputs should have nothing left.
    const Index all =
        transposed_extent(in_[d], p.kernel[d], p.stride[d], p.dilation[d], p.output_pad[d], 0);
    if (p.pad_begin[d] + p.pad_end[d] >= all && !r_.one_in(8)) p.pad_begin[d] = p.pad_end[d] = 0;
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
          p.epilogue.add(epilogue::custom(flip_signs));
      }
    }
  }

  void add_residual() {
    using D = DType;
    if (!p.epilogue.has(Kind::residual)) {
      in_place_ = r_.one_in(2);
      const D type = in_place_ ? p.c : r_.pick({D::s8, D::u8, D::s32, D::f32, D::bf16, D::f16});
      if (!in_place_) {
        residual_ = place(output(type), r_.between(0, 3));
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
        Spatial o = {}, k = {}, at = {};
        for (std::size_t d = 3; d-- > 0; left /= out_[d], tap /= p.kernel[d]) {
          o[d] = left % out_[d];
          k[d] = tap % p.kernel[d];
        }
        bool inside = detail::meets(p, o, k, &at);
        for (std::size_t d = 0; d < 3; ++d) inside &= at[d] >= 0 && at[d] < in_[d];
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
          const Index offset = w.offset(g, j, {z, y, x}, i);
          b.push_back(load(static_cast<const std::byte*>(w.data) + offset * size_of(p.b), p.b));
        }
      }
    }
  }

  std::uint64_t seed_;
  Outputs outputs_;
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

}  // namespace conv_case
