// What is to be done: products, and how the rows of A lie in memory.
//
// A row of a convolution's A is a patch: what the taps of the kernel reach at one output position.
// Neighbouring patches share most of what they reach, so no patches are made: buffer a holds pieces
// of the image, and the array reads patches from there. Patches says how much of the image given
// rows and taps touch.
#pragma once

#include <numeric>

#include "quern/ops/conv.hpp"
#include "quern/sim/report.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

namespace detail {
constexpr Index floor_divide(Index x, Index by) { return x >= 0 ? x / by : -((by - 1 - x) / by); }
constexpr Index ceil_divide(Index x, Index by) { return -floor_divide(-x, by); }
}  // namespace detail

/// One dimension of a convolution. Output o and tap t meet at o * step + t * reach, and the image
/// is [begin, end) there: positions between those that any tap can meet are not counted.
struct Axis {
  Index out = 1;              ///< output positions
  Index taps = 1;             ///< of the kernel
  Index step = 1, reach = 1;  ///< from an output, from a tap to the next
  Index begin = 0, end = 1;

  /// Neighbouring iterations of a loop that are alike: [first, last].
  struct Run {
    Index first, last;
  };

  static constexpr Axis of(Index in, Index kernel, Index stride, Index dilation, Index pad,
                           Index out) {
    // Of one output, or one tap, the other distance alone matters.
    if (out <= 1) stride = dilation;
    if (kernel == 1) dilation = stride;
    const Index unit = std::gcd(stride, dilation);
    return {out,
            kernel,
            stride / unit,
            dilation / unit,
            detail::ceil_divide(pad, unit),
            detail::ceil_divide(pad + in, unit)};
  }

  constexpr Index span(Index n) const { return (n - 1) * reach + 1; }

  /// Whether no two outputs reach the same position, nor between each other.
  constexpr bool apart(Index n) const { return step > span(n); }

  /// Positions of the image that outputs [first, first + count) reach with `n` taps from `tap` on.
  /// Where outputs overlap, those between a dilated kernel's taps count too: they are transferred.
  constexpr Index touched(Index first, Index count, Index tap, Index n) const {
    if (count <= 0 || n <= 0) return 0;
    const Index low = first * step + tap * reach, all = (count - 1) * step + span(n);
    const auto below = [&](Index x) -> Index {  // how many are touched below x
      if (x <= low) return 0;
      const Index at = x - low;
      if (!apart(n)) return at < all ? at : all;
      const Index whole = at / step, more = divide_up(at % step, reach);
      return whole >= count ? count * n : whole * n + (more < n ? more : n);
    };
    return below(end) - below(begin);
  }
  constexpr Index touched(Index first, Index count) const { return touched(first, count, 0, taps); }
  /// What of them outputs [from, first) have not reached.
  constexpr Index fresh(Index from, Index first, Index count) const {
    return touched(from, first + count - from) - touched(from, first - from);
  }
  /// Positions that `count` outputs reach somewhere inside the image, and how many of them are
  /// fresh after other outputs.
  constexpr Index reached(Index count) const {
    return apart(taps) ? count * taps : (count - 1) * step + span(taps);
  }
  constexpr Index usual_fresh(Index count) const {
    return count * (apart(taps) ? taps : step < span(taps) ? step : span(taps));
  }

  /// Tiles of `count` outputs, the first at `from`, that touch as many positions as tile t does,
  /// and bring as many: those inside the image, before or after it.
  constexpr Run alike(Index from, Index count, Index t) const {
    const Index period = count * step, low = from * step, size = (count - 1) * step + span(taps);
    const Index last_before = detail::floor_divide(begin - low - size, period),
                first_inside = detail::ceil_divide(begin - low, period),
                last_inside = detail::floor_divide(end - low - size, period),
                first_after = detail::ceil_divide(end - low, period);
    if (t <= last_before) return {0, last_before};
    if (t >= first_after) return {first_after, INT64_MAX};
    // The first inside may bring what one at the edge did not.
    const Index first = first_inside > 0 ? first_inside + 1 : 1;
    return t >= first && t <= last_inside ? Run{first, last_inside} : Run{t, t};
  }
};

/// The rows of A: images, and in each its output positions. Of a matrix, rows are images of one
/// position, and nothing overlaps.
struct Patches {
  Axis axes[4];        ///< images, depth, height, width
  Index channels = 0;  ///< terms that a tap has
  bool overlap = false;

