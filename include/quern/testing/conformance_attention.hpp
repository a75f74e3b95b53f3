// The conformance suite for attention; see conformance.hpp.
#pragma once

#include <array>
#include <concepts>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "quern/ops/attention_reference.hpp"
#include "quern/testing/attention_compare.hpp"
#include "quern/testing/attention_problems.hpp"
#include "quern/testing/weightless.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

namespace detail {

/// An AttentionCase whose results are called c.
class SuiteAttentionCase : public AttentionCase {
 public:
  using AttentionCase::AttentionCase;

  struct Problem : AttentionProblem {
    static constexpr DType b = DType::s8;  // difference() knows what has to be exact
  };
  struct Call : AttentionArgs {
    std::byte* c = nullptr;
    Size size{};
  };
  Problem problem() const { return {AttentionCase::problem()}; }
  NoWeights weights() const { return {}; }
  template <class F>
  static void visit(Call& call, F&& f) {
    visit_inputs(call, f);
  }
  void forget() {}  // the problem points to nothing
  AlignedBuffer c_memory() const { return out_memory(); }
  Call args(std::byte* c, const Size& size) const {
    return {AttentionCase::args(c, size), c, size};
  }

  /// Empty if a call's results are the same bits as those of the first call of this size, whatever
  /// the executor was.
  std::string unlike_the_first(const Call& call, const AlignedBuffer& memory) const {
    for (const auto& [size, first] : firsts_) {
      if (size != call.size) continue;
      AlignedBuffer now = copied(memory);
      return difference(problem(), AttentionCase::args(first.data(), size),
                        AttentionCase::args(now.data(), size), first, now, true);
    }
    firsts_.emplace_back(call.size, copied(memory));
    return {};
  }

 private:
  mutable std::vector<std::pair<Size, AlignedBuffer>> firsts_;
};

/// Both counts of its workspace at once.
struct AttentionCount {
  Index queries, keys;
};

template <class Op>
struct SuiteAttention {
  Op op;

  std::size_t workspace_bytes(const AttentionCount& count, Index workers = 1) const {
    return static_cast<std::size_t>(op.workspace_bytes(count.queries, count.keys, workers));
  }
  std::string kernel() const { return op.kernel(); }
  Error run(const AttentionArgs& args, std::span<std::byte> workspace,
            Parallel executor = {}) const noexcept {
    return op.run(args, workspace, executor);
  }
};

/// Numbers that lead astray, for as many sequences as a case has.
inline constexpr std::array<std::int32_t, 8> kTooLarge = [] {
  std::array<std::int32_t, 8> all{};
  all.fill(std::numeric_limits<std::int32_t>::max());
  return all;
}();

/// `reads`: the backend's memory is the program's, so it must look at numbers too.
template <bool reads>
struct AttentionOperation {
  using Case = SuiteAttentionCase;
  using Size = AttentionCase::Size;
  using Call = SuiteAttentionCase::Call;

  /// Fewer sequences, queries and keys.
  static std::vector<Size> sizes(const Case& c) {
    const Index batch = c.size().batch;
    std::vector<Size> all{{batch}, {batch, true, false}, {batch, false, true}};
    if (batch > 0) all.push_back({0});
    if (batch > 1) all.push_back({batch - 1, true, true});
    return all;
  }
  static AttentionCount count(const Case& c, const Size& size) {
    return {c.queries(size), c.keys(size)};
  }
  static std::string text(const Size& size) {
    return std::to_string(size.batch) + " sequences" + (size.half_queries ? " of half q" : "") +
           (size.half_keys ? " of half k" : "");
  }

  static void reference(const Case& c, const Call& args) { reference_attention(c.problem(), args); }
  static std::string difference(const Case& c, const Call& args, const Call& actual,
                                const AlignedBuffer& expected_memory, AlignedBuffer& actual_memory,
                                bool /*exact*/) {
    const std::string other = c.unlike_the_first(actual, actual_memory);
    const std::string wrong = testing::difference(c.problem(), c.args(args.c, args.size), actual,
                                                  expected_memory, actual_memory);
    return wrong.empty() && !other.empty() ? "not as in the first run: " + other : wrong;
  }

