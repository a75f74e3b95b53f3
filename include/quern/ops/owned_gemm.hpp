// A GemmProblem that owns the arrays it points to, for backends that keep problems: what prepare()
// is given may go away afterwards.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "quern/ops/gemm.hpp"

namespace quern {
inline namespace QUERN_ABI {

/// Immutable; copies share the arrays.
class OwnedGemmProblem {
 public:
  /// Of a problem that validate() accepts.
  explicit OwnedGemmProblem(const GemmProblem& p) : problem_(p) {
    auto arrays = std::make_shared<Arrays>();
    arrays->zero_points.assign(p.b_zero_points.begin(), p.b_zero_points.end());
    problem_.b_zero_points = arrays->zero_points;
    for (Index i = 0; i < p.epilogue.count; ++i) {
      Step& s = problem_.epilogue.steps[i];
      if (!s.has_values() || s.count == 0) continue;
      std::vector<std::uint32_t>& words = arrays->values[i];  // s32 or f32: 4 bytes each
      words.resize(static_cast<std::size_t>(s.count));
      std::memcpy(words.data(), s.data, words.size() * 4);
      s.data = words.data();
    }
    arrays_ = std::move(arrays);
  }

  const GemmProblem& operator*() const { return problem_; }
  const GemmProblem* operator->() const { return &problem_; }

 private:
  struct Arrays {
    std::vector<std::int32_t> zero_points;
    std::vector<std::uint32_t> values[Epilogue::kMaxSteps];
  };
  GemmProblem problem_;
  std::shared_ptr<const Arrays> arrays_;
};

}  // namespace QUERN_ABI
}  // namespace quern
