// Appending to KV caches on the CPU: the bits of the reference, and nothing else is touched.
#include "quern/cpu/kv_cache.hpp"

#include <cmath>
#include <vector>

#include "quern/core/thread_pool.hpp"
#include "quern/ops/kv_cache_reference.hpp"
#include "quern/testing/random.hpp"
#include "support.hpp"

using namespace quern;

namespace {

using Floats = std::vector<float>;
using Ints = std::vector<std::int32_t>;
using Bytes = std::vector<std::byte>;

constexpr Index kBatch = 3, kTokens = 4, kCapacity = 12, kPage = 4, kPositions = 40;

/// Everything that an append writes.
struct Cache {
  Bytes k, v;
  Floats k_scales, v_scales;
  bool operator==(const Cache&) const = default;
};

/// A random call: 4 new tokens of 3 sequences, or 12 of a ragged batch, in a cache of 12 tokens
/// each, in one piece or in pages of 4.
struct Call {
  KvAppendProblem problem;
  Bytes k, v;
  Cache cache;
  Floats cos, sin;
  Ints lengths, offsets, pages, positions;
  KvAppendArgs args;

  explicit Call(testing::Random& random) {
    KvAppendProblem& p = problem;
    const auto even = [&](Index low, Index high) { return 2 * random.between(low, high); };
    p.kv_heads = random.between(1, 3);
    p.k_size = random.one_in(10) ? even(500, 600) : random.pick({Index{0}, even(1, 40), Index{64}});
    p.v_size = random.one_in(10) ? even(500, 600) : random.pick({Index{0}, even(1, 40), Index{64}});
    p.source = random.pick({HeadType::f32, HeadType::bf16, HeadType::f16});
    const auto kind = [&](HeadType& type, HeadScales& scales, Index size) {
      type = static_cast<HeadType>(random.between(0, size == 0 ? 2 : 4));
      if (!is_float(type)) scales = random.pick({HeadScales::per_token, HeadScales::per_channel});
    };
    kind(p.k, p.k_scales, p.k_size);
    kind(p.v, p.v_scales, p.v_size);
    if (random.one_in(2)) p.rope.rotary = random.between(0, p.k_size / 2) * 2;
    p.rope.pairs = random.pick({RopePairs::halves, RopePairs::interleaved});
    const Index half = p.rope.rotary / 2;
    cos.resize(std::size_t(kPositions * half));
    sin.resize(cos.size());
    args.tables = {{cos.data(), kPositions, half}, {sin.data(), kPositions, half}};
    fill_rope_tables({cos.data(), kPositions, half}, {sin.data(), kPositions, half});

    const bool ragged = random.one_in(2), paged = random.one_in(2);
    args.k = source(random, k, p.k_size, ragged);
    args.v = source(random, v, p.v_size, ragged);
    if (ragged) offsets = {0, 3, 3, 11};
    args.offsets = offsets;
    if (random.one_in(3)) {
      for (Index t = 0; t < kBatch * kTokens; ++t) {
        positions.push_back(std::int32_t(random.between(0, kPositions - 1)));
      }
      args.positions.positions = positions;
    }
    if (!random.one_in(4)) {
      for (Index b = 0; b < kBatch; ++b) {
        lengths.push_back(std::int32_t(random.between(0, ragged ? 4 : 8)));
      }
    }
    args.lengths = lengths;
    if (paged) {
      pages = {6, 1, 0, 3, 2, 5, 7, 4, 8};
      args.pages = {pages.data(), kBatch, kCapacity / kPage};
    }
    const Index blocks = paged ? 9 : kBatch, tokens = paged ? kPage : kCapacity;
    args.k_cache = target(cache.k, p.k, blocks, tokens, p.k_size);
    args.v_cache = target(cache.v, p.v, blocks, tokens, p.v_size);
    cache.k_scales = cache.v_scales = scales(random, std::max(blocks * tokens, Index{1300}));
    args.k_scales = scales_of(p.k_scales, cache.k_scales, tokens, p.k_size);
    args.v_scales = scales_of(p.v_scales, cache.v_scales, tokens, p.v_size);
  }
  Call(const Call&) = delete;

