// When are two results of attention the same? Bit for bit in int8 arithmetic, but for lse; else
// within attention_tolerance().
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>

#include "quern/ops/attention_reference.hpp"
#include "quern/testing/compare.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

/// How far the results of one call may be from the reference's.
struct AttentionLimits {
  double out = 0, lse = 0, scores = 0;

  static AttentionLimits of(const AttentionProblem& p, const AttentionArgs& args) {
    Index keys = 0;
    for (Index b = 0; b < args.batch(); ++b) keys = std::max(keys, args.kv_tokens(b));
    AttentionRange range = attention_range(p, args);
    const AttentionTolerance t = attention_tolerance(p, keys, range);
    AttentionLimits limits{t.out, t.lse, t.lse};
    if (p.scores == Scores::weights) {  // they are results with a v of one 1
      AttentionProblem floats = p;
      floats.v = floats.out = HeadType::f32;
      range.v = 1.0;
      limits.scores = attention_tolerance(floats, keys, range).out;
    }
    return limits;
  }
};

namespace detail {

constexpr DType dtype(HeadType t) {
  return t == HeadType::bf16 ? DType::bf16 : t == HeadType::f16 ? DType::f16 : DType::f32;
}

/// Element (b, h, t, d) of a result.
inline std::byte* result_at(const HeadsView& x, Index b, Index h, Index t, Index d) {
  const Index at = b * x.batch_stride + h * x.head_stride + t * x.token_stride + d;
  return static_cast<std::byte*>(x.data) + at * bits_of(x.type) / 8;
}

}  // namespace detail

/// Compares the memory around two calls' results, all of it: `actual` must differ from `expected`
/// nowhere but in the payload of a NaN and, unless `same_bits`, where a limit allows it. Makes such
/// elements equal on the way. The two calls differ in nothing but where their results are.
inline std::string difference(const AttentionProblem& p, const AttentionArgs& expected,
                              const AttentionArgs& actual, const AlignedBuffer& expected_memory,
                              AlignedBuffer& actual_memory, bool same_bits = false) {
  const bool exact = same_bits || p.arithmetic == AttentionArithmetic::int8;
  std::optional<AttentionLimits> known;
  const auto limits = [&]() -> const AttentionLimits& {
    if (!known) known = AttentionLimits::of(p, expected);
    return *known;
  };
  const auto where = [](const char* what, Index b, Index h, Index i) {
    return std::string(what) + "[" + std::to_string(b) + "][" + std::to_string(h) + "][" +
           std::to_string(i) + "]";
  };
  // Of the last f16 and infinity neither is far from the other.
  const auto at_the_end = [&](const void* want, const void* got) {
    if (p.out != HeadType::f16 || exact) return false;
    const double x = double(detail::float_at(want, DType::f16)),
                 y = double(detail::float_at(got, DType::f16));
    if (!std::isinf(x) && !std::isinf(y)) return false;
    return std::fabs(std::clamp(x, -65536.0, 65536.0) - std::clamp(y, -65536.0, 65536.0)) <=
           limits().out;
  };
  for (Index b = 0; b < expected.batch(); ++b) {
    const Index keys = expected.kv_tokens(b);
    for (Index h = 0; h < p.q_heads; ++h) {
      for (Index i = 0; i < expected.q_tokens(b); ++i) {
        const TokenMap::Place at = expected.q_map().place(expected.q, b, i);
        for (Index d = 0; d < p.v_size; ++d) {
          const std::byte* want = detail::result_at(expected.out, at.batch, h, at.token, d);
          std::byte* got = detail::result_at(actual.out, at.batch, h, at.token, d);
          const DType type = detail::dtype(p.out);
          if (detail::reconcile(type, want, got, exact, [&] { return limits().out; })) continue;
          if (at_the_end(want, got)) {
            std::copy_n(want, sizeof(f16), got);
            continue;
          }
          return detail::mismatch(where("out", b, h, i) + "[" + std::to_string(d) + "]", type, want,
                                  got);
        }
        if (p.lse) {
          const float* want = &expected.lse.at(at.batch, h, at.token);
          float* got = &actual.lse.at(at.batch, h, at.token);
          if (!detail::reconcile(DType::f32, want, got, same_bits, [&] { return limits().lse; })) {
            return detail::mismatch(where("lse", b, h, i), DType::f32, want, got);
          }
        }
        for (Index j = 0; j < keys && p.scores != Scores::none; ++j) {
          const float* want = &expected.scores.at(b, h, i, j);
          float* got = &actual.scores.at(b, h, i, j);
          if (!detail::reconcile(DType::f32, want, got, same_bits,
                                 [&] { return limits().scores; })) {
            return detail::mismatch(where("scores", b, h, i) + "[" + std::to_string(j) + "]",
                                    DType::f32, want, got);
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
