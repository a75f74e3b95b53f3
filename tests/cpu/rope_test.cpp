// Rotary position embedding on the CPU: the bits of its reference.
#include "quern/cpu/rope.hpp"

#include <cmath>
#include <cstring>
#include <vector>

#include "quern/core/thread_pool.hpp"
#include "quern/testing/random.hpp"
#include "support.hpp"

using namespace quern;

namespace {

using Floats = std::vector<float>;
using Ints = std::vector<std::int32_t>;
using Bytes = std::vector<std::byte>;

constexpr Index kBatch = 3, kTokens = 5, kPositions = 20;

/// Vectors [batch, tokens, heads, size] with room between.
HeadsView view_of(Bytes& memory, HeadType type, Index heads, Index size, bool apart) {
  const Index token = heads * size + (apart ? 3 : 0);
  memory.resize(static_cast<std::size_t>(kBatch * kTokens * token * bits_of(type) / 8));
  return {memory.data(), type, kBatch, heads, kTokens, size, kTokens * token, size, token};
}
void fill(const HeadsView& x, testing::Random& random) {
  for (Index i = 0; i < x.batch * x.tokens * x.heads * x.size; ++i) {
    const Index d = i % x.size, h = i / x.size % x.heads, t = i / x.size / x.heads % x.tokens;
    store(x, i / x.size / x.heads / x.tokens, h, t, d,
          random.one_in(50) ? HUGE_VALF : random.uniform(-2.0f, 2.0f));
  }
}

}  // namespace

TEST_CASE("cpu rope: the reference's bits for any type, size and positions, in place, in threads") {
  testing::Random random(21);
  ThreadPool three(3);
  for (Index trial = 0; trial < support::scaled(150); ++trial) {
    RopeProblem p{.heads = random.between(1, 3),
                  .size = random.pick({Index{0}, Index{1}, random.between(2, 40), Index{64},
                                       Index{128}, random.between(1000, 1300)})};
    p.x = random.pick({HeadType::f32, HeadType::bf16, HeadType::f16});
    p.y = random.one_in(2) ? p.x : random.pick({HeadType::f32, HeadType::bf16, HeadType::f16});
    p.rope.rotary = random.one_in(2) ? p.size / 2 * 2 : random.between(0, p.size / 2) * 2;
    p.rope.pairs = random.pick({RopePairs::halves, RopePairs::interleaved});
    const Index half = p.rope.rotary / 2;
    Floats cos(std::size_t(kPositions * half)), sin(cos.size());
    fill_rope_tables({cos.data(), kPositions, half}, {sin.data(), kPositions, half});
    Bytes x, expected;
    const bool apart = random.one_in(2);
    RopeArgs args{.x = {}, .y = view_of(expected, p.y, p.heads, p.size, apart), .tables = {}};
    const HeadsView in = view_of(x, p.x, p.heads, p.size, apart);
    fill(in, random);
    args.x = in;
    args.tables = {{cos.data(), kPositions, half}, {sin.data(), kPositions, half}};
    Ints starts, positions;
    for (Index b = 0; b < kBatch; ++b) starts.push_back(std::int32_t(random.between(0, 15)));
    for (Index t = 0; t < kBatch * kTokens; ++t) {
      positions.push_back(std::int32_t(random.between(0, 19)));
    }
    const Index how = random.between(0, 2);
    if (how == 1) args.positions.starts = starts;
    if (how == 2) args.positions.positions = positions;
    Ints offsets = {0, 4, 4, 9, 13};
    if (random.one_in(3)) {  // the same vectors as a ragged batch, two tokens of none
      args.offsets = offsets;
      for (auto* view : {&args.x.batch, &args.y.batch}) *view = 1;
      for (auto* view : {&args.x.tokens, &args.y.tokens}) *view = kBatch * kTokens;
      starts.push_back(3);
      if (how == 1) args.positions.starts = starts;
    }
    const Bytes before = expected;
    CAPTURE(trial);
    CAPTURE(p.size);
    CAPTURE(p.rope.rotary);
    CAPTURE(name(p.x));
    CAPTURE(name(p.y));
    const Error described = validate(p), called = validate(p, args),
                filled = validate_values(p, args);
    REQUIRE_MESSAGE(!described, described);
    REQUIRE_MESSAGE(!called, called);
    REQUIRE_MESSAGE(!filled, filled);
    reference_rope(p, args);
    // Infinities make NaN, whose bits are nobody's promise.
    const auto same = [&](const Bytes& memory) {
      HeadsView y = args.y;
      Bytes copy = memory;
      y.data = copy.data();
      for (Index i = 0; i < y.batch * y.tokens * y.heads * y.size; ++i) {
        const Index d = i % y.size, h = i / y.size % y.heads, t = i / y.size / y.heads % y.tokens,
                    b = i / y.size / y.heads / y.tokens;
        if (std::isnan(load(y, b, h, t, d)) && std::isnan(load(args.y, b, h, t, d))) {
          store(y, b, h, t, d, load(args.y, b, h, t, d));
        }
      }
      return copy == expected;
    };
    for (const cpu::Backend& backend : cpu::Backend::all()) {
      CAPTURE(backend.name());
      const auto op = prepare(backend, p);
      REQUIRE(op);
      for (const bool threaded : {false, true}) {
        Bytes memory = before;
        RopeArgs call = args;
        call.y.data = memory.data();
        const Index allocated = support::allocations();
        CHECK_FALSE(op->run(call, {}, threaded ? Parallel(three) : Parallel()));
        if (!threaded) CHECK(support::allocations() == allocated);
        CHECK(same(memory));
      }
      if (p.x != p.y || !args.offsets.empty()) continue;
      Bytes memory = x;
      RopeArgs call = args;
      call.x.data = call.y.data = memory.data();
      CHECK_FALSE(op->run(call));
      if (!apart) CHECK(same(memory));
    }
  }
}

TEST_CASE("cpu rope: errors come before anything is written") {
  const cpu::Backend backend;
  const RopeProblem p{.size = 4, .rope = {4}};
  Floats x = {1.0f, 2.0f, 3.0f, 4.0f}, y(4, 7.0f), cos(2, 1.0f), sin(2, 0.0f);
  const auto op = prepare(backend, p);
  REQUIRE(op);
  const Ints far = {1};
  RopeArgs args{.x = ConstHeadsView::bhsd(x.data(), HeadType::f32, 1, 1, 1, 4),
                .y = HeadsView::bhsd(y.data(), HeadType::f32, 1, 1, 1, 4),
                .tables = {{cos.data(), 1, 2}, {sin.data(), 1, 2}},
                .positions = {far, {}}};
  CHECK(op->run(args).code() == Code::bad_value);
  args.positions = {};
  args.y.data = x.data() + 1;
  CHECK(op->run(args).code() == Code::bad_data);
  args.y.data = y.data();
  args.y.tokens = 2;
  CHECK(op->run(args).code() == Code::bad_shape);
  CHECK(y == Floats(4, 7.0f));
  args.y.tokens = 1;
  CHECK_FALSE(op->run(args));
  CHECK(y == x);
  CHECK(prepare(backend, RopeProblem{.size = 4, .rope = {6}}).error().code() == Code::bad_shape);
}
