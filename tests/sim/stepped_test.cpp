#include "quern/sim/stepped.hpp"

#include <doctest/doctest.h>

#include <bit>
#include <string>
#include <vector>

#include "quern/sim/gemm.hpp"
#include "quern/testing/random.hpp"
#include "support.hpp"

using namespace quern;
using sim::Array;
using sim::Dataflow;
using sim::Extent;
using sim::FoldModel;

namespace {

constexpr Dataflow kDataflows[] = {Dataflow::weight_stationary, Dataflow::output_stationary,
                                   Dataflow::input_stationary};

/// The three ways that folds can follow each other.
struct Pace {
  FoldModel fold_model;
  bool preload;
};
constexpr Pace kPaces[] = {
    {FoldModel::drain, false}, {FoldModel::overlap, false}, {FoldModel::overlap, true}};

Array array_of(Index rows, Index columns, const Pace& pace) {
  Array a;
  a.rows = rows;
  a.columns = columns;
  a.fold_model = pace.fold_model;
  a.preload = pace.preload;
  return a;
}

std::string description(const Array& array, Dataflow d, const Extent& e) {
  return std::to_string(array.rows) + " x " + std::to_string(array.columns) + ", " + name(d) +
         ", " + name(array.fold_model) + (array.preload ? ", preload: " : ": ") +
         std::to_string(e.m) + " x " + std::to_string(e.k) + " x " + std::to_string(e.n);
}

/// Operands of one product; elements are drawn by `draw(random)`.
template <class T>
struct Operands {
  std::vector<T> a, b;
  Extent extent;

  template <class Draw>
  Operands(const Extent& e, testing::Random& random, Draw draw) : extent(e) {
    for (Index i = 0; i < e.m * e.k; ++i) a.push_back(draw(random));
    for (Index i = 0; i < e.k * e.n; ++i) b.push_back(draw(random));
  }
  sim::Stepped<T> run(const Array& array, Dataflow d) const {
    auto result = sim::stepped_gemm<T>(array, d, {a.data(), extent.m, extent.k},
                                       {b.data(), extent.k, extent.n});
    REQUIRE_MESSAGE(result, result.error().what());
    return std::move(result).value();
  }
};

std::int8_t any_int8(testing::Random& random) {
  return static_cast<std::int8_t>(random.between(-128, 127));
}
std::int32_t any_int32(testing::Random& random) {
  return static_cast<std::int32_t>(random.between(INT32_MIN, INT32_MAX));
}
/// Of many magnitudes, so that every order of a sum has its own rounding; and numbers whose
/// products are too small for anything but a zero with a sign.
float any_float(testing::Random& random) {
  if (random.one_in(8)) return random.uniform(-1e-30f, 1e-30f);
  return random.uniform(-1, 1) * std::ldexp(1.0f, static_cast<int>(random.between(-12, 12)));
}

template <class T>
std::vector<std::uint32_t> product(const Operands<T>& x) {
  const Extent& e = x.extent;
  std::vector<std::uint32_t> c(static_cast<std::size_t>(e.m * e.n));
  for (Index i = 0; i < e.m; ++i) {
    for (Index j = 0; j < e.n; ++j) {
      for (Index k = 0; k < e.k; ++k) {
        c[i * e.n + j] += static_cast<std::uint32_t>(x.a[i * e.k + k]) *
                          static_cast<std::uint32_t>(x.b[k * e.n + j]);
      }
    }
  }
  return c;
}

/// The promised order: chains over `chain` of k, then added up, the first as it is.
std::vector<float> product_in_order(const Operands<float>& x, Index chain) {
  const Extent& e = x.extent;
  std::vector<float> c(static_cast<std::size_t>(e.m * e.n));
  for (Index i = 0; i < e.m; ++i) {
    for (Index j = 0; j < e.n; ++j) {
      for (Index k0 = 0; k0 < e.k; k0 += chain) {
        float p = 0;
        for (Index k = k0; k < e.k && k < k0 + chain; ++k) {
          p = std::fma(x.a[i * e.k + k], x.b[k * e.n + j], p);
        }
        c[i * e.n + j] = k0 == 0 ? p : c[i * e.n + j] + p;
      }
    }
  }
  return c;
}

std::vector<std::uint32_t> bits(const std::vector<float>& values) {
  std::vector<std::uint32_t> out;
  for (const float v : values) out.push_back(std::bit_cast<std::uint32_t>(v));
  return out;
}

/// Everything but the values.
template <class T>
void check_account(const sim::Stepped<T>& s, const Array& array, Dataflow d, const Extent& e) {
  CHECK(s.cycles == sim::ideal_cycles(array, d, 1, e));
  CHECK(s.folds == sim::Folds::of(d, e).count(array));
  CHECK(s.busy_pe_cycles == e.macs());
  CHECK(!s.collided);
}

void check(const Array& array, Dataflow d, const Extent& e, testing::Random& random) {
  CAPTURE(description(array, d, e));
  const Operands<std::int8_t> bytes(e, random, any_int8);
  const sim::Stepped<std::int8_t> of_bytes = bytes.run(array, d);
  check_account(of_bytes, array, d, e);
  CHECK(of_bytes.c == product(bytes));

  const Operands<float> floats(e, random, any_float);
  const sim::Stepped<float> of_floats = floats.run(array, d);
  check_account(of_floats, array, d, e);
  CHECK(bits(of_floats.c) ==
        bits(product_in_order(floats, d == Dataflow::output_stationary ? e.k : array.rows)));
}

}  // namespace

