// What attention means, from properties that tie its features to each other; and how far a float
// implementation may be. What is refused is in attention_validate_test.cpp.
#include <cmath>
#include <cstring>
#include <vector>

#include "ops/attention_call.hpp"
#include "quern/ops/attention_reference.hpp"
#include "support.hpp"

using namespace quern;
using quern::testing::Random;

namespace {

using Floats = std::vector<float>;
using Ints = std::vector<std::int32_t>;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

void check_near(const Floats& a, const Floats& b, float limit = 2e-6f) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    if (std::isinf(b[i])) {
      CHECK(a[i] == b[i]);
    } else {
      CHECK(std::fabs(a[i] - b[i]) <= limit);
    }
  }
}

/// A mask (rows, cols) of what `sees`.
template <class Sees>
std::vector<std::uint8_t> boolean_mask(Index rows, Index cols, Sees&& sees) {
  std::vector<std::uint8_t> mask;
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < cols; ++j) mask.push_back(sees(i, j) ? 1 : 0);
  }
  return mask;
}
MaskView view(const std::vector<std::uint8_t>& mask, Index rows, Index cols) {
  const Index shape[2] = {rows, cols};
  return MaskView::broadcast(mask.data(), MaskType::boolean, shape);
}

}  // namespace

TEST_CASE("attention of two keys is what the formula says") {
  AttentionProblem p{.qk_size = 2, .v_size = 1, .scale = 0.5f, .softcap = 2.0f, .lse = true};
  AttentionCall call(p, 1, 1, 2);
  call.q = {1.0f, 2.0f};
  call.k = {3.0f, -1.0f, 0.5f, 1.5f};
  call.v = {10.0f, -20.0f};
  call.run();
  const double x0 = 2.0 * std::tanh(0.5 * (3.0 - 2.0) / 2.0), x1 = 2.0 * std::tanh(0.5 * 3.5 / 2.0);
  const double e0 = std::exp(x0), e1 = std::exp(x1);
  CHECK(call.out[0] == doctest::Approx((10.0 * e0 - 20.0 * e1) / (e0 + e1)).epsilon(1e-6));
  CHECK(call.lse[0] == doctest::Approx(std::log(e0 + e1)).epsilon(1e-6));
}

TEST_CASE("keys that are all the same give the mean of the values") {
  for (const auto arithmetic : {AttentionArithmetic::floats, AttentionArithmetic::int8}) {
    AttentionProblem p{.qk_size = 8, .v_size = 3, .arithmetic = arithmetic};
    AttentionCall call(p, 1, 4, 6);
    std::fill(call.k.begin(), call.k.end(), 0.25f);
    call.run();
    Floats mean(3);
    for (std::size_t i = 0; i < call.v.size(); ++i) mean[i % 3] += call.v[i] / 6.0f;
    Floats expected;
    for (int i = 0; i < 4; ++i) expected.insert(expected.end(), mean.begin(), mean.end());
    check_near(call.out, expected, arithmetic == AttentionArithmetic::int8 ? 0.005f : 1e-6f);
  }
}

TEST_CASE("windows, causal or not, are boolean masks at every alignment") {
  constexpr Index kQueries = 5, kKeys = 7;
  const Ints starts = {-3, 4};
  for (const auto arithmetic : {AttentionArithmetic::floats, AttentionArithmetic::int8}) {
    for (const auto alignment : {Alignment::top_left, Alignment::bottom_right, Alignment::given}) {
      for (const Window window : {Window::causal(), Window::causal(2), Window{1, 1}, Window{-1, 2},
                                  Window{0, -1}, Window{}}) {
        AttentionProblem p{.q_heads = 2,
                           .kv_heads = 2,
                           .qk_size = 4,
                           .v_size = 4,
                           .arithmetic = arithmetic,
                           .alignment = alignment,
                           .window = window,
                           .lse = true};
        AttentionCall call(p, 2, kQueries, kKeys);
        if (alignment == Alignment::given) call.args.starts = starts;
        call.run();

        std::vector<std::uint8_t> mask;
        for (Index b = 0; b < 2; ++b) {
          const Index start = alignment == Alignment::top_left       ? 0
                              : alignment == Alignment::bottom_right ? kKeys - kQueries
                                                                     : starts[std::size_t(b)];
          const auto one = boolean_mask(kQueries, kKeys, [&](Index i, Index j) {
            const Index ahead = j - (start + i);
            return (window.left < 0 || -ahead <= window.left) &&
                   (window.right < 0 || ahead <= window.right);
          });
          mask.insert(mask.end(), one.begin(), one.end());
        }
        p.window = {};
        p.alignment = Alignment::top_left;
        p.mask = MaskType::boolean;
        AttentionCall masked(p, 2, kQueries, kKeys);
        const Index shape[4] = {2, 1, kQueries, kKeys};
        masked.args.mask = MaskView::broadcast(mask.data(), MaskType::boolean, shape);
        masked.run();
        CHECK(call.out == masked.out);
        CHECK(call.lse == masked.lse);
      }
    }
  }
}

