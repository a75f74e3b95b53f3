// Softmax, RMSNorm and LayerNorm on the CPU.
//
//   auto norm = prepare(cpu::Backend(), NormalizeProblem{.cols = n, .gamma = gamma}).value();
//   if (Error e = norm.run({.x = x, .y = y})) ...
//
// A row of f32 is read where it is, others pass through floats in pieces. Rows in a cache are read
// three times: softmax for the maximum, the exponentials and the quotients.
#pragma once

#include <cmath>

#include "quern/cpu/rowwise.hpp"
#include "quern/ops/normalize.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// A prepared softmax. Immutable: any number of threads may run it at a time.
class Softmax : public RowwiseOperation<SoftmaxProblem> {
 public:
  /// Computes args.y. Checks everything first: after an Error, nothing was written. The bits do
  /// not depend on the executor. Never allocates; needs no workspace.
  Error run(const SoftmaxArgs& args, std::span<std::byte> = {},
            Parallel executor = {}) const noexcept {
    if (Error e = validate(problem_, args)) return e;
    const ConstMatrixView& x = args.x;
    if (problem_.cols == 0) return {};
    for_ranges(executor, x.batch * x.rows, problem_.cols, [&](Index begin, Index end) {
      FloatReader in(*kernels_, args.x);
      FloatWriter out(*kernels_, args.y);
      for (Index i = begin; i < end; ++i) {
        in.row(i / x.rows, i % x.rows);
        out.row(i / x.rows, i % x.rows);
        run_row(in, out);
      }
    });
    return {};
  }

  /// What prepare() calls.
  static Result<Softmax> make(const Backend& backend, const SoftmaxProblem& p) {
    if (Error e = validate(p)) return e;
    return Softmax(backend, p);
  }

 private:
  using RowwiseOperation::RowwiseOperation;

  void run_row(FloatReader& in, FloatWriter& out) const {
    const RowwiseKernels& k = *kernels_;
    const Index cols = problem_.cols, piece = in.most() < out.most() ? in.most() : out.most();
    const bool weights = problem_.result == SoftmaxResult::weights;
    float most = -HUGE_VALF, sum = 0.0f;
    for_pieces(cols, piece, [&](Index j, Index n) {
      const float m = k.largest(in.read(j, n), n);
      if (m > most) most = m;
    });
    if (most == -HUGE_VALF) {  // nothing but -infinity, or NaN
      for_pieces(cols, piece, [&](Index j, Index n) { sum += k.sum(in.read(j, n), n); });
      const float y = !(sum == sum) ? sum : weights ? 0.0f : -HUGE_VALF;
      for_pieces(cols, piece, [&](Index j, Index n) {
        for (Index c = 0; c < n; ++c) out.at(j)[c] = y;
        out.write(j, n);
      });
      return;
    }
    const bool whole = weights && cols <= piece;  // exponentials can stay where they are
    for_pieces(cols, piece, [&](Index j, Index n) {
      sum += k.exponentials(in.read(j, n), n, most, whole ? out.at(j) : nullptr);
    });
    const float factor = 1.0f / sum,
                logarithm = weights ? 0.0f : static_cast<float>(std::log(static_cast<double>(sum)));
    for_pieces(cols, piece, [&](Index j, Index n) {
      float* y = out.at(j);
      if (weights && !whole) static_cast<void>(k.exponentials(in.read(j, n), n, most, y));
      weights ? k.scale(y, n, factor, y) : k.shift(in.read(j, n), n, most, logarithm, y);
      out.write(j, n);
    });
  }
};

/// A prepared RMSNorm or LayerNorm. Immutable: any number of threads may run it at a time.
class Normalize : public RowwiseOperation<NormalizeProblem> {
 public:
  /// Computes args.y, and the sum if the problem has one. Checks everything first: after an Error,
  /// nothing was written. The bits do not depend on the executor. Never allocates; needs no
  /// workspace.
  Error run(const NormalizeArgs& args, std::span<std::byte> = {},
            Parallel executor = {}) const noexcept {
    if (Error e = validate(problem_, args)) return e;
    const Index rows = args.x.rows;
    const ConstMatrixView x = problem_.residual ? ConstMatrixView(args.sum) : args.x;
    for_ranges(executor, args.x.batch * rows, problem_.cols, [&](Index begin, Index end) {
      if (problem_.residual) {
        for (Index i = begin; i < end; ++i) add_residual(args, i / rows, i % rows);
      }
      FloatReader in(*kernels_, x);
      FloatWriter out(*kernels_, args.y);
      for (Index i = begin; i < end; ++i) {
        in.row(i / rows, i % rows);
        out.row(i / rows, i % rows);
        if (!run_row(args, i, in, out)) run_exactly(args, x, i);
      }
    });
    return {};
  }

