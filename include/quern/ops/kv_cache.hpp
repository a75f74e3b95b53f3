// KV cache: the keys and values of the tokens so far, to which new tokens are appended in place.
//
// A cache is two views of heads that the caller owns, (batch, kv_heads, capacity, size) each, or,
// where sequences share memory page by page, (pages, kv_heads, page size, size) with a page table.
// How many tokens each sequence has is the caller's to count. Floats are rounded to the cache's
// type; s8 and s4 are symmetric:
//
//   per token    as RowQuantization over the vector's elements: amax / 127 (s4: amax / 7) is its
//                scale, written beside it; q = round_half_even(x * (127 / amax))
//   per channel  q = round_half_even(x / scale), saturated to [-127, 127] (s4: [-7, 7]), with
//                scales that were calibrated before
//
// Vectors of no elements have no scales: none is read or written, and they may be null.
//
// Keys can be rotated (ops/rope.hpp) on the way. Every bit is defined: reference_append() in
// ops/kv_cache_reference.hpp. NaN is stored as 0 in s8 and s4.
#pragma once

#include "quern/ops/rope.hpp"

namespace quern {
inline namespace QUERN_ABI {

/// What is fixed about appending to a cache.
struct KvAppendProblem {
  Index kv_heads = 1;
  Index k_size = 0;
  Index v_size = 0;
  HeadType source = HeadType::f32;  ///< of new keys and values: f32, bf16 or f16
  HeadType k = HeadType::f32;       ///< of the cache
  HeadType v = HeadType::f32;
  HeadScales k_scales = HeadScales::none;
  HeadScales v_scales = HeadScales::none;
  Rope rope = {};  ///< of keys, before they are stored
};

/// One call. Token t of the new ones of sequence b becomes token lengths[b] + t of the cache.
struct KvAppendArgs {
  ConstHeadsView k;       ///< new: (batch, kv_heads, tokens, k_size), or ragged by offsets
  ConstHeadsView v;       ///< new: (batch, kv_heads, tokens, v_size), likewise
  HeadsView k_cache;      ///< (batch, kv_heads, capacity, k_size), or pages
  HeadsView v_cache;      ///< (batch, kv_heads, capacity, v_size), or pages
  HeadFloats k_scales{};  ///< of k_cache: per token, written; per channel, read
  HeadFloats v_scales{};  ///< of v_cache
  std::span<const std::int32_t> lengths = {};  ///< tokens in the cache before; none: 0 everywhere
  std::span<const std::int32_t> offsets = {};  ///< a ragged batch of new tokens: see TokenMap
  Matrix<const std::int32_t> pages = {};       ///< (batch, columns), of both caches
  RopeTables tables = {};
  /// Of new keys, as in RopeArgs; without any, token t of sequence b is at lengths[b] + t.
  RopePositions positions = {};

  TokenMap source() const { return {offsets, {}}; }
  TokenMap target() const { return {{}, pages}; }
  Index batch() const { return source().batch(k); }
  Index length(Index b) const { return lengths.empty() ? 0 : lengths[static_cast<std::size_t>(b)]; }
  RopePositions rope_positions() const {
    return positions.positions.empty() && positions.starts.empty() ? RopePositions{{}, lengths}
                                                                   : positions;
  }
};

/// The scale and its inverse of a vector whose largest magnitude is amax, in s8 or s4.
inline RowQuantization token_quantization(float amax, HeadType type) {
  const auto most = static_cast<float>(largest(type));
  RowQuantization r;
  r.scale = amax / most;
  r.inverse = amax >= 0x1p-120f ? most / amax : 0.0f;  // as RowQuantization::of
  return r;
}

/// Everything that can be wrong with the description alone.
inline Error validate(const KvAppendProblem& p) {
  using detail::LL;
  if (!is_float(p.source)) {
    return Error::make(Code::unsupported, "kv append: %s cannot be appended", name(p.source));
  }
  if (p.kv_heads < 1 || p.k_size < 0 || p.v_size < 0) {
    return Error::make(Code::bad_shape, "kv append: %lld heads with sizes %lld and %lld",
                       LL(p.kv_heads), LL(p.k_size), LL(p.v_size));
  }
  if (Error e = detail::check_scale_kind(p.k, p.k_scales, "kv append: k")) return e;
  if (Error e = detail::check_scale_kind(p.v, p.v_scales, "kv append: v")) return e;
  return detail::check_rope(p.rope, p.k_size, "kv append: rope");
}

/// One call of a valid problem: shapes, strides and addresses. Never allocates.
inline Error validate(const KvAppendProblem& p, const KvAppendArgs& args) noexcept {
  using detail::LL;
  struct Span {
    const char* what;
    const void* data;
    Index bytes = 0;
  };
  Span in[2] = {{"k", args.k.data}, {"v", args.v.data}};
  Span out[4] = {{"k_cache", args.k_cache.data},
                 {"v_cache", args.v_cache.data},
                 {"k_scales", args.k_scales.data},
                 {"v_scales", args.v_scales.data}};
  const auto check = [](const auto& x, const char* what, HeadType type, Index heads, Index size,
                        Span& span) {
    return detail::check_heads(x, what, type, heads, size, &span.bytes);
  };
  if (Error e = check(args.k, "kv append: k", p.source, p.kv_heads, p.k_size, in[0])) return e;
  if (Error e = check(args.v, "kv append: v", p.source, p.kv_heads, p.v_size, in[1])) return e;
  if (Error e = check(args.k_cache, "kv append: k_cache", p.k, p.kv_heads, p.k_size, out[0]))
    return e;
  if (Error e = check(args.v_cache, "kv append: v_cache", p.v, p.kv_heads, p.v_size, out[1]))
    return e;
  if (args.k.batch != args.v.batch || args.k.tokens != args.v.tokens ||
      args.k_cache.batch != args.v_cache.batch || args.k_cache.tokens != args.v_cache.tokens) {
    return Error::make(Code::bad_shape,
                       "kv append: k and v are %lld x %lld and %lld x %lld (batch, tokens), their "
                       "caches %lld x %lld and %lld x %lld: they must agree",
                       LL(args.k.batch), LL(args.k.tokens), LL(args.v.batch), LL(args.v.tokens),
                       LL(args.k_cache.batch), LL(args.k_cache.tokens), LL(args.v_cache.batch),
                       LL(args.v_cache.tokens));
  }
  const Index batch = args.batch();
  if (Error e = detail::check_map(args.source(), args.k, batch, "kv append: k")) return e;
  if (Error e = detail::check_map(args.target(), args.k_cache, batch, "kv append: k_cache"))
    return e;
  if (!args.lengths.empty() && std::ssize(args.lengths) != batch) {
    return Error::make(Code::bad_shape, "kv append: %lld lengths for %lld sequences",
                       LL(args.lengths.size()), LL(batch));
  }
  if (Error e = detail::check_scales(args.k_scales, p.k_scales, args.k_cache, "kv append: k_scales",
                                     &out[2].bytes)) {
    return e;
  }
  if (Error e = detail::check_scales(args.v_scales, p.v_scales, args.v_cache, "kv append: v_scales",
                                     &out[3].bytes)) {
    return e;
  }
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < i + 2; ++j) {
      const Span& other = j < 2 ? in[j] : out[j - 2];
      if (detail::bytes_apart(out[i].data, out[i].bytes, other.data, other.bytes)) continue;
      const bool caches = i == 1 && j == 2;  // may share a buffer, page by page or token by token
      if (caches && detail::heads_apart(args.k_cache, out[0].bytes, args.v_cache, out[1].bytes)) {
        continue;
      }
      return Error::make(Code::bad_data, "kv append: %s at %p overlaps %s at %p", out[i].what,
                         out[i].data, other.what, other.data);
    }
  }
  return detail::check_tables(p.rope, args.tables, args.rope_positions(), args.k, batch,
                              "kv append: rope");
}

