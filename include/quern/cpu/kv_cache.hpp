// Appending to KV caches on the CPU: keys are rotated and both are converted or quantized in one
// pass over the new tokens, with the bits of the reference.
//
//   auto append = prepare(cpu::Backend(), KvAppendProblem{.kv_heads = 8, .k_size = 128, ...});
//   if (Error e = append->run({.k = k, .v = v, .k_cache = ..., .lengths = lengths})) ...
#pragma once

#include "quern/cpu/rope.hpp"
#include "quern/ops/kv_cache.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// A prepared append. Immutable: any number of threads may run it at a time.
class KvAppend : public RowwiseOperation<KvAppendProblem> {
 public:
  /// Appends args.k and args.v. Checks everything first, offsets, lengths, pages and positions too:
  /// after an Error, nothing was written. Never allocates; needs no workspace.
  Error run(const KvAppendArgs& args, std::span<std::byte> = {},
            Parallel executor = {}) const noexcept {
    if (Error e = validate(problem_, args)) return e;
    if (Error e = validate_values(problem_, args)) return e;
    const KvAppendProblem& p = problem_;
    const TokenMap from = args.source();
    for_ranges(executor, count_tokens(from, args.k), p.kv_heads * (p.k_size + p.v_size),
               [&](Index begin, Index end) {
                 for_tokens(from, args.k, begin, end,
                            [&](Index b, Index t) { append_token(args, b, t); });
               });
    return {};
  }

  /// What prepare() calls.
  static Result<KvAppend> make(const Backend& backend, const KvAppendProblem& p) {
    if (Error e = validate(p)) return e;
    KvAppend op(backend, p);
    op.largest_magnitude_ = backend.kernels().largest;
    return op;
  }

 private:
  using RowwiseOperation::RowwiseOperation;

  void append_token(const KvAppendArgs& args, Index b, Index t) const {
    static constexpr Rope kNone = {};
    const KvAppendProblem& p = problem_;
    const TokenMap from = args.source();
    const TokenMap::Place in = from.place(args.k, b, t),
                          at = args.target().place(args.k_cache, b, args.length(b) + t);
    const float *cos = nullptr, *sin = nullptr;
    if (p.rope.rotary != 0) {
      const Index row = args.rope_positions().row(from, args.k.tokens, b, t);
      cos = args.tables.cos.data + row * args.tables.cos.row_stride;
      sin = args.tables.sin.data + row * args.tables.sin.row_stride;
    }
    const DType type = dtype_of_head(p.source);
    for (Index h = 0; h < p.kv_heads; ++h) {
      if (p.k_size != 0) {
        append_vector({*kernels_, p.rope, vector_at(args.k, in, h), type, p.k_size, cos, sin},
                      args.k_cache, args.k_scales, p.k_scales, at, h);
      }
      if (p.v_size != 0) {
        append_vector(
            {*kernels_, kNone, vector_at(args.v, in, h), type, p.v_size, nullptr, nullptr},
            args.v_cache, args.v_scales, p.v_scales, at, h);
      }
    }
  }

  /// Stores one vector as token `at` of head h of a cache.
  void append_vector(const RotatedVector& x, const HeadsView& cache, const HeadFloats& scales,
                     HeadScales kind, TokenMap::Place at, Index h) const {
    const RowwiseKernels& k = *kernels_;
    std::byte* to = vector_at(cache, at, h);
    const DType type = dtype_of_head(cache.type);
    if (kind == HeadScales::none) {
      x.visit([&](Index d, const float* numbers, Index n) {
        k.store(type, numbers, n, to + d * size_of(type));
      });
      return;
    }
    const std::int32_t most = largest(cache.type);
    RowQuantization token;
    PieceQuantization q{.column_scales = kind == HeadScales::per_channel,
                        .multiply = kind == HeadScales::per_token,
                        .low = -most,
                        .high = most};
    if (kind == HeadScales::per_token) {
      float amax = 0.0f;
      x.visit([&](Index, const float* numbers, Index n) {
        const float m = largest_magnitude_(numbers, n);
        if (m > amax) amax = m;
      });
      token = token_quantization(amax, cache.type);
      scales.at(at.batch, h, at.token) = token.scale;
      q.scales = &token.inverse;
    }
    x.visit([&](Index d, const float* numbers, Index n) {
      PieceQuantization piece = q;
      if (kind == HeadScales::per_channel) piece.scales = &scales.at(0, h, 0, d);
      if (cache.type == HeadType::s8) return k.quantize(DType::s8, numbers, n, piece, to + d);
      alignas(64) std::int8_t integers[2 * RotatedVector::kPiece];
      k.quantize(DType::s8, numbers, n, piece, integers);
      store_nibbles(integers, n, reinterpret_cast<std::uint8_t*>(to), d);
    });
  }

  /// Elements d to d + n - 1 of a vector of s4; those beside them in a byte stay.
  static void store_nibbles(const std::int8_t* x, Index n, std::uint8_t* to, Index d) {
    if (d % 2 != 0) {
      to[d / 2] = static_cast<std::uint8_t>((to[d / 2] & 15) | ((*x & 15) << 4));
      ++x, ++d, --n;
    }
    to += d / 2;
    for (; n >= 8; x += 8, to += 4, n -= 8) {  // lanes of 8, then 16 and 32 bits
      std::uint64_t v;
      std::memcpy(&v, x, 8);
      v &= 0x0F0F0F0F0F0F0F0Fu;
      v = (v | v >> 4) & 0x00FF00FF00FF00FFu;
      v = (v | v >> 8) & 0x0000FFFF0000FFFFu;
      const auto bytes = static_cast<std::uint32_t>(v | v >> 16);
      std::memcpy(to, &bytes, 4);
    }
    for (; n >= 2; x += 2, ++to, n -= 2) {
      *to = static_cast<std::uint8_t>((x[0] & 15) | ((x[1] & 15) << 4));
    }
    if (n == 1) *to = static_cast<std::uint8_t>((*to & 0xF0) | (*x & 15));
  }

  float (*largest_magnitude_)(const float* x, Index n) noexcept = nullptr;
};

}  // namespace cpu

/// The CPU takes every valid problem.
inline Error supports(const cpu::Backend&, const KvAppendProblem& p) { return validate(p); }

inline Result<cpu::KvAppend> prepare(const cpu::Backend& backend, const KvAppendProblem& p) {
  return cpu::KvAppend::make(backend, p);
}
static_assert(PreparedOperation<cpu::KvAppend, KvAppendProblem, KvAppendArgs>);

}  // namespace QUERN_ABI
}  // namespace quern
