// Epilogues: what happens to an accumulator on its way to the output. A list of steps, described as
// data so that every backend (and a compiled library) reads the same list; each step has one scalar
// meaning, apply(), which is its definition.
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <span>

#include "quern/core/error.hpp"
#include "quern/core/rounding.hpp"
#include "quern/core/tensor.hpp"
#include "quern/ops/activation.hpp"

namespace quern {
inline namespace QUERN_ABI {

/// One step. Made by the functions of namespace epilogue; the fields are for backends.
struct Step {
  enum class Kind : std::uint8_t {
    bias_s32,   ///< acc += bias[j], modulo 2^32; only as the first step of an integer problem
    scale,      ///< v *= scale[j], or scale[0] for all
    row_scale,  ///< v *= row_scales[i], given to run()
    bias,       ///< v += bias[j]
    relu,       ///< v < 0 becomes 0; NaN stays
    clamp,      ///< into [low, high]; NaN stays
    gelu,       ///< see scalar::gelu
    gelu_tanh,  ///< see scalar::gelu_tanh
    silu,       ///< see scalar::silu
    residual,   ///< v += (r[i, j] - zero_point) * scale, r given to run()
    custom,     ///< the user's function
  };
  /// Replaces values[0 .. count): the elements (row, col) to (row, col + count - 1). Called from
  /// several threads, in no particular order, with pieces of any size; must not throw.
  using Custom = void (*)(const void* context, float* values, Index row, Index col, Index count);

  Kind kind = Kind::relu;
  const void* data = nullptr;  // s32 or f32, `count` of them
  Index count = 0;
  float low = 0.0f, high = 0.0f;  // clamp; residual: low is the scale
  std::int32_t zero_point = 0;
  Custom function = nullptr;
  const void* context = nullptr;

  /// Whether `data` and `count` belong to this kind.
  constexpr bool has_values() const {
    return kind == Kind::bias_s32 || kind == Kind::scale || kind == Kind::bias;
  }
};

constexpr bool is_known(Step::Kind kind) { return kind <= Step::Kind::custom; }
constexpr const char* name(Step::Kind kind) {
  constexpr const char* kNames[] = {"bias_s32", "scale",    "row_scale", "bias",
                                    "relu",     "clamp",    "gelu",      "gelu_tanh",
                                    "silu",     "residual", "custom"};
  return is_known(kind) ? kNames[static_cast<std::uint8_t>(kind)] : "unknown step";
}

namespace epilogue {

/// s32 bias, in units of the accumulator: n values. Must come first.
inline Step bias(std::span<const std::int32_t> values) {
  return {.kind = Step::Kind::bias_s32, .data = values.data(), .count = std::ssize(values)};
}
/// f32 bias, n values.
inline Step bias(std::span<const float> values) {
  return {.kind = Step::Kind::bias, .data = values.data(), .count = std::ssize(values)};
}
/// Multiplies column j by values[j] (n values: per output channel; one value: per tensor).
inline Step scale(std::span<const float> values) {
  return {.kind = Step::Kind::scale, .data = values.data(), .count = std::ssize(values)};
}
/// Multiplies row i by GemmArgs::row_scales[i] (per token).
inline Step row_scale() { return {.kind = Step::Kind::row_scale}; }
inline Step relu() { return {.kind = Step::Kind::relu}; }
inline Step clamp(float low, float high) {
  return {.kind = Step::Kind::clamp, .low = low, .high = high};
}
inline Step gelu() { return {.kind = Step::Kind::gelu}; }
inline Step gelu_tanh() { return {.kind = Step::Kind::gelu_tanh}; }
inline Step silu() { return {.kind = Step::Kind::silu}; }
/// Adds (GemmArgs::residual[i, j] - zero_point) * scale.
inline Step residual(float scale = 1.0f, std::int32_t zero_point = 0) {
  return {.kind = Step::Kind::residual, .low = scale, .zero_point = zero_point};
}
/// A function of row segments; `context` must outlive the prepared operation.
inline Step custom(Step::Custom function, const void* context = nullptr) {
  return {.kind = Step::Kind::custom, .function = function, .context = context};
}
/// A function object float -> float, applied to each element. `f` must outlive the operation.
template <class F>
Step each(const F& f) {
  return custom(
      [](const void* context, float* values, Index, Index, Index count) {
        for (Index i = 0; i < count; ++i) values[i] = (*static_cast<const F*>(context))(values[i]);
      },
      &f);
}

}  // namespace epilogue

/// Up to kMaxSteps steps, applied in order:
///   Epilogue{epilogue::scale(s), epilogue::bias(b), epilogue::relu()}
/// The arrays behind scales and biases are copied when the operation is prepared.
struct Epilogue {
  static constexpr Index kMaxSteps = 8;

  Step steps[kMaxSteps];
  Index count = 0;  ///< may exceed kMaxSteps, which validate() then reports

  constexpr Epilogue() = default;
  Epilogue(std::initializer_list<Step> list) {
    for (const Step& s : list) add(s);
  }
  void add(const Step& s) {
    if (count < kMaxSteps) steps[count] = s;
    ++count;
  }
  const Step* begin() const { return steps; }
  const Step* end() const { return steps + (count < kMaxSteps ? count : kMaxSteps); }
  bool has(Step::Kind kind) const {
    for (const Step& s : *this) {
      if (s.kind == kind) return true;
    }
    return false;
  }
};

/// Element (i, j) of any view as a float; s32 rounds to nearest even.
inline float load_float(const ConstMatrixView& m, Index b, Index i, Index j) {
  const void* p = element(m, b, i, j);
  switch (m.type) {
    case DType::s8:
      return static_cast<float>(*static_cast<const std::int8_t*>(p));
    case DType::u8:
      return static_cast<float>(*static_cast<const std::uint8_t*>(p));
    case DType::s32:
      return static_cast<float>(*static_cast<const std::int32_t*>(p));
    case DType::f32:
      return *static_cast<const float*>(p);
    case DType::bf16:
      return to_float(*static_cast<const bf16*>(p));
    case DType::f16:
      return to_float(*static_cast<const f16*>(p));
  }
  return 0.0f;
}

/// What the steps need from run(): both indexed by the row within the batch element.
struct StepInputs {
  const float* row_scales = nullptr;  // (m)
  ConstMatrixView residual;           // (batch, m, n)
  Index batch = 0;
};

/// The meaning of a step on one float value. bias_s32 belongs to the accumulator; see add_bias().
inline float apply(const Step& s, float v, Index i, Index j, const StepInputs& in) {
  using K = Step::Kind;
  const auto channel = [&] { return static_cast<const float*>(s.data)[s.count == 1 ? 0 : j]; };
  switch (s.kind) {
    case K::bias_s32:
      return v;
    case K::scale:
      return unfused(v * channel());
    case K::row_scale:
      return unfused(v * in.row_scales[i]);
    case K::bias:
      return v + static_cast<const float*>(s.data)[j];
    case K::relu:
      return scalar::lower_bound(v, 0.0f);
    case K::clamp:
      return scalar::upper_bound(scalar::lower_bound(v, s.low), s.high);
    case K::gelu:
      return scalar::gelu(v);
    case K::gelu_tanh:
      return scalar::gelu_tanh(v);
    case K::silu:
      return scalar::silu(v);
    case K::residual: {
      const float r = load_float(in.residual, in.batch, i, j) - static_cast<float>(s.zero_point);
      return v + unfused(r * s.low);
    }
    case K::custom:
      s.function(s.context, &v, i, j, 1);
      return v;
  }
  return v;
}

/// acc + bias[j] modulo 2^32 when the epilogue begins with an s32 bias.
inline std::int32_t add_bias(const Epilogue& e, std::int32_t acc, Index j) {
  if (e.count == 0 || e.steps[0].kind != Step::Kind::bias_s32) return acc;
  const std::int32_t bias = static_cast<const std::int32_t*>(e.steps[0].data)[j];
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(acc) +
                                   static_cast<std::uint32_t>(bias));
}

}  // namespace QUERN_ABI
}  // namespace quern
