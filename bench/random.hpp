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

/// Activations as calibration leaves them: a bell around the middle of u8, its tails just cut off.
inline std::uint8_t activation(Random& random) {
  float sum = 0;
  for (int i = 0; i < 4; ++i) sum += random.unit() - 0.5f;
  const float value = 128.0f + 75.0f * sum;  // 4 uniforms deviate by 0.58
  return static_cast<std::uint8_t>(value < 0 ? 0.0f : value > 255 ? 255.0f : value);
}

}  // namespace bench
