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

/// One call. Memory: bytes(..) of it.
class Values {
 public:
  Values(const GemmProblem& problem, const ConstMatrixView& weights, const GemmArgs& args,
         std::byte* memory)
      : p_(problem), weights_(weights), args_(args), integer_(is_int8(problem.b)) {
    Carver carver(memory);
    const Index m = args.a.rows * args.a.batch;
    if (quantizes()) {
      scale_ = carver.take<float>(m);
      quantized_ = carver.take<std::int8_t>(m * p_.k);
    }
    slots_ = carver.take<std::byte>(0);
  }

  /// What a call of m rows (of all batch elements together) needs at most, on a chip.
  static double bytes(const Chip& chip, const GemmProblem& p, double m) {
    const bool integer = is_int8(p.b), quantizes = integer && is_float(p.a);
    const double word = integer ? sizeof(Integer) : sizeof(float), k = static_cast<double>(p.k + 1),
                 n = static_cast<double>(p.n), batch = static_cast<double>(p.batch);
    // Slots hold whole tiles, no more than fit the buffer nor than twice the operand each way.
    const auto room = [](const Buffer& b, double element, double operand) {
      const double most = b.kib * 1024 / element;
      return most < 4 * operand ? most : 4 * operand;
    };
    double total = room(chip.a, quantizes ? 1.0 : static_cast<double>(size_of(p.a)), m * k) * word +
                   room(chip.b, static_cast<double>(size_of(p.b)), k * n * batch) * word +
                   room(chip.c, Work::kAccumulatorBytes, m * n) * 4;
    if (quantizes) total += m * (k + 4);
    return total + 8 * static_cast<double>(kAlignment);
  }

  /// Runs every die's program; the rows that are quantized first serve all dies.
  void run(const Chip& chip, const Work& work, const Mapping& mapping) {
    dataflow_ = mapping.dataflow;
    array_rows_ = chip.array.rows;
    if (quantizes()) {
      for (Index die = 0; die < chip.dies; ++die) {
        Tiling(chip, work, mapping, die).lower([&](const Instruction& x) {
          if (x.kind != Instruction::Kind::quantize) return false;
          quantize(x);
          return true;
        });
      }
    }
    for (Index die = 0; die < chip.dies; ++die) {
      const Tiling tiling(chip, work, mapping, die);
      if (tiling.empty()) continue;
      tile_ = tiling.tile();
      const Index word = integer_ ? Index{sizeof(Integer)} : Index{sizeof(float)};
      Carver carver(slots_);
      a_ = carver.take<std::byte>(tiling.a_slots() * tile_.m * tile_.k * word);
      b_ = carver.take<std::byte>(tiling.b_slots() * tile_.k * tile_.n * word);
      c_ = carver.take<std::uint32_t>(tiling.c_slots() * tile_.m * tile_.n);
      tiling.lower([&](const Instruction& x) {
        step(x);
        return true;
      });
    }
  }

 private:
  bool quantizes() const { return integer_ && is_float(p_.a); }

