// A call of attention with f32 tensors of its own, for tests.
#pragma once

#include <vector>

#include "quern/ops/attention_reference.hpp"
#include "quern/testing/random.hpp"
#include "support.hpp"

/// Dense [batch, heads, tokens, size] everywhere, filled with numbers from [-1, 1).
struct AttentionCall {
  quern::AttentionProblem problem;
  std::vector<float> q, k, v, out, lse;
  quern::AttentionArgs args;

  AttentionCall(const quern::AttentionProblem& p, quern::Index batch, quern::Index queries,
                quern::Index keys, std::uint64_t seed = 1)
      : problem(p) {
    using quern::HeadType;
    quern::testing::Random random(seed);
    const auto fill = [&](std::vector<float>& x, quern::Index heads, quern::Index tokens,
                          quern::Index size) {
      x.resize(static_cast<std::size_t>(batch * heads * tokens * size));
      for (float& one : x) one = random.uniform(-1.0f, 1.0f);
    };
    fill(q, p.q_heads, queries, p.qk_size);
    fill(k, p.kv_heads, keys, p.qk_size);
    fill(v, p.kv_heads, keys, p.v_size);
    fill(out, p.q_heads, queries, p.v_size);
    fill(lse, p.q_heads, queries, 1);
    using Const = quern::ConstHeadsView;
    args.q = Const::bhsd(q.data(), HeadType::f32, batch, p.q_heads, queries, p.qk_size);
    args.k = Const::bhsd(k.data(), HeadType::f32, batch, p.kv_heads, keys, p.qk_size);
    args.v = Const::bhsd(v.data(), HeadType::f32, batch, p.kv_heads, keys, p.v_size);
    args.out =
        quern::HeadsView::bhsd(out.data(), HeadType::f32, batch, p.q_heads, queries, p.v_size);
    if (p.lse) args.lse = quern::HeadFloats::per_token(lse.data(), p.q_heads, queries);
  }
  AttentionCall(const AttentionCall&) = delete;

  void run() {
    const quern::Error described = validate(problem), called = validate(problem, args),
                       filled = validate_values(problem, args);
    REQUIRE_MESSAGE(!described, described);
    REQUIRE_MESSAGE(!called, called);
    REQUIRE_MESSAGE(!filled, filled);
    reference_attention(problem, args);
  }
};