  /// What prepare() calls.
  static Result<Normalize> make(const Backend& backend, const NormalizeProblem& p) {
    if (Error e = validate(p)) return e;
    Normalize op(backend, p);
    if (!op.arrays_.reserve({p.gamma.size(), p.beta.size()})) {
      return Error::make(Code::no_memory, "normalize: no memory for gamma and beta of %lld columns",
                         static_cast<long long>(p.cols));
    }
    op.arrays_.keep(op.problem_.gamma);
    op.arrays_.keep(op.problem_.beta);
    return op;
  }

 private:
  using RowwiseOperation::RowwiseOperation;

  void add_residual(const NormalizeArgs& args, Index b, Index i) const {
    FloatReader x(*kernels_, args.x), residual(*kernels_, args.residual);
    FloatWriter sum(*kernels_, args.sum);
    x.row(b, i);
    residual.row(b, i);
    sum.row(b, i);
    for_pieces(problem_.cols, kRowPiece, [&](Index j, Index n) {
      kernels_->apply(Elementwise::add, x.read(j, n), residual.read(j, n), n, sum.at(j));
      sum.write(j, n);
    });
  }

  /// False, and nothing is written, for rows whose squares leave the range of floats.
  bool run_row(const NormalizeArgs& args, Index row, FloatReader& in, FloatWriter& out) const {
    const RowwiseKernels& k = *kernels_;
    const NormalizeProblem& p = problem_;
    const Index piece = in.most() < out.most() ? in.most() : out.most();
    const double count = static_cast<double>(p.cols);
    float mean = 0.0f, squares = 0.0f;
    if (p.kind == Normalization::layer) {
      for_pieces(p.cols, piece, [&](Index j, Index n) { mean += k.sum(in.read(j, n), n); });
      mean = static_cast<float>(static_cast<double>(mean) / count);
    }
    for_pieces(p.cols, piece,
               [&](Index j, Index n) { squares += k.squares(in.read(j, n), n, mean); });
    const double square = static_cast<double>(squares) / count + static_cast<double>(p.epsilon);
    if (!(square > 0x1p-90 && square < 0x1p110)) return false;
    const auto factor = static_cast<float>(1.0 / std::sqrt(square));
    const auto at = static_cast<std::size_t>(row);
    if (!args.means.empty()) args.means[at] = mean;
    if (!args.factors.empty()) args.factors[at] = factor;
    for_pieces(p.cols, piece, [&](Index j, Index n) {
      k.normalize(in.read(j, n), n, mean, factor, p.gamma.empty() ? nullptr : p.gamma.data() + j,
                  p.beta.empty() ? nullptr : p.beta.data() + j, out.at(j));
      out.write(j, n);
    });
    return true;
  }

  /// In double, by the definition: rows of huge or tiny numbers, infinities, NaN or no columns.
  void run_exactly(const NormalizeArgs& args, const ConstMatrixView& x, Index row) const {
    NormalizeProblem p = problem_;
    p.residual = false;
    const Index b = row / x.rows, i = row % x.rows;
    const auto one = [&](auto view) {
      view.data = element(view, b, i, 0);
      view.rows = view.batch = 1;
      return view;
    };
    const auto number = [&](std::span<float> s) {
      return s.empty() ? s : s.subspan(static_cast<std::size_t>(row), 1);
    };
    reference_normalize(p, {.x = one(x),
                            .y = one(args.y),
                            .residual = {},
                            .sum = {},
                            .means = number(args.means),
                            .factors = number(args.factors)});
  }

  KeptArrays arrays_;
};

}  // namespace cpu

/// The CPU takes every valid problem.
inline Error supports(const cpu::Backend&, const SoftmaxProblem& p) { return validate(p); }
inline Error supports(const cpu::Backend&, const NormalizeProblem& p) { return validate(p); }

inline Result<cpu::Softmax> prepare(const cpu::Backend& backend, const SoftmaxProblem& p) {
  return cpu::Softmax::make(backend, p);
}
/// Gamma and beta are copied.
inline Result<cpu::Normalize> prepare(const cpu::Backend& backend, const NormalizeProblem& p) {
  return cpu::Normalize::make(backend, p);
}
static_assert(PreparedOperation<cpu::Softmax, SoftmaxProblem, SoftmaxArgs>);
static_assert(PreparedOperation<cpu::Normalize, NormalizeProblem, NormalizeArgs>);

}  // namespace QUERN_ABI
}  // namespace quern
