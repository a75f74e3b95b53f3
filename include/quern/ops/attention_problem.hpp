// Attention: for each sequence, query head h and query i, over the keys j that i may see,
//
//   x[j] = scale * sum over d of q[i, d] k[j, d]      k, v of KV head h / (q_heads / kv_heads)
//   x[j] = softcap * tanh(x[j] / softcap)             if there is a softcap
//   x[j] = x[j] + mask[i, j] - slope[h] * |p - j|     if there is a float mask; if there is ALiBi
//   w[j] = exp(x[j]) / (sum over j of exp(x[j]) + exp(sink[h]))                if there are sinks
//   out[i, d] = sum over j of w[j] v[j, d]
//   lse[i] = log(sum over j of exp(x[j]) + exp(sink[h]))
//
// where p = start + i is the query's position among the keys (Alignment). Query i sees key j of the
// sequence's kv tokens where p - left <= j <= p + right (Window), a boolean mask is true, and a
// float mask is not -infinity. What is not seen counts for nothing, and so does a logit of
// -infinity. A row that sees nothing is zeros, and its lse that of the sink, or -infinity. Tokens
// from the sequence's kv tokens on are not read. This is ONNX's Attention (opset 23 to 25), in its
// order of softcap and mask.
//
// Floats. reference_attention() computes in double and rounds once. Backends compute in f32, in any
// order and with any tiling, may round weights to v's type before they meet v, and agree with it
// within attention_tolerance(): a bound, not a guess. NaN or +infinity among the logits that are
// seen makes the row NaN. The one difference beside the bound: NaN or infinity in v of a key that a
// row does not see, but another row of the call may, can make it NaN in a backend (0 * NaN).
//
// Int8 (AttentionArithmetic::int8). Every bit is defined, so that tiles and threads cannot matter:
//   1. Each vector of q becomes s8 (RowQuantization; with k's scales per channel, after q[d] is
//      multiplied by the channel's). Float k becomes s8 vector by vector, less its mean over the
//      sequence's tokens if asked for; s8 and s4 of a cache are taken as they are.
//   2. a[j] = sum of products in s32, exactly; x[j] = float(a[j]) * ((q's scale * scale) * k's
//      scale[j]); softcap, mask and ALiBi are single operations in the order above, none fused.
//   3. m is the largest x[j] that is seen, and the sink: a maximum has no order. The weights are
//      quantized against it, not against a running one: e[j] = scalar::exp(x[j] - m) lies in
//      [0, 1], u[j] = quantize(e[j] * 255) in u8, l = sum of u[j], exactly.
//   4. Float v becomes s8 channel by channel, over the sequence's tokens. s8 and s4 with scales per
//      channel are taken as they are. Scales per token go into the weights, divided by their
//      largest c among the sequence's tokens: u'[j] = quantize((e[j] * (scale[j] / c)) * 255),
//      while l stays the sum of u[j].
//   5. o[d] = sum of u'[j] v[j, d], exactly; out = (float(o[d]) / float(l)) * scale of v's channel
//      (or c), rounded to out's type. With a sink, 255 * scalar::exp(sink - m) is added to
//      float(l).
// The price of step 3 is a second pass over k, without exponentials (int8 products are cheap), or
// the scores of a few rows kept; a running maximum would requantize sums, and every tiling would
// give other bits. Sums of more than 65,793 keys do not fit s32: o and l are integers of any size,
// kept block by block. Weights below 1/510 of the row's largest count for nothing. NaN counts as 0
// in what is quantized. Only lse, m + log(float(l) / 255) with the sink's part in l, has a bound
// instead of bits, that of a logarithm. Close to SageAttention (https://arxiv.org/abs/2410.02367),
// whose weights are quantized tile by tile.
#pragma once

#include <cmath>
#include <optional>

#include "quern/ops/heads.hpp"

