// Fragment, compiled per target: depthwise convolution, see depthwise.hpp for what a line is.
HWY_BEFORE_NAMESPACE();
namespace quern {
inline namespace QUERN_ABI {
namespace cpu {
namespace HWY_NAMESPACE {

// ---- Lines.

/// One row of floats.
inline void copy_line(const PixelRow* rows, Index count, bool, std::byte* to) noexcept {
  const DF d;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  const std::byte* from = rows[0].data;
  auto* out = reinterpret_cast<float*>(to);
  for (Index i = 0; i < count; ++i, from += rows[0].pixel, out += 16) {
    for (Index c = 0; c < 16; c += lanes) {
      hn::StoreU(hn::LoadU(d, reinterpret_cast<const float*>(from) + c), d, out + c);
    }
  }
}

#if QUERN_FIXED_SIZE

using Bytes16 = hn::FixedTag<std::uint8_t, 16>;

HWY_INLINE hn::Vec<Bytes16> load_bytes(const std::byte* from) {
  return hn::LoadU(Bytes16(), reinterpret_cast<const std::uint8_t*>(from));
}

/// 16 bytes as shorts. D: of 16 lanes or 8.
template <bool kSigned, class D>
HWY_INLINE void widen_bytes(D d, hn::Vec<Bytes16> bytes, std::int16_t* to) {
  const hn::Rebind<std::uint8_t, D> du;
  const auto store = [&](auto part, std::int16_t* at) QUERN_LAMBDA {
    const hn::Rebind<std::int8_t, D> ds;
    const hn::RebindToUnsigned<D> d16;
    if constexpr (kSigned) {
      hn::StoreU(hn::PromoteTo(d, hn::BitCast(ds, part)), d, at);
    } else {
      hn::StoreU(hn::BitCast(d, hn::PromoteTo(d16, part)), d, at);
    }
  };
  if constexpr (hn::MaxLanes(D()) == 16) {
    store(bytes, to);
  } else {
    store(hn::LowerHalf(du, bytes), to);
    store(hn::UpperHalf(du, bytes), to + 8);
  }
}

template <bool kSigned>
void pair_line(const PixelRow* rows, Index count, std::byte* to) {
  const Bytes16 d;
  const hn::CappedTag<std::int16_t, 16> d16;
  auto* out = reinterpret_cast<std::int16_t*>(to);
  const std::byte *a = rows[0].data, *b = rows[1].data;
  const Index a_pixel = rows[0].pixel, b_pixel = rows[1].pixel;
  for (Index i = 0; i < count; ++i, a += a_pixel, b += b_pixel, out += 32) {
    const auto x = load_bytes(a), y = load_bytes(b);
    widen_bytes<kSigned>(d16, hn::InterleaveLower(d, x, y), out);
    widen_bytes<kSigned>(d16, hn::InterleaveUpper(d, x, y), out + 16);
  }
}

/// Words of two shorts: of two rows.
inline void pair_line(const PixelRow* rows, Index count, bool is_signed, std::byte* to) noexcept {
  (is_signed ? pair_line<true> : pair_line<false>)(rows, count, to);
}

#if QUERN_HAVE_QUADS && HWY_ARCH_X86

/// Bytes of four rows, 16 each, as words; flip: what they are XORed with.
HWY_INLINE void store_quads(const std::byte* const* rows, std::uint8_t flip, std::byte* to) {
#if HWY_TARGET <= HWY_AVX3
  const auto load = [&](int lower, int upper) QUERN_LAMBDA {
    const __m256i x = _mm256_castsi128_si256(load_bytes(rows[lower]).raw);
    return _mm256_inserti128_si256(x, load_bytes(rows[upper]).raw, 1);
  };
  const __m256i even = load(0, 2), odd = load(1, 3);
  // Eight pairs of rows 0 and 1, of 2 and 3, and the next eight.
  const __m512i pairs = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_unpacklo_epi8(even, odd)),
                                           _mm256_unpackhi_epi8(even, odd), 1);
  alignas(64) static constexpr std::int16_t kOrder[32] = {
      0,  8,  1,  9,  2,  10, 3,  11, 4,  12, 5,  13, 6,  14, 7,  15,
      16, 24, 17, 25, 18, 26, 19, 27, 20, 28, 21, 29, 22, 30, 23, 31};
  const __m512i words = _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), pairs);
  _mm512_storeu_si512(to, _mm512_xor_si512(words, _mm512_set1_epi8(static_cast<char>(flip))));
#else
  const Bytes16 d;
  const hn::Repartition<std::uint16_t, Bytes16> d16;
  auto* out = reinterpret_cast<std::uint16_t*>(to);
  hn::Vec<Bytes16> x[4];
  QUERN_UNROLL for (int r = 0; r < 4; ++r) x[r] = hn::Xor(load_bytes(rows[r]), hn::Set(d, flip));
  const auto store = [&](auto pairs0, auto pairs1, std::uint16_t* at) QUERN_LAMBDA {
    const auto a = hn::BitCast(d16, pairs0), b = hn::BitCast(d16, pairs1);
    hn::StoreU(hn::InterleaveLower(d16, a, b), d16, at);
    hn::StoreU(hn::InterleaveUpper(d16, a, b), d16, at + 8);
  };
  store(hn::InterleaveLower(d, x[0], x[1]), hn::InterleaveLower(d, x[2], x[3]), out);
  store(hn::InterleaveUpper(d, x[0], x[1]), hn::InterleaveUpper(d, x[2], x[3]), out + 16);
#endif
}

