// What a SIMD target offers to convolutions, beside the Kernels of products: a family of its own,
// so that programs without convolutions do not compile it.
#pragma once

#include "quern/cpu/all_kernels.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// Pixels whose channels are contiguous 8-bit numbers.
struct PixelRow {
  const std::byte* data;
  Index pixel;  ///< bytes from one to the next
};

/// Rows of output positions of a depthwise convolution, 16 channels of them.
struct DepthwiseRows {
  Index rows, positions;
  const std::byte* const* lines;    ///< (rows, line_count); column x of one begins at x * 64
  const std::byte* const* weights;  ///< (rows); each points to (line_count, taps, 16) words
  Index line_count;
  Index taps;            ///< of each line
  Index tap_bytes;       ///< from one to the next
  Index position_bytes;  ///< from one output position to the next
  Index row_step;        ///< from one row to the next in C, in positions
};

/// A way to compute depthwise convolutions, see depthwise.hpp. A *line* holds a word for each of 16
/// channels of each column: what one or more rows of the image have there.
struct DepthwiseIdiom {
  Index rows = 0;  ///< in a line: 1 as floats, 2 as shorts, 4 as bytes; 0: not on this target

  /// Makes a line of `count` columns of rows of pixels, at least 16 channels each. To bytes of s8
  /// 128 is added.
  void (*make_line)(const PixelRow* rows, Index count, bool is_signed, std::byte* to) noexcept;
  /// Sums (rows, positions, 16): modulo 2^32, or of floats, taps in order.
  void (*sum)(const DepthwiseRows& in, void* sums) noexcept;
  /// The same and the epilogue, into `columns` <= 16 columns of C, a matrix. False, and nothing is
  /// done, if it takes finish().
  bool (*sum_and_finish)(const DepthwiseRows& in, const Output& out, Index columns) noexcept;
};

/// A target's functions. Chosen once, when an operation is prepared.
struct ConvKernels {
  Idiom winograd_sums;  ///< the same by Winograd's inner product, for many channels
  Idiom winograd;       ///< 16-bit products, B widened and packed as words of k and k+1
  DepthwiseIdiom depthwise_pairs;
  DepthwiseIdiom depthwise_quads;  ///< weights must fit s8
  DepthwiseIdiom depthwise_floats;

  /// G g G^T of pairs of input channels: g (words, 9, 16, 2), s8 or u8, less zero_points (16, 2);
  /// position q of the result, (words, 16, 2), at u + q * step.
  void (*winograd_weights)(const std::byte* g, bool is_signed, const std::int16_t* zero_points,
                           Index words, std::int16_t* u, Index step) noexcept;
  /// B^T d B of the 36 pixels of a tile, s8, or u8 less 128 (null: `padding`); position q of the
  /// result at v + q * step. channels: a multiple of 16.
  void (*winograd_input)(const std::byte* const* pixels, bool is_signed, std::int32_t padding,
                         Index channels, std::int16_t* v, Index step) noexcept;
  /// A^T m A of 16 columns, descaled; m: position q at m + q * step. Pixel (i, j) of the 4 x 4 goes
  /// to out + i * row + j * 16, or is added to what is there.
  void (*winograd_output)(const std::int32_t* m, Index step, std::int32_t* out, Index row,
                          bool add) noexcept;
  /// If Idiom::row_products: less the sum of v[0] v[2] + v[1] v[3] + v[4] v[6] + ... of `channels`
  /// shorts, of rows `step` apart.
  void (*winograd_row_products)(const std::int16_t* v, Index rows, Index step, Index channels,
                                std::int32_t* out) noexcept;
  /// The same of 16 columns, (words, 16, 2).
  void (*winograd_column_products)(const std::int16_t* u, Index words, std::int32_t* out) noexcept;
};

/// Those that belong to these kernels.
const ConvKernels& conv_kernels_for(const Kernels& kernels);

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern

#if !defined(QUERN_COMPILED) || defined(QUERN_COMPILED_BUILD)

#define QUERN_TARGET_INCLUDE "quern/cpu/conv_kernels-inl.hpp"
#include "quern/cpu/dispatch/foreach_target.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

QUERN_DEFINITION const ConvKernels& conv_kernels_for(const Kernels& kernels) {
  const auto get = QUERN_DISPATCH(conv_kernels, kernels.target_bit);
  return *get(kernels.quads.name != nullptr);
}

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern

#endif
