// When are two results of a GEMM the same? Bit for bit; or, for float sums of a backend that has no
// fused multiply-add, within the rounding errors of the sum, followed through the epilogue.
#pragma once

#include <cmath>
#include <cstring>
#include <string>

#include "quern/core/memory.hpp"
#include "quern/ops/gemm_reference.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

/// How far element (b, i, j) may be from the reference when sums may round otherwise: the bound
/// 2 k 2^-24 sum |a b| times what the steps can make of it, and the rounding to the output's type.
/// Custom steps are taken not to enlarge differences.
inline double float_tolerance(const GemmProblem& p, const ConstMatrixView& weights,
                              const GemmArgs& args, Index b, Index i, Index j) {
  float v = 0.0f;
  double magnitudes = 0.0;
  for (Index k = 0; k < p.k; ++k) {
    const float x = load_float(args.a, b, i, k),
                w = load_float(weights, p.batch == 1 ? 0 : b, k, j);
    v = std::fma(x, w, v);
    magnitudes += std::fabs(double(x) * double(w));
  }
  // Products below the smallest normal number round by absolute amounts: 2^-149 each.
  double error = 2.0 * double(p.k) * (magnitudes * 0x1p-24 + 0x1p-149);
  const float* row_scales =
      args.row_scales.empty() ? nullptr : args.row_scales.data() + b * args.a.rows;
  for (const Step& s : p.epilogue) {
    using K = Step::Kind;
    const float before = v;
    v = apply(s, v, i, j, {row_scales, args.residual, b});
    if (s.kind == K::scale) {
      error *= std::fabs(double(static_cast<const float*>(s.data)[s.count == 1 ? 0 : j]));
    } else if (s.kind == K::row_scale) {
      error *= std::fabs(double(row_scales[i]));
    } else if (s.kind == K::gelu || s.kind == K::gelu_tanh || s.kind == K::silu) {
      error *= 1.2;  // above their steepest slope
    }
    error += 0x1p-22 * std::fmax(std::fabs(double(before)), std::fabs(double(v)));
  }
  switch (p.c) {
    case DType::bf16:
      return error + 0x1p-7 * (std::fabs(double(v)) + error);
    case DType::f16:
      return error + 0x1p-10 * (std::fabs(double(v)) + error) + 0x1p-24;
    case DType::s8:
    case DType::u8:
      return error + 1.0;
    default:
      return error + 0x1p-149;
  }
}

/// Compares the memory around two C's, all of it: `actual` must differ from `expected` nowhere but
/// in the payload of a NaN, and where a tolerance allows it. Makes such elements equal on the way.
inline std::string difference(const GemmProblem& p, const ConstMatrixView& weights,
                              const GemmArgs& expected, const MatrixView& actual,
                              const AlignedBuffer& expected_memory, AlignedBuffer& actual_memory,
                              bool exact) {
  char text[200];
  const std::size_t size = static_cast<std::size_t>(size_of(p.c));
  const int digits = p.c == DType::s32 ? 10 : 9;
  for (Index b = 0; b < actual.batch; ++b) {
    for (Index i = 0; i < actual.rows; ++i) {
      for (Index j = 0; j < actual.cols; ++j) {
        const void* want = element(expected.c, b, i, j);
        void* got = element(actual, b, i, j);
        if (std::memcmp(want, got, size) == 0) continue;
        const float x = load_float(expected.c, b, i, j), y = load_float(actual, b, i, j);
        bool same = is_float(p.c) && x != x && y != y;
        if (!same && !exact) {
          const double tolerance = float_tolerance(p, weights, expected, b, i, j);
          // An infinite or NaN tolerance says that the sum overflowed: anything may come of it.
          same = !(std::fabs(double(x) - double(y)) > tolerance) || !std::isfinite(tolerance);
        }
        if (!same) {
          const auto value = [&](const void* at, float rounded) {
            return p.c == DType::s32 ? double(*static_cast<const std::int32_t*>(at)) : rounded;
          };
          std::snprintf(text, sizeof text, "c[%lld][%lld, %lld] is %.*g but must be %.*g",
                        static_cast<long long>(b), static_cast<long long>(i),
                        static_cast<long long>(j), digits, value(got, y), digits, value(want, x));
          return text;
        }
        std::memcpy(got, want, size);
      }
    }
  }
  for (std::size_t at = 0; at < actual_memory.size(); ++at) {
    if (expected_memory.data()[at] != actual_memory.data()[at]) {
      std::snprintf(text, sizeof text,
                    "the byte at %lld of %zu around c, which is not c's, changed",
                    static_cast<long long>(at), actual_memory.size());
      return text;
    }
  }
  return {};
}

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
