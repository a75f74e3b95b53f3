// How a GEMM is cut into blocks: Goto and van de Geijn's loops ("Anatomy of high-performance matrix
// multiplication", 2008), with 8-bit weights so small that no blocking for L3 is left.
#pragma once

#include <cstdint>

#include "quern/core/memory.hpp"
#include "quern/cpu/kernels.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// Sizes of one call. Results do not depend on any of them.
struct Blocking {
  static constexpr Index kRowsBudget =
      144;  ///< most rows in mc: with 512 shorts each, 144 KiB of L2

  /// Up to here widening a panel beforehand costs more than doing it in the loop, for each tile.
  static constexpr Index kFewRows = 16;

  static constexpr Index kRowsBytes = 320 * 1024;  ///< of packed rows that stay in L2
  static constexpr Index kFewestRows = 48;         ///< with fewer, B would be read too often

  Index mc = 0;    ///< rows of A packed at a time, for L2
  Index kc = 0;    ///< of k at a time: a slice of a panel stays in L1 while the rows pass by
  Index nc = 0;    ///< panels of a task
  Index step = 1;  ///< panels multiplied together
  Index m_blocks = 0, n_blocks = 0, k_blocks = 0;
  Index row_bytes = 0;  ///< one packed row of kc
  Index tile_rows = 0;  ///< of the highest tile used
  bool a_stays = true;  ///< all slices of the mc rows are packed before anything is multiplied

  // What a worker needs, in this order.
  Index packed_slices() const { return a_stays ? k_blocks : 1; }
  Index packed_bytes() const { return Carver::bytes<std::byte>(packed_slices() * mc * row_bytes); }
  Index wide_bytes(const Idiom& idiom) const {
    return idiom.widen_b ? Carver::bytes<std::byte>(step * kc * kPanel * 2) : 0;
  }
  /// Sums outlive a panel only if slices of k are the outer loop.
  Index sum_panels() const { return a_stays ? step : nc; }
  Index sums_bytes() const { return Carver::bytes<std::int32_t>(sum_panels() * mc * kPanel); }
  Index stage_bytes() const { return Carver::bytes<float>(tile_rows * kc); }
  Index rows_bytes() const { return 5 * Carver::bytes<std::int32_t>(mc); }
  Index worker_bytes(const Idiom& idiom) const {
    return packed_bytes() + wide_bytes(idiom) + sums_bytes() + stage_bytes() + rows_bytes();
  }
};

inline Index balanced(Index total, Index at_most, Index multiple) {
  const Index pieces = divide_up(total, at_most);
  return pieces == 0 ? multiple : round_up(divide_up(total, pieces), multiple);
}

/// m: rows of one batch element. tasks_wanted: how many tasks would keep the workers busy.
inline Blocking choose_blocking(const Idiom& idiom, Index m, Index panels, Index k,
                                Index tasks_wanted) {
  constexpr Index kPanelBudget = 16 * 1024;  // a panel's slice: half of a 32 KiB L1
  const Index b_bytes = idiom.form == RowForm::f32 ? 4 : idiom.widen_b ? 2 : 1;
  const Index a_bytes = idiom.form == RowForm::f32                                           ? 4
                        : idiom.form == RowForm::s16_pairs || idiom.form == RowForm::nibbles ? 2
                                                                                             : 1;
  Blocking b;
  const Tile* tile = idiom.tiles;
  while (tile->rows > 1 && tile->rows > m) ++tile;
  b.tile_rows = tile->rows;
  b.step = tile->panels;
  // One tile of rows: B streams by once, so slices are as long as the tile's rows of A have room in
  // L1. More: the slice of B has to stay there.
  const Index kc_limit = m <= b.tile_rows && !idiom.widen_b
                             ? 2 * kPanelBudget / (a_bytes * b.tile_rows)
                             : kPanelBudget / (kPanel * b_bytes * b.step);
  b.kc = balanced(k, kc_limit < 64 ? 64 : round_up(kc_limit, 64), 16);
  b.row_bytes = b.kc * a_bytes;
  // Rows that are not interleaved must not all begin in the same few sets of L1.
  if (b.row_bytes % 2048 == 0) b.row_bytes += 64;
  b.k_blocks = k == 0 ? 1 : divide_up(k, b.kc);
  const Index rows_that_stay = Blocking::kRowsBytes / (b.k_blocks * b.row_bytes + 1);
  b.mc = balanced(m, Blocking::kRowsBudget, b.tile_rows);
  b.a_stays = b.k_blocks == 1 || b.mc <= rows_that_stay;
  if (!b.a_stays && rows_that_stay >= Blocking::kFewestRows) {
    b.a_stays = true;
    b.mc = balanced(m, rows_that_stay / b.tile_rows * b.tile_rows, b.tile_rows);
  }
  b.m_blocks = divide_up(m, b.mc);
  constexpr Index kMostPanels = 64;  // sums of a task, if kept: 144 x 1024 x 4 bytes
  Index n_blocks = divide_up(panels, b.a_stays ? 4 * kMostPanels : kMostPanels);
  if (b.m_blocks * n_blocks < tasks_wanted) n_blocks = divide_up(tasks_wanted, b.m_blocks);
  if (n_blocks == 0) n_blocks = 1;
  b.nc = panels == 0 ? b.step : round_up(divide_up(panels, n_blocks), b.step);
  b.n_blocks = divide_up(panels, b.nc);
  return b;
}

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
