// Softmax, RMSNorm and LayerNorm: what their rows are, how far floats may be, what is refused.
#include <cmath>
#include <string>
#include <vector>

#include "quern/ops/normalize.hpp"
#include "quern/testing/random.hpp"
#include "support.hpp"

using namespace quern;
using quern::testing::Random;

namespace {

using Floats = std::vector<float>;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Floats numbers(std::size_t count, float most, std::uint64_t seed = 1) {
  Random random(seed);
  Floats x(count);
  for (float& one : x) one = random.uniform(-most, most);
  return x;
}
Floats softmax(const Floats& x, Index cols, SoftmaxResult result = SoftmaxResult::weights) {
  const SoftmaxProblem p{.cols = cols, .result = result};
  Floats y(x.size());
  const Index rows = std::ssize(x) / cols;
  const SoftmaxArgs args{{x.data(), DType::f32, rows, cols}, {y.data(), DType::f32, rows, cols}};
  const Error e = validate(p, args);
  REQUIRE_MESSAGE(!e, e);
  reference_softmax(p, args);
  return y;
}
void check_error(const Error& e, Code code, const std::vector<std::string>& words) {
  CAPTURE(e);
  CHECK(e.code() == code);
  for (const std::string& word : words) {
    CAPTURE(word);
    CHECK(support::says(e, word));
  }
}

/// x, residual and y (2, 3, 8).
struct Call {
  NormalizeProblem problem;
  Floats x = numbers(48, 3.0f), residual = numbers(48, 3.0f, 2), y = Floats(48), sum = Floats(48);
  Floats gamma = numbers(8, 2.0f, 3), beta = numbers(8, 2.0f, 4), means = Floats(6),
         factors = Floats(6);
  NormalizeArgs args;
  explicit Call(Normalization kind, bool with_residual = false) {
    problem = {.cols = 8, .kind = kind, .gamma = gamma, .residual = with_residual};
    const auto view = [](Floats& data) {
      return MatrixView(data.data(), DType::f32, 3, 8, 8, 1, 2, 24);
    };
    if (kind == Normalization::layer) problem.beta = beta;
    args = {.x = view(x), .y = view(y), .means = means, .factors = factors};
    if (with_residual) {
      args.residual = view(residual);
      args.sum = view(sum);
    }
  }
  Call(const Call&) = delete;
  void run() {
    const Error described = validate(problem), called = validate(problem, args);
    REQUIRE_MESSAGE(!described, described);
    REQUIRE_MESSAGE(!called, called);
    reference_normalize(problem, args);
  }
};

template <class Spoil>
void refuses(Spoil&& spoil, Code code, const std::vector<std::string>& words) {
  Call v(Normalization::layer, true);
  spoil(v);
  Error e = validate(v.problem);
  if (!e) e = validate(v.problem, v.args);
  check_error(e, code, words);
}

}  // namespace

TEST_CASE("softmax weights sum to 1, do not see a common shift, and exponentiate the logarithms") {
  const Floats x = numbers(40, 5.0f), y = softmax(x, 8),
               logs = softmax(x, 8, SoftmaxResult::logarithms);
  Floats shifted = x;
  for (float& one : shifted) one += 64.0f;
  const Floats z = softmax(shifted, 8);
  for (std::size_t row = 0; row < 5; ++row) {
    float sum = 0.0f;
    for (std::size_t j = row * 8; j < row * 8 + 8; ++j) {
      sum += y[j];
      CHECK(z[j] == doctest::Approx(y[j]).epsilon(2e-5));
      CHECK(std::exp(logs[j]) == doctest::Approx(y[j]).epsilon(2e-6));
    }
    CHECK(sum == doctest::Approx(1.0f).epsilon(1e-6));
  }
}

