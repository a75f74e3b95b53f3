// What can be wrong with matrices that are worked on element by element or row by row.
#pragma once

#include "quern/ops/heads_check.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace detail {

/// A matrix of this type and, where `like` is given, of its shape; an output's elements are apart.
template <class Void>
Error check_rows(const AnyMatrix<Void>& x, const char* what, DType type, Index cols,
                 const ConstMatrixView* like, Index* bytes) noexcept {
  *bytes = 0;
  if (x.type != type) {
    return Error::make(Code::unsupported, "%s holds %s but the problem says %s", what, name(x.type),
                       name(type));
  }
  if (Error e = measure(x, what, bytes)) return e;
  if (x.cols != cols) {
    return Error::make(Code::bad_shape, "%s has %lld columns but the problem %lld", what,
                       LL(x.cols), LL(cols));
  }
  if (like != nullptr && (x.rows != like->rows || x.batch != like->batch)) {
    return Error::make(Code::bad_shape, "%s is %lld x %lld x %lld but must be %lld x %lld x %lld",
                       what, LL(x.batch), LL(x.rows), LL(x.cols), LL(like->batch), LL(like->rows),
                       LL(cols));
  }
  Index count = 0;
  if (!multiply_fits(x.batch, x.rows, &count) || !multiply_fits(count, x.cols, &count)) {
    return Error::make(Code::bad_shape, "%s: %lld x %lld x %lld overflows 63 bits", what,
                       LL(x.batch), LL(x.rows), LL(x.cols));
  }
  const Index extents[3] = {x.batch, x.rows, x.cols},
              strides[3] = {x.batch_stride, x.row_stride, x.col_stride};
  if (count != 0 && !blocks_apart(extents, strides, 1, std::is_const_v<Void>)) {
    return Error::make(
        Code::bad_shape,
        "%s is %lld x %lld x %lld with strides %lld, %lld, %lld: its elements overlap", what,
        LL(x.batch), LL(x.rows), LL(x.cols), LL(x.batch_stride), LL(x.row_stride),
        LL(x.col_stride));
  }
  return {};
}

/// An output is an input itself, the same view, or does not touch it.
inline Error check_distinct(const ConstMatrixView& y, Index y_bytes, const char* y_name,
                            const ConstMatrixView& x, Index x_bytes, const char* x_name) noexcept {
  const bool same = x.data == y.data && x.type == y.type && x.row_stride == y.row_stride &&
                    x.col_stride == y.col_stride &&
                    (x.batch == 1 || x.batch_stride == y.batch_stride);
  if (same || bytes_apart(x.data, x_bytes, y.data, y_bytes)) return {};
  return Error::make(Code::bad_data, "%s at %p overlaps %s at %p without being the same view",
                     y_name, y.data, x_name, x.data);
}

/// Writes v, rounded to a float type.
inline void store_float(const MatrixView& y, Index b, Index i, Index j, float v) {
  void* at = element(y, b, i, j);
  if (y.type == DType::f32) *static_cast<float*>(at) = v;
  if (y.type == DType::bf16) *static_cast<bf16*>(at) = to_bf16(v);
  if (y.type == DType::f16) *static_cast<f16*>(at) = to_f16(v);
}

constexpr double unit_roundoff(DType t) {
  return t == DType::bf16 ? 0x1p-8 : t == DType::f16 ? 0x1p-11 : 0x1p-24;
}

}  // namespace detail
}  // namespace QUERN_ABI
}  // namespace quern
