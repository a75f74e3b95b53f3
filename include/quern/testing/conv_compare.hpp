// When are two results of a convolution the same? See compare.hpp.
#pragma once

#include <string>

#include "quern/ops/conv_reference.hpp"
#include "quern/testing/compare.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

/// How far element (n, o, j) may be from the reference when float sums may round otherwise.
inline double float_tolerance(const ConvProblem& p, const FilterView& weights, const ConvArgs& args,
                              Index n, const Spatial& o, Index j) {
  const ConstImageView a = args.a, residual = args.residual;
  const Index group = j / p.group_outputs(), first = group * p.group_inputs();
  FloatSum sum;
  Spatial k = {}, at = {};
  for (k[0] = 0; k[0] < p.kernel[0]; ++k[0]) {
    for (k[1] = 0; k[1] < p.kernel[1]; ++k[1]) {
      for (k[2] = 0; k[2] < p.kernel[2]; ++k[2]) {
        if (!quern::detail::meets(p, o, k, &at)) continue;
        bool inside = true;
        for (std::size_t d = 0; d < 3; ++d) inside &= at[d] >= 0 && at[d] < a.extent[d];
        for (Index i = 0; i < p.group_inputs(); ++i) {
          const Index offset = weights.offset(group, j, k, i) * size_of(p.b);
          const auto* w = static_cast<const std::byte*>(weights.data) + offset;
          const float x = inside ? detail::float_at(element(a, n, at, first + i), p.a) : 0.0f;
          sum.add(x, detail::float_at(w, p.b));
        }
      }
    }
  }
  const Spatial& out = args.c.extent;
  const Index row = ((n * out[0] + o[0]) * out[1] + o[1]) * out[2] + o[2];
  StepInputs in{args.row_scales.empty() ? nullptr : args.row_scales.data(), {}, 0};
  if (residual.data != nullptr) {  // one element, for whatever indices
    in.residual = {element(residual, n, o, j), residual.type, 1, 1, 0, 0};
  }
  return tolerance_after(p.epilogue, p.c, sum, row, j, in);
}

/// As difference() of a GEMM. `args`: the call, with its inputs and residual as they were; its C is
/// the expected one.
inline std::string difference(const ConvProblem& p, const FilterView& weights, const ConvArgs& args,
                              const ImageView& actual, const AlignedBuffer& expected_memory,
                              AlignedBuffer& actual_memory, bool exact) {
  const Spatial& out = actual.extent;
  Spatial o = {};
  for (Index n = 0; n < actual.batch; ++n) {
    for (o[0] = 0; o[0] < out[0]; ++o[0]) {
      for (o[1] = 0; o[1] < out[1]; ++o[1]) {
        for (o[2] = 0; o[2] < out[2]; ++o[2]) {
          for (Index j = 0; j < actual.channels; ++j) {
            const void* want = element(args.c, n, o, j);
            void* got = element(actual, n, o, j);
            const auto tolerance = [&] { return float_tolerance(p, weights, args, n, o, j); };
            if (detail::reconcile(p.c, want, got, exact, tolerance)) continue;
            const std::string where = "c[" + std::to_string(n) + "][" + std::to_string(o[0]) +
                                      ", " + std::to_string(o[1]) + ", " + std::to_string(o[2]) +
                                      "][" + std::to_string(j) + "]";
            return detail::mismatch(where, p.c, want, got);
          }
        }
      }
    }
  }
  return detail::change_around(expected_memory, actual_memory);
}

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
