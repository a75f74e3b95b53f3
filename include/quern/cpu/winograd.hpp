// Integer Winograd: 3 x 3 convolutions of 8-bit numbers with 36 multiplications for 16 outputs
// instead of 144, and the same bits.
//
// F(4x4, 3x3) (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016) computes
// a 4 x 4 tile of outputs as Y = A^T [(G g G^T) . (B^T d B)] A, where rows of G have the
// denominators 4, 6, 6, 24, 24 and 1. Scaling these rows to integers multiplies position (i, j) of
// the product by s_i s_j; scaling the rows of A^T likewise to (6 4 4 1 1 0) (0 2 -2 1 -1 0) (0 1 1
// 1 1 0) (0 1 -1 2 -2 6) makes every output 9 * 2^(p_i + p_j) * Y with p = 3, 2, 1, 1. Everything
// is then a computation in the ring of integers modulo 2^32, where overflow on the way does not
// matter: the result is multiplied by the inverse of 9, 0x38E38E39, and shifted right by p_i + p_j
// <= 6 bits.
//
// The shift is exact if 2^6 |Y| < 2^31, so |Y| < 2^25, which make() proves from the weights: inputs
// are s8, or u8 less 128, so |Y| is at most 128 times the sum of |w - zb| of an output channel.
// Where that is too much, the input channels are cut into slices for which it is not, and their
// outputs are added. Zero points of the input: padding is za (less 128), and what za adds to all
// sums, za times the sum of a channel's weights, is subtracted modulo 2^32 in the end. With inputs
// up to 128 and |w - zb| up to 255, transformed inputs are at most 100 * 128 = 12800 and
// transformed weights 49 * 255 = 12495: both fit 16 bits, and a pair of their products fits 32.
#pragma once

#include <optional>
#include <vector>

#include "quern/cpu/gemm.hpp"
#include "quern/ops/conv.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// Immutable; copies share the weights.
class Winograd {
 public:
  /// Whether it can be used, and is faster for images of some size: 3 x 3, dense, stride 1, input
  /// channels in sixteens.
  static bool suits(const Kernels& kernels, const ConvProblem& p) {
    return kernels.winograd.name != nullptr && is_int8(p.a) && is_int8(p.b) && p.groups == 1 &&
           p.kernel == Spatial{1, 3, 3} && p.stride == Spatial{1, 1, 1} &&
           p.dilation == Spatial{1, 1, 1} && p.pad_begin[0] == 0 && p.pad_end[0] == 0 &&
           p.in_channels % 16 == 0 && p.in_channels > 0 && p.out_channels >= 16;
  }

