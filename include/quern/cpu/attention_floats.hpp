// Attention in float arithmetic. Many queries (prefill): blocks of rows meet blocks of keys that
// have been packed for the tiles of products, with online softmax between the two products, as in
// FlashAttention-2 (https://arxiv.org/abs/2307.08691). Few queries (decode): keys and values are
// streamed as they are, in chunks whose results are merged.
#pragma once

#include "quern/cpu/attention_rows.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// Sizes of blocks, which depend on the problem alone: so do bits.
struct FloatBlocks {
  static constexpr Index kFewRows = 8;       ///< that are not worth packing
  static constexpr Index kPart = 24;         ///< rows whose logits are there at a time
  static constexpr Index kChunk = 512;       ///< the least keys of a chunk
  static constexpr Index kParallelism = 64;  ///< chunks in all that are wanted
  static constexpr Index kMostPartialRows = kFewRows * kParallelism;

  Index qk_size, v_size, v_width;
  Index rows;  ///< the most of a task: packing costs as much as 45 rows' products
  Index keys;  ///< of a block
  Index part;

  /// For up to this many rows and keys.
  FloatBlocks(const AttentionProblem& p, Index most_rows, Index most_keys)
      : qk_size(p.qk_size), v_size(p.v_size), v_width(round_up(p.v_size, kPanel)) {
    const Index size = std::max(qk_size, v_width);
    keys = size <= 128 ? 256 : size <= 512 ? 128 : size <= 2048 ? 32 : 16;
    keys = std::min(keys, std::max(round_up(most_keys, kPanel), kPanel));
    rows = std::max<Index>(std::min<Index>(size <= 128   ? 384
                                           : size <= 256 ? 192
                                                         : kPart,
                                           most_rows),
                           1);
    part = std::min(kPart, rows);
  }
  /// Makes tasks for this many rows alike. Never needs more memory.
  void even_out(Index all) {
    rows = std::min(rows, round_up(divide_up(all, divide_up(all, rows)), part));
  }
  Index worker_bytes() const {
    using C = Carver;
    return C::bytes<float>(rows * qk_size) + C::bytes<float>(rows * v_width) +
           C::bytes<float>(part * keys) + C::bytes<float>(keys * qk_size) +
           C::bytes<float>(keys * v_width) + C::bytes<float>(kPanel * std::max(qk_size, v_width)) +
           C::bytes<float>(std::max(v_width, keys)) + 3 * C::bytes<float>(rows);
  }
  Index partial_floats() const { return v_width + 2; }  ///< of a row: result, most, sum
};

/// One task's memory and work.
class FloatTask {
 public:
  FloatTask(const AttentionPlan& plan, const AttentionArgs& args, const FloatBlocks& blocks,
            std::byte* memory)
      : plan_(plan), args_(args), blocks_(blocks) {
    Carver carve(memory);
    q_ = carve.take<float>(blocks.rows * blocks.qk_size);
    out_ = carve.take<float>(blocks.rows * blocks.v_width);
    x_ = carve.take<float>(blocks.part * blocks.keys);
    k_ = carve.take<float>(blocks.keys * blocks.qk_size);
    v_ = carve.take<float>(blocks.keys * blocks.v_width);
    read_ = carve.take<float>(kPanel * std::max(blocks.qk_size, blocks.v_width));
    line_ = carve.take<float>(std::max(blocks.v_width, blocks.keys));
    most_ = carve.take<float>(blocks.rows);
    sum_ = carve.take<float>(blocks.rows);
    rescale_ = carve.take<float>(blocks.rows);
  }

