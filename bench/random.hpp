// Random numbers that are the same everywhere.
#pragma once

#include <cstdint>

namespace bench {

/// SplitMix64: small, quick, and good enough for test data.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t bits() {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(n));
  }
  /// In [0, 1).
  float unit() { return static_cast<float>(bits() >> 40) * 0x1p-24f; }

 private:
  std::uint64_t state_;
};

}  // namespace bench
