// What attention and the operations around it share: the vectors of heads (queries, keys, values),
// where the tokens of a sequence lie among them, and the scales of quantized ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

#include "quern/core/error.hpp"
#include "quern/core/tensor.hpp"

namespace quern {
inline namespace QUERN_ABI {

/// The type of the elements of a head's vectors. Other than a DType it may be narrower than a byte:
/// of two s4 in a byte the first is in the low half; both are two's complement, -8 to 7.
enum class HeadType : std::uint8_t { f32, bf16, f16, s8, s4 };

constexpr bool is_known(HeadType t) { return static_cast<std::uint8_t>(t) <= 4; }
constexpr const char* name(HeadType t) {
  constexpr const char* kNames[] = {"f32", "bf16", "f16", "s8", "s4"};
  return is_known(t) ? kNames[static_cast<std::uint8_t>(t)] : "unknown type";
}
constexpr Index bits_of(HeadType t) {
  constexpr Index kBits[] = {32, 16, 16, 8, 4};
  return is_known(t) ? kBits[static_cast<std::uint8_t>(t)] : 0;
}
constexpr bool is_float(HeadType t) { return static_cast<std::uint8_t>(t) <= 2; }
/// Symmetric quantization uses [-largest, largest].
constexpr std::int32_t largest(HeadType t) { return t == HeadType::s4 ? 7 : 127; }

/// Half the distance from 1 to the next number: the relative error of rounding to a float type.
constexpr double unit_roundoff(HeadType t) {
  return t == HeadType::bf16 ? 0x1p-8 : t == HeadType::f16 ? 0x1p-11 : 0x1p-24;
}

/// What a quantized element is multiplied by. `none` belongs to floats.
enum class HeadScales : std::uint8_t {
  none,
  per_token,    ///< one scale for each token and head
  per_channel,  ///< one scale for each head and element of its vectors, the same for all tokens
};

constexpr bool is_known(HeadScales s) { return static_cast<std::uint8_t>(s) <= 2; }
constexpr const char* name(HeadScales s) {
  constexpr const char* kNames[] = {"none", "per token", "per channel"};
  return is_known(s) ? kNames[static_cast<std::uint8_t>(s)] : "unknown scales";
}

/// Vectors of `size` adjacent elements, one for each token and head of a batch. Element
/// (b, h, t, d) is at b * batch_stride + h * head_stride + t * token_stride + d; strides count
/// elements. In an input a stride may be 0: one prompt for a batch, one head for many.
template <class Void>
struct AnyHeads {
  Void* data = nullptr;
  HeadType type = HeadType::f32;
  Index batch = 0;
  Index heads = 0;
  Index tokens = 0;
  Index size = 0;
  Index batch_stride = 0;
  Index head_stride = 0;
  Index token_stride = 0;

  constexpr AnyHeads() = default;
  constexpr AnyHeads(Void* d, HeadType t, Index b, Index h, Index s, Index n, Index bs, Index hs,
                     Index ts)
      : data(d),
        type(t),
        batch(b),
        heads(h),
        tokens(s),
        size(n),
        batch_stride(bs),
        head_stride(hs),
        token_stride(ts) {}
  template <class V>
  requires(std::is_const_v<Void>&& std::is_same_v<V, void>) constexpr AnyHeads(const AnyHeads<V>& x)
      : AnyHeads(x.data, x.type, x.batch, x.heads, x.tokens, x.size, x.batch_stride, x.head_stride,
                 x.token_stride) {}

  /// Dense [batch, heads, tokens, size], as ONNX and PyTorch have it.
  static constexpr AnyHeads bhsd(Void* d, HeadType t, Index b, Index h, Index s, Index n) {
    const Index head = wrapping_multiply(s, n);
    return {d, t, b, h, s, n, wrapping_multiply(h, head), head, n};
  }
  /// Dense [batch, tokens, heads, size], as a projection leaves it. With a batch of 1 also the
  /// sequences of a ragged batch, one behind the other.
  static constexpr AnyHeads bshd(Void* d, HeadType t, Index b, Index h, Index s, Index n) {
    const Index token = wrapping_multiply(h, n);
    return {d, t, b, h, s, n, wrapping_multiply(s, token), n, token};
  }
};

using ConstHeadsView = AnyHeads<const void>;
using HeadsView = AnyHeads<void>;

/// Floats that belong to vectors of heads: scales, or the log-sum-exp of a row. That of element
/// (b, h, t, d) is at b * batch_stride + h * head_stride + t * token_stride + d * channel_stride.
template <class Float>
struct AnyHeadFloats {
  Float* data = nullptr;
  Index batch_stride = 0;
  Index head_stride = 0;
  Index token_stride = 0;
  Index channel_stride = 0;

  /// Dense [batch, heads, tokens].
  static constexpr AnyHeadFloats per_token(Float* data, Index heads, Index tokens) {
    return {data, wrapping_multiply(heads, tokens), tokens, 1, 0};
  }
  /// Dense [heads, size].
  static constexpr AnyHeadFloats per_channel(Float* data, Index size) {
    return {data, 0, size, 0, 1};
  }
  constexpr Float& at(Index b, Index h, Index t, Index d = 0) const {
    return data[b * batch_stride + h * head_stride + t * token_stride + d * channel_stride];
  }
  constexpr operator AnyHeadFloats<const Float>() const requires(!std::is_const_v<Float>) {
    return {data, batch_stride, head_stride, token_stride, channel_stride};
  }
};

using ConstHeadFloats = AnyHeadFloats<const float>;
using HeadFloats = AnyHeadFloats<float>;

/// Where the tokens of sequences lie in a view, one of three ways:
///   - nothing given: token t of sequence b is token t of batch element b;
///   - offsets, batch + 1 of them, not decreasing: the view has a batch of 1, sequence b is its
///     tokens offsets[b] to offsets[b + 1] - 1;
///   - pages (batch, columns): the view's batch elements are pages of view.tokens tokens each;
///   token
///     t of sequence b is token t % page size of page pages[b, t / page size].
struct TokenMap {
  std::span<const std::int32_t> offsets = {};
  Matrix<const std::int32_t> pages = {};

  struct Place {
    Index batch, token;
  };
  template <class Void>
  Place place(const AnyHeads<Void>& x, Index b, Index t) const {
    if (!offsets.empty()) return {0, offsets[static_cast<std::size_t>(b)] + t};
    if (pages.data == nullptr) return {b, t};
    const Index column = t / x.tokens;
    return {pages.data[b * pages.row_stride + column * pages.col_stride], t % x.tokens};
  }
  /// Sequences.
  template <class Void>
  Index batch(const AnyHeads<Void>& x) const {
    if (!offsets.empty()) return std::ssize(offsets) - 1;
    return pages.data != nullptr ? pages.rows : x.batch;
  }
  /// The most tokens that sequence b can have. Reads the offsets.
  template <class Void>
  Index capacity(const AnyHeads<Void>& x, Index b) const {
    const auto i = static_cast<std::size_t>(b);
    if (!offsets.empty()) return Index{offsets[i + 1]} - offsets[i];
    return pages.data != nullptr ? wrapping_multiply(pages.cols, x.tokens) : x.tokens;
  }
};

/// Element (b, h, t, d); of a quantized type, the integer.
inline float load(const ConstHeadsView& x, Index b, Index h, Index t, Index d) {
  const Index i = b * x.batch_stride + h * x.head_stride + t * x.token_stride + d;
  switch (x.type) {
    case HeadType::f32:
      return static_cast<const float*>(x.data)[i];
    case HeadType::bf16:
      return to_float(static_cast<const bf16*>(x.data)[i]);
    case HeadType::f16:
      return to_float(static_cast<const f16*>(x.data)[i]);
    case HeadType::s8:
      return static_cast<const std::int8_t*>(x.data)[i];
    case HeadType::s4:
      break;
  }
  const int byte = static_cast<const std::uint8_t*>(x.data)[i / 2];
  const int nibble = i % 2 == 0 ? byte & 15 : byte >> 4;
  return static_cast<float>(nibble < 8 ? nibble : nibble - 16);
}

/// Writes element (b, h, t, d): v rounded to nearest even; of a quantized type, v is the integer.
inline void store(const HeadsView& x, Index b, Index h, Index t, Index d, float v) {
  const Index i = b * x.batch_stride + h * x.head_stride + t * x.token_stride + d;
  switch (x.type) {
    case HeadType::f32:
      static_cast<float*>(x.data)[i] = v;
      return;
    case HeadType::bf16:
      static_cast<bf16*>(x.data)[i] = to_bf16(v);
      return;
    case HeadType::f16:
      static_cast<f16*>(x.data)[i] = to_f16(v);
      return;
    case HeadType::s8:
      static_cast<std::int8_t*>(x.data)[i] = static_cast<std::int8_t>(v);
      return;
    case HeadType::s4:
      break;
  }
  std::uint8_t& byte = static_cast<std::uint8_t*>(x.data)[i / 2];
  const int nibble = static_cast<int>(v) & 15;
  byte = static_cast<std::uint8_t>(i % 2 == 0 ? (byte & 0xF0) | nibble
                                              : (byte & 0x0F) | (nibble << 4));
}

}  // namespace QUERN_ABI
}  // namespace quern
