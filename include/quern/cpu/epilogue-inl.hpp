// Fragment, compiled per target: epilogue steps on vectors. Each does the operations of its scalar
// meaning (ops/epilogue.hpp, ops/activation.hpp) in the same order and unfused, so the bits agree.
HWY_BEFORE_NAMESPACE();
namespace quern {
inline namespace QUERN_ABI {
namespace cpu {
namespace HWY_NAMESPACE {

HWY_INLINE VF multiply_add(VF a, VF b, VF c) { return hn::Add(unfused(hn::Mul(a, b)), c); }
HWY_INLINE VF constant(float x) { return hn::Set(DF(), x); }
HWY_INLINE VF lower_bound(VF x, VF lo) { return hn::IfThenElse(hn::Lt(x, lo), lo, x); }
HWY_INLINE VF upper_bound(VF x, VF hi) { return hn::IfThenElse(hn::Gt(x, hi), hi, x); }

HWY_INLINE VF exp(VF x) {
  namespace c = coefficients;
  const D32 d32;
  const VF bounded = upper_bound(lower_bound(x, constant(c::kExpLow)), constant(c::kExpHigh));
  // NaN would make the conversion to integer undefined; it is put back at the end.
  const VF y = hn::IfThenElseZero(hn::Eq(x, x), bounded);
  const VF n = hn::Round(hn::Mul(y, constant(c::kLog2E)));
  VF r = multiply_add(n, constant(-c::kLn2High), y);
  r = multiply_add(n, constant(-c::kLn2Low), r);
  VF p = constant(c::kExp[0]);
  for (int i = 1; i < 6; ++i) p = multiply_add(p, r, constant(c::kExp[i]));
  p = hn::Add(multiply_add(p, unfused(hn::Mul(r, r)), r), constant(1.0f));
  const V32 power = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(d32, n), hn::Set(d32, 127)));
  return hn::IfThenElse(hn::Eq(x, x), hn::Mul(p, hn::BitCast(DF(), power)), x);
}

HWY_INLINE VF silu(VF x) {
  x = lower_bound(x, constant(coefficients::kExpLow));
  return hn::Div(x, hn::Add(constant(1.0f), exp(hn::Neg(x))));
}

HWY_INLINE VF gelu(VF x) {
  namespace c = coefficients;
  const VF z = unfused(hn::Mul(hn::Abs(x), constant(c::kSqrtHalf)));
  const VF t = hn::Div(constant(1.0f), multiply_add(z, constant(c::kErfP), constant(1.0f)));
  VF p = constant(c::kErf[0]);
  for (int i = 1; i < 5; ++i) p = multiply_add(p, t, constant(c::kErf[i]));
  const VF e = exp(unfused(hn::Mul(z, hn::Neg(z))));
  const VF tail = unfused(hn::Mul(constant(0.5f), unfused(hn::Mul(unfused(hn::Mul(p, t)), e))));
  const VF factor = hn::IfThenElse(hn::Lt(x, hn::Zero(DF())), tail, hn::Sub(constant(1.0f), tail));
  return hn::Mul(x, factor);
}

HWY_INLINE VF gelu_tanh(VF x) {
  namespace c = coefficients;
  const VF cube = unfused(hn::Mul(unfused(hn::Mul(x, x)), x));
  const VF y =
      hn::Mul(constant(c::kGeluTanhScale), multiply_add(cube, constant(c::kGeluTanhCubic), x));
  return hn::Div(lower_bound(x, constant(c::kExpLow)), hn::Add(constant(1.0f), exp(hn::Neg(y))));
}

/// `count` <= lanes elements of the residual from (i, j) on, as floats.
HWY_INLINE VF load_residual(const StepInputs& in, Index i, Index j, Index count) {
  const DF d;
  const ConstMatrixView& m = in.residual;
  if (count == static_cast<Index>(hn::Lanes(d))) {
    const std::byte* p = element(m, in.batch, i, j);
    if (m.type == DType::f32) return hn::LoadU(d, reinterpret_cast<const float*>(p));
    if (m.type == DType::s8) {
      const hn::Rebind<std::int8_t, DF> d8;
      return hn::ConvertTo(
          d, hn::PromoteTo(D32(), hn::LoadU(d8, reinterpret_cast<const std::int8_t*>(p))));
    }
    if (m.type == DType::u8) {
      const hn::Rebind<std::uint8_t, DF> d8;
      return hn::ConvertTo(
          d, hn::PromoteTo(D32(), hn::LoadU(d8, reinterpret_cast<const std::uint8_t*>(p))));
    }
  }
  alignas(64) float values[16] = {};
  for (Index c = 0; c < count; ++c) values[c] = load_float(m, in.batch, i, j + c);
  return hn::Load(d, values);
}

HWY_INLINE VF apply(const Step& s, VF v, Index i, Index j, Index count, const StepInputs& in) {
  using K = Step::Kind;
  const DF d;
  const auto* data = static_cast<const float*>(s.data);  // padded to whole panels
  switch (s.kind) {
    case K::bias_s32:
      return v;
    case K::scale:
      return unfused(hn::Mul(v, s.count == 1 ? hn::Set(d, data[0]) : hn::LoadU(d, data + j)));
    case K::row_scale:
      return unfused(hn::Mul(v, hn::Set(d, in.row_scales[i])));
    case K::bias:
      return hn::Add(v, hn::LoadU(d, data + j));
    case K::relu:
      return lower_bound(v, hn::Zero(d));
    case K::clamp:
      return upper_bound(lower_bound(v, hn::Set(d, s.low)), hn::Set(d, s.high));
    case K::gelu:
      return gelu(v);
    case K::gelu_tanh:
      return gelu_tanh(v);
    case K::silu:
      return silu(v);
    case K::residual: {
      const VF r =
          hn::Sub(load_residual(in, i, j, count), hn::Set(d, static_cast<float>(s.zero_point)));
      return hn::Add(v, unfused(hn::Mul(r, hn::Set(d, s.low))));
    }
    case K::custom: {
      alignas(64) float values[16];
      hn::StoreU(v, d, values);
      s.function(s.context, values, i, j, count);
      return hn::LoadU(d, values);
    }
  }
  return v;
}

/// Writes a vector as `type`, all its lanes.
HWY_INLINE void store_as(DType type, std::int32_t zero_point, VF v, std::byte* to) {
  const D32 d32;
  switch (type) {
    case DType::s32:
      break;
    case DType::f32:
      hn::StoreU(v, DF(), reinterpret_cast<float*>(to));
      break;
    case DType::s8:
    case DType::u8: {
      v = hn::IfThenElseZero(hn::Eq(v, v), v);
      v = hn::Min(hn::Max(v, constant(-1024.0f)), constant(1024.0f));
      const V32 q = hn::Add(hn::NearestInt(v), hn::Set(d32, zero_point));
      if (type == DType::s8) {
        const hn::Rebind<std::int8_t, D32> d8;
        hn::StoreU(hn::DemoteTo(d8, q), d8, reinterpret_cast<std::int8_t*>(to));
      } else {
        const hn::Rebind<std::uint8_t, D32> d8;
        hn::StoreU(hn::DemoteTo(d8, q), d8, reinterpret_cast<std::uint8_t*>(to));
      }
      break;
    }
    case DType::bf16:
    case DType::f16: {
      alignas(64) float values[16];
      hn::StoreU(v, DF(), values);
      auto* out = reinterpret_cast<std::uint16_t*>(to);
      for (std::size_t c = 0; c < hn::Lanes(d32); ++c) {
        out[c] = type == DType::bf16 ? to_bf16(values[c]).bits : to_f16(values[c]).bits;
      }
      break;
    }
  }
}

/// Rows of one vector of columns, c to c + lanes of the panel. Columns go outside, so that their
/// constants stay in registers while the rows pass.
template <class F>
HWY_INLINE void for_each_row(const Output& o, const void* acc, Index rows, Index columns, Index c,
                             const F& f) {
  const Index lanes = static_cast<Index>(hn::Lanes(D32())), size = size_of(o.type);
  const Index count = columns - c < lanes ? columns - c : lanes,
              stride = rows > 1 ? o.c.row_stride * size : 0;
  const auto* words = static_cast<const std::int32_t*>(acc) + c;
  std::byte* out = element(o.c, o.inputs.batch, o.row, o.column + c);
  if (count == lanes) {
    for (Index i = 0; i < rows; ++i, words += 16, out += stride) f(i, words, count, out);
  } else {
    alignas(64) std::byte partial[64];
    for (Index i = 0; i < rows; ++i, words += 16, out += stride) {
      f(i, words, count, partial);
      const auto bytes = static_cast<std::size_t>(count * size);
      std::memcpy(out, partial, bytes < sizeof(partial) ? bytes : sizeof(partial));
    }
  }
}

#if QUERN_FIXED_SIZE

/// What clamps from step `first` on amount to; false if there are other steps. Clamps after clamps
/// are one, between what they make of the least and of the greatest.
inline bool fold_clamps(const Output& o, Index first, float& low, float& high) {
  using K = Step::Kind;
  for (Index s = first; s < o.step_count; ++s) {
    if (o.steps[s].kind != K::relu && o.steps[s].kind != K::clamp) return false;
    low = quern::apply(o.steps[s], low, 0, 0, {});
    high = quern::apply(o.steps[s], high, 0, 0, {});
  }
  return true;
}

/// The epilogue that most layers have, one scale and clamps, into 8 bits: whether it is this one,
/// and what the clamps amount to.
struct Requantization {
  bool suits = false;
  float low = -1024.0f, high = 1024.0f;  // beyond the range of any 8-bit result

  explicit Requantization(const Output& o) {
    if (!o.integer || !is_int8(o.type) || o.step_count == 0 ||
        o.steps[0].kind != Step::Kind::scale || o.row_factor != nullptr || o.row_sum != nullptr ||
        o.dynamic_scale != nullptr) {
      return;
    }
    suits = fold_clamps(o, 1, low, high);
    low = low < -1024.0f ? -1024.0f : low > 1024.0f ? 1024.0f : low;
    high = high < -1024.0f ? -1024.0f : high > 1024.0f ? 1024.0f : high;
  }
};

constexpr int kPanelVectors = 16 / static_cast<int>(hn::MaxLanes(D32()));

/// 16 numbers to 8 bits, saturated.
template <class T>
HWY_INLINE void store_bytes(const V32* q, T* to) {
#if HWY_TARGET == HWY_AVX2
  const __m256i words = _mm256_packs_epi32(q[0].raw, q[1].raw);  // quarters 0 2 1 3
  const __m128i lower = _mm256_castsi256_si128(words), upper = _mm256_extracti128_si256(words, 1);
  const __m128i bytes =
      std::is_signed_v<T> ? _mm_packs_epi16(lower, upper) : _mm_packus_epi16(lower, upper);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_shuffle_epi32(bytes, 0xD8));
#else
  const hn::Rebind<T, D32> d8;
  QUERN_UNROLL for (int v = 0; v < kPanelVectors; ++v) {
    hn::StoreU(hn::DemoteTo(d8, q[v]), d8, to + v * static_cast<int>(hn::MaxLanes(D32())));
  }
#endif
}

/// Saturates to half the bits: in each block of 128 of the result, those of a and of b.
HWY_INLINE V16 narrow(V32 a, V32 b) { return hn::ReorderDemote2To(D16(), a, b); }
HWY_INLINE hn::Vec<D8> narrow(V16 a, V16 b) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  return hn::Vec<D8>{_mm512_packs_epi16(a.raw, b.raw)};
#elif HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  return hn::Vec<D8>{_mm256_packs_epi16(a.raw, b.raw)};
#else
  const hn::Half<D8> half;
  return hn::Combine(D8(), hn::DemoteTo(half, b), hn::DemoteTo(half, a));
#endif
}

