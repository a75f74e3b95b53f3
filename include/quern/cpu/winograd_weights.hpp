// The weights of a convolution as Winograd's algorithm needs them, see winograd.hpp.
#pragma once

#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "quern/core/memory.hpp"
#include "quern/cpu/conv_kernels.hpp"
#include "quern/ops/conv.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// Immutable; copies share everything. Transformed weights of a panel: position q of 36 at q times
/// position_size(), (channels / 2, 16, 2) shorts.
class WinogradWeights {
 public:
  static constexpr Index kTaps = 9, kPositions = 36;

  /// Of weights (out channel, depth, 9, in channel). Channels are (depth, in channel) from here on.
  /// Empty if memory runs out.
  static std::optional<WinogradWeights> make(const ConvKernels& kernels, const Idiom& idiom,
                                             const ConvProblem& p, const std::byte* weights) {
    WinogradWeights w(kernels, p);
    const Index panels = divide_up(p.out_channels, kPanel);
    auto base = allocate(panels * kPanel * 4), zeros = allocate(panels * kPanel * 4),
         g = allocate(panels * w.channels_ * kTaps * kPanel);
    if (base == nullptr || zeros == nullptr || g == nullptr) return {};
    w.slice_ = slice_of(copy(p, weights, *base, *zeros, *g));
    w.base_ = std::move(base);
    w.zeros_ = std::move(zeros);
    w.g_ = std::move(g);
    return w.transform_beforehand(panels, idiom.row_products) ? std::optional(std::move(w))
                                                              : std::nullopt;
  }

  /// Channels whose sums are proven to be below 2^25.
  Index slice() const { return slice_; }
  /// What the sums of a panel's columns begin with.
  const std::int32_t* base(Index panel) const {
    return reinterpret_cast<const std::int32_t*>(base_->data()) + panel * kPanel;
  }
  /// Less the products of neighbours, if the idiom's sums have them, of one slice.
  const std::int32_t* products(Index panel, Index slice, Index position) const {
    if (products_ == nullptr) return nullptr;
    return reinterpret_cast<const std::int32_t*>(products_->data()) +
           ((panel * slices() + slice) * kPositions + position) * kPanel;
  }

  /// Channels that are to be multiplied at a time.
  Index piece() const { return is_resident() ? channels_ : kPiece; }
  /// Shorts of scratch memory for a piece of one panel.
  Index scratch() const { return is_resident() ? 0 : kPositions * position_size(kPiece); }
  /// Shorts from one position of a piece to the next.
  Index position_size(Index piece) const {
    return (is_resident() ? channels_ : piece) * kPanel + kPad;
  }
  /// Some channels of a panel, transformed; those of the next panel follow kPositions positions
  /// later.
  const std::int16_t* transformed(Index panel, Index panels, Index channel, Index channels,
                                  std::int16_t* scratch) const {
    const Index panel_size = kPositions * position_size(channels);
    if (is_resident()) {
      return reinterpret_cast<const std::int16_t*>(u_->data()) + panel * panel_size +
             channel * kPanel;
    }
    for (Index i = 0; i < panels; ++i) {
      transform(panel + i, channel, channels, scratch + i * panel_size, position_size(channels));
    }
    return scratch;
  }

  /// What a pixel outside the image is, s8.
  static std::int32_t padding(const ConvProblem& p) {
    return p.a_zero_point - (p.a == DType::u8 ? 128 : 0);
  }

 private:
  /// Transformed weights are four times the weights in twice the bits. Beyond this size reading
  /// them takes longer than transforming them again, a piece at a time that stays in L2.
  static constexpr Index kResident = 1536 * 1024, kPiece = 128;
  /// A cache line. Positions a multiple of 4 KiB apart would all be in the same sets of L1: the
  /// transform would take ten times as long.
  static constexpr Index kPad = 32;

  WinogradWeights(const ConvKernels& kernels, const ConvProblem& p)
      : kernels_(&kernels), channels_(p.kernel[0] * p.in_channels), is_signed_(p.b == DType::s8) {}

  static std::shared_ptr<AlignedBuffer> allocate(Index bytes) {
    auto buffer = std::make_shared<AlignedBuffer>(static_cast<std::size_t>(bytes));
    if (buffer->size() == 0) return nullptr;
    std::memset(buffer->data(), 0, buffer->size());
    return buffer;
  }

  bool is_resident() const { return u_ != nullptr; }
  Index slices() const { return divide_up(channels_, slice_); }

