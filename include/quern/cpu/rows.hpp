// Rows of A and of C that are no matrix in memory: patches of an image, positions of one in any
// layout. A product reads the former while it packs them, and a finished block of sums goes to the
// latter as runs of rows that are evenly spaced.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "quern/cpu/kernels.hpp"
#include "quern/ops/gemm.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// Reads rows of A.
struct RowReader {
  const void* context = nullptr;
  /// Elements [k0, k0 + size) of `rows` rows to places `step` bytes apart, 8-bit as they are or
  /// anything else as floats. Null: A is a matrix.
  void (*read)(const void* context, Index row, Index rows, Index k0, Index size, std::byte* to,
               Index step) noexcept = nullptr;
};

/// Rows of C and of the residual that are evenly spaced. Places count in elements, from the first
/// of the view's; columns are the views' col_stride apart.
struct RowRun {
  Index count = 0;
  Index row = 0, row_step = 1;  ///< their numbers, as steps know them
  Index c = 0, c_step = 0;
  Index residual = 0, residual_step = 0;
};

/// Finds rows of C.
struct RowPlaces {
  const void* context = nullptr;
  /// The run that begins at a row of the product. Null: C and the residual are matrices.
  RowRun (*find)(const void* context, Index row) noexcept = nullptr;
};

/// Both, for one product.
struct RowAccess {
  RowReader reader;
  RowPlaces places;
};

namespace rows_detail {

/// A 16-byte vector of any compiler with GNU's extensions, and interleaved halves of two.
template <class T>
struct Lanes {
  typedef T Vector __attribute__((vector_size(16)));
  static constexpr Index kCount = 16 / Index{sizeof(T)};

  template <std::size_t... I>
  static Vector zip(Vector a, Vector b, Index half, std::index_sequence<I...>) {
    return half == 0 ? __builtin_shufflevector(a, b, (I / 2 + I % 2 * kCount)...)
                     : __builtin_shufflevector(a, b, (kCount / 2 + I / 2 + I % 2 * kCount)...);
  }
};

/// Transposes a square block of as many lines as a vector has lanes; steps count in bytes.
template <class T>
void transpose(const std::byte* from, Index from_step, std::byte* to, Index to_step) {
  using L = Lanes<T>;
  typename L::Vector x[L::kCount], y[L::kCount];
  for (Index i = 0; i < L::kCount; ++i) std::memcpy(&x[i], from + i * from_step, 16);
  // Each round zips lines that are half a block apart; after log2(lanes) rounds they are columns.
  for (Index round = 1; round < L::kCount; round *= 2) {
    for (Index i = 0; i < L::kCount; ++i) {
      y[i] = L::zip(x[i / 2], x[i / 2 + L::kCount / 2], i % 2,
                    std::make_index_sequence<std::size_t(L::kCount)>());
    }
    for (Index i = 0; i < L::kCount; ++i) x[i] = y[i];
  }
  for (Index i = 0; i < L::kCount; ++i) std::memcpy(to + i * to_step, &x[i], 16);
}

/// Copies rows x columns elements; steps count in elements.
template <class T>
void copy_elements(const std::byte* from, Index from_row, Index from_column, std::byte* to,
                   Index to_row, Index to_column, Index rows, Index columns) {
  constexpr Index kBytes = sizeof(T), kBlock = Lanes<T>::kCount;
  // One side has contiguous columns and the other, if it is channels first, contiguous rows.
  if (from_row == 1 && to_column == 1) {
    std::swap(from_row, from_column);
    std::swap(to_row, to_column);
    std::swap(rows, columns);
  }
  const bool blocks = from_column == 1 && to_row == 1;
  const Index block_rows = blocks ? rows / kBlock * kBlock : 0,
              block_columns = blocks ? columns / kBlock * kBlock : 0;
  for (Index i = 0; i < block_rows; i += kBlock) {
    for (Index j = 0; j < block_columns; j += kBlock) {
      transpose<T>(from + (i * from_row + j) * kBytes, from_row * kBytes,
                   to + (i + j * to_column) * kBytes, to_column * kBytes);
    }
  }
  for (Index j = 0; j < columns; ++j) {
    const std::byte* x = from + j * from_column * kBytes;
    std::byte* y = to + j * to_column * kBytes;
    for (Index i = j < block_columns ? block_rows : 0; i < rows; ++i) {
      std::memcpy(y + i * to_row * kBytes, x + i * from_row * kBytes, sizeof(T));
    }
  }
}

inline void copy_elements(Index size, const std::byte* from, Index from_row, Index from_column,
                          std::byte* to, Index to_row, Index to_column, Index rows, Index columns) {
  (size == 1   ? copy_elements<std::uint8_t>
   : size == 2 ? copy_elements<std::uint16_t>
               : copy_elements<std::uint32_t>)(from, from_row, from_column, to, to_row, to_column,
                                               rows, columns);
}

/// A block of 16 columns as a view whose element (batch 1, row 0, column) is the first.
template <class Void>
AnyMatrix<Void> block_at(Void* data, DType type, Index rows, Index row_stride, Index column) {
  return {data, type, rows, kPanel, row_stride, 1, 2, -column};
}

/// What steps ask for besides the sums.
struct StepNeeds {
  bool custom = false, row_scale = false, residual = false;

