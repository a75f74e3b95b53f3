// GEMM on the CPU: prepare once, run for any number of rows.
//
//   auto gemm = prepare(cpu::Backend(), problem, weights).value();
//   Workspace workspace(gemm.workspace_bytes(m));
//   if (Error e = gemm.run({.a = a, .c = c}, workspace)) ...
#pragma once

#include <memory>
#include <span>

#include "quern/core/executor.hpp"
#include "quern/core/memory.hpp"
#include "quern/cpu/backend.hpp"
#include "quern/cpu/constants.hpp"
#include "quern/cpu/gemm_loops.hpp"
#include "quern/cpu/packed_weights.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// A prepared GEMM. Immutable: any number of threads may run it at a time, each call with a
/// workspace of its own. Copies share everything.
class Gemm {
 public:
  /// Bytes that run() needs for up to m rows (of each batch element) on up to this many workers.
  std::size_t workspace_bytes(Index m, Index workers = 1) const {
    const Index rows = m < 0 ? 0 : m < Blocking::kRowsBudget ? m : Blocking::kRowsBudget;
    const Index most = plan_->worker_bytes[static_cast<std::size_t>(rows)];
    return static_cast<std::size_t>(most * workers) + kAlignment;
  }

  /// Computes args.c. Checks everything first: after an Error, nothing was written. Runs on
  /// `executor`, serially by default; the bits do not depend on it. Never allocates.
  Error run(const GemmArgs& args, std::span<std::byte> workspace,
            Parallel executor = {}) const noexcept {
    const GemmPlan& plan = *plan_;
    if (Error e = validate(plan.problem, args)) return e;
    if (Error e = validate_values(plan.problem, args)) return e;
    return run_checked(args, workspace, executor);
  }

  /// What run() does after its checks, but for the workspace; rows of A and C may be no matrices:
  /// for operations that are products in disguise.
  Error run_checked(const GemmArgs& args, std::span<std::byte> workspace, Parallel executor,
                    const RowAccess& rows = {}) const noexcept {
    const GemmPlan& plan = *plan_;
    const Index m = args.a.rows, batch = args.a.batch, workers = executor.concurrency();
    if (m == 0 || plan.problem.n == 0 || batch == 0) return {};
    const GemmPlan::Choice& choice = plan.choice_for(m);
    const Blocking blocking = blocking_for(plan, m, workers);
    const Index worker_bytes = blocking.worker_bytes(*choice.idiom);
    const auto needed = static_cast<std::size_t>(worker_bytes * workers) + kAlignment;
    if (workspace.size() < needed) {
      return Error::make(Code::no_workspace,
                         "gemm: a workspace of %lld bytes, but %lld rows on %lld workers need %lld",
                         static_cast<long long>(workspace.size()), static_cast<long long>(m),
                         static_cast<long long>(workers), static_cast<long long>(needed));
    }
    const GemmCall call{plan, args, rows, choice, blocking};
    const Index tasks = batch * blocking.m_blocks * blocking.n_blocks;
    std::byte* memory = Carver(workspace.data()).take<std::byte>(0);
    executor(tasks, [&](Index index, Index worker) {
      GemmTask(call, index, memory + worker * worker_bytes).run();
    });
    return {};
  }

  const GemmProblem& problem() const { return plan_->problem; }
  const PackedWeights& weights() const { return plan_->weights; }
  /// The way products are formed for many rows, and where: "s16_pairs on AVX2".
  std::string kernel() const {
    return std::string(plan_->many.idiom->name) + " on " + plan_->kernels->target;
  }