/// Makes sums 8-bit numbers, the same bits as finish(), where all scales are below 1: products fit
/// the conversion to 32 bits then, and bounds can be those of bytes, for rounding keeps the order.
class Requantizer {
 public:
  Requantizer(const Output& o, const Requantization& r) {
    const bool is_signed = o.type == DType::s8;
    const std::int32_t zero_point = is_signed ? o.zero_point : o.zero_point - 128;
    const auto byte = [&](float bound) {
      const std::int32_t q = static_cast<std::int32_t>(std::nearbyint(bound)) + zero_point;
      return q < -128 ? -128 : q > 127 ? 127 : q;
    };
    for (std::int16_t& z : zero_point_) z = static_cast<std::int16_t>(zero_point);
    std::memset(low_, byte(r.low), 64);
    std::memset(high_, byte(r.high), 64);
    std::memset(flip_, is_signed ? 0 : 0x80, 64);
  }

  HWY_INLINE V32 round(V32 sum, VF scale) const {
    const VF x = hn::Mul(hn::ConvertTo(DF(), sum), scale);
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
    return V32{_mm512_cvtps_epi32(x.raw)};
#elif HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
    return V32{_mm256_cvtps_epi32(x.raw)};
#else
    return hn::NearestInt(x);
#endif
  }

