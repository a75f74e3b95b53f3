// Attention in int8 arithmetic: exact products in s32 with the idioms of the integer GEMM. Weights
// are quantized against a row's largest logit, so the keys are passed twice, the first time for
// maxima alone; once if all that a task's rows see are in one block.
#pragma once

#include "quern/cpu/attention_int8_memory.hpp"
#include "quern/cpu/attention_rows.hpp"
#include "quern/ops/activation.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// One task's work.
class Int8Task {
 public:
  Int8Task(const AttentionPlan& plan, const AttentionArgs& args, const Int8Blocks& blocks,
           std::byte* memory)
      : plan_(plan), args_(args), blocks_(blocks), idiom_(plan.int8()), m_(blocks, memory) {}

  /// Rows begin to begin + blocks.rows - 1.
  void run(const AttentionRows& rows, Index begin) {
    const Index count = std::min(blocks_.rows, rows.count() - begin);
    measure_keys(rows);
    measure_values(rows);
    for (Index r = 0; r < count; r += blocks_.part) {
      load_queries(rows, begin, r, std::min(blocks_.part, count - r));
    }
    const auto outs = static_cast<std::size_t>(count * blocks_.v_width);
    std::memset(m_.out, 0, outs * sizeof(std::int32_t));
    if (blocks_.wide) std::memset(m_.wide, 0, outs * sizeof(std::int64_t));
    const Window::Keys all = rows.window(begin, begin + count);
    const bool once = all.end - all.begin / kPanel * kPanel <= blocks_.keys;
    if (!once) pass(rows, begin, count, all, true, false);
    pass(rows, begin, count, all, once, true);
    for (Index r = 0; r < count; ++r) finish(rows, begin + r, r);
  }

 private:
  static const std::byte* bytes(const void* p) { return static_cast<const std::byte*>(p); }
  bool pairs() const { return idiom_.form == RowForm::s16_pairs; }
  Index tile_rows(Index rows) const {
    const Tile* tile = idiom_.tiles;
    while (tile->rows > rows) ++tile;
    return tile->rows;
  }
  Index panel_bytes(Index quads) const { return quads * kPanel * kQuad * (idiom_.widen_b ? 2 : 1); }
  Index q_bytes() const { return blocks_.qk_padded * (pairs() ? 2 : 1); }
  /// Do sums of unsigned weights need terms of v?
  bool has_v_terms() const { return idiom_.row_products || idiom_.form == RowForm::s8_quads; }

  /// All blocks of keys: finds rows' largest logits, adds weighted values, or both.
  void pass(const AttentionRows& rows, Index begin, Index count, Window::Keys all, bool largest,
            bool weigh) {
    Index exact = 0;
    for (Index first = all.begin / kPanel * kPanel; first < all.end; first += blocks_.keys) {
      const Index n = std::min(blocks_.keys, all.end - first);
      pack_keys(rows, first, n);
      if (weigh) {
        pack_values(rows, first, n);
        if (exact + n > Int8Blocks::kExact) {
          flush(count);
          exact = 0;
        }
        exact += n;
      }
      for (Index r = 0; r < count; r += blocks_.part) {
        const Index part = std::min(blocks_.part, count - r);
        const Window::Keys seen = rows.window(begin + r, begin + r + part);
        const Index skipped = std::max<Index>(seen.begin - first, 0) / kPanel * kPanel,
                    end = std::min(n, seen.end - first);
        if (skipped >= end) continue;
        score(rows, begin, r, part, first, skipped, end - skipped);
        if (largest) find_largest(r, part, end - skipped);
        if (weigh) add_values(r, part, skipped, end - skipped);
      }
    }
  }

  /// The mean of float keys over the sequence, negative.
  void measure_keys(const AttentionRows& rows) {
    const AttentionProblem& p = plan_.problem;
    if (!p.smooth_k) return;
    std::fill(m_.mean, m_.mean + p.qk_size, 0.0f);
    for (Index j = 0; j < rows.keys(); ++j) {
      plan_.rowwise->apply(Elementwise::add, m_.mean, read(args_.k, rows, j), p.qk_size, m_.mean);
    }
    const auto keys = static_cast<float>(rows.keys());
    for (Index d = 0; d < p.qk_size; ++d) m_.mean[d] = -(m_.mean[d] / keys);
  }

