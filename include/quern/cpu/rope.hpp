// Rotary position embedding on the CPU, with the bits of its reference.
//
//   auto rope = prepare(cpu::Backend(), RopeProblem{.heads = 32, .size = 128, .rope = {128}});
//   if (Error e = rope->run({.x = q, .y = q, .tables = tables})) ...
#pragma once

#include "quern/cpu/rowwise.hpp"
#include "quern/ops/rope.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// The same type as a matrix has it; s4 has none and counts as s8.
constexpr DType dtype_of_head(HeadType t) {
  return t == HeadType::f32    ? DType::f32
         : t == HeadType::bf16 ? DType::bf16
         : t == HeadType::f16  ? DType::f16
                               : DType::s8;
}

/// A pointer to the first element of a vector; in s4, where two are a byte.
template <class Void>
auto* vector_at(const AnyHeads<Void>& x, TokenMap::Place at, Index h) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
  const Index i = at.batch * x.batch_stride + h * x.head_stride + at.token * x.token_stride;
  return static_cast<Byte*>(x.data) + i * bits_of(x.type) / 8;
}

/// A head's vector of floats of any type, rotated.
struct RotatedVector {
  static constexpr Index kPiece = 256;  ///< pairs

  const RowwiseKernels& kernels;
  const Rope& rope;
  const std::byte* data;
  DType type;
  Index size;
  const float *cos, *sin;

  /// Calls f(d, numbers, n) for pieces of the vector that together are all of it. Of each piece,
  /// all that it is made of has been read before, so f may write over it.
  template <class F>
  void visit(const F& f) const {
    alignas(64) float a[2 * kPiece], b[kPiece];
    const Index half = rope.rotary / 2;
    for (Index i = 0; i < half; i += kPiece) {
      const Index n = half - i < kPiece ? half - i : kPiece;
      if (rope.pairs == RopePairs::halves) {
        const float *x1 = read(i, n, a), *x2 = read(i + half, n, b);
        kernels.rotate(x1, x2, cos + i, sin + i, n, a, b);
        f(i, a, n);
        f(i + half, b, n);
      } else {
        kernels.rotate_neighbours(read(2 * i, 2 * n, a), cos + i, sin + i, n, a);
        f(2 * i, a, 2 * n);
      }
    }
    for (Index d = rope.rotary; d < size; d += 2 * kPiece) {
      const Index n = size - d < 2 * kPiece ? size - d : 2 * kPiece;
      f(d, read(d, n, a), n);
    }
  }

 private:
  const float* read(Index d, Index n, float* buffer) const {
    const std::byte* from = data + d * size_of(type);
    if (type == DType::f32) return reinterpret_cast<const float*>(from);
    kernels.load(type, from, n, buffer);
    return buffer;
  }
};

/// Calls f(b, t) for tokens begin to end - 1 of all sequences, one sequence after the other.
template <class Void, class F>
void for_tokens(const TokenMap& map, const AnyHeads<Void>& x, Index begin, Index end, const F& f) {
  Index b = 0;
  if (map.offsets.empty() && x.tokens != 0) {
    b = begin / x.tokens;
    begin -= b * x.tokens;
    end -= b * x.tokens;
  }
  for (; begin < end; ++b) {
    const Index tokens = map.capacity(x, b);
    for (; begin < end && begin < tokens; ++begin) f(b, begin);
    begin -= tokens;
    end -= tokens;
  }
}

/// Tokens of all sequences.
template <class Void>
Index count_tokens(const TokenMap& map, const AnyHeads<Void>& x) {
  return map.offsets.empty() ? x.batch * x.tokens : Index{map.offsets.back()};
}

/// A prepared rotation. Immutable: any number of threads may run it at a time.
class RopeOperation : public RowwiseOperation<RopeProblem> {
 public:
  /// Computes args.y. Checks everything first, offsets and positions too: after an Error, nothing
  /// was written. Never allocates; needs no workspace.
  Error run(const RopeArgs& args, std::span<std::byte> = {},
            Parallel executor = {}) const noexcept {
    if (Error e = validate(problem_, args)) return e;
    if (Error e = validate_values(problem_, args)) return e;
    const RopeProblem& p = problem_;
    if (p.size == 0) return {};
    const TokenMap map{args.offsets, {}};
    for_ranges(executor, count_tokens(map, args.x), p.heads * p.size, [&](Index begin, Index end) {
      for_tokens(map, args.x, begin, end, [&](Index b, Index t) { rotate_token(args, map, b, t); });
    });
    return {};
  }

  /// What prepare() calls.
  static Result<RopeOperation> make(const Backend& backend, const RopeProblem& p) {
    if (Error e = validate(p)) return e;
    return RopeOperation(backend, p);
  }

 private:
  using RowwiseOperation::RowwiseOperation;

  void rotate_token(const RopeArgs& args, const TokenMap& map, Index b, Index t) const {
    const RopeProblem& p = problem_;
    const TokenMap::Place at = map.place(args.x, b, t);
    const Index row = p.rope.rotary == 0 ? 0 : args.positions.row(map, args.x.tokens, b, t);
    const float *cos = nullptr, *sin = nullptr;
    if (p.rope.rotary != 0) {
      cos = args.tables.cos.data + row * args.tables.cos.row_stride;
      sin = args.tables.sin.data + row * args.tables.sin.row_stride;
    }
    const DType type = dtype_of_head(p.y);
    for (Index h = 0; h < p.heads; ++h) {
      std::byte* to = vector_at(args.y, at, h);
      RotatedVector{*kernels_, p.rope, vector_at(args.x, at, h), dtype_of_head(p.x), p.size,
                    cos,       sin}
          .visit([&](Index d, const float* numbers, Index n) {
            kernels_->store(type, numbers, n, to + d * size_of(type));
          });
    }
  }
};

}  // namespace cpu

/// The CPU takes every valid problem.
inline Error supports(const cpu::Backend&, const RopeProblem& p) { return validate(p); }

inline Result<cpu::RopeOperation> prepare(const cpu::Backend& backend, const RopeProblem& p) {
  return cpu::RopeOperation::make(backend, p);
}
static_assert(PreparedOperation<cpu::RopeOperation, RopeProblem, RopeArgs>);

}  // namespace QUERN_ABI
}  // namespace quern
