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

/// A call's operands, for Values.
class GemmCall {
 public:
  static constexpr bool kPatches = false;

  GemmCall(const GemmProblem& p, const GemmArgs& args, std::byte* memory) : p_(p), args_(args) {
    if (!quantizes()) {
      slots_ = memory;
      return;
    }
    Carver carver(memory);
    const Index m = args.a.rows * args.a.batch;
    scale_ = carver.take<float>(m);
    quantized_ = carver.take<std::int8_t>(m * p.k);
    slots_ = carver.take<std::byte>(0);
  }
  /// Of a call of m rows, of all batch elements together, on a chip: for Values too.
  static double bytes(const Chip& chip, const GemmProblem& p, double m) {
    const double k = static_cast<double>(p.k + 1);
    const double own = is_float(p.a) && is_int8(p.b) ? m * (k + 4) + 3 * double{kAlignment} : 0;
    return own + Values<GemmCall>::bytes(chip, p.a, p.b, m, static_cast<double>(p.n), k,
                                         static_cast<double>(p.batch));
  }
  std::byte* slots() const { return slots_; }

  const GemmProblem& problem() const { return p_; }
  static Index column(const Instruction& x) { return x.n; }

  void quantize(Index product, Index row) {
    const Row r = row_of(product, row);
    const RowQuantization q = quern::detail::row_quantization(args_.a, r.batch, r.row);
    scale_[r.number] = q.scale;
    std::int8_t* out = quantized_ + r.number * p_.k;
    for (Index k = 0; k < p_.k; ++k) {
      out[k] = static_cast<std::int8_t>(
          quern::quantize(load_float(args_.a, r.batch, r.row, k) * q.inverse, 0, DType::s8));
    }
  }

  template <class T>
  void read(Index product, Index row, Index k, Index count, T* out) const {
    const Row r = row_of(product, row);
    if (quantizes()) {
      std::copy_n(quantized_ + r.number * p_.k + k, count, out);
      return;
    }
    const std::int32_t za = p_.a_zero_points == ZeroPoints::per_row
                                ? args_.a_zero_points[static_cast<std::size_t>(r.number)]
                                : p_.a_zero_point;
    const ConstMatrixView terms(element(args_.a, r.batch, r.row, k), p_.a, 1, count, 0,
                                args_.a.col_stride);
    for (Index i = 0; i < count; ++i) out[i] = operand<T>(terms, i, za);
  }

  float scaled(float v, Index product, Index row) const {
    return quantizes() ? unfused(v * scale_[row_of(product, row).number]) : v;
  }
  RowInputs inputs(Index product, Index row) const {
    const Row r = row_of(product, row);
    const float* scales =
        args_.row_scales.empty() ? nullptr : args_.row_scales.data() + r.batch * args_.a.rows;
    return {{scales, args_.residual, r.batch}, r.row};
  }
  MatrixView c(Index product, Index row) const {
    const Row r = row_of(product, row);
    return {element(args_.c, r.batch, r.row, 0), p_.c, 1, p_.n};
  }

 private:
  /// A row of a product is a row of a batch element; with shared weights all elements are one.
  struct Row {
    Index batch, row;
    Index number;  ///< of all rows of the call
  };
  Row row_of(Index product, Index m) const {
    const Index rows = args_.a.rows;
    if (p_.batch == 1) return {m / rows, m % rows, m};
    return {product, m, product * rows + m};
  }
  bool quantizes() const { return is_int8(p_.b) && is_float(p_.a); }

  const GemmProblem& p_;
  const GemmArgs& args_;
  float* scale_ = nullptr;
  std::int8_t* quantized_ = nullptr;
  std::byte* slots_ = nullptr;
};

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
        GemmCall::bytes(backend_.chip(), *problem_, static_cast<double>(rows)));
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
    const double needed = GemmCall::bytes(backend_.chip(), p, static_cast<double>(m * batch));
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
    GemmCall call(p, args, workspace.data());
    Values(call, weights, call.slots()).run(backend_.chip(), work, mapping);
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
