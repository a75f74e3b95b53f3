#include <cmath>
#include <limits>

#include "quern/core/rounding.hpp"
#include "quern/testing/random.hpp"
#include "support.hpp"

using namespace quern;

TEST_CASE("quantize: ties go to the even integer") {
  const float ties[] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f};
  const int rounded[] = {0, 2, 2, 0, -2, -2, 126};
  for (int i = 0; i < 7; ++i) CHECK(quantize(ties[i], 0, DType::s8) == rounded[i]);
}

TEST_CASE("quantize: the zero point is added after rounding, as an integer") {
  CHECK(quantize(0.5f, 1, DType::s8) == 1);  // 1.5 would have become 2
  CHECK(quantize(1.5f, 1, DType::s8) == 3);
  CHECK(quantize(-0.5f, 7, DType::u8) == 7);
}

TEST_CASE("quantize: what is out of range saturates") {
  CHECK(quantize(127.6f, 0, DType::s8) == 127);
  CHECK(quantize(-129.0f, 0, DType::s8) == -128);
  CHECK(quantize(-0.6f, 0, DType::u8) == 0);
  CHECK(quantize(300.0f, 0, DType::u8) == 255);
  CHECK(quantize(300.0f, -128, DType::s8) == 127);
  CHECK(quantize(200.0f, -128, DType::s8) == 72);
  for (const DType type : {DType::s8, DType::u8}) {
    for (const std::int32_t zero_point : {lowest(type), 0, highest(type)}) {
      for (const float x : {1e10f, std::numeric_limits<float>::max(), HUGE_VALF}) {
        CHECK(quantize(x, zero_point, type) == highest(type));
        CHECK(quantize(-x, zero_point, type) == lowest(type));
      }
    }
  }
}

TEST_CASE("quantize: NaN becomes the zero point") {
  CHECK(quantize(NAN, 0, DType::s8) == 0);
  CHECK(quantize(-NAN, -5, DType::s8) == -5);
  CHECK(quantize(NAN, 200, DType::u8) == 200);
}

TEST_CASE("quantize agrees with the definition in double arithmetic") {
  testing::Random random(11);
  int wrong = 0;
  for (int i = 0; i < 200000; ++i) {
    const float x =
        std::ldexp(random.uniform(-1.0f, 1.0f), static_cast<int>(random.between(-5, 20)));
    const DType type = random.pick({DType::s8, DType::u8});
    const auto zero_point = static_cast<std::int32_t>(random.between(lowest(type), highest(type)));
    double q = std::floor(double{x});
    const double fraction = double{x} - q;
    if (fraction > 0.5 || (fraction == 0.5 && std::fmod(q, 2.0) != 0.0)) q += 1.0;
    q = std::fmin(std::fmax(q + zero_point, lowest(type)), highest(type));
    wrong += quantize(x, zero_point, type) != static_cast<std::int32_t>(q);
  }
  CHECK(wrong == 0);
}

TEST_CASE("dynamic quantization: the largest magnitude becomes 127") {
  for (const float amax : {127.0f, 1.0f, 3.7f, 1e-30f, 1e30f, 0x1p-120f}) {
    const RowQuantization q = RowQuantization::of(amax);
    CHECK(quantize(amax * q.inverse, 0, DType::s8) == 127);
    CHECK(quantize(-amax * q.inverse, 0, DType::s8) == -127);
    CHECK(q.scale * 127.0f == doctest::Approx(amax));
  }
}

TEST_CASE(
    "dynamic quantization: rows of zeros, of next to nothing and with infinities are defined") {
  CHECK(RowQuantization::of(0.0f).scale == 0.0f);
  CHECK(RowQuantization::of(0.0f).inverse == 0.0f);
  CHECK(RowQuantization::of(0x1p-140f).inverse == 0.0f);
  const RowQuantization infinite = RowQuantization::of(HUGE_VALF);
  CHECK(infinite.scale == HUGE_VALF);
  CHECK(quantize(5.0f * infinite.inverse, 0, DType::s8) == 0);
  CHECK(quantize(HUGE_VALF * infinite.inverse, 0, DType::s8) == 0);
}

TEST_CASE("unfused returns its argument, whatever it is") {
  for (const float x : {0.0f, -0.0f, 1.5f, HUGE_VALF, 1e-45f}) {
    CHECK(std::bit_cast<std::uint32_t>(unfused(x)) == std::bit_cast<std::uint32_t>(x));
  }
  CHECK(std::isnan(unfused(NAN)));
}

TEST_CASE("a product that passed unfused() is rounded before it is added to") {
  // (1 + 2^-12)^2 - 1 - 2^-11 is 2^-24 exactly; rounding the product first loses it.
  volatile float a = 1.0f + 0x1p-12f, c = -1.0f - 0x1p-11f;
  CHECK(unfused(a * a) + c == 0.0f);
  CHECK(std::fma(a, a, c) == 0x1p-24f);
}
