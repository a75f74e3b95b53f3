// The generator of attention: everything it makes is valid, repeatable, and everything is made
// often enough.
#include <cmath>
#include <cstring>
#include <map>
#include <string>

#include "quern/ops/attention_reference.hpp"
#include "quern/testing/attention_problems.hpp"
#include "support.hpp"

using namespace quern;
using quern::testing::AttentionCase;

namespace {

/// What a case is, in words.
class Features {
 public:
  void add(const AttentionCase& c) {
    const AlignedBuffer memory = c.out_memory();
    const AttentionArgs args = c.args(memory.data(), c.size());
    add_problem(c.problem());
    add_call(c.problem(), args);
    saw(c.queries(c.size()) == 0, "no queries");
    saw(c.queries(c.size()) == 1, "one query");
    saw(c.keys(c.size()) == 0, "no keys");
    saw(c.keys(c.size()) == 1, "one key");
    saw(c.keys(c.size()) > 200, "hundreds of keys");
    saw(c.keys(c.size()) > 1000, "a thousand keys");
    saw(args.batch() == 0, "no sequences");
    saw(args.batch() > 1, "several sequences");
    reference_attention(c.problem(), args);
    for (Index b = 0; b < args.batch(); ++b) {
      for (Index i = 0; i < args.q_tokens(b) && c.problem().lse; ++i) {
        const TokenMap::Place at = args.q_map().place(args.q, b, i);
        saw(args.lse.at(at.batch, 0, at.token) == -HUGE_VALF, "rows that see nothing");
        saw(std::isnan(args.lse.at(at.batch, 0, at.token)), "NaN rows");
      }
    }
    for (const char* values : {"plain", "large", "wide", "equal", "few", "halves", "subnormal",
                               "huge", "NaNs", "zero", "sparse", "rows", "lowest", "mixed"}) {
      saw(c.describe().find(std::string("(") + values + ")") != std::string::npos, values);
    }
  }

  /// How many cases had it.
  Index operator[](const std::string& feature) const {
    const auto found = count_.find(feature);
    return found == count_.end() ? 0 : found->second;
  }

 private:
  void saw(bool it, const std::string& feature) { count_[feature] += it; }

  void add_problem(const AttentionProblem& p) {
    const bool int8 = p.arithmetic == AttentionArithmetic::int8;
    const std::string form = int8 ? "int8 " : "";
    saw(true, std::string("q ") + name(p.q));
    saw(true, form + "k " + name(p.k));
    saw(true, form + "v " + name(p.v));
    saw(true, std::string("to ") + name(p.out));
    saw(true, form + "k scales " + name(p.k_scales));
    saw(true, form + "v scales " + name(p.v_scales));
    saw(p.k != p.v, "k and v of different types");
    saw(int8, "int8");
    saw(p.smooth_k, "smooth");
    saw(p.group() == 1 && p.q_heads > 1, "MHA");
    saw(p.group() > 1 && p.kv_heads > 1, "GQA");
    saw(p.q_heads > 1 && p.kv_heads == 1, "MQA");
    saw(p.qk_size != p.v_size, "unequal sizes");
    saw(p.qk_size % 16 != 0, "odd sizes");
    saw(p.softcap > 0.0f, form + "softcap");
    saw(p.window.left < 0 && p.window.right == 0, "causal");
    saw(p.window.left >= 0 && p.window.right == 0, "causal window");
    saw(p.window.left >= 0 && p.window.right > 0, "window");
    saw(true, std::string("alignment ") + std::to_string(int(p.alignment)));
    saw(true, std::string("mask ") + name(p.mask));
    saw(p.alibi, form + "alibi");
    saw(p.sinks, form + "sinks");
    saw(p.lse, form + "lse");
    saw(true, "scores " + std::to_string(int(p.scores)));
  }

  void add_call(const AttentionProblem& p, const AttentionArgs& args) {
    const ConstHeadsView& q = args.q;
    saw(!args.q_offsets.empty(), "ragged q");
    saw(!args.kv_offsets.empty(), "ragged k");
    saw(!args.q_offsets.empty() && !args.kv_offsets.empty(), "all ragged");
    saw(!args.kv_lengths.empty(), "lengths");
    if (args.pages.data != nullptr) saw(true, std::string("pages of ") + name(p.k));
    saw(q.head_stride == q.size && q.heads > 1, "q by tokens");
    saw(q.token_stride == q.size && q.heads > 1 && q.tokens > 1, "q by heads");
    saw(args.k.batch > 1 && args.k.batch_stride == 0, "shared keys");
    saw(args.v.data > args.k.data && args.k.head_stride == args.v.head_stride &&
            static_cast<const std::byte*>(args.v.data) -
                    static_cast<const std::byte*>(args.k.data) ==
                args.k.heads * args.k.head_stride * bits_of(p.k) / 8,
        "k and v in one buffer");
    const MaskView& m = args.mask;
    if (m.type == MaskType::none) return;
    saw(m.batch == 1 && args.batch() > 1, "a mask for all sequences");
    saw(m.heads == 1 && p.q_heads > 1, "a mask for all heads");
    saw(m.heads > 1, "a mask for each head");
    saw(m.rows == 1 && q.tokens > 1, "a mask for all rows");
    saw(m.cols < args.k.tokens, "a short mask");
    saw(m.col_stride > 1, "a transposed mask");
  }

