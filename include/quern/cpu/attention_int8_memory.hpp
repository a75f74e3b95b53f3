// Blocks of int8 attention and the memory that one task has for them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "quern/core/memory.hpp"
#include "quern/cpu/kernels.hpp"
#include "quern/ops/attention_problem.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// Sizes of blocks. They matter to memory and speed, not to bits.
struct Int8Blocks {
  static constexpr Index kPart = 48;          ///< rows whose logits are there at a time
  static constexpr Index kExact = 65536;      ///< keys whose sums fit: 255 * 128 * 65536 < 2^31
  static constexpr Index kKeyBytes = 262144;  ///< of a block's keys and values in s8

  Index qk_size, qk_padded, v_size, v_width;
  Index rows, part, keys;
  bool wide;  ///< there may be more than kExact keys

  /// For up to this many rows and keys.
  Int8Blocks(const AttentionProblem& p, Index most_rows, Index most_keys)
      : qk_size(p.qk_size),
        qk_padded(round_up(p.qk_size, kQuad)),
        v_size(p.v_size),
        v_width(round_up(p.v_size, kPanel)),
        wide(most_keys > kExact) {
    keys = std::clamp<Index>(kKeyBytes / (qk_padded + v_width) / kPanel * kPanel, kPanel, 1024);
    keys = std::min(keys, std::max(round_up(most_keys, kPanel), kPanel));
    const Index size = std::max(qk_padded, v_width);
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
  Index worker_bytes() const;
};

/// A task's memory. "Terms" are what the idiom's sums need beside the products of integers.
struct Int8Memory {
  std::byte* q;                                         ///< (rows), in the idiom's form
  std::int32_t* out;                                    ///< (rows, v_width)
  std::int64_t* wide;                                   ///< likewise, of keys that passed before
  std::int32_t* x;                                      ///< (part, keys): products, logits
  std::byte *weights, *packed;                          ///< (part, keys), and in the idiom's form
  std::int32_t* sums;                                   ///< (part, v_width)
  std::byte *k, *v;                                     ///< panels of the block
  std::int8_t* lines;                                   ///< 16 vectors
  std::byte* panel;                                     ///< 16 vectors as quads
  std::int32_t *k_terms, *v_terms, *q_terms, *w_terms;  ///< v's: (keys / 16 + 2, v_width)
  float *k_scale, *v_factor, *bias;                     ///< (keys)
  float *mean, *v_inverse, *v_scale, *read, *moved;     ///< of channels
  std::int64_t* sum;                                    ///< (rows) of weights
  float *q_scale, *most;                                ///< (rows)
  bool* nan;                                            ///< (rows)
  std::byte* end;

  Int8Memory(const Int8Blocks& s, std::byte* begin) {
    constexpr Index kSlack = 64;  // packing writes whole vectors
    const Index size = std::max(s.qk_padded, s.v_width);
    Carver carve(begin);
    q = carve.take<std::byte>(2 * s.rows * s.qk_padded + kSlack);
    out = carve.take<std::int32_t>(s.rows * s.v_width);
    wide = carve.take<std::int64_t>(s.wide ? s.rows * s.v_width : 0);
    x = carve.take<std::int32_t>(s.part * s.keys);
    weights = carve.take<std::byte>(s.part * s.keys + kSlack);
    packed = carve.take<std::byte>(2 * s.part * s.keys + kSlack);
    sums = carve.take<std::int32_t>(s.part * s.v_width);
    k = carve.take<std::byte>(2 * s.keys * s.qk_padded);
    v = carve.take<std::byte>(2 * s.keys * s.v_width);
    lines = carve.take<std::int8_t>(kPanel * size + kSlack);
    panel = carve.take<std::byte>(kPanel * size);
    k_terms = carve.take<std::int32_t>(s.keys);
    v_terms = carve.take<std::int32_t>((s.keys / kPanel + 2) * s.v_width);
    q_terms = carve.take<std::int32_t>(s.rows);
    w_terms = carve.take<std::int32_t>(s.part);
    for (float** p : {&k_scale, &v_factor, &bias}) *p = carve.take<float>(s.keys);
    for (float** p : {&mean, &v_inverse, &v_scale, &read, &moved}) *p = carve.take<float>(size);
    sum = carve.take<std::int64_t>(s.rows);
    q_scale = carve.take<float>(s.rows);
    most = carve.take<float>(s.rows);
    nan = carve.take<bool>(s.rows);
    end = carve.take<std::byte>(0);
  }
};

inline Index Int8Blocks::worker_bytes() const {
  return static_cast<Index>(reinterpret_cast<std::uintptr_t>(Int8Memory(*this, nullptr).end));
}

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