/// Words of four unsigned bytes: of four rows; s8 have 128 added.
inline void quad_line(const PixelRow* rows, Index count, bool is_signed, std::byte* to) noexcept {
  const std::byte* from[4] = {rows[0].data, rows[1].data, rows[2].data, rows[3].data};
  const Index pixel[4] = {rows[0].pixel, rows[1].pixel, rows[2].pixel, rows[3].pixel};
  const std::uint8_t flip = is_signed ? 0x80 : 0;
  for (Index i = 0; i < count; ++i, to += 64) {
    store_quads(from, flip, to);
    QUERN_UNROLL for (int r = 0; r < 4; ++r) from[r] += pixel[r];
  }
}

#endif

// ---- Where sums go. A sink says what they begin with, makes of each what is to be stored, and
// stores up to four at a time, of positions from `first` of row y on and channels from c on.

/// Memory, as they are: 16 at to + y * row + first * position.
template <class Lane>
struct SumSink {
  using D = hn::CappedTag<Lane, 16>;
  Lane* to;
  Index row, position;

  HWY_INLINE hn::Vec<D> begin(int) const { return hn::Zero(D()); }
  HWY_INLINE hn::Vec<D> ready(hn::Vec<D> sum, int) const { return sum; }
  template <int N>
  HWY_INLINE void store(const hn::Vec<D>* sums, Index y, Index first, int c) const {
    Lane* out = to + y * row + first * position + c;
    const Index step = position;
    QUERN_UNROLL for (int r = 0; r < N; ++r) hn::StoreU(sums[r], D(), out + r * step);
  }
};

/// C: where position `first` of row y is, and how vectors get there.
template <class T>
struct PositionsOfC {
  T* c;
  Index row, position, columns;  // steps in elements

  PositionsOfC(const DepthwiseRows& in, const Output& o, Index columns)
      : c(reinterpret_cast<T*>(element(o.c, o.inputs.batch, o.row, o.column))),
        row(in.row_step * o.c.row_stride),
        position(o.c.row_stride),
        columns(columns) {}
  HWY_INLINE T* at(Index y, Index first, int column) const {
    return c + y * row + first * position + column;
  }
};

/// The first N quarters of a vector, `step` bytes apart.
template <int N>
HWY_INLINE void store_quarters(hn::Vec<D8> bytes, std::int8_t* to, Index step) {
#if HWY_TARGET == HWY_AVX2
  const __m128i half[2] = {_mm256_castsi256_si128(bytes.raw),
                           _mm256_extracti128_si256(bytes.raw, 1)};
  QUERN_UNROLL for (int i = 0; i < N; ++i) {
    const __m128i x = half[i / 2];
    const std::int64_t eight = i % 2 == 0 ? _mm_cvtsi128_si64(x) : _mm_extract_epi64(x, 1);
    hwy::CopyBytes<8>(&eight, to + i * step);  // anywhere
  }
#else
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(D32()));
  alignas(64) std::int8_t all[4 * kLanes];
  hn::Store(bytes, D8(), all);
  QUERN_UNROLL for (int i = 0; i < N; ++i) hwy::CopyBytes<kLanes>(all + i * kLanes, to + i * step);
#endif
}

/// Requantized, in C.
struct ByteSink {
  alignas(64) std::int32_t base[16] = {};
  alignas(64) float scale[16];
  Requantizer requantizer;
  PositionsOfC<std::int8_t> c;
  bool suits = true;