  /// Rows begin to begin + blocks.rows - 1 of many.
  void run_block(const AttentionRows& rows, Index begin) {
    const Index count = std::min(blocks_.rows, rows.count() - begin);
    start(rows, begin, count, true);
    const Window::Keys all = rows.window(begin, begin + count);
    for (Index first = all.begin / blocks_.keys * blocks_.keys; first < all.end;
         first += blocks_.keys) {
      pack(rows, first, std::min(blocks_.keys, all.end - first));
      for (Index r = 0; r < count; r += blocks_.part) {
        const Index part = std::min(blocks_.part, count - r);
        const Window::Keys seen = rows.window(begin + r, begin + r + part);
        const Index skipped = std::max<Index>(seen.begin - first, 0) / kPanel * kPanel,
                    end = std::min(blocks_.keys, seen.end - first);
        if (skipped < end) attend(rows, begin, r, part, first, skipped, end - skipped);
      }
    }
    for (Index r = 0; r < count; ++r) {
      finish(rows, begin + r, out_ + r * blocks_.v_width, most_[r], sum_[r]);
    }
  }

  /// All rows, few, and keys begin to end - 1, `first` of all chunks or not. Writes results, or
  /// partial ones.
  void run_chunk(const AttentionRows& rows, Index begin, Index end, bool first, float* partial) {
    const Index count = rows.count();
    start(rows, 0, count, first);
    prepare_stream(rows);
    const Window::Keys all = rows.window(0, count);
    begin = std::max(begin, all.begin);
    end = std::min(end, all.end);
    for (Index at = begin; at < end; at += blocks_.keys) {
      stream(rows, at, std::min(blocks_.keys, end - at));
    }
    for (Index r = 0; r < count; ++r) {
      float* row = out_ + r * blocks_.v_width;
      if (partial == nullptr) {
        finish_stream(rows, r, row, most_[r], sum_[r]);
      } else {
        float* to = partial + r * blocks_.partial_floats();
        std::memcpy(to, row, static_cast<std::size_t>(blocks_.v_width) * sizeof(float));
        to[blocks_.v_width] = most_[r];
        to[blocks_.v_width + 1] = sum_[r];
      }
    }
  }

  /// Merges the chunks' partial results, `step` floats apart, in their order.
  void merge(const AttentionRows& rows, const float* partial, Index chunks, Index step) {
    const Index width = blocks_.v_width;
    for (Index r = 0; r < rows.count(); ++r) {
      const float* from = partial + r * blocks_.partial_floats();
      float most = -HUGE_VALF, sum = 0.0f;
      for (Index c = 0; c < chunks; ++c) most = std::max(most, from[c * step + width]);
      std::memset(out_, 0, static_cast<std::size_t>(width) * sizeof(float));
      for (Index c = 0; c < chunks; ++c, from += step) {
        float factor = 0.0f;
        plan_.rowwise->exponentials(from + width, 1, most == -HUGE_VALF ? 0.0f : most, &factor);
        sum += factor * from[width + 1];
        for (Index d = 0; d < width; ++d) out_[d] += factor * from[d];
      }
      finish_stream(rows, r, out_, most, sum);
    }
  }

 private:
  HeadVectors keys() const { return {args_.k, args_.k_scales, plan_.problem.k_scales}; }
  HeadVectors values() const { return {args_.v, args_.v_scales, plan_.problem.v_scales}; }

  /// Loads q, scaled, and begins the softmax with the sink.
  void start(const AttentionRows& rows, Index begin, Index count, bool sinks) {
    const float scale = plan_.problem.scale_value();
    for (Index r = 0; r < count; ++r) {
      float* q = q_ + r * blocks_.qk_size;
      rows.load_query(begin + r, q);
      plan_.rowwise->scale(q, blocks_.qk_size, scale, q);
      const float sink = sinks ? rows.sink(begin + r) : -HUGE_VALF;
      most_[r] = sink;
      sum_[r] = sink == -HUGE_VALF ? 0.0f : 1.0f;
    }
    std::memset(out_, 0, static_cast<std::size_t>(count * blocks_.v_width) * sizeof(float));
  }

  /// Packs keys and values first to first + n - 1 in panels of 16 keys, and of 16 channels.
  void pack(const AttentionRows& rows, Index first, Index n) {
    const float* lines[kPanel];
    for (Index j = 0; j < n; j += kPanel) {
      read(keys(), rows, first + j, std::min(kPanel, n - j), lines);
      plan_.attention->pack_panel(lines, blocks_.qk_size, k_ + j * blocks_.qk_size);
      read(values(), rows, first + j, std::min(kPanel, n - j), lines);
      plan_.attention->pack_rows(lines, blocks_.v_size, v_ + j * kPanel, blocks_.keys * kPanel);
    }
  }

