// The functional walker: what a tile program computes. Loads, products, epilogues and stores work
// on slots of real memory, so a program that reads a tile before it is there or after it has been
// replaced gives wrong values.
//
// Integers are exact: operands enter the array less their zero points and sums are taken modulo
// 2^32. Floats accumulate in f32 in the order of the machine: weight and input stationary, a fold's
// sum begins at +0 and takes its k in turn, fused, and is then added to the accumulator; output
// stationary, the accumulator takes every k in turn, as reference_gemm() does.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "quern/ops/gemm_reference.hpp"
#include "quern/sim/program.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// An operand in a buffer: int8 less its zero point, or a float.
using Integer = std::int16_t;

/// Element of any float type, as a float; of an int8 type, less its zero point.
template <class T>
T operand(const ConstMatrixView& m, Index j, std::int32_t zero) {
  if constexpr (std::is_same_v<T, float>) {
    return load_float(m, 0, 0, j);
  } else {
    return static_cast<Integer>(quern::detail::load_int8(m, 0, 0, j) - zero);
  }
}

/// What steps need of a row, and the number that they are told.
struct RowInputs {
  StepInputs steps;
  Index row;
};

/// One call. Where its operands are is Call's affair:
///
///   problem()                      types, zero points of b, epilogue
///   quantize(product, row)         if the program has rows quantized
///   read(product, row, k, n, out)  n terms from k on of a row of A
///   scaled(v, product, row)        a sum of integers, times its row's scale if there is one
///   inputs(product, row)           RowInputs
///   c(product, row)                a row of C, as a matrix of one row
///   column(x)                      where the instruction's columns begin in it
///   kPatches                       slots of a hold pieces of an image. They are not copied: a slot
///                                  says what it has, and rows are read from the image itself
///
/// Memory: bytes(..) of it.
template <class Call>
class Values {
 public:
  Values(Call& call, const ConstMatrixView& weights, std::byte* memory)
      : call_(call), weights_(weights), memory_(memory), integer_(is_int8(weights.type)) {}

  /// What the slots need at most on a chip, for so many rows.
  static double bytes(const Chip& chip, DType a, DType b, double m, double n, double k,
                      double batch) {
    const double word = is_int8(b) ? sizeof(Integer) : sizeof(float);
    // Slots hold whole tiles, no more than fit the buffer nor than twice the operand each way.
    const auto room = [](const Buffer& buffer, double element, double operand) {
      const double most = buffer.kib * 1024 / element;
      return most < 4 * operand ? most : 4 * operand;
    };
    const double a_bytes = static_cast<double>(is_int8(b) ? 1 : size_of(a)),
                 a_words = Call::kPatches ? k : room(chip.a, a_bytes, m * k);
    return a_words * word + room(chip.b, static_cast<double>(size_of(b)), k * n * batch) * word +
           room(chip.c, Work::kAccumulatorBytes, m * n) * 4 + 8 * static_cast<double>(kAlignment);
  }

  /// Runs every die's program.
  void run(const Chip& chip, const Work& work, const Mapping& mapping) {
    dataflow_ = mapping.dataflow;
    array_rows_ = chip.array.rows;
    if constexpr (requires { call_.quantize(Index{}, Index{}); }) {
      if (work.quantizes) quantize(chip, work, mapping);
    }
    for (Index die = 0; die < chip.dies; ++die) {
      const Tiling tiling(chip, work, mapping, die);
      if (tiling.empty()) continue;
      tiling_ = &tiling;
      tile_ = tiling.tile();
      const Index word = integer_ ? Index{sizeof(Integer)} : Index{sizeof(float)};
      Carver carver(memory_);
      a_ = carver.take<std::byte>(
          (Call::kPatches ? tile_.k : tiling.a_slots() * tile_.m * tile_.k) * word);
      b_ = carver.take<std::byte>(tiling.b_slots() * tile_.k * tile_.n * word);
      c_ = carver.take<std::uint32_t>(tiling.c_slots() * tile_.m * tile_.n);
      for (Piece& piece : pieces_) piece = {};
      tiling.lower([&](const Instruction& x) {
        step(x);
        return true;
      });
    }
  }

 private:
  /// Rows that are quantized serve all dies.
  void quantize(const Chip& chip, const Work& work, const Mapping& mapping) {
    for (Index die = 0; die < chip.dies; ++die) {
      Tiling(chip, work, mapping, die).lower([&](const Instruction& x) {
        if (x.kind != Instruction::Kind::quantize) return false;
        for (Index i = 0; i < x.size.m; ++i) call_.quantize(x.product, x.m + i);
        return true;
      });
    }
  }

