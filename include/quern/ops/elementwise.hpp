// Operations on elements: activations, sums and products, gated activations (SwiGLU), quantization
// and its inverse; and the rows of an embedding table.
//
// An integer stands for (q - zero_point) * scale, one IEEE single multiplication of an exact
// difference. The result v becomes its type: floats round to nearest even, s8 and u8 are
// quantize(v / scale, zero_point), as in ONNX's QuantizeLinear. Everything between is one scalar
// function of ops/activation.hpp and at most one more operation, never fused: every backend returns
// the same bits.
#pragma once

#include <cmath>
#include <span>

#include "quern/ops/epilogue.hpp"
#include "quern/ops/rows_check.hpp"

namespace quern {
inline namespace QUERN_ABI {

enum class Elementwise : std::uint8_t {
  copy,  ///< a: conversion, quantization, dequantization
  gelu,  ///< scalar::gelu(a), and so on
  gelu_tanh,
  silu,
  add,            ///< a + b
  multiply,       ///< a * b
  gelu_multiply,  ///< scalar::gelu(a) * b, and so on: gated activations
  gelu_tanh_multiply,
  silu_multiply,  ///< SwiGLU, of the two halves of a projection
};

constexpr bool is_known(Elementwise e) { return e <= Elementwise::silu_multiply; }
constexpr bool has_two_inputs(Elementwise e) { return e >= Elementwise::add; }

/// What integers stand for; floats have none. Both arrays have one element, for all, or one for
/// each column; no zero points are zeros.
struct Quantization {
  std::span<const float> scales = {};  ///< positive and finite
  std::span<const std::int32_t> zero_points = {};

  float scale(Index j) const {
    return scales[scales.size() == 1 ? 0 : static_cast<std::size_t>(j)];
  }
  std::int32_t zero_point(Index j) const {
    if (zero_points.empty()) return 0;
    return zero_points[zero_points.size() == 1 ? 0 : static_cast<std::size_t>(j)];
  }
};

struct ElementwiseProblem {
  Elementwise kind = Elementwise::copy;
  Index cols = 0;
  DType a = DType::f32;  ///< any
  DType b = DType::f32;  ///< any; where there is a b
  DType y = DType::f32;  ///< any but s32
  Quantization a_quantization = {}, b_quantization = {}, y_quantization = {};
};

/// One call, of any number of rows.
struct ElementwiseArgs {
  ConstMatrixView a;       ///< (batch, rows, cols)
  ConstMatrixView b = {};  ///< the same, if there is a second input
  MatrixView y;            ///< the same; may be a or b itself
};

namespace detail {

inline Error check_quantization(DType type, const Quantization& q, Index cols, const char* what) {
  if (!is_known(type)) {
    return Error::make(Code::unsupported, "elementwise: %s has type %d, which is none", what,
                       int(type));
  }
  const Index scales = std::ssize(q.scales), zeros = std::ssize(q.zero_points);
  if (is_float(type) != (scales == 0) || (is_float(type) && zeros != 0)) {
    return Error::make(
        Code::unsupported,
        "elementwise: %s is %s, with %lld scales and %lld zero points: integers have "
        "scales, floats neither",
        what, name(type), LL(scales), LL(zeros));
  }
  if ((scales > 1 && scales != cols) || (zeros > 1 && zeros != cols)) {
    return Error::make(Code::bad_shape,
                       "elementwise: %s has %lld scales and %lld zero points; 1 or %lld are "
                       "possible",
                       what, LL(scales), LL(zeros), LL(cols));
  }
  for (Index j = 0; j < scales; ++j) {
    if (std::isfinite(q.scale(j)) && q.scale(j) > 0.0f) continue;
    return Error::make(Code::bad_value, "elementwise: %s's scale %lld is %g; it must be positive",
                       what, LL(j), double(q.scale(j)));
  }
  for (Index j = 0; j < zeros && is_int8(type); ++j) {
    if (q.zero_point(j) >= lowest(type) && q.zero_point(j) <= highest(type)) continue;
    return Error::make(Code::bad_value, "elementwise: %s's zero point %lld is %d, outside %s", what,
                       LL(j), int(q.zero_point(j)), name(type));
  }
  return {};
}

/// Element (b, i, j) as a number.
inline float load_real(const ConstMatrixView& x, const Quantization& q, Index b, Index i, Index j) {
  if (is_float(x.type)) return load_float(x, b, i, j);
  const void* at = element(x, b, i, j);
  const Index v = x.type == DType::s8   ? Index{*static_cast<const std::int8_t*>(at)}
                  : x.type == DType::u8 ? Index{*static_cast<const std::uint8_t*>(at)}
                                        : Index{*static_cast<const std::int32_t*>(at)};
  return unfused(static_cast<float>(v - q.zero_point(j)) * q.scale(j));
}

inline void store_real(const MatrixView& y, const Quantization& q, Index b, Index i, Index j,
                       float v) {
  if (is_float(y.type)) return store_float(y, b, i, j, v);
  const std::int32_t r = quantize(v / q.scale(j), q.zero_point(j), y.type);
  void* at = element(y, b, i, j);
  if (y.type == DType::s8) *static_cast<std::int8_t*>(at) = static_cast<std::int8_t>(r);
  if (y.type == DType::u8) *static_cast<std::uint8_t*>(at) = static_cast<std::uint8_t>(r);
}

}  // namespace detail

inline Error validate(const ElementwiseProblem& p) {
  if (!is_known(p.kind)) {
    return Error::make(Code::unsupported, "elementwise: kind %d is none", int(p.kind));
  }
  if (p.cols < 0)
    return Error::make(Code::bad_shape, "elementwise: %lld columns", detail::LL(p.cols));
  if (p.y == DType::s32) return Error::make(Code::unsupported, "elementwise: y cannot be s32");
  if (Error e = detail::check_quantization(p.a, p.a_quantization, p.cols, "a")) return e;
  if (has_two_inputs(p.kind)) {
    if (Error e = detail::check_quantization(p.b, p.b_quantization, p.cols, "b")) return e;
  }
  return detail::check_quantization(p.y, p.y_quantization, p.cols, "y");
}

/// One call of a valid problem. Never allocates, reads nothing but the arguments.
inline Error validate(const ElementwiseProblem& p, const ElementwiseArgs& args) noexcept {
  const ConstMatrixView &a = args.a, &b = args.b;
  Index a_bytes = 0, b_bytes = 0, y_bytes = 0;
  if (Error e = detail::check_rows(a, "elementwise: a", p.a, p.cols, nullptr, &a_bytes)) return e;
  if (Error e = detail::check_rows(args.y, "elementwise: y", p.y, p.cols, &a, &y_bytes)) return e;
  if (Error e = detail::check_distinct(args.y, y_bytes, "elementwise: y", a, a_bytes, "a"))
    return e;
  if (!has_two_inputs(p.kind)) return {};
  if (Error e = detail::check_rows(b, "elementwise: b", p.b, p.cols, &a, &b_bytes)) return e;
  return detail::check_distinct(args.y, y_bytes, "elementwise: y", b, b_bytes, "b");
}

/// The definition, of one element.
inline float apply(Elementwise kind, float a, float b) {
  switch (kind) {
    case Elementwise::copy:
      return a;
    case Elementwise::gelu:
      return scalar::gelu(a);
    case Elementwise::gelu_tanh:
      return scalar::gelu_tanh(a);
    case Elementwise::silu:
      return scalar::silu(a);
    case Elementwise::add:
      return a + b;
    case Elementwise::multiply:
      return a * b;
    case Elementwise::gelu_multiply:
      return scalar::gelu(a) * b;
    case Elementwise::gelu_tanh_multiply:
      return scalar::gelu_tanh(a) * b;
    case Elementwise::silu_multiply:
      return scalar::silu(a) * b;
  }
  return a;
}

/// Runs a problem whose validate()s have passed.
inline void reference_elementwise(const ElementwiseProblem& p, const ElementwiseArgs& args) {
  for (Index n = 0; n < args.a.batch; ++n) {
    for (Index i = 0; i < args.a.rows; ++i) {
      for (Index j = 0; j < p.cols; ++j) {
        const float a = detail::load_real(args.a, p.a_quantization, n, i, j);
        const float b =
            has_two_inputs(p.kind) ? detail::load_real(args.b, p.b_quantization, n, i, j) : 0.0f;
        detail::store_real(args.y, p.y_quantization, n, i, j, apply(p.kind, a, b));
      }
    }
  }
}

/// Rows of a table (vocabulary, size), by number: y[i] = table[ids[i]].
struct EmbeddingProblem {
  Index vocabulary = 0;
  Index size = 0;
  DType table = DType::f32;                ///< f32, bf16, f16, s8 or u8
  DType y = DType::f32;                    ///< f32, bf16 or f16
  std::span<const float> row_scales = {};  ///< (vocabulary) of an integer table, whose zero is 0
};

struct EmbeddingArgs {
  std::span<const std::int32_t> ids;  ///< (rows of y), 0 to vocabulary - 1
  MatrixView y;                       ///< (rows, size), a batch of 1
};

inline Error validate(const EmbeddingProblem& p, const ConstMatrixView& table) {
  using detail::LL;
  if (!is_known(p.table) || p.table == DType::s32 || !is_float(p.y)) {
    return Error::make(Code::unsupported, "embedding: %s -> %s is not offered", name(p.table),
                       name(p.y));
  }
  const Index scales = is_int8(p.table) ? p.vocabulary : 0;
  if (p.vocabulary < 0 || std::ssize(p.row_scales) != scales) {
    return Error::make(Code::bad_shape, "embedding: %lld row scales for %lld rows of %s",
                       LL(p.row_scales.size()), LL(p.vocabulary), name(p.table));
  }
  Index bytes = 0;
  const ConstMatrixView like(nullptr, p.table, p.vocabulary, p.size);
  return detail::check_rows(table, "embedding: table", p.table, p.size, &like, &bytes);
}

/// One call of a valid problem. Never allocates, reads no number.
inline Error validate(const EmbeddingProblem& p, const EmbeddingArgs& args) noexcept {
  Index bytes = 0;
  const ConstMatrixView like(nullptr, p.y, std::ssize(args.ids), p.size);
  return detail::check_rows(args.y, "embedding: y", p.y, p.size, &like, &bytes);
}

/// The numbers that come with a valid call, which must be in the program's memory.
inline Error validate_values(const EmbeddingProblem& p, const EmbeddingArgs& args) noexcept {
  using detail::LL;
  for (std::size_t i = 0; i < args.ids.size(); ++i) {
    if (args.ids[i] >= 0 && args.ids[i] < p.vocabulary) continue;
    return Error::make(Code::bad_value, "embedding: id %lld is %d; the table has %lld rows", LL(i),
                       int(args.ids[i]), LL(p.vocabulary));
  }
  return {};
}

/// Runs a problem whose validate()s have passed.
inline void reference_embedding(const EmbeddingProblem& p, const ConstMatrixView& table,
                                const EmbeddingArgs& args) {
  for (std::size_t i = 0; i < args.ids.size(); ++i) {
    const Index id = args.ids[i];
    for (Index d = 0; d < p.size; ++d) {
      float v = load_float(table, 0, id, d);
      if (is_int8(p.table)) v *= p.row_scales[static_cast<std::size_t>(id)];
      detail::store_float(args.y, 0, static_cast<Index>(i), d, v);
    }
  }
}

}  // namespace QUERN_ABI
}  // namespace quern