  /// Four vectors as bytes, one after the other.
  HWY_INLINE hn::Vec<D8> bytes(const V32* q) const {
    constexpr int kBlocks = static_cast<int>(hn::MaxLanes(D32())) / 4;
    const D16 d16;
    const D8 d8;
    const auto zero_point = hn::Load(d16, zero_point_);
    const auto a = hn::SaturatedAdd(narrow(q[0], q[1]), zero_point),
               b = hn::SaturatedAdd(narrow(q[2], q[3]), zero_point);
    auto bytes = hn::Min(hn::Max(narrow(a, b), hn::Load(d8, low_)), hn::Load(d8, high_));
    bytes = hn::Xor(bytes, hn::Load(d8, flip_));
    if constexpr (kBlocks > 1) {  // narrowing keeps to blocks of 128 bits
      alignas(64) std::int32_t order[4 * kBlocks];
      QUERN_UNROLL for (int i = 0; i < 4 * kBlocks; ++i) order[i] = i % kBlocks * 4 + i / kBlocks;
      bytes = hn::BitCast(
          d8, hn::TableLookupLanes(hn::BitCast(D32(), bytes), hn::SetTableIndices(D32(), order)));
    }
    return bytes;
  }

 private:
  alignas(64) std::int16_t zero_point_[32];
  alignas(64) std::int8_t low_[64], high_[64], flip_[64];
};

