#pragma once
// TEMPORARY body: the API is final, the kernels are being written.
#include <span>
#include <vector>
#include <cstring>
#include <string_view>
#include "quern/core/memory.hpp"
#include "quern/core/executor.hpp"
#include "quern/ops/gemm_reference.hpp"
namespace quern {
inline namespace QUERN_ABI {
namespace cpu {
/// The CPU as a backend: which SIMD target its kernels use. A value; cheap to copy.
class Backend {
 public:
  Backend() = default;                                   ///< the best target this CPU can run
  /// Every target that was compiled in and that this CPU can run, best first.
  static std::vector<Backend> all() { return {Backend()}; }
  /// By name ("AVX2", "SSE4", ..., as name() gives it), case-insensitive; Error when unknown or not runnable here.
  static Result<Backend> named(std::string_view) { return Backend(); }
  const char* name() const { return "AVX2"; }
};
/// Weights in the CPU's layout: plain bytes (header + panels), serialisable.
class PackedWeights {
 public:
  std::span<const std::byte> bytes() const { return {buffer_.data(), buffer_.size()}; }      ///< write these to a file
  static Result<PackedWeights> from_bytes(std::span<const std::byte> b) { PackedWeights w; w.buffer_=AlignedBuffer(b.size()); if(b.size()) std::memcpy(w.buffer_.data(),b.data(),b.size()); return w; }  ///< copies; checks magic, version, checksum, sizes
  AlignedBuffer buffer_;
};
class Gemm {
 public:
  /// Bytes that run() needs for this many rows (per batch element) and workers.
  Index workspace_bytes(Index /*m*/, Index /*workers*/ = 1) const { return 64; }
  Error run(const GemmArgs& args, std::span<std::byte> workspace, Parallel = {}) const noexcept {
    if (Error e = validate(p_, args)) return e;
    if (std::ssize(workspace) < 64) return Error::make(Code::no_workspace, "gemm: workspace of %lld bytes, 64 needed", (long long)workspace.size());
    reference_gemm(p_, b_, args);
    return {};
  }
  const char* kernel() const { return "gemm_reference"; }   ///< which kernel was chosen
  GemmProblem p_; ConstMatrixView b_;
};
}  // namespace cpu
inline Result<cpu::PackedWeights> pack(const cpu::Backend&, const GemmProblem& p, const ConstMatrixView& b) { if (Error e = validate(p,b)) return e; return cpu::PackedWeights(); }
inline Result<cpu::Gemm> prepare(const cpu::Backend&, const GemmProblem& p, const ConstMatrixView& b) {
  if (Error e = validate(p, b)) return e;
  cpu::Gemm g; g.p_ = p; g.b_ = b; return g;
}
inline Result<cpu::Gemm> prepare(const cpu::Backend&, const GemmProblem& p, cpu::PackedWeights) { cpu::Gemm g; g.p_=p; return g; }
}  // namespace QUERN_ABI
}  // namespace quern