TEST_CASE("a window names its keys, whatever the numbers") {
  constexpr Index kMax = std::numeric_limits<Index>::max();
  for (const Window w : {Window{}, Window{0, 0}, Window{2, 1}, Window{kMax, kMax}, Window{-1, 0}}) {
    for (Index position = -4; position < 9; ++position) {
      const Window::Keys keys = w.of(position, 5);
      CHECK(keys.begin <= keys.end);
      for (Index j = 0; j < 5; ++j) {
        const bool sees =
            (w.left < 0 || position - j <= w.left) && (w.right < 0 || j - position <= w.right);
        CHECK((keys.begin <= j && j < keys.end) == sees);
      }
    }
  }
}

TEST_CASE("a float mask of -infinity is a boolean mask, in every type and shape") {
  constexpr Index kQueries = 3, kKeys = 5;
  AttentionProblem p{
      .q_heads = 2, .kv_heads = 1, .qk_size = 4, .v_size = 4, .mask = MaskType::boolean};
  const auto sees = [](Index i, Index j) { return (i + 2 * j) % 3 != 0; };
  const auto mask = boolean_mask(kQueries, kKeys, sees);
  AttentionCall boolean(p, 2, kQueries, kKeys);
  boolean.args.mask = view(mask, kQueries, kKeys);
  boolean.run();

  Floats f32;
  std::vector<bf16> bf;
  std::vector<f16> f;
  for (Index copy = 0; copy < 4; ++copy) {  // (2, 2, rows, cols)
    for (const std::uint8_t one : mask) {
      f32.push_back(one ? 0.0f : -kInfinity);
      bf.push_back(to_bf16(f32.back()));
      f.push_back(to_f16(f32.back()));
    }
  }
  const Index full[4] = {2, 2, kQueries, kKeys}, heads[3] = {2, kQueries, kKeys};
  const MaskView views[] = {MaskView::broadcast(f32.data(), MaskType::f32, full),
                            MaskView::broadcast(f32.data(), MaskType::f32, heads),
                            MaskView::broadcast(bf.data(), MaskType::bf16, full),
                            MaskView::broadcast(f.data(), MaskType::f16, heads)};
  for (const MaskView& one : views) {
    p.mask = one.type;
    AttentionCall call(p, 2, kQueries, kKeys);
    call.args.mask = one;
    call.run();
    CHECK(call.out == boolean.out);
  }
}

TEST_CASE("keys from a mask's last column on are not seen") {
  AttentionProblem p{.qk_size = 4, .v_size = 4, .mask = MaskType::boolean};
  const std::vector<std::uint8_t> mask(3, 1);
  AttentionCall call(p, 1, 2, 5);
  call.args.mask = view(mask, 1, 3);
  call.run();
  p.mask = MaskType::none;
  AttentionCall few(p, 1, 2, 5);
  const Ints length = {3};
  few.args.kv_lengths = length;
  few.run();
  CHECK(call.out == few.out);
}

