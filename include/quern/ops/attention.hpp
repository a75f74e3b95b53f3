// What can be wrong with attention (ops/attention_problem.hpp says what it is), and how far a
// backend's floats may be from the reference's.
#pragma once

#include <algorithm>
#include <cmath>

#include "quern/ops/attention_problem.hpp"
#include "quern/ops/heads_check.hpp"

namespace quern {
inline namespace QUERN_ABI {

/// Everything that can be wrong with the description alone.
inline Error validate(const AttentionProblem& p) {
  using detail::LL;
  constexpr Index kMostHeads = Index{1} << 24, kMostSize = 65536;  // 127 * 128 * 65536 < 2^31
  if (!is_float(p.q) || !is_float(p.out)) {
    return Error::make(Code::unsupported, "attention: q as %s and out as %s are not offered",
                       name(p.q), name(p.out));
  }
  if (p.q_heads < 1 || p.kv_heads < 1 || p.q_heads > kMostHeads || p.q_heads % p.kv_heads != 0) {
    return Error::make(
        Code::bad_shape,
        "attention: %lld KV heads cannot be shared by %lld query heads (1 to 2^24, a "
        "multiple)",
        LL(p.kv_heads), LL(p.q_heads));
  }
  if (p.qk_size < 1 || p.v_size < 1 || p.qk_size > kMostSize || p.v_size > kMostSize) {
    return Error::make(Code::bad_shape, "attention: vectors of %lld and %lld; 1 to %lld can be",
                       LL(p.qk_size), LL(p.v_size), LL(kMostSize));
  }
  if (Error e = detail::check_scale_kind(p.k, p.k_scales, "attention: k")) return e;
  if (Error e = detail::check_scale_kind(p.v, p.v_scales, "attention: v")) return e;
  if (!std::isfinite(p.scale_value())) {
    return Error::make(Code::bad_value, "attention: scale is %g; it must be finite",
                       double(p.scale_value()));
  }
  if (!std::isfinite(p.softcap) || p.softcap < 0.0f) {
    return Error::make(Code::bad_value, "attention: softcap is %g; it must be finite, not negative",
                       double(p.softcap));
  }
  if (p.window.left < -1 || p.window.right < -1) {
    return Error::make(
        Code::bad_value,
        "attention: window is %lld and %lld; -1 is no bound, others are not negative",
        LL(p.window.left), LL(p.window.right));
  }
  const auto known = [](auto value, int most) { return static_cast<int>(value) <= most; };
  if (!is_known(p.mask) || !known(p.alignment, 2) || !known(p.arithmetic, 1) ||
      !known(p.scores, 4)) {
    return Error::make(Code::unsupported,
                       "attention: mask %d, alignment %d, arithmetic %d or scores %d is none",
                       int(p.mask), int(p.alignment), int(p.arithmetic), int(p.scores));
  }
  const bool int8 = p.arithmetic == AttentionArithmetic::int8;
  if (int8 && p.scores != Scores::none) {
    return Error::make(Code::unsupported, "attention: int8 arithmetic does not return scores");
  }
  if (p.smooth_k && (!int8 || !is_float(p.k) || p.softcap != 0.0f || p.sinks || p.lse)) {
    return Error::make(Code::unsupported,
                       "attention: smooth_k needs int8 arithmetic and float k (it is %s), and the "
                       "mean would not cancel with a softcap (%g), sinks (%d) or lse (%d)",
                       name(p.k), double(p.softcap), int(p.sinks), int(p.lse));
  }
  return {};
}

namespace detail {

inline Error check_count(const char* what, std::size_t count, Index wanted) noexcept {
  if (std::cmp_equal(count, wanted)) return {};
  return Error::make(Code::bad_shape, "attention: %lld %s where %lld are needed", LL(count), what,
                     LL(wanted));
}

inline Error check_mask(const AttentionProblem& p, const AttentionArgs& args,
                        Index* bytes) noexcept {
  const MaskView& m = args.mask;
  *bytes = 0;
  if (m.type != p.mask) {
    return Error::make(Code::unsupported, "attention: %s mask is given, %s mask is in the problem",
                       name(m.type), name(p.mask));
  }
  if (m.type == MaskType::none) return {};
  const Index wanted[3] = {args.batch(), p.q_heads, args.q.tokens};
  const Index extents[3] = {m.batch, m.heads, m.rows},
              strides[3] = {m.batch_stride, m.head_stride, m.row_stride};
  Index span = 0, last = 0;  // last: where a row's last column is
  bool fits = m.cols >= 0 && m.col_stride >= 0 && m.col_stride < (Index{1} << 40) &&
              multiply_fits(m.cols > 0 ? m.cols - 1 : 0, m.col_stride, &last) &&
              last < (Index{1} << 56);
  for (int i = 0; i < 3; ++i) {
    // The longest of ragged queries is not known here: validate_values() compares it.
    const bool ragged_rows = i == 2 && !args.q_offsets.empty();
    fits &= extents[i] == wanted[i] || extents[i] == 1 || (ragged_rows && extents[i] >= 0);
    fits &= strides[i] >= 0 && (extents[i] != 1 || strides[i] == 0);
  }
  if (!fits || !spans_fit(extents, strides, last + 1, &span)) {
    return Error::make(
        Code::bad_shape,
        "attention: mask is %lld x %lld x %lld x %lld with strides %lld, %lld, %lld, "
        "%lld, not 1 (with stride 0) or %lld x %lld x %lld",
        LL(m.batch), LL(m.heads), LL(m.rows), LL(m.cols), LL(m.batch_stride), LL(m.head_stride),
        LL(m.row_stride), LL(m.col_stride), LL(wanted[0]), LL(wanted[1]), LL(wanted[2]));
  }
  const bool empty = m.batch == 0 || m.rows == 0 || m.cols == 0;
  const auto at = reinterpret_cast<std::uintptr_t>(m.data);
  if (!empty && (at == 0 || at % static_cast<std::uintptr_t>(size_of(m.type)) != 0)) {
    return Error::make(Code::bad_data, "attention: mask at %p is null or not aligned for %s",
                       m.data, name(m.type));
  }
  if (!empty) *bytes = span * size_of(m.type);
  return {};
}

/// Addresses and strides of scores, for as many keys as there is room for.
inline Error check_scores(const AttentionProblem& p, const AttentionArgs& args,
                          Index* bytes) noexcept {
  *bytes = 0;
  if (p.scores == Scores::none) return {};
  if (!args.q_offsets.empty() || !args.kv_offsets.empty()) {
    return Error::make(Code::unsupported, "attention: ragged batches do not return scores");
  }
  ConstHeadsView rows = args.q;
  rows.size = args.kv_map().capacity(args.k, 0);
  const HeadFloats& s = args.scores;
  const Index extents[3] = {rows.batch, rows.heads, rows.tokens},
              strides[3] = {s.batch_stride, s.head_stride, s.token_stride};
  if (rows.batch == 0 || rows.tokens == 0 || rows.size == 0) return {};
  Index span = 0;
  if (s.data == nullptr || reinterpret_cast<std::uintptr_t>(s.data) % alignof(float) != 0) {
    return Error::make(Code::bad_data, "attention: scores at %p are null or not aligned",
                       static_cast<const void*>(s.data));
  }
  if (s.batch_stride < 0 || s.head_stride < 0 || s.token_stride < 0 || s.channel_stride != 1 ||
      !spans_fit(extents, strides, rows.size, &span) ||
      !blocks_apart(extents, strides, rows.size, false)) {
    return Error::make(Code::bad_shape,
                       "attention: scores have strides %lld, %lld, %lld, %lld for %lld x %lld x "
                       "%lld x %lld",
                       LL(s.batch_stride), LL(s.head_stride), LL(s.token_stride),
                       LL(s.channel_stride), LL(rows.batch), LL(rows.heads), LL(rows.tokens),
                       LL(rows.size));
  }
  *bytes = span * static_cast<Index>(sizeof(float));
  return {};
}

}  // namespace detail

/// One call of a valid problem: shapes, strides and addresses, but nothing that is there, so that
/// backends with memory of their own can ask too. Never allocates.
inline Error validate(const AttentionProblem& p, const AttentionArgs& args) noexcept {
  using detail::LL;
  const ConstHeadsView &q = args.q, &k = args.k, &v = args.v, out = args.out;
  struct Span {
    const char* what;
    const void* data;
    Index bytes = 0;
  };
  Span in[6] = {{"q", q.data},
                {"k", k.data},
                {"v", v.data},
                {"k_scales", args.k_scales.data},
                {"v_scales", args.v_scales.data},
                {"mask", args.mask.data}};
  Span to[3] = {{"out", out.data}, {"lse", args.lse.data}, {"scores", args.scores.data}};
  using detail::check_heads;
  if (Error e = check_heads(q, "attention: q", p.q, p.q_heads, p.qk_size, &in[0].bytes)) return e;
  if (Error e = check_heads(k, "attention: k", p.k, p.kv_heads, p.qk_size, &in[1].bytes)) return e;
  if (Error e = check_heads(v, "attention: v", p.v, p.kv_heads, p.v_size, &in[2].bytes)) return e;
  if (Error e = check_heads(args.out, "attention: out", p.out, p.q_heads, p.v_size, &to[0].bytes)) {
    return e;
  }
  if (k.batch != v.batch || k.tokens != v.tokens || q.batch != out.batch ||
      q.tokens != out.tokens) {
    return Error::make(Code::bad_shape,
                       "attention: k and v are %lld x %lld and %lld x %lld (batch, tokens), q and "
                       "out %lld x %lld and %lld x %lld: they must agree",
                       LL(k.batch), LL(k.tokens), LL(v.batch), LL(v.tokens), LL(q.batch),
                       LL(q.tokens), LL(out.batch), LL(out.tokens));
  }
  const Index batch = args.batch();
  if (Error e = detail::check_map(args.q_map(), q, batch, "attention: q")) return e;
  if (Error e = detail::check_map(args.kv_map(), k, batch, "attention: k")) return e;
  if (!args.kv_lengths.empty()) {
    if (Error e = detail::check_count("KV lengths", args.kv_lengths.size(), batch)) return e;
  }
  const Index starts = p.alignment == Alignment::given ? batch : 0;
  if (Error e = detail::check_count("starts", args.starts.size(), starts)) return e;
  const Index slopes = p.alibi ? p.q_heads : 0, sinks = p.sinks ? p.q_heads : 0;
  if (Error e = detail::check_count("ALiBi slopes", args.alibi.size(), slopes)) return e;
  if (Error e = detail::check_count("sinks", args.sinks.size(), sinks)) return e;
  if (Error e =
          detail::check_scales(args.k_scales, p.k_scales, k, "attention: k_scales", &in[3].bytes)) {
    return e;
  }
  if (Error e =
          detail::check_scales(args.v_scales, p.v_scales, v, "attention: v_scales", &in[4].bytes)) {
    return e;
  }
  if (Error e = detail::check_mask(p, args, &in[5].bytes)) return e;
  const HeadScales lse = p.lse ? HeadScales::per_token : HeadScales::none;
  if (Error e = detail::check_scales(args.lse, lse, q, "attention: lse", &to[1].bytes)) return e;
  if (Error e = detail::check_scores(p, args, &to[2].bytes)) return e;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 6 + i; ++j) {
      const Span& other = j < 6 ? in[j] : to[j - 6];
      if (detail::bytes_apart(to[i].data, to[i].bytes, other.data, other.bytes)) continue;
      return Error::make(Code::bad_data, "attention: %s at %p overlaps %s at %p", to[i].what,
                         to[i].data, other.what, other.data);
    }
  }
  return {};
}

