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
  /// Whether it can be used, and is faster for images of some size: 3 x 3, dense, stride 1,
  /// channels in sixteens, on targets without dot-product instructions.
  static bool suits(const Kernels& kernels, const ConvProblem& p) {
    return kernels.winograd.name != nullptr && kernels.quads.name == nullptr && is_int8(p.a) &&
           is_int8(p.b) && p.groups == 1 && p.kernel == Spatial{1, 3, 3} &&
           p.stride == Spatial{1, 1, 1} && p.dilation == Spatial{1, 1, 1} && p.pad_begin[0] == 0 &&
           p.pad_end[0] == 0 && p.in_channels % 16 == 0 && p.in_channels > 0 &&
           p.out_channels >= 16;
  }

  /// Of a problem that suits, with weights (out channel, 9, in channel); `gemm` is its direct form.
  /// Empty if memory runs out.
  static std::optional<Winograd> make(const Kernels& kernels, const ConvProblem& p,
                                      const std::byte* weights, const Gemm& gemm) {
    const Index channels = p.in_channels, panels = divide_up(p.out_channels, kPanel);
    auto base = std::make_shared<AlignedBuffer>(static_cast<std::size_t>(panels * kPanel * 4));
    auto u = std::make_shared<AlignedBuffer>(
        static_cast<std::size_t>(kPositions * panels * channels * kPanel * 2));
    if (u->size() == 0 || base->size() == 0) return {};
    std::memset(u->data(), 0, u->size());
    std::memset(base->data(), 0, base->size());
    const Step& first = p.epilogue.steps[0];
    const bool has_bias = p.epilogue.count > 0 && first.kind == Step::Kind::bias_s32;
    // Sixteen channels at a time may be in a slice: 128 * 16 * 9 * 255 is below 2^23.
    std::vector<Index> largest(static_cast<std::size_t>(channels / 16));
    for (Index j = 0; j < p.out_channels; ++j) {
      const std::size_t zeros = p.b_zero_points.size();
      const std::int32_t zb =
          zeros == 0 ? 0 : p.b_zero_points[zeros == 1 ? 0 : static_cast<std::size_t>(j)];
      std::uint32_t sum = 0;
      Index magnitudes = 0;
      for (Index c = 0; c < channels; ++c) {
        if (c % 16 == 0) magnitudes = 0;
        std::int32_t g[9];
        for (int t = 0; t < 9; ++t) {
          const std::byte w = weights[(j * 9 + t) * channels + c];
          g[t] = (p.b == DType::s8 ? std::int32_t{static_cast<std::int8_t>(w)}
                                   : std::int32_t{static_cast<std::uint8_t>(w)}) -
                 zb;
          sum += static_cast<std::uint32_t>(g[t]);
          magnitudes += g[t] < 0 ? -g[t] : g[t];
        }
        Index& most = largest[static_cast<std::size_t>(c / 16)];
        if (magnitudes > most) most = magnitudes;
        std::int16_t* out = reinterpret_cast<std::int16_t*>(u->data()) +
                            (j / kPanel * (channels / 2) + c / 2) * kPanel * 2 + j % kPanel * 2 +
                            c % 2;
        transform_weights(g, out, panels * channels * kPanel);
      }
      const std::int32_t bias = has_bias ? static_cast<const std::int32_t*>(first.data)[j] : 0;
      reinterpret_cast<std::int32_t*>(base->data())[j] = static_cast<std::int32_t>(
          static_cast<std::uint32_t>(bias) - static_cast<std::uint32_t>(padding(p)) * sum);
    }
    Winograd w(kernels, p, gemm, std::move(u), std::move(base));
    w.slice_ = slice_of(largest);
    return w;
  }

  /// Whether it is faster for outputs of this extent: what tiles cover beyond the edges is wasted,
  /// and fewer tiles do not pay for reading four times the weights.
  bool is_worth(const Spatial& out) const {
    constexpr Index kFewest = 9;
    const Index tiles = divide_up(out[1], kTile) * divide_up(out[2], kTile);
    return tiles >= kFewest && 16 * tiles <= 2 * out[1] * out[2];
  }

  Index worker_bytes() const {
    return Carver::bytes<std::int16_t>(kPositions * most_tiles() * channels_) +
           Carver::bytes<std::int32_t>(step_ * kPositions * most_tiles() * kPanel) +
           Carver::bytes<std::int32_t>(step_ * most_tiles() * 16 * kPanel);
  }

  /// A validated call; `memory` is aligned and has worker_bytes() for each worker. `c` and
  /// `residual`: the matrices of all output positions.
  void run(const ConvArgs& args, const MatrixView& c, const ConstMatrixView& residual,
           std::byte* memory, Parallel executor) const noexcept {
    Call call{args, c, residual};
    const Spatial& out = args.c.extent;
    const Index rows = divide_up(out[1], kTile), columns = divide_up(out[2], kTile);
    const Index most = most_tiles();
    call.columns = divide_up(columns, divide_up(columns, most));
    const Index fitting = call.columns < columns ? 1 : most / columns;
    call.rows = divide_up(rows, divide_up(rows, fitting));
    call.row_blocks = divide_up(rows, call.rows);
    call.column_blocks = divide_up(columns, call.columns);
    const Index images = args.a.batch * out[0];
    executor(images * call.row_blocks * call.column_blocks, [&](Index index, Index worker) {
      run_block(call, index, memory + worker * worker_bytes());
    });
  }

 private:
  static constexpr Index kTile = 4, kPositions = 36;

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
    Index rows = 0, columns = 0;  // tiles of a block
    Index row_blocks = 0, column_blocks = 0;
  };

  Winograd(const Kernels& kernels, const ConvProblem& p, const Gemm& gemm,
           std::shared_ptr<const AlignedBuffer> u, std::shared_ptr<const AlignedBuffer> base)
      : kernels_(&kernels),
        gemm_(gemm),
        u_(std::move(u)),
        base_(std::move(base)),
        channels_(p.in_channels),
        panels_(divide_up(p.out_channels, kPanel)),
        pad_{p.pad_begin[1], p.pad_begin[2]},
        padding_(padding(p)),
        step_(kernels.winograd.tiles[0].panels) {}

  /// G g G^T with rows of G scaled to (1 0 0) (-1 -1 -1) (-1 1 -1) (1 2 4) (1 -2 4) (0 0 1);
  /// position q at out + q * step.
  static void transform_weights(const std::int32_t* g, std::int16_t* out, Index step) {
    constexpr std::int32_t kG[6][3] = {{1, 0, 0}, {-1, -1, -1}, {-1, 1, -1},
                                       {1, 2, 4}, {1, -2, 4},   {0, 0, 1}};
    for (int i = 0; i < 6; ++i) {
      std::int32_t row[3];
      for (int j = 0; j < 3; ++j) {
        row[j] = kG[i][0] * g[j] + kG[i][1] * g[3 + j] + kG[i][2] * g[6 + j];
      }
      for (int j = 0; j < 6; ++j) {
        out[(i * 6 + j) * step] =
            static_cast<std::int16_t>(kG[j][0] * row[0] + kG[j][1] * row[1] + kG[j][2] * row[2]);
      }
    }
  }

  /// As many as keep the transformed inputs in L2, and weights from being read too often.
  Index most_tiles() const {
    constexpr Index kBudget = 512 * 1024, kFewest = 24;
    const Index fitting = kBudget / (kPositions * 2 * channels_);
    return fitting < kFewest ? kFewest : fitting;
  }

  void run_block(const Call& call, Index index, std::byte* memory) const {
    const Spatial& out = call.args.c.extent;
    const Index column_block = index % call.column_blocks,
                row_block = index / call.column_blocks % call.row_blocks,
                image = index / call.column_blocks / call.row_blocks;
    const Index y0 = row_block * call.rows * kTile, x0 = column_block * call.columns * kTile;
    const Index height = least(call.rows * kTile, out[1] - y0),
                width = least(call.columns * kTile, out[2] - x0);
    const Index rows = divide_up(height, kTile), columns = divide_up(width, kTile),
                tiles = rows * columns;
    Carver carver(memory);
    auto* v = carver.take<std::int16_t>(kPositions * most_tiles() * channels_);
    auto* m = carver.take<std::int32_t>(step_ * kPositions * most_tiles() * kPanel);
    auto* sums = carver.take<std::int32_t>(step_ * most_tiles() * 16 * kPanel);
    for (Index t = 0; t < tiles; ++t) {
      transform_input(call.args.a, image, y0 + t / columns * kTile - pad_[0],
                      x0 + t % columns * kTile - pad_[1], v + t * channels_, tiles * channels_);
    }
    const Index m_panel = kPositions * tiles * kPanel, sums_panel = tiles * 16 * kPanel;
    for (Index p = 0; p < panels_; p += step_) {
      const Index count = least(step_, panels_ - p);
      const Index line = columns * kTile;  // pixels of a row of `sums`
      for (Index c = 0; c < channels_; c += slice_) {
        for (Index q = 0; q < kPositions; ++q) {
          multiply(v + q * tiles * channels_, tiles, q, p, count, c, m + q * tiles * kPanel,
                   m_panel);
        }
        for (Index i = 0; i < count; ++i) {
          for (Index t = 0; t < tiles; ++t) {
            kernels_->winograd_output(
                m + i * m_panel + t * kPanel, tiles * kPanel,
                sums + i * sums_panel + (t / columns * kTile * line + t % columns * kTile) * kPanel,
                line * kPanel, c > 0);
          }
        }
      }
      for (Index i = 0; i < count; ++i) {
        const Index first = (image * out[1] + y0) * out[2] + x0;
        const bool whole = line == out[2];  // rows follow each other in C as they do here
        for (Index y = 0; y < height; y += whole ? height : 1) {
          finish(call, p + i, first + y * out[2], whole ? height * width : width,
                 sums + i * sums_panel + y * line * kPanel);
        }
      }
    }
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

  /// One position: a slice of the rows of v, from channel c on, times panels of u.
  void multiply(const std::int16_t* v, Index tiles, Index q, Index p, Index count, Index c,
                std::int32_t* m, Index m_panel) const {
    const Index panel_bytes = channels_ * kPanel * 2;
    const Index words = least(slice_, channels_ - c) / 2;
    const std::byte* b = u_->data() + (q * panels_ + p) * panel_bytes + c * kPanel * 2;
    const Tile* tile = kernels_->winograd.tiles;
    for (Index r = 0; r < tiles; r += tile->rows) {
      while (tile->rows > tiles - r) ++tile;
      const Rows a{reinterpret_cast<const std::byte*>(v + r * channels_ + c), channels_ * 2, 4};
      if (count == tile->panels) {
        tile->run[1](a, b, panel_bytes, words, {.data = m + r * kPanel, .panel = m_panel});
        continue;
      }
      for (Index i = 0; i < count; ++i) {
        tile->run[0](a, b + i * panel_bytes, panel_bytes, words,
                     {.data = m + i * m_panel + r * kPanel});
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
    kernels_->finish(o, sums, rows, least(kPanel, p.n - o.column));
  }

  const Kernels* kernels_;
  Gemm gemm_;                                  // its problem has the padded arrays of the epilogue
  std::shared_ptr<const AlignedBuffer> u_;     // (36, panels, channels / 2, 16, 2)
  std::shared_ptr<const AlignedBuffer> base_;  // what all sums of a channel begin with
  Index channels_, panels_;
  Index pad_[2];
  std::int32_t padding_;
  Index step_;
  Index slice_ = 16;
};

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