  /// The scales of v's channels.
  void measure_values(const AttentionRows& rows) {
    const AttentionProblem& p = plan_.problem;
    if (is_float(p.v)) {
      std::fill(m_.v_scale, m_.v_scale + p.v_size, 0.0f);
      for (Index j = 0; j < rows.keys(); ++j) {
        plan_.attention->largest_magnitudes(read(args_.v, rows, j), p.v_size, m_.v_scale);
      }
      for (Index d = 0; d < p.v_size; ++d) {
        const RowQuantization channel = RowQuantization::of(m_.v_scale[d]);
        m_.v_scale[d] = channel.scale;
        m_.v_inverse[d] = channel.inverse;
      }
    } else if (p.v_scales == HeadScales::per_channel) {
      std::copy_n(&args_.v_scales.at(0, rows.kv_head(), 0, 0), p.v_size, m_.v_scale);
    } else {
      token_scale_ = 0.0f;
      for (Index j = 0; j < rows.keys(); ++j) {
        token_scale_ = std::max(token_scale_, scale_of(args_.v, args_.v_scales, rows, j));
      }
      std::fill(m_.v_scale, m_.v_scale + p.v_size, token_scale_);
    }
  }

  float scale_of(const ConstHeadsView& x, const ConstHeadFloats& scales, const AttentionRows& rows,
                 Index j) const {
    const TokenMap::Place at = args_.kv_map().place(x, rows.batch(), j);
    return scales.at(at.batch, rows.kv_head(), at.token);
  }
  /// A vector of float keys or values.
  const float* read(const ConstHeadsView& x, const AttentionRows& rows, Index j) const {
    return HeadVectors{x, args_.k_scales, HeadScales::none}.floats(
        *plan_.rowwise, args_.kv_map().place(x, rows.batch(), j), rows.kv_head(), m_.read);
  }
  /// A vector of integers of a cache.
  void read_integers(const ConstHeadsView& x, const AttentionRows& rows, Index j,
                     std::int8_t* to) const {
    const std::byte* from = vector_at(x, args_.kv_map().place(x, rows.batch(), j), rows.kv_head());
    if (x.type == HeadType::s8) {
      std::memcpy(to, from, static_cast<std::size_t>(x.size));
    } else {
      unpack_nibbles(from, 0, x.size, to);
    }
  }
  /// x = quantize(x) of a row; its scale.
  float quantize_row(const float* x, Index n, std::int8_t* to) const {
    const RowQuantization row = RowQuantization::of(plan_.products->largest(x, n));
    plan_.products->quantize_row(x, n, row.inverse, to);
    return row.scale;
  }

  /// A part's queries as integers, in the idiom's form.
  void load_queries(const AttentionRows& rows, Index begin, Index first, Index count) {
    const AttentionProblem& p = plan_.problem;
    const Index size = blocks_.qk_padded;
    for (Index r = first, some = 0; r < first + count; r += some) {
      some = tile_rows(first + count - r);
      auto* lines = pairs() ? m_.lines : reinterpret_cast<std::int8_t*>(m_.q + r * size);
      for (Index i = 0; i < some; ++i) {
        std::int8_t* line = lines + i * size;
        rows.load_query(begin + r + i, m_.read);
        if (p.k_scales == HeadScales::per_channel) {
          const float* scales = &args_.k_scales.at(0, rows.kv_head(), 0, 0);
          plan_.attention->multiply(m_.read, scales, p.qk_size);
        }
        const float scale = quantize_row(m_.read, p.qk_size, line);
        std::fill(line + p.qk_size, line + size, std::int8_t{0});
        if (idiom_.form == RowForm::u8_quads) flip(reinterpret_cast<std::byte*>(line), size);
        m_.q_scale[r + i] = unfused(scale * p.scale_value());
        m_.most[r + i] = rows.sink(begin + r + i);
        m_.sum[r + i] = 0;
        m_.nan[r + i] = false;
      }
      if (!pairs()) continue;
      pack_rows({bytes(lines), size, some}, size, true, m_.q + r * q_bytes(), m_.q_terms + r);
    }
  }

  static void flip(std::byte* x, Index n) {
    for (Index i = 0; i < n; ++i) x[i] ^= std::byte{0x80};
  }
  void pack_rows(const RowSource& rows, Index k, bool is_signed, std::byte* to,
                 std::int32_t* terms) const {
    std::fill(terms, terms + rows.rows, 0);
    plan_.products->pack_pairs(rows, k, is_signed, to, idiom_.row_products ? terms : nullptr);
  }

