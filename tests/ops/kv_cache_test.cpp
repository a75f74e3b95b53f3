// Appending to KV caches: what is stored where, to the bit, and what is refused.
#include <cmath>
#include <string>
#include <vector>

#include "quern/ops/attention_reference.hpp"
#include "quern/ops/kv_cache_reference.hpp"
#include "quern/testing/random.hpp"
#include "support.hpp"

using namespace quern;

namespace {

using Floats = std::vector<float>;
using Ints = std::vector<std::int32_t>;
using Bytes = std::vector<std::byte>;

constexpr Index kBatch = 2, kHeads = 2, kTokens = 3, kCapacity = 8, kPage = 2, kRows = 16;

/// 3 new tokens of 2 sequences, which have 5 and 2, in a cache of 8 each or in 4 pages each.
struct Call {
  KvAppendProblem problem;
  Floats k = Floats(kBatch * kHeads * kTokens * 6), v = Floats(kBatch * kHeads * kTokens * 4);
  Bytes k_cache = Bytes(kBatch * kHeads * kCapacity * 6 * 4, std::byte{0x55}),
        v_cache = Bytes(kBatch * kHeads * kCapacity * 4 * 4, std::byte{0x55});
  Floats k_scales = Floats(kBatch * kHeads * kCapacity, 0.02f),
         v_scales = Floats(kBatch * kHeads * kCapacity, 0.02f);
  Floats cos = Floats(kRows * 2), sin = Floats(kRows * 2);
  Ints lengths = {5, 2}, pages = {6, 1, 0, 3, 2, 5, 7, 4};
  KvAppendArgs args;

  explicit Call(const KvAppendProblem& p, bool paged = false) : problem(p) {
    problem.kv_heads = kHeads;
    problem.k_size = 6;
    problem.v_size = 4;
    testing::Random random(1);
    for (float& one : k) one = random.uniform(-2.0f, 2.0f);
    for (float& one : v) one = random.uniform(-2.0f, 2.0f);
    fill_rope_tables({cos.data(), kRows, 2}, {sin.data(), kRows, 2});
    args.k = ConstHeadsView::bhsd(k.data(), p.source, kBatch, kHeads, kTokens, 6);
    args.v = ConstHeadsView::bhsd(v.data(), p.source, kBatch, kHeads, kTokens, 4);
    const Index blocks = paged ? 8 : kBatch, tokens = paged ? kPage : kCapacity;
    args.k_cache = HeadsView::bhsd(k_cache.data(), p.k, blocks, kHeads, tokens, 6);
    args.v_cache = HeadsView::bhsd(v_cache.data(), p.v, blocks, kHeads, tokens, 4);
    args.lengths = lengths;
    if (paged) args.pages = {pages.data(), 2, 4};
    args.k_scales = scales(p.k_scales, k_scales, tokens, 6);
    args.v_scales = scales(p.v_scales, v_scales, tokens, 4);
    args.tables = {{cos.data(), kRows, 2}, {sin.data(), kRows, 2}};
  }
  Call(const Call&) = delete;

  static HeadFloats scales(HeadScales kind, Floats& data, Index tokens, Index size) {
    return kind == HeadScales::per_channel ? HeadFloats::per_channel(data.data(), size)
                                           : HeadFloats::per_token(data.data(), kHeads, tokens);
  }
  Error check() const {
    Error e = validate(problem);
    if (!e) e = validate(problem, args);
    if (!e) e = validate_values(problem, args);
    return e;
  }
  void run() {
    const Error e = check();
    REQUIRE_MESSAGE(!e, e);
    reference_append(problem, args);
  }
  /// Token t of sequence b in the cache, as a number.
  float cached(bool value, Index b, Index h, Index t, Index d) const {
    const HeadsView& x = value ? args.v_cache : args.k_cache;
    const HeadFloats& s = value ? args.v_scales : args.k_scales;
    const HeadScales kind = value ? problem.v_scales : problem.k_scales;
    const TokenMap::Place at = args.target().place(x, b, t);
    return static_cast<float>(detail::dequantized(x, s, kind, at, h, d));
  }
};

template <class Spoil>
void refuses(Spoil&& spoil, Code code, const std::vector<std::string>& words, bool paged = true) {
  Call call({.v = HeadType::s8, .v_scales = HeadScales::per_token, .rope = {4}}, paged);
  spoil(call);
  const Bytes before = call.k_cache;
  const Error e = call.check();
  CAPTURE(e);
  CHECK(e.code() == code);
  CHECK(call.k_cache == before);
  for (const std::string& word : words) {
    CAPTURE(word);
    CHECK(support::says(e, word));
  }
}

}  // namespace

