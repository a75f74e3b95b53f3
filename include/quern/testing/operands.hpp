// Matrices for tests: their memory and layout, and values that look for trouble.
#pragma once

#include <cmath>
#include <cstring>
#include <string>

#include "quern/core/memory.hpp"
#include "quern/core/tensor.hpp"
#include "quern/testing/random.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

/// A matrix and its memory, which ends with the last element: a sanitizer sees what lies beyond.
/// Gaps between rows and before the first element hold 0xFF bytes, which are NaNs in float types.
struct Operand {
  AlignedBuffer memory;
  Index offset = 0;  ///< bytes before the first element
  MatrixView view;
};

/// Memory for `view`, whose data is still null, `skip` elements from an aligned address.
inline Operand allocate(MatrixView view, Index skip) {
  Operand o;
  o.view = view;
  if (view.rows == 0 || view.cols == 0 || view.batch == 0) return o;
  const Index span = (view.batch - 1) * view.batch_stride + (view.rows - 1) * view.row_stride +
                     (view.cols - 1) * view.col_stride + 1;
  o.offset = skip * size_of(view.type);
  o.memory = AlignedBuffer(static_cast<std::size_t>(o.offset + span * size_of(view.type)));
  std::memset(o.memory.data(), 0xFF, o.memory.size());
  o.view.data = o.memory.data() + o.offset;
  return o;
}

/// The same bytes again.
inline AlignedBuffer copied(const AlignedBuffer& from) {
  AlignedBuffer to(from.size());
  if (to.size() != 0) std::memcpy(to.data(), from.data(), to.size());
  return to;
}

/// The memory of an output with a guard of 64 bytes behind it, mostly: without one, a sanitizer
/// sees the end.
inline AlignedBuffer guarded(Random& random, const AlignedBuffer& memory) {
  if (memory.size() == 0) return {};
  AlignedBuffer larger(memory.size() + (random.one_in(3) ? 0 : 64));
  std::memset(larger.data(), 0xFF, larger.size());
  std::memcpy(larger.data(), memory.data(), memory.size());
  return larger;
}

/// Elements before an output's first: a guard of 64 bytes, and some to make its address odd.
inline Index guard_elements(Random& random, DType type) {
  return 64 / size_of(type) + (random.one_in(2) ? 0 : random.between(1, 3));
}

/// A value of an 8-bit type, often the lowest or the highest.
inline std::int32_t any_int8(Random& random, DType type) {
  const std::int32_t low = lowest(type), high = highest(type);
  if (random.one_in(4)) return random.pick({low, high});
  return static_cast<std::int32_t>(random.between(low, high));
}

/// Any layout an input may have: transposed or not, gaps between rows or none, batch elements one
/// after the other, interleaved or (when `may_share`) all the same, at any address.
inline Operand any_layout(Random& random, DType type, Index batch, Index rows, Index cols,
                          bool may_transpose, bool may_share) {
  const bool transposed = may_transpose && random.one_in(3);
  const Index inner = transposed ? rows : cols, outer = transposed ? cols : rows;
  const Index gap = random.one_in(2) ? 0 : random.between(1, 37);
  Index stride = inner + gap;
  Index batch_stride = outer * stride + (random.one_in(2) ? 0 : random.between(0, 65));
  if (batch > 1 && random.one_in(5)) {
    batch_stride = inner + gap;
    stride = batch * batch_stride;
  }
  if (may_share && batch > 1 && random.one_in(5)) batch_stride = 0;
  const Index skip = random.one_in(2) ? 0 : random.between(1, 3);
  return allocate({nullptr, type, rows, cols, transposed ? 1 : stride, transposed ? stride : 1,
                   batch, batch_stride},
                  skip);
}

/// Stores the value nearest to v that the element's type has.
inline void set(const MatrixView& m, Index b, Index i, Index j, double v) {
  void* p = element(m, b, i, j);
  switch (m.type) {
    case DType::s8:
      *static_cast<std::int8_t*>(p) = static_cast<std::int8_t>(v);
      break;
    case DType::u8:
      *static_cast<std::uint8_t*>(p) = static_cast<std::uint8_t>(v);
      break;
    case DType::s32:
      *static_cast<std::int32_t*>(p) = static_cast<std::int32_t>(v);
      break;
    case DType::f32:
      *static_cast<float*>(p) = static_cast<float>(v);
      break;
    case DType::bf16:
      *static_cast<bf16*>(p) = to_bf16(static_cast<float>(v));
      break;
    case DType::f16:
      *static_cast<f16*>(p) = to_f16(static_cast<float>(v));
      break;
  }
}

