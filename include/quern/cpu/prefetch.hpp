// Software prefetching of packed weights.
#pragma once

#include "quern/core/memory.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// Fetches the next slice of B into L2 while the tiles of this one are multiplied, a share with
/// each tile: 9 % for 16 rows on AVX2 with weights in L3. Hardware is better at it when there are
/// few tiles, which would have to ask for much at once.
class Prefetch {
 public:
  Prefetch() = default;  ///< of nothing

  /// `bytes` of each of `panels` panels that begin `panel` bytes apart, over `tiles` calls.
  Prefetch(const std::byte* next, Index panel, Index panels, Index bytes, Index tiles)
      : next_(next), panel_(panel), panels_(tiles < kFewTiles ? 0 : panels), bytes_(bytes) {
    share_ = round_up(divide_up(bytes, tiles), kLine);
  }
  /// The next share.
  void some() {
    const Index end = done_ + share_ < bytes_ ? done_ + share_ : bytes_;
    for (Index i = 0; i < panels_; ++i) {
      for (Index at = done_; at < end; at += kLine) {
        __builtin_prefetch(next_ + i * panel_ + at, 0, 2);
      }
    }
    done_ = end;
  }

 private:
  static constexpr Index kLine = 64, kFewTiles = 4;
  const std::byte* next_ = nullptr;
  Index panel_ = 0, panels_ = 0, bytes_ = 0, share_ = 0, done_ = 0;
};

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