  /// Of a problem that suits, with weights (out channel, 9, in channel); `gemm` is its direct form.
  /// Empty if memory runs out.
  static std::optional<Winograd> make(const Kernels& kernels, const ConvProblem& p,
                                      const std::byte* weights, const Gemm& gemm) {
    const Index channels = p.in_channels, panels = divide_up(p.out_channels, kPanel);
    auto base = std::make_shared<AlignedBuffer>(static_cast<std::size_t>(panels * kPanel * 4));
    auto zeros = std::make_shared<AlignedBuffer>(static_cast<std::size_t>(panels * kPanel * 4));
    auto g = std::make_shared<AlignedBuffer>(
        static_cast<std::size_t>(panels * channels * kTaps * kPanel));
    if (g->size() == 0 || base->size() == 0 || zeros->size() == 0) return {};
    for (const auto& buffer : {g, base, zeros}) std::memset(buffer->data(), 0, buffer->size());
    const Step& first = p.epilogue.steps[0];
    const bool has_bias = p.epilogue.count > 0 && first.kind == Step::Kind::bias_s32;
    // Sixteen channels at a time may be in a slice: 128 * 16 * 9 * 255 is below 2^23.
    std::vector<Index> largest(static_cast<std::size_t>(channels / 16));
    for (Index j = 0; j < p.out_channels; ++j) {
      const std::size_t count = p.b_zero_points.size();
      const std::int32_t zb =
          count == 0 ? 0 : p.b_zero_points[count == 1 ? 0 : static_cast<std::size_t>(j)];
      for (Index i = 0; i < 2; ++i) {
        reinterpret_cast<std::int16_t*>(zeros->data())[j * 2 + i] = static_cast<std::int16_t>(zb);
      }
      std::uint32_t sum = 0;
      Index magnitudes = 0;
      for (Index c = 0; c < channels; ++c) {
        if (c % 16 == 0) magnitudes = 0;
        for (Index t = 0; t < kTaps; ++t) {
          const std::byte w = weights[(j * kTaps + t) * channels + c];
          const std::int32_t x = (p.b == DType::s8 ? std::int32_t{static_cast<std::int8_t>(w)}
                                                   : std::int32_t{static_cast<std::uint8_t>(w)}) -
                                 zb;
          sum += static_cast<std::uint32_t>(x);
          magnitudes += x < 0 ? -x : x;
          g->data()[(((j / kPanel * (channels / 2) + c / 2) * kTaps + t) * kPanel + j % kPanel) *
                        2 +
                    c % 2] = w;
        }
        Index& most = largest[static_cast<std::size_t>(c / 16)];
        if (magnitudes > most) most = magnitudes;
      }
      const std::int32_t bias = has_bias ? static_cast<const std::int32_t*>(first.data)[j] : 0;
      reinterpret_cast<std::int32_t*>(base->data())[j] = static_cast<std::int32_t>(
          static_cast<std::uint32_t>(bias) - static_cast<std::uint32_t>(padding(p)) * sum);
    }
    Winograd w(kernels, p, gemm, std::move(g), std::move(zeros), std::move(base));
    w.slice_ = slice_of(largest);
    const Index bytes = panels * w.panel_size() * 2;
    if (bytes > kResident) return w;
    auto u = std::make_shared<AlignedBuffer>(static_cast<std::size_t>(bytes));
    if (u->size() == 0) return w;
    for (Index panel = 0; panel < panels; ++panel) {
      w.transform_weights(panel, 0, channels,
                          reinterpret_cast<std::int16_t*>(u->data()) + panel * w.panel_size());
    }
    w.u_ = std::move(u);
    w.g_.reset();
    return w;
  }

  /// Whether it is faster for this many outputs of this extent: what tiles cover beyond the edges
  /// is wasted, and weights are transformed, or read at four times their size, for few tiles as for
  /// many.
  bool is_worth(Index images, const Spatial& out) const {
    const Index tiles = divide_up(out[1], kTile) * divide_up(out[2], kTile);
    const Index fewest = kernels_->quads.name != nullptr ? 8 : 4;
    return images * out[0] * tiles >= fewest && 16 * tiles <= 2 * out[1] * out[2];
  }

  Index worker_bytes() const {
    return Carver::bytes<std::int16_t>(kPositions * v_size(most_tiles())) +
           Carver::bytes<std::int32_t>(step_ * kPositions * m_size(most_tiles())) +
           Carver::bytes<std::int32_t>(step_ * most_tiles() * 16 * kPanel) +
           Carver::bytes<std::int16_t>(u_ ? 0 : step_ * kPositions * position_size(piece()));
  }

