// The meaning of attention (ops/attention_problem.hpp), as plain loops. These functions allocate,
// unlike backends.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "quern/ops/activation.hpp"
#include "quern/ops/attention.hpp"

namespace quern {
inline namespace QUERN_ABI {

namespace scalar {

/// cap * tanh(x / cap) as cap (1 - 2 / (1 + e^(2 x / cap))), within 4 * 2^-24 * cap; NaN stays NaN.
/// Single operations, none fused: int8 arithmetic needs these bits.
inline float softcap(float x, float cap) {
  return unfused(cap * (1.0f - 2.0f / (1.0f + exp(unfused(x * (2.0f / cap))))));
}

}  // namespace scalar

namespace detail {

/// One row of the scores: query i of sequence b, head h.
struct AttentionRow {
  Index b, h, i;
  Index kv_head;
  TokenMap::Place q;
  Index keys;
  Index position;
};

/// Whether the row sees key j, and what the mask adds then.
inline bool sees(const AttentionProblem& p, const AttentionArgs& args, const AttentionRow& r,
                 Index j, float* mask) {
  *mask = 0.0f;
  const Window::Keys keys = p.window.of(r.position, r.keys);
  if (j < keys.begin || j >= keys.end) return false;
  if (p.mask == MaskType::none) return true;
  if (j >= args.mask.cols) return false;
  *mask = args.mask(r.b, r.h, r.i, j);
  return *mask != -HUGE_VALF;
}

/// What ALiBi adds for key j.
inline float alibi(const AttentionProblem& p, const AttentionArgs& args, const AttentionRow& r,
                   Index j) {
  if (!p.alibi) return 0.0f;
  const Index distance = r.position < j ? j - r.position : r.position - j;
  return unfused(-args.alibi[static_cast<std::size_t>(r.h)] * static_cast<float>(distance));
}

inline float sink(const AttentionProblem& p, const AttentionArgs& args, const AttentionRow& r) {
  return p.sinks ? args.sinks[static_cast<std::size_t>(r.h)] : -HUGE_VALF;
}

/// Element d of key (or value) j as a number.
inline double dequantized(const ConstHeadsView& x, const ConstHeadFloats& scales, HeadScales kind,
                          TokenMap::Place at, Index h, Index d) {
  const double v = static_cast<double>(load(x, at.batch, h, at.token, d));
  if (kind == HeadScales::none) return v;
  const bool token = kind == HeadScales::per_token;
  return v * static_cast<double>(token ? scales.at(at.batch, h, at.token) : scales.at(0, h, 0, d));
}

/// One row in double. x has room for all keys.
inline void attend(const AttentionProblem& p, const AttentionArgs& args, const AttentionRow& r,
                   std::vector<double>& x) {
  const TokenMap kv = args.kv_map();
  const double scale = static_cast<double>(p.scale_value()), cap = static_cast<double>(p.softcap);
  const double extra = static_cast<double>(sink(p, args, r));
  const auto show = [&](Scores which, Index j, double value) {
    if (p.scores == which) args.scores.at(r.b, r.h, r.i, j) = static_cast<float>(value);
  };
  double most = extra;
  for (Index j = 0; j < r.keys; ++j) {
    const TokenMap::Place at = kv.place(args.k, r.b, j);
    double dot = 0.0;
    for (Index d = 0; d < p.qk_size; ++d) {
      dot += static_cast<double>(load(args.q, r.q.batch, r.h, r.q.token, d)) *
             dequantized(args.k, args.k_scales, p.k_scales, at, r.kv_head, d);
    }
    double& logit = x[static_cast<std::size_t>(j)];
    logit = scale * dot;
    show(Scores::product, j, logit);
    if (cap > 0.0) logit = cap * std::tanh(logit / cap);
    show(Scores::capped, j, logit);
    float mask = 0.0f;
    logit = sees(p, args, r, j, &mask)
                ? logit + static_cast<double>(mask) + static_cast<double>(alibi(p, args, r, j))
                : -HUGE_VAL;
    show(Scores::masked, j, logit);
    if (logit > most) most = logit;
  }
  const bool blind = most == -HUGE_VAL;  // or everything is NaN
  double sum = blind ? 0.0 : std::exp(extra - most);
  std::vector<double> out(static_cast<std::size_t>(p.v_size));
  for (Index j = 0; j < r.keys; ++j) {
    double& weight = x[static_cast<std::size_t>(j)];
    if (weight == -HUGE_VAL) {
      weight = 0.0;
      continue;
    }
    weight = std::exp(weight - most);
    sum += weight;
    const TokenMap::Place at = kv.place(args.v, r.b, j);
    for (Index d = 0; d < p.v_size; ++d) {
      out[static_cast<std::size_t>(d)] +=
          weight * dequantized(args.v, args.v_scales, p.v_scales, at, r.kv_head, d);
    }
  }
  for (Index j = 0; j < r.keys; ++j) {
    const double weight = x[static_cast<std::size_t>(j)];
    show(Scores::weights, j, sum == 0.0 ? 0.0 : weight / sum);
  }
  for (Index d = 0; d < p.v_size; ++d) {
    const double v = out[static_cast<std::size_t>(d)];
    store(args.out, r.q.batch, r.h, r.q.token, d, static_cast<float>(sum == 0.0 ? 0.0 : v / sum));
  }
  const double lse = sum == 0.0 ? -HUGE_VAL : most + std::log(sum);
  if (p.lse) args.lse.at(r.q.batch, r.h, r.q.token) = static_cast<float>(lse);
}

/// Keys and values of one sequence and KV head, as int8 arithmetic sees them.
struct Int8Head {
  std::vector<std::int8_t> k, v;  // (keys, size)
  std::vector<float> k_scale;     // of each key
  std::vector<float> v_weight;    // of each key
  std::vector<float> v_scale;     // of each channel
};

/// Steps 1 and 4 for one side: `x` (keys, size) as integers, with a scale for each key.
inline std::vector<std::int8_t> quantize_tokens(std::vector<float> x, Index keys, Index size,
                                                bool smooth, std::vector<float>* scales) {
  const auto element = [&](Index j, Index d) -> float& {
    return x[static_cast<std::size_t>(j * size + d)];
  };
  for (Index d = 0; d < size && smooth; ++d) {
    float sum = 0.0f;
    for (Index j = 0; j < keys; ++j) sum += element(j, d);  // in the order of tokens
    const float mean = sum / static_cast<float>(keys);
    for (Index j = 0; j < keys; ++j) element(j, d) -= mean;
  }
  std::vector<std::int8_t> q(x.size());
  for (Index j = 0; j < keys; ++j) {
    float amax = 0.0f;
    for (Index d = 0; d < size; ++d) {
      if (std::fabs(element(j, d)) > amax) amax = std::fabs(element(j, d));  // false for NaN
    }
    const RowQuantization row = RowQuantization::of(amax);
    scales->push_back(row.scale);
    for (Index d = 0; d < size; ++d) {
      q[static_cast<std::size_t>(j * size + d)] =
          static_cast<std::int8_t>(quantize(element(j, d) * row.inverse, 0, DType::s8));
    }
  }
  return q;
}

inline Int8Head int8_head(const AttentionProblem& p, const AttentionArgs& args, Index b, Index h) {
  const TokenMap map = args.kv_map();
  const Index keys = args.kv_tokens(b);
  const auto read = [&](const ConstHeadsView& x) {
    std::vector<float> values;
    for (Index j = 0; j < keys; ++j) {
      const TokenMap::Place at = map.place(x, b, j);
      for (Index d = 0; d < x.size; ++d) values.push_back(load(x, at.batch, h, at.token, d));
    }
    return values;
  };
  const auto token_scales = [&](const ConstHeadFloats& s, const ConstHeadsView& x) {
    std::vector<float> scales;
    for (Index j = 0; j < keys; ++j) {
      const TokenMap::Place at = map.place(x, b, j);
      scales.push_back(s.at(at.batch, h, at.token));
    }
    return scales;
  };
  Int8Head head;
  const std::vector<float> k = read(args.k), v = read(args.v);
  if (is_float(p.k)) {
    head.k = quantize_tokens(k, keys, p.qk_size, p.smooth_k, &head.k_scale);
  } else {
    head.k.assign(k.begin(), k.end());
    head.k_scale.assign(static_cast<std::size_t>(keys), 1.0f);
    if (p.k_scales == HeadScales::per_token) head.k_scale = token_scales(args.k_scales, args.k);
  }
  head.v_weight.assign(static_cast<std::size_t>(keys), 1.0f);
  head.v.resize(v.size());
  float most = 0.0f;  // c of step 4
  if (p.v_scales == HeadScales::per_token) {
    head.v_weight = token_scales(args.v_scales, args.v);
    for (const float s : head.v_weight) most = std::max(most, s);
    for (float& s : head.v_weight) s = most > 0.0f ? s / most : 0.0f;
  }
  for (Index d = 0; d < p.v_size; ++d) {
    const auto at = [&](Index j) { return static_cast<std::size_t>(j * p.v_size + d); };
    RowQuantization channel{1.0f, most};
    if (p.v_scales == HeadScales::per_channel) channel.scale = args.v_scales.at(0, h, 0, d);
    if (is_float(p.v)) {
      float amax = 0.0f;
      for (Index j = 0; j < keys; ++j) {
        if (std::fabs(v[at(j)]) > amax) amax = std::fabs(v[at(j)]);
      }
      channel = RowQuantization::of(amax);
    }
    for (Index j = 0; j < keys; ++j) {
      head.v[at(j)] = static_cast<std::int8_t>(quantize(v[at(j)] * channel.inverse, 0, DType::s8));
    }
    head.v_scale.push_back(channel.scale);
  }
  return head;
}

/// One row in int8 arithmetic. x has room for all keys.
inline void attend_int8(const AttentionProblem& p, const AttentionArgs& args, const AttentionRow& r,
                        const Int8Head& head, std::vector<float>& x) {
  std::vector<float> q_scale, row;
  for (Index d = 0; d < p.qk_size; ++d) {
    float v = load(args.q, r.q.batch, r.h, r.q.token, d);
    if (p.k_scales == HeadScales::per_channel) v *= args.k_scales.at(0, r.kv_head, 0, d);
    row.push_back(v);
  }
  const std::vector<std::int8_t> q = quantize_tokens(row, 1, p.qk_size, false, &q_scale);
  const float q_factor = unfused(q_scale[0] * p.scale_value()), extra = sink(p, args, r);
  float most = extra;
  bool nan = false;
  std::vector<bool> seen(static_cast<std::size_t>(r.keys));
  for (Index j = 0; j < r.keys; ++j) {
    const auto at = static_cast<std::size_t>(j);
    std::int32_t a = 0;
    for (Index d = 0; d < p.qk_size; ++d) {
      a += q[static_cast<std::size_t>(d)] * head.k[static_cast<std::size_t>(j * p.qk_size + d)];
    }
    float logit = unfused(static_cast<float>(a) * unfused(q_factor * head.k_scale[at]));
    if (p.softcap > 0.0f) logit = scalar::softcap(logit, p.softcap);
    float mask = 0.0f;
    const bool visible = sees(p, args, r, j, &mask);
    if (p.mask != MaskType::none) logit += mask;
    if (p.alibi) logit += alibi(p, args, r, j);
    seen[at] = visible && logit != -HUGE_VALF;
    x[at] = logit;
    if (!seen[at]) continue;
    nan |= std::isnan(logit);
    if (logit > most) most = logit;
  }
  nan |= most == HUGE_VALF;
  const bool blind = most == -HUGE_VALF && !nan;
  std::int64_t l = 0;
  std::vector<std::int64_t> o(static_cast<std::size_t>(p.v_size));
  for (Index j = 0; j < r.keys && !nan; ++j) {
    const auto at = static_cast<std::size_t>(j);
    if (!seen[at]) continue;
    const float e = scalar::exp(x[at] - most);
    l += quantize(e * 255.0f, 0, DType::u8);
    std::int64_t weight = quantize(unfused(e * head.v_weight[at]) * 255.0f, 0, DType::u8);
    for (Index d = 0; d < p.v_size; ++d) {
      o[static_cast<std::size_t>(d)] += weight * head.v[static_cast<std::size_t>(j * p.v_size + d)];
    }
  }
  float sum = static_cast<float>(l);
  if (p.sinks && !blind && extra != -HUGE_VALF) sum += unfused(255.0f * scalar::exp(extra - most));
  if (nan) sum = std::nanf("");
  for (Index d = 0; d < p.v_size; ++d) {
    const auto at = static_cast<std::size_t>(d);
    const float v = blind ? 0.0f : static_cast<float>(o[at]) / sum * head.v_scale[at];
    store(args.out, r.q.batch, r.h, r.q.token, d, v);
  }
  if (p.lse)
    args.lse.at(r.q.batch, r.h, r.q.token) = blind ? -HUGE_VALF : most + std::log(sum / 255.0f);
}

}  // namespace detail

/// Runs a problem whose validate()s have passed.
inline void reference_attention(const AttentionProblem& p, const AttentionArgs& args) {
  for (Index b = 0; b < args.batch(); ++b) {
    const Index keys = args.kv_tokens(b), start = args.start(p, b);
    std::vector<double> x(static_cast<std::size_t>(keys));
    std::vector<float> logits(static_cast<std::size_t>(keys));
    for (Index kv_head = 0; kv_head < p.kv_heads; ++kv_head) {
      detail::Int8Head head;
      const bool int8 = p.arithmetic == AttentionArithmetic::int8;
      if (int8) head = detail::int8_head(p, args, b, kv_head);
      for (Index h = kv_head * p.group(); h < (kv_head + 1) * p.group(); ++h) {
        for (Index i = 0; i < args.q_tokens(b); ++i) {
          const detail::AttentionRow row{
              b, h, i, kv_head, args.q_map().place(args.q, b, i), keys, start + i};
          if (int8) {
            detail::attend_int8(p, args, row, head, logits);
          } else {
            detail::attend(p, args, row, x);
          }
        }
      }
    }
  }
}

/// What the numbers of a valid call reach, for attention_tolerance().
inline AttentionRange attention_range(const AttentionProblem& p, const AttentionArgs& args) {
  AttentionRange range;
  double mask = 0.0, distance = 0.0, slope = 0.0, sink = 0.0;
  const auto visit = [](const TokenMap& map, const ConstHeadsView& x, Index b, Index tokens,
                        const ConstHeadFloats& scales, HeadScales kind, double* norm,
                        double* most) {
    for (Index t = 0; t < tokens; ++t) {
      const TokenMap::Place at = map.place(x, b, t);
      for (Index h = 0; h < x.heads; ++h) {
        double square = 0.0;
        for (Index d = 0; d < x.size; ++d) {
          const double v = detail::dequantized(x, scales, kind, at, h, d);
          square += v * v;
          *most = std::max(*most, std::fabs(v));
        }
        *norm = std::max(*norm, std::sqrt(square));
      }
    }
  };
  double unused = 0.0;
  for (Index b = 0; b < args.batch(); ++b) {
    const Index queries = args.q_tokens(b), keys = args.kv_tokens(b), start = args.start(p, b);
    visit(args.q_map(), args.q, b, queries, {}, HeadScales::none, &range.q_norm, &unused);
    visit(args.kv_map(), args.k, b, keys, args.k_scales, p.k_scales, &range.k_norm, &unused);
    visit(args.kv_map(), args.v, b, keys, args.v_scales, p.v_scales, &unused, &range.v);
    for (const Index end : {start - keys, start, start + queries - keys, start + queries}) {
      distance = std::max(distance, std::fabs(static_cast<double>(end)));
    }
    const MaskView& m = args.mask;
    for (Index h = 0; h < p.q_heads && p.mask != MaskType::none; ++h) {
      for (Index i = 0; i < queries; ++i) {
        for (Index j = 0; j < std::min(keys, m.cols); ++j) {
          const double v = std::fabs(static_cast<double>(m(b, h, i, j)));
          if (v < HUGE_VAL) mask = std::max(mask, v);
        }
      }
    }
  }
  for (const float s : args.alibi) slope = std::max(slope, std::fabs(static_cast<double>(s)));
  for (const float s : args.sinks) {
    if (std::isfinite(s)) sink = std::max(sink, std::fabs(static_cast<double>(s)));
  }
  range.bias = mask + slope * distance + sink;
  return range;
}

}  // namespace QUERN_ABI
}  // namespace quern
