// The meaning of a convolution, to the bit.
#pragma once

#include "quern/ops/conv.hpp"
#include "quern/ops/gemm_reference.hpp"

namespace quern {
inline namespace QUERN_ABI {

namespace detail {

/// The position in the image that position k of the kernel meets at output position o, in the
/// image or outside. False if it is none: a transposed convolution's, between two.
inline bool meets(const ConvProblem& p, const Spatial& o, const Spatial& k, Spatial* at) {
  for (std::size_t d = 0; d < 3; ++d) {
    if (!p.transposed) {
      (*at)[d] = o[d] * p.stride[d] + k[d] * p.dilation[d] - p.pad_begin[d];
      continue;
    }
    const Index strides = o[d] + p.pad_begin[d] - k[d] * p.dilation[d];
    if (strides % p.stride[d] != 0) return false;
    (*at)[d] = strides / p.stride[d];
  }
  return true;
}

}  // namespace detail

/// Runs a problem whose validate()s have passed. Float sums take (position in the kernel, input
/// channel) in order, fused as in reference_gemm(), zeros outside the image included; positions of
/// the kernel that a transposed convolution has between two of the image are left out.
inline void reference_conv(const ConvProblem& p, const FilterView& b, const ConvArgs& args) {
  const Spatial& out = args.c.extent;
  const auto one = [](const void* at, DType type) { return ConstMatrixView(at, type, 1, 1); };
  Index row = 0;  // of all positions of all images
  for (Index n = 0; n < args.c.batch; ++n) {
    Spatial o = {};
    for (o[0] = 0; o[0] < out[0]; ++o[0]) {
      for (o[1] = 0; o[1] < out[1]; ++o[1]) {
        for (o[2] = 0; o[2] < out[2]; ++o[2], ++row) {
          for (Index j = 0; j < p.out_channels; ++j) {
            const Index group = j / p.group_outputs(), first = group * p.group_inputs();
            const std::size_t zeros = p.b_zero_points.size();
            const std::int32_t zb =
                zeros == 0 ? 0 : p.b_zero_points[zeros == 1 ? 0 : static_cast<std::size_t>(j)];
            std::uint32_t sum = 0;  // unsigned: wraps
            float v = 0.0f;
            Spatial k = {};
            for (k[0] = 0; k[0] < p.kernel[0]; ++k[0]) {
              for (k[1] = 0; k[1] < p.kernel[1]; ++k[1]) {
                for (k[2] = 0; k[2] < p.kernel[2]; ++k[2]) {
                  Spatial at = {};
                  if (!detail::meets(p, o, k, &at)) continue;
                  bool inside = true;
                  for (std::size_t d = 0; d < 3; ++d) {
                    inside &= at[d] >= 0 && at[d] < args.a.extent[d];
                  }
                  // What is outside is a zero point: 0 times a weight, which only floats notice.
                  if (!inside && is_int8(p.b)) continue;
                  for (Index i = 0; i < p.group_inputs(); ++i) {
                    const Index offset = b.offset(group, j, k, i) * size_of(b.type);
                    const auto w = one(static_cast<const std::byte*>(b.data) + offset, b.type);
                    if (!inside) {
                      v = std::fma(0.0f, load_float(w, 0, 0, 0), v);
                      continue;
                    }
                    const auto a = one(element(args.a, n, at, first + i), p.a);
                    if (is_int8(p.b)) {
                      const std::int32_t x = detail::load_int8(a, 0, 0, 0) - p.a_zero_point;
                      sum += static_cast<std::uint32_t>(x * (detail::load_int8(w, 0, 0, 0) - zb));
                    } else {
                      v = std::fma(load_float(a, 0, 0, 0), load_float(w, 0, 0, 0), v);
                    }
                  }
                }
              }
            }
            void* c = element(args.c, n, o, j);
            if (is_int8(p.b)) {
              const std::int32_t acc = add_bias(p.epilogue, static_cast<std::int32_t>(sum), j);
              if (p.c == DType::s32) {
                *static_cast<std::int32_t*>(c) = acc;
                continue;
              }
              v = static_cast<float>(acc);
            }
            // A view of one residual element whose (row, j) is this one.
            StepInputs in{args.row_scales.empty() ? nullptr : args.row_scales.data(), {}, 0};
            if (args.residual.data != nullptr) {
              in.residual = one(element(args.residual, n, o, j), args.residual.type);
              in.residual.row_stride = in.residual.col_stride = 0;
            }
            for (const Step& s : p.epilogue) v = apply(s, v, row, j, in);
            detail::store(MatrixView(c, p.c, 1, 1), 0, 0, 0, v, p.c_zero_point);
          }
        }
      }
    }
  }
}

}  // namespace QUERN_ABI
}  // namespace quern
