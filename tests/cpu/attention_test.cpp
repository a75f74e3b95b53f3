// Attention on the CPU beyond the sizes of the conformance suite: several blocks of everything,
// chunks of keys, memory.
#include "quern/cpu/attention.hpp"

#include <bit>
#include <string>
#include <vector>

#include "ops/attention_call.hpp"
#include "quern/core/thread_pool.hpp"
#include "quern/testing/attention_compare.hpp"
#include "support.hpp"

using namespace quern;

namespace {

using Floats = std::vector<float>;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// The bits of a call's results.
Floats results(const AttentionCall& call) {
  Floats all = call.out;
  if (call.problem.lse) all.insert(all.end(), call.lse.begin(), call.lse.end());
  return all;
}

bool same_bits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void check_near(const Floats& a, const Floats& b, double limit) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i] || std::fabs(double(a[i]) - double(b[i])) <= limit) continue;
    FAIL_CHECK("element " << i << " is " << a[i] << " but must be " << b[i] << " +- " << limit);
    return;
  }
}

/// Runs a call on every backend and compares it with the reference; with itself on threads.
void check(AttentionCall& call) {
  const AttentionProblem& p = call.problem;
  call.run();
  const Floats out = call.out, lse = call.lse;
  const auto limits = testing::AttentionLimits::of(p, call.args);
  Index queries = 0, keys = 0;
  for (Index b = 0; b < call.args.batch(); ++b) {
    queries += call.args.q_tokens(b);
    keys = std::max(keys, call.args.kv_tokens(b));
  }
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    CAPTURE(backend.name());
    const cpu::Attention op = prepare(backend, p).value();
    Workspace workspace(op.workspace_bytes(queries, keys));
    std::fill(call.out.begin(), call.out.end(), NAN);
    const Error serial = op.run(call.args, workspace);
    REQUIRE_MESSAGE(!serial, serial);
    const Floats first = results(call);
    if (p.arithmetic == AttentionArithmetic::int8) {
      CHECK(same_bits(call.out, out));
    } else {
      check_near(call.out, out, limits.out);
    }
    if (p.lse) check_near(call.lse, lse, limits.lse);

    ThreadPool pool(3);
    Workspace shared(op.workspace_bytes(queries, keys, 3));
    std::fill(call.out.begin(), call.out.end(), NAN);
    const Error threads = op.run(call.args, shared, pool);
    REQUIRE_MESSAGE(!threads, threads);
    CHECK(same_bits(results(call), first));
  }
}

void check(const AttentionProblem& p, Index batch, Index queries, Index keys) {
  CAPTURE(queries);
  CAPTURE(keys);
  AttentionCall call(p, batch, queries, keys);
  check(call);
}

}  // namespace

TEST_CASE("cpu attention: many queries and keys, whatever divides them") {
  for (const auto arithmetic : {AttentionArithmetic::floats, AttentionArithmetic::int8}) {
    for (const Window window : {Window{}, Window::causal(), Window{70, 5}, Window{0, -1}}) {
      AttentionProblem p{.q_heads = 1,
                         .qk_size = 24,
                         .v_size = 20,
                         .arithmetic = arithmetic,
                         .alignment = Alignment::bottom_right,
                         .window = window,
                         .lse = true};
      check(p, 1, 401, 601);
      check(p, 1, 97, 300);
    }
    AttentionProblem p{
        .q_heads = 6, .kv_heads = 2, .qk_size = 16, .v_size = 16, .arithmetic = arithmetic};
    check(p, 1, 131, 131);
  }
}

TEST_CASE("cpu attention: head sizes") {
  for (const auto arithmetic : {AttentionArithmetic::floats, AttentionArithmetic::int8}) {
    for (const Index size : {1, 2, 40, 64, 80, 128, 256, 600}) {
      AttentionProblem p{.q_heads = 2,
                         .kv_heads = 2,
                         .qk_size = size,
                         .v_size = size,
                         .arithmetic = arithmetic,
                         .lse = true};
      check(p, 1, 19, 45);
      check(p, 1, 1, 45);
      p.v_size = size + 3;
      check(p, 1, 11, 17);
    }
  }
}

