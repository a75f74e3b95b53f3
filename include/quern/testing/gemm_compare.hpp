// When are two results of a GEMM the same? See compare.hpp.
#pragma once

#include <string>

#include "quern/ops/gemm_reference.hpp"
#include "quern/testing/compare.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

/// How far element (b, i, j) may be from the reference when float sums may round otherwise.
inline double float_tolerance(const GemmProblem& p, const ConstMatrixView& weights,
                              const GemmArgs& args, Index b, Index i, Index j) {
  FloatSum sum;
  for (Index k = 0; k < p.k; ++k) {
    sum.add(load_float(args.a, b, i, k), load_float(weights, p.batch == 1 ? 0 : b, k, j));
  }
  const float* row_scales =
      args.row_scales.empty() ? nullptr : args.row_scales.data() + b * args.a.rows;
  return tolerance_after(p.epilogue, p.c, sum, i, j, {row_scales, args.residual, b});
}

/// Compares the memory around two C's, all of it: `actual` must differ from `expected` nowhere but
/// in the payload of a NaN, and where a tolerance allows it. Makes such elements equal on the way.
inline std::string difference(const GemmProblem& p, const ConstMatrixView& weights,
                              const GemmArgs& expected, const MatrixView& actual,
                              const AlignedBuffer& expected_memory, AlignedBuffer& actual_memory,
                              bool exact) {
  for (Index b = 0; b < actual.batch; ++b) {
    for (Index i = 0; i < actual.rows; ++i) {
      for (Index j = 0; j < actual.cols; ++j) {
        const void* want = element(expected.c, b, i, j);
        void* got = element(actual, b, i, j);
        const auto tolerance = [&] { return float_tolerance(p, weights, expected, b, i, j); };
        if (detail::reconcile(p.c, want, got, exact, tolerance)) continue;
        const std::string where =
            "c[" + std::to_string(b) + "][" + std::to_string(i) + ", " + std::to_string(j) + "]";
        return detail::mismatch(where, p.c, want, got);
      }
    }
  }
  return detail::change_around(expected_memory, actual_memory);
}

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
