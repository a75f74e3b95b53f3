// Images: batches of sequences, pictures or volumes with channels, anywhere in memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "quern/core/tensor.hpp"

namespace quern {
inline namespace QUERN_ABI {

/// Depth, height, width. Images have height and width, sequences width: the others are 1 (sizes) or
/// 0 (padding).
using Spatial = std::array<Index, 3>;

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

/// A pointer to element (n, position, channel), untyped.
template <class Void>
auto element(const AnyImage<Void>& x, Index n, const Spatial& at, Index channel) noexcept {
  using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
  const Index offset = n * x.batch_stride + at[0] * x.strides[0] + at[1] * x.strides[1] +
                       at[2] * x.strides[2] + channel * x.channel_stride;
  return static_cast<Byte*>(x.data) + offset * size_of(x.type);
}

namespace detail {

/// Bytes from the first element to one past the last, and that no two elements share an address.
template <class Void>
Error check_image(const AnyImage<Void>& x, const char* what, Index* bytes) noexcept {
  using L = long long;
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
      return Error::make(Code::bad_shape,
                         "%s is %lld x (%lld, %lld, %lld) x %lld: extents cannot be negative", what,
                         L(x.batch), L(x.extent[0]), L(x.extent[1]), L(x.extent[2]), L(x.channels));
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
                         what, L(strides[0]), L(strides[1]), L(strides[2]), L(strides[3]),
                         L(strides[4]));
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

/// Whether two ranges of bytes share none.
inline bool apart(const void* x, Index x_bytes, const void* y, Index y_bytes) {
  const auto x0 = reinterpret_cast<std::uintptr_t>(x), y0 = reinterpret_cast<std::uintptr_t>(y);
  return x0 + std::uintptr_t(x_bytes) <= y0 || y0 + std::uintptr_t(y_bytes) <= x0;
}

}  // namespace detail

}  // namespace QUERN_ABI
}  // namespace quern
