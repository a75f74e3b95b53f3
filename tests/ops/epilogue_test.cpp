#include <cmath>
#include <string>
#include <vector>

#include "quern/ops/epilogue.hpp"
#include "support.hpp"

using namespace quern;

namespace {
float at(Index i, Index j, const Step& s, float v, const StepInputs& in = {}) {
  return apply(s, v, i, j, in);
}
float once(const Step& s, float v) { return apply(s, v, 0, 0, {}); }
}  // namespace

TEST_CASE("scale multiplies by the column's value, or by the only one") {
  const std::vector<float> per_channel{2.0f, 3.0f}, one{0.5f};
  CHECK(at(0, 1, epilogue::scale(per_channel), 10.0f) == 30.0f);
  CHECK(at(0, 1, epilogue::scale(one), 10.0f) == 5.0f);
}

TEST_CASE("row_scale multiplies by the row's value, given when the operation runs") {
  const float scales[] = {2.0f, 3.0f};
  CHECK(at(1, 0, epilogue::row_scale(), 10.0f, {scales, {}, 0}) == 30.0f);
}

TEST_CASE("a float bias is added to each column") {
  const std::vector<float> bias{1.0f, -2.0f};
  CHECK(at(5, 1, epilogue::bias(bias), 10.0f) == 8.0f);
}

TEST_CASE("an s32 bias is added to the accumulator modulo 2^32, and is no step for floats") {
  const std::vector<std::int32_t> bias{5, 1};
  const Epilogue e{epilogue::bias(bias)};
  CHECK(add_bias(e, 10, 0) == 15);
  CHECK(add_bias(e, 0x7FFFFFFF, 1) == -0x7FFFFFFF - 1);
  CHECK(add_bias(Epilogue{}, 10, 0) == 10);
  CHECK(once(*e.begin(), 2.5f) == 2.5f);
}

TEST_CASE("relu and clamp bound values and let NaN pass") {
  CHECK(once(epilogue::relu(), -3.0f) == 0.0f);
  CHECK(once(epilogue::relu(), 3.0f) == 3.0f);
  CHECK(std::isnan(once(epilogue::relu(), NAN)));
  const Step clamp = epilogue::clamp(-1.0f, 6.0f);
  CHECK(once(clamp, 7.0f) == 6.0f);
  CHECK(once(clamp, -7.0f) == -1.0f);
  CHECK(once(clamp, 2.0f) == 2.0f);
  CHECK(std::isnan(once(clamp, NAN)));
  CHECK(once(epilogue::clamp(0.0f, HUGE_VALF), 1e30f) == 1e30f);
}

TEST_CASE("activations are the scalar functions") {
  for (const float x : {-2.0f, 0.3f, 5.0f}) {
    CHECK(once(epilogue::gelu(), x) == scalar::gelu(x));
    CHECK(once(epilogue::gelu_tanh(), x) == scalar::gelu_tanh(x));
    CHECK(once(epilogue::silu(), x) == scalar::silu(x));
  }
}

TEST_CASE("residual adds (r - zero point) * scale, r of any type") {
  const std::uint8_t bytes[] = {10, 20, 30, 40, 50, 60, 70, 80};
  const Step step = epilogue::residual(0.5f, 20);
  StepInputs in{.residual = Matrix<const std::uint8_t>{bytes, 2, 2, 2, 1, 2}};
  CHECK(at(1, 0, step, 1.0f, in) == 6.0f);
  in.batch = 1;
  CHECK(at(1, 1, step, 1.0f, in) == 31.0f);

  const float floats[] = {1.5f};
  const bf16 brains[] = {to_bf16(-2.0f)};
  const f16 halves[] = {to_f16(0.25f)};
  const std::int32_t words[] = {16777217};  // rounds to 16777216
  const std::int8_t signed_bytes[] = {-128};
  const auto add = [&](ConstMatrixView r) {
    return at(0, 0, epilogue::residual(), 0.0f, {.residual = r});
  };
  CHECK(add(Matrix<const float>{floats, 1, 1}) == 1.5f);
  CHECK(add(Matrix<const bf16>{brains, 1, 1}) == -2.0f);
  CHECK(add(Matrix<const f16>{halves, 1, 1}) == 0.25f);
  CHECK(add(Matrix<const std::int32_t>{words, 1, 1}) == 16777216.0f);
  CHECK(add(Matrix<const std::int8_t>{signed_bytes, 1, 1}) == -128.0f);
}

TEST_CASE("custom steps get the value, its place and the context") {
  struct Seen {
    Index row = -1, col = -1, count = -1;
  } seen;
  const Step step = epilogue::custom(
      [](const void* context, float* values, Index row, Index col, Index count) {
        *const_cast<Seen*>(static_cast<const Seen*>(context)) = {row, col, count};
        values[0] = -values[0];
      },
      &seen);
  CHECK(at(3, 7, step, 4.0f) == -4.0f);
  CHECK(seen.row == 3);
  CHECK(seen.col == 7);
  CHECK(seen.count == 1);
}

TEST_CASE("each() turns a function object into a step for segments of any length") {
  const auto square = [](float x) { return x * x; };
  const Step step = epilogue::each(square);
  float values[] = {1.0f, 2.0f, 3.0f};
  step.function(step.context, values, 0, 0, 3);
  CHECK(values[2] == 9.0f);
  CHECK(once(step, 5.0f) == 25.0f);
}

TEST_CASE("an Epilogue is a list in order, and remembers that it was given too many") {
  Epilogue e{epilogue::relu(), epilogue::gelu()};
  CHECK(e.count == 2);
  CHECK(e.begin()[1].kind == Step::Kind::gelu);
  CHECK(e.has(Step::Kind::relu));
  CHECK_FALSE(e.has(Step::Kind::silu));
  for (int i = 0; i < 10; ++i) e.add(epilogue::silu());
  CHECK(e.count == 12);
  CHECK(e.end() - e.begin() == Epilogue::kMaxSteps);
}

TEST_CASE("every kind of step has its own name") {
  CHECK(std::string(name(Step::Kind::bias_s32)) == "bias_s32");
  CHECK(std::string(name(Step::Kind::gelu_tanh)) == "gelu_tanh");
  CHECK(std::string(name(Step::Kind::custom)) == "custom");
}
