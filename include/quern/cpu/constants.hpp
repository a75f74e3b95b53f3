// The arrays of numbers that a prepared operation keeps: whole panels, so that kernels need not
// look where the columns end.
#pragma once

#include <cstring>

#include "quern/cpu/kernels.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// Hands out arrays of `width` words from memory of bytes(), all zeros.
class Constants {
 public:
  /// For the steps of an epilogue and this many more arrays.
  static Index bytes(Index width, Index more) { return (Epilogue::kMaxSteps + more) * width * 4; }

  Constants(std::byte* memory, Index width)
      : next_(reinterpret_cast<std::int32_t*>(memory)), width_(width) {}

  std::int32_t* take(Index rows = 1) {
    std::int32_t* piece = next_;
    next_ += rows * width_;
    if (piece != nullptr) std::memset(piece, 0, static_cast<std::size_t>(rows * width_) * 4);
    return piece;
  }

  /// Lets the steps point to copies of their values.
  void steps(Epilogue& epilogue) {
    for (Step& s : epilogue.steps) {
      if (!s.has_values() || s.count == 0) continue;
      std::int32_t* copy = take();
      std::memcpy(copy, s.data, static_cast<std::size_t>(s.count) * 4);
      s.data = copy;
    }
  }

 private:
  std::int32_t* next_;
  Index width_;
};

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
