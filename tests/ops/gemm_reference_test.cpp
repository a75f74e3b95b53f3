// The reference defines every backend's results, so it is held against arithmetic written
// differently: by hand, in 64-bit integers and in double.
#include <cmath>
#include <vector>

#include "quern/ops/gemm_reference.hpp"
#include "quern/testing/gemm_problems.hpp"
#include "support.hpp"

using namespace quern;
using quern::testing::GemmCase;

namespace {

using Ints = std::vector<std::int32_t>;
using Floats = std::vector<float>;

// A = [1 2; 3 4] and B = [5 6; 7 8], so that A B = [19 22; 43 50].
const std::int8_t kA[] = {1, 2, 3, 4}, kB[] = {5, 6, 7, 8};

template <class T>
std::vector<T> multiply(GemmProblem p, GemmArgs args = {},
                        ConstMatrixView b = Matrix<const std::int8_t>{kB, 2, 2}) {
  std::vector<T> c(4);
  p.n = p.k = 2;
  p.c = dtype_of<T>;
  if (args.a.data == nullptr) args.a = Matrix<const std::int8_t>{kA, 2, 2};
  p.a = args.a.type;
  p.b = b.type;
  args.c = Matrix<T>{c.data(), 2, 2};
  const Error problem = validate(p, b), call = validate(p, args);
  REQUIRE_MESSAGE(!problem, problem);
  REQUIRE_MESSAGE(!call, call);
  reference_gemm(p, b, args);
  return c;
}

Index integer(const ConstMatrixView& m, Index b, Index i, Index j) {
  return static_cast<Index>(load_float(m, b, i, j));
}

/// sum over k of (a - za)(b - zb) + bias, exact.
Index exact_sum(const GemmProblem& p, const GemmArgs& args, const ConstMatrixView& weights, Index b,
                Index i, Index j) {
  const auto row = static_cast<std::size_t>(b * args.a.rows + i),
             column = static_cast<std::size_t>(j);
  const Index za = args.a_zero_points.empty() ? p.a_zero_point : args.a_zero_points[row];
  Index zb = 0, sum = 0;
  if (!p.b_zero_points.empty()) zb = p.b_zero_points[p.b_zero_points.size() == 1 ? 0 : column];
  for (Index k = 0; k < p.k; ++k) {
    sum += (integer(args.a, b, i, k) - za) * (integer(weights, p.batch == 1 ? 0 : b, k, j) - zb);
  }
  if (p.epilogue.count == 1) sum += static_cast<const std::int32_t*>(p.epilogue.steps[0].data)[j];
  return sum;
}

}  // namespace

TEST_CASE("integers: a plain product") {
  CHECK(multiply<std::int32_t>({}) == Ints{19, 22, 43, 50});
  CHECK(multiply<float>({}) == Floats{19, 22, 43, 50});
}

TEST_CASE("integers: zero points are subtracted before multiplying") {
  const ConstMatrixView a = Matrix<const std::int8_t>{kA, 2, 2};
  const Ints zeros{5, 8};
  CHECK(multiply<std::int32_t>({.a_zero_point = 1}) == Ints{7, 8, 31, 36});
  CHECK(multiply<std::int32_t>({.b_zero_points = zeros}) == Ints{4, -2, 8, -6});
  const Ints rows{1, 4};
  CHECK(multiply<std::int32_t>({.a_zero_points = ZeroPoints::per_row},
                               {.a = a, .c = {}, .a_zero_points = rows}) == Ints{7, 8, -5, -6});
}

TEST_CASE("integers: the bias joins the accumulator, scales and the rest follow in order") {
  const ConstMatrixView a = Matrix<const std::int8_t>{kA, 2, 2};
  const Ints bias{1, -2};
  const Floats scales{0.5f, 2.0f}, rows{1.0f, -1.0f}, offset{0.25f, 0.0f};
  CHECK(multiply<std::int32_t>({.epilogue = {epilogue::bias(bias)}}) == Ints{20, 20, 44, 48});
  CHECK(multiply<float>(
            {.epilogue = {epilogue::bias(bias), epilogue::scale(scales), epilogue::row_scale(),
                          epilogue::bias(offset), epilogue::relu()}},
            {.a = a, .c = {}, .row_scales = rows}) == Floats{10.25f, 40.0f, 0.0f, 0.0f});
}

TEST_CASE("integers: requantized outputs round half to even, add the zero point and saturate") {
  const Floats half{0.5f}, large{10.0f};
  using Bytes = std::vector<std::int8_t>;
  using Unsigned = std::vector<std::uint8_t>;
  CHECK(multiply<std::int8_t>({.epilogue = {epilogue::scale(half)}}) == Bytes{10, 11, 22, 25});
  CHECK(multiply<std::int8_t>({.c_zero_point = -20, .epilogue = {epilogue::scale(half)}}) ==
        Bytes{-10, -9, 2, 5});
  CHECK(multiply<std::uint8_t>({.epilogue = {epilogue::scale(large)}}) ==
        Unsigned{190, 220, 255, 255});
}

