// Rotary position embedding: what rotations keep, and what is refused.
#include <cmath>
#include <string>
#include <vector>

#include "quern/ops/rope.hpp"
#include "quern/testing/random.hpp"
#include "support.hpp"

using namespace quern;

namespace {

using Floats = std::vector<float>;
using Ints = std::vector<std::int32_t>;

constexpr Index kPositions = 20;

/// x, y [2, heads, 5, size] and tables of their own.
struct Call {
  RopeProblem problem;
  Floats x, y, cos, sin;
  RopeArgs args;

  explicit Call(const RopeProblem& p)
      : problem(p),
        x(std::size_t(2 * p.heads * 5 * p.size)),
        y(x.size()),
        cos(std::size_t(kPositions * p.rope.rotary / 2)),
        sin(cos.size()) {
    testing::Random random(3);
    for (float& one : x) one = random.uniform(-2.0f, 2.0f);
    const Index half = p.rope.rotary / 2;
    fill_rope_tables({cos.data(), kPositions, half}, {sin.data(), kPositions, half});
    args.x = ConstHeadsView::bhsd(x.data(), p.x, 2, p.heads, 5, p.size);
    args.y = HeadsView::bhsd(y.data(), p.y, 2, p.heads, 5, p.size);
    args.tables = {{cos.data(), kPositions, half}, {sin.data(), kPositions, half}};
  }
  Call(const Call&) = delete;
  void run() {
    const Error described = validate(problem), called = validate(problem, args),
                filled = validate_values(problem, args);
    REQUIRE_MESSAGE(!described, described);
    REQUIRE_MESSAGE(!called, called);
    REQUIRE_MESSAGE(!filled, filled);
    reference_rope(problem, args);
  }
};

template <class Spoil>
void refuses(Spoil&& spoil, Code code, const std::vector<std::string>& words) {
  Call v({.heads = 2, .size = 8, .rope = {6}});
  spoil(v);
  Error e = validate(v.problem);
  if (!e) e = validate(v.problem, v.args);
  if (!e) e = validate_values(v.problem, v.args);
  CAPTURE(e);
  CHECK(e.code() == code);
  for (const std::string& word : words) {
    CAPTURE(word);
    CHECK(support::says(e, word));
  }
}

}  // namespace

TEST_CASE("a rotation keeps each pair's length, and at position 0 everything") {
  for (const RopePairs pairs : {RopePairs::halves, RopePairs::interleaved}) {
    Call call({.heads = 3, .size = 8, .rope = {8, pairs}});
    call.run();
    for (std::size_t v = 0; v < call.x.size() / 8; ++v) {
      for (Index i = 0; i < 4; ++i) {
        const auto first = v * 8 + std::size_t(call.problem.rope.first(i)),
                   second = v * 8 + std::size_t(call.problem.rope.second(i));
        CHECK(std::hypot(call.y[first], call.y[second]) ==
              doctest::Approx(std::hypot(call.x[first], call.x[second])).epsilon(1e-6));
        if (v % 5 == 0) CHECK(call.y[first] == call.x[first]);
      }
    }
  }
}

TEST_CASE("products of rotated vectors depend on the distance of their positions alone") {
  const Ints near = {0, 1, 2, 3, 4, 3, 4, 5, 6, 7}, far = {9, 10, 11, 12, 13, 12, 13, 14, 15, 16};
  Floats dots[2];
  for (const Ints* positions : {&near, &far}) {
    Call call({.size = 16, .rope = {16}});
    call.args.positions.positions = *positions;
    call.run();
    for (std::size_t t = 0; t < 5; ++t) {
      float dot = 0.0f;
      for (std::size_t d = 0; d < 16; ++d) dot += call.y[t * 16 + d] * call.y[80 + t * 16 + d];
      dots[positions == &far].push_back(dot);
    }
  }
  for (std::size_t t = 0; t < 5; ++t) {
    CHECK(dots[0][t] == doctest::Approx(dots[1][t]).epsilon(1e-4));
  }
}