  /// Keys first to first + n - 1 as panels of 16, with their scales.
  void pack_keys(const AttentionRows& rows, Index first, Index n) {
    const AttentionProblem& p = plan_.problem;
    const Index size = blocks_.qk_padded, quads = size / kQuad;
    const bool shifted = idiom_.form == RowForm::u8_quads;
    for (Index j = 0; j < n; j += kPanel) {
      const float* words[kPanel];
      for (Index i = 0; i < kPanel; ++i) {
        std::int8_t* line = m_.lines + i * size;
        const Index key = first + j + i;
        words[i] = reinterpret_cast<const float*>(line);
        float scale = 0.0f;
        if (j + i >= n) {
          std::fill(line, line + size, std::int8_t{0});
        } else if (is_float(p.k)) {
          const float* x = read(args_.k, rows, key);
          if (p.smooth_k) {
            plan_.rowwise->apply(Elementwise::add, x, m_.mean, p.qk_size, m_.moved);
            x = m_.moved;
          }
          scale = quantize_row(x, p.qk_size, line);
        } else {
          read_integers(args_.k, rows, key, line);
          const bool token = p.k_scales == HeadScales::per_token;
          scale = token ? scale_of(args_.k, args_.k_scales, rows, key) : 1.0f;
        }
        std::fill(line + p.qk_size, line + size, std::int8_t{0});
        m_.k_scale[j + i] = scale;
      }
      std::byte* to = m_.k + j / kPanel * panel_bytes(quads);
      std::byte* panel = idiom_.widen_b ? m_.panel : to;
      plan_.attention->pack_panel(words, quads, reinterpret_cast<float*>(panel));
      if (shifted || idiom_.row_products) {
        plan_.attention->column_sums(panel, quads, !shifted, shifted ? -128 : -1, m_.k_terms + j);
      }
      if (idiom_.widen_b) plan_.products->widen(panel, quads, to);
    }
  }

  /// Values first to first + n - 1 as panels of 16 channels. Row i of v_terms: of all keys before
  /// the 16 i-th.
  void pack_values(const AttentionRows& rows, Index first, Index n) {
    const AttentionProblem& p = plan_.problem;
    const Index width = blocks_.v_width, panels = width / kPanel;
    constexpr Index kQuads = kPanel / kQuad;
    const Index panel_stride = panel_bytes(blocks_.keys / kQuad);
    std::fill(m_.v_terms, m_.v_terms + width, 0);
    for (Index j = 0; j < n; j += kPanel) {
      for (Index i = 0; i < kPanel; ++i) {
        std::int8_t* line = m_.lines + i * width;
        float factor = 0.0f;
        if (j + i < n) {
          const Index key = first + j + i;
          if (is_float(p.v)) {
            const PieceQuantization q{
                .scales = m_.v_inverse, .column_scales = true, .multiply = true};
            plan_.rowwise->quantize(DType::s8, read(args_.v, rows, key), p.v_size, q, line);
          } else {
            read_integers(args_.v, rows, key, line);
          }
          if (p.v_scales == HeadScales::per_token && token_scale_ > 0.0f) {
            factor = scale_of(args_.v, args_.v_scales, rows, key) / token_scale_;
          }
        }
        std::fill(line + (j + i < n ? p.v_size : 0), line + width, std::int8_t{0});
        m_.v_factor[j + i] = factor;
      }
      for (Index q = 0; q < kQuads; ++q) {
        plan_.attention->pack_quads(m_.lines + q * kQuad * width, width, panels,
                                    m_.panel + q * kPanel * kQuad, kPanel * kPanel);
      }
      std::int32_t* terms = m_.v_terms + j / kPanel * width;
      for (Index c = 0; c < panels; ++c) {
        const std::byte* panel = m_.panel + c * kPanel * kPanel;
        std::byte* to = m_.v + c * panel_stride + panel_bytes(j / kQuad);
        if (idiom_.widen_b) {
          plan_.products->widen(panel, kQuads, to);
        } else {
          std::memcpy(to, panel, kPanel * kPanel);
        }
        if (!has_v_terms()) continue;
        std::int32_t* next = terms + width + c * kPanel;
        const bool products = idiom_.row_products;
        plan_.attention->column_sums(panel, kQuads, products, products ? -1 : 128, next);
        plan_.attention->add_words(terms + c * kPanel, kPanel, next);
      }
    }
  }

  /// Logits of a part and n keys of the block from `skipped` on, a multiple of 16.
  void score(const AttentionRows& rows, Index begin, Index r, Index part, Index first,
             Index skipped, Index n) {
    const Index quads = blocks_.qk_padded / kQuad, panel = panel_bytes(quads),
                padded = round_up(n, kPanel);
    const bool k_terms = idiom_.form == RowForm::u8_quads || idiom_.row_products;
    multiply_panels(idiom_, {m_.q + r * q_bytes(), q_bytes(), kQuad}, part,
                    m_.k + skipped / kPanel * panel, panel, padded / kPanel, quads,
                    {.data = m_.x,
                     .row = blocks_.keys,
                     .panel = kPanel,
                     .column_base = k_terms ? m_.k_terms + skipped : nullptr,
                     .row_base = idiom_.row_products ? m_.q_terms + r : nullptr});
    for (Index i = 0; i < part; ++i) {
      std::int32_t* sums = m_.x + i * blocks_.keys;
      auto* x = reinterpret_cast<float*>(sums);
      plan_.attention->logits(sums, m_.k_scale + skipped, padded, m_.q_scale[r + i], x);
      rows.finish_logits(begin + r + i, first + skipped, n, x, m_.bias);
    }
  }

