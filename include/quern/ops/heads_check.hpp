// What can be wrong with the vectors of heads, their scales and the places of their tokens.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "quern/ops/heads.hpp"

namespace quern {
inline namespace QUERN_ABI {

namespace detail {

using LL = long long;

/// The span of strided blocks of `inner` elements, in elements; false where it, an extent or a
/// stride passes 2^56, so that nobody has to check a few of them times a size again. None is
/// negative.
constexpr bool spans_fit(const Index (&extents)[3], const Index (&strides)[3], Index inner,
                         Index* span) {
  constexpr Index kMost = Index{1} << 56;
  *span = inner;
  if (inner > kMost) return false;
  for (int i = 0; i < 3; ++i) {
    Index reach = 0;
    if (strides[i] > kMost || extents[i] > kMost ||
        !multiply_fits(extents[i] > 0 ? extents[i] - 1 : 0, strides[i], &reach) || reach > kMost) {
      return false;
    }
    *span += reach;
  }
  return *span <= kMost;
}

/// Whether strided blocks of `inner` elements are apart; where `shared`, a stride of 0 is fine.
constexpr bool blocks_apart(const Index (&extents)[3], const Index (&strides)[3], Index inner,
                            bool shared) {
  int order[3] = {0, 1, 2};
  for (const auto& [a, b] : {std::pair{0, 1}, {1, 2}, {0, 1}}) {
    if (strides[order[a]] > strides[order[b]]) std::swap(order[a], order[b]);
  }
  Index span = inner;
  for (const int i : order) {
    if (extents[i] <= 1 || (shared && strides[i] == 0)) continue;
    if (strides[i] < span) return false;
    span += (extents[i] - 1) * strides[i];
  }
  return true;
}

inline bool bytes_apart(const void* x, Index x_bytes, const void* y, Index y_bytes) {
  if (x_bytes == 0 || y_bytes == 0) return true;
  const auto x0 = reinterpret_cast<std::uintptr_t>(x), y0 = reinterpret_cast<std::uintptr_t>(y);
  return x0 + static_cast<std::uintptr_t>(x_bytes) <= y0 ||
         y0 + static_cast<std::uintptr_t>(y_bytes) <= x0;
}

/// Whether two views of these bytes share none: one lies behind the other, or they interleave, as
/// keys and values of a page or of a token do in one buffer: blocks a common stride apart.
inline bool heads_apart(const ConstHeadsView& x, Index x_bytes, const ConstHeadsView& y,
                        Index y_bytes) {
  if (bytes_apart(x.data, x_bytes, y.data, y_bytes)) return true;
  const auto x0 = reinterpret_cast<std::uintptr_t>(x.data),
             y0 = reinterpret_cast<std::uintptr_t>(y.data);
  const auto bytes = [](Index elements, HeadType type) {
    return (elements * bits_of(type) + 7) / 8;
  };
  for (const Index ConstHeadsView::*stride :
       {&ConstHeadsView::batch_stride, &ConstHeadsView::head_stride,
        &ConstHeadsView::token_stride}) {
    const Index s = bytes(x.*stride, x.type);
    if (s <= 0 || s != bytes(y.*stride, y.type)) continue;
    bool even = true;
    Index inner[2] = {0, 0};
    for (int i = 0; i < 2; ++i) {
      const ConstHeadsView& v = i == 0 ? x : y;
      const Index extents[3] = {v.batch, v.heads, v.tokens},
                  strides[3] = {v.batch_stride, v.head_stride, v.token_stride};
      Index span = v.size;
      for (int d = 0; d < 3; ++d) {
        if (strides[d] < v.*stride) span += (extents[d] - 1) * strides[d];
        if (strides[d] >= v.*stride && strides[d] % (v.*stride) != 0 && extents[d] > 1)
          even = false;
      }
      inner[i] = bytes(span, v.type);
    }
    const Index ahead = y0 >= x0 ? Index(y0 - x0) % s : (s - Index(x0 - y0) % s) % s;
    if (even && ahead >= inner[0] && ahead + inner[1] <= s) return true;
  }
  return false;
}

/// Checks a view alone and measures it: bytes from the first element to one past the last. `what`
/// names it in messages, e.g. "attention: q". An output's elements must all be apart.
template <class Void>
Error check_heads(const AnyHeads<Void>& x, const char* what, HeadType type, Index heads, Index size,
                  Index* bytes) noexcept {
  *bytes = 0;
  if (x.type != type) {
    return Error::make(Code::unsupported, "%s holds %s but the problem says %s", what, name(x.type),
                       name(type));
  }
  if (x.batch < 0 || x.tokens < 0 || x.heads != heads || x.size != size) {
    return Error::make(Code::bad_shape,
                       "%s is %lld x %lld x %lld x %lld (batch, heads, tokens, size) but must have "
                       "%lld heads of size %lld",
                       what, LL(x.batch), LL(x.heads), LL(x.tokens), LL(x.size), LL(heads),
                       LL(size));
  }
  if (x.batch_stride < 0 || x.head_stride < 0 || x.token_stride < 0) {
    return Error::make(Code::bad_shape, "%s has strides %lld, %lld, %lld: they cannot be negative",
                       what, LL(x.batch_stride), LL(x.head_stride), LL(x.token_stride));
  }
  const Index extents[3] = {x.batch, x.heads, x.tokens};
  const Index strides[3] = {x.batch_stride, x.head_stride, x.token_stride};
  Index span = 0, count = 0;
  if (!spans_fit(extents, strides, x.size, &span) || !multiply_fits(x.batch, x.tokens, &count) ||
      !multiply_fits(count, x.heads, &count)) {
    return Error::make(Code::bad_shape,
                       "%s: %lld x %lld x %lld x %lld with strides %lld, %lld, %lld overflows",
                       what, LL(x.batch), LL(x.heads), LL(x.tokens), LL(x.size), LL(x.batch_stride),
                       LL(x.head_stride), LL(x.token_stride));
  }
  if (count == 0 || x.size == 0) return {};
  if (!blocks_apart(extents, strides, x.size, std::is_const_v<Void>)) {
    return Error::make(Code::bad_shape,
                       "%s: vectors of %lld with strides %lld, %lld, %lld overlap each other", what,
                       LL(x.size), LL(x.batch_stride), LL(x.head_stride), LL(x.token_stride));
  }
  if (type == HeadType::s4 &&
      ((x.batch_stride | x.head_stride | x.token_stride | x.size) & 1) != 0) {
    return Error::make(Code::bad_shape,
                       "%s: s4 vectors of %lld with strides %lld, %lld, %lld: all must be even",
                       what, LL(x.size), LL(x.batch_stride), LL(x.head_stride), LL(x.token_stride));
  }
  if (x.data == nullptr) {
    return Error::make(Code::bad_data, "%s is null but has %lld x %lld x %lld x %lld elements",
                       what, LL(x.batch), LL(x.heads), LL(x.tokens), LL(x.size));
  }
  const Index unit = bits_of(type) < 8 ? 1 : bits_of(type) / 8;
  if (reinterpret_cast<std::uintptr_t>(x.data) % static_cast<std::uintptr_t>(unit) != 0) {
    return Error::make(Code::bad_data, "%s at %p is not aligned for %s", what,
                       static_cast<const void*>(x.data), name(type));
  }
  *bytes = (span * bits_of(type) + 7) / 8;
  return {};
}

/// Checks that quantized vectors, and only they, have scales of the right kind, and measures them.
template <class Float, class Void>
Error check_scales(const AnyHeadFloats<Float>& s, HeadScales kind, const AnyHeads<Void>& x,
                   const char* what, Index* bytes) noexcept {
  *bytes = 0;
  const bool token = kind == HeadScales::per_token;
  // Channels have their scales whether there are tokens or not; vectors of no elements have none.
  const bool empty = x.heads == 0 || x.size == 0 || (token && (x.batch == 0 || x.tokens == 0));
  if (kind == HeadScales::none || empty) return {};
  if (s.data == nullptr || reinterpret_cast<std::uintptr_t>(s.data) % alignof(float) != 0) {
    return Error::make(Code::bad_data, "%s (%s) at %p is null or not aligned", what, name(kind),
                       static_cast<const void*>(s.data));
  }
  const Index extents[3] = {token ? x.batch : 1, x.heads, token ? x.tokens : 1};
  const Index strides[3] = {s.batch_stride, s.head_stride, s.token_stride};
  const Index inner = token ? 1 : x.size;
  Index span = 0;
  const bool negative = s.batch_stride < 0 || s.head_stride < 0 || s.token_stride < 0;
  const bool wrong = token ? s.channel_stride != 0
                           : s.channel_stride != 1 || s.batch_stride != 0 || s.token_stride != 0;
  if (negative || wrong || !spans_fit(extents, strides, inner, &span) ||
      !blocks_apart(extents, strides, inner, std::is_const_v<Float>)) {
    return Error::make(
        Code::bad_shape,
        "%s: strides %lld, %lld, %lld, %lld (batch, head, token, channel) do not fit "
        "floats %s of %lld x %lld x %lld x %lld",
        what, LL(s.batch_stride), LL(s.head_stride), LL(s.token_stride), LL(s.channel_stride),
        name(kind), LL(x.batch), LL(x.heads), LL(x.tokens), LL(x.size));
  }
  *bytes = span * static_cast<Index>(sizeof(float));
  return {};
}

/// Quantized elements, and only they, have scales.
inline Error check_scale_kind(HeadType type, HeadScales scales, const char* what) {
  if (!is_known(type) || !is_known(scales)) {
    return Error::make(Code::unsupported, "%s: type %d with scales %d is not offered", what,
                       int(type), int(scales));
  }
  if (is_float(type) != (scales == HeadScales::none)) {
    return Error::make(Code::unsupported, "%s: %s cannot have scales: %s", what, name(type),
                       name(scales));
  }
  return {};
}

/// The shape of a token map for `batch` sequences in x; reads no offset and no page.
template <class Void>
Error check_map(const TokenMap& map, const AnyHeads<Void>& x, Index batch, const char* what) {
  const bool paged = map.pages.data != nullptr || map.pages.rows != 0 || map.pages.cols != 0;
  if (paged && !map.offsets.empty()) {
    return Error::make(Code::unsupported, "%s has both offsets and pages", what);
  }
  if (!map.offsets.empty() && (x.batch != 1 || std::ssize(map.offsets) != batch + 1)) {
    return Error::make(Code::bad_shape,
                       "%s has %lld offsets, %lld sequences and a batch of %lld, not sequences + 1 "
                       "offsets and a batch of 1",
                       what, LL(map.offsets.size()), LL(batch), LL(x.batch));
  }
  if (paged) {
    const auto& p = map.pages;
    const Index extents[3] = {1, p.rows, p.cols}, strides[3] = {0, p.row_stride, p.col_stride};
    Index span = 0, capacity = 0;
    if (p.rows != batch || p.cols < 0 || p.batch != 1 || p.row_stride < 0 || p.col_stride < 0 ||
        !spans_fit(extents, strides, 1, &span) || !multiply_fits(p.cols, x.tokens, &capacity)) {
      return Error::make(Code::bad_shape,
                         "%s has a page table of %lld x %lld with strides %lld, %lld at %p for "
                         "%lld sequences and pages of %lld",
                         what, LL(p.rows), LL(p.cols), LL(p.row_stride), LL(p.col_stride),
                         static_cast<const void*>(p.data), LL(batch), LL(x.tokens));
    }
    // Nor of no columns: TokenMap takes null for no table, and would find tokens in page b.
    if (p.data == nullptr && p.rows != 0) {
      return Error::make(Code::bad_data, "%s has a page table of %lld x %lld that is null", what,
                         LL(p.rows), LL(p.cols));
    }
  }
  if (!paged && map.offsets.empty() && x.batch != batch) {
    return Error::make(Code::bad_shape, "%s has a batch of %lld for %lld sequences", what,
                       LL(x.batch), LL(batch));
  }
  return {};
}

/// Offsets that do not decrease and stay in the view.
template <class Void>
Error check_offsets(const TokenMap& map, const AnyHeads<Void>& x, const char* what) noexcept {
  for (std::size_t i = 0; i < map.offsets.size(); ++i) {
    const Index low = i == 0 ? 0 : map.offsets[i - 1];
    if (map.offsets[i] < low || map.offsets[i] > x.tokens || (i == 0 && map.offsets[0] != 0)) {
      return Error::make(Code::bad_value,
                         "%s: offset %lld is %d; they start at 0, do not decrease and end by %lld",
                         what, LL(i), int(map.offsets[i]), LL(x.tokens));
    }
  }
  return {};
}

/// The pages of the first `tokens` tokens of sequence b lie in the view.
template <class Void>
Error check_pages(const TokenMap& map, const AnyHeads<Void>& x, Index b, Index tokens,
                  const char* what) noexcept {
  if (map.pages.data == nullptr) return {};
  for (Index column = 0; column * x.tokens < tokens; ++column) {
    const Index page = map.place(x, b, column * x.tokens).batch;
    if (page < 0 || page >= x.batch) {
      return Error::make(Code::bad_value,
                         "%s: page %lld of sequence %lld is %lld, but there are %lld pages", what,
                         LL(column), LL(b), LL(page), LL(x.batch));
    }
  }
  return {};
}

}  // namespace detail

}  // namespace QUERN_ABI
}  // namespace quern
