// Operations on rows: softmax, RMSNorm and LayerNorm.
//
//   softmax     y[j] = exp(x[j] - m) / sum over j of exp(x[j] - m), m the row's maximum; or its
//               logarithm. A row of -infinity alone gives zeros, as in attention (logarithms:
//               -infinity), where ONNX's Softmax has NaN.
//   RMSNorm     y[j] = x[j] / sqrt(mean of x[j]^2 + epsilon) * gamma[j]
//   LayerNorm   y[j] = (x[j] - mean) / sqrt(mean of (x[j] - mean)^2 + epsilon) * gamma[j] + beta[j]
//
// References compute in double and round the result to y's type. Backends compute in f32, sums in
// any order, the variance around the mean that was found; they agree within the tolerances below.
// NaN makes its row NaN, as do infinities where IEEE 754 says so.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include "quern/ops/epilogue.hpp"
#include "quern/ops/rows_check.hpp"

namespace quern {
inline namespace QUERN_ABI {

enum class SoftmaxResult : std::uint8_t { weights, logarithms };

/// Softmax over the columns of any number of rows. For another axis, give views whose columns are
/// that axis: any strides will do.
struct SoftmaxProblem {
  Index cols = 0;
  DType x = DType::f32;  ///< f32, bf16 or f16
  DType y = DType::f32;  ///< f32, bf16 or f16
  SoftmaxResult result = SoftmaxResult::weights;
};

struct SoftmaxArgs {
  ConstMatrixView x;  ///< (batch, rows, cols)
  MatrixView y;       ///< the same; may be x itself
};

enum class Normalization : std::uint8_t { rms, layer };

/// RMSNorm or LayerNorm of the columns of any number of rows, of x or of x + residual.
struct NormalizeProblem {
  Index cols = 0;
  Normalization kind = Normalization::rms;
  DType x = DType::f32;               ///< f32, bf16 or f16; of the residual and the sum too
  DType y = DType::f32;               ///< f32, bf16 or f16
  float epsilon = 1e-5f;              ///< not negative
  std::span<const float> gamma = {};  ///< cols, or none: 1
  std::span<const float> beta = {};   ///< cols, or none: 0; LayerNorm only
  bool residual = false;              ///< adds one first; the sum, rounded to x's type, is kept
};

struct NormalizeArgs {
  ConstMatrixView x;              ///< (batch, rows, cols)
  MatrixView y;                   ///< the same; may be x itself
  ConstMatrixView residual = {};  ///< the same, if the problem adds it
  MatrixView sum = {};            ///< x + residual; may be either of them
  /// Of each row (batch * rows), or none: its mean (LayerNorm), and 1 / sqrt(... + epsilon).
  std::span<float> means = {}, factors = {};
};

inline Error validate(const SoftmaxProblem& p) {
  if (!is_float(p.x) || !is_float(p.y) || static_cast<int>(p.result) > 1) {
    return Error::make(Code::unsupported, "softmax: %s -> %s (result %d) is not offered", name(p.x),
                       name(p.y), int(p.result));
  }
  if (p.cols >= 0) return {};
  return Error::make(Code::bad_shape, "softmax: %lld columns", detail::LL(p.cols));
}

/// One call of a valid problem. Never allocates, reads nothing but the arguments.
inline Error validate(const SoftmaxProblem& p, const SoftmaxArgs& args) noexcept {
  Index x_bytes = 0, y_bytes = 0;
  if (Error e = detail::check_rows(args.x, "softmax: x", p.x, p.cols, nullptr, &x_bytes)) return e;
  if (Error e = detail::check_rows(args.y, "softmax: y", p.y, p.cols, &args.x, &y_bytes)) return e;
  return detail::check_distinct(args.y, y_bytes, "softmax: y", args.x, x_bytes, "x");
}

inline Error validate(const NormalizeProblem& p) {
  using detail::LL;
  if (!is_float(p.x) || !is_float(p.y) || static_cast<int>(p.kind) > 1) {
    return Error::make(Code::unsupported, "normalize: %s -> %s (kind %d) is not offered", name(p.x),
                       name(p.y), int(p.kind));
  }
  if (p.cols < 0) return Error::make(Code::bad_shape, "normalize: %lld columns", LL(p.cols));
  if (!std::isfinite(p.epsilon) || p.epsilon < 0.0f) {
    return Error::make(Code::bad_value, "normalize: epsilon is %g; it must be finite, not negative",
                       double(p.epsilon));
  }
  const Index gammas = std::ssize(p.gamma), betas = std::ssize(p.beta);
  if ((gammas != 0 && gammas != p.cols) || (betas != 0 && betas != p.cols)) {
    return Error::make(Code::bad_shape,
                       "normalize: %lld values of gamma and %lld of beta for %lld columns",
                       LL(gammas), LL(betas), LL(p.cols));
  }
  if (betas != 0 && p.kind == Normalization::rms) {
    return Error::make(Code::unsupported, "normalize: RMSNorm has no beta, but %lld are given",
                       LL(betas));
  }
  return {};
}

/// One call of a valid problem. Never allocates, reads nothing but the arguments.
inline Error validate(const NormalizeProblem& p, const NormalizeArgs& args) noexcept {
  using detail::LL;
  const ConstMatrixView& x = args.x;
  Index x_bytes = 0, y_bytes = 0, r_bytes = 0, s_bytes = 0;
  if (Error e = detail::check_rows(x, "normalize: x", p.x, p.cols, nullptr, &x_bytes)) return e;
  if (Error e = detail::check_rows(args.y, "normalize: y", p.y, p.cols, &x, &y_bytes)) return e;
  if (Error e = detail::check_distinct(args.y, y_bytes, "normalize: y", x, x_bytes, "x")) return e;
  if (p.residual) {
    const ConstMatrixView &r = args.residual, s = args.sum;
    if (Error e = detail::check_rows(r, "normalize: residual", p.x, p.cols, &x, &r_bytes)) return e;
    if (Error e = detail::check_rows(args.sum, "normalize: sum", p.x, p.cols, &x, &s_bytes)) {
      return e;
    }
    if (Error e = detail::check_distinct(s, s_bytes, "normalize: sum", x, x_bytes, "x")) return e;
    if (Error e = detail::check_distinct(s, s_bytes, "normalize: sum", r, r_bytes, "residual")) {
      return e;
    }
    if (!detail::bytes_apart(args.y.data, y_bytes, r.data, r_bytes) ||
        !detail::bytes_apart(args.y.data, y_bytes, s.data, s_bytes)) {
      return Error::make(Code::bad_data, "normalize: y at %p overlaps residual at %p or sum at %p",
                         args.y.data, r.data, s.data);
    }
  }
  const Index rows = x.batch * x.rows;  // checked with x's elements; with no columns, of no use
  for (const Index count : {std::ssize(args.means), std::ssize(args.factors)}) {
    if (count == 0 || count == rows) continue;
    return Error::make(Code::bad_shape, "normalize: %lld means or factors for %lld rows", LL(count),
                       LL(rows));
  }
  return {};
}

/// How far a result may be from the reference: absolute + relative * |result|.
struct RowTolerance {
  double relative = 0, absolute = 0;
};

/// For rows of magnitude up to `most`. With u = 2^-24: subtracting the maximum (at most 2 most u),
/// an exponential within 3 ulp, a sum of n terms and the division; exponentials below 2^-126 may be
/// that. The logarithm of the sum is as wrong as the sum is relatively.
inline RowTolerance softmax_tolerance(const SoftmaxProblem& p, double most) {
  const double u = 0x1p-24, n = static_cast<double>(p.cols), y = 2.0 * detail::unit_roundoff(p.y);
  const double factor = (4.0 * most + n + 16.0) * u;
  const double f16_step = p.y == DType::f16 ? 0x1p-24 : 0.0;
  if (p.result == SoftmaxResult::weights) return {factor + y, 0x1p-125 + f16_step};
  return {y + 4.0 * u, factor + 4.0 * u * (2.0 * most + std::log1p(n)) + f16_step};
}

/// What the numbers of a call reach: see normalize_range().
struct NormalizeRange {
  double x = 0;           ///< largest magnitude that is normalized
  double factor = 0;      ///< largest 1 / sqrt(... + epsilon)
  double normalized = 0;  ///< largest magnitude of the result without gamma and beta
  double gamma = 0, beta = 0;
};

/// With u = 2^-24: a mean of n terms is wrong by n u x, hence a difference d from it by (n + 1) u
/// x, a sum of squares relatively by (n + 4) u plus the square of the mean's error; the square root
/// halves that.
inline RowTolerance normalize_tolerance(const NormalizeProblem& p, const NormalizeRange& r) {
  const double u = 0x1p-24, n = static_cast<double>(p.cols);
  const double shift = p.kind == Normalization::layer ? (n + 1.0) * u * r.x * r.factor : 0.0;
  const double root = (n / 2.0 + 8.0) * u + shift * shift / 2.0;
  const double f16_step = p.y == DType::f16 ? 0x1p-24 : 0.0;
  return {2.0 * detail::unit_roundoff(p.y),
          r.gamma * (shift + r.normalized * root) + 4.0 * u * r.beta + 0x1p-125 + f16_step};
}

/// Runs a problem whose validate()s have passed.
inline void reference_softmax(const SoftmaxProblem& p, const SoftmaxArgs& args) {
  for (Index b = 0; b < args.x.batch; ++b) {
    for (Index i = 0; i < args.x.rows; ++i) {
      const auto x = [&](Index j) { return static_cast<double>(load_float(args.x, b, i, j)); };
      double most = -HUGE_VAL, sum = 0.0;
      for (Index j = 0; j < p.cols; ++j) {
        if (!std::isnan(most) && !(x(j) <= most)) most = x(j);  // NaN too, and it stays
      }
      const bool empty = most == -HUGE_VAL;
      for (Index j = 0; j < p.cols && !empty; ++j) sum += std::exp(x(j) - most);
      for (Index j = 0; j < p.cols; ++j) {
        double y = empty ? 0.0 : std::exp(x(j) - most) / sum;
        if (p.result == SoftmaxResult::logarithms) {
          y = empty ? -HUGE_VAL : x(j) - most - std::log(sum);
        }
        detail::store_float(args.y, b, i, j, static_cast<float>(y));
      }
    }
  }
}

namespace detail {

struct RowMoments {
  double mean, factor;
};
inline RowMoments row_moments(const NormalizeProblem& p, const ConstMatrixView& x, Index b,
                              Index i) {
  const double n = static_cast<double>(p.cols);
  double mean = 0.0, square = 0.0;
  for (Index j = 0; j < p.cols && p.kind == Normalization::layer; ++j) {
    mean += static_cast<double>(load_float(x, b, i, j)) / n;
  }
  for (Index j = 0; j < p.cols; ++j) {
    const double d = static_cast<double>(load_float(x, b, i, j)) - mean;
    square += d * d / n;
  }
  return {mean, 1.0 / std::sqrt(square + static_cast<double>(p.epsilon))};
}

}  // namespace detail

/// Runs a problem whose validate()s have passed.
inline void reference_normalize(const NormalizeProblem& p, const NormalizeArgs& args) {
  for (Index b = 0; b < args.x.batch; ++b) {
    for (Index i = 0; i < args.x.rows; ++i) {
      ConstMatrixView x = args.x;
      if (p.residual) {
        for (Index j = 0; j < p.cols; ++j) {
          const float sum = load_float(args.x, b, i, j) + load_float(args.residual, b, i, j);
          detail::store_float(args.sum, b, i, j, sum);
        }
        x = args.sum;
      }
      const detail::RowMoments row = detail::row_moments(p, x, b, i);
      const auto at = static_cast<std::size_t>(b * args.x.rows + i);
      if (!args.means.empty()) args.means[at] = static_cast<float>(row.mean);
      if (!args.factors.empty()) args.factors[at] = static_cast<float>(row.factor);
      for (Index j = 0; j < p.cols; ++j) {
        const auto k = static_cast<std::size_t>(j);
        double y = (static_cast<double>(load_float(x, b, i, j)) - row.mean) * row.factor;
        if (!p.gamma.empty()) y *= static_cast<double>(p.gamma[k]);
        if (!p.beta.empty()) y += static_cast<double>(p.beta[k]);
        detail::store_float(args.y, b, i, j, static_cast<float>(y));
      }
    }
  }
}

/// What the numbers of a call reach, for normalize_tolerance(): before it runs in place, and with
/// `x` the sum where there is a residual.
inline NormalizeRange normalize_range(const NormalizeProblem& p, const ConstMatrixView& x) {
  NormalizeRange r{.gamma = p.gamma.empty() ? 1.0 : 0.0};
  for (Index b = 0; b < x.batch; ++b) {
    for (Index i = 0; i < x.rows; ++i) {
      const detail::RowMoments row = detail::row_moments(p, x, b, i);
      r.factor = std::max(r.factor, row.factor);
      for (Index j = 0; j < p.cols; ++j) {
        const double v = static_cast<double>(load_float(x, b, i, j));
        r.x = std::max(r.x, std::fabs(v));
        r.normalized = std::max(r.normalized, std::fabs((v - row.mean) * row.factor));
      }
    }
  }
  for (const float g : p.gamma) r.gamma = std::max(r.gamma, std::fabs(static_cast<double>(g)));
  for (const float g : p.beta) r.beta = std::max(r.beta, std::fabs(static_cast<double>(g)));
  return r;
}

}  // namespace QUERN_ABI
}  // namespace quern
