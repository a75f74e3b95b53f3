// Operations on elements, to the bit, embedding tables, and what is refused.
#include <cmath>
#include <string>
#include <vector>

#include "quern/ops/elementwise.hpp"
#include "support.hpp"

using namespace quern;

namespace {

using Floats = std::vector<float>;
using Ints = std::vector<std::int32_t>;

void check_error(const Error& e, Code code, const std::vector<std::string>& words) {
  CAPTURE(e);
  CHECK(e.code() == code);
  for (const std::string& word : words) {
    CAPTURE(word);
    CHECK(support::says(e, word));
  }
}
/// A row.
template <class T>
auto row(std::vector<T>& x) {
  return MatrixView(x.data(), dtype_of<T>, 1, std::ssize(x));
}
void run(const ElementwiseProblem& p, const ElementwiseArgs& args) {
  const Error described = validate(p), called = validate(p, args);
  REQUIRE_MESSAGE(!described, described);
  REQUIRE_MESSAGE(!called, called);
  reference_elementwise(p, args);
}

}  // namespace

TEST_CASE("activations and gates are the scalar functions, one operation after another") {
  Floats a = {-3.0f, -0.5f, 0.0f, 0.25f, 100.0f, -1e30f}, b = {2.0f, 3.0f, -1.0f, 0.1f, 7.0f, 1.0f},
         y(6);
  const auto each = [&](Elementwise kind, auto&& expected) {
    run({.kind = kind, .cols = 6}, {row(a), row(b), row(y)});
    for (std::size_t i = 0; i < 6; ++i) CHECK(y[i] == expected(a[i], b[i]));
  };
  each(Elementwise::copy, [](float x, float) { return x; });
  each(Elementwise::gelu, [](float x, float) { return scalar::gelu(x); });
  each(Elementwise::gelu_tanh, [](float x, float) { return scalar::gelu_tanh(x); });
  each(Elementwise::silu, [](float x, float) { return scalar::silu(x); });
  each(Elementwise::add, [](float x, float z) { return x + z; });
  each(Elementwise::multiply, [](float x, float z) { return x * z; });
  each(Elementwise::gelu_multiply, [](float x, float z) { return scalar::gelu(x) * z; });
  each(Elementwise::gelu_tanh_multiply, [](float x, float z) { return scalar::gelu_tanh(x) * z; });
  each(Elementwise::silu_multiply, [](float x, float z) { return scalar::silu(x) * z; });
}

TEST_CASE("SwiGLU takes the two halves of a projection, and may write over the first") {
  Floats projection = {1.0f, 2.0f, 10.0f, 20.0f, -1.0f, 0.5f, 30.0f, 40.0f};
  const MatrixView gate(projection.data(), DType::f32, 2, 2, 4),
      up(projection.data() + 2, DType::f32, 2, 2, 4);
  Floats y(4);
  run({.kind = Elementwise::silu_multiply, .cols = 2},
      {gate, up, MatrixView(y.data(), DType::f32, 2, 2)});
  CHECK(y[2] == scalar::silu(-1.0f) * 30.0f);
  run({.kind = Elementwise::multiply, .cols = 2}, {up, up, up});
  CHECK(projection[7] == 1600.0f);
}

TEST_CASE("quantization rounds half to even and saturates, its inverse is exact on integers") {
  const Floats scale = {0.5f};
  const Ints zero = {3};
  Floats x = {0.25f, 0.75f, -0.25f, 1000.0f, -1000.0f, NAN}, back(6);
  std::vector<std::int8_t> q(6);
  const Quantization quantized{scale, zero};
  run({.cols = 6, .y = DType::s8, .y_quantization = quantized}, {row(x), {}, row(q)});
  CHECK(q == std::vector<std::int8_t>{3, 5, 3, 127, -128, 3});
  run({.cols = 6, .a = DType::s8, .a_quantization = quantized}, {row(q), {}, row(back)});
  CHECK(back == Floats{0.0f, 1.0f, 0.0f, 62.0f, -65.5f, 0.0f});
  // Columns with scales of their own, from s32, to u8.
  const Floats scales = {1.0f, 0.25f}, unit = {1.0f};
  Ints sums = {-5, 1000, 300, 2147483647};
  std::vector<std::uint8_t> y(4);
  run({.cols = 2,
       .a = DType::s32,
       .y = DType::u8,
       .a_quantization = {scales, {}},
       .y_quantization = {unit, {}}},
      {ConstMatrixView(sums.data(), DType::s32, 2, 2), {}, MatrixView(y.data(), DType::u8, 2, 2)});
  CHECK(y == std::vector<std::uint8_t>{0, 250, 255, 255});
}

