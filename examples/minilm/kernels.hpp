// The network's operations on quern: prepared once, run for any number of rows.
#pragma once

#include <string>
#include <utility>

#include "file.hpp"
#include "quantize.hpp"
#include "quern/cpu/attention.hpp"
#include "quern/cpu/normalize.hpp"
#include "quern/quern.hpp"

namespace minilm {

namespace cpu = quern::cpu;

/// f32; or s8 weights with a scale for each output, and u8 activations with a scale and a zero
/// point for each row.
enum class Precision { f32, int8 };

/// What follows the product and the bias.
enum class Then { nothing, gelu, add };

/// y = x weights^T + bias, then GELU or the addition of a residual.
class Linear {
 public:
  static Result<Linear> make(const cpu::Backend& backend, const Model::Part& part,
                             Precision precision, Then then) {
    using quern::DType;
    namespace epilogue = quern::epilogue;
    const Index n = std::ssize(part.bias), k = std::ssize(part.weights) / n;
    const Matrix<const float> weights{part.weights.data(), n, k};
    quern::GemmProblem p{.n = n, .k = k, .a = DType::f32, .b = DType::f32, .c = DType::f32};
    quern::ConstMatrixView b = weights.transposed();
    QuantizedWeights quantized;
    if (precision == Precision::int8) {
      quantized = QuantizedWeights::of(weights);
      p.a = DType::u8;
      p.b = DType::s8;
      p.a_zero_points = quern::ZeroPoints::per_row;
      p.epilogue = {epilogue::row_scale(), epilogue::scale(quantized.scales)};
      b = Matrix<const std::int8_t>{quantized.values.data(), n, k}.transposed();
    }
    p.epilogue.add(epilogue::bias(part.bias));
    if (then == Then::gelu) p.epilogue.add(epilogue::gelu());
    if (then == Then::add) p.epilogue.add(epilogue::residual());
    auto gemm = prepare(backend, p, b);
    if (!gemm) return gemm.error();
    return Linear(std::move(*gemm));
  }

  std::size_t workspace_bytes(Index rows) const {
    return gemm_.workspace_bytes(rows) +
           (is_int8() ? QuantizedRows::bytes(rows, gemm_.problem().k) + quern::kAlignment : 0);
  }
  std::string kernel() const { return gemm_.kernel(); }

  Error run(Matrix<const float> x, Matrix<float> y, std::span<std::byte> workspace,
            Matrix<const float> residual = {}) const noexcept {
    if (!is_int8()) return gemm_.run({.a = x, .c = y, .residual = residual}, workspace);
    quern::Carver memory(workspace.data());
    const auto rows = QuantizedRows::of(x, &memory);
    const auto used = static_cast<std::size_t>(memory.take<std::byte>(0) - workspace.data());
    return gemm_.run({.a = rows.values,
                      .c = y,
                      .residual = residual,
                      .row_scales = rows.scales,
                      .a_zero_points = rows.zero_points},
                     workspace.subspan(used));
  }

 private:
  explicit Linear(cpu::Gemm gemm) : gemm_(std::move(gemm)) {}

  bool is_int8() const { return quern::is_int8(gemm_.problem().b); }

  cpu::Gemm gemm_;
};

/// LayerNorm of rows, in place.
class Norm {
 public:
  static Result<Norm> make(const cpu::Backend& backend, const Model::Part& part, float epsilon) {
    auto op = prepare(backend, quern::NormalizeProblem{.cols = std::ssize(part.bias),
                                                       .kind = quern::Normalization::layer,
                                                       .epsilon = epsilon,
                                                       .gamma = part.weights,
                                                       .beta = part.bias});
    if (!op) return op.error();
    return Norm(std::move(*op));
  }
  Error run(Matrix<float> x) const noexcept { return op_.run({.x = x, .y = x}); }

 private:
  explicit Norm(cpu::Normalize op) : op_(std::move(op)) {}

  cpu::Normalize op_;
};

/// Each token looks at all tokens of its own sentence; sentences lie one behind the other.
class Attention {
 public:
  static Result<Attention> make(const cpu::Backend& backend, const Shape& shape) {
    const Index size = shape.hidden / shape.heads;
    auto op = prepare(
        backend,
        quern::AttentionProblem{
            .q_heads = shape.heads, .kv_heads = shape.heads, .qk_size = size, .v_size = size});
    if (!op) return op.error();
    return Attention(std::move(*op));
  }

  /// For so many tokens of all sentences, and of one.
  std::size_t workspace_bytes(Index all, Index one) const { return op_.workspace_bytes(all, one); }

  /// qkv: (tokens, 3 hidden), y: (tokens, hidden). `offsets`: where each sentence begins, and the
  /// end of the last.
  Error run(Matrix<float> qkv, Matrix<float> y, std::span<const std::int32_t> offsets,
            std::span<std::byte> workspace) const noexcept {
    const Index heads = op_.problem().q_heads, size = op_.problem().qk_size, hidden = heads * size;
    const auto part = [&](Index i) {
      return quern::ConstHeadsView(qkv.data + i * hidden, quern::HeadType::f32, 1, heads, qkv.rows,
                                   size, qkv.rows * qkv.cols, size, qkv.cols);
    };
    return op_.run(
        {.q = part(0),
         .k = part(1),
         .v = part(2),
         .out = quern::HeadsView::bshd(y.data, quern::HeadType::f32, 1, heads, y.rows, size),
         .q_offsets = offsets,
         .kv_offsets = offsets},
        workspace);
  }

 private:
  explicit Attention(cpu::Attention op) : op_(std::move(op)) {}

  cpu::Attention op_;
};

}  // namespace minilm
