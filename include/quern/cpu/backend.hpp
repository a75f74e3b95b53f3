// The CPU as a backend: a value that names the instruction set to use.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "quern/backend.hpp"
#include "quern/cpu/all_kernels.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// Cheap to copy; the default is the best this CPU can run. Its memory is the program's.
class Backend : public HostMemory {
 public:
  Backend() : kernels_(&kernels_for(runnable_targets(), true)) {}

  /// Every choice this program and CPU have, best first. A target whose kernels use dot-product
  /// instructions here counts twice, with them and without.
  static std::vector<Backend> all() {
    std::vector<Backend> backends;
    for (std::int64_t left = runnable_targets(); left != 0; left &= left - 1) {
      const std::int64_t target = left & -left;
      const Backend with(&kernels_for(target, true)), without(&kernels_for(target, false));
      if (with.has_dot()) backends.push_back(with);
      backends.push_back(without);
    }
    return backends;
  }

  /// By the name that name() returns, in any case: "AVX2", "avx3+dot", "sse4".
  static Result<Backend> named(std::string_view name) {
    const auto lower = [](char c) {
      return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    };
    std::string known;
    for (const Backend& b : all()) {
      const std::string candidate = b.name();
      bool same = candidate.size() == name.size();
      for (std::size_t i = 0; same && i < name.size(); ++i)
        same = lower(candidate[i]) == lower(name[i]);
      if (same) return b;
      known += " " + candidate;
    }
    return Error::make(Code::unsupported, "cpu: no target named \"%.*s\" runs here; these do:%s",
                       static_cast<int>(name.size()), name.data(), known.c_str());
  }

  std::string name() const { return std::string(kernels_->target) + (has_dot() ? "+dot" : ""); }
  const Kernels& kernels() const { return *kernels_; }

 private:
  explicit Backend(const Kernels* kernels) : kernels_(kernels) {}
  bool has_dot() const { return kernels_->quads.name != nullptr; }

  const Kernels* kernels_;
};

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
