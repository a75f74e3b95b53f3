// What all ways to compute attention share: the rows of queries that share a KV head, their vectors
// as floats, and what happens to their logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quern/cpu/attention_kernels.hpp"
#include "quern/cpu/rope.hpp"
#include "quern/ops/attention.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// What prepare() chose.
struct AttentionPlan {
  AttentionProblem problem;
  const Kernels* products;
  const RowwiseKernels* rowwise;
  const AttentionKernels* attention;

  const Idiom& int8() const {
    return products->quads.name != nullptr ? products->quads : products->pairs;
  }
};

/// A vector of s4 as s8: elements d to d + n - 1, d even.
inline void unpack_nibbles(const std::byte* from, Index d, Index n, std::int8_t* to) {
  from += d / 2;
  for (Index i = 0; i < n; ++i) {
    const int byte = static_cast<int>(from[i / 2]), nibble = i % 2 == 0 ? byte & 15 : byte >> 4;
    to[i] = static_cast<std::int8_t>(nibble < 8 ? nibble : nibble - 16);
  }
}

/// Vectors of heads with their scales.
struct HeadVectors {
  const ConstHeadsView& view;
  const ConstHeadFloats& scales;
  HeadScales kind;

  /// A vector as floats: where it is, or in a buffer of that size.
  const float* floats(const RowwiseKernels& k, TokenMap::Place at, Index h, float* buffer) const {
    const std::byte* from = vector_at(view, at, h);
    if (view.type == HeadType::f32) return reinterpret_cast<const float*>(from);
    if (is_float(view.type)) {
      k.load(dtype_of_head(view.type), from, view.size, buffer);
      return buffer;
    }
    PieceQuantization q{.column_scales = kind == HeadScales::per_channel};
    constexpr Index kPiece = 256;
    std::int8_t bytes[kPiece];
    for (Index d = 0; d < view.size; d += kPiece) {
      const Index n = std::min(view.size - d, kPiece);
      q.scales = q.column_scales ? &scales.at(0, h, 0, d) : &scales.at(at.batch, h, at.token);
      const void* integers = from + d;
      if (view.type == HeadType::s4) {
        unpack_nibbles(from, d, n, bytes);
        integers = bytes;
      }
      k.dequantize(DType::s8, integers, n, q, buffer + d);
    }
    return buffer;
  }
};

/// The queries of one sequence whose heads share a KV head, as rows: row r is query r / group of
/// head r % group.
class AttentionRows {
 public:
  AttentionRows(const AttentionPlan& plan, const AttentionArgs& args, Index b, Index kv_head)
      : plan_(plan),
        args_(args),
        b_(b),
        kv_head_(kv_head),
        keys_(args.kv_tokens(b)),
        count_(args.q_tokens(b) * plan.problem.group()),
        start_(args.start(plan.problem, b)) {}

  Index batch() const { return b_; }
  Index kv_head() const { return kv_head_; }
  Index keys() const { return keys_; }
  Index count() const { return count_; }
  Index head(Index r) const {
    const Index group = plan_.problem.group();
    return kv_head_ * group + r % group;
  }
  Index query(Index r) const { return r / plan_.problem.group(); }
  TokenMap::Place place(Index r) const { return args_.q_map().place(args_.q, b_, query(r)); }
  float sink(Index r) const {
    return plan_.problem.sinks ? args_.sinks[static_cast<std::size_t>(head(r))] : -HUGE_VALF;
  }

  Window::Keys window(Index r) const { return plan_.problem.window.of(start_ + query(r), keys_); }
  /// The keys that rows begin to end - 1 may see; all, if they are to be shown.
  Window::Keys window(Index begin, Index end) const {
    if (plan_.problem.scores != Scores::none) return {0, keys_};
    if (end <= begin) return {0, 0};
    // Positions ascend, and so do both ends, which may lie behind the last key.
    const Index first = std::min(window(begin).begin, keys_);
    return {first, std::clamp(window(end - 1).end, first, keys_)};
  }

  /// Writes row r's vector of q as floats to `to`.
  void load_query(Index r, float* to) const {
    const AttentionProblem& p = plan_.problem;
    plan_.rowwise->load(dtype_of_head(p.q), vector_at(args_.q, place(r), head(r)), p.qk_size, to);
  }
  void store_result(Index r, const float* row) const {
    const AttentionProblem& p = plan_.problem;
    plan_.rowwise->store(dtype_of_head(p.out), row, p.v_size,
                         vector_at(args_.out, place(r), head(r)));
  }
  void store_lse(Index r, float value) const {
    const TokenMap::Place at = place(r);
    if (plan_.problem.lse) args_.lse.at(at.batch, head(r), at.token) = value;
  }

