// The loops around the micro-kernels: one task multiplies mc rows by nc panels.
//
//   pack the rows of A                        into L2, in the order of the tiles
//   for each panel of B (or two)
//     for each slice of k                     keeps a slice of a panel in L1
//       widen it, if the idiom asks           once for all rows
//       for each tile of rows
//         multiply
//     epilogue
//
// so B is read from end to end, which hardware prefetchers like. Where k is so long that the rows
// do not fit L2, the slices of k become the outer loop and sums wait in memory.
//
// Does not: allocate, lock, throw, know about instruction sets.
#pragma once

#include <array>
#include <cstring>

#include "quern/cpu/gemm_blocking.hpp"
#include "quern/cpu/packed_weights.hpp"
#include "quern/cpu/prefetch.hpp"
#include "quern/cpu/rows.hpp"
#include "quern/ops/gemm.hpp"
#include "quern/ops/gemm_reference.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// What prepare() decided and computed, immutable. Arrays are (panels, 16) unless said otherwise.
struct GemmPlan {
  GemmPlan(const GemmProblem& p, const PackedWeights& w, const Kernels& k)
      : problem(p), weights(w), kernels(&k) {}

  GemmProblem problem;  // the epilogue's arrays are padded copies
  PackedWeights weights;
  const Kernels* kernels;
  // The tiles sum a' b' with a' = a + a_shift and b' as stored. With za' = za + a_shift, zb'
  // likewise:
  //   sum (a - za)(b - zb) = sum a' b' - za' (sum b' - k zb') - zb' sum a'
  struct Choice {
    const Idiom* idiom = nullptr;
    std::int32_t a_shift = 0;
    // (batch, ..): bias - za' * adjusted, if za is per tensor; less the products of neighbours in
    // columns of B, if the idiom's sums have them.
    const std::int32_t* base = nullptr;
  };
  Choice many, few;                             // rows
  const std::int32_t* adjusted = nullptr;       // (batch, ..): sum b' - k zb'
  const std::int32_t* column_factor = nullptr;  // -zb'; null if all are 0

  /// What a worker needs for up to so many rows.
  std::array<Index, Blocking::kRowsBudget + 1> worker_bytes = {};

  bool dynamic() const { return is_float(problem.a) && is_int8(problem.b); }
  const Choice& choice_for(Index m) const { return m <= Blocking::kFewRows ? few : many; }
};

/// One call of a plan.
struct GemmCall {
  const GemmPlan& plan;
  const GemmArgs& args;  // with a reader, only a's type, rows and columns count
  const RowAccess& rows;
  const GemmPlan::Choice& choice;
  const Blocking& blocking;

