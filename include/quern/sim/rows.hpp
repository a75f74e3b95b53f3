// The rows of A in tiles. They are cut along one axis: a tile is some images, or some planes, lines
// or positions of a line of one image. Tiles are numbered in the order of rows. Of a matrix the
// only axis is the first.
#pragma once

#include "quern/sim/work.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// One die's rows.
class RowTiles {
 public:
  RowTiles(const Patches& patches, const Mapping& mapping, Index die, Index dies)
      : patches_(patches), lines_(mapping.lines && patches.overlap) {
    for (int d = 0; d < 4; ++d) size_[d] = axis(d).out;
    if (dies > 1) share_out(die, dies);
    all_ = size_[0] * size_[1] * size_[2] * size_[3];
    if (all_ == 0) return;
    Index inner = all_;  // rows that one index of the axis has
    for (;; ++cut_) {
      inner /= size_[cut_];
      if (cut_ == 3 || inner <= mapping.tile.m) break;
    }
    for (int d = 0; d < 4; ++d) step_[d] = d < cut_ ? 1 : size_[d];
    step_[cut_] = least(mapping.tile.m / inner, size_[cut_]);
    tile_ = step_[cut_] * inner;
    whole_ = size_[cut_] / step_[cut_];
    tiles_ = 1;
    for (int d = 0; d <= cut_; ++d) tiles_ *= count_[d] = divide_up(size_[d], step_[d]);
  }

  Index all() const { return all_; }    ///< rows
  Index tile() const { return tile_; }  ///< of the largest tile
  Index tiles() const { return tiles_; }
  int cut() const { return cut_; }
  Index count(int d) const { return count_[d]; }  ///< tiles along an axis
  /// How many tiles have tile() rows.
  Index whole_tiles() const { return tiles_ == 0 ? 0 : tiles_ / count_[cut_] * whole_; }
  /// Whether tiles bring lines that stay until no row needs them any more.
  bool lines() const { return lines_; }

  /// Its first row, as a row of A, and how many it has.
  Index first(Index tile) const {
    return patches_.overlap ? row(tile, 0) : begin_[0] + tile * step_[0];
  }
  Index size(Index tile) const {
    if (!patches_.overlap) return least(step_[0], all_ - tile * step_[0]);
    const Box b = box(tile);
    return b.count[0] * b.count[1] * b.count[2] * b.count[3];
  }
  /// Row i of a tile, as a row of A: all images' output positions in order.
  Index row(Index tile, Index i) const {
    const Box b = box(tile);
    Index at[4];
    for (int d = 3; d >= 0; i /= b.count[d], --d) at[d] = b.at[d] + i % b.count[d];
    return ((at[0] * axis(1).out + at[1]) * axis(2).out + at[2]) * axis(3).out + at[3];
  }

  /// Elements of A that a tile brings for terms [k, k + count), never more than a patch for each
  /// row; with lines, for all terms, what tiles before it have not brought.
  Index piece(Index tile, Index k, Index count) const {
    if (!patches_.overlap) return size(tile) * count;
    const Box b = box(tile);
    Index n = patches_.channels;
    if (n == 0) return 0;
    if (lines_) {
      for (int d = 0; d < 4; ++d) n *= axis(d).fresh(begin_[d], b.at[d], b.count[d]);
      return n;
    }
    // Terms run over (tap, channel). Of several taps all channels are brought, of several lines of
    // the kernel all taps.
    Index first = k / n, last = (k + count - 1) / n, rows = 1;
    if (first == last) n = count;
    for (int d = 3; d >= 0; --d) {
      const Index taps = axis(d).taps, from = first % taps, to = last % taps;
      first /= taps;
      last /= taps;
      n *= first == last ? axis(d).touched(b.at[d], b.count[d], from, to - from + 1)
                         : axis(d).touched(b.at[d], b.count[d]);
      rows *= b.count[d];
    }
    return least(n, rows * count);
  }
  /// No piece has more elements.
  Index largest() const {
    if (!patches_.overlap) return tile_ * patches_.channels;
    Index n = patches_.channels;
    for (int d = 0; d < 4; ++d) {
      const Index touched = axis(d).touched(begin_[d], size_[d]);
      n *= all_ == 0 ? 0 : least(touched, axis(d).reached(step_[d]));
    }
    return n;
  }
  /// What all tiles bring together, for all terms; without lines, at least.
  double elements() const {
    const auto d = [](Index x) { return static_cast<double>(x); };
    const double k = d(patches_.taps()) * d(patches_.channels);
    if (!patches_.overlap) return d(all_) * k;
    const double touched = d(this->touched());
    return lines_ || touched < d(all_) * k ? touched : d(all_) * k;
  }