TEST_CASE("interleaved pairs are halves in another order, and the rest of a vector is copied") {
  Call halves({.heads = 2, .size = 10, .rope = {8, RopePairs::halves}}),
      interleaved({.heads = 2, .size = 10, .rope = {8, RopePairs::interleaved}});
  const auto position = [](std::size_t d) { return d >= 8 ? d : d < 4 ? 2 * d : 2 * (d - 4) + 1; };
  for (std::size_t i = 0; i < halves.x.size(); ++i) {
    interleaved.x[i / 10 * 10 + position(i % 10)] = halves.x[i];
  }
  halves.run();
  interleaved.run();
  for (std::size_t i = 0; i < halves.x.size(); ++i) {
    CHECK(interleaved.y[i / 10 * 10 + position(i % 10)] == halves.y[i]);
    if (i % 10 >= 8) CHECK(halves.y[i] == halves.x[i]);
  }
}

TEST_CASE("positions, first positions and ragged batches name the same rows, in place too") {
  const Ints starts = {2, 7}, positions = {2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, offsets = {0, 5, 10};
  const RopeProblem p{.size = 4, .rope = {4}};
  Call by_start(p), by_position(p), ragged(p), in_place(p);
  by_start.args.positions.starts = starts;
  by_start.run();
  by_position.args.positions.positions = positions;
  by_position.run();
  CHECK(by_start.y == by_position.y);
  ragged.args.x = ConstHeadsView::bshd(ragged.x.data(), p.x, 1, 1, 10, 4);
  ragged.args.y = HeadsView::bshd(ragged.y.data(), p.y, 1, 1, 10, 4);
  ragged.args.offsets = offsets;
  ragged.args.positions.starts = starts;
  ragged.run();
  CHECK(ragged.y == by_start.y);
  in_place.args.positions.starts = starts;
  in_place.args.y.data = in_place.x.data();
  in_place.run();
  CHECK(in_place.x == by_start.y);
}

TEST_CASE("half types are rotated in f32 and rounded once") {
  const RopeProblem p{.size = 6, .x = HeadType::f16, .y = HeadType::bf16, .rope = {6}};
  Call exact({.size = 6, .rope = {6}}), half(p);
  std::vector<f16> x;
  std::vector<bf16> y(exact.x.size());
  for (float& one : exact.x) {
    x.push_back(to_f16(one));
    one = to_float(x.back());
  }
  half.args.x.data = x.data();
  half.args.y.data = y.data();
  exact.run();
  half.run();
  for (std::size_t i = 0; i < y.size(); ++i) CHECK(y[i] == to_bf16(exact.y[i]));
}

TEST_CASE("rotations that make no sense are refused") {
  Call fine({.heads = 2, .size = 8, .rope = {6}});
  fine.run();
  const Ints late = {0, 16}, three = {1, 2, 3};
  refuses([](Call& c) { c.problem.rope.rotary = 5; }, Code::bad_shape, {"5 elements"});
  refuses([](Call& c) { c.problem.rope.rotary = 10; }, Code::bad_shape, {"10", "vectors of 8"});
  refuses([](Call& c) { c.problem.x = HeadType::s8; }, Code::unsupported, {"s8 -> f32"});
  refuses([](Call& c) { c.problem.heads = 0; }, Code::bad_shape, {"0 heads"});
  refuses([](Call& c) { c.args.x.heads = 1; }, Code::bad_shape, {"x is 2 x 1", "2 heads"});
  refuses([](Call& c) { c.args.y.tokens = 4; }, Code::bad_shape, {"2 x 5 tokens", "2 x 4"});
  refuses([](Call& c) { c.args.y.data = c.x.data() + 1; }, Code::bad_data, {"overlaps x"});
  refuses([](Call& c) { c.args.tables.cos.cols = 4; }, Code::bad_shape, {"20 x 4", "20 x 3"});
  refuses([](Call& c) { c.args.tables.sin.data = nullptr; }, Code::bad_data, {"null"});
  refuses([&](Call& c) { c.args.positions.positions = three; }, Code::bad_shape,
          {"3 positions for 10"});
  refuses([&](Call& c) { c.args.positions.starts = three; }, Code::bad_shape,
          {"3 first positions for 2"});
  refuses([&](Call& c) { c.args.positions.starts = late; }, Code::bad_value,
          {"token 4 of sequence 1 is at position 20", "20"});
}