  const Idiom& idiom() const { return *choice.idiom; }
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
    packs_ = needs_packing();
    Carver carver(memory);
    packed_ = carver.take<std::byte>(b_.packed_slices() * b_.mc * b_.row_bytes);
    if (call.idiom().widen_b) wide_ = carver.take<std::byte>(b_.step * b_.kc * kPanel * 2);
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
    if (b_.a_stays) {
      for (Index kb = 0; kb < b_.k_blocks; ++kb) pack_rows(kb, packed_slice(kb));
      for (Index p = 0; p < panels_; p += b_.step) {
        for (Index kb = 0; kb < b_.k_blocks; ++kb) multiply(p, kb, sums_);
        finish(p, sums_);
      }
    } else {
      for (Index kb = 0; kb < b_.k_blocks; ++kb) {
        pack_rows(kb, packed_);
        for (Index p = 0; p < panels_; p += b_.step) {
          multiply(p, kb, sums_ + p * b_.mc * kPanel);
          if (kb + 1 == b_.k_blocks) finish(p, sums_ + p * b_.mc * kPanel);
        }
      }
    }
  }

 private:
  static Index least(Index a, Index b) { return a < b ? a : b; }
  bool is_float_sum() const { return call_.idiom().form == RowForm::f32; }

  /// Calls f(tile, first row) for tiles that cover the rows, highest first.
  template <class F>
  void for_each_tile(const F& f) const {
    const Tile* tile = call_.idiom().tiles;
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
            -(call_.args.a_zero_points[static_cast<std::size_t>(at + i)] + call_.choice.a_shift);
      }
      row_sum_[i] = static_cast<std::int32_t>(call_.choice.a_shift * k_);
      row_base_[i] = 0;
    }
  }

  /// The rows of a tile, packed or where they are.
  Rows rows_of(const Tile& tile, Index r, Index kb) const {
    if (!packs_) {
      const ConstMatrixView& a = call_.args.a;
      return {element(a, batch_, row0_ + r, kb * b_.kc),
              a.rows > 1 ? a.row_stride * size_of(a.type) : 0, 4};
    }
    const std::byte* row = packed_slice(kb) + r * b_.row_bytes;
    return gathers() ? Rows{row, b_.row_bytes, 4} : Rows{row, 4, tile.rows * 4};
  }

  std::byte* packed_slice(Index kb) const {
    return packed_ + (b_.a_stays ? kb : 0) * b_.mc * b_.row_bytes;
  }

  /// Packs a slice of k of all rows, tile by tile.
  void pack_rows(Index kb, std::byte* out) {
    const Index k0 = kb * b_.kc, size = least(b_.kc, k_ - k0);
    if (size == 0) return;  // A may be null
    const ConstMatrixView& a = call_.args.a;
    const bool direct = is_direct();
    if (gathers()) return gather_rows(k0, size, out);
    const bool sums_rows = !is_float_sum() && plan_.column_factor != nullptr;
    if (!packs_ && !sums_rows) return;
    for_each_tile([&](const Tile& tile, Index r) {
      RowSource source{reinterpret_cast<const std::byte*>(stage_),
                       b_.kc * (is_float_sum() || plan_.dynamic() ? 4 : 1), tile.rows};
      if (direct) {
        source.data = element(a, batch_, row0_ + r, k0);
        // The stride of a single row may be anything.
        source.row_bytes = a.rows > 1 ? a.row_stride * size_of(a.type) : 0;
      } else {
        auto* stage = reinterpret_cast<std::byte*>(stage_);
        if (const RowReader& reader = call_.rows.reader; reader.read != nullptr) {
          reader.read(reader.context, row0_ + r, tile.rows, k0, size, stage, source.row_bytes);
        } else {
          for (Index i = 0; i < tile.rows; ++i)
            stage_row(r + i, k0, size, stage + i * source.row_bytes);
        }
      }
      for (Index i = 0; sums_rows && i < tile.rows; ++i) {
        sum_row(r + i, source.data + i * source.row_bytes, size);
      }
      if (packs_) pack_tile(source, size, out + r * b_.row_bytes, row_base_ + r);
    });
  }

  /// Rows from a reader whose form may have strides: they are read to where tiles find them, one
  /// after the other.
  bool gathers() const {
    const RowForm form = call_.idiom().form;
    return call_.rows.reader.read != nullptr &&
           (form == RowForm::f32 || form == RowForm::u8_quads || form == RowForm::s8_quads);
  }
  void gather_rows(Index k0, Index size, std::byte* out) {
    const RowReader& reader = call_.rows.reader;
    const Index bytes = size * (is_float_sum() ? 4 : 1);
    const bool flips = call_.choice.a_shift != 0;
    if (!flips) reader.read(reader.context, row0_, rows_, k0, size, out, b_.row_bytes);
    for (Index r = 0; r < rows_ && !is_float_sum(); ++r, out += b_.row_bytes) {
      std::byte* row = out;
      if (flips) {
        row = reinterpret_cast<std::byte*>(stage_);
        stage_row(r, k0, size, row);
      }
      if (plan_.column_factor != nullptr) sum_row(r, row, size);
      if (flips) {
        pack_tile({row, bytes, 1}, size, out, nullptr);
      } else if (bytes % kQuad != 0) {
        std::memset(out + bytes, 0, static_cast<std::size_t>(kQuad - bytes % kQuad));
      }
    }
  }

  /// Rows whose form is A's own can stay where they are. Not at a stride that puts them all into
  /// the same few sets of L1.
  bool needs_packing() const {
    constexpr Index kManySets = 2048;
    const ConstMatrixView& a = call_.args.a;
    const RowForm form = call_.idiom().form;
    const bool own_form = (form == RowForm::f32 && a.type == DType::f32) ||
                          (form == RowForm::u8_quads && a.type == DType::u8 && k_ % kQuad == 0) ||
                          (form == RowForm::s8_quads && a.type == DType::s8 && k_ % kQuad == 0);
    return !own_form || !is_direct() || a.row_stride * size_of(a.type) % kManySets == 0;
  }

  bool is_direct() const {
    const ConstMatrixView& a = call_.args.a;
    return call_.rows.reader.read == nullptr && !plan_.dynamic() &&
           (a.type == DType::f32 || is_int8(a.type)) && a.col_stride == 1;
  }
  bool is_signed() const { return plan_.dynamic() || plan_.problem.a == DType::s8; }

  /// Row i as floats, or as 8-bit integers, which floats are quantized to in their own room.
  void stage_row(Index i, Index k0, Index size, std::byte* to) const {
    if (const RowReader& reader = call_.rows.reader; reader.read != nullptr) {
      return reader.read(reader.context, row0_ + i, 1, k0, size, to, 0);
    }
    const ConstMatrixView& a = call_.args.a;
    if (is_float_sum() || plan_.dynamic()) {
      const float* x = float_row(i, k0, size, reinterpret_cast<float*>(to));
      if (plan_.dynamic()) {
        plan_.kernels->quantize_row(x, size, inverse_[i], reinterpret_cast<std::int8_t*>(to));
      } else if (x != reinterpret_cast<float*>(to)) {
        std::memcpy(to, x, static_cast<std::size_t>(size) * 4);
      }
      return;
    }
    const std::byte* from = element(a, batch_, row0_ + i, k0);
    for (Index k = 0; k < size; ++k) to[k] = from[k * a.col_stride];
  }

  void sum_row(Index r, const std::byte* row, Index size) {
    row_sum_[r] += plan_.kernels->row_sum(row, size, is_signed());
  }

  void pack_tile(const RowSource& source, Index size, std::byte* out,
                 std::int32_t* row_base) const {
    const Kernels& kernels = *plan_.kernels;
    switch (call_.idiom().form) {
      case RowForm::f32:
        kernels.pack_words(source, size * 4, 0, out);
        break;
      case RowForm::s16_pairs:
        kernels.pack_pairs(source, size, is_signed(), out,
                           call_.idiom().row_products ? row_base : nullptr);
        break;
      case RowForm::u8_quads:
        kernels.pack_words(source, size, is_signed() ? 0x80808080u : 0, out);
        break;
      case RowForm::nibbles:
        kernels.pack_words(source, size, is_signed() ? 0x80808080u : 0, out);
        kernels.split_nibbles(out, divide_up(size, kQuad) * source.rows);
        break;
      case RowForm::s16_words:
        break;  // never packed here
      case RowForm::s8_quads:
        kernels.pack_words(source, size, is_signed() ? 0 : 0x80808080u, out);
        break;
    }
  }

  // ---- Products and epilogue.

  /// The panels from p on, a step of them, times a slice of k.
  void multiply(Index p, Index kb, std::int32_t* sums) {
    const Index count = least(b_.step, panels_ - p), panel = panel0_ + p;
    const Index k0 = kb * b_.kc, size = least(b_.kc, k_ - k0);
    const bool add = kb > 0;
    const Index groups = is_float_sum() ? size : divide_up(size, kQuad);
    const Index slice = k0 * kPanel * (is_float_sum() ? 4 : 1);
    const std::byte* b = plan_.weights.panel(weights_batch_, panel) + slice;
    Index b_panel = plan_.weights.panel_bytes();
    Prefetch ahead = prefetch_after(p, kb, groups * 64);
    if (call_.idiom().widen_b) {
      const Index wide_panel = b_.kc * kPanel * 2;
      for (Index i = 0; i < count; ++i)
        plan_.kernels->widen(b + i * b_panel, groups, wide_ + i * wide_panel);
      b = wide_;
      b_panel = wide_panel;
    }
    Sums out{.data = sums, .panel = b_.mc * kPanel, .add = add};
    if (is_final(p)) out = final_sums(panel, add);
    auto* data = static_cast<std::int32_t*>(out.data);
    const std::int32_t* row_base = out.row_base;
    for_each_tile([&](const Tile& tile, Index r) {
      const Rows a = rows_of(tile, r, kb);
      ahead.some();
      out.data = data + r * out.row;
      if (row_base != nullptr) out.row_base = row_base + r;
      if (count == tile.panels) {
        tile.run[1](a, b, b_panel, groups, out);
      } else {
        for (Index i = 0; i < count; ++i) {
          Sums one = out;
          one.data = data + r * out.row + i * out.panel;
          if (out.column_base != nullptr) one.column_base = out.column_base + i * kPanel;
          tile.run[0](a, b + i * b_panel, b_panel, groups, one);
        }
      }
    });
  }

  /// What of B comes after slice kb of the panels from p on, about as many bytes of each panel.
  Prefetch prefetch_after(Index p, Index kb, Index bytes) const {
    const bool same_panel = b_.a_stays && kb + 1 < b_.k_blocks;
    const Index panel = same_panel ? p : p + b_.step, left = panels_ - panel;
    if (left <= 0) return {};
    const Index k0 = same_panel ? (kb + 1) * b_.kc : b_.a_stays ? 0 : kb * b_.kc;
    const std::byte* next = plan_.weights.panel(weights_batch_, panel0_ + panel) +
                            k0 * kPanel * (is_float_sum() ? 4 : 1);
    return {next, plan_.weights.panel_bytes(), least(b_.step, left), bytes,
            divide_up(rows_, b_.tile_rows)};
  }

  /// Whether the sums of a step of panels can be made in C: nothing is left to do to them, and all
  /// columns are C's.
  bool is_final(Index p) const {
    const GemmProblem& problem = plan_.problem;
    const Index count = least(b_.step, panels_ - p);
    if ((panel0_ + p + count) * kPanel > problem.n) return false;
    if (call_.rows.places.find != nullptr) return false;
    if (is_float_sum()) return problem.c == DType::f32 && problem.epilogue.count == 0;
    // Products of neighbours in A are complete only when all slices are packed.
    if (call_.idiom().row_products && !b_.a_stays) return false;
    return problem.c == DType::s32 && problem.a_zero_points == ZeroPoints::per_tensor &&
           plan_.column_factor == nullptr;
  }

  Sums final_sums(Index panel, bool add) const {
    const MatrixView& c = call_.args.c;
    Sums out{.data = element(c, batch_, row0_, panel * kPanel),
             .row = c.rows > 1 ? c.row_stride : 0,
             .panel = kPanel,
             .add = add};
    if (is_float_sum()) return out;
    out.column_base =
        call_.choice.base + (weights_batch_ * plan_.weights.panels() + panel) * kPanel;
    if (call_.idiom().row_products) out.row_base = row_base_;
    return out;
  }

  void finish(Index p, const std::int32_t* sums) const {
    if (is_final(p)) return;
    for (Index i = 0; i < b_.step && p + i < panels_; ++i) {
      finish_panel(panel0_ + p + i, sums + i * b_.mc * kPanel);
    }
  }

  void finish_panel(Index panel, const std::int32_t* sums) const {
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
      o.base = call_.choice.base + in_batch;
      if (call_.idiom().row_products) o.row_base = row_base_;
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
    finish_rows(*plan_.kernels, call_.rows.places, o, sums, rows_, least(kPanel, p.n - column));
  }

  const GemmCall& call_;
  const GemmPlan& plan_;
  const Index k_;
  const Blocking& b_;
  bool packs_;
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
