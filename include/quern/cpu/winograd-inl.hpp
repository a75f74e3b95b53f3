// Fragment, compiled per target: the transforms of Winograd's F(4x4, 3x3) in integers, see
// winograd.hpp, and its tile: products of 16-bit numbers, rows of A as they are.
HWY_BEFORE_NAMESPACE();
#undef QUERN_HAVE_WINOGRAD
#if HWY_TARGET == HWY_SCALAR || HWY_HAVE_SCALABLE || \
    (defined(HWY_TARGET_IS_SVE) && HWY_TARGET_IS_SVE)
#define QUERN_HAVE_WINOGRAD 0  // vectors in arrays need a known size
#else
#define QUERN_HAVE_WINOGRAD 1
namespace quern {
inline namespace QUERN_ABI {
namespace cpu {
namespace HWY_NAMESPACE {

/// Words of 2 shorts, rows at strides: as MacPairs, but B is packed that way already.
struct MacWide : MacPairs {
  static constexpr int kSteps = 1, kGroupBytes = 64, kRowBytes = 0;
};

using DC = hn::CappedTag<std::int16_t, 16>;  // channels at a time
using VC = hn::Vec<DC>;

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
      } else if (is_signed) {
        const hn::Rebind<std::int8_t, DC> d8;
        const auto bytes = hn::LoadU(d8, reinterpret_cast<const std::int8_t*>(pixels[q]) + c);
        x[q] = hn::PromoteTo(d, bytes);
      } else {
        const hn::Rebind<std::uint8_t, DC> d8;
        const auto bytes = hn::LoadU(d8, reinterpret_cast<const std::uint8_t*>(pixels[q]) + c);
        x[q] = hn::Sub(hn::PromoteTo(d, bytes), middle);
      }
    }
    for (int j = 0; j < 6; ++j) input_transform(x + j, 6, y + j, 6);
    for (int i = 0; i < 6; ++i) input_transform(y + i * 6, 1, x + i * 6, 1);
    for (int q = 0; q < 36; ++q) hn::StoreU(x[q], d, v + q * step + c);
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
