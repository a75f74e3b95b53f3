// Fragment, compiled per target: the transforms of Winograd's F(4x4, 3x3) in integers, see
// winograd.hpp, and its tile: products of 16-bit numbers, rows of A as they are.
HWY_BEFORE_NAMESPACE();
#if QUERN_FIXED_SIZE
namespace quern {
inline namespace QUERN_ABI {
namespace cpu {
namespace HWY_NAMESPACE {

/// Words of 2 shorts, rows at strides: as MacPairs, but B is packed that way already.
struct MacWide : MacPairs {
  static constexpr int kSteps = 1, kGroupBytes = 64, kRowBytes = 0;
};

#if QUERN_HAVE_SUMS
/// Winograd's inner product of transformed numbers: sums of two are below 2^15, the product of a
/// pair of them below 2^31. Of two words, one is the other's partner.
struct MacWideSums : MacSums {
  static constexpr int kRowBytes = 0;
};

/// In even lanes, the products of neighbours of one row.
HWY_INLINE V32 partners(const std::int16_t* v, Index channels) {
  const D32 d;
  const D16 d16;
  V32 sum = hn::Zero(d), unused = hn::Zero(d);
  for (Index c = 0; c < channels; c += static_cast<Index>(hn::Lanes(d16))) {
    const V16 x = hn::LoadU(d16, v + c);
    const V16 partner = hn::BitCast(d16, hn::Shuffle2301(hn::BitCast(d, x)));
    sum = hn::ReorderWidenMulAccumulate(d, x, partner, sum, unused);
  }
  return sum;
}

/// Eight rows at a time, since adding lanes up takes as long as the products. Rows beyond the last
/// are the last again.
inline void winograd_row_products(const std::int16_t* v, Index rows, Index step, Index channels,
                                  std::int32_t* out) noexcept {
  const D32 d;
  const hn::Repartition<std::int64_t, D32> d64;
  for (Index r = 0; r < rows; r += 8) {
    hn::Vec<decltype(d64)> pairs[4];
    QUERN_UNROLL for (Index i = 0; i < 4; ++i) {
      const Index row = r + 2 * i, first = row < rows ? row : rows - 1,
                  second = row + 1 < rows ? row + 1 : rows - 1;
      const V32 x = partners(v + first * step, channels), y = partners(v + second * step, channels);
      const V32 odd = hn::BitCast(d, hn::ShiftLeft<32>(hn::BitCast(d64, y)));
      pairs[i] = hn::BitCast(d64, hn::OddEven(odd, x));
    }
    V32 halves[2];
    QUERN_UNROLL for (int i = 0; i < 2; ++i) {
      const auto lower = hn::InterleaveLower(d64, pairs[2 * i], pairs[2 * i + 1]),
                 upper = hn::InterleaveUpper(d64, pairs[2 * i], pairs[2 * i + 1]);
      halves[i] = hn::Add(hn::BitCast(d, lower), hn::BitCast(d, upper));
    }
    const V32 sums = hn::Neg(hn::Add(hn::ConcatLowerLower(d, halves[1], halves[0]),
                                     hn::ConcatUpperUpper(d, halves[1], halves[0])));
    alignas(32) std::int32_t some[8];
    hn::StoreU(sums, d, r + 8 <= rows ? out + r : some);
    for (Index i = 0; r + 8 > rows && r + i < rows; ++i) out[r + i] = some[i];
  }
}

inline void winograd_column_products(const std::int16_t* u, Index words,
                                     std::int32_t* out) noexcept {
  const D32 d;
  const D16 d16;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  for (Index c = 0; c < 16; c += lanes) {
    V32 sum = hn::Zero(d), unused = hn::Zero(d);
    for (Index w = 0; w < words; w += 2) {
      sum = hn::ReorderWidenMulAccumulate(d, hn::LoadU(d16, u + w * 32 + 2 * c),
                                          hn::LoadU(d16, u + w * 32 + 32 + 2 * c), sum, unused);
    }
    hn::StoreU(hn::Neg(sum), d, out + c);
  }
}
#endif

#if QUERN_HAVE_QUADS && HWY_ARCH_X86
/// The same with VNNI's vpdpwssd, one instruction for multiplication and sum.
struct MacWideDot : MacWide {
  static HWY_INLINE void multiply(V16 a, V16 b, V32& sum, V32&) {
    auto total = sum.raw;
#if HWY_TARGET <= HWY_AVX3
    asm("vpdpwssd {%2, %1, %0|%0, %1, %2}" : "+v"(total) : "v"(a.raw), "v"(b.raw));
#else
    asm("%{vex%} vpdpwssd {%2, %1, %0|%0, %1, %2}" : "+x"(total) : "x"(a.raw), "x"(b.raw));
#endif
    sum = V32{total};
  }
};
#else
using MacWideDot = MacWide;
#endif

using DC = hn::CappedTag<std::int16_t, 16>;  // channels at a time
using VC = hn::Vec<DC>;

HWY_INLINE VC load_widened(const std::byte* from, bool is_signed) {
  const DC d;
  const hn::Rebind<std::int8_t, DC> ds;
  const hn::Rebind<std::uint8_t, DC> du;
  return is_signed ? hn::PromoteTo(d, hn::LoadU(ds, reinterpret_cast<const std::int8_t*>(from)))
                   : hn::PromoteTo(d, hn::LoadU(du, reinterpret_cast<const std::uint8_t*>(from)));
}

/// out = G g along one dimension, rows of G scaled: (1 0 0) (-1 -1 -1) (-1 1 -1) (1 2 4) (1 -2 4)
/// (0 0 1).
HWY_INLINE void weight_transform(const VC* g, int step, VC* out, int out_step) {
  const VC g0 = g[0], g1 = g[step], g2 = g[2 * step];
  const VC s = hn::Add(g0, g2), t = hn::Add(g0, hn::ShiftLeft<2>(g2)), u = hn::ShiftLeft<1>(g1);
  out[0] = g0;
  out[out_step] = hn::Neg(hn::Add(s, g1));
  out[2 * out_step] = hn::Sub(g1, s);
  out[3 * out_step] = hn::Add(t, u);
  out[4 * out_step] = hn::Sub(t, u);
  out[5 * out_step] = g2;
}

/// G g G^T of `words` pairs of input channels. g: (words, 9, 16, 2) bytes; zero_points: (16, 2); u:
/// position q at u + q * step, (words, 16, 2).
inline void winograd_weights(const std::byte* g, bool is_signed, const std::int16_t* zero_points,
                             Index words, std::int16_t* u, Index step) noexcept {
  const DC d;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  for (Index w = 0; w < words; ++w, g += 9 * 32, u += 32) {
    for (Index c = 0; c < 32; c += lanes) {
      const VC zero_point = hn::LoadU(d, zero_points + c);
      VC x[9], y[18], z[6];
      for (int t = 0; t < 9; ++t) {
        x[t] = hn::Sub(load_widened(g + t * 32 + c, is_signed), zero_point);
      }
      for (int j = 0; j < 3; ++j) weight_transform(x + j, 3, y + j, 3);
      std::int16_t* to = u + c;
      for (int i = 0; i < 6; ++i) {
        weight_transform(y + i * 3, 1, z, 1);
        for (int j = 0; j < 6; ++j, to += step) {
          hn::StoreU(z[j], d, to);
          asm("" : "+r"(to));  // or compilers keep, and spill, 36 addresses
        }
      }
    }
  }
}

/// out = B^T d along one dimension, B^T = (4 0 -5 0 1 0) (0 -4 -4 1 1 0) (0 4 -4 -1 1 0)
/// (0 -2 -1 2 1 0) (0 2 -1 -2 1 0) (0 4 0 -5 0 1).
HWY_INLINE void input_transform(const VC* d, int step, VC* out, int out_step) {
  const VC d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step],
           d5 = d[5 * step];
  const VC x = hn::Sub(d4, hn::ShiftLeft<2>(d2)), y = hn::Sub(d3, hn::ShiftLeft<2>(d1));
  const VC z = hn::Sub(d4, d2), u = hn::Add(hn::Sub(d3, d1), hn::Sub(d3, d1));
  const auto times_5 = [](VC v) HWY_ATTR { return hn::Add(hn::ShiftLeft<2>(v), v); };
  out[0] = hn::Add(hn::Sub(hn::ShiftLeft<2>(d0), times_5(d2)), d4);
  out[out_step] = hn::Add(x, y);
  out[2 * out_step] = hn::Sub(x, y);
  out[3 * out_step] = hn::Add(z, u);
  out[4 * out_step] = hn::Sub(z, u);
  out[5 * out_step] = hn::Add(hn::Sub(hn::ShiftLeft<2>(d1), times_5(d3)), d5);
}

/// `pixels`: the 36 of a tile, null outside the image. v: position q at v + q * step.
inline void winograd_input(const std::byte* const* pixels, bool is_signed, std::int32_t padding,
                           Index channels, std::int16_t* v, Index step) noexcept {
  const DC d;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  const VC outside = hn::Set(d, static_cast<std::int16_t>(padding));
  const VC middle = hn::Set(d, std::int16_t{128});
  for (Index c = 0; c < channels; c += lanes) {
    VC x[36], y[36];
    for (int q = 0; q < 36; ++q) {
      if (pixels[q] == nullptr) {
        x[q] = outside;
      } else {
        x[q] = load_widened(pixels[q] + c, is_signed);
        if (!is_signed) x[q] = hn::Sub(x[q], middle);
      }
    }
    for (int j = 0; j < 6; ++j) input_transform(x + j, 6, y + j, 6);
    for (int i = 0; i < 6; ++i) input_transform(y + i * 6, 1, x + i * 6, 1);
    std::int16_t* to = v + c;
    for (int q = 0; q < 36; ++q, to += step) {
      hn::StoreU(x[q], d, to);
      asm("" : "+r"(to));
    }
  }
}

/// out = A^T m along one dimension, rows scaled: (6 4 4 1 1 0) (0 2 -2 1 -1 0) (0 1 1 1 1 0)
/// (0 1 -1 2 -2 6).
HWY_INLINE void output_transform(const V32* m, int step, V32* out, int out_step) {
  const V32 m0 = m[0], m1 = m[step], m2 = m[2 * step], m3 = m[3 * step], m4 = m[4 * step],
            m5 = m[5 * step];
  const V32 p = hn::Add(m1, m2), q = hn::Sub(m1, m2), r = hn::Add(m3, m4), t = hn::Sub(m3, m4);
  const auto times_6 = [](V32 v)
                           HWY_ATTR { return hn::Add(hn::ShiftLeft<2>(v), hn::ShiftLeft<1>(v)); };
  out[0] = hn::Add(hn::Add(times_6(m0), hn::ShiftLeft<2>(p)), r);
  out[out_step] = hn::Add(hn::ShiftLeft<1>(q), t);
  out[2 * out_step] = hn::Add(p, r);
  out[3 * out_step] = hn::Add(hn::Add(q, hn::ShiftLeft<1>(t)), times_6(m5));
}

/// The 16 columns of a tile: m: position q at m + q * step; the 4 x 4 sums to out, rows of the
/// tile `row` apart, pixels 16.
inline void winograd_output(const std::int32_t* m, Index step, std::int32_t* out, Index row,
                            bool add) noexcept {
  const D32 d;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  const V32 inverse_of_9 = hn::Set(d, 0x38E38E39);
  for (Index c = 0; c < 16; c += lanes) {
    V32 x[36], y[24];
    for (int q = 0; q < 36; ++q) x[q] = hn::LoadU(d, m + q * step + c);
    for (int j = 0; j < 6; ++j) output_transform(x + j, 6, y + j, 6);
    for (int i = 0; i < 4; ++i) output_transform(y + i * 6, 1, x + i * 4, 1);
    const auto store = [&](int i, int j, V32 sum) HWY_ATTR {
      std::int32_t* to = out + i * row + j * 16 + c;
      hn::StoreU(add ? hn::Add(sum, hn::LoadU(d, to)) : sum, d, to);
    };
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 4; ++j) {
        // 9 * 2^p times the sum, p = {3, 2, 1, 1}[i] + {3, 2, 1, 1}[j].
        const V32 s = hn::Mul(x[i * 4 + j], inverse_of_9);
        const int p = (i < 3 ? 3 - i : 1) + (j < 3 ? 3 - j : 1);
        if (p == 6) store(i, j, hn::ShiftRight<6>(s));
        if (p == 5) store(i, j, hn::ShiftRight<5>(s));
        if (p == 4) store(i, j, hn::ShiftRight<4>(s));
        if (p == 3) store(i, j, hn::ShiftRight<3>(s));
        if (p == 2) store(i, j, hn::ShiftRight<2>(s));
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
#endif
HWY_AFTER_NAMESPACE();