TEST_CASE("grouped queries read KV heads as if these were repeated") {
  for (const auto arithmetic : {AttentionArithmetic::floats, AttentionArithmetic::int8}) {
    for (const Index kv_heads : {1, 2}) {
      AttentionProblem p{
          .q_heads = 4, .kv_heads = kv_heads, .qk_size = 3, .v_size = 5, .arithmetic = arithmetic};
      AttentionCall grouped(p, 2, 3, 4);
      grouped.run();
      p.kv_heads = 4;
      AttentionCall all(p, 2, 3, 4);
      all.q = grouped.q;
      const auto repeat = [&](const Floats& from, Floats& to, std::size_t size) {
        for (std::size_t i = 0; i < to.size(); ++i) {
          const std::size_t head = i / size, b = head / 4, h = head % 4;
          const auto kv = static_cast<std::size_t>(kv_heads);
          to[i] = from[(b * kv + h * kv / 4) * size + i % size];
        }
      };
      repeat(grouped.k, all.k, 12);
      repeat(grouped.v, all.v, 20);
      all.run();
      CHECK(grouped.out == all.out);
    }
  }
}

TEST_CASE("layouts are a matter of strides") {
  AttentionProblem p{.q_heads = 2, .kv_heads = 2, .qk_size = 3, .v_size = 3};
  AttentionCall call(p, 2, 4, 4);
  call.run();
  // One buffer [batch, token, q k v, head, size], as a fused projection leaves it.
  Floats packed(2 * 4 * 3 * 2 * 3), out(call.out.size());
  const Floats* parts[3] = {&call.q, &call.k, &call.v};
  for (std::size_t i = 0; i < packed.size(); ++i) {
    const std::size_t d = i % 3, h = i / 3 % 2, part = i / 6 % 3, t = i / 18 % 4, b = i / 72;
    packed[i] = (*parts[part])[((b * 2 + h) * 4 + t) * 3 + d];
  }
  const auto at = [&](Index part) {
    return ConstHeadsView(packed.data() + part * 6, HeadType::f32, 2, 2, 4, 3, 72, 3, 18);
  };
  AttentionArgs args{.q = at(0),
                     .k = at(1),
                     .v = at(2),
                     .out = HeadsView::bshd(out.data(), HeadType::f32, 2, 2, 4, 3)};
  REQUIRE_FALSE(validate(p, args));
  reference_attention(p, args);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::size_t d = i % 3, h = i / 3 % 2, t = i / 6 % 4, b = i / 24;
    CHECK(out[i] == call.out[((b * 2 + h) * 4 + t) * 3 + d]);
  }
}

TEST_CASE("a ragged batch is its sequences one by one, and pages are a cache in one piece") {
  const Ints q_offsets = {0, 2, 2, 5}, kv_offsets = {0, 3, 5, 12};
  for (const auto arithmetic : {AttentionArithmetic::floats, AttentionArithmetic::int8}) {
    AttentionProblem p{.q_heads = 2,
                       .kv_heads = 1,
                       .qk_size = 4,
                       .v_size = 6,
                       .arithmetic = arithmetic,
                       .alignment = Alignment::bottom_right,
                       .window = Window::causal(),
                       .lse = true};
    AttentionCall ragged(p, 1, 5, 12);
    ragged.args.q_offsets = q_offsets;
    ragged.args.kv_offsets = kv_offsets;
    ragged.run();

    // Pages of 2 tokens, of which sequence b has some of 12, in any order.
    const Ints pages = {7, 2, -1, -1, 0, -1, -1, -1, 11, 5, 3, 9}, lengths = {3, 2, 7};
    Floats k(12 * 2 * 4, NAN), v(12 * 2 * 6, NAN);
    for (std::size_t b = 0; b < 3; ++b) {
      for (Index t = 0; t < lengths[b]; ++t) {
        const Index to = pages[b * 4 + std::size_t(t / 2)] * 2 + t % 2, from = kv_offsets[b] + t;
        std::memcpy(&k[std::size_t(to) * 4], &ragged.k[std::size_t(from) * 4], 16);
        std::memcpy(&v[std::size_t(to) * 6], &ragged.v[std::size_t(from) * 6], 24);
      }
    }
    AttentionCall paged(p, 1, 5, 12);
    paged.q = ragged.q;
    paged.args.q_offsets = q_offsets;
    paged.args.k = ConstHeadsView::bhsd(k.data(), HeadType::f32, 12, 1, 2, 4);
    paged.args.v = ConstHeadsView::bhsd(v.data(), HeadType::f32, 12, 1, 2, 6);
    paged.args.pages = {pages.data(), 3, 4};
    paged.args.kv_lengths = lengths;
    paged.run();
    CHECK(paged.out == ragged.out);
    CHECK(paged.lse == ragged.lse);

    for (std::size_t b = 0; b < 3; ++b) {
      const Index queries = q_offsets[b + 1] - q_offsets[b], keys = lengths[b];
      AttentionCall one(p, 1, queries, keys);
      for (std::size_t h = 0; h < 2; ++h) {
        for (Index i = 0; i < queries * 4; ++i) {
          one.q[h * std::size_t(queries * 4) + std::size_t(i)] =
              ragged.q[h * 20 + std::size_t(q_offsets[b] * 4 + i)];
        }
      }
      std::copy_n(&ragged.k[std::size_t(kv_offsets[b]) * 4], keys * 4, one.k.begin());
      std::copy_n(&ragged.v[std::size_t(kv_offsets[b]) * 6], keys * 6, one.v.begin());
      one.run();
      for (Index i = 0; i < queries; ++i) {
        for (std::size_t h = 0; h < 2; ++h) {
          const auto at = std::size_t(q_offsets[b] + i);
          CHECK(one.lse[h * std::size_t(queries) + std::size_t(i)] == ragged.lse[h * 5 + at]);
          for (std::size_t d = 0; d < 6; ++d) {
            CHECK(one.out[(h * std::size_t(queries) + std::size_t(i)) * 6 + d] ==
                  ragged.out[(h * 5 + at) * 6 + d]);
          }
        }
      }
    }
  }
}

