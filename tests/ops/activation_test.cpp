#include <bit>
#include <cmath>
#include <cstdint>

#include "quern/ops/activation.hpp"
#include "quern/testing/random.hpp"
#include "support.hpp"

using namespace quern;

namespace {

/// The distance of y from the true value in units of the last place of the result.
double ulps(float y, double truth) {
  const float nearest = static_cast<float>(truth);
  const double ulp =
      double{std::nextafterf(std::fabs(nearest), HUGE_VALF)} - double{std::fabs(nearest)};
  return std::fabs(double{y} - truth) / ulp;
}

/// The largest error(x) for random x in [low, high].
template <class F>
double worst(float low, float high, F error) {
  quern::testing::Random random(3);
  double most = 0.0;
  for (int i = 0; i < 200000; ++i) most = std::fmax(most, error(random.uniform(low, high)));
  for (const float x : {low, high, 0.0f, -0.0f, 1.0f, -1.0f}) most = std::fmax(most, error(x));
  return most;
}

double true_gelu(double x) { return 0.5 * x * std::erfc(-x * std::sqrt(0.5)); }
double true_gelu_tanh(double x) {
  const double y = 2.0 * std::sqrt(2.0 / 3.14159265358979323846) * (x + 0.044715 * x * x * x);
  return x / (1.0 + std::exp(-y));
}
double true_silu(double x) { return x / (1.0 + std::exp(-x)); }

/// A number that changes when any bit of f's results does, over inputs of every magnitude.
std::uint64_t fingerprint(float (*f)(float)) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  for (std::uint32_t i = 0; i < 400000; ++i) {
    const float x = std::bit_cast<float>(i * 10007u);
    const float y = f(x);
    hash = (hash ^ (y == y ? std::bit_cast<std::uint32_t>(y) : 0u)) * 0x100000001B3u;
  }
  return hash;
}

}  // namespace

TEST_CASE("exp is within 3 ulp from -87 to 88") {
  CHECK(worst(-87.0f, 88.0f, [](float x) { return ulps(scalar::exp(x), std::exp(double{x})); }) <
        3.0);
  CHECK(worst(-1.0f, 1.0f, [](float x) { return ulps(scalar::exp(x), std::exp(double{x})); }) <
        3.0);
  CHECK(scalar::exp(0.0f) == 1.0f);
}

TEST_CASE("exp beyond -87 and 88 is exp at the border, and NaN stays NaN") {
  CHECK(scalar::exp(-1e30f) == scalar::exp(-87.0f));
  CHECK(scalar::exp(-HUGE_VALF) == scalar::exp(-87.0f));
  CHECK(scalar::exp(1e30f) == scalar::exp(88.0f));
  CHECK(scalar::exp(HUGE_VALF) == scalar::exp(88.0f));
  CHECK(std::isnan(scalar::exp(NAN)));
}

TEST_CASE("silu is within a few ulp, where e^-x is in exp's range") {
  CHECK(worst(-86.0f, 86.0f, [](float x) { return ulps(scalar::silu(x), true_silu(double{x})); }) <
        6.0);
  CHECK(worst(-2.0f, 2.0f, [](float x) { return ulps(scalar::silu(x), true_silu(double{x})); }) <
        6.0);
}

TEST_CASE("gelu is within 2e-7 |x|, the error of its erf, plus rounding") {
  const auto error = [](float x) {
    return std::fabs(double{scalar::gelu(x)} - true_gelu(double{x})) /
           (std::fabs(double{x}) + 1e-30);
  };
  CHECK(worst(-10.0f, 10.0f, error) < 3e-7);
  CHECK(worst(-0.01f, 0.01f, error) < 3e-7);
}

TEST_CASE("gelu_tanh is within 1e-6 |x| of its own definition, and 1e-3 of gelu") {
  const auto error = [](float x) {
    return std::fabs(double{scalar::gelu_tanh(x)} - true_gelu_tanh(double{x})) /
           (std::fabs(double{x}) + 1e-30);
  };
  CHECK(worst(-10.0f, 10.0f, error) < 1e-6);
  CHECK(worst(-10.0f, 10.0f, [](float x) {
          return std::fabs(double{scalar::gelu_tanh(x)} - true_gelu(double{x}));
        }) < 1e-3);
}

TEST_CASE("activations at the ends: nothing on the left, x on the right, NaN stays NaN") {
  for (float (*f)(float) : {scalar::silu, scalar::gelu, scalar::gelu_tanh}) {
    CHECK(std::fabs(f(-100.0f)) < 1e-30f);
    CHECK(std::fabs(f(-1e30f)) < 1e-6f);
    CHECK(f(100.0f) == 100.0f);
    CHECK(f(1e30f) == 1e30f);
    CHECK(f(HUGE_VALF) == HUGE_VALF);
    CHECK(f(0.0f) == 0.0f);
    CHECK(std::isnan(f(NAN)));
  }
}

TEST_CASE("bounds let NaN pass and keep the sign of zero") {
  CHECK(std::isnan(scalar::lower_bound(NAN, 0.0f)));
  CHECK(std::isnan(scalar::upper_bound(NAN, 0.0f)));
  CHECK(scalar::lower_bound(-1.0f, 0.0f) == 0.0f);
  CHECK(std::signbit(scalar::lower_bound(-0.0f, 0.0f)));
  CHECK(scalar::upper_bound(3.0f, 2.0f) == 2.0f);
}

// The values are those of g++ 12 for x86-64. They have to be the same with every compiler,
// instruction set and -ffp-contract; a change of a formula changes them.
TEST_CASE("every build computes the same bits") {
  CHECK(fingerprint(scalar::exp) == 1250088682583311838u);
  CHECK(fingerprint(scalar::silu) == 4525093595111632376u);
  CHECK(fingerprint(scalar::gelu) == 9665728586033574519u);
  CHECK(fingerprint(scalar::gelu_tanh) == 407024723938141278u);
}
