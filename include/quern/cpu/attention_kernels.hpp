// The kernels of attention: a family of its own, beside those of products and of rows, which it
// uses too.
#pragma once

#include "quern/cpu/rowwise_kernels.hpp"
#include "quern/ops/heads.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// Vectors of one head, a constant number of bytes apart, as a cache has them.
struct HeadStream {
  const std::byte* data;
  HeadType type;
  Index step;   ///< bytes from one to the next
  Index count;  ///< vectors
  Index size;   ///< elements of each
  /// What is wanted next: a vector of `ahead_bytes` with each of these, or null.
  const std::byte* ahead = nullptr;
  Index ahead_step = 0, ahead_bytes = 0;
};

/// A target's functions. Rows of logits are padded to multiples of 16.
struct AttentionKernels {
  /// Columns of a panel from 16 rows of n floats: to (n, 16).
  void (*pack_panel)(const float* const* rows, Index n, float* to) noexcept;
  /// 16 rows of n floats as panels of 16 columns, `panel` floats apart; columns from n on are 0.
  void (*pack_rows)(const float* const* rows, Index n, float* to, Index panel) noexcept;

  /// x = scalar::softcap(x, cap), to the bit.
  void (*softcap)(float* x, Index n, float cap) noexcept;
  /// x + mask, or -infinity where the mask is.
  void (*add_mask)(float* x, const float* mask, Index n) noexcept;
  /// x[j] - slope * |distance - j|: two operations.
  void (*add_alibi)(float* x, Index n, float slope, std::int32_t distance) noexcept;
  /// x * factor, element by element.
  void (*multiply)(float* x, const float* factor, Index n) noexcept;

  /// Online softmax of `rows` rows of n logits, n a multiple of 16. With most the larger of most[i]
  /// and the row's largest, makes logits x exponentials e^(x - most), multiplies sum[i] by
  /// rescale[i] = e^(most[i] - most), adds the exponentials, and keeps most in most[i].
  void (*softmax)(float* x, Index stride, Index rows, Index n, float* most, float* sum,
                  float* rescale) noexcept;

  /// Few queries, `rows` of them: x[i, j] = q[i] k[j], elements of integer types as they are. Of
  /// s4, q is in split order.
  void (*dot)(const HeadStream& k, const float* q, Index q_stride, Index rows, float* x,
              Index x_stride) noexcept;
  /// out[i] += the sum of w[i, j] v[j]. Of s4, out is in split order.
  void (*weigh)(const HeadStream& v, const float* w, Index w_stride, Index rows, float* out,
                Index out_stride) noexcept;
  /// Of n floats, to split order, in which `dot` and `weigh` meet elements of s4, or back.
  void (*split)(const float* x, Index n, float* to) noexcept;
  void (*unsplit)(const float* x, Index n, float* to) noexcept;

  // Int8. n is a multiple of 16; nothing rounds otherwise than in ops/attention_problem.hpp.
  /// x = float(sum) * (q_scale * k_scale); x may be where the sums are.
  void (*logits)(const std::int32_t* sums, const float* k_scales, Index n, float q_scale,
                 float* x) noexcept;
  bool (*has_nan)(const float* x, Index n) noexcept;
  /// to[j] = quantize(e^(x[j] - most) * factors[j] * 255), factors 1 if null. The sum of those
  /// without factors.
  std::int32_t (*weights)(const float* x, Index n, float most, const float* factors,
                          std::uint8_t* to) noexcept;
  /// most[i] = max(most[i], |x[i]|); NaN is ignored. Any n.
  void (*largest_magnitudes)(const float* x, Index n, float* most) noexcept;
  void (*add_words)(const std::int32_t* x, Index n, std::int32_t* to) noexcept;
  /// Of each column of a panel of s8 quads: factor times the sum of its elements, or of the
  /// products of neighbours, x[0] x[1] + x[2] x[3] + ....
  void (*column_sums)(const std::byte* panel, Index quads, bool products, std::int32_t factor,
                      std::int32_t* out) noexcept;
  /// Four rows of s8 as a quad of each column of panels `panel` bytes apart.
  void (*pack_quads)(const std::int8_t* rows, Index stride, Index panels, std::byte* to,
                     Index panel) noexcept;
};

/// The kernels for one target, Kernels::target_bit.
const AttentionKernels& attention_kernels_for(std::int64_t target);

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern

#if !defined(QUERN_COMPILED) || defined(QUERN_COMPILED_BUILD)

#define QUERN_TARGET_INCLUDE "quern/cpu/attention_kernels-inl.hpp"
#include "quern/cpu/dispatch/foreach_target.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

QUERN_DEFINITION const AttentionKernels& attention_kernels_for(std::int64_t target) {
  return *QUERN_DISPATCH(attention_kernels, target)();
}

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern

#endif