  ByteSink(const DepthwiseRows& in, const Output& o, Index columns, const Requantization& r)
      : requantizer(o, r), c(in, o, columns) {
    if (o.base != nullptr) std::memcpy(base, o.base, sizeof(base));
    const auto* scales = static_cast<const float*>(o.steps[0].data);
    for (Index j = 0; j < 16; ++j) {
      scale[j] = scales[o.steps[0].count == 1 ? 0 : o.column + j];
      suits &= std::fabs(scale[j]) < 1.0f;
    }
  }
  HWY_INLINE V32 begin(int c0) const { return hn::Load(D32(), base + c0); }
  HWY_INLINE V32 ready(V32 sum, int c0) const {
    return requantizer.round(sum, hn::Load(DF(), scale + c0));
  }
  template <int N>
  HWY_INLINE void store(const V32* sums, Index y, Index first, int c0) const {
    constexpr int kLanes = static_cast<int>(hn::MaxLanes(D32()));
    const V32 four[4] = {sums[0], sums[N > 1], sums[N > 2 ? 2 : 0], sums[N > 3 ? 3 : 0]};
    const auto bytes = requantizer.bytes(four);
    const Index position = c.position, count = c.columns - c0;
    std::int8_t* out = c.at(y, first, c0);
    if (HWY_LIKELY(count >= kLanes)) {
      store_quarters<N>(bytes, out, position);
    } else if (count > 0) {
      alignas(64) std::int8_t all[4 * kLanes];
      hn::Store(bytes, D8(), all);
      for (int r = 0; r < N; ++r) {
        std::memcpy(out + r * position, all + r * kLanes, static_cast<std::size_t>(count));
      }
    }
  }
};

/// Floats with a bias and clamps, in C.
struct FloatSink {
  alignas(64) float bias[16];
  PositionsOfC<float> c;
  float low = -HUGE_VALF, high = HUGE_VALF;
  bool suits = false;

  FloatSink(const DepthwiseRows& in, const Output& o, Index columns) : c(in, o, columns) {
    if (o.type != DType::f32) return;
    const bool biased = o.step_count > 0 && o.steps[0].kind == Step::Kind::bias;
    // To add -0 changes nothing.
    for (Index j = 0; j < 16; ++j) {
      bias[j] = biased ? static_cast<const float*>(o.steps[0].data)[o.column + j] : -0.0f;
    }
    suits = fold_clamps(o, biased, low, high);
  }
  HWY_INLINE VF begin(int) const { return hn::Zero(DF()); }
  HWY_INLINE VF ready(VF sum, int c0) const {
    const VF v = hn::Add(sum, hn::Load(DF(), bias + c0));
#if HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128
    // The second operand if one is NaN or both are zeros, as in lower_bound() and upper_bound().
    return hn::Min(constant(high), hn::Max(constant(low), v));
#else
    return upper_bound(lower_bound(v, constant(low)), constant(high));
#endif
  }
  template <int N>
  HWY_INLINE void store(const VF* v, Index y, Index first, int c0) const {
    constexpr int kLanes = static_cast<int>(hn::MaxLanes(DF()));
    float* out = c.at(y, first, c0);
    const Index position = c.position, count = c.columns - c0;
    if (HWY_LIKELY(count >= kLanes)) {
      QUERN_UNROLL for (int r = 0; r < N; ++r) hn::StoreU(v[r], DF(), out + r * position);
    } else if (count > 0) {
      alignas(64) float values[kLanes];
      for (int r = 0; r < N; ++r) {
        hn::Store(v[r], DF(), values);
        std::memcpy(out + r * position, values, static_cast<std::size_t>(count) * 4);
      }
    }
  }
};

// ---- Sums.

/// Rows of the image in a word.
template <class Mac>
inline constexpr int kWordRows = 2;
template <>
inline constexpr int kWordRows<MacF32> = 1;
#if QUERN_HAVE_QUADS && HWY_ARCH_X86
template <>
inline constexpr int kWordRows<MacQuads> = 4;
#endif

template <class Mac>
HWY_INLINE auto load_words(const std::byte* from) {
  return Mac::load(from, 0, 0);
}

/// A pixel of several products, loaded once: g++ would load a float again for each.
template <class Mac>
HWY_INLINE auto load_pixel(const std::byte* from) {
  if constexpr (kWordRows<Mac> == 1) {
    return unfused(Mac::load(from, 0, 0));
  } else {
    return Mac::load(from, 0, 0);
  }
}

template <int R, class Sum, class Sink>
HWY_INLINE void store_run(const Sum* sum, Index y, Index first, int c, const Sink& sink) {
  QUERN_UNROLL for (int r = 0; r < R; r += 4) {
    if (r + 4 <= R) sink.template store<4>(sum + r, y, first + r, c);
  }
  if constexpr (R % 4 != 0) sink.template store<R % 4>(sum + R / 4 * 4, y, first + R / 4 * 4, c);
}

