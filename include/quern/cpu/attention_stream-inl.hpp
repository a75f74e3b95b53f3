// Fragment, compiled per target: attention of few queries. Keys and values pass once, as they are
// in memory; what they are multiplied by stays in registers and in the first cache.
HWY_BEFORE_NAMESPACE();
namespace quern {
inline namespace QUERN_ABI {
namespace cpu {
namespace HWY_NAMESPACE {
namespace attention {

// ---- Elements. pair() loads those of two vectors, from element d on, a multiple of that many; of
// s4 the even ones, then the odd ones. at() is one of those that are left.

struct F32Elements {
  static HWY_INLINE float at(const std::byte* x, Index d) {
    return reinterpret_cast<const float*>(x)[d];
  }
#if QUERN_FIXED_SIZE
  static HWY_INLINE void pair(const std::byte* x, Index d, VF& a, VF& b) {
    const auto* p = reinterpret_cast<const float*>(x) + d;
    a = hn::LoadU(DF(), p);
    b = hn::LoadU(DF(), p + hn::MaxLanes(DF()));
  }
#endif
};

template <class Half, class Scalar>
struct HalfElements {
  static HWY_INLINE float at(const std::byte* x, Index d) {
    return to_float(reinterpret_cast<const Scalar*>(x)[d]);
  }
#if QUERN_FIXED_SIZE
  static HWY_INLINE VF one(const std::uint16_t* p) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
    if constexpr (std::is_same_v<Scalar, f16>) {
      const hn::Rebind<hwy::float16_t, DF> d16;
      return hn::PromoteTo(DF(), hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
    }
#endif
    return Half::widen(hn::LoadU(rowwise::D16(), p));
  }
  static HWY_INLINE void pair(const std::byte* x, Index d, VF& a, VF& b) {
    const auto* p = reinterpret_cast<const std::uint16_t*>(x) + d;
    a = one(p);
    b = one(p + hn::MaxLanes(DF()));
  }
#endif
};
using Bf16Elements = HalfElements<rowwise::Bf16, bf16>;
using F16Elements = HalfElements<rowwise::F16, f16>;

struct S8Elements {
  static HWY_INLINE float at(const std::byte* x, Index d) {
    return reinterpret_cast<const std::int8_t*>(x)[d];
  }
#if QUERN_FIXED_SIZE
  static HWY_INLINE VF one(const std::int8_t* p) {
    const hn::Rebind<std::int8_t, D32> d8;
    return hn::ConvertTo(DF(), hn::PromoteTo(D32(), hn::LoadU(d8, p)));
  }
  static HWY_INLINE void pair(const std::byte* x, Index d, VF& a, VF& b) {
    const auto* p = reinterpret_cast<const std::int8_t*>(x) + d;
    a = one(p);
    b = one(p + hn::MaxLanes(DF()));
  }
#endif
};

struct S4Elements {
  static HWY_INLINE float at(const std::byte* x, Index d) {
    const int byte = static_cast<int>(x[d / 2]), nibble = d % 2 == 0 ? byte & 15 : byte >> 4;
    return static_cast<float>(nibble < 8 ? nibble : nibble - 16);
  }
#if QUERN_FIXED_SIZE
  static HWY_INLINE void pair(const std::byte* x, Index d, VF& a, VF& b) {
    const hn::Rebind<std::int8_t, D32> d8;
    const V32 v =
        hn::PromoteTo(D32(), hn::LoadU(d8, reinterpret_cast<const std::int8_t*>(x) + d / 2));
    a = hn::ConvertTo(DF(), hn::ShiftRight<28>(hn::ShiftLeft<28>(v)));
    b = hn::ConvertTo(DF(), hn::ShiftRight<4>(v));
  }
#endif
};

#if QUERN_FIXED_SIZE

constexpr Index kPair = 2 * static_cast<Index>(hn::MaxLanes(DF()));

/// Fetches into L2 what is wanted next, in the place of keys j to j + n - 1.
HWY_INLINE void prefetch(const HeadStream& x, Index j, Index n) {
  if (x.ahead == nullptr) return;
  for (Index i = j; i < j + n; ++i) {
    for (Index at = 0; at < x.ahead_bytes; at += 64) {
      __builtin_prefetch(x.ahead + i * x.ahead_step + at, 0, 2);
    }
  }
}

/// The sum of v's blocks of four lanes.
template <class D>
HWY_INLINE void store_blocks(D d, hn::Vec<D> v, float* to) {
  if constexpr (hn::MaxLanes(D()) > 4) {
    const hn::Half<D> half;
    store_blocks(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)), to);
  } else {
    hn::StoreU(v, d, to);
  }
}

/// to[j] = the sum of x[j]'s lanes.
template <int K>
HWY_INLINE void store_sums(const VF* x, float* to) {
  const DF df;
  if constexpr (K == 4) {
    const hn::Repartition<double, DF> d2;
    const VF ab = hn::Add(hn::InterleaveLower(df, x[0], x[1]), hn::InterleaveUpper(df, x[0], x[1])),
             cd = hn::Add(hn::InterleaveLower(df, x[2], x[3]), hn::InterleaveUpper(df, x[2], x[3]));
    const auto lower = hn::InterleaveLower(d2, hn::BitCast(d2, ab), hn::BitCast(d2, cd)),
               upper = hn::InterleaveUpper(d2, hn::BitCast(d2, ab), hn::BitCast(d2, cd));
    // Now a block has a sum of each.
    store_blocks(df, hn::Add(hn::BitCast(df, lower), hn::BitCast(df, upper)), to);
  } else {
    QUERN_UNROLL for (int j = 0; j < K; ++j) to[j] = hn::GetLane(hn::SumOfLanes(df, x[j]));
  }
}

/// R queries and K keys, whose products are added in R K vectors.
template <class Elements, int R, int K>
HWY_INLINE void dot_tile(const HeadStream& k, const std::byte* from, const float* q, Index q_stride,
                         float* x, Index x_stride) {
  const DF df;
  VF sum[R][K];
  QUERN_UNROLL for (int r = 0; r < R; ++r) {
    QUERN_UNROLL for (int j = 0; j < K; ++j) sum[r][j] = hn::Zero(df);
  }
  Index d = 0;
  for (; d + kPair <= k.size; d += kPair) {
    VF qa[R], qb[R];
    QUERN_UNROLL for (int r = 0; r < R; ++r) {
      qa[r] = hn::LoadU(df, q + r * q_stride + d);
      qb[r] = hn::LoadU(df, q + r * q_stride + d + kPair / 2);
    }
    QUERN_UNROLL for (int j = 0; j < K; ++j) {
      VF a, b;
      Elements::pair(from + j * k.step, d, a, b);
      QUERN_UNROLL for (int r = 0; r < R; ++r) {
        sum[r][j] = hn::MulAdd(qb[r], b, hn::MulAdd(qa[r], a, sum[r][j]));
      }
    }
  }
  QUERN_UNROLL for (int r = 0; r < R; ++r) {
    store_sums<K>(sum[r], x + r * x_stride);
    for (Index i = d; i < k.size; ++i) {
      QUERN_UNROLL for (int j = 0; j < K; ++j) {
        x[r * x_stride + j] += q[r * q_stride + i] * Elements::at(from + j * k.step, i);
      }
    }
  }
}

template <class Elements>
void dot_of(const HeadStream& k, const float* q, Index q_stride, Index rows, float* x,
            Index x_stride) {
  Index j = 0;
  const auto tiles = [&](auto keys) QUERN_LAMBDA {
    constexpr int kKeys = decltype(keys)::value;
    for (; j + kKeys <= k.count; j += kKeys) {
      prefetch(k, j, kKeys);
      const std::byte* from = k.data + j * k.step;
      Index r = 0;
      for (; r + 2 <= rows; r += 2) {
        dot_tile<Elements, 2, kKeys>(k, from, q + r * q_stride, q_stride, x + r * x_stride + j,
                                     x_stride);
      }
      if (r < rows) {
        dot_tile<Elements, 1, kKeys>(k, from, q + r * q_stride, q_stride, x + r * x_stride + j,
                                     x_stride);
      }
    }
  };
  tiles(std::integral_constant<int, 4>());
  tiles(std::integral_constant<int, 1>());
}

/// R rows and P pairs of vectors of the result, in registers while the values pass.
template <class Elements, int R, int P>
HWY_INLINE void weigh_tile(const HeadStream& v, Index d, const float* w, Index w_stride, float* out,
                           Index out_stride) {
  const DF df;
  VF sum[R][2 * P];
  QUERN_UNROLL for (int r = 0; r < R; ++r) {
    QUERN_UNROLL for (int i = 0; i < 2 * P; ++i) {
      sum[r][i] = hn::LoadU(df, out + r * out_stride + d + i * (kPair / 2));
    }
  }
  const std::byte* from = v.data;
  for (Index j = 0; j < v.count; ++j, from += v.step) {
    if (d == 0) prefetch(v, j, 1);
    VF weight[R];
    QUERN_UNROLL for (int r = 0; r < R; ++r) weight[r] = constant(w[r * w_stride + j]);
    QUERN_UNROLL for (int i = 0; i < P; ++i) {
      VF a, b;
      Elements::pair(from, d + i * kPair, a, b);
      QUERN_UNROLL for (int r = 0; r < R; ++r) {
        sum[r][2 * i] = hn::MulAdd(weight[r], a, sum[r][2 * i]);
        sum[r][2 * i + 1] = hn::MulAdd(weight[r], b, sum[r][2 * i + 1]);
      }
    }
  }
  QUERN_UNROLL for (int r = 0; r < R; ++r) {
    QUERN_UNROLL for (int i = 0; i < 2 * P; ++i) {
      hn::StoreU(sum[r][i], df, out + r * out_stride + d + i * (kPair / 2));
    }
  }
}

/// All channels of R rows, P pairs at a time; the last ones one by one.
template <class Elements, int R, int P>
void weigh_rows(const HeadStream& v, const float* w, Index w_stride, float* out, Index out_stride) {
  Index d = 0;
  for (; d + P * kPair <= v.size; d += P * kPair) {
    weigh_tile<Elements, R, P>(v, d, w, w_stride, out, out_stride);
  }
  for (; d + kPair <= v.size; d += kPair) {
    weigh_tile<Elements, R, 1>(v, d, w, w_stride, out, out_stride);
  }
  for (; d < v.size; ++d) {
    for (Index r = 0; r < R; ++r) {
      float total = out[r * out_stride + d];
      for (Index j = 0; j < v.count; ++j) {
        total += w[r * w_stride + j] * Elements::at(v.data + j * v.step, d);
      }
      out[r * out_stride + d] = total;
    }
  }
}

template <class Elements>
void weigh_of(const HeadStream& v, const float* w, Index w_stride, Index rows, float* out,
              Index out_stride) {
  HeadStream x = v;
  for (Index r = 0; r < rows;) {
    const Index left = rows - r;
    const auto run = left >= 4   ? &weigh_rows<Elements, 4, 1>
                     : left >= 2 ? &weigh_rows<Elements, 2, 2>
                                 : &weigh_rows<Elements, 1, 4>;
    run(x, w + r * w_stride, w_stride, out + r * out_stride, out_stride);
    r += left >= 4 ? 4 : left >= 2 ? 2 : 1;
    x.ahead = nullptr;
  }
}

inline void split(const float* x, Index n, float* to) noexcept {
  Index d = 0;
  for (; d + kPair <= n; d += kPair) {
    for (Index i = 0; i < kPair; ++i) to[d + i % 2 * (kPair / 2) + i / 2] = x[d + i];
  }
  for (; d < n; ++d) to[d] = x[d];
}
inline void unsplit(const float* x, Index n, float* to) noexcept {
  Index d = 0;
  for (; d + kPair <= n; d += kPair) {
    for (Index i = 0; i < kPair; ++i) to[d + i] = x[d + i % 2 * (kPair / 2) + i / 2];
  }
  for (; d < n; ++d) to[d] = x[d];
}

#else  // vectors of unknown length: plain loops

template <class Elements>
void dot_of(const HeadStream& k, const float* q, Index q_stride, Index rows, float* x,
            Index x_stride) {
  for (Index j = 0; j < k.count; ++j) {
    for (Index r = 0; r < rows; ++r) {
      float total = 0.0f;
      for (Index d = 0; d < k.size; ++d) {
        total += q[r * q_stride + d] * Elements::at(k.data + j * k.step, d);
      }
      x[r * x_stride + j] = total;
    }
  }
}
template <class Elements>
void weigh_of(const HeadStream& v, const float* w, Index w_stride, Index rows, float* out,
              Index out_stride) {
  for (Index j = 0; j < v.count; ++j) {
    for (Index r = 0; r < rows; ++r) {
      for (Index d = 0; d < v.size; ++d) {
        out[r * out_stride + d] += w[r * w_stride + j] * Elements::at(v.data + j * v.step, d);
      }
    }
  }
}
inline void split(const float* x, Index n, float* to) noexcept {
  for (Index d = 0; d < n; ++d) to[d] = x[d];
}
inline void unsplit(const float* x, Index n, float* to) noexcept { split(x, n, to); }

#endif

inline void dot(const HeadStream& k, const float* q, Index q_stride, Index rows, float* x,
                Index x_stride) noexcept {
  const auto run = k.type == HeadType::f32    ? &dot_of<F32Elements>
                   : k.type == HeadType::bf16 ? &dot_of<Bf16Elements>
                   : k.type == HeadType::f16  ? &dot_of<F16Elements>
                   : k.type == HeadType::s8   ? &dot_of<S8Elements>
                                              : &dot_of<S4Elements>;
  run(k, q, q_stride, rows, x, x_stride);
}

inline void weigh(const HeadStream& v, const float* w, Index w_stride, Index rows, float* out,
                  Index out_stride) noexcept {
  const auto run = v.type == HeadType::f32    ? &weigh_of<F32Elements>
                   : v.type == HeadType::bf16 ? &weigh_of<Bf16Elements>
                   : v.type == HeadType::f16  ? &weigh_of<F16Elements>
                   : v.type == HeadType::s8   ? &weigh_of<S8Elements>
                                              : &weigh_of<S4Elements>;
  run(v, w, w_stride, rows, out, out_stride);
}

}  // namespace attention
}  // namespace HWY_NAMESPACE
}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
HWY_AFTER_NAMESPACE();