  /// A validated call; `memory` is aligned and has worker_bytes() for each worker. `c` and
  /// `residual`: all output positions, matrices unless `places` finds them.
  void run(const ConvArgs& args, const MatrixView& c, const ConstMatrixView& residual,
           const RowPlaces& places, std::byte* memory, Parallel executor) const noexcept {
    Call call{args, c, residual, places};
    const Spatial& out = args.c.extent;
    const Index rows = divide_up(out[1], kTile), columns = divide_up(out[2], kTile);
    const Index most = most_tiles(), workers = executor.concurrency();
    call.columns = balanced(columns, most);
    call.rows = balanced(rows, call.columns < columns ? 1 : most / columns);
    call.row_blocks = divide_up(rows, call.rows);
    call.column_blocks = divide_up(columns, call.columns);
    const Index images = args.a.batch * out[0], parts = call.row_blocks * call.column_blocks;
    // Small images share a block, and with it the weights that it reads; but all workers have one.
    const Index together = parts > 1 ? 1 : most / (rows * columns);
    call.images = balanced(images, least(together, divide_up(images, workers)));
    const Index blocks = divide_up(images, call.images) * parts;
    // With fewer blocks than workers, columns are shared out too.
    call.panels = divide_up(panels_, blocks < workers ? divide_up(workers, blocks) : 1);
    call.panels = round_up(call.panels, step_);
    executor(blocks * divide_up(panels_, call.panels), [&](Index index, Index worker) {
      run_block(call, index, memory + worker * worker_bytes());
    });
  }

 private:
  static constexpr Index kTile = 4, kTaps = 9, kPositions = 36;

  /// Transformed weights are four times the weights in twice the bits. Beyond this size reading
  /// them takes longer than transforming them again, a piece of kChannels at a time that stays in
  /// L2.
  static constexpr Index kResident = 1536 * 1024, kChannels = 128;
  static constexpr Index kPad = 32;  // a cache line of shorts

  /// What a pixel outside the image is, s8.
  static std::int32_t padding(const ConvProblem& p) {
    return p.a_zero_point - (p.a == DType::u8 ? 128 : 0);
  }

  /// Channels of a slice: as many as keep sums below 2^25; `largest`: of every 16 channels, the
  /// largest sum of weights' magnitudes in any output channel.
  static Index slice_of(const std::vector<Index>& largest) {
    const Index groups = std::ssize(largest);
    for (Index slices = 1;; ++slices) {
      const Index size = divide_up(groups, slices);
      bool proven = true;
      for (Index g = 0; g < groups && proven; g += size) {
        Index sum = 0;
        for (Index i = g; i < groups && i < g + size; ++i)
          sum += largest[static_cast<std::size_t>(i)];
        proven = 128 * sum < Index{1} << 25;
      }
      if (proven) return size * 16;  // at the latest with one group a slice
    }
  }

  struct Call {
    const ConvArgs& args;
    const MatrixView& c;
    const ConstMatrixView& residual;
    const RowPlaces& places;
    Index rows = 0, columns = 0, images = 0, panels = 0;  // tiles, images and panels of a block
    Index row_blocks = 0, column_blocks = 0;
  };

  Winograd(const Kernels& kernels, const ConvProblem& p, const Gemm& gemm,
           std::shared_ptr<const AlignedBuffer> g, std::shared_ptr<const AlignedBuffer> zeros,
           std::shared_ptr<const AlignedBuffer> base)
      : kernels_(&kernels),
        gemm_(gemm),
        g_(std::move(g)),
        zeros_(std::move(zeros)),
        base_(std::move(base)),
        is_signed_(p.b == DType::s8),
        channels_(p.in_channels),
        panels_(divide_up(p.out_channels, kPanel)),
        pad_{p.pad_begin[1], p.pad_begin[2]},
        padding_(padding(p)),
        step_(kernels.winograd.tiles[0].panels) {}

  /// Channels that are multiplied at a time.
  Index piece() const { return u_ ? channels_ : kChannels; }
  /// Shorts of a panel's transformed weights, all channels.
  Index panel_size() const { return kPositions * position_size(channels_); }
  /// Shorts from one position to the next. A multiple of 4 KiB would put all 36 into the same few
  /// sets of L1: the transform would take ten times as long.
  static Index position_size(Index channels) { return channels * kPanel + kPad; }
  Index v_size(Index tiles) const { return tiles * channels_ + kPad; }
  static Index m_size(Index tiles) { return tiles * kPanel + kPad / 2; }

