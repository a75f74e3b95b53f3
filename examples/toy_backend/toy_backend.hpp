// A whole backend in one file: a pretend accelerator with memory of its own, which multiplies int8
// and f32 matrices by three loops. main.cpp has it checked; docs/backends.md explains it.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "quern/backend.hpp"
#include "quern/ops/owned_gemm.hpp"

namespace toy {

using namespace quern;

// 1. Memory.

/// Bytes on the accelerator, which is really the program's memory. A device's driver would have a
/// handle here, freed by the destructor.
class Buffer {
 public:
  explicit Buffer(std::size_t bytes) : memory_(bytes) {}
  std::byte* data() const { return memory_.data(); }
  std::size_t size() const { return memory_.size(); }

 private:
  AlignedBuffer memory_;
};

struct Backend {
  using Buffer = toy::Buffer;

  std::string name() const { return "toy"; }

  Result<Buffer> allocate(std::size_t bytes) const {
    Buffer buffer(bytes);
    if (buffer.size() == bytes) return buffer;
    return Error::make(Code::no_memory, "toy: no memory for %zu bytes", bytes);
  }
  Error upload(Buffer& to, std::span<const std::byte> from) const {
    if (from.size() > to.size()) return too_many(from.size(), to.size());
    if (!from.empty()) std::memcpy(to.data(), from.data(), from.size());
    return {};
  }
  Error download(std::span<std::byte> to, const Buffer& from) const {
    if (to.size() > from.size()) return too_many(to.size(), from.size());
    if (!to.empty()) std::memcpy(to.data(), from.data(), to.size());
    return {};
  }

 private:
  static Error too_many(std::size_t bytes, std::size_t size) {
    return Error::make(Code::bad_shape, "toy: %zu bytes, but the buffer has %zu", bytes, size);
  }
};

// 2. What is offered.

inline Error supports(const Backend&, const GemmProblem& p) {
  if (Error e = validate(p)) return e;
  const bool integers = is_int8(p.a) && is_int8(p.b);
  const bool floats = p.a == DType::f32 && p.b == DType::f32;
  const bool stored = is_int8(p.c) || p.c == DType::s32 || p.c == DType::f32;
  if ((integers || floats) && stored) return {};
  return Error::make(Code::unsupported, "toy: %s x %s -> %s is not offered", quern::name(p.a),
                     quern::name(p.b), quern::name(p.c));
}

// 3. Preparing: the weights, in the form that the loops like.

/// Row-major and dense; 8-bit weights less their zero points, which is exact in 16 bits.
struct Weights {
  std::vector<std::int16_t> integers;
  std::vector<float> floats;

  Weights(const GemmProblem& p, const ConstMatrixView& b) {
    for (Index row = 0; row < p.batch * p.k; ++row) {
      for (Index j = 0; j < p.n; ++j) {
        const float value = load_float(b, row / p.k, row % p.k, j);
        if (is_int8(p.b)) {
          integers.push_back(static_cast<std::int16_t>(static_cast<Index>(value) - zero(p, j)));
        } else {
          floats.push_back(value);
        }
      }
    }
  }
  static Index zero(const GemmProblem& p, Index j) {
    if (p.b_zero_points.empty()) return 0;
    return p.b_zero_points[p.b_zero_points.size() == 1 ? 0 : static_cast<std::size_t>(j)];
  }
};

// 4. Running.

class Gemm {
 public:
  Gemm(const GemmProblem& problem, const ConstMatrixView& weights)
      : problem_(problem), weights_(std::make_shared<const Weights>(problem, weights)) {}

  const GemmProblem& problem() const { return *problem_; }
  std::string kernel() const { return "three loops"; }

  /// A row of sums for each worker.
  std::size_t workspace_bytes(Index /*rows*/, Index workers = 1) const {
    return static_cast<std::size_t>(workers * row_bytes()) + kAlignment;
  }

