// Fragment, compiled per target: rows of A into the order the tiles read, 8-bit panels to 16 bits,
// and the row statistics that zero points and dynamic quantization need.
HWY_BEFORE_NAMESPACE();
namespace quern {
inline namespace QUERN_ABI {
namespace cpu {
namespace HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR

// 16 bytes at a time: transposing 4x4 words needs no more, and no shuffle across 128-bit blocks.
using B32 = hn::FixedTag<std::int32_t, 4>;
using B16 = hn::FixedTag<std::int16_t, 8>;
using B64 = hn::FixedTag<std::int64_t, 2>;
using VB32 = hn::Vec<B32>;

/// Bytes [at, at + 16) of a row of `size` bytes; beyond its end zeros, without reading there.
HWY_INLINE VB32 load_block(const std::byte* row, Index at, Index size) {
  if (at + 16 <= size) return hn::LoadU(B32(), reinterpret_cast<const std::int32_t*>(row + at));
  // Copies of fixed sizes: a memcpy of any size is a call, which short rows would feel.
  alignas(16) std::byte tail[16] = {};
  const Index rest = size - at;
  const std::byte* from = row + at;
  Index done = 0;
  if ((rest & 8) != 0) std::memcpy(tail, from, 8), done = 8;
  if ((rest & 4) != 0) std::memcpy(tail + done, from + done, 4), done += 4;
  if ((rest & 2) != 0) std::memcpy(tail + done, from + done, 2), done += 2;
  if ((rest & 1) != 0) tail[done] = from[done];
  return hn::Load(B32(), reinterpret_cast<const std::int32_t*>(tail));
}

/// The even and the odd bytes of each word, widened to 16 bits: k, k+2 and k+1, k+3.
template <bool kSigned, class D16x, class V16x>
HWY_INLINE V16x even_bytes(D16x d, V16x x) {
  if constexpr (kSigned) return hn::ShiftRight<8>(hn::ShiftLeft<8>(x));
  return hn::And(x, hn::Set(d, std::int16_t{0xFF}));
}
template <bool kSigned, class D16x, class V16x>
HWY_INLINE V16x odd_bytes(D16x d, V16x x) {
  if constexpr (kSigned) return hn::ShiftRight<8>(x);
  const hn::RebindToUnsigned<D16x> du;
  return hn::BitCast(d, hn::ShiftRight<8>(hn::BitCast(du, x)));
}

HWY_INLINE void store_half(std::byte* to, VB32 x) {
  hn::StoreU(hn::LowerHalf(x), hn::FixedTag<std::int32_t, 2>(),
             reinterpret_cast<std::int32_t*>(to));
}
HWY_INLINE void store_block(std::byte* to, VB32 x) {
  hn::StoreU(x, B32(), reinterpret_cast<std::int32_t*>(to));
}
HWY_INLINE VB32 lower_64(VB32 a, VB32 b) {
  return hn::BitCast(B32(), hn::InterleaveLower(hn::BitCast(B64(), a), hn::BitCast(B64(), b)));
}
HWY_INLINE VB32 upper_64(VB32 a, VB32 b) {
  const B64 d;
  return hn::BitCast(B32(), hn::InterleaveUpper(d, hn::BitCast(d, a), hn::BitCast(d, b)));
}
HWY_INLINE VB32 upper_32(VB32 a, VB32 b) { return hn::InterleaveUpper(B32(), a, b); }

/// Rows r and, if kTwo, r + 1: 64 bits a quad and row, so two rows fill a block. `products` (rows)
/// or null: less the sum of x[0] x[1] + x[2] x[3] + ...
template <bool kSigned, bool kTwo>
HWY_INLINE void pack_pair_rows(const RowSource& rows, Index r, Index k, std::byte* out,
                               std::int32_t* products) {
  const Index quad_bytes = rows.rows * 8;
  const std::byte* row0 = rows.data + r * rows.row_bytes;
  const std::byte* row1 = row0 + rows.row_bytes;
  VB32 sum0 = hn::Zero(B32()), sum1 = sum0;
  const auto widen_row = [&](const std::byte* row, Index at, VB32& first, VB32& second,
                             [[maybe_unused]] VB32& sum) HWY_ATTR {
    const B16 d;
    const auto x = hn::BitCast(d, load_block(row, at, k));
    const auto even = even_bytes<kSigned>(d, x), odd = odd_bytes<kSigned>(d, x);
#if QUERN_HAVE_SUMS
    VB32 unused = hn::Zero(B32());
    sum = hn::ReorderWidenMulAccumulate(B32(), even, odd, sum, unused);
#endif
    const VB32 even_words = hn::BitCast(B32(), even), odd_words = hn::BitCast(B32(), odd);
    first = hn::InterleaveLower(even_words, odd_words);  // quads 0 and 1
    second = upper_32(even_words, odd_words);            // quads 2 and 3
  };
  for (Index at = 0; at < k; at += 16) {
    std::byte* to = out + at / 4 * quad_bytes + r * 8;
    const Index quads = (k - at + 3) / 4;  // in this block, up to 4
    VB32 a0, a1;
    widen_row(row0, at, a0, a1, sum0);
    if constexpr (kTwo) {
      VB32 b0, b1;
      widen_row(row1, at, b0, b1, sum1);
      store_block(to, lower_64(a0, b0));
      if (quads > 1) store_block(to + quad_bytes, upper_64(a0, b0));
      if (quads > 2) store_block(to + 2 * quad_bytes, lower_64(a1, b1));
      if (quads > 3) store_block(to + 3 * quad_bytes, upper_64(a1, b1));
    } else {
      store_half(to, a0);
      if (quads > 1) store_half(to + quad_bytes, upper_64(a0, a0));
      if (quads > 2) store_half(to + 2 * quad_bytes, a1);
      if (quads > 3) store_half(to + 3 * quad_bytes, upper_64(a1, a1));
    }
  }
  if (products == nullptr) return;
  const VB32 some = hn::Add(hn::InterleaveLower(sum0, sum1), upper_32(sum0, sum1));
  const VB32 both = hn::Add(some, upper_64(some, some));  // of row r, of row r + 1
  products[r] -= hn::GetLane(both);
  if (kTwo) products[r + 1] -= hn::ExtractLane(both, 1);
}

template <bool kSigned>
HWY_INLINE void pack_pairs_of(const RowSource& rows, Index k, std::byte* out,
                              std::int32_t* products) {
  Index r = 0;
  for (; r + 2 <= rows.rows; r += 2) pack_pair_rows<kSigned, true>(rows, r, k, out, products);
  if (r < rows.rows) pack_pair_rows<kSigned, false>(rows, r, k, out, products);
}

inline void pack_pairs(const RowSource& rows, Index k, bool is_signed, std::byte* out,
                       std::int32_t* products) noexcept {
  if (is_signed) {
    pack_pairs_of<true>(rows, k, out, products);
  } else {
    pack_pairs_of<false>(rows, k, out, products);
  }
}

inline void pack_words(const RowSource& rows, Index bytes, std::uint32_t flip,
                       std::byte* out) noexcept {
  const Index step_bytes = rows.rows * 4;
  const VB32 mask = hn::Set(B32(), static_cast<std::int32_t>(flip));
  const auto load = [&](Index r, Index at) HWY_ATTR {
    return hn::Xor(load_block(rows.data + r * rows.row_bytes, at, bytes), mask);
  };
  Index r = 0;
  for (; r + 4 <= rows.rows; r += 4) {
    for (Index at = 0; at < bytes; at += 16) {
      std::byte* to = out + at / 4 * step_bytes + r * 4;
      const Index words = (bytes - at + 3) / 4;
      const VB32 x0 = load(r, at), x1 = load(r + 1, at), x2 = load(r + 2, at), x3 = load(r + 3, at);
      const VB32 t0 = hn::InterleaveLower(x0, x1), t1 = hn::InterleaveLower(x2, x3);
      const VB32 u0 = upper_32(x0, x1), u1 = upper_32(x2, x3);
      store_block(to, lower_64(t0, t1));
      if (words > 1) store_block(to + step_bytes, upper_64(t0, t1));
      if (words > 2) store_block(to + 2 * step_bytes, lower_64(u0, u1));
      if (words > 3) store_block(to + 3 * step_bytes, upper_64(u0, u1));
    }
  }
  for (; r + 2 <= rows.rows; r += 2) {
    for (Index at = 0; at < bytes; at += 16) {
      std::byte* to = out + at / 4 * step_bytes + r * 4;
      const Index words = (bytes - at + 3) / 4;
      const VB32 x0 = load(r, at), x1 = load(r + 1, at);
      const VB32 t = hn::InterleaveLower(x0, x1), u = upper_32(x0, x1);
      store_half(to, t);
      if (words > 1) store_half(to + step_bytes, upper_64(t, t));
      if (words > 2) store_half(to + 2 * step_bytes, u);
      if (words > 3) store_half(to + 3 * step_bytes, upper_64(u, u));
    }
  }
  if (r < rows.rows) {
    for (Index at = 0; at < bytes; at += 16) {
      alignas(16) std::int32_t words[4];
      hn::Store(load(r, at), B32(), words);
      const Index count = (bytes - at + 3) / 4;
      for (Index w = 0; w < 4 && w < count; ++w) {
        std::memcpy(out + (at / 4 + w) * step_bytes + r * 4, words + w, 4);
      }
    }
  }
}

inline void split_nibbles(std::byte* words, Index count) noexcept {
  // Backwards, so that nothing is overwritten before it has been read.
  constexpr std::int32_t kMask = 0x0F0F0F0F;
  Index i = count;
  for (; i % 4 != 0; --i) {
    std::int32_t word, halves[2];
    std::memcpy(&word, words + (i - 1) * 4, 4);
    halves[0] = word & kMask;
    halves[1] = (word >> 4) & kMask;
    std::memcpy(words + (i - 1) * 8, halves, 8);
  }
  const VB32 mask = hn::Set(B32(), kMask);
  for (; i != 0; i -= 4) {
    const VB32 x = hn::LoadU(B32(), reinterpret_cast<const std::int32_t*>(words + (i - 4) * 4));
    const VB32 lower = hn::And(x, mask), upper = hn::And(hn::ShiftRight<4>(x), mask);
    store_block(words + (i - 4) * 8, hn::InterleaveLower(lower, upper));
    store_block(words + (i - 4) * 8 + 16, upper_32(lower, upper));
  }
}

inline void widen(const std::byte* panel, Index quads, std::byte* out) noexcept {
  const D32 d;
  const D16 d16;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  for (Index q = 0; q < quads; ++q, panel += 64, out += 128) {
    for (Index c = 0; c < 16; c += lanes) {
      const auto x =
          hn::BitCast(d16, hn::LoadU(d, reinterpret_cast<const std::int32_t*>(panel) + c));
      auto* to = reinterpret_cast<std::int32_t*>(out) + c;
      hn::StoreU(hn::BitCast(d, even_bytes<true>(d16, x)), d, to);
      hn::StoreU(hn::BitCast(d, odd_bytes<true>(d16, x)), d, to + 16);
    }
  }
}

#else  // HWY_TARGET == HWY_SCALAR

inline void pack_pairs(const RowSource& rows, Index k, bool is_signed, std::byte* out,
                       std::int32_t* /*products*/) noexcept {
  auto* to = reinterpret_cast<std::int16_t*>(out);
  for (Index at = 0; at < k; at += 4) {
    for (Index r = 0; r < rows.rows; ++r) {
      for (const Index i : {Index{0}, Index{2}, Index{1}, Index{3}}) {
        int x = 0;
        if (at + i < k) {
          const std::byte b = rows.data[r * rows.row_bytes + at + i];
          x = is_signed ? static_cast<std::int8_t>(b) : static_cast<std::uint8_t>(b);
        }
        *to++ = static_cast<std::int16_t>(x);
      }
    }
  }
}

inline void pack_words(const RowSource& rows, Index bytes, std::uint32_t flip,
                       std::byte* out) noexcept {
  for (Index at = 0; at < bytes; at += 4) {
    for (Index r = 0; r < rows.rows; ++r, out += 4) {
      std::uint32_t word = 0;
      const Index size = bytes - at < 4 ? bytes - at : 4;
      std::memcpy(&word, rows.data + r * rows.row_bytes + at, static_cast<std::size_t>(size));
      word ^= flip;
      std::memcpy(out, &word, 4);
    }
  }
}

inline void widen(const std::byte*, Index, std::byte*) noexcept {}  // the scalar tile reads bytes

#endif

inline std::int32_t row_sum(const std::byte* row, Index k, bool is_signed) noexcept {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(row);
  const std::uint8_t flip = is_signed ? 0x80 : 0;
  std::int64_t sum = 0;
  Index i = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::ScalableTag<std::uint8_t> d;
  const hn::Repartition<std::uint64_t, decltype(d)> d64;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  const auto mask = hn::Set(d, flip);
  auto sums = hn::Zero(d64);
  for (; i + lanes <= k; i += lanes) {
    sums = hn::Add(sums, hn::SumsOf8(hn::Xor(hn::LoadU(d, bytes + i), mask)));
  }
  sum = static_cast<std::int64_t>(hn::GetLane(hn::SumOfLanes(d64, sums)));
#endif
  for (; i < k; ++i) sum += bytes[i] ^ flip;
  return static_cast<std::int32_t>(sum - (is_signed ? 128 * k : 0));
}

inline float largest(const float* x, Index n) noexcept {
  const hn::ScalableTag<float> d;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  auto m = hn::Zero(d);
  Index i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::Abs(hn::LoadU(d, x + i));
    m = hn::IfThenElse(hn::Gt(v, m), v, m);  // false for NaN
  }
  float result = hn::GetLane(hn::MaxOfLanes(d, m));
  for (; i < n; ++i) {
    const float v = std::fabs(x[i]);
    if (v > result) result = v;
  }
  return result;
}

inline void quantize_row(const float* x, Index n, float inverse, std::int8_t* out) noexcept {
  const hn::ScalableTag<float> d;
  const hn::Rebind<std::int8_t, decltype(d)> d8;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  Index i = 0;
  for (; i + lanes <= n; i += lanes) {
    auto v = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, inverse));
    v = hn::IfThenElseZero(hn::Eq(v, v), v);
    v = hn::Min(hn::Max(v, hn::Set(d, -1024.0f)), hn::Set(d, 1024.0f));
    hn::StoreU(hn::DemoteTo(d8, hn::NearestInt(v)), d8, out + i);
  }
  for (; i < n; ++i) out[i] = static_cast<std::int8_t>(quantize(x[i] * inverse, 0, DType::s8));
}

}  // namespace HWY_NAMESPACE
}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
HWY_AFTER_NAMESPACE();
