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
// transformed weights 49 * 255 = 12495: both fit 16 bits, a pair of their products fits 32, and so
// does one of their sums, which Winograd's inner product multiplies (see MacSums).
#pragma once

#include <optional>

#include "quern/cpu/gemm.hpp"
#include "quern/cpu/rows.hpp"
#include "quern/cpu/winograd_weights.hpp"
#include "quern/ops/conv.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// Immutable; copies share the weights.
class Winograd {
 public:
  /// Whether it can be used, and is faster for images of some size: 3 x 3, dense, stride 1, input
  /// channels in sixteens. Along the depth kernels are as they are: planes that an output meets are
  /// so many more channels.
  static bool suits(const Kernels& kernels, const ConvProblem& p) {
    return conv_kernels_for(kernels).winograd.name != nullptr && is_int8(p.a) && is_int8(p.b) &&
           p.groups == 1 && p.kernel[0] <= 16 && p.kernel[1] == 3 && p.kernel[2] == 3 &&
           p.stride[1] == 1 && p.stride[2] == 1 && p.dilation[1] == 1 && p.dilation[2] == 1 &&
           p.in_channels % 16 == 0 && p.in_channels > 0 && p.out_channels >= 16;
  }

  /// Of a problem that suits, with weights (out channel, taps, in channel); `gemm` is its direct
  /// form. Empty if memory runs out.
  static std::optional<Winograd> make(const Kernels& kernels, const ConvProblem& p,
                                      const std::byte* weights, const Gemm& gemm) {
    // With fewer channels, counting the products of neighbours takes longer than it saves.
    const ConvKernels& own = conv_kernels_for(kernels);
    const bool sums = own.winograd_sums.name != nullptr && p.kernel[0] * p.in_channels >= 64;
    const Idiom& idiom = sums ? own.winograd_sums : own.winograd;
    auto prepared = WinogradWeights::make(own, idiom, p, weights);
    if (!prepared) return {};
    return Winograd(kernels, idiom, p, gemm, std::move(*prepared));
  }

  /// Whether it is faster for this many outputs of this extent: what tiles cover beyond the edges
  /// is wasted, and weights are transformed, or read at eight times their size, for few tiles as
  /// for many.
  bool is_worth(Index images, const Spatial& out) const {
    const Index tiles = divide_up(out[1], kTile) * divide_up(out[2], kTile);
    const Index fewest = kernels_->quads.name != nullptr ? 8 : 4;
    return images * out[0] * tiles >= fewest && 16 * tiles <= 2 * out[1] * out[2];
  }

  std::string kernel() const { return std::string(idiom_->name) + " on " + kernels_->target; }