  void step(const Instruction& x) {
    switch (x.kind) {
      case Instruction::Kind::load_a:
        return integer_ ? load_a(x, a_slot<Integer>(x)) : load_a(x, a_slot<float>(x));
      case Instruction::Kind::load_b:
        return integer_ ? load_b(x, b_slot<Integer>(x)) : load_b(x, b_slot<float>(x));
      case Instruction::Kind::multiply:
        return integer_ ? multiply_integers(x) : multiply_floats(x);
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

  /// A row of a product is a row of a batch element; with shared weights all elements are one.
  struct Row {
    Index batch, row;
    Index number;  // of all rows of the call
  };
  Row row_of(const Instruction& x, Index i) const {
    const Index rows = args_.a.rows, m = x.m + i;
    if (p_.batch == 1) return {m / rows, m % rows, m};
    return {x.product, m, x.product * rows + m};
  }

  void quantize(const Instruction& x) {
    for (Index i = 0; i < x.size.m; ++i) {
      const Row r = row_of(x, i);
      const RowQuantization q = quern::detail::row_quantization(args_.a, r.batch, r.row);
      scale_[r.number] = q.scale;
      std::int8_t* out = quantized_ + r.number * p_.k;
      for (Index k = 0; k < p_.k; ++k) {
        out[k] = static_cast<std::int8_t>(
            quern::quantize(load_float(args_.a, r.batch, r.row, k) * q.inverse, 0, DType::s8));
      }
    }
  }

  template <class T>
  void load_a(const Instruction& x, T* out) const {
    for (Index i = 0; i < x.size.m; ++i, out += tile_.k) {
      const Row r = row_of(x, i);
      if constexpr (std::is_same_v<T, float>) {
        for (Index k = 0; k < x.size.k; ++k) out[k] = load_float(args_.a, r.batch, r.row, x.k + k);
      } else if (quantizes()) {
        const std::int8_t* row = quantized_ + r.number * p_.k + x.k;
        for (Index k = 0; k < x.size.k; ++k) out[k] = row[k];
      } else {
        const std::int32_t za = p_.a_zero_points == ZeroPoints::per_row
                                    ? args_.a_zero_points[static_cast<std::size_t>(r.number)]
                                    : p_.a_zero_point;
        load_row(
            args_.a, r.batch, r.row, x.k, x.size.k, [za](Index) { return za; }, out);
      }
    }
  }

  template <class T>
  void load_b(const Instruction& x, T* out) const {
    for (Index k = 0; k < x.size.k; ++k, out += tile_.n) {
      if constexpr (std::is_same_v<T, float>) {
        for (Index j = 0; j < x.size.n; ++j) {
          out[j] = load_float(weights_, x.product, x.k + k, x.n + j);
        }
      } else {
        const std::size_t zeros = p_.b_zero_points.size();
        const std::int32_t* zb = zeros == 0 ? nullptr : p_.b_zero_points.data();
        const Index step = zeros == 1 ? 0 : 1;
        load_row(
            weights_, x.product, x.k + k, x.n, x.size.n,
            [&](Index j) { return zb == nullptr ? 0 : zb[(x.n + j) * step]; }, out);
      }
    }
  }

  /// `count` int8 elements of a row, each less its zero point.
  template <class Zero>
  static void load_row(const ConstMatrixView& m, Index batch, Index row, Index first, Index count,
                       Zero zero, Integer* out) {
    const std::byte* from = element(m, batch, row, first);
    const Index stride = m.col_stride;
    const auto copy = [&](const auto* values) {
      for (Index j = 0; j < count; ++j) out[j] = static_cast<Integer>(values[j * stride] - zero(j));
    };
    m.type == DType::s8 ? copy(reinterpret_cast<const std::int8_t*>(from))
                        : copy(reinterpret_cast<const std::uint8_t*>(from));
  }

  void multiply_integers(const Instruction& x) const {
    const Integer* a = a_slot<Integer>(x);
    const Integer* b = b_slot<Integer>(x);
    for (Index i = 0; i < x.size.m; ++i, a += tile_.k) {
      std::uint32_t* c = c_row(x, i);
      if (x.first) std::fill_n(c, x.size.n, 0u);
      Index k = 0;
      for (; k + 4 <= x.size.k; k += 4) add_rows<4>(a + k, b + k * tile_.n, tile_.n, x.size.n, c);
      for (; k < x.size.k; ++k) add_rows<1>(a + k, b + k * tile_.n, tile_.n, x.size.n, c);
    }
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

  void multiply_floats(const Instruction& x) const {
    const bool narrow = p_.a != DType::f32 && p_.b != DType::f32;
    for (Index i = 0; i < x.size.m; ++i) narrow ? float_row<true>(x, i) : float_row<false>(x, i);
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
  void float_row(const Instruction& x, Index i) const {
    constexpr Index kColumns = 16;
    const bool in_place = dataflow_ == Dataflow::output_stationary;
    const Index fold = in_place ? (x.size.k > 0 ? x.size.k : 1) : array_rows_;
    const float* a = a_slot<float>(x) + i * tile_.k;
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
    for (Index i = 0; i < x.size.m; ++i) {
      const Row r = row_of(x, i);
      std::uint32_t* c = c_row(x, i);
      const StepInputs in{
          args_.row_scales.empty() ? nullptr : args_.row_scales.data() + r.batch * args_.a.rows,
          args_.residual, r.batch};
      for (Index j = 0; j < x.size.n; ++j) {
        float v = std::bit_cast<float>(c[j]);
        if (integer_) {
          const std::int32_t acc = add_bias(p_.epilogue, static_cast<std::int32_t>(c[j]), x.n + j);
          c[j] = static_cast<std::uint32_t>(acc);
          if (p_.c == DType::s32) continue;
          v = static_cast<float>(acc);
          if (quantizes()) v = unfused(v * scale_[r.number]);
        }
        for (const Step& s : p_.epilogue) v = apply(s, v, r.row, x.n + j, in);
        c[j] = std::bit_cast<std::uint32_t>(v);
      }
    }
  }

  void store(const Instruction& x) const {
    for (Index i = 0; i < x.size.m; ++i) {
      const Row r = row_of(x, i);
      const std::uint32_t* c = c_row(x, i);
      for (Index j = 0; j < x.size.n; ++j) {
        if (p_.c == DType::s32) {
          std::memcpy(element(args_.c, r.batch, r.row, x.n + j), c + j, 4);
        } else {
          quern::detail::store(args_.c, r.batch, r.row, x.n + j, std::bit_cast<float>(c[j]),
                               p_.c_zero_point);
        }
      }
    }
  }

  const GemmProblem& p_;
  const ConstMatrixView& weights_;
  const GemmArgs& args_;
  const bool integer_;
  Dataflow dataflow_ = Dataflow::weight_stationary;
  Index array_rows_ = 1;
  Extent tile_;
  float* scale_ = nullptr;
  std::int8_t* quantized_ = nullptr;
  std::byte *slots_, *a_ = nullptr, *b_ = nullptr;
  std::uint32_t* c_ = nullptr;
};

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