TEST_CASE("a sum of quantized tensors, quantized: integers stand for their numbers") {
  const Floats half = {0.5f}, quarter = {0.25f}, one = {1.0f};
  std::vector<std::uint8_t> a = {10, 255}, y(2);
  std::vector<std::int8_t> b = {4, -128};
  run({.kind = Elementwise::add,
       .cols = 2,
       .a = DType::u8,
       .b = DType::s8,
       .y = DType::u8,
       .a_quantization = {half, {}},
       .b_quantization = {quarter, {}},
       .y_quantization = {one, {}}},
      {row(a), row(b), row(y)});
  CHECK(y == std::vector<std::uint8_t>{6, 96});  // 5 + 1; 127.5 - 32 = 95.5 rounds to even
}

TEST_CASE("embedding takes rows by number, in every type of table") {
  const Floats f32 = {1.5f, -2.0f, 3.0f, 4.0f}, scales = {0.5f, 2.0f};
  const std::vector<std::int8_t> s8 = {3, -4, 5, 6};
  const Ints ids = {1, 0, 1};
  std::vector<bf16> y(6);
  const EmbeddingArgs args{ids, {y.data(), DType::bf16, 3, 2}};
  const auto expect = [&](const EmbeddingProblem& p, const ConstMatrixView& table,
                          const Floats& expected) {
    const Error described = validate(p, table), called = validate(p, args),
                filled = validate_values(p, args);
    REQUIRE_MESSAGE(!described, described);
    REQUIRE_MESSAGE(!called, called);
    REQUIRE_MESSAGE(!filled, filled);
    reference_embedding(p, table, args);
    for (std::size_t i = 0; i < 6; ++i) CHECK(to_float(y[i]) == expected[i]);
  };
  expect({.vocabulary = 2, .size = 2, .y = DType::bf16}, {f32.data(), DType::f32, 2, 2},
         {3.0f, 4.0f, 1.5f, -2.0f, 3.0f, 4.0f});
  expect({.vocabulary = 2, .size = 2, .table = DType::s8, .y = DType::bf16, .row_scales = scales},
         {s8.data(), DType::s8, 2, 2}, {10.0f, 12.0f, 1.5f, -2.0f, 10.0f, 12.0f});
}

TEST_CASE("elementwise problems and calls that make no sense are refused") {
  const Floats one = {1.0f}, two = {1.0f, 0.0f}, negative = {-1.0f};
  const Ints zero = {0}, far = {200};
  const ElementwiseProblem p{.kind = Elementwise::add, .cols = 2};
  const auto with = [&](auto&& change) {
    ElementwiseProblem q = p;
    change(q);
    return validate(q);
  };
  using P = ElementwiseProblem;
  check_error(with([](P& q) { q.kind = Elementwise(20); }), Code::unsupported, {"kind 20"});
  check_error(with([](P& q) { q.cols = -2; }), Code::bad_shape, {"-2"});
  check_error(with([](P& q) { q.y = DType::s32; }), Code::unsupported, {"s32"});
  check_error(with([](P& q) { q.b = DType::s8; }), Code::unsupported, {"b is s8", "0 scales"});
  check_error(with([&](P& q) {
                q.a_quantization = {one, {}};
              }),
              Code::unsupported, {"a is f32, with 1 scales"});
  const auto integers = [&](const Quantization& quantization) {
    return with([&](P& q) {
      q.cols = 3;
      q.a = DType::s8;
      q.a_quantization = quantization;
    });
  };
  check_error(integers({two, {}}), Code::bad_shape, {"2 scales", "3"});
  check_error(integers({negative, {}}), Code::bad_value, {"scale 0 is -1"});
  check_error(integers({one, far}), Code::bad_value, {"zero point 0 is 200", "s8"});
  CHECK_FALSE(integers({one, zero}));

  Floats a(4), b(4), y(4);
  const auto view = [](Floats& x) { return MatrixView(x.data(), DType::f32, 2, 2); };
  ElementwiseArgs args{view(a), view(b), view(y)};
  CHECK_FALSE(validate(p, args));
  args.b.rows = 1;
  check_error(validate(p, args), Code::bad_shape, {"b is 1 x 1 x 2", "1 x 2 x 2"});
  args.b = view(b);
  args.y.data = a.data() + 1;
  args.y.rows = args.a.rows = args.b.rows = 1;
  check_error(validate(p, args), Code::bad_data, {"y at", "overlaps a"});

  const EmbeddingProblem table{.vocabulary = 2, .size = 2};
  check_error(validate(table, {a.data(), DType::f32, 1, 2}), Code::bad_shape, {"1 x 1 x 2"});
  check_error(validate(EmbeddingProblem{.vocabulary = 2, .size = 2, .table = DType::u8},
                       {a.data(), DType::u8, 2, 2}),
              Code::bad_shape, {"0 row scales", "2 rows of u8"});
  const Ints ids = {1, 2};
  check_error(validate_values(table, EmbeddingArgs{ids, view(y)}), Code::bad_value,
              {"id 1 is 2", "2 rows"});
}