TEST_CASE("floats: a plain product, and a residual that may be C itself") {
  const float a[] = {1, 2, 3, 4}, b[] = {5, 6, 7, 8};
  const Floats residual{1, 1, 2, 2};
  GemmArgs args{.a = Matrix<const float>{a, 2, 2}, .c = {}};
  const ConstMatrixView weights = Matrix<const float>{b, 2, 2};
  CHECK(multiply<float>({}, args, weights) == Floats{19, 22, 43, 50});
  args.residual = Matrix<const float>{residual.data(), 2, 2};
  CHECK(multiply<float>({.epilogue = {epilogue::residual(2.0f)}}, args, weights) ==
        Floats{21, 24, 47, 54});

  Floats c{1, 1, 2, 2};
  const MatrixView view = Matrix<float>{c.data(), 2, 2};
  reference_gemm({.n = 2,
                  .k = 2,
                  .a = DType::f32,
                  .b = DType::f32,
                  .c = DType::f32,
                  .epilogue = {epilogue::residual()}},
                 weights, {.a = args.a, .c = view, .residual = view});
  CHECK(c == Floats{20, 23, 45, 52});
}

TEST_CASE("dynamic: each row is quantized by its largest magnitude, and its scale applied") {
  const float a[] = {127.0f, 63.5f, 0.0f,
                     0.0f};  // 63.5 is a tie: to 64. A row of zeros stays zero.
  CHECK(multiply<float>({}, {.a = Matrix<const float>{a, 2, 2}, .c = {}}) ==
        Floats{127 * 5 + 64 * 7, 127 * 6 + 64 * 8, 0, 0});
  const float small[] = {1.0f, -0.5f, 0.0f, NAN};
  const Floats c = multiply<float>({}, {.a = Matrix<const float>{small, 2, 2}, .c = {}});
  CHECK(c[0] == doctest::Approx(5.0 - 0.5 * 7).epsilon(0.02));
  CHECK(c[2] == 0.0f);  // a NaN is not seen
}

TEST_CASE("nothing to sum gives what the epilogue makes of zero") {
  const Floats bias{1.5f, -1.5f};
  std::vector<float> c(4, 9.0f);
  reference_gemm(
      {.n = 2, .k = 0, .c = DType::f32, .epilogue = {epilogue::bias(bias)}},
      Matrix<const std::int8_t>{nullptr, 0, 2},
      {.a = Matrix<const std::uint8_t>{nullptr, 2, 0}, .c = Matrix<float>{c.data(), 2, 2}});
  CHECK(c == Floats{1.5f, -1.5f, 1.5f, -1.5f});
}

TEST_CASE("sums wrap modulo 2^32 and never saturate on the way") {
  const Ints bias{0x7FFFFFFF, -0x7FFFFFFF - 1};
  CHECK(
      multiply<std::int32_t>({.overflow = Overflow::wrap, .epilogue = {epilogue::bias(bias)}}) ==
      Ints{-0x7FFFFFFF - 1 + 18, -0x7FFFFFFF - 1 + 22, -0x7FFFFFFF - 1 + 42, -0x7FFFFFFF - 1 + 50});
  // Two products that overflow 16 bits together, in every pair.
  const std::uint8_t a[] = {255, 255, 255, 255};
  const std::int8_t b[] = {127, -128, 127, -128};
  CHECK(multiply<std::int32_t>({}, {.a = Matrix<const std::uint8_t>{a, 2, 2}, .c = {}},
                               Matrix<const std::int8_t>{b, 2, 2}) ==
        Ints{64770, -65280, 64770, -65280});
}

TEST_CASE("random s32 results are 64-bit sums of differences, modulo 2^32") {
  const Index count = support::scaled(600);
  Index checked = 0;
  for (Index seed = 0; seed < count; ++seed) {
    const GemmCase c(quern::testing::Random(static_cast<std::uint64_t>(seed)), 50'000);
    const GemmProblem& p = c.problem();
    if (p.c != DType::s32) continue;
    CAPTURE(seed);
    AlignedBuffer memory = c.c_memory();
    const GemmArgs args = c.args(memory.data(), c.rows());
    reference_gemm(p, c.weights(), args);
    Index wrong = 0;
    for (Index b = 0; b < args.c.batch; ++b) {
      for (Index i = 0; i < args.c.rows; ++i) {
        for (Index j = 0; j < p.n; ++j, ++checked) {
          std::int32_t got;
          std::memcpy(&got, element(args.c, b, i, j), sizeof got);
          wrong += got != static_cast<std::int32_t>(exact_sum(p, args, c.weights(), b, i, j));
        }
      }
    }
    CHECK(wrong == 0);
  }
  CHECK(checked > 0);
}

TEST_CASE("float sums are within 2 k 2^-24 sum |a b| of exact ones, whatever the type") {
  quern::testing::Random random(5);
  for (const DType type : {DType::f32, DType::bf16, DType::f16}) {
    for (const Index k : {1, 2, 37, 1000}) {
      const auto a = quern::testing::any_layout(random, type, 1, 3, k, true, false);
      const auto b = quern::testing::any_layout(random, type, 1, k, 3, true, false);
      for (const MatrixView& m : {a.view, b.view}) {
        quern::testing::fill(m, [&](Index, Index, Index) { return double{random.uniform(-1, 1)}; });
      }
      Floats c(9);
      const GemmProblem p{.n = 3, .k = k, .a = type, .b = type, .c = DType::f32};
      reference_gemm(p, b.view, {.a = a.view, .c = Matrix<float>{c.data(), 3, 3}});
      for (Index at = 0; at < 9; ++at) {
        double sum = 0.0, magnitudes = 0.0;
        for (Index x = 0; x < k; ++x) {
          const double product =
              double{load_float(a.view, 0, at / 3, x)} * load_float(b.view, 0, x, at % 3);
          sum += product;
          magnitudes += std::fabs(product);
        }
        CHECK(std::fabs(double{c[static_cast<std::size_t>(at)]} - sum) <=
              2.0 * double(k) * 0x1p-24 * magnitudes);
      }
    }
  }
}
