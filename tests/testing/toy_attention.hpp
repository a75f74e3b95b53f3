// The toy backend's attention, likewise with faults.
#pragma once

#include <cmath>
#include <memory>

#include "quern/ops/attention_reference.hpp"
#include "toy_backend.hpp"

namespace toy {

class Attention {
 public:
  Attention(Fault fault, const AttentionProblem& problem) : fault_(fault), problem_(problem) {}

  Index workspace_bytes(Index queries, Index keys, Index workers = 1) const {
    return 8 + queries + keys + workers;
  }
  const AttentionProblem& problem() const { return problem_; }
  const char* kernel() const { return "toy"; }

  Error run(const AttentionArgs& args, std::span<std::byte> workspace,
            Parallel parallel = {}) const noexcept {
    if (fault_ == Fault::writes_then_refuses && args.out.data != nullptr) flip(places(args).last);
    if (Error e = validate(problem_, args)) return e;
    if (Error e = validate_values(problem_, args)) {
      if (fault_ != Fault::trusts_numbers) return e;
      if (args.out.data != nullptr) flip(static_cast<std::byte*>(args.out.data));
      return {};
    }
    Index queries = 0, keys = 0;
    for (Index b = 0; b < args.batch(); ++b) {
      queries += args.q_tokens(b);
      keys = std::max(keys, args.kv_tokens(b));
    }
    const Index needed = workspace_bytes(queries, keys, parallel.concurrency());
    if (fault_ != Fault::accepts_any_workspace && std::ssize(workspace) < needed) {
      return Error::make(Code::no_workspace,
                         "attention: the workspace has %lld bytes, %lld are needed",
                         static_cast<long long>(workspace.size()), static_cast<long long>(needed));
    }
    std::memset(workspace.data(), 0, static_cast<std::size_t>(needed));
    std::atomic<Index> last{-1};
    parallel(2, [&](Index index, Index) {
      if (index == 0) compute(args);
      last = index;
    });
    const Places at = places(args);
    for_results(args, [&](float& x, bool lse) { spoil(x, lse, parallel.concurrency()); });
    if (fault_ == Fault::remembers_extent) {
      if (*first_ < 0) *first_ = keys;
      if (*first_ != keys) flip(at.last);
    }
    misbehave(fault_, at, workspace, parallel.concurrency(), last);
    return {};
  }

 private:
  void compute(AttentionArgs args) const {
    AttentionProblem p = problem_;
    if (fault_ == Fault::forgets_window) p.window = {};
    if (fault_ == Fault::forgets_sinks) p.sinks = false;
    if (fault_ == Fault::forgets_lengths && args.pages.data == nullptr) args.kv_lengths = {};
    reference_attention(p, args);
  }

  /// visit(x, is it of lse) for f32 results.
  template <class Visit>
  void for_results(const AttentionArgs& args, Visit&& visit) const {
    for (Index b = 0; b < args.batch(); ++b) {
      for (Index i = 0; i < args.q_tokens(b); ++i) {
        const TokenMap::Place at = args.q_map().place(args.q, b, i);
        for (Index h = 0; h < problem_.q_heads; ++h) {
          if (problem_.lse) visit(args.lse.at(at.batch, h, at.token), true);
          for (Index d = 0; d < problem_.v_size && problem_.out == HeadType::f32; ++d) {
            visit(*reinterpret_cast<float*>(place(args.out, at.batch, h, at.token, d)), false);
          }
        }
      }
    }
  }
  void spoil(float& x, bool lse, Index workers) const {
    if (fault_ == Fault::blind_is_nan && !lse && x == 0.0f) x = NAN;
    if (fault_ == Fault::coarse && !lse) x = to_float(to_bf16(x));
    const bool floats = problem_.arithmetic == AttentionArithmetic::floats;
    if (fault_ == Fault::a_bit_off && floats && workers > 1) x = std::nextafter(x, 0.0f);
    if (fault_ == Fault::wrong_lse && lse) x += std::fabs(x) * 0.01f + 0.01f;
  }

  template <class Void>
  static std::byte* place(const AnyHeads<Void>& x, Index b, Index h, Index t, Index d) {
    const Index at = b * x.batch_stride + h * x.head_stride + t * x.token_stride + d;
    return static_cast<std::byte*>(const_cast<void*>(static_cast<const void*>(x.data))) +
           at * bits_of(x.type) / 8;
  }
  static Places places(const AttentionArgs& args) {
    const HeadsView& o = args.out;
    if (o.batch * o.tokens == 0 || args.q.data == nullptr) return {};
    Places at{.first = place(o, 0, 0, 0, 0), .input = place(args.q, 0, 0, 0, 0)};
    Index last = -1;  // a sequence with queries
    for (Index b = 0; b < args.batch(); ++b) last = args.q_tokens(b) > 0 ? b : last;
    if (last < 0) return {};
    const TokenMap::Place row = args.q_map().place(args.q, last, args.q_tokens(last) - 1);
    at.last = place(o, row.batch, o.heads - 1, row.token, o.size - 1);
    const Index next = std::min({o.batch > 1 ? o.batch_stride : o.size + 1,
                                 o.heads > 1 ? o.head_stride : o.size + 1,
                                 o.tokens > 1 ? o.token_stride : o.size + 1});
    if (next > o.size && o.batch * o.heads * o.tokens > 1) at.gap = place(o, 0, 0, 0, o.size);
    return at;
  }

  Fault fault_;
  AttentionProblem problem_;
  std::shared_ptr<Index> first_ = std::make_shared<Index>(-1);
};

inline Error supports(const Backend& backend, const AttentionProblem& p) {
  return supports_any(backend, p);
}

inline Result<Attention> prepare(const Backend& backend, const AttentionProblem& p) {
  if (Error e = check(backend, p)) return e;
  return Attention(backend.fault, p);
}

}  // namespace toy
