// Vectors of heads for tests, as operands.hpp has matrices: their memory and layout, and their
// values.
#pragma once

#include <array>
#include <cmath>
#include <cstring>

#include "quern/ops/attention_problem.hpp"
#include "quern/testing/images.hpp"
#include "quern/testing/operands.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

/// A view and its memory, which ends with the last element. Gaps, and what is before the first
/// element, hold 0xFF bytes: NaNs in float types.
template <class View>
struct Owned {
  AlignedBuffer memory;
  Index offset = 0;  ///< bytes before the first element
  View view{};

  /// Memory for `span` elements of `bits` bits, `skip` of them from an aligned address.
  void allocate(Index span, Index bits, Index skip) {
    offset = skip * bits / 8;
    memory = AlignedBuffer(static_cast<std::size_t>(offset + (span * bits + 7) / 8));
    std::memset(memory.data(), 0xFF, memory.size());
  }
};

/// Strides of blocks of `inner` elements, in any order and with gaps here and there, in multiples
/// of `unit` elements.
inline std::array<Index, 3> any_block_strides(Random& random, const std::array<Index, 3>& extents,
                                              Index inner, Index unit) {
  std::array<Index, 3> strides = any_strides<3>(random, extents);
  const Index wide = inner + unit * (random.one_in(3) ? random.between(1, 9) : 0);
  for (Index& s : strides) s *= round_up(wide, unit);
  return strides;
}

/// One past the last element.
inline Index span_of(const std::array<Index, 3>& extents, const std::array<Index, 3>& strides,
                     Index inner) {
  Index span = inner;
  for (std::size_t d = 0; d < 3; ++d) {
    if (extents[d] == 0) return 0;
    span += (extents[d] - 1) * strides[d];
  }
  return span;
}

/// Any layout that vectors of heads may have; null where there are none.
inline Owned<HeadsView> any_heads(Random& random, HeadType type, Index batch, Index heads,
                                  Index tokens, Index size, bool may_share) {
  const std::array<Index, 3> extents = {batch, heads, tokens};
  auto strides = any_block_strides(random, extents, size, type == HeadType::s4 ? 2 : 1);
  if (may_share && random.one_in(8)) strides[0] = 0;
  if (may_share && random.one_in(8)) strides[1] = 0;
  Owned<HeadsView> o;
  o.view = {nullptr, type, batch, heads, tokens, size, strides[0], strides[1], strides[2]};
  const Index span = span_of(extents, strides, size);
  if (span == 0) return o;
  const Index skip = random.one_in(2) ? 0 : random.between(1, 3);
  o.allocate(span, bits_of(type), type == HeadType::s4 ? 2 * skip : skip);
  o.view.data = o.memory.data() + o.offset;
  return o;
}

/// Floats of vectors of heads, one for each token, or for each channel, in any layout.
inline Owned<HeadFloats> any_head_floats(Random& random, HeadScales kind, Index batch, Index heads,
                                         Index tokens, Index size) {
  const bool token = kind == HeadScales::per_token;
  const std::array<Index, 3> extents = {token ? batch : 1, heads, token ? tokens : 1};
  const Index inner = token ? 1 : size;
  const auto strides = any_block_strides(random, extents, inner, 1);
  Owned<HeadFloats> o;
  o.view = {nullptr, token ? strides[0] : 0, strides[1], token ? strides[2] : 0, token ? 0 : 1};
  const Index span = span_of(extents, strides, inner);
  if (kind == HeadScales::none || span == 0) return o;
  o.allocate(span, 32, random.between(0, 3));
  o.view.data = reinterpret_cast<float*>(o.memory.data() + o.offset);
  return o;
}

enum class VectorValues {
  plain,      ///< in [-1, 1)
  large,      ///< in [-32, 32): one logit drowns the others
  wide,       ///< magnitudes from 2^-10 to 2^10
  equal,      ///< all vectors are the same: so are the logits
  few,        ///< two different vectors
  halves,     ///< multiples of 0.5 up to 127, which is among them: ties when quantized to s8
  subnormal,  ///< plain mixed with subnormal numbers
  huge,       ///< magnitudes around 2^50 (f16: 2^13)
  nans,       ///< plain, with a NaN in some vectors
  zero,
};
constexpr const char* name(VectorValues v) {
  constexpr const char* kNames[] = {"plain",  "large",     "wide", "equal", "few",
                                    "halves", "subnormal", "huge", "NaNs",  "zero"};
  return kNames[static_cast<int>(v)];
}

/// Values of vectors, one element after the other.
class AnyVectors {
 public:
  AnyVectors(Random& random, HeadType type, bool may_have_nans)
      : random_(random), type_(type), seed_(random.bits()) {
    using V = VectorValues;
    values_ = random.pick({V::plain, V::plain, V::plain, V::plain, V::large, V::wide, V::equal,
                           V::few, V::halves, V::subnormal, V::huge, V::nans, V::zero});
    if (values_ == V::nans && !may_have_nans) values_ = V::plain;
  }
  /// Of quantized ones nothing is special.
  const char* name() const { return is_float(type_) ? testing::name(values_) : "any"; }

