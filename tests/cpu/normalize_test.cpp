// Softmax, RMSNorm and LayerNorm on the CPU: within the tolerances, the same bits for any threads.
#include "quern/cpu/normalize.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "quern/core/thread_pool.hpp"
#include "quern/testing/random.hpp"
#include "support.hpp"

using namespace quern;

namespace {

using Floats = std::vector<float>;
using Bytes = std::vector<std::byte>;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// A matrix (2, 3, cols) of floats of any type, with room between.
struct Operand {
  Bytes memory;
  MatrixView view;
  double most = 0.0;

  Operand(testing::Random& random, DType type, Index cols, Index column, float range) {
    const Index row = cols * column + random.between(0, 2);
    view = {nullptr, type, 3, cols, row, column, 2, 3 * row};
    memory.resize(static_cast<std::size_t>((6 * row + 1) * size_of(type)));
    attach();
    for (Index i = 0; i < 6; ++i) {
      for (Index j = 0; j < cols; ++j) {
        detail::store_float(view, i / 3, i % 3, j, random.uniform(-range, range));
        most = std::max(most, double(std::fabs(load_float(view, i / 3, i % 3, j))));
      }
    }
  }
  Operand(const Operand& x) : memory(x.memory), view(x.view), most(x.most) { attach(); }
  MatrixView attach() {
    view.data = memory.data();
    return view;
  }
};

/// The largest error of y, in units of what is allowed; NaN and infinities must be the same.
double worst(const Operand& y, const Operand& expected, const RowTolerance& limit) {
  double most = 0.0;
  for (Index i = 0; i < 6; ++i) {
    for (Index j = 0; j < y.view.cols; ++j) {
      const double got = double(load_float(y.view, i / 3, i % 3, j)),
                   exact = double(load_float(expected.view, i / 3, i % 3, j));
      if (got == exact || (std::isnan(got) && std::isnan(exact))) continue;
      const double error =
          std::fabs(got - exact) / (limit.absolute + limit.relative * std::fabs(exact));
      if (!(error <= most)) most = error == error ? error : 1e9;
    }
  }
  return most;
}

DType float_type(testing::Random& random) {
  return random.pick({DType::f32, DType::f32, DType::bf16, DType::f16});
}
Index columns(testing::Random& random) {
  return random.pick({Index{0}, Index{1}, Index{2}, random.between(3, 80), random.between(80, 700),
                      random.between(2040, 2060), random.between(4090, 4200)});
}

}  // namespace

TEST_CASE("cpu softmax: within its tolerance on every target, in place, for any type and stride") {
  testing::Random random(11);
  ThreadPool three(3);
  for (Index trial = 0; trial < support::scaled(100); ++trial) {
    SoftmaxProblem p{.cols = columns(random), .x = float_type(random), .y = float_type(random)};
    p.result = random.pick({SoftmaxResult::weights, SoftmaxResult::logarithms});
    const Index column = random.one_in(3) ? 2 : 1;
    const Operand x(random, p.x, p.cols, column, random.pick({0.1f, 4.0f, 90.0f}));
    const Operand before(random, p.y, p.cols, column, 1.0f);
    Operand expected = before;
    reference_softmax(p, {x.view, expected.view});
    const RowTolerance limit = softmax_tolerance(p, x.most);
    CAPTURE(trial);
    CAPTURE(p.cols);
    CAPTURE(name(p.x));
    CAPTURE(name(p.y));
    CAPTURE(int(p.result));
    for (const cpu::Backend& backend : cpu::Backend::all()) {
      CAPTURE(backend.name());
      const auto op = prepare(backend, p);
      REQUIRE(op);
      Operand y = before, threaded = before;
      const Index allocated = support::allocations();
      CHECK_FALSE(op->run({x.view, y.view}));
      CHECK(support::allocations() == allocated);
      CHECK(worst(y, expected, limit) <= 1.0);
      CHECK_FALSE(op->run({x.view, threaded.view}, {}, three));
      CHECK(threaded.memory == y.memory);
      if (p.x != p.y) continue;
      Operand over = x;
      CHECK_FALSE(op->run({over.view, over.view}));
      CHECK(worst(over, y, {}) == 0.0);
    }
  }
}

