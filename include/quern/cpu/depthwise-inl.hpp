// Fragment, compiled per target: depthwise convolution, see depthwise.hpp. A *line* is what 16
// channels of a row of pixels have become, a word for each channel of each pixel: two shorts, of
// this row and of the next that the kernel reads, or one float.
HWY_BEFORE_NAMESPACE();
namespace quern {
inline namespace QUERN_ABI {
namespace cpu {
namespace HWY_NAMESPACE {

#if QUERN_FIXED_SIZE

using Bytes16 = hn::FixedTag<std::uint8_t, 16>;

/// 16 bytes as shorts. D: of 16 lanes or 8.
template <class D>
HWY_INLINE void widen_bytes(D d, hn::Vec<Bytes16> bytes, bool is_signed, std::int16_t* to) {
  const hn::Rebind<std::uint8_t, D> du;
  const auto store = [&](auto part, std::int16_t* at) QUERN_LAMBDA {
    const hn::Rebind<std::int8_t, D> ds;
    const hn::RebindToUnsigned<D> d16;
    hn::StoreU(is_signed ? hn::PromoteTo(d, hn::BitCast(ds, part))
                         : hn::BitCast(d, hn::PromoteTo(d16, part)),
               d, at);
  };
  if constexpr (hn::MaxLanes(D()) == 16) {
    store(bytes, to);
  } else {
    store(hn::LowerHalf(du, bytes), to);
    store(hn::UpperHalf(du, bytes), to + 8);
  }
}

#endif

/// Words of 16 channels of `count` pixels: (pixel, 16, 2) shorts.
inline void pair_lines(const PixelRow& first, const PixelRow& second, Index count, bool is_signed,
                       std::byte* to) noexcept {
  auto* out = reinterpret_cast<std::int16_t*>(to);
#if QUERN_FIXED_SIZE
  const Bytes16 d8;
  const hn::CappedTag<std::int16_t, 16> d16;
  const auto* a = reinterpret_cast<const std::uint8_t*>(first.data);
  const auto* b = reinterpret_cast<const std::uint8_t*>(second.data);
  for (Index i = 0; i < count; ++i, a += first.pixel, b += second.pixel, out += 32) {
    const auto x = hn::LoadU(d8, a), y = hn::LoadU(d8, b);
    widen_bytes(d16, hn::InterleaveLower(d8, x, y), is_signed, out);
    widen_bytes(d16, hn::InterleaveUpper(d8, x, y), is_signed, out + 16);
  }
#else
  const auto widened = [&](std::byte x) {
    return is_signed ? std::int16_t{static_cast<std::int8_t>(x)}
                     : std::int16_t{static_cast<std::uint8_t>(x)};
  };
  for (Index i = 0; i < count; ++i, out += 32) {
    for (Index c = 0; c < 16; ++c) {
      out[2 * c] = widened(first.data[i * first.pixel + c]);
      out[2 * c + 1] = widened(second.data[i * second.pixel + c]);
    }
  }
#endif
}

#if !QUERN_FIXED_SIZE

/// Plain C++.
template <bool kFloat>
void depthwise(const DepthwiseRow& row, Index positions, void* sums) noexcept {
  for (Index i = 0; i < positions; ++i) {
    for (Index c = 0; c < 16; ++c) {
      const std::byte* w = row.weights + c * 4;
      float total = 0.0f;
      std::uint32_t sum = 0;
      for (Index l = 0; l < row.line_count; ++l) {
        const std::byte* x = row.lines[l] + i * row.position_bytes + c * 4;
        for (Index t = 0; t < row.taps; ++t, x += row.tap_bytes, w += 64) {
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

#else

/// R positions: R x 16 sums in registers; weights are loaded once for all of them.
template <bool kFloat, int R>
HWY_INLINE void depthwise_positions(const DepthwiseRow& row, Index first, void* sums) {
  using Lane = std::conditional_t<kFloat, float, std::int32_t>;
  using D = hn::CappedTag<Lane, 16>;
  const D d;
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(D())), kVectors = 16 / kLanes;
  constexpr bool kTwoSums = !kFloat && !kPairwise;
  hn::Vec<D> sum[R][kVectors], sum1[kTwoSums ? R : 1][kTwoSums ? kVectors : 1];
  QUERN_UNROLL for (int r = 0; r < R; ++r) {
    QUERN_UNROLL for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = hn::Zero(d);
      sum1[kTwoSums ? r : 0][kTwoSums ? v : 0] = hn::Zero(d);
    }
  }
  const auto load = [&](const std::byte* from, int v) QUERN_LAMBDA {
    return hn::LoadU(d, reinterpret_cast<const Lane*>(from) + v * kLanes);
  };
  const std::byte* w = row.weights;
  for (Index l = 0; l < row.line_count; ++l) {
    const std::byte* x = row.lines[l] + first * row.position_bytes;
    for (Index t = 0; t < row.taps; ++t, x += row.tap_bytes, w += 64) {
      hn::Vec<D> weights[kVectors];
      QUERN_UNROLL for (int v = 0; v < kVectors; ++v) weights[v] = load(w, v);
      QUERN_UNROLL for (int r = 0; r < R; ++r) {
        QUERN_UNROLL for (int v = 0; v < kVectors; ++v) {
          const auto pixel = load(x + r * row.position_bytes, v);
          if constexpr (kFloat) {
            sum[r][v] = hn::MulAdd(pixel, weights[v], sum[r][v]);
          } else {
            sum[r][v] = hn::ReorderWidenMulAccumulate(d, hn::BitCast(D16(), pixel),
                                                      hn::BitCast(D16(), weights[v]), sum[r][v],
                                                      sum1[kTwoSums ? r : 0][kTwoSums ? v : 0]);
          }
        }
      }
    }
  }
  Lane* out = static_cast<Lane*>(sums) + first * 16;
  QUERN_UNROLL for (int r = 0; r < R; ++r) {
    QUERN_UNROLL for (int v = 0; v < kVectors; ++v) {
      auto total = sum[r][v];
      if constexpr (kTwoSums) total = hn::RearrangeToOddPlusEven(total, sum1[r][v]);
      hn::StoreU(total, d, out + r * 16 + v * kLanes);
    }
  }
}

/// The usual kernels: T taps S positions apart, their weights in registers. A pixel is loaded once
/// for all positions that use it, R of them, some channels at a time.
template <bool kFloat, int T, int S, int R>
HWY_INLINE void depthwise_columns(const DepthwiseRow& row, Index first, void* sums) {
  using Lane = std::conditional_t<kFloat, float, std::int32_t>;
  using D = hn::CappedTag<Lane, 16>;
  const D d;
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
  for (int c = 0; c < 16; c += kLanes) {
    const auto load = [&](const std::byte* from) QUERN_LAMBDA {
      return hn::LoadU(d, reinterpret_cast<const Lane*>(from) + c);
    };
    hn::Vec<D> sum[R];
    QUERN_UNROLL for (int r = 0; r < R; ++r) sum[r] = hn::Zero(d);
    for (Index l = 0; l < row.line_count; ++l) {
      const std::byte* x = row.lines[l] + first * (S * 64);
      const std::byte* w = row.weights + l * (T * 64);
      hn::Vec<D> weights[T];
      QUERN_UNROLL for (int t = 0; t < T; ++t) weights[t] = load(w + t * 64);
      QUERN_UNROLL for (int column = 0; column < (R - 1) * S + T; ++column) {
        const auto pixel = load(x + column * 64);
        QUERN_UNROLL for (int t = 0; t < T; ++t) {
          const int r = (column - t) / S;
          if (column < t || (column - t) % S != 0 || r >= R) continue;
          if constexpr (kFloat) {
            sum[r] = hn::MulAdd(pixel, weights[t], sum[r]);
          } else {
            MacPairs::multiply(hn::BitCast(D16(), pixel), hn::BitCast(D16(), weights[t]), sum[r],
                               sum[r]);
          }
        }
      }
    }
    Lane* out = static_cast<Lane*>(sums) + first * 16 + c;
    QUERN_UNROLL for (int r = 0; r < R; ++r) hn::StoreU(sum[r], d, out + r * 16);
  }
}

/// Calls run(r, position) for runs of r positions: R, or fewer where there are not so many. The
/// last overlaps the one before: computing some positions again is cheaper than a remainder one by
/// one.
template <int R, class F>
HWY_INLINE void for_each_run(Index positions, const F& run) {
  if constexpr (R > 1) {
    if (positions < R) return for_each_run<R / 2>(positions, run);
  }
  for (Index i = 0; i < positions; i += R) {
    run(std::integral_constant<int, R>(), i + R <= positions ? i : positions - R);
  }
}

template <bool kFloat, int T, int S>
void depthwise_usual(const DepthwiseRow& row, Index positions, void* sums) {
  for_each_run<8>(positions, [&](auto r, Index i) QUERN_LAMBDA {
    depthwise_columns<kFloat, T, S, decltype(r)::value>(row, i, sums);
  });
}

/// Sums of a row of output positions, (positions, 16).
template <bool kFloat>
void depthwise(const DepthwiseRow& row, Index positions, void* sums) noexcept {
  if constexpr (kFloat || kPairwise) {
    const Index stride = row.position_bytes / 64, taps = row.tap_bytes == 64 ? row.taps : 0;
    if (taps == 3 && stride == 1) return depthwise_usual<kFloat, 3, 1>(row, positions, sums);
    if (taps == 3 && stride == 2) return depthwise_usual<kFloat, 3, 2>(row, positions, sums);
    if (taps == 5 && stride == 1) return depthwise_usual<kFloat, 5, 1>(row, positions, sums);
    if (taps == 5 && stride == 2) return depthwise_usual<kFloat, 5, 2>(row, positions, sums);
  }
  constexpr int kSums = HWY_ARCH_X86 && HWY_TARGET > HWY_AVX3 ? 8 : 16;  // of 16 or 32 registers
  constexpr int kVectors = 16 / static_cast<int>(hn::MaxLanes(D32()));
  for_each_run < kSums / kVectors<8 ? kSums / kVectors : 8>(
                             positions,
                             [&](auto r, Index i) QUERN_LAMBDA {
                               depthwise_positions<kFloat, decltype(r)::value>(row, i, sums);
                             });
}

#endif

}  // namespace HWY_NAMESPACE
}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
HWY_AFTER_NAMESPACE();