TEST_CASE("ALiBi is a mask of distances, and a sink one more key of value 0") {
  const Floats slopes = {0.5f, 0.0625f}, sinks = {0.75f, -kInfinity};
  AttentionProblem p{.q_heads = 2,
                     .kv_heads = 2,
                     .qk_size = 4,
                     .v_size = 4,
                     .alignment = Alignment::bottom_right,
                     .alibi = true,
                     .sinks = true,
                     .lse = true};
  AttentionCall call(p, 1, 3, 6);
  call.args.alibi = slopes;
  call.args.sinks = sinks;
  call.run();

  p.alibi = p.sinks = false;
  p.mask = MaskType::f32;
  AttentionCall masked(p, 1, 3, 7);
  masked.q = call.q;
  Floats mask;
  for (std::size_t h = 0; h < 2; ++h) {
    for (Index i = 0; i < 3; ++i) {
      for (Index j = 0; j < 7; ++j) {
        const auto distance = static_cast<float>(std::abs(3 + i - j));
        mask.push_back(j == 6 ? sinks[h] : -slopes[h] * distance);
      }
    }
    for (std::size_t i = 0; i < 28; ++i) {
      masked.k[h * 28 + i] = i < 24 ? call.k[h * 24 + i] : 0.0f;
      masked.v[h * 28 + i] = i < 24 ? call.v[h * 24 + i] : 0.0f;
    }
  }
  const Index shape[3] = {2, 3, 7};
  masked.args.mask = MaskView::broadcast(mask.data(), MaskType::f32, shape);
  masked.run();
  check_near(call.out, masked.out);
  check_near(call.lse, masked.lse);
}

TEST_CASE("log-sum-exps merge two halves of the keys into the whole") {
  AttentionProblem p{.q_heads = 2, .kv_heads = 2, .qk_size = 8, .v_size = 5, .lse = true};
  AttentionCall whole(p, 2, 3, 9);
  whole.run();
  AttentionCall halves[2] = {AttentionCall(p, 2, 3, 9), AttentionCall(p, 2, 3, 9)};
  for (int i = 0; i < 2; ++i) {
    AttentionArgs& args = halves[i].args;
    halves[i].q = whole.q;
    args.k.tokens = args.v.tokens = i == 0 ? 4 : 5;
    args.k.data = whole.k.data() + 4 * 8 * i;
    args.v.data = whole.v.data() + 4 * 5 * i;
    halves[i].run();
  }
  Floats out, lse;
  for (std::size_t i = 0; i < whole.out.size(); ++i) {
    const float a = halves[0].lse[i / 5], b = halves[1].lse[i / 5], both = std::max(a, b);
    const float wa = std::exp(a - both), wb = std::exp(b - both);
    out.push_back((wa * halves[0].out[i] + wb * halves[1].out[i]) / (wa + wb));
    if (i % 5 == 0) lse.push_back(both + std::log(wa + wb));
  }
  check_near(whole.out, out);
  check_near(whole.lse, lse);
}