TEST_CASE("cpu softmax: exponentials within 3 ulp, and 0 where they are no normal numbers") {
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    CAPTURE(backend.name());
    const auto& k = cpu::rowwise_kernels_for(backend.kernels().target_bit);
    const Index n = support::scaled(200000);
    Floats x(static_cast<std::size_t>(n)), y(x.size());
    testing::Random random(1);
    for (float& one : x) one = random.uniform(random.one_in(2) ? -1.0f : -87.0f, 0.0f);
    x[0] = 0.0f;
    static_cast<void>(k.exponentials(x.data(), n, 0.0f, y.data()));
    double most = 0.0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double exact = std::exp(double(x[i]));
      const auto near = static_cast<float>(exact);
      const double ulp = double(std::nextafter(near, 1e38f)) - double(near);
      most = std::max(most, std::fabs(double(y[i]) - exact) / ulp);
    }
    CHECK(most <= 3.0);
    CHECK(y[0] == 1.0f);
    const Floats low = {-87.01f, -1000.0f, -kInfinity, -3e38f};
    CHECK(k.exponentials(low.data(), 4, 0.0f, y.data()) == 0.0f);
    CHECK(Floats(y.begin(), y.begin() + 4) == Floats(4, 0.0f));
  }
}

TEST_CASE(
    "cpu softmax: infinities in any lane do as the reference says, NaN spreads over its row") {
  const Floats values[] = {
      {-kInfinity, 0.0f}, {kInfinity, 1.0f}, {NAN, 1.0f}, {-kInfinity, -kInfinity},
      {NAN, -kInfinity},  {3e38f, -3e38f},   {NAN, NAN}};
  testing::Random random(1);
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    CAPTURE(backend.name());
    for (const Floats& value : values) {
      CAPTURE(value[0]);
      CAPTURE(value[1]);
      for (const Index cols : {1, 3, 16, 33, 100}) {
        CAPTURE(cols);
        for (const SoftmaxResult result : {SoftmaxResult::weights, SoftmaxResult::logarithms}) {
          CAPTURE(int(result));
          Operand x(random, DType::f32, cols, 1, 1.0f), y = x, expected = x;
          for (Index i = 0; i < 6 * cols; ++i) {
            const bool rest = i % cols != i / cols * 5 % cols;
            detail::store_float(x.view, i / cols / 3, i / cols % 3, i % cols, value[rest ? 1 : 0]);
          }
          const SoftmaxProblem p{.cols = cols, .result = result};
          reference_softmax(p, {x.view, expected.view});
          for (Index i = 0; i < 6 * cols && std::isnan(value[0]); ++i) {
            detail::store_float(expected.view, i / cols / 3, i / cols % 3, i % cols, NAN);
          }
          CHECK_FALSE(prepare(backend, p)->run({x.view, y.view}));
          CHECK(worst(y, expected, softmax_tolerance(p, 100.0)) <= 1.0);
        }
      }
    }
  }
}