  ConstHeadsView source(testing::Random& random, Bytes& memory, Index size, bool ragged) const {
    const Index token = problem.kv_heads * size;
    memory.resize(std::size_t(kBatch * kTokens * token * bits_of(problem.source) / 8));
    const HeadsView x =
        HeadsView::bshd(memory.data(), problem.source, ragged ? 1 : kBatch, problem.kv_heads,
                        ragged ? kBatch * kTokens : kTokens, size);
    const float special = random.pick({NAN, HUGE_VALF, 0.0f, 1e-38f, 100.0f});
    const HeadsView flat =
        HeadsView::bhsd(memory.data(), problem.source, 1, 1, 1, kBatch * kTokens * token);
    const Index rare = random.pick({5, 500, 100000});
    for (Index i = 0; i < flat.size; ++i) {
      store(flat, 0, 0, 0, i, random.one_in(rare) ? special : random.uniform(-2.0f, 2.0f));
    }
    return x;
  }
  HeadsView target(Bytes& memory, HeadType type, Index blocks, Index tokens, Index size) const {
    memory.assign(std::size_t(blocks * tokens * problem.kv_heads * size * bits_of(type) / 8),
                  std::byte{0x55});
    return HeadsView::bhsd(memory.data(), type, blocks, problem.kv_heads, tokens, size);
  }
  Floats scales(testing::Random& random, Index count) const {
    Floats s(std::size_t(problem.kv_heads * count));
    for (float& one : s) one = random.uniform(0.001f, 0.3f);
    return s;
  }
  HeadFloats scales_of(HeadScales kind, Floats& data, Index tokens, Index size) const {
    return kind == HeadScales::per_channel
               ? HeadFloats::per_channel(data.data(), size)
               : HeadFloats::per_token(data.data(), problem.kv_heads, tokens);
  }
  KvAppendArgs into(Cache& other) const {
    KvAppendArgs call = args;
    call.k_cache.data = other.k.data();
    call.v_cache.data = other.v.data();
    call.k_scales.data = other.k_scales.data();
    call.v_scales.data = other.v_scales.data();
    return call;
  }
};

/// Rotated infinities are NaN, whose bits are nobody's promise: all become the same.
Cache canonical(Cache cache, const Call& call) {
  const KvAppendArgs args = call.into(cache);
  for (HeadsView x : {args.k_cache, args.v_cache}) {
    if (!is_float(x.type)) continue;
    x = HeadsView::bhsd(x.data, x.type, 1, 1, 1, x.batch * x.heads * x.tokens * x.size);
    for (Index i = 0; i < x.size; ++i) {
      if (std::isnan(load(x, 0, 0, 0, i))) store(x, 0, 0, 0, i, NAN);
    }
  }
  return cache;
}

}  // namespace

TEST_CASE("cpu kv append: the reference's bits in every type, paged, ragged, rotated, in threads") {
  testing::Random random(31);
  ThreadPool three(3);
  for (Index trial = 0; trial < support::scaled(300); ++trial) {
    const Call call(random);
    const KvAppendProblem& p = call.problem;
    CAPTURE(trial);
    CAPTURE(name(p.source));
    CAPTURE(name(p.k));
    CAPTURE(name(p.v));
    CAPTURE(p.k_size);
    CAPTURE(p.v_size);
    CAPTURE(p.rope.rotary);
    const Error described = validate(p), called = validate(p, call.args),
                filled = validate_values(p, call.args);
    REQUIRE_MESSAGE(!described, described);
    REQUIRE_MESSAGE(!called, called);
    REQUIRE_MESSAGE(!filled, filled);
    Cache written = call.cache;
    reference_append(p, call.into(written));
    const Cache expected = canonical(written, call);
    for (const cpu::Backend& backend : cpu::Backend::all()) {
      CAPTURE(backend.name());
      const auto op = prepare(backend, p);
      REQUIRE(op);
      for (const bool threaded : {false, true}) {
        Cache cache = call.cache;
        const KvAppendArgs args = call.into(cache);
        const Index allocated = support::allocations();
        CHECK_FALSE(op->run(args, {}, threaded ? Parallel(three) : Parallel()));
        if (!threaded) CHECK(support::allocations() == allocated);
        const Cache got = canonical(cache, call);
        CHECK(got.k == expected.k);
        CHECK(got.v == expected.v);
        CHECK(got.k_scales == expected.k_scales);
        CHECK(got.v_scales == expected.v_scales);
      }
    }
  }
}

TEST_CASE("cpu kv append: errors come before anything is written") {
  const cpu::Backend backend;
  const KvAppendProblem p{.k_size = 4, .v_size = 4};
  const auto op = prepare(backend, p);
  REQUIRE(op);
  Floats x(4, 1.0f), k(8, 7.0f), v(8, 7.0f);
  Ints lengths = {2};
  KvAppendArgs args{.k = ConstHeadsView::bhsd(x.data(), HeadType::f32, 1, 1, 1, 4),
                    .v = ConstHeadsView::bhsd(x.data(), HeadType::f32, 1, 1, 1, 4),
                    .k_cache = HeadsView::bhsd(k.data(), HeadType::f32, 1, 1, 2, 4),
                    .v_cache = HeadsView::bhsd(v.data(), HeadType::f32, 1, 1, 2, 4),
                    .lengths = lengths};
  CHECK(op->run(args).code() == Code::bad_value);
  lengths = {1};
  args.v_cache.data = k.data();
  CHECK(op->run(args).code() == Code::bad_data);
  args.v_cache.data = v.data();
  args.k.size = 2;
  CHECK(op->run(args).code() == Code::bad_shape);
  CHECK(k == Floats(8, 7.0f));
  CHECK(v == Floats(8, 7.0f));
  args.k.size = 4;
  CHECK_FALSE(op->run(args));
  CHECK(k == Floats{7.0f, 7.0f, 7.0f, 7.0f, 1.0f, 1.0f, 1.0f, 1.0f});
  CHECK(prepare(backend, KvAppendProblem{.k_size = -1}).error().code() == Code::bad_shape);
}