/// The same bits as finish(), with what is the same for all rows in registers.
template <class T, bool kRowBase>
void requantize(const Output& o, const std::int32_t* words, Index rows, Index columns,
                const Requantization& r) {
  const D32 d;
  const DF df;
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(D32()));
  // Added to a small float, 1.5 * 2^23 leaves its nearest integer in the lowest bits.
  const VF magic = constant(12582912.0f);
  const V32 zero_point = hn::Sub(hn::Set(d, o.zero_point), hn::Set(d, 0x4B400000));
  const VF low = constant(r.low), high = constant(r.high);
  V32 base[kPanelVectors];
  VF scale[kPanelVectors];
  const auto* scales = static_cast<const float*>(o.steps[0].data);
  QUERN_UNROLL for (int v = 0; v < kPanelVectors; ++v) {
    base[v] = o.base != nullptr ? hn::LoadU(d, o.base + v * kLanes) : hn::Zero(d);
    scale[v] =
        o.steps[0].count == 1 ? constant(scales[0]) : hn::LoadU(df, scales + o.column + v * kLanes);
  }
  auto* out = reinterpret_cast<T*>(element(o.c, o.inputs.batch, o.row, o.column));
  const Index stride = rows > 1 ? o.c.row_stride : 0;
  T partial[16];
  for (Index i = 0; i < rows; ++i, words += 16, out += stride) {
    V32 q[kPanelVectors];
    QUERN_UNROLL for (int v = 0; v < kPanelVectors; ++v) {
      V32 sum = hn::Add(hn::LoadU(d, words + v * kLanes), base[v]);
      if constexpr (kRowBase) sum = hn::Add(sum, hn::Set(d, o.row_base[i]));
      const VF scaled = unfused(hn::Mul(hn::ConvertTo(df, sum), scale[v]));
      const VF bounded = hn::Min(hn::Max(scaled, low), high);
      q[v] = hn::Add(hn::BitCast(d, hn::Add(bounded, magic)), zero_point);
    }
    store_bytes(q, columns == 16 ? out : partial);
    if (columns < 16) std::memcpy(out, partial, static_cast<std::size_t>(columns));
  }
}