TEST_CASE("softmax of infinities: none is left of -infinity, NaN spreads over its row") {
  const Floats y = softmax({-kInfinity, 0.0f, 0.0f, -kInfinity, -kInfinity, -kInfinity}, 3);
  CHECK(y == Floats{0.0f, 0.5f, 0.5f, 0.0f, 0.0f, 0.0f});
  CHECK(softmax({-kInfinity, -kInfinity}, 2, SoftmaxResult::logarithms)[1] == -kInfinity);
  for (const float bad : {NAN, kInfinity}) {
    const Floats z = softmax({1.0f, bad, 2.0f, 1.0f, 1.0f, 1.0f}, 3);
    CHECK(std::isnan(z[0]));
    CHECK_FALSE(std::isnan(z[3]));
  }
  CHECK(std::isnan(softmax({NAN, NAN}, 2)[0]));
  CHECK(std::isnan(softmax({NAN, -HUGE_VALF}, 2)[1]));
  CHECK(softmax({3e38f, -3e38f}, 2) == Floats{1.0f, 0.0f});
}

TEST_CASE("softmax along another axis is that of the transposed matrix, in place too") {
  const Floats x = numbers(12, 4.0f);
  Floats y = x, transposed(12);
  for (std::size_t i = 0; i < 12; ++i) transposed[i % 4 * 3 + i / 4] = x[i];
  const SoftmaxProblem p{.cols = 3};
  const MatrixView view(y.data(), DType::f32, 4, 3, 1, 4);
  REQUIRE_FALSE(validate(p, {view, view}));
  reference_softmax(p, {view, view});
  const Floats rows = softmax(transposed, 3);
  for (std::size_t i = 0; i < 12; ++i) CHECK(y[i] == rows[i % 4 * 3 + i / 4]);
}

TEST_CASE("softmax in floats stays within its tolerance") {
  for (const Index cols : {1, 7, 300}) {
    const float most = 20.0f;
    const Floats x = numbers(std::size_t(cols), most), y = softmax(x, cols);
    const RowTolerance limit = softmax_tolerance({.cols = cols}, double(most));
    CHECK(limit.relative < 1e-4);
    float m = -kInfinity, sum = 0.0f;
    for (const float one : x) m = std::max(m, one);
    for (const float one : x) sum += scalar::exp(one - m);
    for (std::size_t j = 0; j < x.size(); ++j) {
      const double error = std::fabs(double(scalar::exp(x[j] - m) / sum) - double(y[j]));
      CHECK(error <= limit.absolute + limit.relative * double(y[j]));
    }
  }
}

TEST_CASE("normalized rows have the mean and the square that their names say") {
  Call rms(Normalization::rms), layer(Normalization::layer);
  rms.problem.gamma = layer.problem.gamma = layer.problem.beta = {};
  rms.run();
  layer.run();
  for (std::size_t row = 0; row < 6; ++row) {
    float square = 0.0f, mean = 0.0f, squares = 0.0f;
    for (std::size_t j = row * 8; j < row * 8 + 8; ++j) {
      square += rms.y[j] * rms.y[j] / 8.0f;
      mean += layer.y[j] / 8.0f;
      squares += layer.y[j] * layer.y[j] / 8.0f;
      CHECK(rms.y[j] == doctest::Approx(rms.x[j] * rms.factors[row]).epsilon(1e-6));
      CHECK(layer.y[j] ==
            doctest::Approx((layer.x[j] - layer.means[row]) * layer.factors[row]).epsilon(1e-5));
    }
    CHECK(square == doctest::Approx(1.0f).epsilon(1e-4));
    CHECK(std::fabs(mean) < 1e-6f);
    CHECK(squares == doctest::Approx(1.0f).epsilon(1e-4));
  }
  Call plain(Normalization::layer);
  plain.run();
  for (std::size_t i = 0; i < 48; ++i) {
    CHECK(plain.y[i] ==
          doctest::Approx(layer.y[i] * plain.gamma[i % 8] + plain.beta[i % 8]).epsilon(1e-5));
  }
}

TEST_CASE("a fused residual is added first, rounded to its type, and kept") {
  for (const bool in_place : {false, true}) {
    Call fused(Normalization::rms, true), apart(Normalization::rms);
    if (in_place) fused.args.sum.data = fused.residual.data();
    fused.run();
    for (std::size_t i = 0; i < 48; ++i) apart.x[i] += apart.residual[i];
    apart.run();
    CHECK(fused.y == apart.y);
    CHECK((in_place ? fused.residual : fused.sum) == apart.x);
  }
  std::vector<bf16> x(8), r(8), sum(8), y(8);
  for (std::size_t i = 0; i < 8; ++i) {
    x[i] = to_bf16(1.0f);
    r[i] = to_bf16(0x1p-9f * float(i));
  }
  const NormalizeProblem p{.cols = 8, .x = DType::bf16, .y = DType::bf16, .residual = true};
  const auto view = [](auto& data) { return MatrixView(data.data(), DType::bf16, 1, 8); };
  const NormalizeArgs args{view(x), view(y), view(r), view(sum), {}, {}};
  REQUIRE_FALSE(validate(p, args));
  reference_normalize(p, args);
  for (std::size_t i = 0; i < 8; ++i) CHECK(sum[i] == to_bf16(1.0f + 0x1p-9f * float(i)));
}