namespace quern {
inline namespace QUERN_ABI {

enum class AttentionArithmetic : std::uint8_t { floats, int8 };

/// Where the first query stands among the keys: start = 0, or kv tokens - q tokens, or given.
enum class Alignment : std::uint8_t { top_left, bottom_right, given };

/// Keys that a query at position p sees: p - left to p + right; -1 is no bound.
struct Window {
  Index left = -1;
  Index right = -1;
  /// The query's own position and what came before, at most `left` tokens back.
  static constexpr Window causal(Index left = -1) { return {left, 0}; }

  struct Keys {
    Index begin, end;
  };
  /// The keys it leaves of `count` to a query at a position: begin to end - 1.
  constexpr Keys of(Index position, Index count) const {
    const Index end = right < 0 || right >= count - position ? count : position + right + 1;
    const Index begin = left < 0 || left > position ? 0 : position - left;
    return {begin, end > begin ? end : begin};
  }
};

/// Of a mask's elements: bytes where not 0 is "sees"; or floats that are added.
enum class MaskType : std::uint8_t { none, boolean, f32, bf16, f16 };

constexpr bool is_known(MaskType t) { return static_cast<std::uint8_t>(t) <= 4; }
constexpr const char* name(MaskType t) {
  constexpr const char* kNames[] = {"no", "boolean", "f32", "bf16", "f16"};
  return is_known(t) ? kNames[static_cast<std::uint8_t>(t)] : "unknown";
}
constexpr Index size_of(MaskType t) {
  return t == MaskType::f32 ? 4 : t == MaskType::bf16 || t == MaskType::f16 ? 2 : 1;
}

/// A mask (batch, heads, rows, cols); the first three are 1, for all alike, or those of the call.
/// Keys from cols on are not seen, as in ONNX.
struct MaskView {
  const void* data = nullptr;
  MaskType type = MaskType::none;
  Index batch = 1, heads = 1, rows = 1, cols = 0;
  Index batch_stride = 0, head_stride = 0, row_stride = 0, col_stride = 1;  ///< of an extent 1: 0

  /// A dense mask of 1 to 4 dimensions, of which missing ones and those of 1 are broadcast.
  static constexpr MaskView broadcast(const void* data, MaskType type,
                                      std::span<const Index> shape) {
    Index extents[4] = {1, 1, 1, 1}, strides[4] = {0, 0, 0, 1}, stride = 1;
    for (std::size_t i = 0; i < shape.size() && i < 4; ++i) {
      extents[3 - i] = shape[shape.size() - 1 - i];
      if (i == 0 || extents[3 - i] != 1) strides[3 - i] = stride;
      stride = wrapping_multiply(stride, extents[3 - i]);
    }
    return {data,       type,       extents[0], extents[1], extents[2],
            extents[3], strides[0], strides[1], strides[2], strides[3]};
  }
  /// Element (b, h, i, j): what is added, of a boolean mask 0 or -infinity.
  float operator()(Index b, Index h, Index i, Index j) const {
    const Index at = b * batch_stride + h * head_stride + i * row_stride + j * col_stride;
    switch (type) {
      case MaskType::boolean:
        return static_cast<const std::uint8_t*>(data)[at] != 0 ? 0.0f : -HUGE_VALF;
      case MaskType::f32:
        return static_cast<const float*>(data)[at];
      case MaskType::bf16:
        return to_float(static_cast<const bf16*>(data)[at]);
      case MaskType::f16:
        return to_float(static_cast<const f16*>(data)[at]);
      case MaskType::none:
        break;
    }
    return 0.0f;
  }
};

/// A look inside, for finding errors (ONNX's qk_matmul_output): x[j] after which line of the
/// formula above, or the weights. Unseen keys have -infinity in `masked`, 0 in `weights`.
enum class Scores : std::uint8_t { none, product, capped, masked, weights };

/// What is fixed. Batch and lengths are the call's.
struct AttentionProblem {
  Index q_heads = 1;
  Index kv_heads = 1;          ///< divides q_heads: equal, grouped (GQA), or 1 (MQA)
  Index qk_size = 0;           ///< of q's and k's vectors, at least 1
  Index v_size = 0;            ///< of v's and out's vectors, at least 1
  HeadType q = HeadType::f32;  ///< f32, bf16 or f16
  HeadType k = HeadType::f32;
  HeadType v = HeadType::f32;
  HeadType out = HeadType::f32;  ///< f32, bf16 or f16
  HeadScales k_scales = HeadScales::none;
  HeadScales v_scales = HeadScales::none;
  AttentionArithmetic arithmetic = AttentionArithmetic::floats;
  /// Takes the mean of float k over the sequence's tokens away before quantizing to int8. The
  /// weights stay the same in exact arithmetic, and what all keys have in common costs no bits.
  bool smooth_k = false;
  std::optional<float> scale = {};  ///< none: 1 / sqrt(qk_size)
  float softcap = 0.0f;             ///< 0: none
  Alignment alignment = Alignment::top_left;
  Window window = {};
  MaskType mask = MaskType::none;
  bool alibi = false;
  bool sinks = false;
  bool lse = false;
  Scores scores = Scores::none;

  float scale_value() const {
    return scale ? *scale : static_cast<float>(1.0 / std::sqrt(static_cast<double>(qk_size)));
  }
  Index group() const { return q_heads / kv_heads; }
};

/// One call. The batch is q's, or the number of its sequences where they are ragged.
struct AttentionArgs {
  ConstHeadsView q;            ///< (batch, q_heads, tokens, qk_size), or ragged
  ConstHeadsView k;            ///< (batch, kv_heads, tokens, qk_size), or ragged, or pages
  ConstHeadsView v;            ///< (batch, kv_heads, tokens, v_size), as k
  HeadsView out;               ///< (batch, q_heads, tokens, v_size), as q
  ConstHeadFloats k_scales{};  ///< of k; not negative
  ConstHeadFloats v_scales{};  ///< of v; not negative
  std::span<const std::int32_t> q_offsets = {};   ///< ragged queries: see TokenMap
  std::span<const std::int32_t> kv_offsets = {};  ///< ragged keys and values
  Matrix<const std::int32_t> pages = {};          ///< (batch, columns): k and v are pages
  std::span<const std::int32_t> kv_lengths = {};  ///< (batch) tokens in use; none: all
  std::span<const std::int32_t> starts = {};      ///< (batch) if Alignment::given
  MaskView mask{};
  std::span<const float> alibi = {};  ///< (q_heads) slopes, finite
  std::span<const float> sinks = {};  ///< (q_heads) finite or -infinity
  HeadFloats lse{};                   ///< one for each query and head, in q's places
  HeadFloats scores{};  ///< (batch, q_heads, q tokens, kv tokens), channel_stride 1, not ragged

  TokenMap q_map() const { return {q_offsets, {}}; }
  TokenMap kv_map() const { return {kv_offsets, pages}; }
  Index batch() const { return q_map().batch(q); }
  Index q_tokens(Index b) const { return q_map().capacity(q, b); }
  Index kv_tokens(Index b) const {
    return kv_lengths.empty() ? kv_map().capacity(k, b) : kv_lengths[static_cast<std::size_t>(b)];
  }
  /// The position of sequence b's first query.
  Index start(const AttentionProblem& p, Index b) const {
    if (p.alignment == Alignment::given) return starts[static_cast<std::size_t>(b)];
    return p.alignment == Alignment::top_left ? 0 : kv_tokens(b) - q_tokens(b);
  }
};

}  // namespace QUERN_ABI
}  // namespace quern