TEST_CASE("cpu attention: few queries share their keys in chunks") {
  for (const Window window : {Window{}, Window::causal(), Window::causal(700)}) {
    for (const bool sinks : {false, true}) {
      AttentionProblem p{.q_heads = 4,
                         .kv_heads = 2,
                         .qk_size = 40,
                         .v_size = 24,
                         .alignment = Alignment::bottom_right,
                         .window = window,
                         .sinks = sinks,
                         .lse = true};
      for (const Index queries : {1, 3}) {
        for (const Index keys : {512, 513, 1100, 2049}) {
          AttentionCall call(p, 2, queries, keys);
          const Floats some = {0.5f, -1.0f, 2.0f, -kInfinity};
          if (sinks) call.args.sinks = some;
          const std::vector<std::int32_t> lengths = {std::int32_t(keys), 7};
          call.args.kv_lengths = lengths;
          check(call);
        }
      }
    }
  }
}

TEST_CASE("cpu attention: int8 sums of more keys than fit 32 bits, and of several blocks") {
  AttentionProblem p{
      .qk_size = 4, .v_size = 3, .arithmetic = AttentionArithmetic::int8, .lse = true};
  check(p, 1, 2, 2500);
  p.window = Window::causal(1500);
  p.alignment = Alignment::bottom_right;
  check(p, 1, 70, 2500);
  AttentionCall call({.qk_size = 1, .v_size = 1, .arithmetic = AttentionArithmetic::int8}, 1, 1,
                     140000);
  std::fill(call.k.begin(), call.k.end(), 0.0f);
  std::fill(call.v.begin(), call.v.end(), 2.0f);
  check(call);
}

TEST_CASE("cpu attention: rows that see nothing between others that do") {
  for (const auto arithmetic : {AttentionArithmetic::floats, AttentionArithmetic::int8}) {
    AttentionProblem p{.qk_size = 8,
                       .v_size = 8,
                       .arithmetic = arithmetic,
                       .mask = MaskType::boolean,
                       .lse = true};
    for (const Index queries : {5, 60}) {
      std::vector<std::uint8_t> mask;
      for (Index i = 0; i < queries; ++i) {
        for (Index j = 0; j < 300; ++j) mask.push_back(i % 3 != 0 && (j > 280 || i % 2 == 0));
      }
      AttentionCall call(p, 1, queries, 300);
      const Index shape[2] = {queries, 300};
      call.args.mask = MaskView::broadcast(mask.data(), MaskType::boolean, shape);
      check(call);
      CHECK(call.out[0] == 0.0f);
      CHECK(call.lse[0] == -kInfinity);
    }
  }
}

TEST_CASE("cpu attention: scores of several blocks") {
  for (const Scores which : {Scores::product, Scores::capped, Scores::masked, Scores::weights}) {
    AttentionProblem p{
        .qk_size = 8, .v_size = 4, .softcap = 2.0f, .window = Window::causal(), .scores = which};
    AttentionCall call(p, 1, 300, 300);
    Floats scores(300 * 300, NAN);
    call.args.scores = {scores.data(), 90000, 90000, 300, 1};
    call.run();
    const Floats expected = scores;
    const cpu::Attention op = prepare(cpu::Backend(), p).value();
    Workspace workspace(op.workspace_bytes(300, 300));
    REQUIRE_FALSE(op.run(call.args, workspace));
    check_near(scores, expected, testing::AttentionLimits::of(p, call.args).scores);
  }
}

TEST_CASE("cpu attention: memory does not grow with the sequence, and is asked for") {
  for (const auto arithmetic : {AttentionArithmetic::floats, AttentionArithmetic::int8}) {
    const AttentionProblem p{
        .q_heads = 8, .kv_heads = 8, .qk_size = 128, .v_size = 128, .arithmetic = arithmetic};
    const cpu::Attention op = prepare(cpu::Backend(), p).value();
    CHECK(op.workspace_bytes(8192, 8192) < std::size_t{2} << 20);
    CHECK(op.workspace_bytes(60000, 60000) == op.workspace_bytes(8192, 8192));
    AttentionCall call(p, 1, 9, 9);
    Workspace small(op.workspace_bytes(9, 9) - 1);
    call.out.assign(call.out.size(), 7.0f);
    const Error e = op.run(call.args, small);
    CHECK(e.code() == Code::no_workspace);
    CHECK(support::says(e, "9 queries and 9 keys"));
    call.args.k.tokens = 8;
    CHECK(op.run(call.args, Workspace(op.workspace_bytes(9, 9))).code() == Code::bad_shape);
    CHECK(call.out == Floats(call.out.size(), 7.0f));
  }
}
