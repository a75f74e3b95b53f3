// Attention in int8 arithmetic: the same bits from a tiled implementation, how close it is to
// floats, and what caches of integers mean in both arithmetics.
#include <bit>
#include <cmath>
#include <tuple>
#include <vector>

#include "ops/attention_call.hpp"
#include "quern/ops/attention_reference.hpp"
#include "support.hpp"

using namespace quern;
using quern::testing::Random;

namespace {

using Floats = std::vector<float>;
using Bytes = std::vector<std::int8_t>;

double largest_error(const Floats& a, const Floats& b) {
  double worst = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    worst = std::max(worst, std::fabs(double(a[i]) - double(b[i])));
  }
  return worst;
}

/// Integers and their scales, with which an AttentionCall's k and v are replaced.
struct Quantized {
  std::vector<std::uint8_t> k, v;
  Floats k_scales, v_scales;

  /// Also writes what they stand for into the call's k and v.
  Quantized(AttentionCall& call, HeadType type, HeadScales scales, std::uint64_t seed) {
    Random random(seed);
    const AttentionArgs& args = call.args;
    const auto make = [&](const ConstHeadsView& x, Floats& real, std::vector<std::uint8_t>& data,
                          Floats& factors) {
      data.resize(real.size());
      const HeadsView view = HeadsView::bhsd(data.data(), type, x.batch, x.heads, x.tokens, x.size);
      const bool token = scales == HeadScales::per_token;
      factors.resize(std::size_t(x.heads * (token ? x.batch * x.tokens : x.size)));
      for (float& f : factors) f = random.uniform(0.001f, 0.02f) * (type == HeadType::s4 ? 16 : 1);
      const ConstHeadFloats scale = token ? HeadFloats::per_token(factors.data(), x.heads, x.tokens)
                                          : HeadFloats::per_channel(factors.data(), x.size);
      std::size_t i = 0;
      for (Index b = 0; b < x.batch; ++b) {
        for (Index h = 0; h < x.heads; ++h) {
          for (Index t = 0; t < x.tokens; ++t) {
            for (Index d = 0; d < x.size; ++d, ++i) {
              const Index most = largest(type);
              const auto q = static_cast<float>(random.between(-most, most));
              store(view, b, h, t, d, q);
              REQUIRE(load(view, b, h, t, d) == q);
              real[i] = q * (token ? scale.at(b, h, t) : scale.at(0, h, 0, d));
            }
          }
        }
      }
      return std::pair{ConstHeadsView(view), scale};
    };
    std::tie(k_view, k_scale_view) = make(args.k, call.k, k, k_scales);
    std::tie(v_view, v_scale_view) = make(args.v, call.v, v, v_scales);
  }
  void give(AttentionProblem& p, AttentionArgs& args, HeadScales scales) const {
    p.k = k_view.type;
    p.v = v_view.type;
    p.k_scales = p.v_scales = scales;
    args.k = k_view;
    args.v = v_view;
    args.k_scales = k_scale_view;
    args.v_scales = v_scale_view;
  }

  ConstHeadsView k_view, v_view;
  ConstHeadFloats k_scale_view, v_scale_view;
};

}  // namespace