TEST_CASE("rows that see nothing are zeros, with the sink's log-sum-exp") {
  for (const auto arithmetic : {AttentionArithmetic::floats, AttentionArithmetic::int8}) {
    for (const bool sunk : {false, true}) {
      AttentionProblem p{.qk_size = 4,
                         .v_size = 4,
                         .arithmetic = arithmetic,
                         .alignment = Alignment::bottom_right,
                         .window = Window::causal(),
                         .sinks = sunk,
                         .lse = true};
      AttentionCall call(p, 1, 4, 2);
      const Floats sink = {1.5f};
      if (sunk) call.args.sinks = sink;
      call.run();
      for (std::size_t i = 0; i < 2; ++i) {
        CHECK(call.lse[i] == (sunk ? 1.5f : -kInfinity));
        for (std::size_t d = 0; d < 4; ++d) CHECK(call.out[i * 4 + d] == 0.0f);
      }
      CHECK(call.out[8] != 0.0f);

      AttentionCall empty(p, 1, 4, 0);
      if (sunk) empty.args.sinks = sink;
      empty.run();
      CHECK(empty.out == Floats(16));
      CHECK(empty.lse == Floats(4, sunk ? 1.5f : -kInfinity));
    }
  }
}

TEST_CASE("NaN in keys matters to rows that see it, to no others") {
  AttentionProblem p{.qk_size = 2, .v_size = 1, .window = Window::causal(), .lse = true};
  AttentionCall call(p, 1, 3, 3), clean(p, 1, 3, 3);
  clean.run();
  call.k[4] = NAN;  // of key 2
  call.v[2] = kInfinity;
  call.run();
  for (std::size_t i = 0; i < 2; ++i) CHECK(call.out[i] == clean.out[i]);
  CHECK(std::isnan(call.out[2]));
  CHECK(std::isnan(call.lse[2]));
  call.k[4] = 0.0f;
  call.q[0] = call.k[0] = 1e30f;  // a logit that overflows in f32, but not in the reference
  call.k[0] = -kInfinity;
  call.run();
  CHECK(call.out[0] == 0.0f);  // -infinity is not seen
}

TEST_CASE("scores show the logits at each step") {
  AttentionProblem p{.qk_size = 4,
                     .v_size = 2,
                     .softcap = 1.5f,
                     .window = Window::causal(),
                     .scores = Scores::product};
  std::vector<Floats> all;
  for (const Scores which : {Scores::product, Scores::capped, Scores::masked, Scores::weights}) {
    p.scores = which;
    AttentionCall call(p, 1, 3, 3);
    Floats scores(9, NAN);
    call.args.scores = {scores.data(), 9, 9, 3, 1};
    call.run();
    all.push_back(scores);
  }
  for (std::size_t i = 0; i < 9; ++i) {
    CAPTURE(i);
    const bool seen = i % 3 <= i / 3;
    CHECK(all[1][i] == doctest::Approx(1.5f * std::tanh(all[0][i] / 1.5f)).epsilon(1e-5));
    CHECK(all[2][i] == (seen ? all[1][i] : -kInfinity));
    CHECK((all[3][i] > 0.0f) == seen);
  }
  CHECK(all[3][6] + all[3][7] + all[3][8] == doctest::Approx(1.0f));
}

