// The toy backend's appends to KV caches, likewise with faults.
#pragma once

#include "quern/ops/kv_cache_reference.hpp"
#include "toy_backend.hpp"

namespace toy {

class KvAppend {
 public:
  KvAppend(Fault fault, const KvAppendProblem& problem) : fault_(fault), problem_(problem) {}
  const KvAppendProblem& problem() const { return problem_; }
  const char* kernel() const { return "toy"; }

  Error run(KvAppendArgs args, std::span<std::byte> workspace,
            Parallel parallel = {}) const noexcept {
    auto* const cache = static_cast<std::byte*>(args.k_cache.data);
    if (Error e = validate(problem_, args)) {
      if (fault_ == Fault::writes_then_refuses) flip(cache);
      return e;
    }
    if (Error e = validate_values(problem_, args)) return e;
    if (fault_ == Fault::forgets_lengths) args.lengths = {};
    reference_append(problem_, args);
    const auto* const input = static_cast<const std::byte*>(args.k.data);
    misbehave(fault_, {cache, cache, nullptr, const_cast<std::byte*>(input)}, workspace,
              parallel.concurrency(), 0);
    return {};
  }

 private:
  Fault fault_;
  KvAppendProblem problem_;
};

inline Error supports(const Backend& backend, const KvAppendProblem& p) {
  return backend.fault == Fault::ignores_validate ? Error() : validate(p);
}

inline Result<KvAppend> prepare(const Backend& backend, const KvAppendProblem& p) {
  if (Error e = supports(backend, p)) return e;
  return KvAppend(backend.fault, p);
}

}  // namespace toy