  static std::vector<Refused<Call>> bad_calls(const Call& good) {
    std::vector<Refused<Call>> calls;
    const auto add = [&](const char* what, Code code, auto&& change) {
      calls.push_back({what, good, code});
      change(calls.back().value);
    };
    add("a channel too many in q", Code::bad_shape, [](Call& x) {
      x.q.size += 1;
      x.q.tokens = x.out.tokens = 0;  // so that it would not be read
    });
    if (good.k.data != nullptr) {
      add("a key that is no value", Code::bad_shape, [](Call& x) { x.k.tokens += 1; });
    }
    add("a mask of another type", Code::unsupported, [](Call& x) {
      x.mask.type = x.mask.type == MaskType::f16 ? MaskType::bf16 : MaskType::f16;
    });
    if (good.kv_lengths.size() > 1) {  // none at all would mean that all keys are in use
      add("a length too few", Code::bad_shape,
          [](Call& x) { x.kv_lengths = x.kv_lengths.first(x.kv_lengths.size() - 1); });
    }
    if (!good.starts.empty()) add("no starts", Code::bad_shape, [](Call& x) { x.starts = {}; });
    if (!good.alibi.empty()) add("no slopes", Code::bad_shape, [](Call& x) { x.alibi = {}; });
    if (!good.sinks.empty()) add("no sinks", Code::bad_shape, [](Call& x) { x.sinks = {}; });
    if (good.k.data != nullptr && good.k_scales.data != nullptr) {
      add("null k_scales", Code::bad_data, [](Call& x) { x.k_scales.data = nullptr; });
    }
    if (good.v.data != nullptr && good.v_scales.data != nullptr) {
      add("null v_scales", Code::bad_data, [](Call& x) { x.v_scales.data = nullptr; });
    }
    if (good.q.data != nullptr && good.q.batch * good.q.tokens != 0) {
      add("null out", Code::bad_data, [](Call& x) { x.out.data = nullptr; });
      add("q in the place of out", Code::bad_data, [](Call& x) { x.q.data = x.out.data; });
      if (good.lse.data != nullptr) {
        add("null lse", Code::bad_data, [](Call& x) { x.lse.data = nullptr; });
      }
    }
    if constexpr (reads) add_numbers(good, add);
    return calls;
  }
  template <class Add>
  static void add_numbers(const Call& good, Add&& add) {
    if (!good.kv_lengths.empty()) {
      add("more keys than there is room for", Code::bad_value,
          [](Call& x) { x.kv_lengths = std::span(kTooLarge).first(x.kv_lengths.size()); });
    }
    if (good.pages.data != nullptr && good.pages.rows > 0 && good.kv_tokens(0) > 0) {
      add("a page that is none", Code::bad_value, [](Call& x) {
        x.pages = {kTooLarge.data(), x.pages.rows, x.pages.cols, 0, 0};
      });
    }
    if (!good.q_offsets.empty()) {
      add("offsets beyond q", Code::bad_value,
          [](Call& x) { x.q_offsets = std::span(kTooLarge).first(x.q_offsets.size()); });
    }
    if (!good.kv_offsets.empty()) {
      add("offsets beyond k", Code::bad_value,
          [](Call& x) { x.kv_offsets = std::span(kTooLarge).first(x.kv_offsets.size()); });
    }
  }

  static std::vector<Refused<AttentionProblem>> bad_problems(const Case& c) {
    AttentionProblem flat = c.problem(), shared = flat, unscaled = flat, negative = flat;
    flat.qk_size = 0;
    shared.kv_heads = shared.q_heads + 1;
    unscaled.k = HeadType::s8;
    unscaled.k_scales = HeadScales::none;
    negative.softcap = -1.0f;
    return {{"qk_size = 0", flat, Code::bad_shape},
            {"more KV heads than query heads", shared, Code::bad_shape},
            {"s8 without scales", unscaled, Code::unsupported},
            {"softcap = -1", negative, Code::bad_value}};
  }
  static std::vector<Refused<NoWeights>> bad_weights(const Case&) { return {}; }
};

}  // namespace detail

/// As conformance_gemm(), for attention: results in float arithmetic within attention_tolerance(),
/// in int8 arithmetic bit for bit, whatever the executor; and one prepared operation is run with
/// other numbers of sequences, queries and keys. exact_floats means nothing here.
template <AttentionBackend B>
Report conformance_attention(const B& backend, const ConformanceOptions& options = {}) {
  constexpr bool reads = std::same_as<typename B::Buffer, AlignedBuffer>;
  using Weightless = detail::Weightless<B, AttentionProblem, detail::SuiteAttention>;
  const Weightless weightless{backend};  // the suite keeps a reference
  return detail::Conformance<Weightless, detail::AttentionOperation<reads>>(weightless, options)
      .run();
}

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