namespace detail {

/// No page may be written for two columns of the table: it would hold either's tokens.
inline Error check_pages_differ(const KvAppendArgs& args) noexcept {
  const TokenMap map = args.target();
  const Index size = args.k_cache.tokens;
  if (size == 0) return {};
  const auto each = [&](auto&& visit) -> Error {
    for (Index b = 0; b < args.batch(); ++b) {
      const Index begin = args.length(b), end = begin + args.source().capacity(args.k, b);
      for (Index column = begin / size; column * size < end && begin < end; ++column) {
        if (Error e = visit(b, column, map.place(args.k_cache, b, column * size).batch)) return e;
      }
    }
    return {};
  };
  return each([&](Index b, Index column, Index page) {
    return each([&](Index c, Index other, Index same) -> Error {
      if (page != same || c > b || (c == b && other >= column)) return {};
      return Error::make(Code::bad_value,
                         "kv append: page %lld would be written for sequences %lld and %lld",
                         LL(page), LL(c), LL(b));
    });
  });
}

inline Error check_channel_scales(const HeadFloats& s, HeadScales kind, const HeadsView& x,
                                  const char* what) noexcept {
  if (kind != HeadScales::per_channel) return {};
  for (Index h = 0; h < x.heads; ++h) {
    for (Index d = 0; d < x.size; ++d) {
      const float v = s.at(0, h, 0, d);
      if (v > 0.0f && std::isfinite(v)) continue;
      return Error::make(Code::bad_value, "%s: scale %lld of head %lld is %g; it must be positive",
                         what, LL(d), LL(h), double(v));
    }
  }
  return {};
}

}  // namespace detail

/// The numbers that come with a valid call, which must be in the program's memory: lengths within
/// the cache, pages in the table, positions in the rotary tables, positive scales.
inline Error validate_values(const KvAppendProblem& p, const KvAppendArgs& args) noexcept {
  using detail::LL;
  if (Error e = detail::check_offsets(args.source(), args.k, "kv append: k")) return e;
  for (Index b = 0; b < args.batch(); ++b) {
    const Index before = args.length(b), added = args.source().capacity(args.k, b),
                capacity = args.target().capacity(args.k_cache, b);
    if (before < 0 || before > capacity || added > capacity - before) {
      return Error::make(Code::bad_value,
                         "kv append: sequence %lld has %lld tokens and gets %lld, but the cache "
                         "holds %lld",
                         LL(b), LL(before), LL(added), LL(capacity));
    }
    if (Error e = detail::check_pages(args.target(), args.k_cache, b, before + added,
                                      "kv append: k_cache")) {
      return e;
    }
  }
  if (args.pages.data != nullptr) {
    if (Error e = detail::check_pages_differ(args)) return e;
  }
  if (Error e = detail::check_channel_scales(args.k_scales, p.k_scales, args.k_cache,
                                             "kv append: k_scales")) {
    return e;
  }
  if (Error e = detail::check_channel_scales(args.v_scales, p.v_scales, args.v_cache,
                                             "kv append: v_scales")) {
    return e;
  }
  return detail::check_positions(p.rope, args.tables, args.rope_positions(), args.source(), args.k,
                                 "kv append: rope");
}

}  // namespace QUERN_ABI
}  // namespace quern