/// R positions, some channels at a time; weights are loaded once for all of them.
template <class Mac, int R, class Sink>
HWY_INLINE void depthwise_run(const DepthwiseRows& in, Index y, Index first, const Sink& sink) {
  using Sum = typename Mac::Sum;
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(D32())), kSums1 = Mac::kTwoSums ? R : 1;
  const std::byte* const* lines = in.lines + y * in.line_count;
  for (int c = 0; c < 16; c += kLanes) {
    Sum sum[R], sum1[kSums1];
    const Sum begin = sink.begin(c), zero = hn::Xor(begin, begin);
    QUERN_UNROLL for (int r = 0; r < R; ++r) sum[r] = Mac::kTwoSums ? zero : begin;
    QUERN_UNROLL for (int r = 0; r < kSums1; ++r) sum1[r] = zero;
    const std::byte* w = in.weights[y] + c * 4;
    for (Index l = 0; l < in.line_count; ++l) {
      const std::byte* x = lines[l] + first * in.position_bytes + c * 4;
      for (Index t = 0; t < in.taps; ++t, x += in.tap_bytes, w += 64) {
        const auto weight = load_words<Mac>(w);
        QUERN_UNROLL for (int r = 0; r < R; ++r) {
          Mac::multiply(load_words<Mac>(x + r * in.position_bytes), weight, sum[r],
                        sum1[r % kSums1]);
        }
      }
    }
    QUERN_UNROLL for (int r = 0; r < R; ++r) {
      if constexpr (Mac::kTwoSums) sum[r] = hn::Add(Mac::total(sum[r], sum1[r]), begin);
      sum[r] = sink.ready(sum[r], c);
    }
    store_run<R>(sum, y, first, c, sink);
  }
}

/// The same of the usual kernels: T taps S positions apart. A pixel is loaded once for all
/// positions that use it, and weights stay in registers.
template <class Mac, int T, int S, int R, class Sink>
HWY_INLINE void depthwise_usual(const DepthwiseRows& in, Index y, Index first, const Sink& sink) {
  using Sum = typename Mac::Sum;
  static_assert(!Mac::kTwoSums);
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(D32())), kColumns = (R - 1) * S + T;
  const std::byte* const* lines = in.lines + y * in.line_count;
  for (int c = 0; c < 16; c += kLanes) {
    Sum sum[R], unused;
    QUERN_UNROLL for (int r = 0; r < R; ++r) sum[r] = sink.begin(c);
    const std::byte* w = in.weights[y] + c * 4;
    for (Index l = 0; l < in.line_count; ++l, w += T * 64) {
      const std::byte* x = lines[l] + first * S * 64 + c * 4;
      decltype(load_words<Mac>(w)) weights[T];
      QUERN_UNROLL for (int t = 0; t < T; ++t) weights[t] = load_words<Mac>(w + t * 64);
      QUERN_UNROLL for (int column = 0; column < kColumns; ++column) {
        const auto pixel = load_pixel<Mac>(x + column * 64);
        QUERN_UNROLL for (int t = 0; t < T; ++t) {
          const int r = (column - t) / S;
          if (column < t || (column - t) % S != 0 || r >= R) continue;
          Mac::multiply(pixel, weights[t], sum[r], unused);
        }
      }
    }
    QUERN_UNROLL for (int r = 0; r < R; ++r) sum[r] = sink.ready(sum[r], c);
    store_run<R>(sum, y, first, c, sink);
  }
}

/// All rows, in runs of 7 positions, as most images have multiples of 7. What is left overlaps the
/// run before: computing some positions again is cheaper than a remainder one by one. `run` takes
/// (the number as a type, y, first).
template <class Mac, class Sink, class Run>
HWY_INLINE void depthwise_rows(const DepthwiseRows& in, const Sink& sink, const Run& run) {
  const std::integral_constant<int, 7> seven;
  const std::integral_constant<int, 4> four;
  const Index n = in.positions;
  for (Index y = 0; y < in.rows; ++y) {
    Index i = 0;
    for (; i + 7 <= n; i += 7) run(seven, y, i);
    if (n - i > 4 && n >= 7) {
      run(seven, y, n - 7);
    } else if (n - i > 0 && n >= 4) {
      if (n - i > 4) run(four, y, i);
      run(four, y, n - 4);
    } else {
      for (; i < n; ++i) depthwise_run<Mac, 1>(in, y, i, sink);
    }
  }
}

template <class Mac, int T, int S, class Sink>
void depthwise_usual_rows(const DepthwiseRows& in, const Sink& sink) {
  depthwise_rows<Mac>(in, sink, [&](auto r, Index y, Index first) QUERN_LAMBDA {
    depthwise_usual<Mac, T, S, decltype(r)::value>(in, y, first, sink);
  });
}