namespace detail {

inline Error check_mask_values(const MaskView& m) noexcept {
  if (m.type == MaskType::none || m.type == MaskType::boolean) return {};
  for (Index b = 0; b < m.batch; ++b) {
    for (Index h = 0; h < m.heads; ++h) {
      for (Index i = 0; i < m.rows; ++i) {
        for (Index j = 0; j < m.cols; ++j) {
          const float value = m(b, h, i, j);
          if (value < HUGE_VALF) continue;
          return Error::make(Code::bad_value,
                             "attention: mask is %g at %lld, %lld, %lld, %lld; numbers and "
                             "-infinity are possible",
                             double(value), LL(b), LL(h), LL(i), LL(j));
        }
      }
    }
  }
  return {};
}

/// Scales of the tokens in use, not negative.
inline Error check_scale_values(const ConstHeadFloats& s, HeadScales kind, const ConstHeadsView& x,
                                const AttentionArgs& args, const char* what) noexcept {
  const bool token = kind == HeadScales::per_token;
  if (kind == HeadScales::none) return {};
  for (Index b = 0; b < (token ? args.batch() : 1); ++b) {
    for (Index t = 0; t < (token ? args.kv_tokens(b) : x.size); ++t) {
      const TokenMap::Place at = token ? args.kv_map().place(x, b, t) : TokenMap::Place{0, 0};
      for (Index h = 0; h < x.heads; ++h) {
        const float value = s.at(at.batch, h, at.token, token ? 0 : t);
        if (value >= 0.0f) continue;
        return Error::make(Code::bad_value,
                           "attention: %s is %g for %s %lld of head %lld (sequence %lld); it must "
                           "not be negative",
                           what, double(value), token ? "token" : "channel", LL(t), LL(h), LL(b));
      }
    }
  }
  return {};
}

}  // namespace detail