TEST_CASE("normalization in floats stays within its tolerance") {
  for (const Normalization kind : {Normalization::rms, Normalization::layer}) {
    Call call(kind);
    for (float& one : call.x) one += 30.0f;  // far from 0: differences from the mean lose bits
    call.run();
    const RowTolerance limit =
        normalize_tolerance(call.problem, normalize_range(call.problem, call.args.x));
    CHECK(limit.absolute < 1e-3);
    for (std::size_t row = 0; row < 6; ++row) {
      float mean = 0.0f, square = 0.0f;
      const float* x = &call.x[row * 8];
      for (std::size_t j = 0; j < 8 && kind == Normalization::layer; ++j) mean += x[j];
      mean /= 8.0f;
      for (std::size_t j = 0; j < 8; ++j) square += (x[j] - mean) * (x[j] - mean);
      const float factor = 1.0f / std::sqrt(square / 8.0f + 1e-5f);
      for (std::size_t j = 0; j < 8; ++j) {
        float y = (x[j] - mean) * factor * call.gamma[j];
        if (kind == Normalization::layer) y += call.beta[j];
        const double exact = double(call.y[row * 8 + j]);
        CHECK(std::fabs(double(y) - exact) <= limit.absolute + limit.relative * std::fabs(exact));
      }
    }
  }
}

TEST_CASE("normalizations that make no sense are refused") {
  Call fine(Normalization::layer, true);
  fine.run();
  refuses([](Call& c) { c.problem.x = DType::s8; }, Code::unsupported, {"s8 -> f32"});
  refuses([](Call& c) { c.problem.cols = -1; }, Code::bad_shape, {"-1 columns"});
  refuses([](Call& c) { c.problem.epsilon = NAN; }, Code::bad_value, {"epsilon is nan"});
  refuses([](Call& c) { c.problem.gamma = c.means; }, Code::bad_shape, {"6 values of gamma", "8"});
  refuses([](Call& c) { c.problem.kind = Normalization::rms; }, Code::unsupported, {"no beta"});
  refuses([](Call& c) { c.args.x.type = DType::f16; }, Code::unsupported, {"x holds f16"});
  refuses([](Call& c) { c.args.y.cols = 7; }, Code::bad_shape, {"7 columns", "8"});
  refuses([](Call& c) { c.args.y.rows = 2; }, Code::bad_shape, {"2 x 2 x 8", "2 x 3 x 8"});
  refuses([](Call& c) { c.args.y.row_stride = 7; }, Code::bad_shape, {"elements overlap"});
  refuses([](Call& c) { c.args.x.data = nullptr; }, Code::bad_data, {"x is null"});
  refuses([](Call& c) { c.args.y.data = c.x.data() + 1; }, Code::bad_data, {"overlaps x"});
  refuses([](Call& c) { c.args.sum.data = c.y.data(); }, Code::bad_data, {"overlaps residual"});
  refuses([](Call& c) { c.args.residual = {}; }, Code::bad_shape, {"residual has 0 columns"});
  refuses([](Call& c) { c.args.means = c.gamma; }, Code::bad_shape, {"8 means", "6 rows"});
  const Floats x(6);
  Floats y(6);
  const SoftmaxProblem p{.cols = 3};
  check_error(validate(SoftmaxProblem{.cols = -1}), Code::bad_shape, {"-1"});
  check_error(validate(SoftmaxProblem{.y = DType::u8}), Code::unsupported, {"f32 -> u8"});
  check_error(validate(p, {{x.data(), DType::f32, 2, 3}, {y.data(), DType::f32, 1, 3}}),
              Code::bad_shape, {"1 x 1 x 3", "1 x 2 x 3"});
}