  /// G g G^T of some channels of a panel: (36, channels / 2, 16, 2).
  void transform_weights(Index panel, Index channel, Index channels, std::int16_t* u) const {
    kernels_->winograd_weights(
        g_->data() + (panel * channels_ + channel) * kTaps * kPanel, is_signed_,
        reinterpret_cast<const std::int16_t*>(zeros_->data()) + panel * kPanel * 2, channels / 2, u,
        position_size(channels));
  }

  /// As many as keep the transformed inputs in L2, and weights from being read too often.
  Index most_tiles() const {
    constexpr Index kBudget = 512 * 1024, kFewest = 24;
    const Index fitting = kBudget / (kPositions * 2 * channels_);
    return fitting < kFewest ? kFewest : fitting;
  }

  void run_block(const Call& call, Index index, std::byte* memory) const {
    const Spatial& out = call.args.c.extent;
    const Index panel_blocks = divide_up(panels_, call.panels);
    const Index panel0 = index % panel_blocks * call.panels;
    index /= panel_blocks;
    const Index column_block = index % call.column_blocks,
                row_block = index / call.column_blocks % call.row_blocks,
                image0 = index / call.column_blocks / call.row_blocks * call.images;
    const Index y0 = row_block * call.rows * kTile, x0 = column_block * call.columns * kTile;
    const Index height = least(call.rows * kTile, out[1] - y0),
                width = least(call.columns * kTile, out[2] - x0);
    const Index rows = divide_up(height, kTile), columns = divide_up(width, kTile),
                images = least(call.images, call.args.a.batch * out[0] - image0),
                tiles = images * rows * columns;
    Carver carver(memory);
    auto* v = carver.take<std::int16_t>(kPositions * v_size(most_tiles()));
    auto* m = carver.take<std::int32_t>(step_ * kPositions * m_size(most_tiles()));
    auto* sums = carver.take<std::int32_t>(step_ * most_tiles() * 16 * kPanel);
    for (Index t = 0; t < tiles; ++t) {
      transform_input(call.args.a, image0 + t / columns / rows,
                      y0 + t / columns % rows * kTile - pad_[0], x0 + t % columns * kTile - pad_[1],
                      v + t * channels_, v_size(tiles));
    }
    auto* u = carver.take<std::int16_t>(u_ ? 0 : step_ * kPositions * position_size(piece()));
    const Index m_panel = kPositions * m_size(tiles), sums_panel = tiles * 16 * kPanel;
    const Index end = least(panel0 + call.panels, panels_);
    for (Index p = panel0; p < end; p += step_) {
      const Index count = least(step_, end - p);
      const Index line = columns * kTile;  // pixels of a row of `sums`
      for (Index c = 0; c < channels_; c += slice_) {
        const Index slice_end = least(c + slice_, channels_);
        for (Index k = c; k < slice_end; k += piece()) {
          const Index size = least(piece(), slice_end - k);
          const std::int16_t* b = u;
          Index position = position_size(size);
          if (u_) {
            b = reinterpret_cast<const std::int16_t*>(u_->data()) + p * panel_size() + k * kPanel;
            position = position_size(channels_);
          } else {
            for (Index i = 0; i < count; ++i) {
              transform_weights(p + i, k, size, u + i * kPositions * position);
            }
          }
          for (Index q = 0; q < kPositions; ++q) {
            multiply(v + q * v_size(tiles) + k, tiles, b + q * position, kPositions * position,
                     count, size / 2, m + q * m_size(tiles), m_panel, k > c);
          }
        }
        for (Index i = 0; i < count; ++i) {
          for (Index t = 0; t < tiles; ++t) {
            kernels_->winograd_output(
                m + i * m_panel + t * kPanel, m_size(tiles),
                sums + i * sums_panel + (t / columns * kTile * line + t % columns * kTile) * kPanel,
                line * kPanel, c > 0);
          }
        }
      }
      for (Index i = 0; i < count * images; ++i) {
        const Index image = image0 + i % images;
        const std::int32_t* of_image =
            sums + i / images * sums_panel + i % images * rows * kTile * line * kPanel;
        const Index first = (image * out[1] + y0) * out[2] + x0;
        const bool whole = line == out[2];  // rows follow each other in C as they do here
        for (Index y = 0; y < height; y += whole ? height : 1) {
          finish(call, p + i / images, first + y * out[2], whole ? height * width : width,
                 of_image + y * line * kPanel);
        }
      }
    }
  }

