// What a SIMD target offers, as data: a table of plain functions. Everything above it (packing of
// weights, blocking, threads, errors) is ordinary code that is compiled once; everything below is
// compiled once per target.
//
// Layout. Columns come in panels of 16, whatever the vector length, so packed weights serve every
// target. The inner loops count *steps*: a step is one 32-bit word of A for each row and one word
// of B for each of the 16 columns. What a word holds is the idiom's business:
//   quads   4 bytes, k to k+3         (dot-product instructions, or u8 x s8 pairs that cannot
//   saturate) pairs   2 shorts, of a quad's k and k+2 or k+1 and k+3   (16-bit multiply-add: exact
//   anywhere) f32     1 float
#pragma once

#include <cstddef>
#include <cstdint>

#include "quern/core/tensor.hpp"
#include "quern/ops/epilogue.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

inline constexpr Index kPanel = 16;  ///< columns of B in a panel
inline constexpr Index kQuad = 4;    ///< consecutive k that int8 weights are grouped by

/// How rows of A are laid out for a tile of R rows.
enum class RowForm : std::uint8_t {
  u8_quads,   ///< words of 4 unsigned bytes at the strides of Rows: packed as (step, R), s8 input
              ///< with 128 added; or A itself
  s8_quads,   ///< the same of signed bytes; u8 input is packed with 128 subtracted
  s16_pairs,  ///< (quad, R, 2) words of 2 shorts: k and k+2, then k+1 and k+3
  s16_words,  ///< words of 2 shorts, k and k+1, at the strides of Rows
  nibbles,    ///< (quad, R, 2) words of 4 bytes: the lower halves of u8_quads, then the upper ones
  f32,        ///< floats at the strides of Rows: packed as (step, R), or A itself
};

/// A tile's rows of A. The strides, in bytes, are those of quads and f32; the others have their
/// own.
struct Rows {
  const std::byte* data;
  Index row = 4;   ///< from one row to the next
  Index step = 0;  ///< from one step to the next
};

/// Where a tile's sums go, s32 or f32: element (p, i, j) at data[p * panel + i * row + j]. That may
/// be C itself, when nothing is left to do.
struct Sums {
  void* data;
  Index row = kPanel;
  Index panel = 0;
  bool add = false;                           ///< to what is there; otherwise they begin at
  const std::int32_t* column_base = nullptr;  ///< this (panels, 16), if not null,
  const std::int32_t* row_base = nullptr;     ///< plus this (rows), if not null; s32 only
};

/// A micro-kernel: acc[i][j] (+)= sum over k of A[i][k] * B[k][j] for a few rows and the 16 columns
/// of one or two panels. Integer sums wrap modulo 2^32; float sums take k in order, with fused
/// multiply-adds where the target has them.
struct Tile {
  /// a: `rows` rows in the idiom's form. b: panel p begins at b + p * b_panel bytes.
  /// groups: quads for integers, steps for f32.
  using Run = void (*)(const Rows& a, const std::byte* b, Index b_panel, Index groups,
                       const Sums& sums) noexcept;
  Index rows = 0;
  Index panels = 0;  ///< 1 or 2: how many at a time suit this height
  Run run[2] = {};   ///< for one panel, for `panels`
};

/// One exact way to multiply: a form of A and of B, and tiles of several heights.
struct Idiom {
  const char* name = nullptr;  ///< null: this target does not have the idiom
  RowForm form = RowForm::f32;
  bool row_products = false;  ///< sums hold the products of neighbours in A and in B as well
  Index words = 1;            ///< s16_words: of a step
  bool widen_b = false;       ///< tiles read panels that Kernels::widen has expanded to 16 bits
  Tile tiles[5] = {};         ///< descending in rows, down to 1; ends at the first with rows == 0
};

/// Rows of a tile before packing.
struct RowSource {
  const std::byte* data;  ///< contiguous within a row
  Index row_bytes;        ///< from one row to the next
  Index rows;
};

/// A finished block of accumulators and where it goes.
struct Output {
  const Step* steps = nullptr;  ///< without the s32 bias, which is part of `base`
  Index step_count = 0;
  DType type = DType::s32;
  std::int32_t zero_point = 0;
  bool integer = true;                       ///< accumulators are s32, not f32
  const std::int32_t* base = nullptr;        ///< (16) or null: added to each row, if integer
  const std::int32_t* row_base = nullptr;    ///< (rows) or null: added to each column
  const std::int32_t* row_factor = nullptr;  ///< (rows) or null: adds row_factor[i] * column_sum[j]
  const std::int32_t* column_sum = nullptr;  ///< (16)
  const std::int32_t* row_sum = nullptr;     ///< (rows) or null: adds row_sum[i] * column_factor[j]
  const std::int32_t* column_factor = nullptr;  ///< (16)
  const float* dynamic_scale = nullptr;  ///< (rows) or null: multiplies before the first step
  Index row = 0, column = 0;             ///< of the block's first element in C
  StepInputs inputs;
  MatrixView c;
};

/// A target's functions. Chosen once, when an operation is prepared.
struct Kernels {
  const char* target;       ///< Highway's name, e.g. "AVX2"
  std::int64_t target_bit;  ///< of HWY_TARGETS; finds the target's other families of kernels
  Idiom pairs;              ///< 16-bit products, B widened beforehand: many rows
  Idiom few;                ///< exact for any weights, B as it is: few rows
  Idiom proven;             ///< quads with 16-bit pair sums: exact only if the weights prove it
  Idiom quads;              ///< quads with 32-bit sums: exact always
  Idiom f32;

  /// Expands `quads` quads of an s8 panel to 16 bits: (quads, 2, 16) words.
  void (*widen)(const std::byte* panel, Index quads, std::byte* out) noexcept;
  /// Packs rows of 8-bit elements, k of them, padded with zero bits to whole quads. If products is
  /// not null, and the idiom's sums have them: products[i] less the products of neighbours in row
  /// i, x[0] x[1] + x[2] x[3] + ..., modulo 2^32.
  void (*pack_pairs)(const RowSource& rows, Index k, bool is_signed, std::byte* out,
                     std::int32_t* products) noexcept;
  /// Packs rows of 8-bit elements as words, each XORed with `flip` (0x80808080 swaps signedness).
  void (*pack_words)(const RowSource& rows, Index bytes, std::uint32_t flip,
                     std::byte* out) noexcept;
  /// From u8_quads to nibbles, in place: `count` words become 2 count. Null without the idiom.
  void (*split_nibbles)(std::byte* words, Index count) noexcept;
  /// The sum of k 8-bit elements.
  std::int32_t (*row_sum)(const std::byte* row, Index k, bool is_signed) noexcept;
  /// The largest magnitude of n floats; NaN is ignored.
  float (*largest)(const float* x, Index n) noexcept;
  /// out[i] = quantize(x[i] * inverse, 0, s8).
  void (*quantize_row)(const float* x, Index n, float inverse, std::int8_t* out) noexcept;
  /// Applies the epilogue to acc (rows, 16) and stores `columns` <= 16 of each row.
  void (*finish)(const Output& out, const void* acc, Index rows, Index columns) noexcept;
};

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