/// The numbers that come with a valid call, which must be in the program's memory: offsets, lengths
/// and pages in range; masks, slopes, sinks and scales that mean something.
inline Error validate_values(const AttentionProblem& p, const AttentionArgs& args) noexcept {
  using detail::LL;
  if (Error e = detail::check_offsets(args.q_map(), args.q, "attention: q")) return e;
  if (Error e = detail::check_offsets(args.kv_map(), args.k, "attention: k")) return e;
  for (Index b = 0; b < args.batch(); ++b) {
    const Index tokens = args.kv_tokens(b), capacity = args.kv_map().capacity(args.k, b);
    if (tokens < 0 || tokens > capacity) {
      return Error::make(Code::bad_value,
                         "attention: sequence %lld has %lld keys, but there is room for %lld",
                         LL(b), LL(tokens), LL(capacity));
    }
    if (Error e = detail::check_pages(args.kv_map(), args.k, b, tokens, "attention: k")) return e;
    const bool masked = p.mask != MaskType::none && args.mask.rows != 1;
    if (masked && args.q_tokens(b) > args.mask.rows) {
      return Error::make(Code::bad_shape,
                         "attention: sequence %lld has %lld queries, but the mask has %lld rows",
                         LL(b), LL(args.q_tokens(b)), LL(args.mask.rows));
    }
  }
  if (Error e = detail::check_mask_values(args.mask)) return e;
  for (std::size_t h = 0; h < args.alibi.size(); ++h) {
    if (std::isfinite(args.alibi[h])) continue;
    return Error::make(Code::bad_value, "attention: ALiBi slope %lld is %g; it must be finite",
                       LL(h), double(args.alibi[h]));
  }
  for (std::size_t h = 0; h < args.sinks.size(); ++h) {
    if (args.sinks[h] < HUGE_VALF) continue;
    return Error::make(Code::bad_value,
                       "attention: sink %lld is %g; it must be finite or -infinity", LL(h),
                       double(args.sinks[h]));
  }
  if (Error e = detail::check_scale_values(args.k_scales, p.k_scales, args.k, args, "k's scale")) {
    return e;
  }
  return detail::check_scale_values(args.v_scales, p.v_scales, args.v, args, "v's scale");
}