  Error run(const GemmArgs& args, std::span<std::byte> workspace,
            Parallel executor = {}) const noexcept {
    if (Error e = validate(*problem_, args)) return e;
    const Index rows = args.a.rows, workers = executor.concurrency();
    if (workspace.size() < workspace_bytes(rows, workers)) {
      return Error::make(Code::no_workspace, "toy: a workspace of %zu bytes is too small",
                         workspace.size());
    }
    std::byte* sums = Carver(workspace.data()).take<std::byte>(0);  // aligned
    executor(args.a.batch * rows, [&](Index row, Index worker) {
      const Index batch = row / rows, i = row % rows;
      if (is_int8(problem_->b)) {
        integer_row(args, batch, i, reinterpret_cast<std::uint32_t*>(sums + worker * row_bytes()));
      } else {
        float_row(args, batch, i, reinterpret_cast<float*>(sums + worker * row_bytes()));
      }
    });
    return {};
  }

 private:
  Index row_bytes() const { return Carver::bytes<float>(problem_->n); }

  /// Where row k of the weights for this batch element begins.
  Index weights_at(Index batch, Index k) const {
    const GemmProblem& p = *problem_;
    return ((p.batch == 1 ? 0 : batch) * p.k + k) * p.n;
  }

  void integer_row(const GemmArgs& args, Index batch, Index i, std::uint32_t* sums) const {
    const GemmProblem& p = *problem_;
    std::int32_t zero = p.a_zero_point;
    if (p.a_zero_points == ZeroPoints::per_row) {
      zero = args.a_zero_points[static_cast<std::size_t>(batch * args.a.rows + i)];
    }
    for (Index j = 0; j < p.n; ++j) sums[j] = 0;
    for (Index k = 0; k < p.k; ++k) {
      const std::int32_t a = static_cast<std::int32_t>(load_float(args.a, batch, i, k)) - zero;
      const std::int16_t* b = weights_->integers.data() + weights_at(batch, k);
      for (Index j = 0; j < p.n; ++j) sums[j] += static_cast<std::uint32_t>(a * b[j]);  // wraps
    }
    for (Index j = 0; j < p.n; ++j) {
      const std::int32_t sum = add_bias(p.epilogue, static_cast<std::int32_t>(sums[j]), j);
      if (p.c == DType::s32) {
        std::memcpy(element(args.c, batch, i, j), &sum, sizeof sum);
      } else {
        finish(args, batch, i, j, static_cast<float>(sum));
      }
    }
  }

  void float_row(const GemmArgs& args, Index batch, Index i, float* sums) const {
    const GemmProblem& p = *problem_;
    for (Index j = 0; j < p.n; ++j) sums[j] = 0.0f;
    for (Index k = 0; k < p.k; ++k) {
      const float a = load_float(args.a, batch, i, k);
      const float* b = weights_->floats.data() + weights_at(batch, k);
      for (Index j = 0; j < p.n; ++j) sums[j] = std::fma(a, b[j], sums[j]);
    }
    for (Index j = 0; j < p.n; ++j) finish(args, batch, i, j, sums[j]);
  }

  /// The epilogue's steps, then the output's type.
  void finish(const GemmArgs& args, Index batch, Index i, Index j, float v) const {
    StepInputs in{nullptr, args.residual, batch};
    if (!args.row_scales.empty()) in.row_scales = args.row_scales.data() + batch * args.a.rows;
    for (const Step& step : problem_->epilogue) v = apply(step, v, i, j, in);
    if (is_int8(problem_->c)) {
      const std::int32_t q = quantize(v, problem_->c_zero_point, problem_->c);
      *element(args.c, batch, i, j) = static_cast<std::byte>(q);
    } else {
      std::memcpy(element(args.c, batch, i, j), &v, sizeof v);
    }
  }

  OwnedGemmProblem problem_;  // the caller's scales and biases may go away
  std::shared_ptr<const Weights> weights_;
};

inline Result<Gemm> prepare(const Backend& backend, const GemmProblem& p,
                            const ConstMatrixView& weights) {
  if (Error e = supports(backend, p)) return e;
  if (Error e = validate(p, weights)) return e;
  return Gemm(p, weights);
}

static_assert(GemmBackend<Backend>);

}  // namespace toy
