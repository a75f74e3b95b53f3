// Fragment, compiled per target: the micro-kernels. One template; idioms differ only in how a word
// of A multiplies a vector of B's words, which is a Mac's business. Integer sums wrap modulo 2^32
// and never saturate on the way; float sums take k in order.
//
// Does not: allocate, branch on data, read past a panel.
HWY_BEFORE_NAMESPACE();
namespace quern {
inline namespace QUERN_ABI {
namespace cpu {
namespace HWY_NAMESPACE {

// ---- Macs. A group is kSteps steps, kGroupBytes of B and kRowBytes of each row of A; column c of
// step s loads one vector of B.

/// f32: a fused multiply-add where there is one. 2 multiplies and adds a lane: the port limit.
struct MacF32 {
  static constexpr int kSteps = 1, kGroupBytes = 64, kRowBytes = 0;  // rows have strides
  static constexpr bool kTwoSums = false;
  using Sum = VF;
  using Lane = float;
  static HWY_INLINE VF broadcast(const std::byte* a) {
    float word;
    hwy::CopyBytes<4>(a, &word);
    return hn::Set(DF(), word);
  }
  static HWY_INLINE VF load(const std::byte* b, int, Index c) {
    return hn::LoadU(DF(), reinterpret_cast<const float*>(b) + c);
  }
  static HWY_INLINE void multiply(VF a, VF b, VF& sum, VF&) { sum = hn::MulAdd(a, b, sum); }
  static HWY_INLINE VF total(VF sum, VF) { return sum; }
};

#if HWY_TARGET != HWY_SCALAR

using D16 = hn::Repartition<std::int16_t, D32>;
using V16 = hn::Vec<D16>;
using D8 = hn::Repartition<std::int8_t, D32>;

#if HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128
inline constexpr bool kPairwise = true;  // pmaddwd adds neighbours: one sum is enough
#else
inline constexpr bool kPairwise = false;
#endif

/// s16 x s16 pairs into s32: |sum of a pair| <= 2 * 255 * 255 fits. 1 multiply and 1 add for 16
/// products (256 bits).
struct MacPairs {
  static constexpr int kSteps = 2, kGroupBytes = 128, kRowBytes = 8;
  static constexpr bool kTwoSums = !kPairwise;
  using Sum = V32;
  using Lane = std::int32_t;
  static HWY_INLINE V16 broadcast(const std::byte* a) {
    std::int32_t word;
    hwy::CopyBytes<4>(a, &word);
    return hn::BitCast(D16(), hn::Set(D32(), word));
  }
  static HWY_INLINE V16 load(const std::byte* b, int s, Index c) {
    return hn::BitCast(D16(),
                       hn::LoadU(D32(), reinterpret_cast<const std::int32_t*>(b) + 16 * s + c));
  }
  static HWY_INLINE void multiply(V16 a, V16 b, V32& sum, V32& sum1) {
#if HWY_ARCH_X86 && HWY_TARGET == HWY_AVX2
    // From intrinsics g++ reassociates the sums of both steps into trees, whose partial results
    // spill the tile, and clang spills it when B is widened in the loop (76 against 87 GMAC/s). Two
    // instructions that stay together leave it no choice.
    __m256i total = sum.raw, product;
    asm("vpmaddwd {%3, %2, %1|%1, %2, %3}\n\tvpaddd {%1, %0, %0|%0, %0, %1}"
        : "+x"(total), "=&x"(product)
        : "x"(a.raw), "x"(b.raw));
    sum = V32{total};
    (void)sum1;
#else
    sum = hn::ReorderWidenMulAccumulate(D32(), a, b, sum, sum1);
#endif
  }
  static HWY_INLINE V32 total(V32 sum, V32 sum1) { return hn::RearrangeToOddPlusEven(sum, sum1); }
};

/// The same from 8-bit panels: B is widened on the way, which few rows do not pay back beforehand.
struct MacPairsStream : MacPairs {
  static constexpr int kGroupBytes = 64;
  static HWY_INLINE V16 load(const std::byte* b, int s, Index c) {
    const V16 x = MacPairs::load(b, 0, c);
    return hn::ShiftRight<8>(s == 0 ? hn::ShiftLeft<8>(x) : x);
  }
};

#if QUERN_HAVE_SUMS
/// Winograd's inner product ("A new algorithm for inner product", 1968): with a, b even and a', b'
/// odd,
///   sum of (a + b')(a' + b) = sum of (a b + a' b') + sum of a a' + sum of b b',
/// exact in the ring modulo 2^32. One multiplication, where MacPairs has two, and three additions,
/// which any of Zen's four vector pipes can do: 99 against 90 GMAC/s of a limit of 116. The sums
/// |a + b'| <= 255 + 128 fit 16 bits and products of pairs 32. The last two terms belong to rows
/// and to columns alone; see Output::row_base and GemmPlan::base.
struct MacSums {
  static constexpr int kSteps = 1, kGroupBytes = 128, kRowBytes = 8;
  static constexpr bool kTwoSums = false;
  using Sum = V32;
  using Lane = std::int32_t;
  struct Words {
    V16 even, odd;
  };
  static HWY_INLINE Words broadcast(const std::byte* a) {
    return {MacPairs::broadcast(a), MacPairs::broadcast(a + 4)};
  }
  static HWY_INLINE Words load(const std::byte* b, int, Index c) {
    return {MacPairs::load(b, 0, c), MacPairs::load(b, 1, c)};
  }
  static HWY_INLINE void multiply(const Words& a, const Words& b, V32& sum, V32&) {
#if HWY_COMPILER_GCC_ACTUAL
    // As in MacPairs, g++ must not reorder: 8 sums, 4 vectors of B, 2 of A and 2 temporaries are
    // all 16.
    __m256i total = sum.raw, x, y;
    asm("vpaddw {%3, %5, %1|%1, %5, %3}\n\t"
        "vpaddw {%4, %6, %2|%2, %6, %4}\n\t"
        "vpmaddwd {%2, %1, %1|%1, %1, %2}\n\t"
        "vpaddd {%0, %1, %0|%0, %1, %0}"
        : "+x"(total), "=&x"(x), "=&x"(y)
        : "x"(a.even.raw), "x"(a.odd.raw), "x"(b.odd.raw), "x"(b.even.raw));
    sum = V32{total};
#else
    V32 unused = hn::Zero(D32());
    sum = hn::ReorderWidenMulAccumulate(D32(), hn::Add(b.odd, a.even), hn::Add(b.even, a.odd), sum,
                                        unused);
#endif
  }
  static HWY_INLINE V32 total(V32 sum, V32) { return sum; }
};
#endif

#endif  // HWY_TARGET != HWY_SCALAR

#if QUERN_HAVE_PROVEN || QUERN_HAVE_QUADS

struct MacWords {
  static constexpr int kSteps = 1, kGroupBytes = 64, kRowBytes = 0;  // rows have strides
  static constexpr bool kTwoSums = false;
  using Sum = V32;
  using Lane = std::int32_t;
  static HWY_INLINE V32 broadcast(const std::byte* a) {
    std::int32_t word;
    hwy::CopyBytes<4>(a, &word);
    return hn::Set(D32(), word);
  }
  static HWY_INLINE V32 load(const std::byte* b, int, Index c) {
    return hn::LoadU(D32(), reinterpret_cast<const std::int32_t*>(b) + c);
  }
  static HWY_INLINE V32 total(V32 sum, V32) { return sum; }
};

#endif
#if QUERN_HAVE_PROVEN

/// u8 x s8 with 16-bit sums of two products, which saturate beyond [-32768, 32767]. Exact if no two
/// weights that share a sum exceed it for any activation: 255 * (b0 + b1) fits for b0 + b1 within
/// [-128, 128] when both have one sign, and always when they differ. Packing proves it.
struct MacProven : MacWords {
  static HWY_INLINE void multiply(V32 a, V32 b, V32& sum, V32&) {
#if HWY_TARGET <= HWY_AVX3
    const auto products =
        _mm512_madd_epi16(_mm512_maddubs_epi16(a.raw, b.raw), _mm512_set1_epi16(1));
    sum = V32{_mm512_add_epi32(sum.raw, products)};
#elif HWY_TARGET <= HWY_AVX2
    // The ones stay in memory: beside 12 sums, 2 vectors of B, one of A and a product there is no
    // 17th register for them (g++: 108 against 115 GMAC/s).
    alignas(32) static constexpr std::int16_t kOnes[16] = {1, 1, 1, 1, 1, 1, 1, 1,
                                                           1, 1, 1, 1, 1, 1, 1, 1};
    __m256i total = sum.raw, product;
    asm("vpmaddubsw {%3, %2, %1|%1, %2, %3}\n\t"
        "vpmaddwd {%4, %1, %1|%1, %1, %4}\n\t"
        "vpaddd {%1, %0, %0|%0, %0, %1}"
        : "+x"(total), "=&x"(product)
        : "x"(a.raw), "x"(b.raw), "m"(*reinterpret_cast<const __m256i*>(kOnes)));
    sum = V32{total};
#else
    const auto products = _mm_madd_epi16(_mm_maddubs_epi16(a.raw, b.raw), _mm_set1_epi16(1));
    sum = V32{_mm_add_epi32(sum.raw, products)};
#endif
  }
};

#endif
#if QUERN_HAVE_QUADS

/// Four products added in 32 bits: VNNI's vpdpbusd (not its saturating form), Arm's sdot. The x86
/// instruction is written as asm because Highway has no target for AVX-VNNI, and for AVX512-VNNI
/// only on request; kernels with it are chosen when the CPU reports them.
struct MacQuads : MacWords {
  static HWY_INLINE void multiply(V32 a, V32 b, V32& sum, V32&) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
    auto total = sum.raw;
    asm("vpdpbusd {%2, %1, %0|%0, %1, %2}" : "+v"(total) : "v"(a.raw), "v"(b.raw));
    sum = V32{total};
#elif HWY_ARCH_X86
    auto total = sum.raw;
    asm("%{vex%} vpdpbusd {%2, %1, %0|%0, %1, %2}" : "+x"(total) : "x"(a.raw), "x"(b.raw));
    sum = V32{total};
#elif HWY_HAVE_SCALABLE
    sum = svdot_s32(sum, hn::BitCast(D8(), b), hn::BitCast(D8(), a));
#else
    sum = V32(vdotq_s32(sum.raw, vreinterpretq_s8_s32(b.raw), vreinterpretq_s8_s32(a.raw)));
#endif
  }
};

#endif

// ---- The tile.

/// What a sum begins with: see Sums. `at`: its place; `column`: its first column, of all panels'.
template <class Lane, class D>
HWY_INLINE hn::Vec<D> begin_sum(D d, const Sums& sums, const Lane* at, Index column, int r) {
  if (sums.add) return hn::LoadU(d, at);
  auto sum = hn::Zero(d);
  if constexpr (std::is_same_v<Lane, std::int32_t>) {
    if (sums.column_base != nullptr) sum = hn::LoadU(d, sums.column_base + column);
    if (sums.row_base != nullptr) sum = hn::Add(sum, hn::Set(d, sums.row_base[r]));
  }
  return sum;
}

#if HWY_HAVE_SCALABLE || (defined(HWY_TARGET_IS_SVE) && HWY_TARGET_IS_SVE)

/// Vectors of unknown length cannot be array elements: four named sums, one vector of columns at a
/// time. R is 4 or 1.
template <class Mac, int R, int P>
void tile(const Rows& rows, const std::byte* b0, Index b_panel, Index groups,
          const Sums& sums) noexcept {
  using Lane = typename Mac::Lane;
  const hn::CappedTag<Lane, 16> d;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  const Index row_stride = Mac::kRowBytes != 0 ? Mac::kRowBytes : rows.row,
              group_stride = Mac::kRowBytes != 0 ? R * Mac::kRowBytes : rows.step;
  const auto zero = hn::Zero(d);
  for (Index p = 0; p < P; ++p) {
    for (Index c = 0; c < 16; c += lanes) {
      Lane* out = static_cast<Lane*>(sums.data) + p * sums.panel + c;
      auto s0 = zero, s1 = zero, s2 = zero, s3 = zero, t0 = zero, t1 = zero, t2 = zero, t3 = zero;
      const auto start = [&](int r) HWY_ATTR {
        return begin_sum<Lane>(d, sums, out + r * sums.row, p * 16 + c, r);
      };
      if constexpr (!Mac::kTwoSums) {
        s0 = start(0);
        if constexpr (R == 4) {
          s1 = start(1);
          s2 = start(2);
          s3 = start(3);
        }
      }
      const std::byte* a = rows.data;
      const std::byte* b = b0 + p * b_panel;
      for (Index g = 0; g < groups; ++g, a += group_stride, b += Mac::kGroupBytes) {
        for (int s = 0; s < Mac::kSteps; ++s) {
          const auto bv = Mac::load(b, s, c);
          Mac::multiply(Mac::broadcast(a + s * 4), bv, s0, t0);
          if constexpr (R == 4) {
            Mac::multiply(Mac::broadcast(a + row_stride + s * 4), bv, s1, t1);
            Mac::multiply(Mac::broadcast(a + 2 * row_stride + s * 4), bv, s2, t2);
            Mac::multiply(Mac::broadcast(a + 3 * row_stride + s * 4), bv, s3, t3);
          }
        }
      }
      const auto store = [&](auto sum, auto sum1, int r) HWY_ATTR {
        const auto total = Mac::total(sum, sum1);
        if constexpr (Mac::kTwoSums) {
          hn::StoreU(hn::Add(total, start(r)), d, out + r * sums.row);
        } else {
          hn::StoreU(total, d, out + r * sums.row);
        }
      };
      store(s0, t0, 0);
      if constexpr (R == 4) {
        store(s1, t1, 1);
        store(s2, t2, 2);
        store(s3, t3, 3);
      }
    }
  }
}

#else

/// R x (16 P) sums in registers; per step one load for each vector of B and one broadcast for each
/// row of A.
template <class Mac, int R, int P>
void tile(const Rows& rows, const std::byte* HWY_RESTRICT b, Index b_panel, Index groups,
          const Sums& sums) noexcept {
  using Lane = typename Mac::Lane;
  using D = hn::CappedTag<Lane, HWY_TARGET == HWY_SCALAR ? 1 : 16>;
  const D d;
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
  constexpr int kVectors = 16 / kLanes, kColumns = P * kVectors;  // vectors of B in a step
  const auto at = [&](int r, int v) QUERN_LAMBDA {
    return static_cast<Lane*>(sums.data) + (v / kVectors) * sums.panel + r * sums.row +
           (v % kVectors) * kLanes;
  };
  const auto start = [&](int r, int v)
                         QUERN_LAMBDA { return begin_sum<Lane>(d, sums, at(r, v), v * kLanes, r); };

  typename Mac::Sum sum[R][kColumns], sum1[Mac::kTwoSums ? R : 1][Mac::kTwoSums ? kColumns : 1];
  QUERN_UNROLL for (int r = 0; r < R; ++r) {
    QUERN_UNROLL for (int v = 0; v < kColumns; ++v) {
      sum[r][v] = hn::Zero(d);
      if constexpr (!Mac::kTwoSums) sum[r][v] = start(r, v);
      sum1[Mac::kTwoSums ? r : 0][Mac::kTwoSums ? v : 0] = hn::Zero(d);
    }
  }
  const std::byte* HWY_RESTRICT a = rows.data;
  const Index row_stride = Mac::kRowBytes != 0 ? Mac::kRowBytes : rows.row,
              group_stride = Mac::kRowBytes != 0 ? R * Mac::kRowBytes : rows.step;
  for (Index g = 0; g < groups; ++g, a += group_stride, b += Mac::kGroupBytes) {
    QUERN_UNROLL for (int s = 0; s < Mac::kSteps; ++s) {
      decltype(Mac::load(b, 0, 0)) bv[kColumns];
      QUERN_UNROLL for (int v = 0; v < kColumns; ++v) {
        bv[v] = Mac::load(b + (v / kVectors) * b_panel, s, (v % kVectors) * kLanes);
      }
      QUERN_UNROLL for (int r = 0; r < R; ++r) {
        const auto av = Mac::broadcast(a + r * row_stride + s * 4);
        QUERN_UNROLL for (int v = 0; v < kColumns; ++v) {
          Mac::multiply(av, bv[v], sum[r][v], sum1[Mac::kTwoSums ? r : 0][Mac::kTwoSums ? v : 0]);
        }
      }
    }
  }
  QUERN_UNROLL for (int r = 0; r < R; ++r) {
    QUERN_UNROLL for (int v = 0; v < kColumns; ++v) {
      auto total = Mac::total(sum[r][v], sum1[Mac::kTwoSums ? r : 0][Mac::kTwoSums ? v : 0]);
      // Lanes of two sums belong to other columns until they are brought together.
      if constexpr (Mac::kTwoSums) total = hn::Add(total, start(r, v));
      hn::StoreU(total, d, at(r, v));
    }
  }
}

#endif

#if HWY_TARGET == HWY_SCALAR
/// One row without vectors: the same contract in plain C++, from 8-bit panels.
inline void tile_pairs_scalar(const Rows& a, const std::byte* b, Index, Index groups,
                              const Sums& sums) noexcept {
  const auto* ap = reinterpret_cast<const std::int16_t*>(a.data);  // (quad, 2, 2): k, k+2, k+1, k+3
  const auto* bp = reinterpret_cast<const std::int8_t*>(b);        // (quad, 16, 4)
  auto* out = static_cast<std::int32_t*>(sums.data);
  for (Index j = 0; j < 16; ++j) {
    const D32 d;
    auto sum =
        static_cast<std::uint32_t>(hn::GetLane(begin_sum<std::int32_t>(d, sums, out + j, j, 0)));
    for (Index g = 0; g < groups; ++g) {
      const std::int16_t* x = ap + g * 4;
      const std::int8_t* y = bp + (g * 16 + j) * 4;
      sum += static_cast<std::uint32_t>(x[0] * y[0] + x[2] * y[1] + x[1] * y[2] + x[3] * y[3]);
    }
    out[j] = static_cast<std::int32_t>(sum);
  }
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
HWY_AFTER_NAMESPACE();
