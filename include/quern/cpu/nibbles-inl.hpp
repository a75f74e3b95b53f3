// Fragment, compiled per target: the micro-kernel for few rows of any weights, see Nibbles.
HWY_BEFORE_NAMESPACE();
#if QUERN_HAVE_PROVEN
namespace quern {
inline namespace QUERN_ABI {
namespace cpu {
namespace HWY_NAMESPACE {

/// u8 x s8 for any weights: each activation is split, a = low + 16 high, and each half's products
/// are added in 16 bits, since 8 pairs of them are at most 8 * 2 * 15 * 128 = 30720; then in 32.
/// Per 32 products (256 bits) 2 multiplications and 2 additions, and a share of 2 and 2 for every 8
/// quads: no widening of B, which few rows do not pay back.
struct Nibbles {
  static constexpr Index kQuads = 8;  ///< whose products fit 16 bits

#if HWY_TARGET <= HWY_AVX3
  static HWY_INLINE V16 multiply(V16 sum, V32 a, V32 b) {
    return V16{_mm512_add_epi16(sum.raw, _mm512_maddubs_epi16(a.raw, b.raw))};
  }
#elif HWY_TARGET <= HWY_AVX2
  static HWY_INLINE V16 multiply(V16 sum, V32 a, V32 b) {
#if HWY_COMPILER_GCC_ACTUAL
    // As in MacPairs: g++ would add up in trees and spill.
    __m256i total = sum.raw, product;
    asm("vpmaddubsw {%3, %2, %1|%1, %2, %3}\n\tvpaddw {%1, %0, %0|%0, %0, %1}"
        : "+x"(total), "=&x"(product)
        : "x"(a.raw), "x"(b.raw));
    return V16{total};
#else
    return V16{_mm256_add_epi16(sum.raw, _mm256_maddubs_epi16(a.raw, b.raw))};
#endif
  }
#else
  static HWY_INLINE V16 multiply(V16 sum, V32 a, V32 b) {
    return V16{_mm_add_epi16(sum.raw, _mm_maddubs_epi16(a.raw, b.raw))};
  }
#endif
  /// sum + factor * (pairs of parts).
  static HWY_INLINE V32 flush(V32 sum, V16 part, std::int16_t factor) {
    V32 unused = hn::Zero(D32());
    return hn::ReorderWidenMulAccumulate(D32(), part, hn::Set(D16(), factor), sum, unused);
  }
};

/// A Tile over 8-bit panels, A in RowForm::nibbles.
template <int R, int P>
void tile_nibbles(const Rows& rows, const std::byte* HWY_RESTRICT b, Index b_panel, Index groups,
                  const Sums& sums) noexcept {
  const std::byte* HWY_RESTRICT a = rows.data;
  const D32 d;
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(D32()));
  constexpr int kVectors = 16 / kLanes, kColumns = P * kVectors;
  const auto at = [&](int r, int v) QUERN_LAMBDA {
    return static_cast<std::int32_t*>(sums.data) + (v / kVectors) * sums.panel + r * sums.row +
           (v % kVectors) * kLanes;
  };
  V32 sum[R][kColumns];
  QUERN_UNROLL for (int r = 0; r < R; ++r) {
    QUERN_UNROLL for (int v = 0; v < kColumns; ++v) {
      sum[r][v] = begin_sum<std::int32_t>(d, sums, at(r, v), v * kLanes, r);
    }
  }
  while (groups > 0) {
    V16 low[R][kColumns], high[R][kColumns];
    QUERN_UNROLL for (int r = 0; r < R; ++r) {
      QUERN_UNROLL for (int v = 0; v < kColumns; ++v) low[r][v] = high[r][v] = hn::Zero(D16());
    }
    const Index count = groups < Nibbles::kQuads ? groups : Nibbles::kQuads;
    groups -= count;
    for (Index g = 0; g < count; ++g, a += R * 8, b += 64) {
      V32 bv[kColumns];
      QUERN_UNROLL for (int v = 0; v < kColumns; ++v) {
        bv[v] = MacWords::load(b + (v / kVectors) * b_panel, 0, (v % kVectors) * kLanes);
      }
      QUERN_UNROLL for (int r = 0; r < R; ++r) {
        const V32 lower = MacWords::broadcast(a + r * 8);
        QUERN_UNROLL for (int v = 0; v < kColumns; ++v) {
          low[r][v] = Nibbles::multiply(low[r][v], lower, bv[v]);
        }
        const V32 upper = MacWords::broadcast(a + r * 8 + 4);
        QUERN_UNROLL for (int v = 0; v < kColumns; ++v) {
          high[r][v] = Nibbles::multiply(high[r][v], upper, bv[v]);
        }
      }
    }
    QUERN_UNROLL for (int r = 0; r < R; ++r) {
      QUERN_UNROLL for (int v = 0; v < kColumns; ++v) {
        sum[r][v] = Nibbles::flush(sum[r][v], low[r][v], 1);
        sum[r][v] = Nibbles::flush(sum[r][v], high[r][v], 16);
      }
    }
  }
  QUERN_UNROLL for (int r = 0; r < R; ++r) {
    QUERN_UNROLL for (int v = 0; v < kColumns; ++v) hn::StoreU(sum[r][v], d, at(r, v));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
#endif
HWY_AFTER_NAMESPACE();