  /// Pieces of equal size, at most this.
  static Index balanced(Index total, Index most) {
    return divide_up(total, divide_up(total, most < 1 ? 1 : most));
  }
  static Index least(Index a, Index b) { return a < b ? a : b; }

  void transform_input(const ConstImageView& a, Index image, Index y0, Index x0, std::int16_t* v,
                       Index step) const {
    const std::byte* pixels[kPositions];
    const auto* base = static_cast<const std::byte*>(a.data) +
                       image / a.extent[0] * a.batch_stride + image % a.extent[0] * a.strides[0];
    for (Index i = 0; i < 6; ++i) {
      for (Index j = 0; j < 6; ++j) {
        const Index y = y0 + i, x = x0 + j;
        const bool inside = y >= 0 && y < a.extent[1] && x >= 0 && x < a.extent[2];
        pixels[i * 6 + j] = inside ? base + y * a.strides[1] + x * a.strides[2] : nullptr;
      }
    }
    kernels_->winograd_input(pixels, a.type == DType::s8, padding_, channels_, v, step);
  }

  /// One position: words of the rows of v times `count` panels of u, b_panel shorts apart.
  void multiply(const std::int16_t* v, Index tiles, const std::int16_t* b, Index b_panel,
                Index count, Index words, std::int32_t* m, Index m_panel, bool add) const {
    const Tile* tile = kernels_->winograd.tiles;
    for (Index r = 0; r < tiles; r += tile->rows) {
      while (tile->rows > tiles - r) ++tile;
      const Rows a{reinterpret_cast<const std::byte*>(v + r * channels_), channels_ * 2, 4};
      const bool together = count == tile->panels;
      for (Index i = 0; i < (together ? 1 : count); ++i) {
        tile->run[together](a, reinterpret_cast<const std::byte*>(b + i * b_panel), b_panel * 2,
                            words,
                            {.data = m + i * m_panel + r * kPanel, .panel = m_panel, .add = add});
      }
    }
  }

  void finish(const Call& call, Index panel, Index row, Index rows,
              const std::int32_t* sums) const {
    const GemmProblem& p = gemm_.problem();
    const Index bias = p.epilogue.count > 0 && p.epilogue.steps[0].kind == Step::Kind::bias_s32;
    Output o;
    o.steps = p.epilogue.steps + bias;
    o.step_count = p.epilogue.count - bias;
    o.type = p.c;
    o.zero_point = p.c_zero_point;
    o.column = panel * kPanel;
    o.row = row;
    o.c = call.c;
    o.base = reinterpret_cast<const std::int32_t*>(base_->data()) + o.column;
    o.inputs.residual = call.residual;
    if (!call.args.row_scales.empty()) o.inputs.row_scales = call.args.row_scales.data();
    finish_rows(*kernels_, call.places, o, sums, rows, least(kPanel, p.n - o.column));
  }

  const Kernels* kernels_;
  Gemm gemm_;                                   // its problem has the padded arrays of the epilogue
  std::shared_ptr<const AlignedBuffer> g_;      // weights: (panels, channels / 2, 9, 16, 2)
  std::shared_ptr<const AlignedBuffer> zeros_;  // their zero points: (panels, 16, 2)
  std::shared_ptr<const AlignedBuffer>
      u_;  // transformed, if small: (panels, 36, channels / 2, 16, 2)
  std::shared_ptr<const AlignedBuffer> base_;  // what all sums of a channel begin with
  bool is_signed_;
  Index channels_, panels_;
  Index pad_[2];
  std::int32_t padding_;
  Index step_;
  Index slice_ = 16;
};

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
