// Convolution in one, two or three dimensions:
//
//   C[n, o, j] = epilogue( sum over k, i of (A[n, o * stride + k * dilation - pad, i] - za)
//                                           * (B[j, k, i] - zb[j]) )
//
// with o and k running over positions and i over the input channels of j's group. Where the input
// index falls outside the image, A is za (of floats, 0). This file says what is wanted and what is
// refused; what the result means, to the bit, is reference_conv() in ops/conv_reference.hpp.
#pragma once

#include <array>
#include <utility>

#include "quern/core/memory.hpp"
#include "quern/ops/gemm.hpp"

namespace quern {
inline namespace QUERN_ABI {

/// Depth, height, width. Images have height and width, sequences width: the others are 1 (sizes) or
/// 0 (padding).
using Spatial = std::array<Index, 3>;

/// A convolution with fixed weights, any number of images and any extent of them. Types, zero
/// points and epilogues as in GemmProblem, with output channels for columns and output positions,
/// image by image, for rows; floats are not quantized on the way.
struct ConvProblem {
  Index in_channels = 0;
  Index out_channels = 0;
  Index groups = 1;  ///< divides both; in_channels of them, with any multiple out: depthwise
  Spatial kernel = {1, 1, 1};
  Spatial stride = {1, 1, 1};
  Spatial dilation = {1, 1, 1};
  Spatial pad_begin = {0, 0, 0}, pad_end = {0, 0, 0};
  DType a = DType::u8;
  DType b = DType::s8;
  DType c = DType::s32;
  std::int32_t a_zero_point = 0;
  std::span<const std::int32_t> b_zero_points = {};  ///< none, one, or out_channels
  std::int32_t c_zero_point = 0;
  Overflow overflow = Overflow::refuse;
  Epilogue epilogue = {};

  Index taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  Index group_inputs() const { return in_channels / groups; }
  Index group_outputs() const { return out_channels / groups; }
};

/// A batch of images whose element type is known at run time; element (n, position, channel) is at
/// n * batch_stride + sum of position * strides + channel * channel_stride, in elements.
template <class Void>
struct AnyImage {
  Void* data = nullptr;
  DType type = DType::f32;
  Index batch = 0;
  Spatial extent = {1, 1, 1};
  Index channels = 0;
  Index batch_stride = 0;
  Spatial strides = {0, 0, 0};
  Index channel_stride = 1;

  constexpr AnyImage() = default;
  constexpr AnyImage(Void* d, DType t, Index n, const Spatial& e, Index c, Index bs,
                     const Spatial& s, Index cs)
      : data(d),
        type(t),
        batch(n),
        extent(e),
        channels(c),
        batch_stride(bs),
        strides(s),
        channel_stride(cs) {}
  template <class V>
  requires(std::is_const_v<Void>&& std::is_same_v<V, void>) constexpr AnyImage(const AnyImage<V>& i)
      : AnyImage(i.data, i.type, i.batch, i.extent, i.channels, i.batch_stride, i.strides,
                 i.channel_stride) {}

  constexpr Index positions() const { return extent[0] * extent[1] * extent[2]; }

  /// Channels last: NWC, NHWC, NDHWC.
  static constexpr AnyImage channels_last(Void* d, DType t, Index n, const Spatial& e, Index c) {
    const auto mul = wrapping_multiply;
    const Index w = c, h = mul(e[2], w), z = mul(e[1], h);
    return {d, t, n, e, c, mul(e[0], z), {z, h, w}, 1};
  }
  /// Channels first: NCW, NCHW, NCDHW.
  static constexpr AnyImage channels_first(Void* d, DType t, Index n, const Spatial& e, Index c) {
    const auto mul = wrapping_multiply;
    const Index h = e[2], z = mul(e[1], h), plane = mul(e[0], z);
    return {d, t, n, e, c, mul(c, plane), {z, h, 1}, plane};
  }
};

using ConstImageView = AnyImage<const void>;
using ImageView = AnyImage<void>;

/// From one position to the next, if there is more than one position in a row of them.
template <class Void>
constexpr Index pitch(const AnyImage<Void>& x) {
  return x.extent[2] > 1   ? x.strides[2]
         : x.extent[1] > 1 ? x.strides[1]
         : x.extent[0] > 1 ? x.strides[0]
         : x.batch > 1     ? x.batch_stride
                           : x.channels;
}

/// Whether the positions of all images are evenly spaced, so that they are rows of a matrix.
template <class Void>
constexpr bool rows_are_even(const AnyImage<Void>& x) {
  if (x.batch == 0 || x.positions() == 0) return true;
  Index next = pitch(x);
  const Index sizes[4] = {x.extent[2], x.extent[1], x.extent[0], x.batch};
  const Index strides[4] = {x.strides[2], x.strides[1], x.strides[0], x.batch_stride};
  for (int d = 0; d < 4; ++d) {
    if (sizes[d] > 1 && strides[d] != next) return false;
    next = wrapping_multiply(next, sizes[d]);
  }
  return true;
}

/// Weights: element (out channel, position in the kernel, input channel of the group).
struct FilterView {
  const void* data = nullptr;
  DType type = DType::s8;
  Index out_stride = 0;
  Spatial strides = {0, 0, 0};
  Index in_stride = 1;

  /// OHWI, and likewise with one and three dimensions: input channels innermost.
  static FilterView inputs_last(const void* data, const ConvProblem& p) {
    const Index w = p.group_inputs(), h = w * p.kernel[2], d = h * p.kernel[1];
    return {data, p.b, d * p.kernel[0], {d, h, w}, 1};
  }
  /// OIHW, as ONNX and PyTorch have it.
  static FilterView inputs_first(const void* data, const ConvProblem& p) {
    const Index h = p.kernel[2], d = h * p.kernel[1], plane = d * p.kernel[0];
    return {data, p.b, p.group_inputs() * plane, {d, h, 1}, plane};
  }
};

/// One call.
struct ConvArgs {
  ConstImageView a;                        ///< any strides that keep its elements apart
  ImageView c;                             ///< extent output_extent(), channel_stride 1, even rows
  ConstImageView residual = {};            ///< the same, if a step adds it; may be c itself
  std::span<const float> row_scales = {};  ///< batch * positions of c, if a step multiplies by them
};

/// Positions of the output along one dimension: 0 where the kernel does not fit.
constexpr Index output_extent(Index in, Index kernel, Index stride, Index dilation, Index pads) {
  const Index last = in + pads - dilation * (kernel - 1) - 1;
  return last < 0 || in < 0 ? 0 : last / stride + 1;
}
/// Of the output for an input of this extent.
constexpr Spatial output_extent(const ConvProblem& p, const Spatial& in) {
  Spatial out = {};
  for (std::size_t d = 0; d < 3; ++d) {
    out[d] = output_extent(in[d], p.kernel[d], p.stride[d], p.dilation[d],
                           p.pad_begin[d] + p.pad_end[d]);
  }
  return out;
}

/// ONNX's auto_pad for inputs of this extent: the output has in / stride positions, rounded up; of
/// an odd number of pads the last is at the end (SAME_UPPER) or at the beginning (SAME_LOWER).
inline void pad_same(ConvProblem& p, const Spatial& in, bool lower = false) {
  for (std::size_t d = 0; d < 3; ++d) {
    const Index out = divide_up(in[d], p.stride[d]);
    const Index needed = (out - 1) * p.stride[d] + p.dilation[d] * (p.kernel[d] - 1) + 1 - in[d];
    const Index pads = needed > 0 ? needed : 0, less = pads / 2;
    p.pad_begin[d] = lower ? pads - less : less;
    p.pad_end[d] = pads - p.pad_begin[d];
  }
}

namespace detail {

/// The product that computes one group: rows are output positions, k runs over (position in the
/// kernel, input channel).
inline GemmProblem group_gemm(const ConvProblem& p, Index group) {
  GemmProblem g{.n = p.group_outputs(),
                .k = p.taps() * p.group_inputs(),
                .a = p.a,
                .b = p.b,
                .c = p.c,
                .a_zero_point = p.a_zero_point,
                .b_zero_points = p.b_zero_points,
                .c_zero_point = p.c_zero_point,
                .overflow = p.overflow,
                .epilogue = p.epilogue};
  const Index first = group * g.n;
  if (p.b_zero_points.size() > 1) {
    g.b_zero_points =
        p.b_zero_points.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(g.n));
  }
  for (Index i = 0; i < g.epilogue.count && i < Epilogue::kMaxSteps; ++i) {
    Step& s = g.epilogue.steps[i];
    if (!s.has_values() || s.count != p.out_channels || p.groups == 1) continue;
    s.data = static_cast<const std::uint32_t*>(s.data) + first;  // s32 or f32
    s.count = g.n;
  }
  return g;
}

/// Bytes from the first element to one past the last, and that no two elements share an address.
template <class Void>
Error check_image(const AnyImage<Void>& x, const char* what, Index* bytes) noexcept {
  *bytes = 0;
  if (!is_known(x.type)) {
    return Error::make(Code::unsupported, "%s has type %d, which is none", what, int(x.type));
  }
  const Index sizes[5] = {x.batch, x.extent[0], x.extent[1], x.extent[2], x.channels};
  const Index strides[5] = {x.batch_stride, x.strides[0], x.strides[1], x.strides[2],
                            x.channel_stride};
  bool empty = false;
  for (const Index s : sizes) {
    if (s < 0) {
      return Error::make(
          Code::bad_shape, "%s is %lld x (%lld, %lld, %lld) x %lld: extents cannot be negative",
          what, LL(x.batch), LL(x.extent[0]), LL(x.extent[1]), LL(x.extent[2]), LL(x.channels));
    }
    empty |= s == 0;
  }
  if (empty) return {};
  // From the smallest stride up, each must step over everything before it.
  int order[5] = {0, 1, 2, 3, 4};
  for (int i = 1; i < 5; ++i) {
    for (int j = i; j > 0 && strides[order[j]] < strides[order[j - 1]]; --j) {
      std::swap(order[j], order[j - 1]);
    }
  }
  Index span = 1;  // elements from the first to the last
  for (const int d : order) {
    if (sizes[d] == 1) continue;
    if (strides[d] < span) {
      return Error::make(Code::bad_shape,
                         "%s has strides %lld (batch), %lld, %lld, %lld, %lld (channels): its "
                         "elements overlap",
                         what, LL(strides[0]), LL(strides[1]), LL(strides[2]), LL(strides[3]),
                         LL(strides[4]));
    }
    Index step = 0;
    if (!multiply_fits(sizes[d] - 1, strides[d], &step) ||
        __builtin_add_overflow(span, step, &span)) {
      return Error::make(Code::bad_shape, "%s overflows 63 bits", what);
    }
  }
  if (!multiply_fits(span, size_of(x.type), bytes)) {
    return Error::make(Code::bad_shape, "%s overflows 63 bits", what);
  }
  if (x.data == nullptr) return Error::make(Code::bad_data, "%s is null", what);
  const auto low_bits = static_cast<std::uintptr_t>(size_of(x.type)) - 1;
  if ((reinterpret_cast<std::uintptr_t>(x.data) & low_bits) != 0) {
    return Error::make(Code::bad_data, "%s at %p is not aligned for %s", what,
                       static_cast<const void*>(x.data), name(x.type));
  }
  return {};
}

inline bool apart(const void* x, Index x_bytes, const void* y, Index y_bytes) {
  const auto x0 = reinterpret_cast<std::uintptr_t>(x), y0 = reinterpret_cast<std::uintptr_t>(y);
  return x0 + std::uintptr_t(x_bytes) <= y0 || y0 + std::uintptr_t(y_bytes) <= x0;
}

}  // namespace detail

/// Everything that can be wrong with the description alone.
inline Error validate(const ConvProblem& p) {
  using detail::LL;
  constexpr Index kMostGroups = Index{1} << 24;
  constexpr Index kMost = Index{1} << 40;  // of any size here: products of two stay below 2^63
  if (p.in_channels < 0 || p.out_channels < 0 || p.in_channels > kMost || p.out_channels > kMost) {
    return Error::make(Code::bad_shape,
                       "conv: %lld input and %lld output channels; 0 to 2^40 are possible",
                       LL(p.in_channels), LL(p.out_channels));
  }
  if (p.groups > kMostGroups) {
    return Error::make(Code::bad_shape, "conv: %lld groups; 1 to 2^24 are possible", LL(p.groups));
  }
  if (p.groups < 1 || p.in_channels % p.groups != 0 || p.out_channels % p.groups != 0) {
    return Error::make(Code::bad_shape,
                       "conv: %lld groups must divide %lld input and %lld output channels",
                       LL(p.groups), LL(p.in_channels), LL(p.out_channels));
  }
  constexpr const char* kNames[] = {"depth", "height", "width"};
  for (std::size_t d = 0; d < 3; ++d) {
    if (p.kernel[d] < 1 || p.stride[d] < 1 || p.dilation[d] < 1 || p.kernel[d] > kMost ||
        p.stride[d] > kMost || p.dilation[d] > kMost) {
      return Error::make(
          Code::bad_shape,
          "conv: along the %s, kernel is %lld, stride %lld, dilation %lld; 1 to 2^40 "
          "are possible",
          kNames[d], LL(p.kernel[d]), LL(p.stride[d]), LL(p.dilation[d]));
    }
    if (p.pad_begin[d] < 0 || p.pad_end[d] < 0 || p.pad_begin[d] > kMost || p.pad_end[d] > kMost) {
      return Error::make(Code::bad_shape,
                         "conv: along the %s, %lld and %lld are padded; 0 to 2^40 are possible",
                         kNames[d], LL(p.pad_begin[d]), LL(p.pad_end[d]));
    }
    Index reach = 0;
    if (!multiply_fits(p.kernel[d] - 1, p.dilation[d], &reach) || reach > kMost) {
      return Error::make(Code::bad_shape,
                         "conv: along the %s, a kernel of %lld with dilation %lld spans more than "
                         "2^40",
                         kNames[d], LL(p.kernel[d]), LL(p.dilation[d]));
    }
  }
  Index taps = 0, k = 0;
  if (!multiply_fits(p.kernel[0], p.kernel[1], &taps) || !multiply_fits(taps, p.kernel[2], &taps) ||
      !multiply_fits(taps, p.group_inputs(), &k)) {
    return Error::make(Code::bad_shape, "conv: a kernel of %lld x %lld x %lld x %lld overflows",
                       LL(p.kernel[0]), LL(p.kernel[1]), LL(p.kernel[2]), LL(p.group_inputs()));
  }
  if (is_float(p.a) && is_int8(p.b)) {
    return Error::make(Code::unsupported, "conv: %s x %s is not offered", name(p.a), name(p.b));
  }
  const Index zeros = std::ssize(p.b_zero_points);
  if (zeros > 1 && zeros != p.out_channels) {
    return Error::make(Code::bad_shape,
                       "conv: b has %lld zero points; 0, 1 or out_channels = %lld are possible",
                       LL(zeros), LL(p.out_channels));
  }
  for (const Step& s : p.epilogue) {
    const bool one = s.kind == Step::Kind::scale && s.count == 1;
    if (s.has_values() && !one && s.count != p.out_channels) {
      return Error::make(Code::bad_shape, "conv: step %s has %lld values for %lld output channels",
                         name(s.kind), LL(s.count), LL(p.out_channels));
    }
  }
  // The rest is as in the products: types, steps, zero points, the bound of the sums.
  for (Index g = 0; g < p.groups && p.out_channels > 0; ++g) {
    if (Error e = validate(detail::group_gemm(p, g))) return e;
  }
  return p.out_channels == 0 ? validate(detail::group_gemm(p, 0)) : Error();
}

/// One call of a valid problem. Never allocates, reads nothing but the arguments.
inline Error validate(const ConvProblem& p, const ConvArgs& args) noexcept {
  using detail::LL;
  const ConstImageView a = args.a, c = args.c, r = args.residual;
  if (a.type != p.a || c.type != p.c) {
    return Error::make(Code::unsupported,
                       "conv: a and c hold %s and %s but the problem says %s and %s", name(a.type),
                       name(c.type), name(p.a), name(p.c));
  }
  constexpr Index kMost = Index{1} << 40;
  for (const Index e : a.extent) {
    if (e > kMost)
      return Error::make(Code::bad_shape, "conv: a has an extent of %lld, above 2^40", LL(e));
  }
  Index a_bytes = 0, c_bytes = 0, r_bytes = 0;
  if (Error e = detail::check_image(a, "conv: a", &a_bytes)) return e;
  if (Error e = detail::check_image(c, "conv: c", &c_bytes)) return e;
  if (a.channels != p.in_channels || c.channels != p.out_channels) {
    return Error::make(Code::bad_shape,
                       "conv: a and c have %lld and %lld channels, not %lld and %lld",
                       LL(a.channels), LL(c.channels), LL(p.in_channels), LL(p.out_channels));
  }
  const Spatial out = output_extent(p, a.extent);
  if (c.extent != out || c.batch != a.batch) {
    return Error::make(Code::bad_shape,
                       "conv: c is %lld x (%lld, %lld, %lld) but must be %lld x (%lld, %lld, %lld)",
                       LL(c.batch), LL(c.extent[0]), LL(c.extent[1]), LL(c.extent[2]), LL(a.batch),
                       LL(out[0]), LL(out[1]), LL(out[2]));
  }
  if (c.channels > 1 && c.channel_stride != 1) {
    return Error::make(Code::unsupported, "conv: c has channel stride %lld; only 1 is offered",
                       LL(c.channel_stride));
  }
  if (!rows_are_even(c)) {
    return Error::make(Code::unsupported,
                       "conv: c has strides %lld (batch), %lld, %lld, %lld: only evenly spaced "
                       "positions are offered",
                       LL(c.batch_stride), LL(c.strides[0]), LL(c.strides[1]), LL(c.strides[2]));
  }
  Index rows = 0;
  if (!multiply_fits(out[0], out[1], &rows) || !multiply_fits(rows, out[2], &rows) ||
      !multiply_fits(rows, a.batch, &rows)) {
    return Error::make(Code::bad_shape, "conv: the output's positions overflow 63 bits");
  }
  if (a_bytes != 0 && c_bytes != 0 && !detail::apart(a.data, a_bytes, c.data, c_bytes)) {
    return Error::make(Code::bad_data, "conv: c at %p overlaps a at %p", c.data, a.data);
  }
  if (p.epilogue.has(Step::Kind::residual)) {
    if (Error e = detail::check_image(r, "conv: residual", &r_bytes)) return e;
    if (r.batch != c.batch || r.extent != c.extent || r.channels != c.channels) {
      return Error::make(
          Code::bad_shape, "conv: residual is %lld x (%lld, %lld, %lld) x %lld, unlike c",
          LL(r.batch), LL(r.extent[0]), LL(r.extent[1]), LL(r.extent[2]), LL(r.channels));
    }
    if (r.channels > 1 && r.channel_stride != 1) {
      return Error::make(Code::unsupported,
                         "conv: residual has channel stride %lld; only 1 is offered",
                         LL(r.channel_stride));
    }
    if (!rows_are_even(r)) {
      return Error::make(Code::unsupported,
                         "conv: residual has strides %lld (batch), %lld, %lld, %lld: only evenly "
                         "spaced positions are offered",
                         LL(r.batch_stride), LL(r.strides[0]), LL(r.strides[1]), LL(r.strides[2]));
    }
    const bool same = r.data == c.data && r.type == c.type && r.strides == c.strides &&
                      r.batch_stride == c.batch_stride;
    if (!same && r_bytes != 0 && !detail::apart(r.data, r_bytes, c.data, c_bytes)) {
      return Error::make(Code::bad_data,
                         "conv: c at %p overlaps residual at %p without being the same view",
                         c.data, r.data);
    }
  }
  if (p.epilogue.has(Step::Kind::row_scale) && std::ssize(args.row_scales) != rows) {
    return Error::make(Code::bad_shape, "conv: %lld row scales for %lld output positions",
                       LL(args.row_scales.size()), LL(rows));
  }
  return {};
}

}  // namespace QUERN_ABI
}  // namespace quern