  explicit StepNeeds(const Output& o) {
    for (Index s = 0; s < o.step_count; ++s) {
      custom |= o.steps[s].kind == Step::Kind::custom;
      row_scale |= o.steps[s].kind == Step::Kind::row_scale;
      residual |= o.steps[s].kind == Step::Kind::residual;
    }
  }
};

/// finish_rows() of rows that `places` finds, run by run: directly where channels are contiguous,
/// otherwise through a small stage.
inline void finish_runs(const Kernels& kernels, const RowPlaces& places, Output o,
                        const std::int32_t* sums, Index rows, Index columns) {
  constexpr Index kRows = 64;
  alignas(64) std::byte c_stage[kRows * kPanel * 4], residual_stage[kRows * kPanel * 4];
  const StepNeeds needs(o);
  const MatrixView c = o.c;
  const ConstMatrixView r = o.inputs.residual;
  const float* scales = o.inputs.row_scales;
  const bool c_direct = c.col_stride == 1 || columns == 1,
             r_direct = !needs.residual || r.col_stride == 1 || columns == 1;
  const Index end = o.row + rows;
  o.inputs.batch = 1;
  for (Index row = o.row, count = 0; row < end; row += count) {
    const RowRun run = places.find(places.context, row);
    count = run.count < end - row ? run.count : end - row;
    if (!(c_direct && r_direct) && count > kRows) count = kRows;
    // Steps that ask for the row's number get it one by one, unless rows follow each other.
    const bool alone = needs.custom || (needs.row_scale && run.row_step != 1);
    if (alone) count = 1;
    o.row = alone ? run.row : 0;
    o.inputs.row_scales = scales == nullptr || alone ? scales : scales + run.row;
    const auto stride = [&](Index step) { return alone ? 0 : step; };

    std::byte* to =
        static_cast<std::byte*>(c.data) + (run.c + o.column * c.col_stride) * size_of(o.type);
    o.c = block_at<void>(c_direct ? to : c_stage, o.type, count,
                         stride(c_direct ? run.c_step : kPanel), o.column);
    if (needs.residual) {
      const std::byte* from = static_cast<const std::byte*>(r.data) +
                              (run.residual + o.column * r.col_stride) * size_of(r.type);
      if (!r_direct) {
        copy_elements(size_of(r.type), from, run.residual_step, r.col_stride, residual_stage,
                      kPanel, 1, count, columns);
      }
      o.inputs.residual =
          block_at<const void>(r_direct ? from : residual_stage, r.type, count,
                               stride(r_direct ? run.residual_step : kPanel), o.column);
    }
    kernels.finish(o, sums, count, columns);
    if (!c_direct) {
      copy_elements(size_of(o.type), c_stage, kPanel, 1, to, run.c_step, c.col_stride, count,
                    columns);
    }
    sums += count * kPanel;
    for (const std::int32_t** constants : {&o.row_base, &o.row_factor, &o.row_sum}) {
      if (*constants != nullptr) *constants += count;
    }
    if (o.dynamic_scale != nullptr) o.dynamic_scale += count;
  }
}

}  // namespace rows_detail

/// Kernels::finish() of rows that `places` finds, or of a matrix. o.row counts the product's rows;
/// o.c and the residual begin at column 0.
inline void finish_rows(const Kernels& kernels, const RowPlaces& places, const Output& o,
                        const std::int32_t* sums, Index rows, Index columns) {
  places.find == nullptr ? kernels.finish(o, sums, rows, columns)
                         : rows_detail::finish_runs(kernels, places, o, sums, rows, columns);
}

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