TEST_CASE(
    "cpu normalization: within its tolerance on every target, with residuals and statistics") {
  testing::Random random(12);
  ThreadPool three(3);
  for (Index trial = 0; trial < support::scaled(100); ++trial) {
    NormalizeProblem p{.cols = columns(random), .x = float_type(random), .y = float_type(random)};
    p.kind = random.pick({Normalization::rms, Normalization::layer});
    p.residual = random.one_in(2);
    p.epsilon = random.pick({1e-5f, 1e-3f});
    Floats gamma, beta;
    for (Index j = 0; j < p.cols; ++j) {
      gamma.push_back(random.uniform(-2.0f, 2.0f));
      beta.push_back(random.uniform(-2.0f, 2.0f));
    }
    if (random.one_in(2)) p.gamma = gamma;
    if (p.kind == Normalization::layer && random.one_in(2)) p.beta = beta;
    const Index column = random.one_in(3) ? 2 : 1;
    const float range = random.pick({0.01f, 3.0f, 100.0f});
    const Operand x(random, p.x, p.cols, column, range), r(random, p.x, p.cols, column, range),
        before(random, p.y, p.cols, column, 1.0f);
    Operand expected = before, expected_sum = x;
    Floats means(6), factors(6), expected_means(6), expected_factors(6);
    reference_normalize(
        p, {x.view, expected.view, r.view, expected_sum.view, expected_means, expected_factors});
    const RowTolerance limit =
        normalize_tolerance(p, normalize_range(p, p.residual ? expected_sum.view : x.view));
    CAPTURE(trial);
    CAPTURE(p.cols);
    CAPTURE(name(p.x));
    CAPTURE(name(p.y));
    for (const cpu::Backend& backend : cpu::Backend::all()) {
      CAPTURE(backend.name());
      const auto op = prepare(backend, p);
      REQUIRE(op);
      Operand y = before, sum = x, threaded = before, over = r, third = before;
      const NormalizeArgs args{x.view, y.view, r.view, sum.view, means, factors};
      const Index allocated = support::allocations();
      CHECK_FALSE(op->run(args));
      CHECK(support::allocations() == allocated);
      CHECK(worst(y, expected, limit) <= 1.0);
      if (p.residual) CHECK(worst(sum, expected_sum, {}) == 0.0);
      for (std::size_t i = 0; i < 6; ++i) {
        CHECK(std::fabs(means[i] - expected_means[i]) <= 1e-4f * range);
        CHECK(factors[i] == doctest::Approx(expected_factors[i]).epsilon(1e-3));
      }
      CHECK_FALSE(op->run({x.view, threaded.view, r.view, sum.view, {}, {}}, {}, three));
      CHECK(threaded.memory == y.memory);
      if (p.residual) {  // the sum over the residual
        CHECK_FALSE(op->run({x.view, third.view, over.view, over.view, {}, {}}));
        CHECK(third.memory == y.memory);
      } else if (p.x == p.y) {
        Operand in_place = x;
        CHECK_FALSE(op->run({in_place.view, in_place.view, {}, {}, {}, {}}));
        CHECK(worst(in_place, y, {}) == 0.0);
      }
    }
  }
}

TEST_CASE("cpu normalization: rows beyond the range of squares are exact, NaN stays in its row") {
  testing::Random random(13);
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    CAPTURE(backend.name());
    for (const Normalization kind : {Normalization::rms, Normalization::layer}) {
      for (const float value : {1e25f, 3e38f, 1e-30f, 0.0f, NAN, kInfinity}) {
        Operand x(random, DType::f32, 37, 1, 1.0f), y = x, expected = x;
        for (Index j = 0; j < 37; ++j) {
          detail::store_float(x.view, 1, 1, j, j % 3 == 0 ? value : -0.5f * value);
        }
        const NormalizeProblem p{.cols = 37, .kind = kind, .epsilon = 0.0f};
        Floats means(6), factors(6);
        reference_normalize(p, {x.view, expected.view, {}, {}, {}, {}});
        CHECK_FALSE(prepare(backend, p)->run({x.view, y.view, {}, {}, means, factors}));
        CHECK(worst(y, expected, {1e-5, 1e-5}) <= 1.0);
        CHECK_FALSE(std::isnan(load_float(y.view, 1, 0, 0)));
        CHECK(std::isnan(load_float(y.view, 1, 1, 0)) == (value == 0.0f || !std::isfinite(value)));
      }
    }
  }
}

TEST_CASE("cpu normalization: gamma may go away, errors come before anything is written") {
  const cpu::Backend backend;
  Floats gamma = {1.0f, 2.0f}, x = {3.0f, 4.0f}, y = {7.0f, 7.0f};
  const auto op = prepare(backend, NormalizeProblem{.cols = 2, .epsilon = 0.0f, .gamma = gamma});
  REQUIRE(op);
  gamma = {NAN, NAN};
  const ConstMatrixView in(x.data(), DType::f32, 1, 2);
  CHECK(op->run({.x = in, .y = {y.data(), DType::f32, 2, 1}}).code() == Code::bad_shape);
  CHECK(y == Floats{7.0f, 7.0f});
  const auto copy = *op;
  CHECK_FALSE(copy.run({.x = in, .y = {y.data(), DType::f32, 1, 2}}));
  CHECK(y[1] == doctest::Approx(2.0f * 4.0f / std::sqrt(12.5f)));
  CHECK(prepare(backend, SoftmaxProblem{.cols = -1}).error().code() == Code::bad_shape);
  CHECK(prepare(backend, NormalizeProblem{.cols = 1, .epsilon = NAN}).error().code() ==
        Code::bad_value);
  const auto softmax = prepare(backend, SoftmaxProblem{.cols = 2});
  CHECK(softmax->run({in, {x.data() + 1, DType::f32, 1, 2}}).code() == Code::bad_data);
}
