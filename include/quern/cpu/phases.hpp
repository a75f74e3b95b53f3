// Transposed convolutions as ordinary ones: of stride s along a dimension, output positions that
// leave the same remainder by s (counted with the padding) meet the same positions of the kernel,
// and one of them after the other meets one input position after the other. So each remainder is a
// convolution of stride 1 with some of the kernel, and nothing is multiplied by the zeros in
// between. An ordinary convolution is its own single phase.
#pragma once

#include <numeric>
#include <vector>

#include "quern/ops/conv.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// A part of a convolution for images of some extent. Its q-th output position is first + q * step;
/// there, its t-th tap meets the input at q * stride + t * dilation - pad, in the image or outside.
struct Phase {
  Spatial first = {}, step = {};  ///< output positions
  Spatial count = {};             ///< of q
  Spatial taps = {};              ///< of t
  Spatial stride = {}, dilation = {}, pad = {};

  /// All positions of an output, without any taps.
  static Phase whole(const Spatial& out) { return {.step = {1, 1, 1}, .count = out}; }

  /// Whether its positions meet those of an input of this extent, one each.
  bool is_image(const Spatial& in) const {
    const Spatial one = {1, 1, 1};
    return taps == one && stride == one && pad == Spatial{} && count == in;
  }
};

/// The taps of a phase: positions first + t * step of the kernel, t < count. Steps may be negative.
struct PhaseTaps {
  Spatial first = {}, step = {}, count = {};

  Index size() const { return count[0] * count[1] * count[2]; }
};

/// All phases of a problem. Those that have taps are numbered; those that have none, whose sums are
/// all 0, share one more number.
class Phases {
 public:
  Phases() = default;
  explicit Phases(const ConvProblem& p) : p_(p) {
    if (!p.transposed) return;
    for (std::size_t d = 0; d < 3; ++d) {
      period_[d] = p.stride[d] / std::gcd(p.stride[d], p.dilation[d]);
      // With no input channels, kernels of any size have no weights, so there is nothing to meet.
      const Index taps = p.group_inputs() == 0 ? 0 : p.kernel[d];
      for (Index t = 0; t < taps && t < period_[d]; ++t) {
        met_[d].push_back({t * p.dilation[d] % p.stride[d], t, divide_up(taps - t, period_[d])});
      }
    }
  }

  /// How many numbers there are.
  Index all() const {
    bool without = false;
    for (std::size_t d = 0; d < 3; ++d) {
      without |= p_.transposed && std::ssize(met_[d]) < p_.stride[d];
    }
    return with_taps() + without;
  }

  PhaseTaps taps(Index number) const {
    if (number == with_taps()) return {};
    if (!p_.transposed) return {{}, {1, 1, 1}, p_.kernel};
    PhaseTaps taps;
    for (std::size_t d = 3; d-- > 0; number /= std::ssize(met_[d])) {
      const Met& met = met_[d][static_cast<std::size_t>(number % std::ssize(met_[d]))];
      taps.count[d] = met.taps;
      taps.step[d] = p_.mirrored ? -period_[d] : period_[d];
      taps.first[d] = met.first_tap + (p_.mirrored ? (met.taps - 1) * period_[d] : 0);
    }
    return taps;
  }

  /// Calls f(number, phase) for those that have positions in outputs of this extent.
  template <class F>
  void for_each(const Spatial& out, const F& f) const {
    if (!p_.transposed) {
      return f(Index{0},
               Phase{{}, {1, 1, 1}, out, p_.kernel, p_.stride, p_.dilation, p_.pad_begin});
    }
    Phase phase{.step = p_.stride, .stride = {1, 1, 1}};
    Spatial number = {};
    const auto last = [&](std::size_t d) { return p_.stride[d] < out[d] ? p_.stride[d] : out[d]; };
    for (Index z = 0; z < last(0); ++z) {
      number[0] = begin_at(0, z, out[0], phase);
      for (Index y = 0; y < last(1); ++y) {
        number[1] = begin_at(1, y, out[1], phase);
        for (Index x = 0; x < last(2); ++x) {
          number[2] = begin_at(2, x, out[2], phase);
          const bool none = number[0] < 0 || number[1] < 0 || number[2] < 0;
          f(none ? with_taps()
                 : (number[0] * std::ssize(met_[1]) + number[1]) * std::ssize(met_[2]) + number[2],
            phase);
        }
      }
    }
  }

 private:
  Index with_taps() const {
    return p_.transposed ? std::ssize(met_[0]) * std::ssize(met_[1]) * std::ssize(met_[2]) : 1;
  }

  /// What a problem says about sizes.
  struct Sizes {
    Sizes() = default;
    explicit Sizes(const ConvProblem& p)
        : transposed(p.transposed),
          kernel(p.kernel),
          stride(p.stride),
          dilation(p.dilation),
          pad_begin(p.pad_begin),
          mirrored(is_int8(p.b)) {}
    bool transposed = false;
    Spatial kernel = {}, stride = {}, dilation = {}, pad_begin = {};
    // Whether taps of transposed convolutions are taken in the order of what they meet, so that it
    // is read in one piece; sums of floats need them as they are.
    bool mirrored = false;
  };

  /// The taps along one dimension that meet output positions of one remainder.
  struct Met {
    Index remainder, first_tap, taps;
  };

  /// Lets a phase begin at output position `first` along d; the number of its Met, or -1.
  Index begin_at(std::size_t d, Index first, Index out, Phase& phase) const {
    const Index padded = first + p_.pad_begin[d], remainder = padded % p_.stride[d];
    phase.first[d] = first;
    phase.count[d] = divide_up(out - first, p_.stride[d]);
    for (std::size_t i = 0; i < met_[d].size(); ++i) {
      const Met& met = met_[d][i];
      if (met.remainder != remainder) continue;
      phase.taps[d] = met.taps;
      const Index step = p_.dilation[d] / (p_.stride[d] / period_[d]);  // from tap to tap
      phase.dilation[d] = p_.mirrored || met.taps == 1 ? step : -step;
      phase.pad[d] = (met.first_tap * p_.dilation[d] - padded) / p_.stride[d];
      if (p_.mirrored) phase.pad[d] += (met.taps - 1) * step;
      return static_cast<Index>(i);
    }
    phase.taps[d] = 0;
    return -1;
  }

  Sizes p_;
  Spatial period_ = {};  // from one tap of a phase to the next
  std::vector<Met> met_[3];
};

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
