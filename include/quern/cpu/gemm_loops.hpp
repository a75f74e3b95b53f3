// The loops around the micro-kernels: one task multiplies mc rows by nc panels.
//
//   for each slice of k                         keeps a slice of a panel in L1
//     pack the rows of A                        into L2, in the order of the tiles
//     for each panel of B (or two)
//       widen it, if the idiom asks             once for all rows
//       for each tile of rows
//         multiply
//       after the last slice: epilogue
//
// Does not: allocate, lock, throw, know about instruction sets.
#pragma once

#include <cstring>

#include "quern/cpu/gemm_blocking.hpp"
#include "quern/cpu/packed_weights.hpp"
#include "quern/ops/gemm.hpp"
#include "quern/ops/gemm_reference.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// What prepare() decided and computed, immutable. Arrays are (panels, 16) unless said otherwise.
struct GemmPlan {
  GemmProblem problem;  // the epilogue's arrays are padded copies
  PackedWeights weights;
  const Kernels* kernels;
  const Idiom* idiom;         // for many rows
  const Idiom* idiom_stream;  // for few; the same form of A
  // The tiles sum a' b' with a' = a + a_shift and b' as stored. With za' = za + a_shift, zb'
  // likewise:
  //   sum (a - za)(b - zb) = sum a' b' - za' (sum b' - k zb') - zb' sum a'
  std::int32_t a_shift = 0;
  const std::int32_t* base = nullptr;  // (batch, ..): bias - za' * adjusted, if za is per tensor
  const std::int32_t* base_products =
      nullptr;                             // base less the products of neighbours in columns of B
  const std::int32_t* adjusted = nullptr;  // (batch, ..): sum b' - k zb'
  const std::int32_t* column_factor = nullptr;  // -zb'; null if all are 0

  bool dynamic() const { return is_float(problem.a) && is_int8(problem.b); }
  const Idiom& idiom_for(Index m) const { return m <= Blocking::kFewRows ? *idiom_stream : *idiom; }
};

/// One call of a plan.
struct GemmCall {
  const GemmPlan& plan;
  const GemmArgs& args;
  const Idiom& idiom;
  const Blocking& blocking;
};

/// One task of a call, with the memory of the worker that runs it.
class GemmTask {
 public:
  GemmTask(const GemmCall& call, Index index, std::byte* memory)
      : call_(call), plan_(call.plan), k_(call.plan.problem.k), b_(call.blocking) {
    const Index block = index % b_.m_blocks, rest = index / b_.m_blocks;
    batch_ = rest / b_.n_blocks;
    row0_ = block * b_.mc;
    rows_ = least(b_.mc, call.args.a.rows - row0_);
    panel0_ = rest % b_.n_blocks * b_.nc;
    panels_ = least(b_.nc, plan_.weights.panels() - panel0_);
    weights_batch_ = plan_.problem.batch == 1 ? 0 : batch_;
    Carver carver(memory);
    packed_ = carver.take<std::byte>(b_.mc * b_.row_bytes);
    if (call.idiom.widen_b) wide_ = carver.take<std::byte>(b_.step * b_.kc * kPanel * 2);
    sums_ = carver.take<std::int32_t>(b_.sum_panels() * b_.mc * kPanel);
    stage_ = carver.take<float>(b_.tile_rows * b_.kc);
    row_sum_ = carver.take<std::int32_t>(b_.mc);
    row_factor_ = carver.take<std::int32_t>(b_.mc);
    scale_ = carver.take<float>(b_.mc);
    inverse_ = carver.take<float>(b_.mc);
    row_base_ = carver.take<std::int32_t>(b_.mc);
  }

  void run() {
    measure_rows();
    for (Index kb = 0; kb < b_.k_blocks; ++kb) {
      const Index k0 = kb * b_.kc, size = least(b_.kc, k_ - k0);
      pack_rows(k0, size);
      for (Index p = 0; p < panels_; p += b_.step) {
        const Index count = least(b_.step, panels_ - p);
        std::int32_t* sums = sums_ + (b_.k_blocks > 1 ? p : 0) * b_.mc * kPanel;
        multiply(panel0_ + p, count, k0, size, sums, kb > 0);
        if (kb + 1 == b_.k_blocks) {
          for (Index i = 0; i < count; ++i) finish(panel0_ + p + i, sums + i * b_.mc * kPanel);
        }
      }
    }
  }

 private:
  static Index least(Index a, Index b) { return a < b ? a : b; }
  bool is_float_sum() const { return call_.idiom.form == RowForm::f32; }