#endif

inline void finish(const Output& o, const void* acc, Index rows, Index columns) noexcept {
  const D32 d32;
  const DF df;
#if QUERN_FIXED_SIZE
  if (const Requantization r(o); r.suits) {
    const auto* words = static_cast<const std::int32_t*>(acc);
    const auto run = o.type == DType::s8 ? o.row_base ? &requantize<std::int8_t, true>
                                                      : &requantize<std::int8_t, false>
                     : o.row_base ? &requantize<std::uint8_t, true>
                                         : &requantize<std::uint8_t, false>;
    return run(o, words, rows, columns, r);
  }
#endif
  for (Index c = 0; c < columns; c += static_cast<Index>(hn::Lanes(d32))) {
    const V32 zero = hn::Zero(d32), base = o.base != nullptr ? hn::LoadU(d32, o.base + c) : zero;
    const V32 column_sum = o.row_factor != nullptr ? hn::LoadU(d32, o.column_sum + c) : zero;
    const V32 column_factor = o.row_sum != nullptr ? hn::LoadU(d32, o.column_factor + c) : zero;
    const auto sum = [&](Index i, const std::int32_t* words) QUERN_LAMBDA {
      V32 a = hn::Add(hn::LoadU(d32, words), base);
      if (o.row_base != nullptr) a = hn::Add(a, hn::Set(d32, o.row_base[i]));
      if (o.row_factor != nullptr)
        a = hn::Add(a, hn::Mul(hn::Set(d32, o.row_factor[i]), column_sum));
      if (o.row_sum != nullptr) a = hn::Add(a, hn::Mul(hn::Set(d32, o.row_sum[i]), column_factor));
      return a;
    };
    if (o.type == DType::s32) {
      for_each_row(o, acc, rows, columns, c,
                   [&](Index i, const std::int32_t* words, Index, std::byte* to) QUERN_LAMBDA {
                     hn::StoreU(sum(i, words), d32, reinterpret_cast<std::int32_t*>(to));
                   });
      continue;
    }
    for_each_row(o, acc, rows, columns, c,
                 [&](Index i, const std::int32_t* words, Index count, std::byte* to) QUERN_LAMBDA {
                   VF v = hn::BitCast(df, hn::LoadU(d32, words));
                   if (o.integer) v = hn::ConvertTo(df, sum(i, words));
                   if (o.dynamic_scale != nullptr)
                     v = unfused(hn::Mul(v, hn::Set(df, o.dynamic_scale[i])));
                   for (Index s = 0; s < o.step_count; ++s) {
                     v = apply(o.steps[s], v, o.row + i, o.column + c, count, o.inputs);
                   }
                   store_as(o.type, o.zero_point, v, to);
                 });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
HWY_AFTER_NAMESPACE();
