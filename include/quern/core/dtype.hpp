// Element types: their names, sizes and exact scalar conversions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "quern/config.hpp"

namespace quern {
inline namespace QUERN_ABI {

/// Extents, strides and counts. Signed, so that a negative size is seen and reported.
using Index = std::int64_t;

/// The type of a tensor's elements. Narrower formats are added at the end: the values are stored in
/// packed weights.
enum class DType : std::uint8_t { s8, u8, s32, f32, bf16, f16 };

constexpr bool is_known(DType t) { return static_cast<std::uint8_t>(t) <= 5; }
constexpr const char* name(DType t) {
  constexpr const char* kNames[] = {"s8", "u8", "s32", "f32", "bf16", "f16"};
  return is_known(t) ? kNames[static_cast<std::uint8_t>(t)] : "unknown type";
}
constexpr Index size_of(DType t) {
  constexpr Index kSizes[] = {1, 1, 4, 4, 2, 2};
  return is_known(t) ? kSizes[static_cast<std::uint8_t>(t)] : 0;
}
constexpr bool is_int8(DType t) { return t == DType::s8 || t == DType::u8; }
constexpr bool is_float(DType t) { return t == DType::f32 || t == DType::bf16 || t == DType::f16; }
constexpr std::int32_t lowest(DType t) { return t == DType::s8 ? -128 : 0; }
constexpr std::int32_t highest(DType t) { return t == DType::s8 ? 127 : 255; }

/// bfloat16: the upper half of an IEEE binary32.
struct bf16 {
  std::uint16_t bits = 0;
  bool operator==(const bf16&) const = default;
};

/// IEEE binary16.
struct f16 {
  std::uint16_t bits = 0;
  bool operator==(const f16&) const = default;
};

constexpr float to_float(bf16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}

/// Rounds to nearest, ties to even. Every NaN becomes a quiet NaN of the same sign.
constexpr bf16 to_bf16(float x) {
  const std::uint32_t u = std::bit_cast<std::uint32_t>(x);
  if ((u & 0x7FFFFFFFu) > 0x7F800000u) return {static_cast<std::uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16)};
}

constexpr float to_float(f16 x) {
  const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000u) << 16;
  const std::uint32_t exponent = (x.bits >> 10) & 0x1Fu, mantissa = x.bits & 0x3FFu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | (mantissa << 13));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // zero or subnormal: exact
  return sign ? -magnitude : magnitude;
}

/// Rounds to nearest, ties to even; overflow becomes infinity, NaN a quiet NaN of the same sign.
constexpr f16 to_f16(float x) {
  const std::uint32_t u = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (u >> 16) & 0x8000u, magnitude = u & 0x7FFFFFFFu;
  const auto with_sign = [&](std::uint32_t v) { return f16{static_cast<std::uint16_t>(sign | v)}; };
  if (magnitude > 0x7F800000u) return with_sign(0x7E00u | ((magnitude >> 13) & 0x1FFu));
  if (magnitude >= 0x477FF000u) return with_sign(0x7C00u);  // 65520 and above round to infinity
  if (magnitude >= 0x38800000u) {                           // a normal f16
    return with_sign((magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13);
  }
  // Subnormal: adding 0.5 leaves the result's 24 bits aligned at 2^-24 and rounds to nearest even.
  const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
  return with_sign(std::bit_cast<std::uint32_t>(shifted) - 0x3F000000u);
}

/// dtype_of<T>: the DType of a C++ type; `void` elements have none.
template <class T>
inline constexpr DType dtype_of = [] {
  static_assert(sizeof(T) == 0, "no DType");
  return DType{};
}();
template <>
inline constexpr DType dtype_of<std::int8_t> = DType::s8;
template <>
inline constexpr DType dtype_of<std::uint8_t> = DType::u8;
template <>
inline constexpr DType dtype_of<std::int32_t> = DType::s32;
template <>
inline constexpr DType dtype_of<float> = DType::f32;
template <>
inline constexpr DType dtype_of<bf16> = DType::bf16;
template <>
inline constexpr DType dtype_of<f16> = DType::f16;

}  // namespace QUERN_ABI
}  // namespace quern
