// What operations on rows share: rows of any type and stride as contiguous floats, piece by piece,
// through a little memory on the stack; and how rows are divided among workers.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <span>
#include <string>

#include "quern/core/executor.hpp"
#include "quern/cpu/backend.hpp"
#include "quern/cpu/rowwise_kernels.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// Calls f(begin, end) for ranges of `count` units of work of `elements` each: several for each
/// worker, or one range for little work.
template <class F>
void for_ranges(const Parallel& executor, Index count, Index elements, const F& f) {
  constexpr double kWorthSplitting = 1 << 15;
  if (count == 0) return;
  const Index workers = executor.concurrency();
  const double work = static_cast<double>(count) * static_cast<double>(elements);
  if (workers <= 1 || count == 1 || work < kWorthSplitting) return f(Index{0}, count);
  const Index each = divide_up(count, 4 * workers);
  executor(divide_up(count, each), [&](Index index, Index) {
    const Index begin = index * each;
    f(begin, count - begin < each ? count : begin + each);
  });
}

/// Of a place in a quantized matrix.
inline PieceQuantization piece_of(const Quantization& q, Index column) {
  const bool scales = q.scales.size() > 1, zeros = q.zero_points.size() > 1;
  return {
      .scales = q.scales.data() + (scales ? column : 0),
      .zero_points = q.zero_points.empty() ? nullptr : q.zero_points.data() + (zeros ? column : 0),
      .column_scales = scales,
      .column_zero_points = zeros};
}

/// Elements of a row that fit a buffer on the stack, 16 KiB; an operation has five at most.
inline constexpr Index kRowPiece = 4096;

/// Whether the kernels can work on a row where it is.
template <class Void>
bool is_direct(const AnyMatrix<Void>& m) {
  return m.type == DType::f32 && (m.col_stride == 1 || m.cols <= 1);
}

/// Reads rows of a matrix, integers with their quantization. The last piece is remembered until
/// the row changes, so that a row of one piece is converted once.
class FloatReader {
 public:
  FloatReader(const RowwiseKernels& kernels, const ConstMatrixView& m,
              const Quantization* q = nullptr)
      : kernels_(&kernels), matrix_(m), quantization_(q) {}

  void row(Index b, Index i) {
    batch_ = b;
    row_ = i;
    held_ = -1;
  }
  /// The most elements of a piece.
  Index most() const { return is_direct(matrix_) ? std::numeric_limits<Index>::max() : kRowPiece; }
  /// n <= most() numbers from column j on, until the next call.
  const float* read(Index j, Index n) {
    const void* from = element(matrix_, batch_, row_, j);
    if (is_direct(matrix_)) return static_cast<const float*>(from);
    if (held_ == j) return buffer_;
    held_ = j;
    if (matrix_.col_stride != 1) {
      static constexpr Quantization kNone;
      for (Index c = 0; c < n; ++c) {
        buffer_[c] = detail::load_real(matrix_, quantization_ == nullptr ? kNone : *quantization_,
                                       batch_, row_, j + c);
      }
    } else if (is_float(matrix_.type)) {
      kernels_->load(matrix_.type, from, n, buffer_);
    } else {
      kernels_->dequantize(matrix_.type, from, n, piece_of(*quantization_, j), buffer_);
    }
    return buffer_;
  }

 private:
  const RowwiseKernels* kernels_;
  ConstMatrixView matrix_;
  const Quantization* quantization_;
  Index batch_ = 0, row_ = 0, held_ = -1;
  alignas(64) float buffer_[kRowPiece];
};

/// Writes rows of a matrix: results go to at(j), then write(j, n) brings them home.
class FloatWriter {
 public:
  FloatWriter(const RowwiseKernels& kernels, const MatrixView& m, const Quantization* q = nullptr)
      : kernels_(&kernels), matrix_(m), quantization_(q) {}

  void row(Index b, Index i) {
    batch_ = b;
    row_ = i;
  }
  Index most() const { return is_direct(matrix_) ? std::numeric_limits<Index>::max() : kRowPiece; }
  float* at(Index j) {
    return is_direct(matrix_) ? reinterpret_cast<float*>(element(matrix_, batch_, row_, j))
                              : buffer_;
  }
  void write(Index j, Index n) const { write(j, n, buffer_); }
  /// Numbers that are elsewhere.
  void write(Index j, Index n, const float* numbers) const {
    void* to = element(matrix_, batch_, row_, j);
    if (is_direct(matrix_)) {
      if (numbers != buffer_) kernels_->store(DType::f32, numbers, n, to);
    } else if (matrix_.col_stride != 1) {
      static constexpr Quantization kNone;
      for (Index c = 0; c < n; ++c) {
        detail::store_real(matrix_, quantization_ == nullptr ? kNone : *quantization_, batch_, row_,
                           j + c, numbers[c]);
      }
    } else if (is_float(matrix_.type)) {
      kernels_->store(matrix_.type, numbers, n, to);
    } else {
      kernels_->quantize(matrix_.type, numbers, n, piece_of(*quantization_, j), to);
    }
  }

 private:
  const RowwiseKernels* kernels_;
  MatrixView matrix_;
  const Quantization* quantization_;
  Index batch_ = 0, row_ = 0;
  alignas(64) float buffer_[kRowPiece];
};

/// Calls f(j, n) for the pieces of a row of `cols`.
template <class F>
void for_pieces(Index cols, Index most, const F& f) {
  for (Index j = 0; j < cols;) {
    const Index n = cols - j < most ? cols - j : most;
    f(j, n);
    j += n;
  }
}

/// What prepared operations on rows have in common. They need no workspace.
template <class P>
class RowwiseOperation {
 public:
  const P& problem() const { return problem_; }
  std::string kernel() const { return std::string("rows on ") + target_; }
  std::size_t workspace_bytes() const { return 0; }

 protected:
  RowwiseOperation(const Backend& backend, const P& p)
      : problem_(p),
        kernels_(&rowwise_kernels_for(backend.kernels().target_bit)),
        target_(backend.kernels().target) {}

  P problem_;
  const RowwiseKernels* kernels_;

 private:
  const char* target_;
};

/// The arrays that a problem points to, copied; false without memory. They are shared by copies of
/// the operation.
class KeptArrays {
 public:
  bool reserve(std::initializer_list<std::size_t> counts) {
    std::size_t words = 0;
    for (const std::size_t n : counts) words += n;
    if (words == 0) return true;
    memory_ = std::make_shared<AlignedBuffer>(words * 4);
    next_ = memory_->data();
    return memory_->size() != 0;
  }
  /// Lets `array` point to a copy of its elements, four bytes each.
  template <class T>
  void keep(std::span<const T>& array) {
    static_assert(sizeof(T) == 4);
    if (array.empty()) return;
    std::memcpy(next_, array.data(), array.size_bytes());
    array = {reinterpret_cast<const T*>(next_), array.size()};
    next_ += array.size_bytes();
  }

 private:
  std::shared_ptr<AlignedBuffer> memory_;
  std::byte* next_ = nullptr;
};

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
