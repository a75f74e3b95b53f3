// The meaning of appending to a KV cache, to the bit.
#pragma once

#include <cmath>
#include <vector>

#include "quern/ops/kv_cache.hpp"

namespace quern {
inline namespace QUERN_ABI {

namespace detail {

/// Stores one vector as token `at` of head h of a cache.
inline void append_vector(const std::vector<float>& x, const HeadsView& cache,
                          const HeadFloats& scales, HeadScales kind, TokenMap::Place at, Index h) {
  if (cache.size == 0) return;  // no scale either
  float amax = 0.0f;
  for (const float v : x) {
    if (std::fabs(v) > amax) amax = std::fabs(v);  // false for NaN
  }
  const RowQuantization token = token_quantization(amax, cache.type);
  if (kind == HeadScales::per_token) scales.at(at.batch, h, at.token) = token.scale;
  for (Index d = 0; d < cache.size; ++d) {
    float v = x[static_cast<std::size_t>(d)];
    if (kind != HeadScales::none) {
      v = kind == HeadScales::per_token ? v * token.inverse : v / scales.at(0, h, 0, d);
      const std::int32_t q = quantize(v, 0, DType::s8), most = largest(cache.type);
      v = static_cast<float>(q < -most ? -most : q > most ? most : q);
    }
    store(cache, at.batch, h, at.token, d, v);
  }
}

}  // namespace detail

/// Runs a problem whose validate()s have passed. Allocates, unlike backends.
inline void reference_append(const KvAppendProblem& p, const KvAppendArgs& args) {
  const TokenMap from = args.source(), to = args.target();
  std::vector<float> k(static_cast<std::size_t>(p.k_size)), v(static_cast<std::size_t>(p.v_size));
  for (Index b = 0; b < args.batch(); ++b) {
    for (Index t = 0; t < from.capacity(args.k, b); ++t) {
      const TokenMap::Place in = from.place(args.k, b, t),
                            at = to.place(args.k_cache, b, args.length(b) + t);
      const Index row =
          p.rope.rotary == 0 ? 0 : args.rope_positions().row(from, args.k.tokens, b, t);
      for (Index h = 0; h < p.kv_heads; ++h) {
        Index d = 0;
        for (float& x : k) x = load(args.k, in.batch, h, in.token, d++);
        for (Index i = 0; i < p.rope.rotary / 2; ++i) {
          float& first = k[static_cast<std::size_t>(p.rope.first(i))];
          float& second = k[static_cast<std::size_t>(p.rope.second(i))];
          const RotatedPair r =
              rotate(first, second, args.tables.cos.data[row * args.tables.cos.row_stride + i],
                     args.tables.sin.data[row * args.tables.sin.row_stride + i]);
          first = r.first;
          second = r.second;
        }
        d = 0;
        for (float& x : v) x = load(args.v, in.batch, h, in.token, d++);
        detail::append_vector(k, args.k_cache, args.k_scales, p.k_scales, at, h);
        detail::append_vector(v, args.v_cache, args.v_scales, p.v_scales, at, h);
      }
    }
  }
}

}  // namespace QUERN_ABI
}  // namespace quern