  static Patches matrix(Index m, Index k) {
    Patches p;
    p.axes[0].out = p.axes[0].end = m;
    p.channels = k;
    return p;
  }
  static Patches of(const ConvProblem& p, const Spatial& in, Index images) {
    const Spatial out = output_extent(p, in);
    // Without neighbours or pads, every row has positions of its own.
    if (p.taps() == 1 && p.pad_begin == Spatial{} && p.pad_end == Spatial{}) {
      return matrix(images * out[0] * out[1] * out[2], p.group_inputs());
    }
    Patches r = matrix(images, p.group_inputs());
    for (std::size_t d = 0; d < 3; ++d) {
      r.axes[d + 1] =
          Axis::of(in[d], p.kernel[d], p.stride[d], p.dilation[d], p.pad_begin[d], out[d]);
    }
    r.overlap = true;
    return r;
  }

  Index taps() const { return axes[1].taps * axes[2].taps * axes[3].taps; }
  /// Elements of the image that are touched at all.
  Index elements() const {
    Index n = channels;
    for (const Axis& a : axes) n *= a.touched(0, a.out);
    return n;
  }
  double image() const {
    double n = static_cast<double>(channels);
    for (const Axis& a : axes) n *= static_cast<double>(a.end - a.begin);
    return n;
  }
};

/// A problem with its number of rows: `batch` products of one extent.
struct Work {
  Extent extent;
  Index batch = 1;  ///< weight matrices; groups of a convolution
  Patches patches;
  DType a = DType::s8, b = DType::s8, c = DType::s32;
  bool quantizes = false;          ///< a holds floats that become s8 first
  Index residual_bytes = 0;        ///< of one element, if the epilogue adds one
  Index steps = 0, functions = 0;  ///< of the epilogue and the conversion, for one element
  bool on_chip = false;            ///< A is in buffer a already, and C stays there

  /// Rows of all batch elements that share weights are one product.
  static Work of(const GemmProblem& p, Index m, Index a_batch, Index residual_bytes) {
    Work w;
    w.batch = p.batch == 1 ? 1 : p.batch;
    w.extent = {p.batch == 1 ? m * a_batch : m, p.n, p.k};
    w.patches = Patches::matrix(w.extent.m, p.k);
    w.quantizes = is_float(p.a) && is_int8(p.b);
    w.set_types(p, residual_bytes);
    return w;
  }
  /// Every group is a product: rows are the output positions of all images, terms run over (tap,
  /// input channel).
  static Work of(const ConvProblem& p, const Spatial& in, Index images, Index residual_bytes) {
    const Spatial out = output_extent(p, in);
    Work w;
    w.batch = p.groups;
    w.extent = {images * out[0] * out[1] * out[2], p.group_outputs(), p.taps() * p.group_inputs()};
    w.patches = Patches::of(p, in, images);
    w.set_types(p, residual_bytes);
    return w;
  }

  /// Bytes of A that are read at all, in all products.
  Index input_bytes() const {
    const Index most = extent.m * extent.k, touched = patches.elements();
    return batch * (touched < most ? touched : most) * a_bytes();
  }
  /// Bytes of A and C together.
  double activation_bytes() const {
    const auto d = [](Index x) { return static_cast<double>(x); };
    return d(batch) * (patches.image() * d(a_bytes()) + d(extent.m) * d(extent.n) * d(size_of(c)));
  }
  /// Bytes of an element in buffer a.
  Index a_bytes() const { return quantizes ? 1 : size_of(a); }
  Index b_bytes() const { return size_of(b); }
  static constexpr Index kAccumulatorBytes = 4;

 private:
  template <class Problem>
  void set_types(const Problem& p, Index bytes) {
    a = p.a;
    b = p.b;
    c = p.c;
    steps = (quantizes ? 1 : 0) + (p.c == DType::s32 ? 0 : 1);
    for (const Step& s : p.epilogue) {
      using K = Step::Kind;
      const bool function =
          s.kind == K::gelu || s.kind == K::gelu_tanh || s.kind == K::silu || s.kind == K::custom;
      functions += function ? 1 : 0;
      steps += function ? 3 : s.kind == K::residual || s.kind == K::clamp ? 2 : 1;
      if (s.kind == K::residual) residual_bytes = bytes;
    }
  }
};

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
