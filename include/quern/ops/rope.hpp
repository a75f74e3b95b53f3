// Rotary position embedding (RoPE): pairs of a vector's elements are rotated by angles that grow
// with the token's position p,
//
//   (y1, y2) = (c x1 - s x2, s x1 + c x2),   c = cos(p f_i), s = sin(p f_i) for pair i,
//
// from tables of c and s that are given. Source: https://arxiv.org/abs/2104.09864; this is ONNX's
// RotaryEmbedding. Each product and each sum is one IEEE single operation, none of them fused, so
// that every backend returns the same bits; the result is then rounded to its type.
#pragma once

#include <cmath>

#include "quern/core/rounding.hpp"
#include "quern/ops/heads_check.hpp"

namespace quern {
inline namespace QUERN_ABI {

/// Which elements make a pair, with r of them rotated.
enum class RopePairs : std::uint8_t {
  halves,       ///< i and i + r / 2 (GPT-NeoX, Llama)
  interleaved,  ///< 2 i and 2 i + 1 (GPT-J)
};

/// What of a vector is rotated.
struct Rope {
  Index rotary = 0;  ///< elements, the first ones; even, at most the vector's size; 0: none
  RopePairs pairs = RopePairs::halves;

  /// The two elements of pair i.
  constexpr Index first(Index i) const { return pairs == RopePairs::halves ? i : 2 * i; }
  constexpr Index second(Index i) const {
    return pairs == RopePairs::halves ? i + rotary / 2 : 2 * i + 1;
  }
};

/// Cosines and sines (positions, rotary / 2): any row stride, col_stride 1.
struct RopeTables {
  Matrix<const float> cos = {};
  Matrix<const float> sin = {};
};

/// Where tokens are. Token t of sequence b uses the tables' row positions[b * tokens + t] (in a
/// ragged batch positions[offsets[b] + t]) where positions are given; else starts[b] + t, with
/// starts of 0 where none are given.
struct RopePositions {
  std::span<const std::int32_t> positions = {};
  std::span<const std::int32_t> starts = {};

  Index row(const TokenMap& map, Index tokens, Index b, Index t) const {
    const auto at = static_cast<std::size_t>(b);
    if (!positions.empty()) {
      const Index first = map.offsets.empty() ? b * tokens : Index{map.offsets[at]};
      return positions[static_cast<std::size_t>(first + t)];
    }
    return t + (starts.empty() ? 0 : starts[at]);
  }
};

struct RopeProblem {
  Index heads = 1;
  Index size = 0;
  HeadType x = HeadType::f32;  ///< f32, bf16 or f16
  HeadType y = HeadType::f32;  ///< f32, bf16 or f16
  Rope rope = {};
};

/// One call, of any number of tokens.
struct RopeArgs {
  ConstHeadsView x;
  HeadsView y;  ///< as x in batch and tokens; may be x itself, the same view
  RopeTables tables;
  RopePositions positions = {};
  std::span<const std::int32_t> offsets = {};  ///< a ragged batch: see TokenMap
};

namespace detail {

inline Error check_rope(const Rope& r, Index size, const char* what) {
  if (r.rotary >= 0 && r.rotary % 2 == 0 && r.rotary <= size &&
      static_cast<std::uint8_t>(r.pairs) <= 1) {
    return {};
  }
  return Error::make(Code::bad_shape,
                     "%s: %lld elements cannot be rotated in pairs (%d) of vectors of %lld", what,
                     LL(r.rotary), int(r.pairs), LL(size));
}

/// Tables and positions for `batch` sequences of x.
inline Error check_tables(const Rope& r, const RopeTables& tables, const RopePositions& p,
                          const ConstHeadsView& x, Index batch, const char* what) noexcept {
  if (r.rotary == 0) return {};
  for (const Matrix<const float>* m : {&tables.cos, &tables.sin}) {
    Index bytes = 0;
    if (m->cols != r.rotary / 2 || m->rows != tables.cos.rows || m->batch != 1 ||
        (m->cols > 1 && m->col_stride != 1)) {
      return Error::make(Code::bad_shape,
                         "%s: a table is %lld x %lld x %lld with column stride %lld, not %lld x "
                         "%lld with 1",
                         what, LL(m->batch), LL(m->rows), LL(m->cols), LL(m->col_stride),
                         LL(tables.cos.rows), LL(r.rotary / 2));
    }
    if (Error e = measure(ConstMatrixView(*m), what, &bytes)) return e;
  }
  const Index tokens = x.batch * x.tokens;
  if (!p.positions.empty() && std::ssize(p.positions) != tokens) {
    return Error::make(Code::bad_shape, "%s: %lld positions for %lld tokens", what,
                       LL(p.positions.size()), LL(tokens));
  }
  if (!p.starts.empty() && std::ssize(p.starts) != batch) {
    return Error::make(Code::bad_shape, "%s: %lld first positions for %lld sequences", what,
                       LL(p.starts.size()), LL(batch));
  }
  return {};
}

/// All rows exist. The offsets have been checked.
inline Error check_positions(const Rope& r, const RopeTables& tables, const RopePositions& p,
                             const TokenMap& map, const ConstHeadsView& x,
                             const char* what) noexcept {
  if (r.rotary == 0) return {};
  for (Index b = 0; b < map.batch(x); ++b) {
    for (Index t = 0; t < map.capacity(x, b); ++t) {
      const Index row = p.row(map, x.tokens, b, t);
      if (row >= 0 && row < tables.cos.rows) continue;
      return Error::make(Code::bad_value,
                         "%s: token %lld of sequence %lld is at position %lld, but the tables have "
                         "%lld",
                         what, LL(t), LL(b), LL(row), LL(tables.cos.rows));
    }
  }
  return {};
}

}  // namespace detail

inline Error validate(const RopeProblem& p) {
  using detail::LL;
  if (!is_float(p.x) || !is_float(p.y)) {
    return Error::make(Code::unsupported, "rope: %s -> %s is not offered", name(p.x), name(p.y));
  }
  if (p.heads < 1 || p.size < 0) {
    return Error::make(Code::bad_shape, "rope: %lld heads of size %lld", LL(p.heads), LL(p.size));
  }
  return detail::check_rope(p.rope, p.size, "rope");
}

/// One call of a valid problem: shapes, strides and addresses. Never allocates.
inline Error validate(const RopeProblem& p, const RopeArgs& args) noexcept {
  using detail::LL;
  const ConstHeadsView &x = args.x, y = args.y;
  const TokenMap map{args.offsets, {}};
  Index x_bytes = 0, y_bytes = 0;
  if (Error e = detail::check_heads(x, "rope: x", p.x, p.heads, p.size, &x_bytes)) return e;
  if (Error e = detail::check_heads(args.y, "rope: y", p.y, p.heads, p.size, &y_bytes)) return e;
  if (x.batch != y.batch || x.tokens != y.tokens) {
    return Error::make(Code::bad_shape, "rope: x has %lld x %lld tokens but y %lld x %lld",
                       LL(x.batch), LL(x.tokens), LL(y.batch), LL(y.tokens));
  }
  if (Error e = detail::check_map(map, x, map.batch(x), "rope: x")) return e;
  const bool same = x.data == y.data && x.type == y.type && x.batch_stride == y.batch_stride &&
                    x.head_stride == y.head_stride && x.token_stride == y.token_stride;
  if (!same && !detail::bytes_apart(x.data, x_bytes, y.data, y_bytes)) {
    return Error::make(Code::bad_data, "rope: y at %p overlaps x at %p without being the same view",
                       y.data, x.data);
  }
  return detail::check_tables(p.rope, args.tables, args.positions, x, map.batch(x), "rope");
}

/// The numbers that come with a valid call, which must be in the program's memory.
inline Error validate_values(const RopeProblem& p, const RopeArgs& args) noexcept {
  const TokenMap map{args.offsets, {}};
  if (Error e = detail::check_offsets(map, args.x, "rope: x")) return e;
  return detail::check_positions(p.rope, args.tables, args.positions, map, args.x, "rope");
}

struct RotatedPair {
  float first, second;
};

/// One pair: the definition.
inline RotatedPair rotate(float first, float second, float cos, float sin) {
  return {unfused(cos * first) - unfused(sin * second),
          unfused(sin * first) + unfused(cos * second)};
}

/// Fills tables (positions, r / 2) with the cosines and sines of p * position_scale * f_i, where
/// f_i = base^(-2 i / r): computed in double, rounded once. A position_scale below 1 squeezes long
/// texts into the positions a model was trained on.
inline void fill_rope_tables(const Matrix<float>& cos, const Matrix<float>& sin,
                             double base = 10000.0, double position_scale = 1.0) {
  for (Index i = 0; i < cos.cols; ++i) {
    const double f = std::pow(base, -static_cast<double>(i) / static_cast<double>(cos.cols));
    for (Index p = 0; p < cos.rows; ++p) {
      const double angle = static_cast<double>(p) * position_scale * f;
      cos.data[p * cos.row_stride + i * cos.col_stride] = static_cast<float>(std::cos(angle));
      sin.data[p * sin.row_stride + i * sin.col_stride] = static_cast<float>(std::sin(angle));
    }
  }
}

/// Runs a problem whose validate()s have passed.
inline void reference_rope(const RopeProblem& p, const RopeArgs& args) {
  const TokenMap map{args.offsets, {}};
  const auto &cos = args.tables.cos, &sin = args.tables.sin;
  for (Index b = 0; b < map.batch(args.x); ++b) {
    for (Index t = 0; t < map.capacity(args.x, b); ++t) {
      const Index row = p.rope.rotary == 0 ? 0 : args.positions.row(map, args.x.tokens, b, t);
      const TokenMap::Place at = map.place(args.x, b, t);
      for (Index h = 0; h < p.heads; ++h) {
        const auto x = [&](Index d) { return load(args.x, at.batch, h, at.token, d); };
        const auto y = [&](Index d, float v) { store(args.y, at.batch, h, at.token, d, v); };
        for (Index i = 0; i < p.rope.rotary / 2; ++i) {
          const Index first = p.rope.first(i), second = p.rope.second(i);
          const RotatedPair r = rotate(x(first), x(second), cos.data[row * cos.row_stride + i],
                                       sin.data[row * sin.row_stride + i]);
          y(first, r.first);
          y(second, r.second);
        }
        for (Index d = p.rope.rotary; d < p.size; ++d) y(d, x(d));
      }
    }
  }
}

}  // namespace QUERN_ABI
}  // namespace quern
