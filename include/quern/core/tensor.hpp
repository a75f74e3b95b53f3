// Views: a pointer, its type, extents and strides. They own nothing and copy freely.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "quern/core/dtype.hpp"
#include "quern/core/error.hpp"

namespace quern {
inline namespace QUERN_ABI {

/// a * b modulo 2^64: default strides must not be undefined for sizes that validate() will refuse.
constexpr Index wrapping_multiply(Index a, Index b) {
  return static_cast<Index>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
}

/// A typed matrix, or a batch of them. Element (b, i, j) is at
/// data[b * batch_stride + i * row_stride + j * col_stride]; strides count elements.
template <class T>
struct Matrix {
  T* data = nullptr;
  Index rows = 0;
  Index cols = 0;
  Index row_stride = cols;
  Index col_stride = 1;
  Index batch = 1;
  Index batch_stride = wrapping_multiply(rows, row_stride);

  /// The same elements with rows and columns exchanged; nothing moves.
  constexpr Matrix transposed() const {
    return {data, cols, rows, col_stride, row_stride, batch, batch_stride};
  }
};

/// A Matrix whose element type is known at run time. Void is `void` or `const void`.
template <class Void>
struct AnyMatrix {
  Void* data = nullptr;
  DType type = DType::f32;
  Index rows = 0;
  Index cols = 0;
  Index row_stride = cols;
  Index col_stride = 1;
  Index batch = 1;
  Index batch_stride = wrapping_multiply(rows, row_stride);

  constexpr AnyMatrix() = default;
  constexpr AnyMatrix(Void* d, DType t, Index r, Index c) : AnyMatrix(d, t, r, c, c) {}
  constexpr AnyMatrix(Void* d, DType t, Index r, Index c, Index rs, Index cs = 1, Index b = 1)
      : AnyMatrix(d, t, r, c, rs, cs, b, wrapping_multiply(r, rs)) {}
  constexpr AnyMatrix(Void* d, DType t, Index r, Index c, Index rs, Index cs, Index b, Index bs)
      : data(d),
        type(t),
        rows(r),
        cols(c),
        row_stride(rs),
        col_stride(cs),
        batch(b),
        batch_stride(bs) {}
  template <class T>
  requires(std::is_const_v<Void> || !std::is_const_v<T>) constexpr AnyMatrix(const Matrix<T>& m)
      : AnyMatrix(m.data, dtype_of<std::remove_const_t<T>>, m.rows, m.cols, m.row_stride,
                  m.col_stride, m.batch, m.batch_stride) {}
  template <class V>
  requires(std::is_const_v<Void>&& std::is_same_v<V, void>) constexpr AnyMatrix(
      const AnyMatrix<V>& m)
      : AnyMatrix(m.data, m.type, m.rows, m.cols, m.row_stride, m.col_stride, m.batch,
                  m.batch_stride) {}
};

using ConstMatrixView = AnyMatrix<const void>;
using MatrixView = AnyMatrix<void>;

/// a * b in `out`; false when it does not fit (both non-negative).
constexpr bool multiply_fits(Index a, Index b, Index* out) {
  return !__builtin_mul_overflow(a, b, out);
}

/// Bytes from the first element to one past the last; Error when negative, overflowing or, with
/// elements to touch, null or not aligned for them. `what` names the argument in the message, e.g.
/// "gemm: a".
template <class Void>
Error measure(const AnyMatrix<Void>& m, const char* what, Index* bytes) noexcept {
  using L = long long;
  *bytes = 0;
  if (!is_known(m.type)) {
    return Error::make(Code::unsupported, "%s has type %d, which is none", what, int(m.type));
  }
  if (m.rows < 0 || m.cols < 0 || m.batch < 0) {
    return Error::make(Code::bad_shape, "%s is %lld x %lld x %lld: extents cannot be negative",
                       what, L(m.batch), L(m.rows), L(m.cols));
  }
  if (m.rows == 0 || m.cols == 0 || m.batch == 0) return {};
  if (m.row_stride < 0 || m.col_stride < 0 || m.batch_stride < 0) {
    return Error::make(Code::bad_shape, "%s has strides %lld, %lld, %lld: they cannot be negative",
                       what, L(m.batch_stride), L(m.row_stride), L(m.col_stride));
  }
  Index span = 0, r = 0, c = 0, b = 0;
  // Strides count in bytes even where the extent is 1, so that nobody has to check them again.
  if (!multiply_fits(m.row_stride, size_of(m.type), &r) ||
      !multiply_fits(m.col_stride, size_of(m.type), &c) ||
      !multiply_fits(m.batch_stride, size_of(m.type), &b) ||
      !multiply_fits(m.rows - 1, m.row_stride, &r) ||
      !multiply_fits(m.cols - 1, m.col_stride, &c) ||
      !multiply_fits(m.batch - 1, m.batch_stride, &b) || __builtin_add_overflow(r, c, &span) ||
      __builtin_add_overflow(span, b, &span) || __builtin_add_overflow(span, Index{1}, &span) ||
      !multiply_fits(span, size_of(m.type), bytes)) {
    return Error::make(Code::bad_shape,
                       "%s: %lld x %lld x %lld with strides %lld, %lld, %lld overflows 63 bits",
                       what, L(m.batch), L(m.rows), L(m.cols), L(m.batch_stride), L(m.row_stride),
                       L(m.col_stride));
  }
  if (m.data == nullptr) {
    return Error::make(Code::bad_data, "%s is null but has %lld x %lld x %lld elements", what,
                       L(m.batch), L(m.rows), L(m.cols));
  }
  const auto low_bits = static_cast<std::uintptr_t>(size_of(m.type)) - 1;  // sizes are powers of 2
  if ((reinterpret_cast<std::uintptr_t>(m.data) & low_bits) != 0) {
    return Error::make(Code::bad_data, "%s at %p is not aligned for %s", what,
                       static_cast<const void*>(m.data), name(m.type));
  }
  return {};
}

/// A pointer to element (b, i, j), untyped; null for an empty matrix without data.
template <class Void>
auto element(const AnyMatrix<Void>& m, Index b, Index i, Index j) noexcept {
  using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
  if (m.data == nullptr) return static_cast<Byte*>(nullptr);
  return static_cast<Byte*>(m.data) +
         (b * m.batch_stride + i * m.row_stride + j * m.col_stride) * size_of(m.type);
}

}  // namespace QUERN_ABI
}  // namespace quern
