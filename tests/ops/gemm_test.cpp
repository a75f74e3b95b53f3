// The problems and weights that validate() accepts and refuses: one clear error, naming the
// argument, the numbers and the rule.
#include <cmath>
#include <cstdlib>

#include "valid_gemm.hpp"

using namespace quern;
using namespace valid_gemm;
using support::says;

namespace {

const std::vector<float> kThreeFloats(3, 1.0f);

void refuses(const GemmProblem& p, Code code, const Words& words) {
  check_error(validate(p), code, words);
}
void refuses_step(const Step& step, Code code, const Words& words) {
  GemmProblem p = plain(DType::f32);
  p.epilogue.add(step);
  refuses(p, code, words);
}
void refuses_weights(void (*spoil)(Valid&), Code code, const Words& words) {
  Valid v;
  spoil(v);
  check_error(validate(v.problem, v.weights), code, words);
}

}  // namespace

TEST_CASE("a valid problem, its weights and a call pass") {
  Valid v;
  CHECK_FALSE(validate(v.problem));
  CHECK_FALSE(validate(v.problem, v.weights));
  CHECK_FALSE(validate(v.problem, v.args));
  CHECK_FALSE(validate(GemmProblem{}));  // nothing times nothing
}

TEST_CASE("types: what the table of GemmProblem offers passes, the rest is unsupported") {
  const DType all[] = {DType::s8,
                       DType::u8,
                       DType::s32,
                       DType::f32,
                       DType::bf16,
                       DType::f16,
                       static_cast<DType>(42)};
  std::string wrong;
  for (const DType a : all) {
    for (const DType b : all) {
      for (const DType c : all) {
        const bool known = is_int8(a) || is_float(a);
        const bool weights = is_int8(b) || (is_float(b) && is_float(a));
        const bool output =
            is_int8(c) || is_float(c) || (c == DType::s32 && is_int8(a) && is_int8(b));
        const Error e = validate(GemmProblem{.n = 2, .k = 2, .a = a, .b = b, .c = c});
        const Code expected = known && weights && output ? Code::ok : Code::unsupported;
        if (e.code() != expected || (e && !says(e, name(a)))) {
          wrong += std::string(name(a)) + " x " + name(b) + " -> " + name(c) + "; ";
        }
      }
    }
  }
  CHECK(wrong == "");
}

TEST_CASE("sizes: negative and overflowing ones are bad_shape") {
  refuses({.n = -4, .k = 5}, Code::bad_shape, {"n is -4", "k 5"});
  refuses({.n = 4, .k = -5}, Code::bad_shape, {"k -5"});
  refuses({.n = 4, .k = 5, .batch = -1}, Code::bad_shape, {"batch -1"});
  for (const GemmProblem& p : {GemmProblem{.n = kMax, .k = 1}, GemmProblem{.n = 1, .k = kMax},
                               GemmProblem{.n = Index{1} << 32, .k = Index{1} << 32},
                               GemmProblem{.n = 4, .k = 5, .batch = kMax},
                               GemmProblem{.n = kMax, .k = kMax, .batch = kMax}}) {
    refuses(p, Code::bad_shape, {"overflow", std::to_string(p.n), std::to_string(p.k)});
  }
}

TEST_CASE("zero points must lie in their type's range") {
  GemmProblem p = plain();
  p.a_zero_point = 128;
  refuses(p, Code::bad_value, {"a's zero point 128", "s8", "[-128, 127]"});
  p = plain();
  p.a = DType::u8;
  p.a_zero_point = -1;
  refuses(p, Code::bad_value, {"a's zero point -1", "u8", "[0, 255]"});
  const std::int32_t zeros[] = {0, 0, -129, 0};
  p = plain();
  p.b_zero_points = zeros;
  refuses(p, Code::bad_value, {"b's zero point -129 at 2", "[-128, 127]"});
  p = plain(DType::u8);
  p.c_zero_point = 256;
  refuses(p, Code::bad_value, {"c's zero point 256", "[0, 255]"});
}

TEST_CASE("zero points belong to int8 types only") {
  GemmProblem p{
      .n = 4, .k = 5, .a = DType::f32, .b = DType::s8, .c = DType::f32, .a_zero_point = 1};
  refuses(p, Code::bad_value, {"a is f32", "zero point"});
  p.a_zero_point = 0;
  p.a_zero_points = ZeroPoints::per_row;
  refuses(p, Code::bad_value, {"a is f32"});
  const std::int32_t one[] = {1};
  refuses({.n = 4, .k = 5, .a = DType::f32, .b = DType::f32, .c = DType::f32, .b_zero_points = one},
          Code::bad_value, {"b is f32", "1 are given"});
  p = plain(DType::bf16);
  p.c_zero_point = 3;
  refuses(p, Code::bad_value, {"c is bf16", "3"});
}

TEST_CASE("b has none, one or n zero points") {
  const std::vector<std::int32_t> zeros(5);
  for (const std::size_t count : {2u, 3u, 5u}) {
    GemmProblem p = plain();
    p.b_zero_points = std::span(zeros).first(count);
    refuses(p, Code::bad_shape, {"b has " + std::to_string(count), "n = 4"});
  }
}

