// Operations on elements and embedding tables on the CPU, with the bits of their references.
//
//   auto swiglu = prepare(cpu::Backend(), {.kind = Elementwise::silu_multiply, .cols = n}).value();
//   if (Error e = swiglu.run({.a = gate, .b = up, .y = y})) ...
#pragma once

#include "quern/cpu/rowwise.hpp"
#include "quern/ops/elementwise.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// A prepared operation on elements. Immutable: any number of threads may run it at a time.
class ElementwiseOperation : public RowwiseOperation<ElementwiseProblem> {
 public:
  /// Computes args.y. Checks everything first: after an Error, nothing was written. Never
  /// allocates; needs no workspace.
  Error run(const ElementwiseArgs& args, std::span<std::byte> = {},
            Parallel executor = {}) const noexcept {
    if (Error e = validate(problem_, args)) return e;
    if (problem_.cols == 0 || args.a.rows == 0 || args.a.batch == 0) return {};
    const ElementwiseArgs rows = is_one_row(args) ? as_one_row(args) : args;
    // Rows that are long are divided as well.
    constexpr Index kMost = 1 << 14;
    const Index cols = rows.a.cols, pieces = divide_up(cols, kMost);
    for_ranges(executor, rows.a.batch * rows.a.rows * pieces, cols < kMost ? cols : kMost,
               [&](Index begin, Index end) { run_pieces(rows, begin, end, pieces, kMost); });
    return {};
  }

  /// What prepare() calls.
  static Result<ElementwiseOperation> make(const Backend& backend, const ElementwiseProblem& p) {
    if (Error e = validate(p)) return e;
    ElementwiseOperation op(backend, p);
    ElementwiseProblem& q = op.problem_;
    if (!has_two_inputs(p.kind)) q.b_quantization = {};
    Quantization* const all[] = {&q.a_quantization, &q.b_quantization, &q.y_quantization};
    if (!op.arrays_.reserve({all[0]->scales.size(), all[0]->zero_points.size(),
                             all[1]->scales.size(), all[1]->zero_points.size(),
                             all[2]->scales.size(), all[2]->zero_points.size()})) {
      return Error::make(Code::no_memory, "elementwise: no memory for the scales of %lld columns",
                         static_cast<long long>(p.cols));
    }
    for (Quantization* one : all) {
      op.arrays_.keep(one->scales);
      op.arrays_.keep(one->zero_points);
    }
    return op;
  }

 private:
  using RowwiseOperation::RowwiseOperation;

  bool is_one_row(const ElementwiseArgs& args) const {
    const auto suits = [](const ConstMatrixView& m, const Quantization& q) {
      return m.col_stride == 1 && (m.rows == 1 || m.row_stride == m.cols) &&
             (m.batch == 1 || m.batch_stride == m.rows * m.cols) && q.scales.size() <= 1 &&
             q.zero_points.size() <= 1;
    };
    return suits(args.a, problem_.a_quantization) && suits(args.y, problem_.y_quantization) &&
           (!has_two_inputs(problem_.kind) || suits(args.b, problem_.b_quantization));
  }
  static ElementwiseArgs as_one_row(const ElementwiseArgs& args) {
    const Index cols = args.a.batch * args.a.rows * args.a.cols;
    return {.a = {args.a.data, args.a.type, 1, cols},
            .b = {args.b.data, args.b.type, 1, cols},
            .y = {args.y.data, args.y.type, 1, cols}};
  }

  void run_pieces(const ElementwiseArgs& args, Index begin, Index end, Index pieces,
                  Index most) const {
    const bool two = has_two_inputs(problem_.kind), copies = problem_.kind == Elementwise::copy;
    FloatReader a(*kernels_, args.a, &problem_.a_quantization),
        b(*kernels_, args.b, &problem_.b_quantization);
    FloatWriter y(*kernels_, args.y, &problem_.y_quantization);
    for (Index i = begin; i < end; ++i) {
      const Index row = i / pieces, first = i % pieces * most, left = args.a.cols - first;
      a.row(row / args.a.rows, row % args.a.rows);
      b.row(row / args.a.rows, row % args.a.rows);
      y.row(row / args.a.rows, row % args.a.rows);
      for_pieces(left < most ? left : most, kRowPiece / 4, [&](Index offset, Index n) {
        const Index j = first + offset;
        if (copies) return y.write(j, n, a.read(j, n));
        kernels_->apply(problem_.kind, a.read(j, n), two ? b.read(j, n) : nullptr, n, y.at(j));
        y.write(j, n);
      });
    }
  }

  KeptArrays arrays_;
};

/// A prepared embedding. Immutable: any number of threads may run it at a time.
class Embedding : public RowwiseOperation<EmbeddingProblem> {
 public:
  /// Computes args.y. Checks everything first, the ids too: after an Error, nothing was written.
  /// Never allocates; needs no workspace.
  Error run(const EmbeddingArgs& args, std::span<std::byte> = {},
            Parallel executor = {}) const noexcept {
    if (Error e = validate(problem_, args)) return e;
    if (Error e = validate_values(problem_, args)) return e;
    for_ranges(executor, std::ssize(args.ids), problem_.size, [&](Index begin, Index end) {
      Quantization scale;
      FloatReader in(*kernels_, table_, &scale);
      FloatWriter out(*kernels_, args.y);
      for (Index i = begin; i < end; ++i) {
        const auto id = static_cast<std::size_t>(args.ids[static_cast<std::size_t>(i)]);
        if (is_int8(problem_.table)) scale.scales = problem_.row_scales.subspan(id, 1);
        in.row(0, static_cast<Index>(id));
        out.row(0, i);
        for_pieces(problem_.size, kRowPiece,
                   [&](Index j, Index n) { out.write(j, n, in.read(j, n)); });
      }
    });
    return {};
  }

  /// What prepare() calls.
  static Result<Embedding> make(const Backend& backend, const EmbeddingProblem& p,
                                const ConstMatrixView& table) {
    if (Error e = validate(p, table)) return e;
    return Embedding(backend, p, table);
  }

 private:
  Embedding(const Backend& backend, const EmbeddingProblem& p, const ConstMatrixView& table)
      : RowwiseOperation(backend, p), table_(table) {}

  ConstMatrixView table_;
};

}  // namespace cpu

/// The CPU takes every valid problem.
inline Error supports(const cpu::Backend&, const ElementwiseProblem& p) { return validate(p); }

/// Scales and zero points are copied.
inline Result<cpu::ElementwiseOperation> prepare(const cpu::Backend& backend,
                                                 const ElementwiseProblem& p) {
  return cpu::ElementwiseOperation::make(backend, p);
}
/// The table and its scales are read where they are: unlike other weights they must stay, since a
/// copy would need as much memory again and no other layout is faster.
inline Result<cpu::Embedding> prepare(const cpu::Backend& backend, const EmbeddingProblem& p,
                                      const ConstMatrixView& table) {
  return cpu::Embedding::make(backend, p, table);
}
static_assert(PreparedOperation<cpu::ElementwiseOperation, ElementwiseProblem, ElementwiseArgs>);
static_assert(PreparedOperation<cpu::Embedding, EmbeddingProblem, EmbeddingArgs>);

}  // namespace QUERN_ABI
}  // namespace quern
