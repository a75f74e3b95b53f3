// The kernels of operations on rows (softmax, normalization, elements, rotations, KV caches): a
// family of its own, which programs that only multiply matrices do not compile. All arithmetic is
// on contiguous floats; other types are converted before and after, a piece at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quern/cpu/all_kernels.hpp"
#include "quern/ops/elementwise.hpp"
#include "quern/ops/rope.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// How the integers of a piece of columns are made of floats, or floats of them. Per-column arrays
/// begin at the piece's first column.
struct PieceQuantization {
  const float* scales = nullptr;              ///< one, or one for each column
  const std::int32_t* zero_points = nullptr;  ///< one, one for each column, or null: zeros
  bool column_scales = false, column_zero_points = false;
  bool multiply = false;                  ///< quantize: x * scale, not x / scale
  std::int32_t low = -1024, high = 1024;  ///< quantize: bounds, beside the type's own
};

/// A target's functions; n counts elements. Outputs may be an input itself. Where a result is
/// defined to the bit (ops/elementwise.hpp, ops/rope.hpp), so is it here.
struct RowwiseKernels {
  /// Floats, bf16 or f16 to floats and back: to_bf16(), to_f16().
  void (*load)(DType type, const void* from, Index n, float* to) noexcept;
  void (*store)(DType type, const float* from, Index n, void* to) noexcept;
  /// s8, u8 or s32: (q - zero_point) * scale.
  void (*dequantize)(DType type, const void* from, Index n, const PieceQuantization& q,
                     float* to) noexcept;
  /// s8 or u8: quantize() of x / scale or x * scale, within the bounds.
  void (*quantize)(DType type, const float* from, Index n, const PieceQuantization& q,
                   void* to) noexcept;
  /// y[i] = quern::apply(kind, a[i], b[i]).
  void (*apply)(Elementwise kind, const float* a, const float* b, Index n, float* y) noexcept;

  /// The largest number; of NaN, anything; -infinity of none.
  float (*largest)(const float* x, Index n) noexcept;
  float (*sum)(const float* x, Index n) noexcept;
  /// The sum of (x - mean)^2.
  float (*squares)(const float* x, Index n, float mean) noexcept;
  /// The sum of y[i] = exp(x[i] - most), which are not stored where y is null. Each exponential is
  /// within 3 ulp; below exp(-87) it is 0. x is not above `most`.
  float (*exponentials)(const float* x, Index n, float most, float* y) noexcept;
  /// y = x * factor.
  void (*scale)(const float* x, Index n, float factor, float* y) noexcept;
  /// y = (x - first) - second.
  void (*shift)(const float* x, Index n, float first, float second, float* y) noexcept;
  /// y = (x - mean) * factor * gamma + beta; null: 1, 0.
  void (*normalize)(const float* x, Index n, float mean, float factor, const float* gamma,
                    const float* beta, float* y) noexcept;

  /// n pairs (x1[i], x2[i]) as quern::rotate().
  void (*rotate)(const float* x1, const float* x2, const float* cos, const float* sin, Index n,
                 float* y1, float* y2) noexcept;
  /// n pairs (x[2 i], x[2 i + 1]).
  void (*rotate_neighbours)(const float* x, const float* cos, const float* sin, Index n,
                            float* y) noexcept;
};

/// The kernels for one target, Kernels::target_bit.
const RowwiseKernels& rowwise_kernels_for(std::int64_t target);

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern

#if !defined(QUERN_COMPILED) || defined(QUERN_COMPILED_BUILD)

#define QUERN_TARGET_INCLUDE "quern/cpu/rowwise-inl.hpp"
#include "quern/cpu/dispatch/foreach_target.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

QUERN_DEFINITION const RowwiseKernels& rowwise_kernels_for(std::int64_t target) {
  return *QUERN_DISPATCH(rowwise_kernels, target)();
}

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern

#endif
