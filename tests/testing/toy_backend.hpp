// The smallest backend there can be: it runs the reference. It shows what a backend must provide,
// and with a Fault it shows what the conformance suite sees.
#pragma once

#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

#include "quern/core/executor.hpp"
#include "quern/core/memory.hpp"
#include "quern/ops/gemm_reference.hpp"

namespace toy {

using namespace quern;

enum class Fault {
  none,
  off_by_one,     ///< the last bit of the last element is wrong
  saturates,      ///< sums stop at 2^15 - 1 on the way, like the usual u8 x s8 instruction
  writes_a_gap,   ///< the byte after a row's end
  writes_before,  ///< the byte before C
  overruns_workspace,
  depends_on_threads,
  depends_on_order,  ///< which index comes last changes the result
  allocates,
  needs_all_rows,       ///< wrong for an odd number of rows
  writes_then_refuses,  ///< touches C before it looks at the arguments
  accepts_any_workspace,
  forgets_weights,  ///< stored weights lose their last byte
  packs_at_random,  ///< packing twice gives different bytes
};

struct Backend {
  Fault fault = Fault::none;
};

/// The weights as a dense row-major matrix.
struct PackedWeights {
  std::vector<std::byte> data;
  std::span<const std::byte> bytes() const { return data; }
  static Result<PackedWeights> from_bytes(std::span<const std::byte> bytes) {
    return PackedWeights{{bytes.begin(), bytes.end()}};
  }
};

class Gemm {
 public:
  Gemm(Fault fault, const GemmProblem& problem, PackedWeights weights)
      : fault_(fault), problem_(problem), weights_(std::move(weights)) {
    zeros_.assign(problem.b_zero_points.begin(), problem.b_zero_points.end());
    problem_.b_zero_points = zeros_;
    for (Index i = 0; i < problem_.epilogue.count; ++i) {
      Step& s = problem_.epilogue.steps[i];
      if (s.data == nullptr) continue;
      const auto* words = static_cast<const std::uint32_t*>(s.data);
      arrays_.emplace_back(words, words + s.count);
      s.data = arrays_.back().data();
    }
  }

  Index workspace_bytes(Index m, Index workers = 1) const { return 8 + m + workers; }
  const char* kernel() const { return "toy"; }

  Error run(const GemmArgs& args, std::span<std::byte> workspace,
            Parallel parallel = {}) const noexcept {
    if (fault_ == Fault::writes_then_refuses && args.c.data != nullptr) flip(args, 0);
    if (Error e = validate(problem_, args)) return e;
    const Index needed = workspace_bytes(args.a.rows, parallel.concurrency());
    if (fault_ != Fault::accepts_any_workspace && std::ssize(workspace) < needed) {
      return Error::make(Code::no_workspace, "gemm: the workspace has %lld bytes, %lld are needed",
                         static_cast<long long>(workspace.size()), static_cast<long long>(needed));
    }
    if (needed > 0) std::memset(workspace.data(), 0, static_cast<std::size_t>(needed));
    const ConstMatrixView b(weights_.data.data(), problem_.b, problem_.k, problem_.n, problem_.n, 1,
                            problem_.batch);
    std::atomic<Index> last{-1};
    parallel(2, [&](Index index, Index) {
      if (index == 0) reference_gemm(problem_, b, args);
      last = index;
    });
    misbehave(args, workspace.data() + workspace.size(), parallel, last);
    return {};
  }

 private:
  /// Flips a bit of the byte that lies `ahead` bytes from the last element's first.
  void flip(const GemmArgs& args, Index ahead) const {
    const MatrixView& c = args.c;
    if (c.rows * c.cols * c.batch == 0) return;
    std::byte* last = element(c, c.batch - 1, c.rows - 1, c.cols - 1) + ahead;
    *last ^= std::byte{1};
  }

  void misbehave(const GemmArgs& args, std::byte* workspace_end, const Parallel& parallel,
                 Index last) const {
    const MatrixView& c = args.c;
    const bool empty = c.rows * c.cols * c.batch == 0;
    switch (fault_) {
      case Fault::off_by_one:
        flip(args, 0);
        break;
      case Fault::saturates:
        for (Index i = 0; problem_.c == DType::s32 && !empty && i < c.cols; ++i) {
          auto* sum = reinterpret_cast<std::int32_t*>(element(c, 0, 0, i));
          if (*sum > 32767) *sum = 32767;
        }
        break;
      case Fault::writes_a_gap:
        if (!empty && c.rows > 1 && c.row_stride > c.cols)
          *element(c, 0, 0, c.cols) ^= std::byte{1};
        break;
      case Fault::writes_before:
        if (!empty) static_cast<std::byte*>(c.data)[-1] ^= std::byte{1};
        break;
      case Fault::overruns_workspace:
        *workspace_end = std::byte{0};
        break;
      case Fault::depends_on_threads:
        if (parallel.concurrency() == 7) flip(args, 0);
        break;
      case Fault::depends_on_order:
        if (last == 0) flip(args, 0);
        break;
      case Fault::allocates:
        delete new volatile int(0);
        break;
      case Fault::needs_all_rows:
        if (c.rows % 2 == 1) flip(args, 0);
        break;
      default:
        break;
    }
  }

  Fault fault_;
  GemmProblem problem_;
  PackedWeights weights_;
  std::vector<std::int32_t> zeros_;
  std::vector<std::vector<std::uint32_t>> arrays_;  // the bits of scales and biases
};

inline Result<PackedWeights> pack(const Backend& backend, const GemmProblem& p,
                                  const ConstMatrixView& b) {
  if (Error e = validate(p, b)) return e;
  PackedWeights packed;
  const Index size = size_of(p.b);
  for (Index w = 0; w < p.batch; ++w) {
    for (Index k = 0; k < p.k; ++k) {
      for (Index j = 0; j < p.n; ++j) {
        packed.data.insert(packed.data.end(), element(b, w, k, j), element(b, w, k, j) + size);
      }
    }
  }
  static std::uint8_t packings = 0;
  if (backend.fault == Fault::packs_at_random) packed.data.push_back(std::byte{++packings});
  return packed;
}

inline Result<Gemm> prepare(const Backend& backend, const GemmProblem& p, PackedWeights packed) {
  if (Error e = validate(p)) return e;
  if (backend.fault == Fault::forgets_weights && !packed.data.empty())
    packed.data.back() ^= std::byte{1};
  return Gemm(backend.fault, p, std::move(packed));
}

inline Result<Gemm> prepare(const Backend& backend, const GemmProblem& p,
                            const ConstMatrixView& b) {
  auto packed = pack(backend, p, b);
  if (!packed) return packed.error();
  return Gemm(backend.fault, p, std::move(*packed));
}

}  // namespace toy
