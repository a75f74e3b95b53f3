// When are two results the same? Bit for bit; or, for float sums of a backend that has no fused
// multiply-add, within the rounding errors of the sum, followed through the epilogue. What the
// comparisons of all operations share.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>

#include "quern/core/memory.hpp"
#include "quern/ops/epilogue.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

/// A float sum as the reference rounds it, and the magnitudes in it, which bound how far another
/// order or another rounding may be from it.
struct FloatSum {
  float value = 0.0f;
  double magnitudes = 0.0;
  Index terms = 0;

  void add(float x, float w) {
    value = std::fma(x, w, value);
    magnitudes += std::fabs(double(x) * double(w));
    ++terms;
  }
};

/// How far element (i, j) of an output of type `c` may be from the reference when its sum may round
/// otherwise: the bound 2 k 2^-24 sum |a b| times what the steps can make of it, and the rounding
/// to the output's type. Custom steps are taken not to enlarge differences.
inline double tolerance_after(const Epilogue& steps, DType c, const FloatSum& sum, Index i, Index j,
                              const StepInputs& in) {
  float v = sum.value;
  // Products below the smallest normal number round by absolute amounts: 2^-149 each.
  double error = 2.0 * double(sum.terms) * (sum.magnitudes * 0x1p-24 + 0x1p-149);
  // In another order, or with products of their own, such sums may overflow on the way.
  if (sum.magnitudes > double(std::numeric_limits<float>::max())) error = HUGE_VAL;
  for (const Step& s : steps) {
    using K = Step::Kind;
    const float before = v;
    v = apply(s, v, i, j, in);
    if (s.kind == K::scale) {
      error *= std::fabs(double(static_cast<const float*>(s.data)[s.count == 1 ? 0 : j]));
    } else if (s.kind == K::row_scale) {
      error *= std::fabs(double(in.row_scales[i]));
    } else if (s.kind == K::gelu || s.kind == K::gelu_tanh || s.kind == K::silu) {
      error *= 1.2;  // above their steepest slope
    }
    error += 0x1p-22 * std::fmax(std::fabs(double(before)), std::fabs(double(v)));
  }
  switch (c) {
    case DType::bf16:
      return error + 0x1p-7 * (std::fabs(double(v)) + error);
    case DType::f16:
      return error + 0x1p-10 * (std::fabs(double(v)) + error) + 0x1p-24;
    case DType::s8:
    case DType::u8:
      return error + 1.0;
    default:
      return error + 0x1p-149;
  }
}

namespace detail {

inline float float_at(const void* at, DType type) {
  return load_float(ConstMatrixView(at, type, 1, 1), 0, 0, 0);
}

/// Whether two elements differ in nothing but the payload of a NaN or, unless `exact`, by no more
/// than tolerance(). Makes them equal then.
template <class Tolerance>
bool reconcile(DType type, const void* want, void* got, bool exact, Tolerance&& tolerance) {
  const std::size_t size = static_cast<std::size_t>(size_of(type));
  if (std::memcmp(want, got, size) == 0) return true;
  const float x = float_at(want, type), y = float_at(got, type);
  bool same = is_float(type) && x != x && y != y;
  if (!same && !exact) {
    const double most = tolerance();
    // An infinite or NaN tolerance says that the sum overflowed: anything may come of it.
    same = !(std::fabs(double(x) - double(y)) > most) || !std::isfinite(most);
  }
  if (same) std::memcpy(got, want, size);
  return same;
}

/// "c[0][3, 4] is 40 but must be 127", with `where` for "c[0][3, 4]".
inline std::string mismatch(const std::string& where, DType type, const void* want,
                            const void* got) {
  const auto value = [&](const void* at) {
    return type == DType::s32 ? double(*static_cast<const std::int32_t*>(at)) : float_at(at, type);
  };
  const int digits = type == DType::s32 ? 10 : 9;
  char text[100];
  std::snprintf(text, sizeof text, " is %.*g but must be %.*g", digits, value(got), digits,
                value(want));
  return where + text;
}

/// Compares all the memory around two C's whose elements are equal; empty if nothing changed.
inline std::string change_around(const AlignedBuffer& expected, const AlignedBuffer& actual) {
  for (std::size_t at = 0; at < actual.size(); ++at) {
    if (expected.data()[at] != actual.data()[at]) {
      return "the byte at " + std::to_string(at) + " of " + std::to_string(actual.size()) +
             " around c, which is not c's, changed";
    }
  }
  return {};
}

}  // namespace detail

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