  /// Weights to g (panels, channels / 2, 9, 16, 2), their zero points to `zeros` (panels, 16, 2).
  /// Returns, of every 16 channels, the largest sum of magnitudes in any output channel.
  static std::vector<Index> copy(const ConvProblem& p, const std::byte* weights,
                                 AlignedBuffer& base, AlignedBuffer& zeros, AlignedBuffer& g) {
    const Index inputs = p.in_channels, channels = p.kernel[0] * inputs;
    const Step& first = p.epilogue.steps[0];
    const bool has_bias = p.epilogue.count > 0 && first.kind == Step::Kind::bias_s32;
    std::vector<Index> largest(static_cast<std::size_t>(channels / 16));
    for (Index j = 0; j < p.out_channels; ++j) {
      const std::size_t count = p.b_zero_points.size();
      const std::int32_t zb =
          count == 0 ? 0 : p.b_zero_points[count == 1 ? 0 : static_cast<std::size_t>(j)];
      for (Index i = 0; i < 2; ++i) {
        reinterpret_cast<std::int16_t*>(zeros.data())[j * 2 + i] = static_cast<std::int16_t>(zb);
      }
      std::uint32_t sum = 0;
      Index magnitudes = 0;
      for (Index c = 0; c < channels; ++c) {
        if (c % 16 == 0) magnitudes = 0;
        const Index pair = j / kPanel * (channels / 2) + c / 2;
        for (Index t = 0; t < kTaps; ++t) {
          const Index plane = j * p.kernel[0] + c / inputs;
          const std::byte w = weights[(plane * kTaps + t) * inputs + c % inputs];
          const std::int32_t x = (p.b == DType::s8 ? std::int32_t{static_cast<std::int8_t>(w)}
                                                   : std::int32_t{static_cast<std::uint8_t>(w)}) -
                                 zb;
          sum += static_cast<std::uint32_t>(x);
          magnitudes += x < 0 ? -x : x;
          g.data()[((pair * kTaps + t) * kPanel + j % kPanel) * 2 + c % 2] = w;
        }
        Index& most = largest[static_cast<std::size_t>(c / 16)];
        if (magnitudes > most) most = magnitudes;
      }
      const std::int32_t bias = has_bias ? static_cast<const std::int32_t*>(first.data)[j] : 0;
      reinterpret_cast<std::int32_t*>(base.data())[j] = static_cast<std::int32_t>(
          static_cast<std::uint32_t>(bias) - static_cast<std::uint32_t>(padding(p)) * sum);
    }
    return largest;
  }

  /// Channels of a slice: as many as keep sums below 2^25, in sixteens, for which 128 * 16 * 9 *
  /// 255 is below 2^23.
  static Index slice_of(const std::vector<Index>& largest) {
    const Index groups = std::ssize(largest);
    for (Index slices = 1;; ++slices) {
      const Index size = divide_up(groups, slices);
      bool proven = true;
      for (Index g = 0; g < groups && proven; g += size) {
        Index sum = 0;
        for (Index i = g; i < groups && i < g + size; ++i) {
          sum += largest[static_cast<std::size_t>(i)];
        }
        proven = 128 * sum < Index{1} << 25;
      }
      if (proven) return size * 16;  // at the latest with one group a slice
    }
  }

  /// G g G^T of some channels of a panel.
  void transform(Index panel, Index channel, Index channels, std::int16_t* u, Index step) const {
    kernels_->winograd_weights(
        g_->data() + (panel * channels_ + channel) * kTaps * kPanel, is_signed_,
        reinterpret_cast<const std::int16_t*>(zeros_->data()) + panel * kPanel * 2, channels / 2, u,
        step);
  }

  /// Transforms what is small enough to be kept, and counts the products of neighbours.
  bool transform_beforehand(Index panels, bool counts) {
    const Index position = channels_ * kPanel + kPad, panel_size = kPositions * position;
    const bool keeps = panels * panel_size * 2 <= kResident;
    if (!keeps && !counts) return true;
    auto u = allocate((keeps ? panels : 1) * panel_size * 2);
    auto products = allocate(counts ? panels * slices() * kPositions * kPanel * 4 : 1);
    if (u == nullptr || products == nullptr) return false;
    for (Index panel = 0; panel < panels; ++panel) {
      auto* to = reinterpret_cast<std::int16_t*>(u->data()) + (keeps ? panel * panel_size : 0);
      transform(panel, 0, channels_, to, position);
      for (Index i = 0; counts && i < slices() * kPositions; ++i) {
        const Index c = i / kPositions * slice_, left = channels_ - c;
        kernels_->winograd_column_products(to + i % kPositions * position + c * kPanel,
                                           (left < slice_ ? left : slice_) / 2,
                                           reinterpret_cast<std::int32_t*>(products->data()) +
                                               (panel * slices() * kPositions + i) * kPanel);
      }
    }
    if (counts) products_ = std::move(products);
    if (!keeps) return true;
    u_ = std::move(u);
    g_.reset();
    return true;
  }

  const ConvKernels* kernels_;
  Index channels_;
  bool is_signed_;
  Index slice_ = 16;
  std::shared_ptr<const AlignedBuffer> base_;      // (panels, 16)
  std::shared_ptr<const AlignedBuffer> zeros_;     // (panels, 16, 2)
  std::shared_ptr<const AlignedBuffer> g_;         // unless u_: (panels, channels / 2, 9, 16, 2)
  std::shared_ptr<const AlignedBuffer> u_;         // if small, (panels, 36, ..)
  std::shared_ptr<const AlignedBuffer> products_;  // if needed, (panels, slices, 36, 16)
};

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