  Index worker_bytes() const {
    return Carver::bytes<std::int16_t>(kPositions * v_size(most_tiles())) +
           Carver::bytes<std::int32_t>(step_ * kPositions * m_size(most_tiles())) +
           Carver::bytes<std::int32_t>(step_ * most_tiles() * 16 * kPanel) +
           Carver::bytes<std::int16_t>(step_ * weights_.scratch()) +
           Carver::bytes<std::int32_t>(products_size(most_tiles())) +
           Carver::bytes<std::byte>(kPositions * inputs_);
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
      Task(*this, call, index, memory + worker * worker_bytes()).run();
    });
  }

 private:
  static constexpr Index kTile = 4, kPositions = WinogradWeights::kPositions;

  struct Call {
    const ConvArgs& args;
    const MatrixView& c;
    const ConstMatrixView& residual;
    const RowPlaces& places;
    Index rows = 0, columns = 0, images = 0, panels = 0;  // tiles, images and panels of a task
    Index row_blocks = 0, column_blocks = 0;
  };

  Winograd(const Kernels& kernels, const Idiom& idiom, const ConvProblem& p, const Gemm& gemm,
           WinogradWeights weights)
      : kernels_(&kernels),
        conv_(&conv_kernels_for(kernels)),
        idiom_(&idiom),
        gemm_(gemm),
        weights_(std::move(weights)),
        inputs_(p.in_channels),
        channels_(p.kernel[0] * p.in_channels),
        panels_(divide_up(p.out_channels, kPanel)),
        kernel_(p.kernel),
        stride_(p.stride),
        dilation_(p.dilation),
        pad_(p.pad_begin),
        padding_(WinogradWeights::padding(p)),
        step_(idiom.tiles[0].panels) {}

  /// As many as keep the transformed inputs in L2, and weights from being read too often.
  Index most_tiles() const {
    constexpr Index kBudget = 512 * 1024, kFewest = 24;
    const Index fitting = kBudget / (kPositions * 2 * channels_);
    return fitting < kFewest ? kFewest : fitting;
  }

  // From one position to the next: a cache line more than there is, since multiples of 4 KiB would
  // put all of them into the same sets of L1.
  Index v_size(Index tiles) const { return tiles * channels_ + 32; }
  static Index m_size(Index tiles) { return tiles * kPanel + 16; }
  /// Products of neighbours in all slices of the transformed inputs.
  Index products_size(Index tiles) const {
    const bool counts = idiom_->row_products;
    return counts ? divide_up(channels_, weights_.slice()) * kPositions * tiles : 0;
  }

  static Index least(Index a, Index b) { return a < b ? a : b; }
  /// Pieces of equal size, at most this.
  static Index balanced(Index total, Index most) {
    return divide_up(total, divide_up(total, most < 1 ? 1 : most));
  }

  /// A rectangle of tiles, or all of several images, times some panels.
  class Task {
   public:
    Task(const Winograd& w, const Call& call, Index index, std::byte* memory)
        : w_(w), call_(call), out_(call.args.c.extent) {
      const Index panel_blocks = divide_up(w.panels_, call.panels);
      panel0_ = index % panel_blocks * call.panels;
      index /= panel_blocks;
      image0_ = index / call.column_blocks / call.row_blocks * call.images;
      y0_ = index / call.column_blocks % call.row_blocks * call.rows * kTile;
      x0_ = index % call.column_blocks * call.columns * kTile;
      height_ = least(call.rows * kTile, out_[1] - y0_);
      width_ = least(call.columns * kTile, out_[2] - x0_);
      rows_ = divide_up(height_, kTile);
      columns_ = divide_up(width_, kTile);
      images_ = least(call.images, call.args.a.batch * out_[0] - image0_);
      tiles_ = images_ * rows_ * columns_;
      Carver carver(memory);
      v_ = carver.take<std::int16_t>(kPositions * w.v_size(tiles_));
      m_ = carver.take<std::int32_t>(w.step_ * kPositions * m_size(tiles_));
      sums_ = carver.take<std::int32_t>(w.step_ * tiles_ * 16 * kPanel);
      u_ = carver.take<std::int16_t>(w.step_ * w.weights_.scratch());
      products_ = carver.take<std::int32_t>(w.products_size(tiles_));
      stage_ = carver.take<std::byte>(kPositions * w.inputs_);
    }

    void run() {
      for (Index t = 0; t < tiles_; ++t) transform_input(t);
      count_products();
      const Index end = least(panel0_ + call_.panels, w_.panels_);
      for (Index p = panel0_; p < end; p += w_.step_) {
        const Index count = least(w_.step_, end - p), slice = w_.weights_.slice();
        for (Index c = 0; c < w_.channels_; c += slice) {
          multiply_slice(p, count, c, least(slice, w_.channels_ - c));
          transform_output(count, c > 0);
        }
        for (Index i = 0; i < count; ++i) finish(p + i, sums_ + i * tiles_ * 16 * kPanel);
      }
    }

   private:
    /// Of the planes of the image that the kernel meets.
    void transform_input(Index t) const {
      const ConstImageView& a = call_.args.a;
      const Index image = image0_ + t / columns_ / rows_;
      const auto* base = static_cast<const std::byte*>(a.data) + image / out_[0] * a.batch_stride;
      for (Index k = 0; k < w_.kernel_[0]; ++k) {
        const Index z = image % out_[0] * w_.stride_[0] + k * w_.dilation_[0] - w_.pad_[0];
        const bool is_inside = z >= 0 && z < a.extent[0];
        transform_plane(is_inside ? base + z * a.strides[0] : nullptr, t,
                        v_ + t * w_.channels_ + k * w_.inputs_);
      }
    }

    void transform_plane(const std::byte* plane, Index t, std::int16_t* v) const {
      const ConstImageView& a = call_.args.a;
      const Index y0 = y0_ + t / columns_ % rows_ * kTile - w_.pad_[1],
                  x0 = x0_ + t % columns_ * kTile - w_.pad_[2];
      const std::byte* pixels[kPositions];
      // Columns [first, last) of the tile are inside the image.
      const Index first = x0 < 0 ? -x0 : 0, last = least(6, a.extent[2] - x0);
      for (Index i = 0; i < 6; ++i) {
        const Index y = y0 + i;
        const bool is_inside = plane != nullptr && y >= 0 && y < a.extent[1] && first < last;
        const std::byte* row =
            is_inside ? plane + y * a.strides[1] + (x0 + first) * a.strides[2] : nullptr;
        Index step = a.strides[2];
        if (is_inside && a.channel_stride != 1) {
          std::byte* stage = stage_ + i * 6 * w_.inputs_;
          rows_detail::copy_elements<std::uint8_t>(row, step, a.channel_stride, stage, w_.inputs_,
                                                   1, last - first, w_.inputs_);
          row = stage;
          step = w_.inputs_;
        }
        for (Index j = 0; j < 6; ++j) {
          const bool inside = is_inside && j >= first && j < last;
          pixels[i * 6 + j] = inside ? row + (j - first) * step : nullptr;
        }
      }
      w_.conv_->winograd_input(pixels, a.type == DType::s8, w_.padding_, w_.inputs_, v,
                               w_.v_size(tiles_));
    }

    void count_products() const {
      if (!w_.idiom_->row_products) return;
      std::int32_t* to = products_;
      for (Index c = 0; c < w_.channels_; c += w_.weights_.slice()) {
        const Index size = least(w_.weights_.slice(), w_.channels_ - c);
        for (Index q = 0; q < kPositions; ++q, to += tiles_) {
          w_.conv_->winograd_row_products(v_ + q * w_.v_size(tiles_) + c, tiles_, w_.channels_,
                                          size, to);
        }
      }
    }

    /// All positions of `count` panels, channels [c, c + size).
    void multiply_slice(Index p, Index count, Index c, Index size) const {
      const WinogradWeights& weights = w_.weights_;
      const Index slice = c / weights.slice(), m_panel = kPositions * m_size(tiles_);
      for (Index k = c; k < c + size; k += weights.piece()) {
        const Index piece = least(weights.piece(), c + size - k);
        const Index position = weights.position_size(piece);
        const std::int16_t* u = weights.transformed(p, count, k, piece, u_);
        for (Index q = 0; q < kPositions; ++q) {
          Sums sums{.data = m_ + q * m_size(tiles_), .panel = m_panel, .add = k > c};
          const Index step = slice * kPositions + q;
          if (w_.idiom_->row_products) sums.row_base = products_ + step * tiles_;
          for (Index i = 0; i < count;) {
            const bool together = i + w_.step_ <= count;
            sums.column_base = weights.products(p + i, slice, q);
            multiply(v_ + q * w_.v_size(tiles_) + k, u + (i * kPositions + q) * position,
                     kPositions * position, together, piece / 2, sums);
            i += together ? w_.step_ : 1;
            sums.data = static_cast<std::int32_t*>(sums.data) + m_panel;
          }
        }
      }
    }

    /// Words of the rows of v times one panel of u, or as many as tiles take together.
    void multiply(const std::int16_t* v, const std::int16_t* u, Index u_panel, bool together,
                  Index words, Sums sums) const {
      const Idiom& idiom = *w_.idiom_;
      const Index groups = words / idiom.words;
      const std::int32_t* row_base = sums.row_base;
      auto* data = static_cast<std::int32_t*>(sums.data);
      const Tile* tile = idiom.tiles;
      for (Index r = 0; r < tiles_; r += tile->rows) {
        while (tile->rows > tiles_ - r) ++tile;
        const Rows a{reinterpret_cast<const std::byte*>(v + r * w_.channels_), w_.channels_ * 2,
                     4 * idiom.words};
        sums.data = data + r * kPanel;
        if (row_base != nullptr) sums.row_base = row_base + r;
        const auto* b = reinterpret_cast<const std::byte*>(u);
        if (!together || tile->panels == w_.step_) {
          tile->run[together](a, b, u_panel * 2, groups, sums);
          continue;
        }
        for (Index i = 0; i < w_.step_; ++i) {
          Sums one = sums;
          one.data = data + r * kPanel + i * sums.panel;
          tile->run[0](a, b + i * u_panel * 2, 0, groups, one);
        }
      }
    }

    void transform_output(Index count, bool add) const {
      const Index line = columns_ * kTile;  // pixels of a row of `sums`
      for (Index i = 0; i < count; ++i) {
        const std::int32_t* m = m_ + i * kPositions * m_size(tiles_);
        std::int32_t* sums = sums_ + i * tiles_ * 16 * kPanel;
        for (Index t = 0; t < tiles_; ++t) {
          const Index pixel = t / columns_ * kTile * line + t % columns_ * kTile;
          w_.conv_->winograd_output(m + t * kPanel, m_size(tiles_), sums + pixel * kPanel,
                                    line * kPanel, add);
        }
      }
    }

    /// The epilogue of one panel of all images.
    void finish(Index panel, const std::int32_t* sums) const {
      const GemmProblem& p = w_.gemm_.problem();
      const Index bias = p.epilogue.count > 0 && p.epilogue.steps[0].kind == Step::Kind::bias_s32;
      Output o;
      o.steps = p.epilogue.steps + bias;
      o.step_count = p.epilogue.count - bias;
      o.type = p.c;
      o.zero_point = p.c_zero_point;
      o.column = panel * kPanel;
      o.c = call_.c;
      o.base = w_.weights_.base(panel);
      o.inputs.residual = call_.residual;
      if (!call_.args.row_scales.empty()) o.inputs.row_scales = call_.args.row_scales.data();
      const Index line = columns_ * kTile;
      // Rows may follow each other in C as they do here.
      const Index together = line == out_[2] ? height_ : 1;
      for (Index i = 0; i < images_; ++i, sums += rows_ * kTile * line * kPanel) {
        for (Index y = 0; y < height_; y += together) {
          o.row = ((image0_ + i) * out_[1] + y0_ + y) * out_[2] + x0_;
          finish_rows(*w_.kernels_, call_.places, o, sums + y * line * kPanel, together * width_,
                      least(kPanel, p.n - o.column));
        }
      }
    }

    const Winograd& w_;
    const Call& call_;
    const Spatial& out_;
    Index panel0_, image0_, y0_, x0_;
    Index height_, width_;                   // outputs
    Index rows_, columns_, images_, tiles_;  // tiles of an image; of all
    std::int16_t* v_;                        // transformed inputs: (36, tiles, channels)
    std::int32_t* m_;                        // products: (panels, 36, tiles, 16)
    std::int32_t* sums_;                     // transformed back: (panels, pixels, 16)
    std::int16_t* u_;                        // a piece of the weights
    std::byte* stage_;        // pixels of a tile whose channels are not contiguous: (36, channels)
    std::int32_t* products_;  // of neighbours in v: (slices, 36, tiles)
  };

  const Kernels* kernels_;
  const ConvKernels* conv_;
  const Idiom* idiom_;
  Gemm gemm_;  // its problem has the padded arrays of the epilogue
  WinogradWeights weights_;
  Index inputs_, channels_, panels_;  // channels: of all planes that an output meets
  Spatial kernel_, stride_, dilation_, pad_;
  std::int32_t padding_;
  Index step_;
};

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