  /// Element d of the next vector.
  float operator()(Index d) {
    using V = VectorValues;
    const std::uint64_t bits = random_.bits();
    if (!is_float(type_)) {
      const std::uint64_t range = type_ == HeadType::s4 ? 16 : 256;
      return static_cast<float>(bits % range) - static_cast<float>(range / 2);
    }
    const float x = random_.uniform(-1.0f, 1.0f);
    switch (values_) {
      case V::plain:
        return x;
      case V::large:
        return 32.0f * x;
      case V::wide:
        return std::ldexp(x, static_cast<int>(bits % 21) - 10);
      case V::equal:
      case V::few:
        if (d == 0) kind_ = values_ == V::few ? bits % 2 : 0;
        return Random(seed_ + 2 * static_cast<std::uint64_t>(d) + kind_).uniform(-1.0f, 1.0f);
      case V::halves:
        return d == 0 ? 127.0f : std::nearbyint(254.0f * x) * 0.5f;
      case V::subnormal:
        return bits % 2 != 0 ? x : std::ldexp(x, type_ == HeadType::f16 ? -16 : -130);
      case V::huge:
        return std::ldexp(x, type_ == HeadType::f16 ? 13 : 50);
      case V::nans:
        return bits % 256 == 0 ? NAN : x;
      case V::zero:
        break;
    }
    return 0.0f;
  }

 private:
  Random& random_;
  HeadType type_;
  std::uint64_t seed_, kind_ = 0;
  VectorValues values_;
};

enum class MaskValues {
  all,     ///< everything is seen
  any,     ///< half is
  sparse,  ///< nearly nothing is: rows that see nothing
  rows,    ///< rows see all or nothing
  added,   ///< floats in [-5, 5)
  mixed,   ///< floats, a third of them -infinity
  lowest,  ///< 0 or the type's lowest number, as some write a mask
};
constexpr const char* name(MaskValues v) {
  constexpr const char* kNames[] = {"all", "any", "sparse", "rows", "added", "mixed", "lowest"};
  return kNames[static_cast<int>(v)];
}

/// A mask of these extents in any layout; an extent of 1 is for all.
inline Owned<MaskView> any_mask(Random& random, MaskType type, const std::array<Index, 4>& extents,
                                const char** values_name) {
  using V = MaskValues;
  const bool boolean = type == MaskType::boolean;
  const V values =
      boolean ? random.pick({V::all, V::any, V::any, V::sparse, V::rows})
              : random.pick({V::any, V::sparse, V::rows, V::added, V::mixed, V::mixed, V::lowest});
  *values_name = name(values);
  auto strides = any_strides<4>(random, extents);
  if (random.one_in(2)) {  // rows of adjacent elements
    const auto outer =
        any_block_strides(random, {extents[0], extents[1], extents[2]}, extents[3], 1);
    strides = {outer[0], outer[1], outer[2], 1};
  }
  for (std::size_t d = 0; d < 3; ++d) strides[d] = extents[d] == 1 ? 0 : strides[d];
  Owned<MaskView> o;
  MaskView& m = o.view;
  m = {nullptr,    type,       extents[0], extents[1], extents[2],
       extents[3], strides[0], strides[1], strides[2], strides[3]};
  if (m.cols == 0 || m.batch * m.heads * m.rows == 0) return o;
  const Index span = span_of({m.batch, m.heads, m.rows}, {strides[0], strides[1], strides[2]},
                             (m.cols - 1) * m.col_stride + 1);
  o.allocate(span, size_of(type) * 8, random.between(0, 3));
  m.data = o.memory.data() + o.offset;
  const float lowest = type == MaskType::f16 ? -65504.0f : to_float(to_bf16(-3.38e38f));
  bool row = true;
  const auto value = [&](Index column) -> float {
    const std::uint64_t bits = random.bits();
    if (column == 0) row = bits % 2 == 0;
    switch (values) {
      case V::all:
        return 0.0f;
      case V::any:
        return bits % 2 == 0 ? 0.0f : -HUGE_VALF;
      case V::sparse:
        return bits % 32 == 0 ? 0.0f : -HUGE_VALF;
      case V::rows:
        return row ? 0.0f : -HUGE_VALF;
      case V::added:
        return random.uniform(-5.0f, 5.0f);
      case V::mixed:
        return bits % 3 == 0 ? -HUGE_VALF : random.uniform(-5.0f, 5.0f);
      case V::lowest:
        return bits % 3 == 0 ? 0.0f : lowest;
    }
    return 0.0f;
  };
  for (Index b = 0; b < m.batch; ++b) {
    for (Index h = 0; h < m.heads; ++h) {
      for (Index i = 0; i < m.rows; ++i) {
        for (Index j = 0; j < m.cols; ++j) {
          const Index at =
              b * m.batch_stride + h * m.head_stride + i * m.row_stride + j * m.col_stride;
          const float v = value(j);
          std::byte* const p = o.memory.data() + o.offset + at * size_of(type);
          const bf16 as_bf16 = to_bf16(v);
          const f16 as_f16 = to_f16(v);
          const auto as_byte = static_cast<std::uint8_t>(v == 0.0f ? random.pick({1, 1, 255}) : 0);
          const void* const from = boolean                  ? static_cast<const void*>(&as_byte)
                                   : type == MaskType::f32  ? static_cast<const void*>(&v)
                                   : type == MaskType::bf16 ? static_cast<const void*>(&as_bf16)
                                                            : static_cast<const void*>(&as_f16);
          std::memcpy(p, from, static_cast<std::size_t>(size_of(type)));
        }
      }
    }
  }
  return o;
}

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