  /// Calls f(tile, first row) for tiles that cover the rows, highest first.
  template <class F>
  void for_each_tile(const F& f) const {
    const Tile* tile = call_.idiom.tiles;
    for (Index r = 0; r < rows_; r += tile->rows) {
      while (tile->rows > rows_ - r) ++tile;
      f(*tile, r);
    }
  }

  // ---- Rows of A: contiguous 8-bit or float pieces, packed.

  /// Row i of A, elements [k0, k0 + size), as floats: in place if possible, else copied to `to`.
  const float* float_row(Index i, Index k0, Index size, float* to) const {
    const ConstMatrixView& a = call_.args.a;
    if (a.type == DType::f32 && a.col_stride == 1) {
      return reinterpret_cast<const float*>(element(a, batch_, row0_ + i, k0));
    }
    for (Index k = 0; k < size; ++k) to[k] = load_float(a, batch_, row0_ + i, k0 + k);
    return to;
  }

  /// The same for 8-bit A.
  const std::byte* byte_row(Index i, Index k0, Index size, std::byte* to) const {
    const ConstMatrixView& a = call_.args.a;
    const std::byte* from = element(a, batch_, row0_ + i, k0);
    if (a.col_stride == 1) return from;
    for (Index k = 0; k < size; ++k) to[k] = from[k * a.col_stride];
    return to;
  }

  /// Scales of dynamic quantization, sums and factors of rows, before anything is packed.
  void measure_rows() {
    if (is_float_sum()) return;
    const GemmProblem& p = plan_.problem;
    const Kernels& kernels = *plan_.kernels;
    const Index at = batch_ * call_.args.a.rows + row0_;
    for (Index i = 0; i < rows_; ++i) {
      if (plan_.dynamic()) {
        float amax = 0.0f;
        for (Index k0 = 0; k0 < k_; k0 += b_.kc) {
          const Index size = least(b_.kc, k_ - k0);
          const float part = kernels.largest(float_row(i, k0, size, stage_), size);
          if (part > amax) amax = part;
        }
        const RowQuantization q = RowQuantization::of(amax);
        scale_[i] = q.scale;
        inverse_[i] = q.inverse;
      }
      if (p.a_zero_points == ZeroPoints::per_row) {
        row_factor_[i] =
            -(call_.args.a_zero_points[static_cast<std::size_t>(at + i)] + plan_.a_shift);
      }
      row_sum_[i] = static_cast<std::int32_t>(plan_.a_shift * k_);
      row_base_[i] = 0;
    }
  }

  /// Packs [k0, k0 + size) of all rows, tile by tile.
  void pack_rows(Index k0, Index size) {
    if (size == 0) return;  // A may be null
    const bool staged = !is_direct();
    // The stride of a single row may be anything.
    const Index stride = call_.args.a.rows > 1 ? call_.args.a.row_stride : 0;
    for_each_tile([&](const Tile& tile, Index r) {
      RowSource source{nullptr, 0, tile.rows};
      if (is_float_sum()) {
        source.row_bytes = staged ? b_.kc * 4 : stride * 4;
        for (Index i = tile.rows - 1; i >= 0; --i) {
          source.data =
              reinterpret_cast<const std::byte*>(float_row(r + i, k0, size, stage_ + i * b_.kc));
        }
      } else {
        auto* stage = reinterpret_cast<std::byte*>(stage_);
        source.row_bytes = staged ? b_.kc * (plan_.dynamic() ? 4 : 1) : stride;
        for (Index i = tile.rows - 1; i >= 0; --i) {
          source.data = int8_row(r + i, k0, size, stage + i * source.row_bytes * (staged ? 1 : 0));
          if (call_.idiom.row_products) {
            row_base_[r + i] -= plan_.kernels->neighbour_products(source.data, size, is_signed());
          }
          if (plan_.column_factor != nullptr) {
            row_sum_[r + i] += plan_.kernels->row_sum(source.data, size, is_signed());
          }
        }
      }
      pack_tile(source, size, packed_ + r * b_.row_bytes);
    });
  }

  bool is_direct() const {
    const ConstMatrixView& a = call_.args.a;
    return !plan_.dynamic() && (a.type == DType::f32 || is_int8(a.type)) && a.col_stride == 1;
  }
  bool is_signed() const { return plan_.dynamic() || plan_.problem.a == DType::s8; }

