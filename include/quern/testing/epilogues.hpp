// Random epilogues, for the problem generators of every operation that has them.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "quern/ops/gemm.hpp"
#include "quern/testing/operands.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

/// Steps for an operation and the arrays that they point to. Moves; does not copy.
class EpilogueCase {
 public:
  /// What the steps must fit: the types of the weights and of C, its columns (output channels) and
  /// rows (positions), and how many terms a sum has.
  struct Of {
    DType b, c;
    Index columns, rows, terms;
  };

  EpilogueCase() = default;
  EpilogueCase(EpilogueCase&&) = default;
  EpilogueCase& operator=(EpilogueCase&&) = default;

  /// Adds steps to `e`. make_residual(type) is called when a step adds a residual that is not C
  /// itself, once at most.
  template <class MakeResidual>
  void choose(Random& random, const Of& of, Epilogue& e, Overflow& overflow,
              MakeResidual&& make_residual) {
    if (is_int8(of.b) && random.one_in(3)) {
      const bool wrap = random.one_in(4);
      if (wrap) overflow = Overflow::wrap;
      const std::int32_t extremes[] = {0x7FFFFFFF, -0x7FFFFFFF - 1, 0, -1};
      s32_bias_.resize(static_cast<std::size_t>(of.columns));
      for (std::int32_t& v : s32_bias_) {
        v = wrap ? extremes[random.bits() % 4] : std::int32_t(random.bits() % 200001) - 100000;
      }
      e.add(epilogue::bias(std::span<const std::int32_t>(s32_bias_)));
    }
    if (of.c == DType::s32) return;
    const Index steps = random.between(0, 5);
    if (steps > 0 && !random.one_in(8)) add(random, of, e, Kind::scale, make_residual);
    const Index room = Epilogue::kMaxSteps - e.count;
    for (Index i = 0; i < steps && i < room; ++i) {
      add(random, of, e,
          random.pick({Kind::scale, Kind::row_scale, Kind::bias, Kind::relu, Kind::clamp,
                       Kind::gelu, Kind::gelu_tanh, Kind::silu, Kind::residual, Kind::custom}),
          make_residual);
    }
  }

  bool residual_in_place() const { return residual_in_place_; }
  std::span<const float> row_scales() const { return row_scales_; }

  /// Overwrites the arrays that the steps point to.
  void forget() {
    s32_bias_.assign(s32_bias_.size(), 0x12345678);
    for (auto& values : arrays_) values.assign(values.size(), 3e30f);
  }

  /// The steps in one line, each after a space.
  std::string describe(const Epilogue& e, Index columns) const {
    std::string line;
    for (const Step& s : e) {
      line += std::string(" ") + quern::name(s.kind);
      if (s.kind == Kind::scale && s.count == 1 && columns != 1) line += "(1)";
      if (s.kind == Kind::residual) {
        line += std::string("(") + quern::name(residual_type_) +
                (residual_in_place_ ? " in place)" : ")");
      }
    }
    return line;
  }

 private:
  using Kind = Step::Kind;

  template <class Value>
  std::span<const float> floats(Index count, Value&& value) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& v : values) v = value();
    arrays_.push_back(std::move(values));
    return arrays_.back();
  }

  /// A factor that brings sums of the usual size near the range of the output, or a power of two,
  /// which makes ties when the sum is an integer.
  static float any_scale(Random& random, const Of& of) {
    if (random.one_in(3)) return random.pick({0.5f, 0.25f, 0x1p-6f, 0x1p-9f, -0.5f, 2.0f});
    const float spread = is_int8(of.b) ? std::sqrt(float(of.terms + 1)) * 5000.0f : 1.0f;
    return random.uniform(0.5f, 200.0f) / spread;
  }

  template <class MakeResidual>
  void add(Random& random, const Of& of, Epilogue& e, Kind kind, MakeResidual& make_residual) {
    switch (kind) {
      case Kind::scale:
        e.add(epilogue::scale(
            floats(random.one_in(3) ? 1 : of.columns, [&] { return any_scale(random, of); })));
        break;
      case Kind::row_scale:
        if (row_scales_.empty()) {
          row_scales_.resize(static_cast<std::size_t>(of.rows));
          for (float& v : row_scales_) v = random.one_in(16) ? 0.0f : random.uniform(-2.0f, 2.0f);
        }
        e.add(epilogue::row_scale());
        break;
      case Kind::bias:
        e.add(epilogue::bias(floats(of.columns, [&] { return random.uniform(-50.0f, 50.0f); })));
        break;
      case Kind::relu:
        e.add(epilogue::relu());
        break;
      case Kind::clamp: {
        const float low = random.uniform(-90.0f, 30.0f);
        e.add(epilogue::clamp(low, random.one_in(8) ? low : low + random.uniform(0.0f, 90.0f)));
        break;
      }
      case Kind::gelu:
        e.add(epilogue::gelu());
        break;
      case Kind::gelu_tanh:
        e.add(epilogue::gelu_tanh());
        break;
      case Kind::silu:
        e.add(epilogue::silu());
        break;
      case Kind::residual:
        add_residual(random, of, e, make_residual);
        break;
      case Kind::custom:
        e.add(random.one_in(2) ? epilogue::each(halve_) : epilogue::custom(flip_signs));
        break;
      case Kind::bias_s32:
        break;  // only ever the first step
    }
  }

  template <class MakeResidual>
  void add_residual(Random& random, const Of& of, Epilogue& e, MakeResidual& make_residual) {
    if (!e.has(Kind::residual)) {
      using D = DType;
      residual_in_place_ = random.one_in(3);
      residual_type_ = of.c;
      if (!residual_in_place_) {
        residual_type_ = random.pick({D::s8, D::u8, D::s32, D::f32, D::bf16, D::f16});
        make_residual(residual_type_);
      }
    }
    const std::int32_t zero_point = is_int8(residual_type_) ? any_int8(random, residual_type_) : 0;
    const float scale = residual_type_ == DType::s32 ? 0x1p-25f : random.uniform(0.1f, 1.5f);
    e.add(epilogue::residual(random.one_in(3) ? 1.0f : scale, zero_point));
  }

  /// Custom steps that are exact, so that no compiler's freedom shows, and depend on the position.
  static void flip_signs(const void*, float* values, Index row, Index col, Index count) {
    for (Index i = 0; i < count; ++i) {
      if ((row + col + i) % 3 == 0) values[i] = -values[i];
    }
  }
  struct Halve {
    float operator()(float x) const { return x * 0.5f; }
  };
  static constexpr Halve halve_{};

  bool residual_in_place_ = false;
  DType residual_type_ = DType::f32;
  std::vector<std::int32_t> s32_bias_;
  std::vector<float> row_scales_;
  std::vector<std::vector<float>> arrays_;  // scales and biases, wherever the steps point
};

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