  /// What a slot of a has of an image.
  struct Piece {
    Index product = -1, rows = -1, k = 0, count = 0;
    bool holds(const Instruction& x) const {
      return product == x.product && rows == x.rows && k <= x.k && x.k + x.size.k <= k + count;
    }
  };

  void step(const Instruction& x) {
    switch (x.kind) {
      case Instruction::Kind::load_a:
        if constexpr (Call::kPatches) {
          pieces_[x.a] = {x.product, x.rows, x.k, x.size.k};
        } else {
          integer_ ? load_a(x, a_slot<Integer>(x)) : load_a(x, a_slot<float>(x));
        }
        return;
      case Instruction::Kind::load_b:
        return integer_ ? load_b(x, b_slot<Integer>(x)) : load_b(x, b_slot<float>(x));
      case Instruction::Kind::multiply:
        for (Index i = 0; i < x.size.m; ++i) integer_ ? integer_row(x, i) : float_row(x, i);
        return;
      case Instruction::Kind::epilogue:
        return epilogue(x);
      case Instruction::Kind::store:
        return store(x);
      case Instruction::Kind::quantize:  // done before
      case Instruction::Kind::load_c:    // the epilogue reads it where it is
        return;
    }
  }

  template <class T>
  T* a_slot(const Instruction& x) const {
    return reinterpret_cast<T*>(a_) + x.a * tile_.m * tile_.k;
  }
  template <class T>
  T* b_slot(const Instruction& x) const {
    return reinterpret_cast<T*>(b_) + x.b * tile_.k * tile_.n;
  }
  std::uint32_t* c_row(const Instruction& x, Index i) const {
    return c_ + (x.c * tile_.m + i) * tile_.n;
  }
  Index row(const Instruction& x, Index i) const {
    return Call::kPatches ? tiling_->rows().row(x.rows, i) : x.m + i;
  }

  template <class T>
  void load_a(const Instruction& x, T* out) const {
    for (Index i = 0; i < x.size.m; ++i, out += tile_.k) {
      call_.read(x.product, row(x, i), x.k, x.size.k, out);
    }
  }
  /// Row i of the tile in slot a. If the slot has another piece of the image, nonsense.
  template <class T>
  const T* a_row(const Instruction& x, Index i) const {
    if constexpr (Call::kPatches) {
      T* patch = reinterpret_cast<T*>(a_);
      call_.read(x.product, row(x, i), x.k, x.size.k, patch);
      if (!pieces_[x.a].holds(x)) std::fill_n(patch, x.size.k, static_cast<T>(-99));
      return patch;
    } else {
      return a_slot<T>(x) + i * tile_.k;
    }
  }

  template <class T>
  void load_b(const Instruction& x, T* out) const {
    const auto& zeros = call_.problem().b_zero_points;
    const std::int32_t* zb = zeros.empty() ? nullptr : zeros.data();
    const Index step = zeros.size() == 1 ? 0 : 1, column = call_.column(x);
    for (Index k = 0; k < x.size.k; ++k, out += tile_.n) {
      const ConstMatrixView row(element(weights_, x.product, x.k + k, x.n), weights_.type, 1,
                                x.size.n);
      for (Index j = 0; j < x.size.n; ++j) {
        out[j] = operand<T>(row, j, zb == nullptr ? 0 : zb[(column + j) * step]);
      }
    }
  }

  void integer_row(const Instruction& x, Index i) const {
    const Integer* a = a_row<Integer>(x, i);
    const Integer* b = b_slot<Integer>(x);
    std::uint32_t* c = c_row(x, i);
    if (x.first) std::fill_n(c, x.size.n, 0u);
    Index k = 0;
    for (; k + 4 <= x.size.k; k += 4) add_rows<4>(a + k, b + k * tile_.n, tile_.n, x.size.n, c);
    for (; k < x.size.k; ++k) add_rows<1>(a + k, b + k * tile_.n, tile_.n, x.size.n, c);
  }

  /// c[j] += a[0] b[0][j] + ...: |a b| <= 255 * 255. Plain enough for every compiler to vectorize.
  template <int kRows>
  static void add_rows(const Integer* a, const Integer* b, Index stride, Index n,
                       std::uint32_t* __restrict c) {
    for (Index j = 0; j < n; ++j) {
      std::int32_t sum = 0;
      for (int r = 0; r < kRows; ++r) sum += a[r] * b[r * stride + j];
      c[j] += static_cast<std::uint32_t>(sum);
    }
  }