TEST_CASE("a float implementation in tiles stays within the tolerance, which is small") {
  Random random(7);
  double worst = 0.0;
  for (Index round = 0; round < support::scaled(60); ++round) {
    const Index size = random.between(1, 96), keys = random.between(1, 200);
    AttentionProblem p{
        .qk_size = size, .v_size = 4, .softcap = random.one_in(3) ? 5.0f : 0.0f, .lse = true};
    AttentionCall call(p, 1, 2, keys, random.bits());
    call.run();
    const AttentionTolerance limit = attention_tolerance(p, keys, attention_range(p, call.args));
    CHECK(limit.out < 1e-3);
    for (std::size_t i = 0; i < 2; ++i) {  // online softmax, one key at a time
      float most = -kInfinity, sum = 0.0f, out[4] = {};
      for (std::size_t j = 0; j < std::size_t(keys); ++j) {
        float x = 0.0f;
        for (std::size_t d = 0; d < std::size_t(size); ++d) {
          x += call.q[i * std::size_t(size) + d] * call.k[j * std::size_t(size) + d];
        }
        x *= p.scale_value();
        if (p.softcap > 0.0f) x = scalar::softcap(x, p.softcap);
        const float next = std::max(most, x),
                    shrink = most == next ? 1.0f : scalar::exp(most - next);
        const float e = scalar::exp(x - next);
        sum = sum * shrink + e;
        for (std::size_t d = 0; d < 4; ++d) out[d] = out[d] * shrink + e * call.v[j * 4 + d];
        most = next;
      }
      for (std::size_t d = 0; d < 4; ++d) {
        const double error = std::fabs(double(out[d] / sum) - double(call.out[i * 4 + d]));
        CHECK(error <= limit.out);
        worst = std::max(worst, error / limit.out);
      }
      CHECK(std::fabs(double(most + std::log(sum)) - double(call.lse[i])) <= limit.lse);
    }
  }
  CHECK(worst > 1e-4);  // the bound is not absurd
}

TEST_CASE("values so small that results are subnormal stay within the tolerance") {
  Random random(8);
  double worst = 0.0;
  for (Index round = 0; round < support::scaled(60); ++round) {
    const Index keys = random.between(1, 200);
    const HeadType type = random.pick({HeadType::f32, HeadType::bf16, HeadType::f16});
    AttentionProblem p{.qk_size = 1, .v_size = 1};
    AttentionCall call(p, 1, 1, keys, random.bits());
    const int smallest = type == HeadType::f16 ? -24 : type == HeadType::bf16 ? -133 : -149;
    const int up = static_cast<int>(random.between(0, 6));
    for (float& x : call.v) x = std::ldexp(x, smallest + up);
    call.run();
    const AttentionRange range = attention_range(p, call.args);
    p.out = type;
    const double limit = attention_tolerance(p, keys, range).out;
    // The term does not swallow what it is for: it counts distances between subnormal numbers.
    CHECK(limit < std::ldexp(double(2 * keys + 8), smallest));
    float most = -kInfinity, sum = 0.0f, out = 0.0f;  // online softmax, one key at a time
    for (std::size_t j = 0; j < std::size_t(keys); ++j) {
      const float x = call.q[0] * call.k[j], next = std::max(most, x),
                  shrink = most == next ? 1.0f : scalar::exp(most - next),
                  e = scalar::exp(x - next);
      sum = sum * shrink + e;
      out = out * shrink + e * call.v[j];
      most = next;
    }
    const auto rounded = [&](float x) {
      if (type == HeadType::bf16) return double(to_float(to_bf16(x)));
      return type == HeadType::f16 ? double(to_float(to_f16(x))) : double(x);
    };
    const double error = std::fabs(rounded(out / sum) - rounded(call.out[0]));
    CHECK(error <= limit);
    worst = std::max(worst, error / limit);
  }
  CHECK(worst > 0.01);
}

TEST_CASE("half types are read exactly and written rounded") {
  AttentionProblem p{.qk_size = 4, .v_size = 4};
  AttentionCall call(p, 1, 3, 5);
  std::vector<bf16> q, k, v, out(12);
  for (const auto& [from, to] : {std::pair{&call.q, &q}, {&call.k, &k}, {&call.v, &v}}) {
    for (float& x : *from) {
      to->push_back(to_bf16(x));
      x = to_float(to->back());
    }
  }
  call.run();
  p.q = p.k = p.v = p.out = HeadType::bf16;
  const AttentionArgs args{.q = ConstHeadsView::bhsd(q.data(), p.q, 1, 1, 3, 4),
                           .k = ConstHeadsView::bhsd(k.data(), p.k, 1, 1, 5, 4),
                           .v = ConstHeadsView::bhsd(v.data(), p.v, 1, 1, 5, 4),
                           .out = HeadsView::bhsd(out.data(), p.out, 1, 1, 3, 4)};
  REQUIRE_FALSE(validate(p, args));
  reference_attention(p, args);
  for (std::size_t i = 0; i < 12; ++i) CHECK(out[i] == to_bf16(call.out[i]));
}