  /// Of row r, x[j] is the scaled product with key first + j: makes n of them logits, and all to
  /// the next multiple of 16 that are not seen -infinity. bias: room for as many.
  void finish_logits(Index r, Index first, Index n, float* x, float* bias) const {
    const AttentionProblem& p = plan_.problem;
    const AttentionKernels& k = *plan_.attention;
    show(Scores::product, r, first, n, x);
    if (p.softcap > 0.0f) k.softcap(x, n, p.softcap);
    show(Scores::capped, r, first, n, x);
    if (p.mask != MaskType::none) {
      load_mask(r, first, n, bias);
      k.add_mask(x, bias, n);
    }
    if (p.alibi) add_alibi(r, first, n, x);
    const Window::Keys seen = window(r);
    const Index begin = std::clamp<Index>(seen.begin - first, 0, n),
                end = std::clamp<Index>(seen.end - first, begin, n);
    std::fill(x, x + begin, -HUGE_VALF);
    std::fill(x + end, x + round_up(n, kPanel), -HUGE_VALF);
    show(Scores::masked, r, first, n, x);
    show(Scores::weights, r, first, n, x);
  }

  /// Makes the logits that finish_logits() has shown for row r weights.
  void finish_scores(Index r, float most, float sum) const {
    if (plan_.problem.scores != Scores::weights || keys_ == 0) return;
    float* x = &args_.scores.at(b_, head(r), query(r), 0);
    plan_.rowwise->exponentials(x, keys_, most == -HUGE_VALF ? 0.0f : most, x);
    plan_.rowwise->scale(x, keys_, sum == 0.0f ? 0.0f : 1.0f / sum, x);
  }

 private:
  void show(Scores which, Index r, Index first, Index n, const float* x) const {
    if (plan_.problem.scores != which || n <= 0) return;
    std::memcpy(&args_.scores.at(b_, head(r), query(r), first), x,
                static_cast<std::size_t>(n) * sizeof(float));
  }

  void load_mask(Index r, Index first, Index n, float* bias) const {
    const MaskView& m = args_.mask;
    const Index b = m.batch == 1 ? 0 : b_, h = m.heads == 1 ? 0 : head(r),
                i = m.rows == 1 ? 0 : query(r);
    const Index known = std::clamp<Index>(m.cols - first, 0, n);
    if (known > 0 && m.col_stride == 1) {
      const Index at =
          b * m.batch_stride + h * m.head_stride + i * m.row_stride + first * m.col_stride;
      const auto* from = static_cast<const std::byte*>(m.data) + at * size_of(m.type);
      if (m.type == MaskType::boolean) {
        for (Index j = 0; j < known; ++j) bias[j] = from[j] != std::byte{0} ? 0.0f : -HUGE_VALF;
      } else {
        plan_.rowwise->load(m.type == MaskType::f32    ? DType::f32
                            : m.type == MaskType::bf16 ? DType::bf16
                                                       : DType::f16,
                            from, known, bias);
      }
    } else {
      for (Index j = 0; j < known; ++j) bias[j] = m(b, h, i, first + j);
    }
    std::fill(bias + known, bias + n, -HUGE_VALF);
  }

  void add_alibi(Index r, Index first, Index n, float* x) const {
    constexpr Index kFar = Index{1} << 30;
    const float slope = args_.alibi[static_cast<std::size_t>(head(r))];
    const Index distance = start_ + query(r) - first;
    if (distance > -kFar && distance < kFar) {
      return plan_.attention->add_alibi(x, n, slope, static_cast<std::int32_t>(distance));
    }
    for (Index j = 0; j < n; ++j) {
      const Index away = distance < j ? j - distance : distance - j;
      x[j] += unfused(-slope * static_cast<float>(away));
    }
  }

  const AttentionPlan& plan_;
  const AttentionArgs& args_;
  Index b_, kv_head_, keys_, count_, start_;
};

/// c (rows, 16 panels) (+)= a (rows, groups) b: tiles of an idiom, the panels of B outside.
inline void multiply_panels(const Idiom& idiom, const Rows& a, Index rows, const std::byte* b,
                            Index b_panel, Index panels, Index groups, const Sums& c) {
  const Index step = panels > 1 ? idiom.tiles[0].panels : 1;
  for (Index p = 0; p < panels; p += step) {
    const Index width = std::min(step, panels - p);
    const Tile* tile = idiom.tiles;
    for (Index r = 0; r < rows; r += tile->rows) {
      while (tile->rows > rows - r) ++tile;
      Rows from = a;
      from.data += r * a.row;
      Sums to = c;
      for (Index i = 0; i < width;) {
        const bool all = tile->panels == 2 && width - i == 2;
        to.data = static_cast<float*>(c.data) + r * c.row + (p + i) * c.panel;
        to.column_base = c.column_base == nullptr ? nullptr : c.column_base + (p + i) * kPanel;
        to.row_base = c.row_base == nullptr ? nullptr : c.row_base + r;
        tile->run[all ? 1 : 0](from, b + (p + i) * b_panel, b_panel, groups, to);
        i += all ? 2 : 1;
      }
    }
  }
}

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