/// Unrolled code for the usual kernels takes time to compile: there is some only where it pays.
template <class Mac, class Sink>
inline constexpr bool kHasUsual =
    HWY_ARCH_X86&& HWY_TARGET <= HWY_AVX2 && !std::is_same_v<Sink, SumSink<std::int32_t>>;

template <class Mac, class Sink>
void depthwise_all(const DepthwiseRows& in, const Sink& sink) {
  if constexpr (kHasUsual<Mac, Sink>) {
    const Index stride = in.position_bytes / 64, taps = in.tap_bytes == 64 ? in.taps : 0;
    if (taps == 3 && stride == 1) return depthwise_usual_rows<Mac, 3, 1>(in, sink);
    if (taps == 5 && stride == 1) return depthwise_usual_rows<Mac, 5, 1>(in, sink);
  }
  depthwise_rows<Mac>(in, sink, [&](auto r, Index y, Index first) QUERN_LAMBDA {
    depthwise_run<Mac, decltype(r)::value>(in, y, first, sink);
  });
}

template <class Mac>
void depthwise_sums(const DepthwiseRows& in, void* sums) noexcept {
  using Lane = typename Mac::Lane;
  depthwise_all<Mac>(in, SumSink<Lane>{static_cast<Lane*>(sums), in.positions * 16, 16});
}

template <class Mac>
bool depthwise_bytes(const DepthwiseRows& in, const Output& o, Index columns) noexcept {
  const Requantization r(o);
  if (!r.suits) return false;
  const ByteSink sink(in, o, columns, r);
  if (sink.suits) depthwise_all<Mac>(in, sink);
  return sink.suits;
}

inline bool depthwise_floats(const DepthwiseRows& in, const Output& o, Index columns) noexcept {
  const FloatSink sink(in, o, columns);
  if (sink.suits && o.step_count == 0 && columns == 16) {
    depthwise_all<MacF32>(in, SumSink<float>{sink.c.c, sink.c.row, sink.c.position});
    return true;
  }
  if (sink.suits) depthwise_all<MacF32>(in, sink);
  return sink.suits;
}

#else

inline void pair_line(const PixelRow* rows, Index count, bool is_signed, std::byte* to) noexcept {
  auto* out = reinterpret_cast<std::int16_t*>(to);
  const auto widened = [&](std::byte x) {
    return is_signed ? std::int16_t{static_cast<std::int8_t>(x)}
                     : std::int16_t{static_cast<std::uint8_t>(x)};
  };
  for (Index i = 0; i < count; ++i, out += 32) {
    for (Index c = 0; c < 16; ++c) {
      out[2 * c] = widened(rows[0].data[i * rows[0].pixel + c]);
      out[2 * c + 1] = widened(rows[1].data[i * rows[1].pixel + c]);
    }
  }
}

/// Plain C++.
template <bool kFloat>
void depthwise_sums(const DepthwiseRows& in, void* sums) noexcept {
  for (Index y = 0; y < in.rows; ++y) {
    for (Index i = y * in.positions; i < (y + 1) * in.positions; ++i) {
      for (Index c = 0; c < 16; ++c) {
        const std::byte* w = in.weights[y] + c * 4;
        float total = 0.0f;
        std::uint32_t sum = 0;
        for (Index l = 0; l < in.line_count; ++l) {
          const std::byte* x =
              in.lines[y * in.line_count + l] + (i - y * in.positions) * in.position_bytes + c * 4;
          for (Index t = 0; t < in.taps; ++t, x += in.tap_bytes, w += 64) {
            if constexpr (kFloat) {
              float xf, wf;
              std::memcpy(&xf, x, 4);
              std::memcpy(&wf, w, 4);
              total = std::fma(xf, wf, total);
            } else {
              std::int16_t xs[2], ws[2];
              std::memcpy(xs, x, 4);
              std::memcpy(ws, w, 4);
              sum += static_cast<std::uint32_t>(xs[0] * ws[0]) +
                     static_cast<std::uint32_t>(xs[1] * ws[1]);
            }
          }
        }
        if constexpr (kFloat) {
          static_cast<float*>(sums)[i * 16 + c] = total;
        } else {
          static_cast<std::int32_t*>(sums)[i * 16 + c] = static_cast<std::int32_t>(sum);
        }
      }
    }
  }
}

inline bool never_finishes(const DepthwiseRows&, const Output&, Index) noexcept { return false; }

#endif

}  // namespace HWY_NAMESPACE
}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
HWY_AFTER_NAMESPACE();