TEST_CASE("floats go into their cache rounded, behind what is there, and touch nothing else") {
  for (const bool paged : {false, true}) {
    for (const HeadType type : {HeadType::f32, HeadType::bf16, HeadType::f16}) {
      Call call({.k = type, .v = type}, paged);
      const Call before({.k = type, .v = type}, paged);
      call.run();
      for (Index b = 0; b < kBatch; ++b) {
        for (Index h = 0; h < kHeads; ++h) {
          for (Index t = 0; t < kCapacity; ++t) {
            const Index added = t - call.lengths[std::size_t(b)];
            const bool is_new = added >= 0 && added < kTokens;
            for (Index d = 0; d < 6; ++d) {
              float x = before.cached(false, b, h, t, d);
              if (is_new) x = call.k[std::size_t(((b * kHeads + h) * kTokens + added) * 6 + d)];
              if (type == HeadType::bf16) x = to_float(to_bf16(x));
              if (type == HeadType::f16) x = to_float(to_f16(x));
              CHECK(call.cached(false, b, h, t, d) == x);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("integers are within half a step, with scales per token that were computed") {
  for (const bool paged : {false, true}) {
    for (const HeadType type : {HeadType::s8, HeadType::s4}) {
      for (const HeadScales scales : {HeadScales::per_token, HeadScales::per_channel}) {
        const KvAppendProblem p{.k = type, .v = type, .k_scales = scales, .v_scales = scales};
        Call call(p, paged);
        // Channels whose scales are too small saturate; these are not.
        const float wide = 2.0f / static_cast<float>(largest(type));
        std::fill(call.k_scales.begin(), call.k_scales.end(), wide);
        std::fill(call.v_scales.begin(), call.v_scales.end(), wide);
        call.run();
        for (Index b = 0; b < kBatch; ++b) {
          for (Index h = 0; h < kHeads; ++h) {
            for (Index t = 0; t < kTokens; ++t) {
              float amax = 0.0f;
              const auto x = [&](Index d) {
                return call.v[std::size_t(((b * kHeads + h) * kTokens + t) * 4 + d)];
              };
              for (Index d = 0; d < 4; ++d) amax = std::max(amax, std::fabs(x(d)));
              const float step = scales == HeadScales::per_channel
                                     ? wide
                                     : amax / static_cast<float>(largest(type));
              for (Index d = 0; d < 4; ++d) {
                const float got = call.cached(true, b, h, call.lengths[std::size_t(b)] + t, d);
                CHECK(std::fabs(got - x(d)) <= 0.5001f * step);
              }
            }
          }
        }
      }
    }
  }
}

TEST_CASE("integers saturate symmetrically, NaN is 0, zeros have scale 0") {
  Call call({.k = HeadType::s4,
             .v = HeadType::s8,
             .k_scales = HeadScales::per_channel,
             .v_scales = HeadScales::per_token});
  call.k_scales.assign(call.k_scales.size(), 1e-3f);
  call.k[0] = NAN;
  call.k[1] = -HUGE_VALF;
  std::fill_n(call.v.begin(), 4, 0.0f);
  call.v[4] = NAN;
  call.run();
  CHECK(load(call.args.k_cache, 0, 0, 5, 0) == 0.0f);
  CHECK(load(call.args.k_cache, 0, 0, 5, 1) == -7.0f);
  CHECK(std::fabs(load(call.args.k_cache, 0, 0, 5, 2)) == 7.0f);
  CHECK(call.args.v_scales.at(0, 0, 5) == 0.0f);
  for (Index d = 0; d < 4; ++d) CHECK(load(call.args.v_cache, 0, 0, 5, d) == 0.0f);
  CHECK(load(call.args.v_cache, 0, 0, 6, 0) == 0.0f);
  CHECK(call.args.v_scales.at(0, 0, 6) > 0.0f);
}

TEST_CASE("rotating on the way into the cache is rotating before") {
  for (const HeadType type : {HeadType::f32, HeadType::bf16}) {
    for (const RopePairs pairs : {RopePairs::halves, RopePairs::interleaved}) {
      Call fused({.k = type, .rope = {4, pairs}}), apart({.k = type});
      fused.run();
      Floats rotated(apart.k.size());
      const RopeProblem rope{.heads = kHeads, .size = 6, .rope = {4, pairs}};
      const RopeArgs args{
          .x = apart.args.k,
          .y = HeadsView::bhsd(rotated.data(), HeadType::f32, kBatch, kHeads, kTokens, 6),
          .tables = apart.args.tables,
          .positions = {{}, apart.lengths}};
      REQUIRE_FALSE(validate(rope, args));
      reference_rope(rope, args);
      apart.k = rotated;
      apart.run();
      CHECK(fused.k_cache == apart.k_cache);
      CHECK(fused.v_cache == apart.v_cache);
    }
  }
}

TEST_CASE("a ragged append is one for each sequence, and token by token it is the same") {
  const KvAppendProblem p{.k = HeadType::s8,
                          .v = HeadType::s4,
                          .k_scales = HeadScales::per_token,
                          .v_scales = HeadScales::per_token,
                          .rope = {4}};
  const Ints offsets = {0, 3, 6};
  Call whole(p, true), ragged(p, true), steps(p, true);
  whole.run();
  Floats k(ragged.k.size()), v(ragged.v.size());  // [tokens of both, heads, size]
  const auto gather = [&](const Floats& from, Floats& to, std::size_t size) {
    for (std::size_t i = 0; i < to.size(); ++i) {
      const std::size_t d = i % size, h = i / size % 2, t = i / size / 2;
      to[i] = from[((t / 3 * 2 + h) * 3 + t % 3) * size + d];
    }
  };
  gather(ragged.k, k, 6);
  gather(ragged.v, v, 4);
  ragged.args.k = ConstHeadsView::bshd(k.data(), HeadType::f32, 1, kHeads, 6, 6);
  ragged.args.v = ConstHeadsView::bshd(v.data(), HeadType::f32, 1, kHeads, 6, 4);
  ragged.args.offsets = offsets;
  ragged.run();
  CHECK(ragged.k_cache == whole.k_cache);
  CHECK(ragged.v_cache == whole.v_cache);
  CHECK(ragged.v_scales == whole.v_scales);
  const ConstHeadsView all_k = steps.args.k, all_v = steps.args.v;
  for (Index t = 0; t < kTokens; ++t) {
    steps.args.k = all_k;
    steps.args.v = all_v;
    steps.args.k.data = static_cast<const float*>(all_k.data) + t * 6;
    steps.args.v.data = static_cast<const float*>(all_v.data) + t * 4;
    steps.args.k.tokens = steps.args.v.tokens = 1;
    steps.run();
    for (std::int32_t& length : steps.lengths) ++length;
  }
  CHECK(steps.k_cache == whole.k_cache);
  CHECK(steps.k_scales == whole.k_scales);
}

TEST_CASE("attention over pages is attention over a cache in one piece, and over the tokens") {
  struct Kind {
    HeadType type;
    HeadScales scales;
  };
  const Ints lengths = {3, 3};
  Floats q(2 * 4 * 2 * 6);
  testing::Random random(9);
  for (float& one : q) one = random.uniform(-1.0f, 1.0f);
  for (const Kind kind : {Kind{HeadType::f32, HeadScales::none},
                          {HeadType::s8, HeadScales::per_token},
                          {HeadType::s4, HeadScales::per_channel}}) {
    for (const auto arithmetic : {AttentionArithmetic::floats, AttentionArithmetic::int8}) {
      const AttentionProblem p{.q_heads = 4,
                               .kv_heads = 2,
                               .qk_size = 6,
                               .v_size = 4,
                               .k = kind.type,
                               .v = kind.type,
                               .k_scales = kind.scales,
                               .v_scales = kind.scales,
                               .arithmetic = arithmetic,
                               .alignment = Alignment::bottom_right,
                               .window = Window::causal()};
      std::vector<Floats> results;
      const auto attend = [&](const AttentionProblem& problem, AttentionArgs args) {
        results.emplace_back(2 * 4 * 2 * 4);
        args.q = ConstHeadsView::bhsd(q.data(), p.q, 2, 4, 2, 6);
        args.out = HeadsView::bhsd(results.back().data(), p.out, 2, 4, 2, 4);
        const Error e = validate(problem, args), values = validate_values(problem, args);
        REQUIRE_MESSAGE(!e, e);
        REQUIRE_MESSAGE(!values, values);
        reference_attention(problem, args);
      };
      for (const bool paged : {false, true}) {
        Call call(
            {.k = kind.type, .v = kind.type, .k_scales = kind.scales, .v_scales = kind.scales},
            paged);
        call.lengths = {0, 0};
        call.run();
        attend(p, {.q = {},
                   .k = call.args.k_cache,
                   .v = call.args.v_cache,
                   .out = {},
                   .k_scales = call.args.k_scales,
                   .v_scales = call.args.v_scales,
                   .pages = call.args.pages,
                   .kv_lengths = lengths});
        if (kind.type == HeadType::f32) {
          attend(p, {.q = {}, .k = call.args.k, .v = call.args.v, .out = {}});
        }
      }
      for (const Floats& result : results) CHECK(result == results[0]);
    }
  }
}

TEST_CASE("keys and values may share pages of one buffer, page by page or token by token") {
  Call call({}, true);
  Floats both(8 * 2 * kHeads * kPage * 6);
  call.problem.v_size = 6;
  Floats v(call.k.size());
  call.args.v = ConstHeadsView::bhsd(v.data(), HeadType::f32, kBatch, kHeads, kTokens, 6);
  const auto share = [&](Index apart, Index page, Index head, Index token) {
    call.args.k_cache =
        HeadsView(both.data(), HeadType::f32, 8, kHeads, kPage, 6, page, head, token);
    call.args.v_cache = call.args.k_cache;
    call.args.v_cache.data = both.data() + apart;
    return call.check();
  };
  CHECK_FALSE(share(kHeads * kPage * 6, 2 * kHeads * kPage * 6, kPage * 6, 6));
  CHECK_FALSE(share(kHeads * 6, 2 * kHeads * kPage * 6, 6, 2 * kHeads * 6));
  CHECK_FALSE(share(6, 2 * kHeads * kPage * 6, 2 * 6, 2 * kHeads * 6));
  CHECK(share(kHeads * kPage * 6 - 1, 2 * kHeads * kPage * 6, kPage * 6, 6).code() ==
        Code::bad_data);
  CHECK(share(0, 2 * kHeads * kPage * 6, kPage * 6, 6).code() == Code::bad_data);
}

TEST_CASE("vectors of no elements have no scales: none is written, and they may be null") {
  for (const HeadScales kind : {HeadScales::per_token, HeadScales::per_channel}) {
    for (const bool paged : {false, true}) {
      for (const bool null : {false, true}) {
        Call call({.v = HeadType::s8, .v_scales = kind}, paged);
        call.problem.v_size = call.args.v.size = call.args.v_cache.size = 0;
        if (null) call.args.v.data = call.args.v_cache.data = call.args.v_scales.data = nullptr;
        const Floats scales = call.v_scales;
        const Bytes k_cache = call.k_cache, v_cache = call.v_cache;
        call.run();
        CHECK(call.v_scales == scales);
        CHECK(call.v_cache == v_cache);
        CHECK(call.k_cache != k_cache);
      }
    }
  }
}

TEST_CASE("scales per channel are read when no token comes, too") {
  Call call({.v = HeadType::s8, .v_scales = HeadScales::per_channel});
  call.args.k.tokens = call.args.v.tokens = 0;
  call.args.k_cache.tokens = call.args.v_cache.tokens = 0;
  call.lengths = {0, 0};
  call.run();
  call.args.v_scales.data = nullptr;
  CHECK(call.check().code() == Code::bad_data);
  CHECK(support::says(call.check(), "v_scales (per channel)"));
}

TEST_CASE("appends that make no sense are refused before anything is written") {
  using C = Call;
  const Ints three = {1, 2, 3};
  refuses([](C& c) { c.problem.source = HeadType::s8; }, Code::unsupported, {"s8"});
  refuses([](C& c) { c.problem.k = HeadType::s4; }, Code::unsupported, {"k: s4", "none"});
  refuses([](C& c) { c.problem.k_size = -1; }, Code::bad_shape, {"-1"});
  refuses([](C& c) { c.problem.rope.rotary = 8; }, Code::bad_shape, {"8 elements", "6"});
  refuses([](C& c) { c.args.k_cache.heads = 1; }, Code::bad_shape, {"k_cache is 8 x 1"});
  refuses([](C& c) { c.args.v_cache.type = HeadType::f16; }, Code::unsupported, {"v_cache holds"});
  refuses([](C& c) { c.args.v.tokens = 2; }, Code::bad_shape, {"2 x 3 and 2 x 2"});
  refuses([&](C& c) { c.args.lengths = three; }, Code::bad_shape, {"3 lengths for 2"});
  refuses(
      [](C& c) {
        c.args.pages = {nullptr, 2, 0};
      },
      Code::bad_data, {"page table of 2 x 0", "null"});
  refuses([](C& c) { c.args.pages = {}; }, Code::bad_shape, {"batch of 8 for 2"});
  refuses([](C& c) { c.args.v_scales.data = nullptr; }, Code::bad_data, {"v_scales"});
  refuses([](C& c) { c.args.v_cache.data = c.k_cache.data(); }, Code::bad_data,
          {"v_cache at", "overlaps k_cache"});
  refuses([](C& c) { c.args.k_cache.data = c.k.data(); }, Code::bad_data, {"overlaps k"});
  refuses([](C& c) { c.args.tables.cos.cols = 3; }, Code::bad_shape, {"16 x 3"});
  refuses([](C& c) { c.lengths[0] = 6; }, Code::bad_value,
          {"sequence 0 has 6 tokens and gets 3", "holds 8"});
  refuses([](C& c) { c.lengths[1] = -1; }, Code::bad_value, {"sequence 1 has -1"});
  refuses([](C& c) { c.pages[0] = 8; }, Code::bad_value, {"page 0 of sequence 0 is 8"});
  refuses([](C& c) { c.pages[5] = c.pages[3]; }, Code::bad_value,
          {"page 3 would be written for sequences 0 and 1"});
  refuses([](C& c) { c.pages[2] = c.pages[3]; }, Code::bad_value,
          {"page 3 would be written for sequences 0 and 0"});
  refuses([](C& c) { c.args.tables.cos.rows = c.args.tables.sin.rows = 7; }, Code::bad_value,
          {"token 2 of sequence 0 is at position 7"});
  refuses(
      [](C& c) {
        c.problem.k = HeadType::s8;
        c.problem.k_scales = HeadScales::per_channel;
        c.args.k_cache = HeadsView::bhsd(c.k_cache.data(), HeadType::s8, 8, kHeads, kPage, 6);
        c.args.k_scales = HeadFloats::per_channel(c.k_scales.data(), 6);
        c.k_scales[8] = 0.0f;
      },
      Code::bad_value, {"scale 2 of head 1 is 0"});
  Call odd({.k = HeadType::s4, .k_scales = HeadScales::per_token});
  odd.args.k_cache.token_stride = 7;
  odd.args.k_cache.head_stride = 56;
  odd.args.k_cache.batch_stride = 112;
  CHECK(support::says(odd.check(), "must be even"));
}