  void find_largest(Index r, Index part, Index n) {
    const Index padded = round_up(n, kPanel);
    for (Index i = 0; i < part; ++i) {
      const auto* x = reinterpret_cast<const float*>(m_.x + i * blocks_.keys);
      m_.nan[r + i] |= plan_.attention->has_nan(x, padded);
      m_.most[r + i] = std::max(m_.most[r + i], plan_.rowwise->largest(x, padded));
    }
  }

  /// Logits to weights, and their products with values to `out`.
  void add_values(Index r, Index part, Index skipped, Index n) {
    const Index padded = round_up(n, kPanel), width = blocks_.v_width, keys = blocks_.keys;
    const bool token = plan_.problem.v_scales == HeadScales::per_token;
    for (Index i = 0; i < part; ++i) {
      const float most = m_.most[r + i];
      std::byte* to = m_.weights + i * keys;
      if (m_.nan[r + i] || std::isinf(most)) {
        std::memset(to, 0, static_cast<std::size_t>(padded));
      } else {
        m_.sum[r + i] += plan_.attention->weights(
            reinterpret_cast<const float*>(m_.x + i * keys), padded, most,
            token ? m_.v_factor + skipped : nullptr, reinterpret_cast<std::uint8_t*>(to));
      }
      if (idiom_.form == RowForm::s8_quads) flip(to, padded);
    }
    Rows a{m_.weights, keys, kQuad};
    if (pairs()) {
      a = {m_.packed, 2 * padded, kQuad};
      for (Index i = 0, some = 0; i < part; i += some) {
        some = tile_rows(part - i);
        pack_rows({m_.weights + i * keys, keys, some}, padded, false, m_.packed + i * a.row,
                  m_.w_terms + i);
      }
    }
    std::int32_t* out = m_.out + r * width;
    const bool terms = has_v_terms();
    std::int32_t* column_base = m_.v_terms + (blocks_.keys / kPanel + 1) * width;
    if (terms) {
      const std::int32_t *low = m_.v_terms + skipped / kPanel * width,
                         *high = low + padded / kPanel * width;
      for (Index d = 0; d < width; ++d) {  // wraps around, as sums do
        column_base[d] = static_cast<std::int32_t>(static_cast<std::uint32_t>(high[d]) -
                                                   static_cast<std::uint32_t>(low[d]));
      }
    }
    multiply_panels(idiom_, a, part, m_.v + panel_bytes(skipped / kQuad), panel_bytes(keys / kQuad),
                    width / kPanel, padded / kQuad,
                    {.data = terms ? m_.sums : out,
                     .row = width,
                     .panel = kPanel,
                     .add = !terms,
                     .column_base = terms ? column_base : nullptr,
                     .row_base = idiom_.row_products ? m_.w_terms : nullptr});
    if (terms) plan_.attention->add_words(m_.sums, part * width, out);
  }

  /// Makes room in 32 bits.
  void flush(Index count) {
    for (Index i = 0; i < count * blocks_.v_width; ++i) m_.wide[i] += m_.out[i];
    std::memset(m_.out, 0, static_cast<std::size_t>(count * blocks_.v_width) * sizeof(*m_.out));
  }

  void finish(const AttentionRows& rows, Index row, Index r) {
    const AttentionProblem& p = plan_.problem;
    const float most = m_.most[r], sink = rows.sink(row);
    const bool nan = m_.nan[r] || most == HUGE_VALF, blind = most == -HUGE_VALF && !nan;
    float sum = static_cast<float>(m_.sum[r]);
    if (!blind && sink != -HUGE_VALF) sum += unfused(255.0f * scalar::exp(sink - most));
    if (nan) sum = std::nanf("");
    for (Index d = 0; d < p.v_size; ++d) {
      const Index at = r * blocks_.v_width + d;
      const std::int64_t o = (blocks_.wide ? m_.wide[at] : 0) + m_.out[at];
      m_.read[d] = blind ? 0.0f : static_cast<float>(o) / sum * m_.v_scale[d];
    }
    rows.store_result(row, m_.read);
    rows.store_lse(row, blind ? -HUGE_VALF : most + std::log(sum / 255.0f));
  }

  const AttentionPlan& plan_;
  const AttentionArgs& args_;
  const Int8Blocks& blocks_;
  const Idiom& idiom_;
  Int8Memory m_;
  float token_scale_ = 0.0f;
};

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