TEST_CASE("steps: counts, null data and values outside their range") {
  refuses_step(epilogue::scale(kThreeFloats), Code::bad_shape,
               {"step 0 (scale)", "3 values", "n is 4"});
  refuses_step(epilogue::bias(kThreeFloats), Code::bad_shape,
               {"step 0 (bias)", "3 values", "n is 4"});
  const std::vector<float> one{1.0f};
  refuses_step(epilogue::bias(one), Code::bad_shape, {"1 values"});
  refuses_step(epilogue::bias(std::span<const float>(static_cast<const float*>(nullptr), 4)),
               Code::bad_data, {"step 0 (bias) is null"});
  for (const float bad : {0.0f, -0.0f, NAN, HUGE_VALF, -HUGE_VALF}) {
    const std::vector<float> scales{1.0f, 1.0f, bad, 1.0f};
    refuses_step(epilogue::scale(scales), Code::bad_value, {"step 0 (scale)", "at 2", "finite"});
    refuses_step(epilogue::residual(bad), Code::bad_value, {"step 0 (residual)", "finite"});
  }
  refuses_step(epilogue::clamp(2.0f, 1.0f), Code::bad_value, {"[2, 1]", "empty"});
  refuses_step(epilogue::clamp(NAN, 1.0f), Code::bad_value, {"clamps"});
  refuses_step(epilogue::custom(nullptr), Code::bad_data, {"step 0 (custom)", "no function"});
}

TEST_CASE("steps: an s32 bias comes first, with int8 weights, and alone for s32 output") {
  GemmProblem p = plain(DType::f32);
  p.epilogue = {epilogue::relu(), epilogue::bias(kFourInts)};
  refuses(p, Code::unsupported, {"first step", "it is step 1", "s8 x s8"});
  refuses({.n = 4,
           .k = 5,
           .a = DType::f32,
           .b = DType::f32,
           .c = DType::f32,
           .epilogue = {epilogue::bias(kFourInts)}},
          Code::unsupported, {"f32 x f32"});
  p = plain(DType::s32);
  p.epilogue = {epilogue::bias(kFourInts), epilogue::relu()};
  refuses(p, Code::unsupported, {"step 1 (relu)", "s32"});
}

TEST_CASE("steps: eight are possible, nine are not") {
  GemmProblem p = plain(DType::f32);
  for (int i = 0; i < 8; ++i) p.epilogue.add(epilogue::relu());
  CHECK_FALSE(validate(p));
  p.epilogue.add(epilogue::relu());
  refuses(p, Code::unsupported, {"9 steps", "at most 8"});
}

TEST_CASE("k may be as large as sums stay exact, and larger when wrapping is asked for") {
  // 2^31 - 1 over the largest product.
  const auto limit = [](DType a, DType b, std::int32_t za) {
    GemmProblem p{.n = 1, .k = 1 << 20, .a = a, .b = b, .a_zero_point = za};
    const Error e = validate(p);
    CHECK(e.code() == Code::bad_value);
    CHECK(says(e, "1048576"));
    const std::string text = e.what();
    const Index k = std::atoll(text.c_str() + text.find("up to k = ") + 10);
    p.k = k;
    CHECK_FALSE(validate(p));
    p.k = k + 1;
    CHECK(validate(p));
    p.overflow = Overflow::wrap;
    CHECK_FALSE(validate(p));
    return k;
  };
  CHECK(limit(DType::u8, DType::s8, 0) == 65793);
  CHECK(limit(DType::s8, DType::s8, 0) == 131071);
  CHECK(limit(DType::u8, DType::u8, 0) == 33025);
  CHECK(limit(DType::u8, DType::s8, 128) == 131071);
  CHECK(limit(DType::s8, DType::s8, -128) == 65793);
}

TEST_CASE("the bound on k counts zero points of b, per-row zero points of a, and the bias") {
  GemmProblem p = plain();
  p.k = 70000;
  CHECK_FALSE(validate(p));
  const std::int32_t zeros[] = {0, 127, 0, 0};
  p.b_zero_points = zeros;
  refuses(p, Code::bad_value, {"k is 70000", "65793"});
  p.b_zero_points = {};
  p.a_zero_points = ZeroPoints::per_row;
  refuses(p, Code::bad_value, {"k is 70000"});

  p = plain();
  for (const std::int32_t extreme : {0x7FFFFFFF, -0x7FFFFFFF - 1}) {
    const std::vector<std::int32_t> bias{0, extreme, 0, 0};
    p.epilogue = {epilogue::bias(bias)};
    p.k = 1;
    refuses(p, Code::bad_value, {"k is 1,", "up to k = 0"});
  }
}

TEST_CASE("weights: another type, shape, null data and overlapping rows") {
  refuses_weights([](Valid& v) { v.weights.type = DType::u8; }, Code::unsupported,
                  {"b holds u8", "problem says s8"});
  refuses_weights([](Valid& v) { v.weights.rows = 6; }, Code::bad_shape,
                  {"b is 1 x 6 x 4", "1, 5, 4"});
  refuses_weights([](Valid& v) { v.weights.cols = 3; }, Code::bad_shape, {"b is 1 x 5 x 3"});
  refuses_weights([](Valid& v) { v.weights.batch = 2; }, Code::bad_shape, {"b is 2 x 5 x 4"});
  refuses_weights([](Valid& v) { v.weights.data = nullptr; }, Code::bad_data, {"gemm: b is null"});
  refuses_weights([](Valid& v) { v.weights.row_stride = 3; }, Code::bad_shape,
                  {"gemm: b is 5 x 4", "strides 3 and 1", "leading dimension"});
  refuses_weights([](Valid& v) { v.weights.row_stride = kMax; }, Code::bad_shape,
                  {"gemm: b", "overflows"});
  refuses_weights([](Valid& v) { v.problem.k = -1; }, Code::bad_shape, {"k -1"});
}

TEST_CASE("steps: a kind that does not exist is unsupported") {
  GemmProblem p{.n = 2, .k = 2, .c = DType::f32};
  p.epilogue.add({.kind = static_cast<Step::Kind>(77)});
  const Error e = validate(p);
  CHECK(e.code() == Code::unsupported);
  CHECK(says(e, "kind 77"));
}
