// Fragment, compiled per target: packing of keys and what happens to rows of logits.
HWY_BEFORE_NAMESPACE();
namespace quern {
inline namespace QUERN_ABI {
namespace cpu {
namespace HWY_NAMESPACE {
namespace attention {

using rowwise::each_vector;
using rowwise::exponential;

/// Squares of 4 x 4: 8 shuffles for 16 elements.
inline void pack_panel(const float* const* rows, Index n, float* to) noexcept {
  Index d = 0;
#if QUERN_FIXED_SIZE
  const hn::FixedTag<float, 4> d4;
  const hn::Repartition<double, decltype(d4)> d2;
  for (; d + 4 <= n; d += 4, to += 64) {
    QUERN_UNROLL for (int r = 0; r < 16; r += 4) {
      const auto a = hn::LoadU(d4, rows[r] + d), b = hn::LoadU(d4, rows[r + 1] + d),
                 c = hn::LoadU(d4, rows[r + 2] + d), e = hn::LoadU(d4, rows[r + 3] + d);
      const auto ab0 = hn::BitCast(d2, hn::InterleaveLower(d4, a, b)),
                 ab1 = hn::BitCast(d2, hn::InterleaveUpper(d4, a, b)),
                 ce0 = hn::BitCast(d2, hn::InterleaveLower(d4, c, e)),
                 ce1 = hn::BitCast(d2, hn::InterleaveUpper(d4, c, e));
      hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, ab0, ce0)), d4, to + r);
      hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, ab0, ce0)), d4, to + 16 + r);
      hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, ab1, ce1)), d4, to + 32 + r);
      hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, ab1, ce1)), d4, to + 48 + r);
    }
  }
#endif
  for (; d < n; ++d, to += 16) {
    for (int r = 0; r < 16; ++r) to[r] = rows[r][d];
  }
}

inline void pack_rows(const float* const* rows, Index n, float* to, Index panel) noexcept {
  const DF df;
  const Index lanes = static_cast<Index>(hn::Lanes(df));
  for (Index d = 0; d < n; d += 16, to += panel) {
    for (int r = 0; r < 16; ++r) {
      if (d + 16 <= n) {
        for (Index c = 0; c < 16; c += lanes) {
          hn::StoreU(hn::LoadU(df, rows[r] + d + c), df, to + r * 16 + c);
        }
      } else {
        for (Index c = 0; c < 16; ++c) to[r * 16 + c] = d + c < n ? rows[r][d + c] : 0.0f;
      }
    }
  }
}

inline void softcap(float* x, Index n, float cap) noexcept {
  const VF one = constant(1.0f), two = constant(2.0f), c = constant(cap),
           factor = constant(2.0f / cap);
  rowwise::map(x, n, x, [&](VF v) QUERN_LAMBDA {
    const VF e = exp(unfused(hn::Mul(v, factor)));
    return unfused(hn::Mul(c, hn::Sub(one, hn::Div(two, hn::Add(one, e)))));
  });
}

inline void add_mask(float* x, const float* mask, Index n) noexcept {
  const VF unseen = constant(-HUGE_VALF);
  rowwise::map(x, mask, n, x, [&](VF v, VF m) QUERN_LAMBDA {
    return hn::IfThenElse(hn::Eq(m, unseen), m, hn::Add(v, m));
  });
}

inline void add_alibi(float* x, Index n, float slope, std::int32_t distance) noexcept {
  const D32 d;
  const VF factor = constant(-slope);
  each_vector(n, [&](Index i, auto part) QUERN_LAMBDA {
    const V32 j = hn::Iota(d, static_cast<std::int32_t>(i));
    const VF away = hn::ConvertTo(DF(), hn::Abs(hn::Sub(hn::Set(d, distance), j)));
    const VF v = rowwise::load(DF(), x + i, part);
    rowwise::store(DF(), hn::Add(v, unfused(hn::Mul(factor, away))), x + i, part);
  });
}

inline void multiply(float* x, const float* factor, Index n) noexcept {
  rowwise::map(x, factor, n, x, [](VF v, VF f) QUERN_LAMBDA { return hn::Mul(v, f); });
}

HWY_INLINE VF larger(VF v, VF most) { return hn::IfThenElse(hn::Gt(v, most), v, most); }

inline void softmax(float* x, Index stride, Index rows, Index n, float* most, float* sum,
                    float* rescale) noexcept {
  const DF d;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  alignas(64) float spill[16];
  for (Index r = 0; r < rows; ++r, x += stride) {
    VF a = constant(most[r]), b = a;
    Index j = 0;
    for (; j + 2 * lanes <= n; j += 2 * lanes) {
      a = hn::Max(hn::LoadU(d, x + j), a);  // of NaN, either: the row becomes NaN anyway
      b = hn::Max(hn::LoadU(d, x + j + lanes), b);
    }
    for (; j < n; j += lanes) a = hn::Max(hn::LoadU(d, x + j), a);
    hn::Store(hn::Max(a, b), d, spill);
    float top = spill[0];
    for (Index i = 1; i < lanes; ++i) top = std::max(top, spill[i]);
    // What has seen nothing yet must not become NaN, while NaN must stay it.
    const VF base = constant(top == -HUGE_VALF ? 0.0f : top);
    VF s0 = hn::Zero(d), s1 = s0;
    for (j = 0; j + 2 * lanes <= n; j += 2 * lanes) {
      const VF e0 = exponential(hn::Sub(hn::LoadU(d, x + j), base)),
               e1 = exponential(hn::Sub(hn::LoadU(d, x + j + lanes), base));
      hn::StoreU(e0, d, x + j);
      hn::StoreU(e1, d, x + j + lanes);
      s0 = hn::Add(s0, e0);
      s1 = hn::Add(s1, e1);
    }
    for (; j < n; j += lanes) {
      const VF e = exponential(hn::Sub(hn::LoadU(d, x + j), base));
      hn::StoreU(e, d, x + j);
      s0 = hn::Add(s0, e);
    }
    rescale[r] = most[r] == top ? 1.0f : hn::GetLane(exponential(hn::Sub(constant(most[r]), base)));
    sum[r] = sum[r] * rescale[r] + hn::GetLane(hn::SumOfLanes(d, hn::Add(s0, s1)));
    most[r] = top;
  }
}

}  // namespace attention
}  // namespace HWY_NAMESPACE
}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
HWY_AFTER_NAMESPACE();