  /// What prepare() calls.
  static Result<Gemm> make(const Backend& backend, const GemmProblem& p,
                           const PackedWeights& weights) {
    using LL = long long;
    if (Error e = validate(p)) return e;
    const PackedHeader& h = weights.header();
    if (h.type != p.b || h.n != p.n || h.k != p.k || h.batch != p.batch) {
      return Error::make(
          Code::bad_packed,
          "gemm: packed weights hold %lld matrices of %lld x %lld %s, but the problem says %lld "
          "of %lld x %lld %s",
          LL(h.batch), LL(h.k), LL(h.n), name(h.type), LL(p.batch), LL(p.k), LL(p.n), name(p.b));
    }
    auto plan = std::make_shared<GemmPlan>(p, weights, backend.kernels());
    choose_idioms(*plan);
    // The pieces are largest when a task has all columns; beyond kRowsBudget rows nothing grows.
    for (Index m = 1; m <= Blocking::kRowsBudget; ++m) {
      const Index bytes = blocking_for(*plan, m, 1).worker_bytes(*plan->choice_for(m).idiom);
      const Index before = plan->worker_bytes[static_cast<std::size_t>(m - 1)];
      plan->worker_bytes[static_cast<std::size_t>(m)] = bytes > before ? bytes : before;
    }
    // Arrays to keep: those of the steps, two bases, adjusted and column factors.
    const Index width = weights.panels() * kPanel;
    AlignedBuffer memory(static_cast<std::size_t>(Constants::bytes(width, 1 + 3 * p.batch)));
    if (memory.size() == 0 && width != 0) {
      return Error::make(Code::no_memory, "gemm: no memory for the constants of %lld columns",
                         LL(p.n));
    }
    auto constants = std::make_shared<AlignedBuffer>(std::move(memory));
    if (width != 0) fold_constants(*plan, p, width, constants->data());
    plan->problem.b_zero_points = {};
    Gemm gemm;
    gemm.plan_ = std::move(plan);
    gemm.constants_ = std::move(constants);
    return gemm;
  }

 private:
  Gemm() = default;

  static void choose_idioms(GemmPlan& plan) {
    const Kernels& k = *plan.kernels;
    const GemmProblem& p = plan.problem;
    plan.many.idiom = &k.pairs;
    plan.few.idiom = &k.few;
    if (!is_int8(p.b)) {
      plan.many.idiom = plan.few.idiom = &k.f32;
    } else if (k.quads.name != nullptr) {
      plan.many.idiom = plan.few.idiom = &k.quads;
    } else if (k.proven.name != nullptr && plan.weights.header().proven != 0) {
      plan.many.idiom = plan.few.idiom = &k.proven;
    }
    const bool is_signed = p.a != DType::u8;  // quantized floats are s8
    for (GemmPlan::Choice* c : {&plan.many, &plan.few}) {
      const RowForm form = c->idiom->form;
      if ((form == RowForm::u8_quads || form == RowForm::nibbles) && is_signed) c->a_shift = 128;
      if (form == RowForm::s8_quads && !is_signed) c->a_shift = -128;
    }
  }

  /// Sum of b[0] b[1] + b[2] b[3] + ... of packed column j, modulo 2^32.
  static std::uint32_t neighbour_products(const PackedWeights& w, Index batch, Index j) {
    const auto* column =
        reinterpret_cast<const std::int8_t*>(w.panel(batch, j / kPanel)) + j % kPanel * kQuad;
    std::uint32_t sum = 0;
    for (Index q = 0; q < divide_up(w.header().k, kQuad); ++q, column += kPanel * kQuad) {
      sum += static_cast<std::uint32_t>(column[0] * column[1] + column[2] * column[3]);
    }
    return sum;
  }

