#include <cmath>
#include <cstring>
#include <limits>

#include "quern/core/dtype.hpp"
#include "quern/testing/random.hpp"
#include "support.hpp"

using namespace quern;

namespace {

/// A small binary float format, by its definition.
struct Format {
  int exponent_bits, mantissa_bits;
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  unsigned infinity() const { return ((1u << exponent_bits) - 1) << mantissa_bits; }

  /// The number that a code below infinity() stands for.
  double value(unsigned code) const {
    const int exponent = static_cast<int>(code >> mantissa_bits);
    const double fraction = std::ldexp(code & ((1u << mantissa_bits) - 1), -mantissa_bits);
    return exponent == 0 ? std::ldexp(fraction, 1 - bias())
                         : std::ldexp(1 + fraction, exponent - bias());
  }

  /// The code nearest to x >= 0, the even one of two, by search. What rounds to the number after
  /// the largest is infinity, as IEEE 754 says.
  unsigned nearest(double x) const {
    unsigned low = 0, high = infinity();  // value(low) <= x, and x <= value(high) or it is larger
    while (high - low > 1) {
      const unsigned middle = (low + high) / 2;
      (value(middle) <= x ? low : high) = middle;
    }
    const double above = high == infinity() ? std::ldexp(1, bias() + 1) : value(high);
    const double halfway = (value(low) + above) / 2;
    if (x != halfway) return x < halfway ? low : high;
    return low % 2 == 0 ? low : high;
  }
};
constexpr Format kBf16{8, 7}, kF16{5, 10};

std::uint32_t bits(float x) { return std::bit_cast<std::uint32_t>(x); }

/// Decodes every code, and encodes what the code stands for again.
template <class Half, class Encode>
void check_codes(const Format& format, Encode encode) {
  unsigned wrong = 0;
  for (unsigned code = 0; code < 0x10000; ++code) {
    const float x = to_float(Half{static_cast<std::uint16_t>(code)});
    const unsigned magnitude = code & 0x7FFF;
    wrong += std::signbit(x) != (code >= 0x8000);
    if (magnitude < format.infinity()) {
      wrong += std::fabs(double{x}) != format.value(magnitude);
    } else {
      wrong += magnitude == format.infinity() ? !std::isinf(x) : !std::isnan(x);
    }
    // A NaN stays one, made quiet.
    const unsigned quiet = magnitude > format.infinity() ? 1u << (format.mantissa_bits - 1) : 0u;
    wrong += encode(x).bits != (code | quiet);
  }
  CHECK(wrong == 0);
}

template <class Encode>
void check_nearest(const Format& format, Encode encode) {
  testing::Random random(7);
  unsigned wrong = 0;
  const auto check = [&](float x) {
    wrong += encode(x).bits != format.nearest(x) || encode(-x).bits != (format.nearest(x) | 0x8000);
  };
  for (unsigned code = 0; code < format.infinity(); ++code) {
    const double next =
        code + 1 < format.infinity() ? format.value(code + 1) : std::ldexp(1, format.bias() + 1);
    const double tie = (format.value(code) + next) / 2;
    if (tie > double{std::numeric_limits<float>::max()}) continue;
    const float t = static_cast<float>(tie);
    REQUIRE(double{t} == tie);
    for (const float x : {t, std::nextafterf(t, 0.0f), std::nextafterf(t, HUGE_VALF)}) check(x);
  }
  for (int i = 0; i < 100000; ++i) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(random.bits()) & 0x7FFFFFFF);
    if (std::isfinite(x)) check(x);
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("bf16: all codes are read as IEEE says and written back unchanged") {
  check_codes<bf16>(kBf16, to_bf16);
}
TEST_CASE("f16: all codes are read as IEEE says and written back unchanged") {
  check_codes<f16>(kF16, to_f16);
}
TEST_CASE("bf16: floats round to the nearest code, ties to even, overflow to infinity") {
  check_nearest(kBf16, to_bf16);
}
TEST_CASE("f16: floats round to the nearest code, ties to even, overflow to infinity") {
  check_nearest(kF16, to_f16);
}

TEST_CASE("f16: the borders of the format") {
  CHECK(to_f16(65504.0f).bits == 0x7BFF);
  CHECK(to_f16(65519.996f).bits == 0x7BFF);
  CHECK(to_f16(65520.0f).bits == 0x7C00);
  CHECK(to_f16(0x1p-24f).bits == 1);
  CHECK(to_f16(0x1p-25f).bits == 0);  // a tie: to even
  CHECK(to_f16(std::nextafterf(0x1p-25f, 1.0f)).bits == 1);
  CHECK(to_f16(-0.0f).bits == 0x8000);
}

TEST_CASE("NaNs of every kind stay NaNs, quiet and of the same sign") {
  for (const std::uint32_t nan : {0x7F800001u, 0x7FC00000u, 0x7FFFFFFFu, 0x7F801000u}) {
    for (const std::uint32_t sign : {0u, 0x80000000u}) {
      const float x = std::bit_cast<float>(nan | sign);
      CHECK((to_bf16(x).bits & 0x7FC0) == 0x7FC0);
      CHECK((to_f16(x).bits & 0x7E00) == 0x7E00);
      CHECK((bits(to_float(to_bf16(x))) & 0x80000000u) == sign);
      CHECK((bits(to_float(to_f16(x))) & 0x80000000u) == sign);
    }
  }
}

TEST_CASE("conversions can be done at compile time") {
  static_assert(to_float(to_bf16(1.5f)) == 1.5f);
  static_assert(to_float(to_f16(-0.25f)) == -0.25f);
  static_assert(to_f16(1e-7f).bits == 2);
}

TEST_CASE("every type has a name, a size and a range") {
  struct Row {
    DType type;
    const char* name;
    Index size;
  };
  for (const Row& row : {Row{DType::s8, "s8", 1},
                         {DType::u8, "u8", 1},
                         {DType::s32, "s32", 4},
                         {DType::f32, "f32", 4},
                         {DType::bf16, "bf16", 2},
                         {DType::f16, "f16", 2}}) {
    CHECK(std::strcmp(name(row.type), row.name) == 0);
    CHECK(size_of(row.type) == row.size);
    CHECK(is_known(row.type));
  }
  const DType unknown = static_cast<DType>(77);
  CHECK_FALSE(is_known(unknown));
  CHECK(size_of(unknown) == 0);
  CHECK(std::strcmp(name(unknown), "unknown type") == 0);
  CHECK(lowest(DType::s8) == -128);
  CHECK(highest(DType::s8) == 127);
  CHECK(lowest(DType::u8) == 0);
  CHECK(highest(DType::u8) == 255);
  static_assert(dtype_of<std::int8_t> == DType::s8 && dtype_of<f16> == DType::f16);
}