  /// Lines in a buffer, in elements.
  struct Lines {
    Index all;     ///< everything
    Index fresh;   ///< what a tile brings that is not at the edge of an image
    Index kept;    ///< what it needs that earlier tiles have brought
    Index images;  ///< more than 1 where a tile may be in another than the one before
  };
  Lines measure_lines() const {
    Lines x{touched(), patches_.channels, patches_.channels, cut_ > 0 ? size_[0] : 1};
    bool turns = false;  // do tiles come back to the beginning of lines or planes?
    for (int d = 0; d < 4; ++d) {
      const Axis& a = axis(d);
      const Index touched = a.touched(begin_[d], size_[d]), window = least(a.reached(1), touched);
      const Index overlap = a.reached(1) > a.step ? a.reached(1) - a.step : 0;
      if (d < cut_) {
        x.fresh *= size_[d] > 1 ? least(a.usual_fresh(1), touched) : window;
        x.kept *= window;
        turns |= d > 0 && size_[d] > 1;
      } else {
        x.fresh *= d > cut_ ? touched : least(a.usual_fresh(step_[d]), touched);
        x.kept *= d > cut_ || turns ? touched : least(overlap, touched);
      }
    }
    return x;
  }

  /// Tiles along an axis that are like tile t.
  Axis::Run alike(int d, Index t) const {
    const Index whole = (d == cut_ ? whole_ : size_[d]) - 1;
    if (!patches_.overlap) return {0, whole};
    const Axis::Run run = axis(d).alike(begin_[d], step_[d], t);
    return {run.first > 0 ? run.first : 0, least(run.last, whole)};
  }

 private:
  /// The rows of a tile, by axis.
  struct Box {
    Index at[4], count[4];
  };

  static Index least(Index a, Index b) { return a < b ? a : b; }
  const Axis& axis(int d) const { return patches_.axes[d]; }

  /// Along the axis that makes the most even shares.
  void share_out(Index die, Index dies) {
    int best = 0;
    double most = 2;
    for (int d = 0; d < 4; ++d) {
      if (size_[d] == 0) continue;
      const double largest =
          static_cast<double>(divide_up(size_[d], dies)) / static_cast<double>(size_[d]);
      if (largest >= most) continue;
      most = largest;
      best = d;
    }
    const Index each = divide_up(size_[best], dies);
    begin_[best] = least(each * die, size_[best]);
    size_[best] = least(each, size_[best] - begin_[best]);
  }

  Box box(Index tile) const {
    Box b;
    for (int d = 3; d >= 0; --d) {
      Index t = 0;
      if (d <= cut_) {
        t = d == 0 ? tile : tile % count_[d];
        tile /= count_[d];
      }
      b.at[d] = begin_[d] + t * step_[d];
      b.count[d] = least(step_[d], size_[d] - t * step_[d]);
    }
    return b;
  }

  Index touched() const {
    Index n = patches_.channels;
    for (int d = 0; d < 4; ++d) n *= axis(d).touched(begin_[d], size_[d]);
    return n;
  }

  const Patches& patches_;
  const bool lines_;
  int cut_ = 0;
  Index all_ = 0, tile_ = 0, tiles_ = 0;
  Index whole_ = 0;  ///< along the axis that is cut, without a smaller one at the end
  Index begin_[4] = {}, size_[4], step_[4] = {}, count_[4] = {};  // of the axes
};

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
