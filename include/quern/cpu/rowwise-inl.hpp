// Fragment, compiled per target after the fragments of kernels-inl.hpp, whose exp(), gelu() and
// silu() it uses: the functions of rowwise_kernels.hpp.
HWY_BEFORE_NAMESPACE();
namespace quern {
inline namespace QUERN_ABI {
namespace cpu {
namespace HWY_NAMESPACE {
namespace rowwise {

using DU = hn::RebindToUnsigned<D32>;
using VU = hn::Vec<DU>;
using D16 = hn::Rebind<std::uint16_t, D32>;
using V16 = hn::Vec<D16>;

/// How many lanes of a vector count: all, or the first few, at the end of a row.
struct All {};
struct Some {
  Index count;
};

/// Lanes beyond the first few are `rest`.
template <class D, class T>
HWY_INLINE hn::Vec<D> load(D d, const T* p, All, T = {}) {
  return hn::LoadU(d, p);
}
template <class D, class T>
HWY_INLINE hn::Vec<D> load(D d, const T* p, Some some, T rest = {}) {
  alignas(64) T lanes[16];
  for (T& lane : lanes) lane = rest;
  std::memcpy(lanes, p, static_cast<std::size_t>(some.count & 15) * sizeof(T));
  return hn::Load(d, lanes);
}
template <class D, class T>
HWY_INLINE void store(D d, hn::Vec<D> v, T* p, All) {
  hn::StoreU(v, d, p);
}
template <class D, class T>
HWY_INLINE void store(D d, hn::Vec<D> v, T* p, Some some) {
  alignas(64) T lanes[16];
  hn::Store(v, d, lanes);
  std::memcpy(p, lanes, static_cast<std::size_t>(some.count & 15) * sizeof(T));
}

/// Calls body(i, which lanes) for each vector of n elements.
template <class Body>
HWY_INLINE void each_vector(Index n, const Body& body) {
  const Index lanes = static_cast<Index>(hn::Lanes(D32()));
  Index i = 0;
  for (; i + lanes <= n; i += lanes) body(i, All());
  if (i < n) body(i, Some{n - i});
}

HWY_INLINE VU bits(std::uint32_t x) { return hn::Set(DU(), x); }

struct Bf16 {
  static HWY_INLINE VF widen(V16 x) {
    return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(DU(), x)));
  }
  static HWY_INLINE V16 narrow(VF x) {
    const D32 d;
    const VU u = hn::BitCast(DU(), x), upper = hn::ShiftRight<16>(u);
    const V32 magnitude = hn::BitCast(d, hn::And(u, bits(0x7FFFFFFF)));
    const VU odd = hn::And(upper, bits(1));
    const VU rounded = hn::ShiftRight<16>(hn::Add(u, hn::Add(odd, bits(0x7FFF))));
    const auto is_nan = hn::Gt(magnitude, hn::Set(d, 0x7F800000));
    return hn::DemoteTo(D16(), hn::IfThenElse(is_nan, hn::BitCast(d, hn::Or(upper, bits(0x40))),
                                              hn::BitCast(d, rounded)));
  }
};

struct F16 {
  static HWY_INLINE VF widen(V16 x) {
    const D32 d;
    const VU u = hn::PromoteTo(DU(), x);
    const VU sign = hn::ShiftLeft<16>(hn::And(u, bits(0x8000)));
    const VU magnitude = hn::ShiftLeft<13>(hn::And(u, bits(0x7FFF)));
    // As the bits of a float that is too small by 2^112, subnormals too; infinity and NaN, now
    // finite, get their exponent back.
    const VF scaled = hn::Mul(hn::BitCast(DF(), magnitude), hn::Set(DF(), 0x1p112f));
    const auto special = hn::Gt(hn::BitCast(d, magnitude), hn::Set(d, 0x0F7FFFFF));
    const VU exponent = hn::BitCast(DU(), hn::IfThenElseZero(special, hn::Set(d, 0x7F800000)));
    return hn::BitCast(DF(), hn::Or(hn::Or(hn::BitCast(DU(), scaled), exponent), sign));
  }
  /// to_f16(), all of its cases.
  static HWY_INLINE V16 narrow(VF x) {
    const D32 d;
    const VU u = hn::BitCast(DU(), x);
    const VU sign = hn::And(hn::ShiftRight<16>(u), bits(0x8000));
    const VU magnitude = hn::And(u, bits(0x7FFFFFFF));
    const V32 m = hn::BitCast(d, magnitude);
    const VU top = hn::ShiftRight<13>(magnitude), odd = hn::And(top, bits(1));
    const VU normal = hn::ShiftRight<13>(
        hn::Add(hn::Sub(magnitude, bits(0x38000000)), hn::Add(odd, bits(0xFFF))));
    const VF aligned = hn::Add(hn::BitCast(DF(), magnitude), constant(0.5f));
    const VU subnormal = hn::Sub(hn::BitCast(DU(), aligned), bits(0x3F000000));
    const VU nan = hn::Or(bits(0x7E00), hn::And(top, bits(0x1FF)));
    V32 r = hn::IfThenElse(hn::Gt(m, hn::Set(d, 0x387FFFFF)), hn::BitCast(d, normal),
                           hn::BitCast(d, subnormal));
    r = hn::IfThenElse(hn::Gt(m, hn::Set(d, 0x477FEFFF)), hn::Set(d, 0x7C00), r);
    r = hn::IfThenElse(hn::Gt(m, hn::Set(d, 0x7F800000)), hn::BitCast(d, nan), r);
    return hn::DemoteTo(D16(), hn::Or(r, hn::BitCast(d, sign)));
  }
};

template <class Half>
void widen(const void* from, Index n, float* to) {
  const auto* x = static_cast<const std::uint16_t*>(from);
  each_vector(n, [=](Index i, auto part) QUERN_LAMBDA {
    store(DF(), Half::widen(load(D16(), x + i, part)), to + i, part);
  });
}
template <class Half>
void narrow(const float* x, Index n, void* to) {
  auto* y = static_cast<std::uint16_t*>(to);
  each_vector(n, [=](Index i, auto part) QUERN_LAMBDA {
    store(D16(), Half::narrow(load(DF(), x + i, part)), y + i, part);
  });
}

inline void load_floats(DType type, const void* from, Index n, float* to) noexcept {
  if (type == DType::bf16) return widen<Bf16>(from, n, to);
  if (type == DType::f16) return widen<F16>(from, n, to);
  if (from != to && n != 0) std::memmove(to, from, static_cast<std::size_t>(n) * sizeof(float));
}
inline void store_floats(DType type, const float* from, Index n, void* to) noexcept {
  if (type == DType::bf16) return narrow<Bf16>(from, n, to);
  if (type == DType::f16) return narrow<F16>(from, n, to);
  if (from != to && n != 0) std::memmove(to, from, static_cast<std::size_t>(n) * sizeof(float));
}

template <class T>
void dequantize_bytes(const void* from, Index n, const PieceQuantization& q, float* to) {
  const hn::Rebind<T, D32> d8;
  const auto* x = static_cast<const T*>(from);
  const float* scales = q.scales;
  const std::int32_t* zeros = q.zero_points;
  const VF scale = constant(*scales);
  const V32 zero = hn::Set(D32(), zeros == nullptr ? 0 : *zeros);
  each_vector(n, [&](Index i, auto part) QUERN_LAMBDA {
    const V32 v = hn::PromoteTo(D32(), load(d8, x + i, part));
    const V32 z = q.column_zero_points ? load(D32(), zeros + i, part) : zero;
    const VF s = q.column_scales ? load(DF(), scales + i, part) : scale;
    store(DF(), hn::Mul(hn::ConvertTo(DF(), hn::Sub(v, z)), s), to + i, part);
  });
}

/// Differences of s32 need 33 bits.
inline void dequantize_words(const void* from, Index n, const PieceQuantization& q, float* to) {
  const auto* x = static_cast<const std::int32_t*>(from);
  for (Index i = 0; i < n && q.zero_points != nullptr; ++i) {
    const Index v = Index{x[i]} - q.zero_points[q.column_zero_points ? i : 0];
    to[i] = static_cast<float>(v) * q.scales[q.column_scales ? i : 0];
  }
  if (q.zero_points != nullptr) return;
  const VF scale = constant(*q.scales);
  each_vector(n, [&](Index i, auto part) QUERN_LAMBDA {
    const VF s = q.column_scales ? load(DF(), q.scales + i, part) : scale;
    store(DF(), hn::Mul(hn::ConvertTo(DF(), load(D32(), x + i, part)), s), to + i, part);
  });
}

inline void dequantize(DType type, const void* from, Index n, const PieceQuantization& q,
                       float* to) noexcept {
  if (type == DType::s8) return dequantize_bytes<std::int8_t>(from, n, q, to);
  if (type == DType::u8) return dequantize_bytes<std::uint8_t>(from, n, q, to);
  dequantize_words(from, n, q, to);
}

template <class T>
void quantize_to(const float* x, Index n, const PieceQuantization& q, void* to) {
  const hn::Rebind<T, D32> d8;
  const D32 d;
  auto* y = static_cast<T*>(to);
  const float* scales = q.scales;
  const std::int32_t* zeros = q.zero_points;
  const VF scale = constant(*scales), most = constant(1024.0f), least = constant(-1024.0f);
  const V32 zero = hn::Set(d, zeros == nullptr ? 0 : *zeros), low = hn::Set(d, q.low),
            high = hn::Set(d, q.high);
  each_vector(n, [&](Index i, auto part) QUERN_LAMBDA {
    const VF s = q.column_scales ? load(DF(), scales + i, part, 1.0f) : scale;
    const V32 z = q.column_zero_points ? load(d, zeros + i, part) : zero;
    VF v = load(DF(), x + i, part);
    v = q.multiply ? hn::Mul(v, s) : hn::Div(v, s);
    v = hn::IfThenElseZero(hn::Eq(v, v), v);
    v = hn::Min(hn::Max(v, least), most);
    const V32 r = hn::Add(hn::NearestInt(v), z);
    store(d8, hn::DemoteTo(d8, hn::Min(hn::Max(r, low), high)), y + i, part);
  });
}

inline void quantize(DType type, const float* from, Index n, const PieceQuantization& q,
                     void* to) noexcept {
  type == DType::s8 ? quantize_to<std::int8_t>(from, n, q, to)
                    : quantize_to<std::uint8_t>(from, n, q, to);
}

template <class F>
HWY_INLINE void map(const float* a, Index n, float* y, const F& f) {
  each_vector(n, [&](Index i, auto part)
                     QUERN_LAMBDA { store(DF(), f(load(DF(), a + i, part)), y + i, part); });
}
template <class F>
HWY_INLINE void map(const float* a, const float* b, Index n, float* y, const F& f) {
  each_vector(n, [&](Index i, auto part) QUERN_LAMBDA {
    store(DF(), f(load(DF(), a + i, part), load(DF(), b + i, part)), y + i, part);
  });
}

inline void apply(Elementwise kind, const float* a, const float* b, Index n, float* y) noexcept {
  switch (kind) {
    case Elementwise::copy:
      return store_floats(DType::f32, a, n, y);
    case Elementwise::gelu:
      return map(a, n, y, [](VF x) QUERN_LAMBDA { return gelu(x); });
    case Elementwise::gelu_tanh:
      return map(a, n, y, [](VF x) QUERN_LAMBDA { return gelu_tanh(x); });
    case Elementwise::silu:
      return map(a, n, y, [](VF x) QUERN_LAMBDA { return silu(x); });
    case Elementwise::add:
      return map(a, b, n, y, [](VF x, VF z) QUERN_LAMBDA { return hn::Add(x, z); });
    case Elementwise::multiply:
      return map(a, b, n, y, [](VF x, VF z) QUERN_LAMBDA { return hn::Mul(x, z); });
    case Elementwise::gelu_multiply:
      return map(a, b, n, y, [](VF x, VF z) QUERN_LAMBDA { return hn::Mul(gelu(x), z); });
    case Elementwise::gelu_tanh_multiply:
      return map(a, b, n, y, [](VF x, VF z) QUERN_LAMBDA { return hn::Mul(gelu_tanh(x), z); });
    case Elementwise::silu_multiply:
      return map(a, b, n, y, [](VF x, VF z) QUERN_LAMBDA { return hn::Mul(silu(x), z); });
  }
}

/// Combines f(vector) of n elements, four chains at a time; lanes beyond the last are `rest`, which
/// must leave the result as it is.
template <class F, class Combine>
HWY_INLINE VF reduce(const float* x, Index n, float rest, const F& f, const Combine& combine) {
  const DF d;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  VF a = f(hn::Set(d, rest)), b = a, c = a, e = a;
  Index i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    a = combine(f(hn::LoadU(d, x + i)), a);
    b = combine(f(hn::LoadU(d, x + i + lanes)), b);
    c = combine(f(hn::LoadU(d, x + i + 2 * lanes)), c);
    e = combine(f(hn::LoadU(d, x + i + 3 * lanes)), e);
  }
  for (; i + lanes <= n; i += lanes) a = combine(f(hn::LoadU(d, x + i)), a);
  if (i < n) b = combine(f(load(d, x + i, Some{n - i}, rest)), b);
  return combine(combine(a, b), combine(c, e));
}

inline float largest(const float* x, Index n) noexcept {
  const VF m = reduce(
      x, n, -HUGE_VALF, [](VF v) QUERN_LAMBDA { return v; },
      [](VF v, VF most) QUERN_LAMBDA { return hn::IfThenElse(hn::Gt(v, most), v, most); });
  // Not MaxOfLanes(), which begins with the lowest finite number on some targets.
  alignas(64) float lanes[16];
  hn::Store(m, DF(), lanes);
  float result = lanes[0];
  for (std::size_t i = 1; i < hn::Lanes(DF()); ++i) result = std::max(result, lanes[i]);
  return result;
}
inline float sum(const float* x, Index n) noexcept {
  const VF s = reduce(
      x, n, 0.0f, [](VF v) QUERN_LAMBDA { return v; },
      [](VF v, VF total) QUERN_LAMBDA { return hn::Add(total, v); });
  return hn::GetLane(hn::SumOfLanes(DF(), s));
}
inline float squares(const float* x, Index n, float mean) noexcept {
  const VF m = constant(mean);
  const VF s = reduce(
      x, n, mean, [&](VF v) QUERN_LAMBDA { return hn::Mul(hn::Sub(v, m), hn::Sub(v, m)); },
      [](VF v, VF total) QUERN_LAMBDA { return hn::Add(total, v); });
  return hn::GetLane(hn::SumOfLanes(DF(), s));
}

/// e^x of x up to 0, within 3 ulp; 0 below -87, where the result would soon be no normal number.
/// As exp(), but with fused multiply-adds, and without its conversions: adding 1.5 * 2^23 rounds to
/// an integer n and leaves n + 0x4B400000 as bits, of which the shift keeps n + 127 as exponent.
HWY_INLINE VF exponential(VF x) {
  namespace c = coefficients;
  const D32 d;
  const VF magic = constant(12582912.0f);
  const VF shifted = hn::MulAdd(x, constant(c::kLog2E), magic);
  const VF n = hn::Sub(shifted, magic);
  VF r = hn::NegMulAdd(n, constant(c::kLn2High), x);
  r = hn::NegMulAdd(n, constant(c::kLn2Low), r);
  VF p = constant(c::kExp[0]);
  for (int i = 1; i < 6; ++i) p = hn::MulAdd(p, r, constant(c::kExp[i]));
  p = hn::Add(hn::MulAdd(p, hn::Mul(r, r), r), constant(1.0f));
  const V32 power = hn::ShiftLeft<23>(hn::Add(hn::BitCast(d, shifted), hn::Set(d, 127)));
  const VF y = hn::Mul(p, hn::BitCast(DF(), power));
  return hn::IfThenZeroElse(hn::Lt(x, constant(c::kExpLow)), y);
}

template <bool kStore>
float exponentials_of(const float* x, Index n, float most, float* y) {
  const VF m = constant(most);
  VF sum = hn::Zero(DF());
  each_vector(n, [&](Index i, auto part) QUERN_LAMBDA {
    const VF e = exponential(hn::Sub(load(DF(), x + i, part, -HUGE_VALF), m));
    if constexpr (kStore) store(DF(), e, y + i, part);
    sum = hn::Add(sum, e);
  });
  return hn::GetLane(hn::SumOfLanes(DF(), sum));
}
inline float exponentials(const float* x, Index n, float most, float* y) noexcept {
  return y == nullptr ? exponentials_of<false>(x, n, most, y)
                      : exponentials_of<true>(x, n, most, y);
}

inline void scale(const float* x, Index n, float factor, float* y) noexcept {
  const VF f = constant(factor);
  map(x, n, y, [&](VF v) QUERN_LAMBDA { return hn::Mul(v, f); });
}
inline void shift(const float* x, Index n, float first, float second, float* y) noexcept {
  const VF a = constant(first), b = constant(second);
  map(x, n, y, [&](VF v) QUERN_LAMBDA { return hn::Sub(hn::Sub(v, a), b); });
}

inline void normalize(const float* x, Index n, float mean, float factor, const float* gamma,
                      const float* beta, float* y) noexcept {
  const VF m = constant(mean), f = constant(factor);
  each_vector(n, [&](Index i, auto part) QUERN_LAMBDA {
    VF v = hn::Mul(hn::Sub(load(DF(), x + i, part), m), f);
    if (gamma != nullptr) v = hn::Mul(v, load(DF(), gamma + i, part));
    if (beta != nullptr) v = hn::Add(v, load(DF(), beta + i, part));
    store(DF(), v, y + i, part);
  });
}

HWY_INLINE VF rotated_first(VF x1, VF x2, VF cos, VF sin) {
  return hn::Sub(unfused(hn::Mul(cos, x1)), unfused(hn::Mul(sin, x2)));
}
HWY_INLINE VF rotated_second(VF x1, VF x2, VF cos, VF sin) {
  return hn::Add(unfused(hn::Mul(sin, x1)), unfused(hn::Mul(cos, x2)));
}

inline void rotate(const float* x1, const float* x2, const float* cos, const float* sin, Index n,
                   float* y1, float* y2) noexcept {
  const DF d;
  each_vector(n, [=](Index i, auto part) QUERN_LAMBDA {
    const VF a = load(d, x1 + i, part), b = load(d, x2 + i, part);
    const VF c = load(d, cos + i, part), s = load(d, sin + i, part);
    store(d, rotated_first(a, b, c, s), y1 + i, part);
    store(d, rotated_second(a, b, c, s), y2 + i, part);
  });
}

inline void rotate_neighbours(const float* x, const float* cos, const float* sin, Index n,
                              float* y) noexcept {
  const DF d;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  Index i = 0;
  for (; i + lanes <= n; i += lanes) {
    VF a, b;
    hn::LoadInterleaved2(d, x + 2 * i, a, b);
    const VF c = hn::LoadU(d, cos + i), s = hn::LoadU(d, sin + i);
    hn::StoreInterleaved2(rotated_first(a, b, c, s), rotated_second(a, b, c, s), d, y + 2 * i);
  }
  for (; i < n; ++i) {
    const RotatedPair r = quern::rotate(x[2 * i], x[2 * i + 1], cos[i], sin[i]);
    y[2 * i] = r.first;
    y[2 * i + 1] = r.second;
  }
}

}  // namespace rowwise

inline const RowwiseKernels* rowwise_kernels() {
  static constexpr RowwiseKernels kKernels = {.load = &rowwise::load_floats,
                                              .store = &rowwise::store_floats,
                                              .dequantize = &rowwise::dequantize,
                                              .quantize = &rowwise::quantize,
                                              .apply = &rowwise::apply,
                                              .largest = &rowwise::largest,
                                              .sum = &rowwise::sum,
                                              .squares = &rowwise::squares,
                                              .exponentials = &rowwise::exponentials,
                                              .scale = &rowwise::scale,
                                              .shift = &rowwise::shift,
                                              .normalize = &rowwise::normalize,
                                              .rotate = &rowwise::rotate,
                                              .rotate_neighbours = &rowwise::rotate_neighbours};
  return &kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
HWY_AFTER_NAMESPACE();