TEST_CASE("int8 attention gives the same bits from tiles") {
  constexpr Index kSize = 16, kKeys = 50, kTile = 8;
  const AttentionProblem p{
      .qk_size = kSize, .v_size = kSize, .arithmetic = AttentionArithmetic::int8, .softcap = 3.0f};
  AttentionCall call(p, 1, 1, kKeys);
  call.run();

  const auto quantize_rows = [](const Floats& x, Index rows, Index stride, Index step,
                                Floats& scales) {
    Bytes q(x.size());
    const Index count = Index(x.size()) / rows;
    for (Index r = 0; r < rows; ++r) {
      const auto at = [&](Index i) { return std::size_t(r * stride + i * step); };
      float amax = 0.0f;
      for (Index i = 0; i < count; ++i) amax = std::max(amax, std::fabs(x[at(i)]));
      const RowQuantization row = RowQuantization::of(amax);
      scales.push_back(row.scale);
      for (Index i = 0; i < count; ++i) {
        q[at(i)] = std::int8_t(quantize(x[at(i)] * row.inverse, 0, DType::s8));
      }
    }
    return q;
  };
  Floats q_scales, k_scales, v_scales;
  const Bytes q = quantize_rows(call.q, 1, 0, 1, q_scales),
              k = quantize_rows(call.k, kKeys, kSize, 1, k_scales),
              v = quantize_rows(call.v, kSize, 1, kSize, v_scales);
  const auto logit = [&](Index j) {
    std::int32_t a = 0;
    for (Index d = 0; d < kSize; ++d) a += q[std::size_t(d)] * k[std::size_t(j * kSize + d)];
    const float x = float(a) * unfused(unfused(q_scales[0] * 0.25f) * k_scales[std::size_t(j)]);
    return scalar::softcap(unfused(x), 3.0f);
  };
  // The last tile first, the largest logit in a pass of its own.
  float most = -HUGE_VALF;
  for (Index j = kKeys - 1; j >= 0; --j) most = std::max(most, logit(j));
  std::int32_t l = 0, o[kSize] = {};
  for (Index first = kKeys / kTile * kTile; first >= 0; first -= kTile) {
    std::int32_t tile[kSize] = {};
    for (Index j = first; j < std::min(first + kTile, kKeys); ++j) {
      const auto u = quantize(scalar::exp(logit(j) - most) * 255.0f, 0, DType::u8);
      l += u;
      for (Index d = 0; d < kSize; ++d) tile[d] += u * v[std::size_t(j * kSize + d)];
    }
    for (Index d = 0; d < kSize; ++d) o[d] += tile[d];
  }
  for (Index d = 0; d < kSize; ++d) {
    CHECK(call.out[std::size_t(d)] == float(o[d]) / float(l) * v_scales[std::size_t(d)]);
  }
}

TEST_CASE("int8 attention is close to that of floats") {
  for (const Index keys : {1, 5, 100}) {
    AttentionProblem p{.q_heads = 2, .kv_heads = 1, .qk_size = 32, .v_size = 16};
    AttentionCall floats(p, 1, 4, keys);
    floats.run();
    for (const bool smooth : {false, true}) {
      p.arithmetic = AttentionArithmetic::int8;
      p.smooth_k = smooth;
      AttentionCall call(p, 1, 4, keys);
      call.run();
      CHECK(largest_error(call.out, floats.out) < 0.02);
    }
  }
}

TEST_CASE("smoothing saves what keys with a large common part lose in int8") {
  AttentionProblem p{.qk_size = 32, .v_size = 16};
  const auto shift = [](AttentionCall& call) {
    for (std::size_t i = 0; i < call.k.size(); ++i) call.k[i] += i % 32 == 3 ? 60.0f : 0.0f;
  };
  AttentionCall floats(p, 1, 4, 60);
  shift(floats);
  floats.run();
  p.arithmetic = AttentionArithmetic::int8;
  AttentionCall rough(p, 1, 4, 60);
  shift(rough);
  rough.run();
  p.smooth_k = true;
  AttentionCall smooth(p, 1, 4, 60);
  shift(smooth);
  smooth.run();
  CHECK(largest_error(smooth.out, floats.out) < 0.01);
  CHECK(largest_error(rough.out, floats.out) > 2 * largest_error(smooth.out, floats.out));
}

TEST_CASE("sums of int8 attention are exact beyond what 32 bits hold") {
  constexpr Index kKeys = 140000;  // 255 * 127 * 140000 > 2^32
  const AttentionProblem p{
      .qk_size = 1, .v_size = 1, .arithmetic = AttentionArithmetic::int8, .lse = true};
  AttentionCall call(p, 1, 1, kKeys);
  std::fill(call.k.begin(), call.k.end(), 0.0f);
  std::fill(call.v.begin(), call.v.end(), 2.0f);
  call.run();
  CHECK(call.out[0] == doctest::Approx(2.0f).epsilon(1e-6));
  CHECK(call.lse[0] == doctest::Approx(std::log(double(kKeys))).epsilon(1e-6));
}

