// The conformance suite for appending to KV caches; see conformance.hpp.
#pragma once

#include <string>
#include <vector>

#include "quern/ops/kv_cache_reference.hpp"
#include "quern/testing/kv_append_problems.hpp"
#include "quern/testing/weightless.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

/// A backend that offers appending to KV caches:
///
///   Error supports(const B&, const KvAppendProblem&);
///   Result<Op> prepare(const B&, const KvAppendProblem&);
///
/// An append needs no workspace.
template <class B>
concept KvAppendBackend = Backend<B> && requires(const B& backend, const KvAppendProblem& problem) {
  { supports(backend, problem) } -> std::same_as<Error>;
  { prepare(backend, problem).error() } -> std::same_as<Error>;
  requires PreparedOperation<std::remove_cvref_t<decltype(*prepare(backend, problem))>,
                             KvAppendProblem, KvAppendArgs>;
};

namespace detail {

/// A KvAppendCase whose results are called c.
class SuiteKvAppendCase : public KvAppendCase {
 public:
  using KvAppendCase::KvAppendCase;

  struct Problem : KvAppendProblem {
    static constexpr DType b = DType::s8;  // every bit is defined
  };
  struct Call : KvAppendArgs {
    std::byte* c = nullptr;
  };
  Problem problem() const { return {KvAppendCase::problem()}; }
  NoWeights weights() const { return {}; }
  template <class F>
  static void visit(Call& call, F&& f) {
    visit_inputs(call, f);
  }
  void forget() {}  // the problem points to nothing
  AlignedBuffer c_memory() const { return out_memory(); }
  Call args(std::byte* c, const Size& size) const { return {KvAppendCase::args(c, size), c}; }
};

template <class Op>
struct SuiteKvAppend {
  Op op;

  std::size_t workspace_bytes(Index, Index = 1) const { return 0; }
  std::string kernel() const { return op.kernel(); }
  Error run(const KvAppendArgs& args, std::span<std::byte> workspace,
            Parallel executor = {}) const noexcept {
    return op.run(args, workspace, executor);
  }
};

struct KvAppendOperation {
  using Case = SuiteKvAppendCase;
  using Size = KvAppendCase::Size;
  using Call = SuiteKvAppendCase::Call;

  static std::vector<Size> sizes(const Case& c) {
    const Index batch = c.size().batch;
    std::vector<Size> all{{batch}, {batch, true}};
    if (batch > 0) all.push_back({0});
    if (batch > 1) all.push_back({batch - 1, true});
    return all;
  }
  static Index count(const Case&, const Size& size) { return size.batch; }
  static std::string text(const Size& size) {
    return std::to_string(size.batch) + " sequences" + (size.half ? " of half the tokens" : "");
  }

  static void reference(const Case& c, const Call& args) { reference_append(c.problem(), args); }
  static std::string difference(const Case& c, const Call&, const Call&,
                                const AlignedBuffer& expected, AlignedBuffer& actual,
                                bool /*exact*/) {
    for (std::size_t i = 0; i < actual.size(); ++i) {
      if (expected.data()[i] == actual.data()[i]) continue;
      return std::string(c.at(static_cast<Index>(i))) + ": byte " + std::to_string(i) + " of " +
             std::to_string(actual.size()) + " is " + std::to_string(int(actual.data()[i])) +
             " but must be " + std::to_string(int(expected.data()[i]));
    }
    return {};
  }

  static std::vector<Refused<Call>> bad_calls(const Call& good) {
    std::vector<Refused<Call>> calls;
    Call wide = good, null = good, few = good;
    wide.k.size += 1;
    wide.k.tokens = wide.v.tokens = 0;  // so that it would not be read
    calls.push_back({"a channel too many in k", wide, Code::bad_shape});
    if (good.k_cache.data != nullptr && good.k_cache.size != 0) {
      null.k_cache.data = nullptr;
      calls.push_back({"null k_cache", null, Code::bad_data});
    }
    if (good.lengths.size() > 1) {  // none at all would mean that the cache is empty
      few.lengths = few.lengths.first(few.lengths.size() - 1);
      calls.push_back({"a length too few", few, Code::bad_shape});
    }
    return calls;
  }
  static std::vector<Refused<KvAppendProblem>> bad_problems(const Case& c) {
    KvAppendProblem negative = c.problem(), unscaled = negative, odd = negative;
    negative.k_size = -1;
    unscaled.v = HeadType::s8;
    unscaled.v_scales = HeadScales::none;
    odd.rope.rotary = 1;
    return {{"k_size = -1", negative, Code::bad_shape},
            {"s8 without scales", unscaled, Code::unsupported},
            {"an odd number of elements to rotate", odd, Code::bad_shape}};
  }
  static std::vector<Refused<NoWeights>> bad_weights(const Case&) { return {}; }
};

}  // namespace detail

/// As conformance_gemm(), for appending to KV caches: every bit of the caches' memory.
template <KvAppendBackend B>
Report conformance_kv_append(const B& backend, const ConformanceOptions& options = {}) {
  using Weightless = detail::Weightless<B, KvAppendProblem, detail::SuiteKvAppend>;
  const Weightless weightless{backend};  // the suite keeps a reference
  return detail::Conformance<Weightless, detail::KvAppendOperation>(weightless, options).run();
}

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