  std::map<std::string, Index> count_;
};

}  // namespace

TEST_CASE("attention: every case is valid, whole and in part") {
  for (Index seed = 0; seed < support::scaled(2000); ++seed) {
    const AttentionCase c{static_cast<std::uint64_t>(seed)};
    const AttentionProblem& p = c.problem();
    const AlignedBuffer memory = c.out_memory();
    const Error problem = validate(p);
    CHECK_MESSAGE(!problem, c.describe() << ": " << problem);
    const Index batch = c.size().batch;
    for (const Index sequences : {batch, batch / 2, Index{0}}) {
      for (const bool half_queries : {false, true}) {
        for (const bool half_keys : {false, true}) {
          const AttentionCase::Size size{sequences, half_queries, half_keys};
          const AttentionArgs args = c.args(memory.data(), size);
          const Error call = validate(p, args);
          CHECK_MESSAGE(!call, c.describe() << ": " << call);
          if (call) continue;
          const Error values = validate_values(p, args);
          CHECK_MESSAGE(!values, c.describe() << ": " << values);
        }
      }
    }
  }
}

TEST_CASE("attention: a seed makes the same case every time") {
  for (const std::uint64_t seed : {1u, 2u, 77u}) {
    const AttentionCase a(seed), b(seed);
    CHECK(a.describe() == b.describe());
    CHECK(a.out_memory().size() == b.out_memory().size());
    const auto x = a.input_memory(), y = b.input_memory();
    for (std::size_t i = 0; i < x.size(); ++i) {
      REQUIRE(x[i].size() == y[i].size());
      CHECK((x[i].empty() || std::memcmp(x[i].data(), y[i].data(), x[i].size()) == 0));
    }
  }
}

TEST_CASE("attention: all types, masks, layouts and lengths turn up") {
  Features seen;
  for (std::uint64_t seed = 0; seed < 2000; ++seed) seen.add(AttentionCase(seed));
  const auto at_least = [&](Index count, std::initializer_list<const char*> features) {
    for (const char* feature : features) {
      CHECK_MESSAGE(seen[feature] >= count, std::string(feature) << ": " << seen[feature]);
    }
  };
  at_least(100, {"q f32",
                 "q bf16",
                 "q f16",
                 "to f32",
                 "to bf16",
                 "to f16",
                 "k f32",
                 "k s8",
                 "int8",
                 "MHA",
                 "GQA",
                 "MQA",
                 "unequal sizes",
                 "odd sizes",
                 "softcap",
                 "causal",
                 "causal window",
                 "window",
                 "alignment 0",
                 "alignment 1",
                 "alignment 2",
                 "mask boolean",
                 "alibi",
                 "sinks",
                 "lse",
                 "ragged q",
                 "ragged k",
                 "lengths",
                 "one query",
                 "several sequences",
                 "hundreds of keys",
                 "q by tokens",
                 "q by heads",
                 "k and v in one buffer",
                 "k and v of different types"});
  at_least(20, {"k s4",
                "k bf16",
                "k f16",
                "int8 k f32",
                "int8 k s8",
                "int8 k s4",
                "int8 v s8",
                "int8 v s4",
                "int8 v bf16",
                "k scales per token",
                "k scales per channel",
                "v scales per token",
                "v scales per channel",
                "int8 k scales per token",
                "int8 k scales per channel",
                "int8 v scales per token",
                "int8 v scales per channel",
                "smooth",
                "int8 softcap",
                "int8 alibi",
                "int8 sinks",
                "int8 lse",
                "mask f32",
                "mask bf16",
                "mask f16",
                "a mask for all sequences",
                "a mask for all heads",
                "a mask for each head",
                "a mask for all rows",
                "a short mask",
                "a transposed mask",
                "scores 1",
                "scores 2",
                "scores 3",
                "scores 4",
                "all ragged",
                "pages of f32",
                "pages of bf16",
                "pages of f16",
                "pages of s8",
                "pages of s4",
                "shared keys",
                "no queries",
                "no keys",
                "one key",
                "a thousand keys",
                "no sequences",
                "rows that see nothing",
                "NaN rows",
                "plain",
                "large",
                "wide",
                "equal",
                "few",
                "halves",
                "subnormal",
                "huge",
                "NaNs",
                "zero",
                "sparse",
                "rows",
                "lowest",
                "mixed"});
}
