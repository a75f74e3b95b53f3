// GEMM on a simulated chip: the values, to the bit, and what they cost.
//
//   const sim::Backend chip(sim::preset("tpu_v1").value());
//   auto gemm = prepare(chip, problem, weights).value();
//   gemm.run({.a = a, .c = c}, workspace);             the same bytes as on the CPU
//   sim::Report cost = gemm.report(a.rows).value();    cycles, bytes, joules
//
// estimate() gives the same report without weights or values.
#pragma once

#include "quern/ops/owned_gemm.hpp"
#include "quern/sim/backend.hpp"
#include "quern/sim/values.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// What m rows (of each of a_batch batch elements, if they share weights) cost. Rules as in
/// GemmArgs: with several weight matrices a_batch is their number. `residual` is the type that the
/// epilogue's residual has, if it has one.
inline Result<Report> estimate(const Backend& backend, const GemmProblem& problem, Index m,
                               Index a_batch = 1, const Trace& trace = {},
                               DType residual = DType::f32) {
  if (Error e = supports(backend, problem)) return e;
  Index total = 0;
  if (m < 0 || a_batch < 0 || !multiply_fits(m, a_batch, &total) ||
      !multiply_fits(total, problem.k + 64, &total) || total > INT64_MAX / 64) {
    return Error::make(Code::bad_shape, "gemm: %lld x %lld rows are negative or too many",
                       static_cast<long long>(a_batch), static_cast<long long>(m));
  }
  const Work work = backend.work_of(problem, m, a_batch, size_of(residual));
  Mapping mapping;
  if (Error e = backend.mapping_for(work, &mapping)) return e;
  return account(backend.chip(), work, mapping, &trace);
}

/// A prepared GEMM. Immutable; copies share everything. Runs serially, whatever the executor.
class Gemm {
 public:
  /// Bytes that run() needs for up to this many rows, of all batch elements together.
  std::size_t workspace_bytes(Index rows, Index /*workers*/ = 1) const {
    return static_cast<std::size_t>(
        Values::bytes(backend_.chip(), *problem_, static_cast<double>(rows)));
  }

  /// Computes args.c as the chip would. Checks everything first: after an Error, nothing was
  /// written. Never allocates.
  Error run(const GemmArgs& args, std::span<std::byte> workspace,
            Parallel /*executor*/ = {}) const noexcept {
    const GemmProblem& p = *problem_;
    if (Error e = validate(p, args)) return e;
    if (Error e = validate_values(p, args)) return e;
    const Index m = args.a.rows, batch = args.a.batch;
    if (m == 0 || p.n == 0 || batch == 0) return {};
    const double needed = Values::bytes(backend_.chip(), p, static_cast<double>(m * batch));
    if (static_cast<double>(workspace.size()) < std::floor(needed)) {
      return Error::make(Code::no_workspace,
                         "gemm: a workspace of %zu bytes, but %lld rows on %.40s need %.0f",
                         workspace.size(), static_cast<long long>(m * batch),
                         backend_.chip().name.c_str(), std::floor(needed));
    }
    const Work work = backend_.work_of(p, m, batch, size_of(args.residual.type));
    Mapping mapping;
    if (Error e = backend_.mapping_for(work, &mapping)) return e;
    const ConstMatrixView weights(weights_->data(), p.b, p.k, p.n, p.n, 1, p.batch);
    Values(p, weights, args, workspace.data()).run(backend_.chip(), work, mapping);
    return {};
  }

  const GemmProblem& problem() const { return *problem_; }
  std::string kernel() const { return "tiles on " + backend_.name(); }

  /// What m rows cost; see estimate().
  Result<Report> report(Index m, Index a_batch = 1, const Trace& trace = {}) const {
    return estimate(backend_, *problem_, m, a_batch, trace);
  }

  /// What prepare() calls.
  static Result<Gemm> make(const Backend& backend, const GemmProblem& p, const ConstMatrixView& b) {
    if (Error e = supports(backend, p)) return e;
    if (Error e = validate(p, b)) return e;
    const Index row = p.n * size_of(p.b), bytes = p.batch * p.k * row;
    auto weights = std::make_shared<AlignedBuffer>(static_cast<std::size_t>(bytes));
    if (std::ssize(std::span<std::byte>(*weights)) != bytes) {
      return Error::make(Code::no_memory, "gemm: no memory for %lld bytes of weights",
                         static_cast<long long>(bytes));
    }
    std::byte* out = weights->data();
    for (Index i = 0; i < p.batch * p.k; ++i) {
      for (Index j = 0; j < p.n; ++j, out += size_of(p.b)) {
        std::memcpy(out, element(b, i / p.k, i % p.k, j), static_cast<std::size_t>(size_of(p.b)));
      }
    }
    return Gemm(backend, p, std::move(weights));
  }

 private:
  Gemm(const Backend& backend, const GemmProblem& p, std::shared_ptr<const AlignedBuffer> weights)
      : backend_(backend), problem_(p), weights_(std::move(weights)) {}

  Backend backend_;
  OwnedGemmProblem problem_;
  std::shared_ptr<const AlignedBuffer> weights_;
};

}  // namespace sim

/// Prepares a problem with weights b (batch, k, n) for a simulated chip.
inline Result<sim::Gemm> prepare(const sim::Backend& backend, const GemmProblem& problem,
                                 const ConstMatrixView& b) {
  return sim::Gemm::make(backend, problem, b);
}

}  // namespace QUERN_ABI
}  // namespace quern