  /// 16 vectors from the `first` on as floats; those beyond n are 0.
  void read(const HeadVectors& x, const AttentionRows& rows, Index first, Index n,
            const float** lines) {
    for (Index i = 0; i < kPanel; ++i) {
      float* buffer = read_ + i * x.view.size;
      lines[i] = buffer;
      if (i < n) {
        const TokenMap::Place at = args_.kv_map().place(x.view, rows.batch(), first + i);
        lines[i] = x.floats(*plan_.rowwise, at, rows.kv_head(), buffer);
      } else {
        std::fill(buffer, buffer + x.view.size, 0.0f);
      }
    }
  }

  /// Rows r to r + count - 1 of the block and `n` keys from `skipped` on of the packed ones.
  void attend(const AttentionRows& rows, Index begin, Index r, Index count, Index first,
              Index skipped, Index n) {
    const Index size = blocks_.qk_size, width = blocks_.v_width;
    const Idiom& f32 = plan_.products->f32;
    const Index padded = round_up(n, kPanel);
    const auto bytes = [](const float* p) { return reinterpret_cast<const std::byte*>(p); };
    multiply_panels(f32, {bytes(q_ + r * size), size * 4, 4}, count, bytes(k_ + skipped * size),
                    size * kPanel * 4, padded / kPanel, size,
                    {.data = x_, .row = blocks_.keys, .panel = kPanel});
    for (Index i = 0; i < count; ++i) {
      rows.finish_logits(begin + r + i, first + skipped, n, x_ + i * blocks_.keys, line_);
    }
    soften(r, count, padded);
    multiply_panels(f32, {bytes(x_), blocks_.keys * 4, 4}, count, bytes(v_ + skipped * kPanel),
                    blocks_.keys * kPanel * 4, width / kPanel, n,
                    {.data = out_ + r * width, .row = width, .panel = kPanel, .add = true});
  }

  /// Makes logits of rows weights, and what there is of their results relative to the new maxima.
  void soften(Index r, Index count, Index padded) {
    const Index width = blocks_.v_width;
    plan_.attention->softmax(x_, blocks_.keys, count, padded, most_ + r, sum_ + r, rescale_ + r);
    for (Index i = r; i < r + count; ++i) {
      float* row = out_ + i * width;
      if (rescale_[i] != 1.0f) plan_.rowwise->scale(row, width, rescale_[i], row);
    }
  }

  /// Few rows and keys first to first + n - 1, which are read as they are. Scales per token go into
  /// logits and weights.
  void stream(const AttentionRows& rows, Index first, Index n) {
    const AttentionProblem& p = plan_.problem;
    const AttentionKernels& k = *plan_.attention;
    const Index count = rows.count(), stride = blocks_.keys, size = blocks_.qk_size;
    for_runs(rows, args_.k, args_.v, 0, first, n, [&](const HeadStream& keys, Index j) {
      k.dot(keys, q_, size, count, x_ + j, stride);
    });
    if (p.k_scales == HeadScales::per_token) scale_keys(rows, args_.k, args_.k_scales, first, n);
    for (Index r = 0; r < count; ++r) rows.finish_logits(r, first, n, x_ + r * stride, line_);
    soften(0, count, round_up(n, kPanel));
    if (p.v_scales == HeadScales::per_token) scale_keys(rows, args_.v, args_.v_scales, first, n);
    for_runs(rows, args_.v, args_.k, n, first, n, [&](const HeadStream& values, Index j) {
      k.weigh(values, x_ + j, stride, count, out_, blocks_.v_width);
    });
  }

