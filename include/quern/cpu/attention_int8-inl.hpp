// Fragment, compiled per target: what int8 attention does between products. Every bit is that of
// the reference.
HWY_BEFORE_NAMESPACE();
namespace quern {
inline namespace QUERN_ABI {
namespace cpu {
namespace HWY_NAMESPACE {
namespace attention {

inline void logits(const std::int32_t* sums, const float* k_scales, Index n, float q_scale,
                   float* x) noexcept {
  const DF d;
  const VF q = constant(q_scale);
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  for (Index j = 0; j < n; j += lanes) {
    const VF sum = hn::ConvertTo(d, hn::LoadU(D32(), sums + j));
    const VF scale = unfused(hn::Mul(q, hn::LoadU(d, k_scales + j)));
    hn::StoreU(hn::Mul(sum, scale), d, x + j);
  }
}

inline bool has_nan(const float* x, Index n) noexcept {
  const DF d;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  // A sum of squares would overflow; NaN spreads through a maximum of bits instead.
  V32 most = hn::Zero(D32());
  const V32 magnitude = hn::Set(D32(), 0x7FFFFFFF);
  for (Index j = 0; j < n; j += lanes) {
    most = hn::Max(most, hn::And(hn::BitCast(D32(), hn::LoadU(d, x + j)), magnitude));
  }
  return hn::GetLane(hn::MaxOfLanes(D32(), most)) > 0x7F800000;
}

/// exp() of numbers up to 0, the same bits from -16 on; below, something as near to 0 for weights
/// of 8 bits. Adding 1.5 * 2^23 rounds to an integer, as in rowwise::exponential; n * kLn2High is
/// exact, so that one product may be fused.
HWY_INLINE VF weight_exp(VF x) {
  namespace c = coefficients;
  const VF magic = constant(12582912.0f + 127.0f);
  x = hn::Max(x, constant(-16.0f));
  const VF shifted = hn::Add(unfused(hn::Mul(x, constant(c::kLog2E))), magic);
  const VF n = hn::Sub(shifted, magic);
  VF r = hn::NegMulAdd(n, constant(c::kLn2High), x);
  r = multiply_add(n, constant(-c::kLn2Low), r);
  VF p = constant(c::kExp[0]);
  for (int i = 1; i < 6; ++i) p = multiply_add(p, r, constant(c::kExp[i]));
  p = hn::Add(multiply_add(p, unfused(hn::Mul(r, r)), r), constant(1.0f));
  return hn::Mul(p, hn::BitCast(DF(), hn::ShiftLeft<23>(hn::BitCast(D32(), shifted))));
}

template <bool kScaled>
std::int32_t weights_of(const float* x, Index n, float most, const float* factors,
                        std::uint8_t* to) {
  const DF d;
  const D32 d32;
  const hn::Rebind<std::uint8_t, D32> d8;
  const VF base = constant(most), full = constant(255.0f), magic = constant(12582912.0f);
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  const auto integer = [&](VF v) QUERN_LAMBDA {
    return hn::And(hn::BitCast(d32, hn::Add(unfused(v), magic)), hn::Set(d32, 255));
  };
  V32 sum = hn::Zero(d32);
  for (Index j = 0; j < n; j += lanes) {
    const VF e = weight_exp(hn::Sub(hn::LoadU(d, x + j), base));  // in [0, 1]
    const V32 u = integer(hn::Mul(e, full));
    sum = hn::Add(sum, u);
    V32 w = u;
    if constexpr (kScaled) {
      VF scaled = hn::Mul(unfused(hn::Mul(e, hn::LoadU(d, factors + j))), full);
      scaled = hn::IfThenElseZero(hn::Eq(scaled, scaled), scaled);
      w = integer(hn::Min(scaled, full));
    }
    hn::StoreU(hn::DemoteTo(d8, w), d8, to + j);
  }
  return hn::GetLane(hn::SumOfLanes(d32, sum));
}

inline std::int32_t weights(const float* x, Index n, float most, const float* factors,
                            std::uint8_t* to) noexcept {
  return factors == nullptr ? weights_of<false>(x, n, most, factors, to)
                            : weights_of<true>(x, n, most, factors, to);
}

inline void largest_magnitudes(const float* x, Index n, float* most) noexcept {
  rowwise::map(x, most, n, most, [](VF v, VF m) QUERN_LAMBDA { return larger(hn::Abs(v), m); });
}

inline void add_words(const std::int32_t* x, Index n, std::int32_t* to) noexcept {
  const D32 d;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  for (Index i = 0; i < n; i += lanes) {
    hn::StoreU(hn::Add(hn::LoadU(d, to + i), hn::LoadU(d, x + i)), d, to + i);
  }
}

inline void column_sums(const std::byte* panel, Index quads, bool products, std::int32_t factor,
                        std::int32_t* out) noexcept {
  const D32 d;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  for (Index c = 0; c < 16; c += lanes) {
    V32 sum = hn::Zero(d);
    for (Index q = 0; q < quads; ++q) {
      const V32 x = hn::LoadU(d, reinterpret_cast<const std::int32_t*>(panel + q * 64) + c);
      const V32 b0 = hn::ShiftRight<24>(hn::ShiftLeft<24>(x)),
                b1 = hn::ShiftRight<24>(hn::ShiftLeft<16>(x)),
                b2 = hn::ShiftRight<24>(hn::ShiftLeft<8>(x)), b3 = hn::ShiftRight<24>(x);
      sum = hn::Add(sum, products ? hn::Add(hn::Mul(b0, b1), hn::Mul(b2, b3))
                                  : hn::Add(hn::Add(b0, b1), hn::Add(b2, b3)));
    }
    hn::StoreU(hn::Mul(sum, hn::Set(d, factor)), d, out + c);
  }
}

inline void pack_quads(const std::int8_t* rows, Index stride, Index panels, std::byte* to,
                       Index panel) noexcept {
  for (Index p = 0; p < panels; ++p, rows += 16, to += panel) {
#if QUERN_FIXED_SIZE
    const hn::FixedTag<std::uint8_t, 16> d8;
    const hn::Repartition<std::uint16_t, decltype(d8)> d16;
    const auto load = [&](int r) QUERN_LAMBDA {
      return hn::LoadU(d8, reinterpret_cast<const std::uint8_t*>(rows + r * stride));
    };
    const auto x0 = load(0), x1 = load(1), x2 = load(2), x3 = load(3);
    const auto a0 = hn::BitCast(d16, hn::InterleaveLower(d8, x0, x1)),
               a1 = hn::BitCast(d16, hn::InterleaveUpper(d8, x0, x1)),
               b0 = hn::BitCast(d16, hn::InterleaveLower(d8, x2, x3)),
               b1 = hn::BitCast(d16, hn::InterleaveUpper(d8, x2, x3));
    auto* out = reinterpret_cast<std::uint16_t*>(to);
    hn::StoreU(hn::InterleaveLower(d16, a0, b0), d16, out);
    hn::StoreU(hn::InterleaveUpper(d16, a0, b0), d16, out + 8);
    hn::StoreU(hn::InterleaveLower(d16, a1, b1), d16, out + 16);
    hn::StoreU(hn::InterleaveUpper(d16, a1, b1), d16, out + 24);
#else
    for (Index c = 0; c < 16; ++c) {
      for (Index r = 0; r < 4; ++r) {
        to[c * 4 + r] = static_cast<std::byte>(rows[r * stride + c]);
      }
    }
#endif
  }
}

}  // namespace attention
}  // namespace HWY_NAMESPACE
}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
HWY_AFTER_NAMESPACE();
