// Convolution in one, two or three dimensions:
//
//   C[n, o, j] = epilogue( sum over k, i of (A[n, o * stride + k * dilation - pad, i] - za)
//                                           * (B[j, k, i] - zb[j]) )
//
// with o and k running over positions and i over the input channels of j's group. Where the input
// index falls outside the image, A is za (of floats, 0). A transposed convolution goes the other
// way, as ONNX's ConvTranspose: its sum is over those i and k of A[n, i] * B[j, k] with
//
//   o = i * stride + k * dilation - pad
//
// This file says what is wanted and what is refused; what the result means, to the bit, is
// reference_conv() in ops/conv_reference.hpp.
#pragma once

#include <cstdint>
#include <numeric>

#include "quern/core/memory.hpp"
#include "quern/ops/gemm.hpp"
#include "quern/ops/image.hpp"

namespace quern {
inline namespace QUERN_ABI {

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
  Spatial pad_begin = {0, 0, 0}, pad_end = {0, 0, 0};  ///< of the input; transposed: positions
                                                       ///< that the output is cut by
  bool transposed = false;
  Spatial output_pad = {0, 0, 0};  ///< more positions at the output's end, if transposed; below the
                                   ///< stride or the dilation
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

/// Weights: element (out channel, position in the kernel, input channel of the group).
struct FilterView {
  const void* data = nullptr;
  DType type = DType::s8;
  Index out_stride = 0;
  Spatial strides = {0, 0, 0};
  Index in_stride = 1;
  Index group_gap = 0;  ///< what comes on top of the strides from one group to the next

  /// Where an element is, in elements. `out`: of all channels; `group`: its group.
  constexpr Index offset(Index group, Index out, const Spatial& k, Index in) const {
    return group * group_gap + out * out_stride + k[0] * strides[0] + k[1] * strides[1] +
           k[2] * strides[2] + in * in_stride;
  }

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
  /// (in channels, out channels of the group, kernel), as ONNX and PyTorch have it for transposed
  /// convolutions.
  static FilterView transposed(const void* data, const ConvProblem& p) {
    const Index h = p.kernel[2], d = h * p.kernel[1], plane = d * p.kernel[0];
    const Index outputs = p.group_outputs(), row = outputs * plane;
    return {data, p.b, plane, {d, h, 1}, row, (p.group_inputs() - 1) * row};
  }
};

/// One call.
struct ConvArgs {
  ConstImageView a;                        ///< any strides that keep its elements apart
  ImageView c;                             ///< extent output_extent(); strides likewise
  ConstImageView residual = {};            ///< the same, if a step adds it; may be c itself
  std::span<const float> row_scales = {};  ///< batch * positions of c, if a step multiplies by them
};

/// Positions of the output along one dimension: 0 where the kernel does not fit.
constexpr Index output_extent(Index in, Index kernel, Index stride, Index dilation, Index pads) {
  const Index last = in + pads - dilation * (kernel - 1) - 1;
  return last < 0 || in < 0 ? 0 : last / stride + 1;
}
/// The same of a transposed convolution: 0 where the pads leave nothing of it. Saturates.
constexpr Index transposed_extent(Index in, Index kernel, Index stride, Index dilation, Index more,
                                  Index pads) {
  Index out = 0;
  if (in <= 0) return 0;
  const bool fits = multiply_fits(in - 1, stride, &out) &&
                    !__builtin_add_overflow(out, dilation * (kernel - 1) + 1 + more - pads, &out);
  return !fits ? INT64_MAX : out < 0 ? 0 : out;
}
/// Of the output for an input of this extent.
constexpr Spatial output_extent(const ConvProblem& p, const Spatial& in) {
  Spatial out = {};
  for (std::size_t d = 0; d < 3; ++d) {
    const Index pads = p.pad_begin[d] + p.pad_end[d];
    out[d] = p.transposed ? transposed_extent(in[d], p.kernel[d], p.stride[d], p.dilation[d],
                                              p.output_pad[d], pads)
                          : output_extent(in[d], p.kernel[d], p.stride[d], p.dilation[d], pads);
  }
  return out;
}

/// Sets the pads of a transposed convolution so that inputs of extent `in` have outputs of extent
/// `out`, as ONNX's output_shape: of an odd number the last is at the end or, if `lower`, at the
/// beginning. Where the output is too short without any, output_pad grows.
inline void pad_to(ConvProblem& p, const Spatial& in, const Spatial& out, bool lower = true) {
  for (std::size_t d = 0; d < 3; ++d) {
    const Index all =
        transposed_extent(in[d], p.kernel[d], p.stride[d], p.dilation[d], p.output_pad[d], 0);
    const Index pads = all > out[d] ? all - out[d] : 0, less = pads / 2;
    p.pad_begin[d] = lower ? pads - less : less;
    p.pad_end[d] = pads - p.pad_begin[d];
    if (all > 0 && all < out[d]) p.output_pad[d] += out[d] - all;
  }
}

/// ONNX's auto_pad for inputs of this extent: the output has in / stride positions, rounded up; of
/// an odd number of pads the last is at the end (SAME_UPPER) or at the beginning (SAME_LOWER).
/// Transposed: in * stride positions.
inline void pad_same(ConvProblem& p, const Spatial& in, bool lower = false) {
  if (p.transposed) {
    const auto mul = wrapping_multiply;
    const Spatial out = {mul(in[0], p.stride[0]), mul(in[1], p.stride[1]), mul(in[2], p.stride[2])};
    return pad_to(p, in, out, lower);
  }
  for (std::size_t d = 0; d < 3; ++d) {
    const Index out = divide_up(in[d], p.stride[d]);
    const Index needed = (out - 1) * p.stride[d] + p.dilation[d] * (p.kernel[d] - 1) + 1 - in[d];
    const Index pads = needed > 0 ? needed : 0, less = pads / 2;
    p.pad_begin[d] = lower ? pads - less : less;
    p.pad_end[d] = pads - p.pad_begin[d];
  }
}

namespace detail {

/// The most positions of the kernel that one output's sum has: all of them, or if transposed those
/// that are a multiple of the stride away from one another.
inline Index most_taps(const ConvProblem& p) {
  if (!p.transposed) return p.taps();
  Index taps = 1;
  for (std::size_t d = 0; d < 3; ++d) {
    taps *= divide_up(p.kernel[d], p.stride[d] / std::gcd(p.stride[d], p.dilation[d]));
  }
  return taps;
}

/// The product that computes one group: rows are output positions, k runs over (position in the
/// kernel, input channel).
inline GemmProblem group_gemm(const ConvProblem& p, Index group) {
  GemmProblem g{.n = p.group_outputs(),
                .k = most_taps(p) * p.group_inputs(),
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
    const Index limit = p.stride[d] > p.dilation[d] ? p.stride[d] : p.dilation[d];
    if (p.output_pad[d] != 0 &&
        (!p.transposed || p.output_pad[d] < 0 || p.output_pad[d] >= limit)) {
      return Error::make(Code::bad_shape,
                         "conv: along the %s, %lld positions are added to the output; 0 to %lld "
                         "are possible%s",
                         kNames[d], LL(p.output_pad[d]), p.transposed ? LL(limit - 1) : 0LL,
                         p.transposed ? "" : " as it is not transposed");
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
  for (const Index e : out) {
    if (p.transposed && e > kMost) {
      return Error::make(Code::bad_shape, "conv: c must have an extent of %lld, above 2^40", LL(e));
    }
  }
  if (c.extent != out || c.batch != a.batch) {
    return Error::make(Code::bad_shape,
                       "conv: c is %lld x (%lld, %lld, %lld) but must be %lld x (%lld, %lld, %lld)",
                       LL(c.batch), LL(c.extent[0]), LL(c.extent[1]), LL(c.extent[2]), LL(a.batch),
                       LL(out[0]), LL(out[1]), LL(out[2]));
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
    const bool same = r.data == c.data && r.type == c.type && r.strides == c.strides &&
                      r.batch_stride == c.batch_stride &&
                      (c.channels == 1 || r.channel_stride == c.channel_stride);
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