  void float_row(const Instruction& x, Index i) const {
    const auto& p = call_.problem();
    const float* a = a_row<float>(x, i);
    p.a != DType::f32&& p.b != DType::f32 ? float_row<true>(x, i, a) : float_row<false>(x, i, a);
  }

  /// A fused multiply-add. Products of 16-bit formats are exact, and so is their sum with a float
  /// in double where it could matter for rounding: a form that compilers vectorize anywhere.
  template <bool kNarrow>
  static float add_product(float a, float b, float sum) {
    if constexpr (!kNarrow) return std::fma(a, b, sum);
    return static_cast<float>(static_cast<double>(a) * static_cast<double>(b) +
                              static_cast<double>(sum));
  }

  template <bool kNarrow>
  void float_row(const Instruction& x, Index i, const float* a) const {
    constexpr Index kColumns = 16;
    const bool in_place = dataflow_ == Dataflow::output_stationary;
    const Index fold = in_place ? (x.size.k > 0 ? x.size.k : 1) : array_rows_;
    float* c = reinterpret_cast<float*>(c_row(x, i));
    if (x.first) std::fill_n(c, x.size.n, 0.0f);
    for (Index j0 = 0; j0 < x.size.n; j0 += kColumns, c += kColumns) {
      const Index columns = x.size.n - j0 < kColumns ? x.size.n - j0 : kColumns;
      for (Index k0 = 0; k0 < x.size.k; k0 += fold) {
        float sums[kColumns] = {};
        if (in_place) std::copy_n(c, columns, sums);
        const Index k1 = k0 + fold < x.size.k ? k0 + fold : x.size.k;
        const float* b = b_slot<float>(x) + k0 * tile_.n + j0;
        for (Index k = k0; k < k1; ++k, b += tile_.n) {
          for (Index j = 0; j < columns; ++j) sums[j] = add_product<kNarrow>(a[k], b[j], sums[j]);
        }
        // The first fold is stored: nothing is added to it.
        const bool stored = in_place || (x.first && k0 == 0);
        for (Index j = 0; j < columns; ++j) c[j] = stored ? sums[j] : c[j] + sums[j];
      }
    }
  }

  /// Sums become outputs, still as 4-byte words in their slot.
  void epilogue(const Instruction& x) const {
    const auto& p = call_.problem();
    const Index column = call_.column(x);
    for (Index i = 0; i < x.size.m; ++i) {
      const Index number = row(x, i);
      std::uint32_t* c = c_row(x, i);
      const auto [in, told] = call_.inputs(x.product, number);
      for (Index j = 0; j < x.size.n; ++j) {
        float v = std::bit_cast<float>(c[j]);
        if (integer_) {
          const std::int32_t acc =
              add_bias(p.epilogue, static_cast<std::int32_t>(c[j]), column + j);
          c[j] = static_cast<std::uint32_t>(acc);
          if (p.c == DType::s32) continue;
          v = call_.scaled(static_cast<float>(acc), x.product, number);
        }
        for (const Step& s : p.epilogue) v = apply(s, v, told, column + j, in);
        c[j] = std::bit_cast<std::uint32_t>(v);
      }
    }
  }

  void store(const Instruction& x) const {
    const auto& p = call_.problem();
    const Index column = call_.column(x);
    for (Index i = 0; i < x.size.m; ++i) {
      const MatrixView to = call_.c(x.product, row(x, i));
      const std::uint32_t* c = c_row(x, i);
      for (Index j = 0; j < x.size.n; ++j) {
        if (p.c == DType::s32) {
          std::memcpy(element(to, 0, 0, column + j), c + j, 4);
        } else {
          quern::detail::store(to, 0, 0, column + j, std::bit_cast<float>(c[j]), p.c_zero_point);
        }
      }
    }
  }

  Call& call_;
  const ConstMatrixView& weights_;
  std::byte* const memory_;
  const bool integer_;
  Dataflow dataflow_ = Dataflow::weight_stationary;
  Index array_rows_ = 1;
  const Tiling* tiling_ = nullptr;
  Extent tile_;
  Piece pieces_[Tiling::kMostSlots];
  std::byte *a_ = nullptr, *b_ = nullptr;
  std::uint32_t* c_ = nullptr;
};

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