  /// Calls f(vectors, j) for keys first + j, ..., those that are evenly spaced together. Asks for
  /// vectors of `next` of keys `ahead` later, as far as they are evenly spaced.
  template <class F>
  void for_runs(const AttentionRows& rows, const ConstHeadsView& x, const ConstHeadsView& next,
                Index ahead, Index first, Index n, const F& f) {
    const TokenMap map = args_.kv_map();
    const bool paged = map.pages.data != nullptr;
    for (Index j = 0; j < n;) {
      const TokenMap::Place at = map.place(x, rows.batch(), first + j);
      const Index run = paged ? std::min(n - j, x.tokens - at.token) : n - j;
      HeadStream stream{vector_at(x, at, rows.kv_head()), x.type,
                        x.token_stride * bits_of(x.type) / 8, run, x.size};
      const Index wanted = first + j + ahead, bytes = next.size * bits_of(next.type) / 8;
      // A row takes short vectors whole: hardware fetches those better (f16 of 128: 20 against
      // 17 GB/s of 28, AVX2). Of 512 bytes, and for more rows, weigh() leaps: 18 against 14.
      if (wanted + run <= rows.keys() && (bytes > 256 || rows.count() > 1)) {
        const TokenMap::Place later = map.place(next, rows.batch(), wanted);
        if (!paged || later.token + run <= next.tokens) {
          stream.ahead = vector_at(next, later, rows.kv_head());
          stream.ahead_step = next.token_stride * bits_of(next.type) / 8;
          stream.ahead_bytes = bytes;
        }
      }
      f(stream, j);
      j += run;
    }
  }

  /// Multiplies columns of all rows by their tokens' scales.
  void scale_keys(const AttentionRows& rows, const ConstHeadsView& x, const ConstHeadFloats& scales,
                  Index first, Index n) {
    for_runs(rows, x, x, 0, first, n, [&](const HeadStream& run, Index j) {
      const TokenMap::Place at = args_.kv_map().place(x, rows.batch(), first + j);
      const float* from = &scales.at(at.batch, rows.kv_head(), at.token);
      for (Index i = 0; i < run.count; ++i) line_[j + i] = from[i * scales.token_stride];
    });
    for (Index r = 0; r < rows.count(); ++r) {
      plan_.attention->multiply(x_ + r * blocks_.keys, line_, n);
    }
  }

  /// Gives q what dot() expects of the type of k.
  void prepare_stream(const AttentionRows& rows) {
    const AttentionProblem& p = plan_.problem;
    const Index size = blocks_.qk_size;
    for (Index r = 0; r < rows.count(); ++r) {
      float* q = q_ + r * size;
      if (p.k_scales == HeadScales::per_channel) {
        plan_.attention->multiply(q, &args_.k_scales.at(0, rows.kv_head(), 0, 0), size);
      }
      if (p.k != HeadType::s4) continue;
      plan_.attention->split(q, size, read_);
      std::memcpy(q, read_, static_cast<std::size_t>(size) * sizeof(float));
    }
  }
  /// Takes away what weigh() left of the type of v.
  void finish_stream(const AttentionRows& rows, Index r, float* row, float most, float sum) {
    const AttentionProblem& p = plan_.problem;
    if (p.v == HeadType::s4) {
      plan_.attention->unsplit(row, blocks_.v_size, line_);
      row = line_;
    }
    if (p.v_scales == HeadScales::per_channel) {
      plan_.attention->multiply(row, &args_.v_scales.at(0, rows.kv_head(), 0, 0), blocks_.v_size);
    }
    finish(rows, r, row, most, sum);
  }

  void finish(const AttentionRows& rows, Index r, float* row, float most, float sum) {
    plan_.rowwise->scale(row, blocks_.v_size, sum == 0.0f ? 0.0f : 1.0f / sum, row);
    rows.store_result(r, row);
    rows.store_lse(r, sum == 0.0f ? -HUGE_VALF : most + std::log(sum));
    rows.finish_scores(r, most, sum);
  }

  const AttentionPlan& plan_;
  const AttentionArgs& args_;
  const FloatBlocks& blocks_;
  float *q_, *out_, *x_, *k_, *v_, *read_, *line_, *most_, *sum_, *rescale_;
};

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