TEST_CASE("sim stepped: random products take the cycles of the closed form and are right") {
  const Index count = support::scaled(600);
  for (Index seed = 1; seed <= count; ++seed) {
    CAPTURE(seed);
    testing::Random random(static_cast<std::uint64_t>(seed));
    const Array array =
        array_of(random.between(1, 9), random.between(1, 9), kPaces[random.between(0, 2)]);
    const Index most = random.one_in(2) ? 40 : 12;
    const Extent e{random.between(1, most), random.between(1, most), random.between(1, most)};
    check(array, kDataflows[random.between(0, 2)], e, random);
  }
}

TEST_CASE("sim stepped: every array to 4 x 4, every way, extents about the array's") {
  testing::Random random(1);
  for (Index rows = 1; rows <= 4; ++rows) {
    for (Index columns = 1; columns <= 4; ++columns) {
      for (const Extent& e : {Extent{1, 1, 1}, Extent{2, 2, 2}, Extent{3, 5, 4}, Extent{4, 4, 4},
                              Extent{5, 3, 9}, Extent{1, 9, 9}, Extent{9, 1, 9}, Extent{9, 9, 1}}) {
        for (const Dataflow d : kDataflows) {
          for (const Pace& pace : kPaces) check(array_of(rows, columns, pace), d, e, random);
        }
      }
    }
  }
}

TEST_CASE("sim stepped: one element multiplies, one product a cycle") {
  testing::Random random(2);
  const Array one = array_of(1, 1, kPaces[0]);
  const Operands<std::int32_t> x({1, 1, 1}, random, any_int32);
  CHECK(x.run(one, Dataflow::output_stationary).cycles == 1);
  CHECK(x.run(one, Dataflow::weight_stationary).cycles == 2);  // the weight, then the product
  const Operands<std::int32_t> y({3, 4, 5}, random, any_int32);
  CHECK(y.run(one, Dataflow::output_stationary).cycles == 60);
  CHECK(y.run(one, Dataflow::weight_stationary).cycles == 20 * (1 + 3));
  CHECK(y.run(one, Dataflow::input_stationary).cycles == 15 * (1 + 4));
}

TEST_CASE("sim stepped: a fold of SCALE-Sim's, counted by hand") {
  // 2 x 2, weights [k][n] of 2 x 2, one row of activations. Cycle 0: w00 enters. 1: w10 and w01.
  // 2: the sum of column 0 at row 0. 3: at row 1 and out; that of column 1 at row 0. 4: out.
  testing::Random random(3);
  const Operands<std::int32_t> x({1, 2, 2}, random, any_int32);
  CHECK(x.run(array_of(2, 2, kPaces[0]), Dataflow::weight_stationary).cycles == 5);
  // The sums in place: 2 terms, and the last element is 2 cycles behind the first.
  const Operands<std::int32_t> y({2, 2, 2}, random, any_int32);
  CHECK(y.run(array_of(2, 2, kPaces[0]), Dataflow::output_stationary).cycles == 4);
}