/// What the numbers of a call reach: see attention_range().
struct AttentionRange {
  double q_norm = 0, k_norm = 0;  ///< largest Euclidean lengths of vectors of q and k, dequantized
  double v = 0;                   ///< largest magnitude in v, dequantized
  double bias = 0;                ///< largest magnitude that mask, ALiBi and sink add up to
};

/// How far apart results may be.
struct AttentionTolerance {
  double out = 0, lse = 0;
};

/// The distance allowed between a backend's results and the reference's for rows that see up to
/// `keys` keys. Of floats, with u = 2^-24 (another u: of arithmetic of that unit roundoff
/// throughout):
///   - a logit's sum of d products, in any order, fused or not, is wrong by at most (d + 8) u S,
///     where S = |scale| |q| |k| bounds sum |q k| by Cauchy and Schwarz; 8 counts roundings of the
///     scale and of dequantized elements. Softcap adds 8 u softcap, and everything that is done to
///     a logit of magnitude X at most (mask, ALiBi, subtraction of the maximum) 8 u X: together e;
///   - weights of logits wrong by e are wrong by a factor within exp(+-2 e);
///   - an exponential within 3 ulp, sums of n terms in any order, rescaling at every new maximum
///     and the division cost another factor of 1 +- (4 n + 40) u; weights rounded to v's type, one
///     of 1 +- its roundoff;
///   - the weights of a row sum to at most 1, so all this counts times the largest |v|; and each
///     side rounds the result to out's type;
///   - where values are so small that numbers on the way are subnormal, rounding is no longer
///     relative: an operation is wrong by up to half the distance between subnormal numbers, 2^-125
///     u with f32's exponents. Four operations a key count: dequantizing the value, weighing it,
///     rescaling the sum at a new maximum and merging it with another. Sums of subnormal numbers
///     are exact, and what is lost does not grow on the way: weights are at most 1 and the divisor
///     is at least 1. But a weight that a tiny scale is folded into may be wrong that much, times
///     an integer up to 128 (s4: 8). With a few operations at the end this is (2 n + 4) distances,
///     times that integer. Rounding to out's type adds half of that type's distance on each side.
/// Int8 arithmetic has no distance but that of lse's logarithm.
inline AttentionTolerance attention_tolerance(const AttentionProblem& p, Index keys,
                                              const AttentionRange& r, double u = 0x1p-24) {
  const double d = static_cast<double>(p.qk_size), n = static_cast<double>(keys);
  const double s = std::fabs(static_cast<double>(p.scale_value())) * r.q_norm * r.k_norm;
  const double cap = static_cast<double>(p.softcap);
  const double x = (cap > 0.0 ? std::min(s, cap) : s) + r.bias;
  if (p.arithmetic == AttentionArithmetic::int8) return {0.0, 8.0 * u * (x + std::log1p(n))};
  const double e = u * ((d + 8.0) * s + 8.0 * cap + 8.0 * x);
  const double weights = is_float(p.v) ? unit_roundoff(p.v) : 0.0;
  const double factor = std::expm1(2.0 * e) + (4.0 * n + 40.0) * u + weights;
  const double out_step = p.out == HeadType::f16    ? 0x1p-24
                          : p.out == HeadType::bf16 ? 0x1p-133
                                                    : 0x1p-149;  // between subnormal numbers
  const double rounding = 2.0 * unit_roundoff(p.out) * r.v + out_step;
  const double integer = is_float(p.v) ? 1.0 : static_cast<double>(largest(p.v) + 1);
  const double subnormal = (2.0 * n + 4.0) * 0x1p-125 * u * integer;
  return {std::min(factor, 2.0) * r.v + rounding + subnormal,
          e + (n + 16.0) * u + 4.0 * u * (x + std::log1p(n))};
}

}  // namespace QUERN_ABI
}  // namespace quern
