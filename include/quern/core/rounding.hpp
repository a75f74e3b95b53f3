// Rounding and requantization: the float arithmetic that every backend must reproduce bit for bit.
#pragma once

#include <cmath>
#include <cstdint>

#include "quern/core/dtype.hpp"

namespace quern {
inline namespace QUERN_ABI {

/// x, hidden from the optimizer. Compilers may fuse `a * b + c` into one FMA where the target has
/// it (g++ by default, all with -ffp-contract=fast), which would make bits depend on the
/// instruction set. Products pass through here before they are added to something.
inline float unfused(float x) {
#if defined(__GNUC__) && defined(__SSE__)
  asm("" : "+x"(x));
#elif defined(__GNUC__) && defined(__aarch64__)
  asm("" : "+w"(x));
#else
  volatile float y = x;
  x = y;
#endif
  return x;
}

/// saturate(round_half_even(x) + zero_point) in the range of s8 or u8. NaN becomes zero_point,
/// infinities saturate. Assumes the default rounding mode.
inline std::int32_t quantize(float x, std::int32_t zero_point, DType type) {
  if (!(x == x)) x = 0.0f;
  // Beyond +-1024 the result saturates anyway; the bound keeps the conversion defined.
  x = x < -1024.0f ? -1024.0f : x > 1024.0f ? 1024.0f : x;
  const std::int32_t q = static_cast<std::int32_t>(std::nearbyint(x)) + zero_point;
  return q < lowest(type) ? lowest(type) : q > highest(type) ? highest(type) : q;
}

/// Symmetric dynamic quantization of a row: with amax the largest magnitude in it (NaN ignored),
/// q = quantize(x * (127 / amax)) in s8, and `scale` = amax / 127 restores it. A row of zeros has
/// scale 0. A row with an infinity has scale infinity, and every q of it is 0.
struct RowQuantization {
  float inverse = 0.0f;
  float scale = 0.0f;

  static RowQuantization of(float amax) {
    RowQuantization r;
    r.scale = amax / 127.0f;
    // amax below 2^-120 would overflow the quotient; such a row is zero for every purpose.
    r.inverse = amax >= 0x1p-120f ? 127.0f / amax : 0.0f;
    return r;
  }
};

}  // namespace QUERN_ABI
}  // namespace quern