/// set(m, ..., f(b, i, j)) for every element.
template <class F>
void fill(const MatrixView& m, F&& f) {
  for (Index b = 0; b < m.batch; ++b) {
    for (Index i = 0; i < m.rows; ++i) {
      for (Index j = 0; j < m.cols; ++j) set(m, b, i, j, f(b, i, j));
    }
  }
}

enum class IntegerValues {
  uniform,       ///< the whole range
  small,         ///< around 0 (s8) or 128 (u8)
  seven_bits,    ///< any two add up to at most 128 in magnitude (s8): no pair of products saturates
  one_bad_pair,  ///< seven_bits, but for two neighbours in one column that are both extreme
  lowest,
  highest,
  alternating,  ///< lowest and highest like a chessboard
  sparse,       ///< mostly 0
};
constexpr const char* name(IntegerValues v) {
  constexpr const char* kNames[] = {"uniform", "small",   "seven bits",  "one bad pair",
                                    "lowest",  "highest", "alternating", "sparse"};
  return kNames[static_cast<int>(v)];
}

inline IntegerValues fill_integers(Random& random, const MatrixView& m) {
  using V = IntegerValues;
  const V values = random.pick({V::uniform, V::uniform, V::uniform, V::small, V::seven_bits,
                                V::one_bad_pair, V::lowest, V::highest, V::alternating, V::sparse});
  const Index low = lowest(m.type), high = highest(m.type), middle = (low + high + 1) / 2;
  const auto uniform = [&](Index from, Index to) {
    return from + static_cast<Index>(random.bits() % static_cast<std::uint64_t>(to - from + 1));
  };
  fill(m, [&](Index, Index i, Index j) -> double {
    switch (values) {
      case V::uniform:
        return double(uniform(low, high));
      case V::small:
        return double(middle + uniform(-3, 3));
      case V::seven_bits:
      case V::one_bad_pair:
        return double(middle + uniform(-64, 63));
      case V::lowest:
        return double(low);
      case V::highest:
        return double(high);
      case V::alternating:
        return double((i + j) % 2 == 0 ? low : high);
      case V::sparse:
        return random.bits() % 8 == 0 ? double(uniform(low, high)) : 0.0;
    }
    return 0.0;
  });
  if (values == V::one_bad_pair && m.rows > 1 && m.cols > 0 && m.batch > 0) {
    const Index i = random.between(0, m.rows / 2 - 1) * 2, j = random.between(0, m.cols - 1);
    const Index b = random.between(0, m.batch - 1), extreme = random.one_in(2) ? low : high;
    set(m, b, i, j, double(extreme));
    set(m, b, i + 1, j, double(extreme));
  }
  return values;
}

enum class FloatValues {
  plain,      ///< in [-1, 1)
  halves,     ///< multiples of 0.5 up to 127, which is among them: ties when quantized to s8
  wide,       ///< magnitudes from 2^-20 to 2^20
  subnormal,  ///< plain mixed with subnormal numbers
  special,    ///< plain, with some NaNs, infinities and negative zeros
  huge,       ///< products overflow
  zero,
};
constexpr const char* name(FloatValues v) {
  constexpr const char* kNames[] = {"plain",   "halves", "wide", "subnormal",
                                    "special", "huge",   "zero"};
  return kNames[static_cast<int>(v)];
}

inline FloatValues fill_floats(Random& random, const MatrixView& m) {
  using V = FloatValues;
  const V values = random.pick({V::plain, V::plain, V::plain, V::halves, V::halves, V::wide,
                                V::subnormal, V::special, V::huge, V::zero});
  fill(m, [&](Index, Index, Index j) -> double {
    const float x = random.uniform(-1.0f, 1.0f);
    const std::uint64_t r = random.bits();
    switch (values) {
      case V::plain:
        return x;
      case V::halves:
        return j == 0 ? 127.0 : std::nearbyint(254.0f * x) * 0.5;
      case V::wide:
        return std::ldexp(x, static_cast<int>(r % 41) - 20);
      case V::subnormal:
        return r % 2 ? double(x) : std::ldexp(x, m.type == DType::f16 ? -16 : -130);
      case V::special:
        if (r % 64 > 3) return x;
        return r % 64 == 0 ? double(NAN) : r % 64 == 1 ? HUGE_VAL : r % 64 == 2 ? -HUGE_VAL : -0.0;
      case V::huge:
        return std::ldexp(x, m.type == DType::f16 ? 15 : 120);
      case V::zero:
        return 0.0;
    }
    return 0.0;
  });
  return values;
}

/// Values of any kind for the type; their name.
inline const char* fill_any(Random& random, const MatrixView& m) {
  if (m.type == DType::s32) {
    fill(m, [&](Index, Index, Index) { return double(static_cast<std::int32_t>(random.bits())); });
    return "uniform";
  }
  return is_int8(m.type) ? name(fill_integers(random, m)) : name(fill_floats(random, m));
}

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
