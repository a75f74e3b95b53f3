// Activation functions: each is a short sequence of IEEE single operations, none of them fused, so
// that every instruction set and backend returns the same bits.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "quern/core/rounding.hpp"

namespace quern {
inline namespace QUERN_ABI {

// Coefficients shared by the scalar code here and the vector code of the backends.
namespace coefficients {
inline constexpr float kLog2E = 1.44269504088896341f;
// ln 2 in two parts: the first has few enough bits that n * kLn2High is exact (Cody and Waite).
inline constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
// exp(r) = 1 + r + r^2 p(r) on |r| <= ln(2)/2: Cephes' expf (S. L. Moshier), below 2 ulp.
inline constexpr float kExp[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
// The result stays a normal number: exp(-87) = 1.6e-38, exp(88) = 1.7e38.
inline constexpr float kExpLow = -87.0f, kExpHigh = 88.0f;
// erf(x) = 1 - t p(t) exp(-x^2), t = 1 / (1 + kErfP x), x >= 0: Abramowitz and Stegun 7.1.26,
// absolute error below 1.5e-7.
inline constexpr float kErfP = 0.3275911f;
inline constexpr float kErf[] = {1.061405429f, -1.453152027f, 1.421413741f, -0.284496736f,
                                 0.254829592f};
inline constexpr float kSqrtHalf = 0.70710678118654752f;
inline constexpr float kGeluTanhScale = 1.59576912160573081f;  // 2 sqrt(2 / pi)
inline constexpr float kGeluTanhCubic = 0.044715f;
}  // namespace coefficients

namespace scalar {

inline float multiply_add(float a, float b, float c) { return unfused(a * b) + c; }
inline float lower_bound(float x, float lo) { return x < lo ? lo : x; }  // NaN passes
inline float upper_bound(float x, float hi) { return x > hi ? hi : x; }

/// e^x within 3 ulp on [-87, 88], x clamped to that range; NaN stays NaN.
inline float exp(float x) {
  namespace c = coefficients;
  x = upper_bound(lower_bound(x, c::kExpLow), c::kExpHigh);
  const float n = std::nearbyint(x * c::kLog2E);
  float r = multiply_add(n, -c::kLn2High, x);
  r = multiply_add(n, -c::kLn2Low, r);
  float p = c::kExp[0];
  for (int i = 1; i < 6; ++i) p = multiply_add(p, r, c::kExp[i]);
  p = multiply_add(p, unfused(r * r), r) + 1.0f;
  if (!(x == x)) return x;
  const auto power = std::bit_cast<float>((static_cast<std::int32_t>(n) + 127) << 23);
  return p * power;
}

/// x / (1 + e^-x), the SiLU or swish function.
inline float silu(float x) {
  x = lower_bound(x, coefficients::kExpLow);
  return x / (1.0f + exp(-x));
}

/// x/2 (1 + erf(x / sqrt 2)).
inline float gelu(float x) {
  namespace c = coefficients;
  const float z = unfused(std::fabs(x) * c::kSqrtHalf);
  const float t = 1.0f / multiply_add(z, c::kErfP, 1.0f);
  float p = c::kErf[0];
  for (int i = 1; i < 5; ++i) p = multiply_add(p, t, c::kErf[i]);
  // tail = (1 - erf(z)) / 2; gelu(x) = x (1 - tail) above zero and x tail below.
  const float tail = unfused(0.5f * unfused(unfused(p * t) * exp(unfused(z * -z))));
  return x * (x < 0.0f ? tail : 1.0f - tail);
}

/// GELU's tanh approximation: x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)).
inline float gelu_tanh(float x) {
  namespace c = coefficients;
  const float cube = unfused(unfused(x * x) * x);
  const float y = c::kGeluTanhScale * multiply_add(cube, c::kGeluTanhCubic, x);
  return lower_bound(x, c::kExpLow) / (1.0f + exp(-y));
}

}  // namespace scalar
}  // namespace QUERN_ABI
}  // namespace quern
