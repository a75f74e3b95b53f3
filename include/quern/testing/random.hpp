// The randomness of the problem generators: the same numbers for a seed on every platform, which
// the distributions of <random> do not promise; or numbers read from a fuzzer's bytes.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>

#include "quern/core/dtype.hpp"
#include "quern/core/rounding.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  /// Takes decisions from `bytes` while there are any, so that a fuzzer which changes one byte
  /// changes one decision; then goes on as Random(seed).
  explicit Random(std::span<const std::uint8_t> bytes, std::uint64_t seed = 0)
      : state_(seed), bytes_(bytes) {}

  /// 64 random bits: splitmix64 (Steele, Lea, Flood), good for any seed, consecutive ones too.
  std::uint64_t bits() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  /// An integer in [low, high], each with (nearly) equal chance.
  Index between(Index low, Index high) {
    const std::uint64_t choices = static_cast<std::uint64_t>(high - low) + 1;
    return low + static_cast<Index>(draw(choices) % choices);
  }
  bool one_in(Index n) { return between(1, n) == n; }
  template <class T>
  T pick(std::initializer_list<T> choices) {
    return choices.begin()[between(0, static_cast<Index>(choices.size()) - 1)];
  }

  /// In [low, high), from 24 random bits.
  float uniform(float low, float high) {
    return low + unfused((high - low) * (static_cast<float>(bits() >> 40) * 0x1p-24f));
  }

 private:
  std::uint64_t draw(std::uint64_t choices) {
    if (bytes_.empty()) return bits();
    std::uint64_t value = 0;
    for (; choices > 1 && !bytes_.empty(); choices = (choices + 255) / 256) {
      value = value << 8 | bytes_.front();
      bytes_ = bytes_.subspan(1);
    }
    return value;
  }

  std::uint64_t state_;
  std::span<const std::uint8_t> bytes_;
};

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
