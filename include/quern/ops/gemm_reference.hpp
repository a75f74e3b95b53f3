// The meaning of GEMM, as plain loops. Every backend must return these bits: always for integers;
// for float sums on hardware with a fused multiply-add, and elsewhere within the bound below.
#pragma once

#include <cmath>
#include <cstdint>

#include "quern/ops/gemm.hpp"

namespace quern {
inline namespace QUERN_ABI {

namespace detail {

inline std::int32_t load_int8(const ConstMatrixView& m, Index b, Index i, Index j) {
  const void* p = element(m, b, i, j);
  return m.type == DType::s8 ? std::int32_t{*static_cast<const std::int8_t*>(p)}
                             : std::int32_t{*static_cast<const std::uint8_t*>(p)};
}

inline RowQuantization row_quantization(const ConstMatrixView& a, Index b, Index i) {
  float amax = 0.0f;
  for (Index k = 0; k < a.cols; ++k) {
    const float magnitude = std::fabs(load_float(a, b, i, k));
    if (magnitude > amax) amax = magnitude;  // false for NaN
  }
  return RowQuantization::of(amax);
}

inline void store(const MatrixView& c, Index b, Index i, Index j, float v,
                  std::int32_t zero_point) {
  void* p = element(c, b, i, j);
  switch (c.type) {
    case DType::s8:
      *static_cast<std::int8_t*>(p) = std::int8_t(quantize(v, zero_point, c.type));
      break;
    case DType::u8:
      *static_cast<std::uint8_t*>(p) = std::uint8_t(quantize(v, zero_point, c.type));
      break;
    case DType::f32:
      *static_cast<float*>(p) = v;
      break;
    case DType::bf16:
      *static_cast<bf16*>(p) = to_bf16(v);
      break;
    case DType::f16:
      *static_cast<f16*>(p) = to_f16(v);
      break;
    case DType::s32:
      break;  // stored before it becomes a float
  }
}

}  // namespace detail

/// Runs a problem whose validate()s have passed. The order of float sums is part of the meaning:
/// acc = fma(a[i, k], b[k, j], acc) for k = 0, 1, ..., from +0. Hardware without an FMA rounds the
/// product too; against exact arithmetic either differs by at most about
/// 2 k 2^-24 * sum |a[i, k] b[k, j]|.
inline void reference_gemm(const GemmProblem& p, const ConstMatrixView& b, const GemmArgs& args) {
  const bool dynamic = is_float(p.a) && is_int8(p.b);
  for (Index bi = 0; bi < args.a.batch; ++bi) {
    const Index wi = p.batch == 1 ? 0 : bi;
    for (Index i = 0; i < args.a.rows; ++i) {
      const Index row = bi * args.a.rows + i;
      RowQuantization q;
      if (dynamic) q = detail::row_quantization(args.a, bi, i);
      std::int32_t za = p.a_zero_point;
      if (p.a_zero_points == ZeroPoints::per_row) za = args.a_zero_points[std::size_t(row)];
      for (Index j = 0; j < p.n; ++j) {
        float v = 0.0f;
        if (is_int8(p.b)) {
          const std::size_t zeros = p.b_zero_points.size();
          const std::int32_t zb = zeros == 0 ? 0 : p.b_zero_points[zeros == 1 ? 0 : std::size_t(j)];
          std::uint32_t sum = 0;  // unsigned: wraps
          for (Index k = 0; k < p.k; ++k) {
            const std::int32_t x =
                dynamic ? quantize(load_float(args.a, bi, i, k) * q.inverse, 0, DType::s8)
                        : detail::load_int8(args.a, bi, i, k) - za;
            sum += static_cast<std::uint32_t>(x * (detail::load_int8(b, wi, k, j) - zb));
          }
          const std::int32_t acc = add_bias(p.epilogue, static_cast<std::int32_t>(sum), j);
          if (p.c == DType::s32) {
            *reinterpret_cast<std::int32_t*>(element(args.c, bi, i, j)) = acc;
            continue;
          }
          v = static_cast<float>(acc);
          if (dynamic) v = unfused(v * q.scale);
        } else {
          for (Index k = 0; k < p.k; ++k) {
            v = std::fma(load_float(args.a, bi, i, k), load_float(b, wi, k, j), v);
          }
        }
        const StepInputs in{
            args.row_scales.empty() ? nullptr : args.row_scales.data() + bi * args.a.rows,
            args.residual, bi};
        for (const Step& s : p.epilogue) v = apply(s, v, i, j, in);
        detail::store(args.c, bi, i, j, v, p.c_zero_point);
      }
    }
  }
}

}  // namespace QUERN_ABI
}  // namespace quern