TEST_CASE("sim stepped: integer sums are taken modulo 2^32") {
  testing::Random random(4);
  for (const Dataflow d : kDataflows) {
    const Operands<std::int32_t> x({5, 6, 40}, random, any_int32);
    CHECK(x.run(array_of(4, 3, kPaces[1]), d).c == product(x));
  }
}

TEST_CASE("sim stepped: the simulated chip's float sums are the array's, bit for bit") {
  testing::Random random(6);
  for (int i = 0; i < 60; ++i) {
    sim::Chip chip;
    const Dataflow d = kDataflows[i % 3];
    chip.array = array_of(random.between(1, 9), random.between(1, 9), kPaces[random.between(0, 2)]);
    chip.array.dataflows = sim::Dataflows::only(d);
    chip.array.cycles_per_mac.f32 = 1;
    const Extent e{random.between(1, 30), random.between(1, 30), random.between(1, 60)};
    CAPTURE(description(chip.array, d, e));
    const Operands<float> x(e, random, any_float);
    std::vector<float> c(static_cast<std::size_t>(e.m * e.n));
    auto gemm = prepare(sim::Backend(chip),
                        {.n = e.n, .k = e.k, .a = DType::f32, .b = DType::f32, .c = DType::f32},
                        Matrix<const float>{x.b.data(), e.k, e.n});
    REQUIRE_MESSAGE(gemm, gemm.error().what());
    Workspace workspace(gemm->workspace_bytes(e.m));
    const Error error = gemm->run(
        {.a = Matrix<const float>{x.a.data(), e.m, e.k}, .c = Matrix<float>{c.data(), e.m, e.n}},
        workspace);
    REQUIRE_MESSAGE(!error, error.what());
    CHECK(bits(c) == bits(x.run(chip.array, d).c));
  }
}

TEST_CASE("sim stepped: a sum that is minus zero passes unused rows unchanged") {
  const float a[] = {-1e-30f}, b[] = {1e-30f};  // the product is below every float
  for (const Dataflow d : kDataflows) {
    const auto s = sim::stepped_gemm<float>(array_of(4, 4, kPaces[0]), d, {a, 1, 1}, {b, 1, 1});
    REQUIRE(s);
    CHECK(std::bit_cast<std::uint32_t>(s->c[0]) == 0x80000000u);
  }
}

TEST_CASE("sim stepped: an empty product takes no time and is zero") {
  testing::Random random(5);
  for (const Extent& e : {Extent{0, 3, 3}, Extent{3, 0, 3}, Extent{3, 3, 0}, Extent{0, 0, 0}}) {
    for (const Dataflow d : kDataflows) {
      for (const Pace& pace : kPaces) {
        const Array array = array_of(2, 2, pace);
        CAPTURE(description(array, d, e));
        const Operands<std::int8_t> x(e, random, any_int8);
        const sim::Stepped<std::int8_t> s = x.run(array, d);
        CHECK(s.cycles == 0);
        CHECK(s.cycles == sim::ideal_cycles(array, d, 1, e));
        CHECK(s.c == std::vector<std::uint32_t>(static_cast<std::size_t>(e.m * e.n)));
      }
    }
  }
}

TEST_CASE("sim stepped: what cannot be run is refused") {
  const float x[12] = {};
  const auto error = [&](const Array& array, Index a_cols, Index b_rows) {
    return sim::stepped_gemm<float>(array, Dataflow::weight_stationary, {x, 2, a_cols},
                                    {x, b_rows, 2})
        .error();
  };
  Array array;
  CHECK(error(array, 3, 3).code() == Code::ok);
  CHECK(support::says(error(array, 3, 4), "a has 3 columns but b has 4 rows"));
  CHECK(error(array, -1, -1).code() == Code::bad_shape);
  array.preload = true;
  CHECK(support::says(error(array, 3, 3), "preload needs"));
  array.preload = false;
  array.count = 2;
  CHECK(support::says(error(array, 3, 3), "2 arrays of 16 x 16; it must be one"));
  array.count = 1;
  array.rows = 0;
  CHECK(error(array, 3, 3).code() == Code::bad_value);
}