TEST_CASE("integer keys and values stand for their products with scales") {
  for (const HeadType type : {HeadType::s8, HeadType::s4}) {
    for (const HeadScales scales : {HeadScales::per_token, HeadScales::per_channel}) {
      AttentionProblem p{.q_heads = 2, .kv_heads = 2, .qk_size = 8, .v_size = 6, .lse = true};
      AttentionCall floats(p, 2, 3, 9);
      const Quantized integers(floats, type, scales, 5);
      floats.run();

      AttentionCall call(p, 2, 3, 9);
      integers.give(call.problem, call.args, scales);
      call.run();
      const auto limit = attention_tolerance(p, 9, attention_range(p, floats.args));
      CHECK(largest_error(call.out, floats.out) <= limit.out);
      CHECK(largest_error(call.lse, floats.lse) <= limit.lse);

      AttentionCall int8(p, 2, 3, 9);
      int8.problem.arithmetic = AttentionArithmetic::int8;
      integers.give(int8.problem, int8.args, scales);
      int8.run();
      CHECK(largest_error(int8.out, floats.out) < 0.03 * attention_range(p, floats.args).v);
      CHECK(largest_error(int8.lse, floats.lse) < 0.05);
    }
  }
}

TEST_CASE("int8 attention keeps IEEE's bad news") {
  AttentionProblem p{
      .qk_size = 2, .v_size = 2, .arithmetic = AttentionArithmetic::int8, .lse = true};
  AttentionCall call(p, 1, 2, 3);
  call.q[0] = HUGE_VALF;  // of query 0, whose scale becomes infinity
  call.run();
  CHECK(std::isnan(call.out[0]));
  CHECK(std::isnan(call.lse[0]));
  CHECK_FALSE(std::isnan(call.out[2]));
  call.q[0] = NAN;  // counts as 0
  call.run();
  CHECK_FALSE(std::isnan(call.out[0]));

  // A cached key with an infinite scale: a logit of +infinity makes NaN, of -infinity is not seen.
  const Bytes k = {1, 0, 2, 0, 3, 0};
  const Floats scales = {HUGE_VALF, 1.0f, 1.0f};
  AttentionProblem cached = p;
  cached.k = HeadType::s8;
  cached.k_scales = HeadScales::per_token;
  AttentionCall far(cached, 1, 2, 3);
  far.args.k = ConstHeadsView::bhsd(k.data(), HeadType::s8, 1, 1, 3, 2);
  far.args.k_scales = {scales.data(), 3, 3, 1, 0};
  far.q = {1.0f, 0.0f, -1.0f, 0.0f};
  far.v[0] = 1e30f;
  far.run();
  CHECK(std::isnan(far.out[0]));
  CHECK(std::isnan(far.lse[0]));
  CHECK(std::isfinite(far.lse[1]));
}

TEST_CASE("int8 attention has these bits under every compiler and flag") {
  std::uint64_t hash = 14695981039346656037u;  // FNV-1a
  for (int variant = 0; variant < 12; ++variant) {
    AttentionProblem p{.q_heads = 2,
                       .kv_heads = 1,
                       .qk_size = 24,
                       .v_size = 6,
                       .arithmetic = AttentionArithmetic::int8,
                       .smooth_k = variant == 1,
                       .softcap = variant % 2 == 0 ? 2.5f : 0.0f,
                       .window = variant % 3 == 0 ? Window::causal() : Window{},
                       .mask = variant > 6 ? MaskType::f32 : MaskType::none,
                       .alibi = variant % 4 == 3,
                       .sinks = variant % 5 == 4};
    AttentionCall call(p, 2, 4, 37, std::uint64_t(variant));
    for (float& x : call.q) x *= 6.0f;
    Floats mask(37), heads = {0.3f, 0.07f};
    for (std::size_t j = 0; j < 37; ++j) mask[j] = 0.1f * float(j % 7);
    const Index shape[2] = {1, 37};
    if (p.mask != MaskType::none) {
      call.args.mask = MaskView::broadcast(mask.data(), MaskType::f32, shape);
    }
    if (p.alibi) call.args.alibi = heads;
    if (p.sinks) call.args.sinks = heads;
    const HeadScales scales = variant % 2 == 0 ? HeadScales::per_token : HeadScales::per_channel;
    const Quantized integers(call, variant % 4 < 2 ? HeadType::s8 : HeadType::s4, scales, 3);
    if (variant >= 4) integers.give(call.problem, call.args, scales);
    call.run();
    for (const float x : call.out) {
      hash = (hash ^ std::bit_cast<std::uint32_t>(x)) * 1099511628211u;
    }
  }
  CHECK(hash == 16830518557245406384u);
}