  /// Copies the epilogue's arrays and folds zero points and bias into per-column constants, all
  /// modulo 2^32.
  static void fold_constants(GemmPlan& plan, const GemmProblem& p, Index width, std::byte* memory) {
    Constants keep(memory, width);
    keep.steps(plan.problem.epilogue);
    if (!is_int8(p.b)) return;
    const bool integer_bias =
        p.epilogue.count > 0 && p.epilogue.steps[0].kind == Step::Kind::bias_s32;
    const auto* bias =
        integer_bias ? static_cast<const std::int32_t*>(p.epilogue.steps[0].data) : nullptr;
    std::int32_t *adjusted = keep.take(p.batch), *factor = keep.take();
    const std::size_t zeros = p.b_zero_points.size();
    bool any = false;
    for (Index j = 0; j < p.n; ++j) {
      const std::int32_t zb =
          zeros == 0 ? 0 : p.b_zero_points[zeros == 1 ? 0 : static_cast<std::size_t>(j)];
      factor[j] = -(zb - (p.b == DType::u8 ? 128 : 0));
      any |= factor[j] != 0;
      for (Index b = 0; b < p.batch; ++b) {
        adjusted[b * width + j] = static_cast<std::int32_t>(
            static_cast<std::uint32_t>(plan.weights.column_sums(b)[j]) +
            static_cast<std::uint32_t>(p.k) * static_cast<std::uint32_t>(factor[j]));
      }
    }
    const auto base_of = [&](const GemmPlan::Choice& c) {
      const bool per_row = p.a_zero_points == ZeroPoints::per_row;
      const auto za = static_cast<std::uint32_t>(per_row ? 0 : p.a_zero_point + c.a_shift);
      std::int32_t* base = keep.take(p.batch);
      for (Index b = 0; b < p.batch; ++b) {
        for (Index j = 0; j < p.n; ++j) {
          auto offset = static_cast<std::uint32_t>(bias == nullptr ? 0 : bias[j]) -
                        za * static_cast<std::uint32_t>(adjusted[b * width + j]);
          if (c.idiom->row_products) offset -= neighbour_products(plan.weights, b, j);
          base[b * width + j] = static_cast<std::int32_t>(offset);
        }
      }
      return base;
    };
    plan.many.base = base_of(plan.many);
    plan.few.base = plan.few.idiom == plan.many.idiom ? plan.many.base : base_of(plan.few);
    plan.adjusted = adjusted;
    plan.column_factor = any ? factor : nullptr;
  }

  static Blocking blocking_for(const GemmPlan& plan, Index m, Index workers) {
    const GemmProblem& p = plan.problem;
    // Several tasks a worker even out their speeds; below that much work one thread is quicker.
    constexpr double kWorthSplitting = 1 << 18;
    const double work =
        static_cast<double>(m) * static_cast<double>(p.n) * static_cast<double>(p.k);
    const Index wanted = workers == 1 || work < kWorthSplitting ? 1 : 4 * workers;
    return choose_blocking(*plan.choice_for(m).idiom, m, plan.weights.panels(), p.k, wanted);
  }

  std::shared_ptr<const GemmPlan> plan_;
  std::shared_ptr<const AlignedBuffer> constants_;
};

}  // namespace cpu

/// The CPU takes every valid problem.
inline Error supports(const cpu::Backend&, const GemmProblem& problem) { return validate(problem); }

/// Packs the weights b (batch, k, n) of a problem, to keep or to share between operations.
inline Result<cpu::PackedWeights> pack(const cpu::Backend&, const GemmProblem& problem,
                                       const ConstMatrixView& b) {
  return cpu::PackedWeights::pack(problem, b);
}

/// Prepares a problem: validates, packs the weights b (batch, k, n), chooses kernels.
inline Result<cpu::Gemm> prepare(const cpu::Backend& backend, const GemmProblem& problem,
                                 const ConstMatrixView& b) {
  auto weights = cpu::PackedWeights::pack(problem, b);
  if (!weights) return weights.error();
  return cpu::Gemm::make(backend, problem, *weights);
}

/// The same with weights that were packed before.
inline Result<cpu::Gemm> prepare(const cpu::Backend& backend, const GemmProblem& problem,
                                 const cpu::PackedWeights& weights) {
  return cpu::Gemm::make(backend, problem, weights);
}
static_assert(GemmBackend<cpu::Backend>);

/// c = epilogue(a b) in one line, for first use and for weights that change each time: prepares,
/// allocates and runs. Types and sizes are the views'.
inline Error gemm(const cpu::Backend& backend, const ConstMatrixView& a, const ConstMatrixView& b,
                  const MatrixView& c, const Epilogue& epilogue = {}, Parallel executor = {}) {
  auto op = prepare(backend,
                    GemmProblem{.n = b.cols,
                                .k = b.rows,
                                .batch = b.batch,
                                .a = a.type,
                                .b = b.type,
                                .c = c.type,
                                .epilogue = epilogue},
                    b);
  if (!op) return op.error();
  const Workspace workspace(op->workspace_bytes(a.rows < 0 ? 0 : a.rows, executor.concurrency()));
  return op->run({.a = a, .c = c}, workspace, executor);
}

}  // namespace QUERN_ABI
}  // namespace quern