  /// Row i as 8-bit integers; quantized into the room of its own floats if need be.
  const std::byte* int8_row(Index i, Index k0, Index size, std::byte* to) {
    if (!plan_.dynamic()) return byte_row(i, k0, size, to);
    const float* x = float_row(i, k0, size, reinterpret_cast<float*>(to));
    plan_.kernels->quantize_row(x, size, inverse_[i], reinterpret_cast<std::int8_t*>(to));
    return to;
  }

  void pack_tile(const RowSource& source, Index size, std::byte* out) const {
    const Kernels& kernels = *plan_.kernels;
    switch (call_.idiom.form) {
      case RowForm::f32:
        kernels.pack_words(source, size * 4, 0, out);
        break;
      case RowForm::s16_pairs:
        kernels.pack_pairs(source, size, is_signed(), out);
        break;
      case RowForm::u8_quads:
        kernels.pack_words(source, size, is_signed() ? 0x80808080u : 0, out);
        break;
      case RowForm::s8_quads:
        kernels.pack_words(source, size, is_signed() ? 0 : 0x80808080u, out);
        break;
    }
  }

  // ---- Products and epilogue.

  void multiply(Index panel, Index count, Index k0, Index size, std::int32_t* sums, bool add) {
    const Index groups = is_float_sum() ? size : divide_up(size, kQuad);
    const Index slice = k0 * kPanel * (is_float_sum() ? 4 : 1);
    const std::byte* b = plan_.weights.panel(weights_batch_, panel) + slice;
    Index b_panel = plan_.weights.panel_bytes();
    if (call_.idiom.widen_b) {
      const Index wide_panel = b_.kc * kPanel * 2;
      for (Index i = 0; i < count; ++i)
        plan_.kernels->widen(b + i * b_panel, groups, wide_ + i * wide_panel);
      b = wide_;
      b_panel = wide_panel;
    }
    const Index acc_panel = b_.mc * kPanel;
    for_each_tile([&](const Tile& tile, Index r) {
      const std::byte* a = packed_ + r * b_.row_bytes;
      if (count == tile.panels) {
        tile.run[1](a, b, b_panel, groups, sums + r * kPanel, acc_panel, add);
      } else {
        for (Index i = 0; i < count; ++i) {
          tile.run[0](a, b + i * b_panel, b_panel, groups, sums + i * acc_panel + r * kPanel,
                      acc_panel, add);
        }
      }
    });
  }

  void finish(Index panel, const std::int32_t* sums) const {
    const GemmProblem& p = plan_.problem;
    const bool integer_bias =
        p.epilogue.count > 0 && p.epilogue.steps[0].kind == Step::Kind::bias_s32;
    const Index column = panel * kPanel,
                in_batch = weights_batch_ * plan_.weights.panels() * kPanel + column;
    Output o;
    o.steps = p.epilogue.steps + (integer_bias ? 1 : 0);
    o.step_count = p.epilogue.count - (integer_bias ? 1 : 0);
    o.type = p.c;
    o.zero_point = p.c_zero_point;
    o.integer = !is_float_sum();
    if (o.integer) {
      o.base = (call_.idiom.row_products ? plan_.base_products : plan_.base) + in_batch;
      if (call_.idiom.row_products) o.row_base = row_base_;
      if (p.a_zero_points == ZeroPoints::per_row) {
        o.row_factor = row_factor_;
        o.column_sum = plan_.adjusted + in_batch;
      }
      if (plan_.column_factor != nullptr) {
        o.row_sum = row_sum_;
        o.column_factor = plan_.column_factor + column;
      }
      if (plan_.dynamic()) o.dynamic_scale = scale_;
    }
    o.row = row0_;
    o.column = column;
    o.c = call_.args.c;
    o.inputs.residual = call_.args.residual;
    o.inputs.batch = batch_;
    if (!call_.args.row_scales.empty()) {
      o.inputs.row_scales = call_.args.row_scales.data() + batch_ * call_.args.a.rows;
    }
    plan_.kernels->finish(o, sums, rows_, least(kPanel, p.n - column));
  }

  const GemmCall& call_;
  const GemmPlan& plan_;
  const Index k_;
  const Blocking& b_;
  Index batch_, weights_batch_, row0_, rows_, panel0_, panels_;
  std::byte* packed_;
  std::byte* wide_ = nullptr;
  std::int32_t* sums_;  // s32, or f32 of the same size
  float* stage_;
  std::int32_t* row_sum_;
  std::int32_t* row_factor_;
  float* scale_;
  float* inverse_;
  std::int32_t* row_base_;
};

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
