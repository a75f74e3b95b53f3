// GEMM: C[i, j] = epilogue( sum over k of (A[i, k] - za) * (B[k, j] - zb[j]) ).
//
// This file says what is wanted (GemmProblem, GemmArgs) and what is refused (validate). What the
// result means, to the bit, is reference_gemm() in ops/gemm_reference.hpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "quern/core/error.hpp"
#include "quern/core/tensor.hpp"
#include "quern/ops/epilogue.hpp"

namespace quern {
inline namespace QUERN_ABI {

/// What to do when K is so large that an s32 accumulator may wrap.
enum class Overflow : std::uint8_t {
  refuse,  ///< validate() reports the problem
  wrap,    ///< sums are taken modulo 2^32
};

/// One zero point for A, known now; or one for each row, given to run().
enum class ZeroPoints : std::uint8_t { per_tensor, per_row };

/// A matrix product with fixed weights B [k, n] and any number of rows m. Types (a x b -> c):
///   s8/u8 x s8/u8          -> s32 (steps: s32 bias only), or s8, u8, f32, bf16, f16
///   f32/bf16/f16 x s8/u8   -> s8, u8, f32, bf16, f16. Each row of A is quantized to s8 on the way
///                             (RowQuantization); its scale is applied before the first step.
///   f32/bf16/f16 x f32/bf16/f16 -> s8, u8, f32, bf16, f16, accumulated in f32
/// With an output of s8 or u8 the last step is quantize(v, c_zero_point): put the factor
/// scale_a * scale_b / scale_c into epilogue::scale().
struct GemmProblem {
  Index n = 0;      ///< columns of B and C, at least 0
  Index k = 0;      ///< columns of A, rows of B, at least 0; with k = 0 every sum is 0
  Index batch = 1;  ///< weight matrices: 1 serves any batch of A, otherwise both must agree
  DType a = DType::u8;
  DType b = DType::s8;
  DType c = DType::s32;
  std::int32_t a_zero_point = 0;  ///< in the range of a's type
  ZeroPoints a_zero_points = ZeroPoints::per_tensor;
  std::span<const std::int32_t> b_zero_points = {};  ///< none, one, or n; in the range of b's type
  std::int32_t c_zero_point = 0;                     ///< in the range of c's type, s8 or u8
  Overflow overflow = Overflow::refuse;
  Epilogue epilogue = {};
};

/// One call. Rows of every array: index b * m + i for batch element b.
struct GemmArgs {
  ConstMatrixView a;                       ///< (batch, m, k), any non-negative strides
  MatrixView c;                            ///< (batch, m, n), col_stride 1
  ConstMatrixView residual = {};           ///< (batch, m, n), col_stride 1, if a step adds it;
                                           ///< may be c itself
  std::span<const float> row_scales = {};  ///< batch * m, if the epilogue has a row_scale
  std::span<const std::int32_t> a_zero_points = {};  ///< batch * m, if they are per_row
};

namespace detail {

using LL = long long;

/// The largest |x - zero_point| over a type's values.
constexpr Index reach(DType t, Index zero_point) {
  const Index down = zero_point - lowest(t), up = highest(t) - zero_point;
  return down > up ? down : up;
}

inline Error check_zero_point(const char* what, std::int32_t z, DType t, Index at) {
  if (z >= lowest(t) && z <= highest(t)) return {};
  return Error::make(Code::bad_value, "gemm: %s zero point %d at %lld is outside %s, [%d, %d]",
                     what, int(z), LL(at), name(t), int(lowest(t)), int(highest(t)));
}

/// Two elements of one matrix at one address would make a result depend on the order of writing,
/// and in an input are nearly always a wrong leading dimension.
template <class Void>
Error check_strides(const AnyMatrix<Void>& m, const char* what) {
  if (m.rows == 0 || m.cols == 0 || m.batch == 0) return {};
  const Index row_span = (m.cols - 1) * m.col_stride, col_span = (m.rows - 1) * m.row_stride;
  const bool row_major =
      (m.cols == 1 || m.col_stride >= 1) && (m.rows == 1 || m.row_stride > row_span);
  const bool col_major =
      (m.rows == 1 || m.row_stride >= 1) && (m.cols == 1 || m.col_stride > col_span);
  if (row_major || col_major) return {};
  return Error::make(Code::bad_shape,
                     "%s is %lld x %lld with strides %lld and %lld: its elements overlap (is the "
                     "leading dimension right?)",
                     what, LL(m.rows), LL(m.cols), LL(m.row_stride), LL(m.col_stride));
}

inline Error check_steps(const GemmProblem& p) {
  using K = Step::Kind;
  const Epilogue& e = p.epilogue;
  if (e.count > Epilogue::kMaxSteps) {
    return Error::make(Code::unsupported,
                       "gemm: epilogue has %lld steps, at most %lld are possible", LL(e.count),
                       LL(Epilogue::kMaxSteps));
  }
  const bool integer = is_int8(p.a) && is_int8(p.b);
  for (Index i = 0; i < e.count; ++i) {
    const Step& s = e.steps[i];
    const char* step = name(s.kind);
    if (!is_known(s.kind)) {
      return Error::make(Code::unsupported, "gemm: step %lld has kind %d, which is none", LL(i),
                         static_cast<int>(s.kind));
    }
    if (s.kind == K::bias_s32 && (i != 0 || !(integer || is_int8(p.b)))) {
      return Error::make(
          Code::unsupported,
          "gemm: an s32 bias must be the first step, with int8 weights; it is step %lld "
          "of %s x %s",
          LL(i), name(p.a), name(p.b));
    }
    if (p.c == DType::s32 && s.kind != K::bias_s32) {
      return Error::make(Code::unsupported, "gemm: step %lld (%s) cannot be applied to s32 output",
                         LL(i), step);
    }
    if (s.has_values()) {
      const bool one = s.kind == K::scale && s.count == 1;
      if (s.count != p.n && !one) {
        return Error::make(Code::bad_shape, "gemm: step %lld (%s) has %lld values but n is %lld",
                           LL(i), step, LL(s.count), LL(p.n));
      }
      if (s.data == nullptr && s.count > 0) {
        return Error::make(Code::bad_data, "gemm: step %lld (%s) is null", LL(i), step);
      }
    }
    if (s.kind == K::scale) {
      for (Index j = 0; j < s.count; ++j) {
        const float v = static_cast<const float*>(s.data)[j];
        if (!std::isfinite(v) || v == 0.0f) {
          return Error::make(Code::bad_value,
                             "gemm: step %lld (scale) is %g at %lld; it must be finite and not 0",
                             LL(i), double(v), LL(j));
        }
      }
    }
    if (s.kind == K::clamp && !(s.low <= s.high)) {
      return Error::make(Code::bad_value, "gemm: step %lld clamps to [%g, %g], which is empty",
                         LL(i), double(s.low), double(s.high));
    }
    if (s.kind == K::residual && (!std::isfinite(s.low) || s.low == 0.0f)) {
      return Error::make(Code::bad_value,
                         "gemm: step %lld (residual) has scale %g; it must be finite and not 0",
                         LL(i), double(s.low));
    }
    if (s.kind == K::custom && s.function == nullptr) {
      return Error::make(Code::bad_data, "gemm: step %lld (custom) has no function", LL(i));
    }
  }
  return {};
}

/// K * max|a - za| * max|b - zb| + max|bias| must fit in s32.
inline Error check_sum_bound(const GemmProblem& p) {
  const bool dynamic = is_float(p.a);
  Index a_reach = dynamic ? 127 : reach(p.a, p.a_zero_point);
  if (p.a_zero_points == ZeroPoints::per_row) a_reach = 255;
  Index b_reach = p.b_zero_points.empty() ? reach(p.b, 0) : 0;
  for (const std::int32_t z : p.b_zero_points) {
    if (reach(p.b, z) > b_reach) b_reach = reach(p.b, z);
  }
  Index bias = 0;
  if (p.epilogue.count > 0 && p.epilogue.steps[0].kind == Step::Kind::bias_s32) {
    const auto* values = static_cast<const std::int32_t*>(p.epilogue.steps[0].data);
    for (Index j = 0; j < p.n; ++j) {
      const Index magnitude = values[j] < 0 ? -Index{values[j]} : Index{values[j]};
      if (magnitude > bias) bias = magnitude;
    }
  }
  const Index limit = (Index{0x7FFFFFFF} - bias) / (a_reach * b_reach);
  if (p.k <= limit && bias <= 0x7FFFFFFF) return {};
  return Error::make(
      Code::bad_value,
      "gemm: k is %lld, but %s x %s sums with these zero points and biases are exact in "
      "s32 only up to k = %lld (set overflow = Overflow::wrap to take them modulo 2^32)",
      LL(p.k), name(p.a), name(p.b), LL(limit < 0 ? 0 : limit));
}

/// Do two matrices share an element's bytes? Conservative but for the usual case, column slices of
/// one row-major matrix.
inline bool overlap(const ConstMatrixView& x, Index x_bytes, const ConstMatrixView& y,
                    Index y_bytes) {
  if (x_bytes == 0 || y_bytes == 0) return false;
  const auto x0 = reinterpret_cast<std::uintptr_t>(x.data),
             y0 = reinterpret_cast<std::uintptr_t>(y.data);
  if (x0 + std::uintptr_t(x_bytes) <= y0 || y0 + std::uintptr_t(y_bytes) <= x0) return false;
  const Index stride = wrapping_multiply(x.row_stride, size_of(x.type));
  if (stride != wrapping_multiply(y.row_stride, size_of(y.type)) || stride <= 0) return true;
  if (x.col_stride != 1 || y.col_stride != 1 || x.batch != 1 || y.batch != 1) return true;
  const Index ahead =
      x0 >= y0 ? Index(x0 - y0) % stride : (stride - Index(y0 - x0) % stride) % stride;
  return ahead < y.cols * size_of(y.type) || ahead + x.cols * size_of(x.type) > stride;
}

inline bool same_view(const ConstMatrixView& x, const ConstMatrixView& y) {
  return x.data == y.data && x.type == y.type && x.row_stride == y.row_stride &&
         x.col_stride == y.col_stride && (x.batch == 1 || x.batch_stride == y.batch_stride);
}

}  // namespace detail

/// Everything that can be wrong with the description alone.
inline Error validate(const GemmProblem& p) {
  using detail::LL;
  if (p.n < 0 || p.k < 0 || p.batch < 0) {
    return Error::make(Code::bad_shape, "gemm: n is %lld, k %lld, batch %lld: none can be negative",
                       LL(p.n), LL(p.k), LL(p.batch));
  }
  Index weights = 0;
  // A factor of 64 leaves room for padding and for any element type.
  const bool fits = p.n < INT64_MAX / 128 && p.k < INT64_MAX / 128 &&
                    multiply_fits(p.n + 64, p.k + 64, &weights) &&
                    multiply_fits(weights, p.batch, &weights) &&
                    multiply_fits(weights, 64, &weights);
  if (!fits) {
    return Error::make(Code::bad_shape,
                       "gemm: %lld weight matrices of %lld x %lld overflow 63 bits", LL(p.batch),
                       LL(p.k), LL(p.n));
  }
  const bool both_int = is_int8(p.a) && is_int8(p.b), both_float = is_float(p.a) && is_float(p.b);
  const bool dynamic = is_float(p.a) && is_int8(p.b);
  if (!both_int && !both_float && !dynamic) {
    return Error::make(Code::unsupported, "gemm: %s x %s is not offered", name(p.a), name(p.b));
  }
  if (!is_known(p.c) || (p.c == DType::s32 && !both_int)) {
    return Error::make(Code::unsupported, "gemm: %s x %s cannot be stored as %s", name(p.a),
                       name(p.b), name(p.c));
  }
  if (!both_int && (p.a_zero_point != 0 || p.a_zero_points != ZeroPoints::per_tensor)) {
    return Error::make(Code::bad_value, "gemm: a is %s, which has no zero point, but one is given",
                       name(p.a));
  }
  if (both_int && p.a_zero_points == ZeroPoints::per_tensor) {
    if (Error e = detail::check_zero_point("a's", p.a_zero_point, p.a, 0)) return e;
  }
  const Index zeros = std::ssize(p.b_zero_points);
  if (zeros != 0 && both_float) {
    return Error::make(Code::bad_value,
                       "gemm: b is %s, which has no zero point, but %lld are given", name(p.b),
                       LL(zeros));
  }
  if (zeros > 1 && zeros != p.n) {
    return Error::make(Code::bad_shape,
                       "gemm: b has %lld zero points; 0, 1 or n = %lld are possible", LL(zeros),
                       LL(p.n));
  }
  for (Index j = 0; j < zeros; ++j) {
    const std::int32_t z = p.b_zero_points[static_cast<std::size_t>(j)];
    if (Error e = detail::check_zero_point("b's", z, p.b, j)) return e;
  }
  if (is_int8(p.c)) {
    if (Error e = detail::check_zero_point("c's", p.c_zero_point, p.c, 0)) return e;
  } else if (p.c_zero_point != 0) {
    return Error::make(Code::bad_value, "gemm: c is %s, which has no zero point, but %d is given",
                       name(p.c), int(p.c_zero_point));
  }
  if (Error e = detail::check_steps(p)) return e;
  if (!both_float && p.overflow == Overflow::refuse) return detail::check_sum_bound(p);
  return {};
}

/// The description together with its weights b (batch, k, n).
inline Error validate(const GemmProblem& p, const ConstMatrixView& b) {
  using detail::LL;
  if (Error e = validate(p)) return e;
  if (b.type != p.b) {
    return Error::make(Code::unsupported, "gemm: b holds %s but the problem says %s", name(b.type),
                       name(p.b));
  }
  if (b.rows != p.k || b.cols != p.n || b.batch != p.batch) {
    return Error::make(
        Code::bad_shape,
        "gemm: b is %lld x %lld x %lld (batch, rows, columns) but batch, k, n are %lld, "
        "%lld, %lld",
        LL(b.batch), LL(b.rows), LL(b.cols), LL(p.batch), LL(p.k), LL(p.n));
  }
  Index bytes = 0;
  if (Error e = measure(b, "gemm: b", &bytes)) return e;
  return detail::check_strides(b, "gemm: b");
}

/// One call of a valid problem: shapes, strides and addresses, but nothing that is there, so that
/// backends with memory of their own can ask too. Never allocates.
inline Error validate(const GemmProblem& p, const GemmArgs& args) noexcept {
  using detail::LL;
  const ConstMatrixView a = args.a, c = args.c, r = args.residual;
  if (a.type != p.a || c.type != p.c) {
    return Error::make(Code::unsupported,
                       "gemm: a and c hold %s and %s but the problem says %s and %s", name(a.type),
                       name(c.type), name(p.a), name(p.c));
  }
  Index a_bytes = 0, c_bytes = 0, r_bytes = 0;
  if (Error e = measure(a, "gemm: a", &a_bytes)) return e;
  if (Error e = measure(c, "gemm: c", &c_bytes)) return e;
  if (a.cols != p.k) {
    return Error::make(Code::bad_shape, "gemm: a has %lld columns but k is %lld", LL(a.cols),
                       LL(p.k));
  }
  if (c.cols != p.n || c.rows != a.rows || c.batch != a.batch) {
    return Error::make(Code::bad_shape,
                       "gemm: c is %lld x %lld x %lld but must be %lld x %lld x %lld", LL(c.batch),
                       LL(c.rows), LL(c.cols), LL(a.batch), LL(a.rows), LL(p.n));
  }
  if (p.batch != 1 && a.batch != p.batch) {
    return Error::make(Code::bad_shape,
                       "gemm: a has a batch of %lld but there are %lld weight matrices",
                       LL(a.batch), LL(p.batch));
  }
  if (Error e = detail::check_strides(a, "gemm: a")) return e;
  if (Error e = detail::check_strides(c, "gemm: c")) return e;
  if (c.cols > 1 && c.col_stride != 1) {
    return Error::make(Code::unsupported, "gemm: c has column stride %lld; only 1 is offered",
                       LL(c.col_stride));
  }
  const Index plane = c_bytes == 0 ? 0 : (c.rows - 1) * c.row_stride + c.cols;
  const bool apart =
      c.batch_stride >= plane ||
      (c.batch_stride >= c.cols && (c.batch - 1) * c.batch_stride + c.cols <= c.row_stride);
  if (c.batch > 1 && c_bytes > 0 && !apart) {
    return Error::make(Code::bad_shape, "gemm: c's batch stride %lld makes its matrices overlap",
                       LL(c.batch_stride));
  }
  if (detail::overlap(a, a_bytes, c, c_bytes)) {
    return Error::make(Code::bad_data, "gemm: c at %p overlaps a at %p", args.c.data, args.a.data);
  }
  Index rows = 0;
  if (!multiply_fits(a.rows, a.batch, &rows)) {  // with k = 0 and n = 0 no buffer limits it
    return Error::make(Code::bad_shape, "gemm: %lld x %lld rows overflow 63 bits", LL(a.batch),
                       LL(a.rows));
  }
  if (p.epilogue.has(Step::Kind::residual)) {
    if (r.rows != c.rows || r.cols != c.cols || r.batch != c.batch || !is_known(r.type)) {
      return Error::make(Code::bad_shape,
                         "gemm: residual is %lld x %lld x %lld but c is %lld x %lld x %lld",
                         LL(r.batch), LL(r.rows), LL(r.cols), LL(c.batch), LL(c.rows), LL(c.cols));
    }
    if (Error e = measure(r, "gemm: residual", &r_bytes)) return e;
    if (Error e = detail::check_strides(r, "gemm: residual")) return e;
    if (r.cols > 1 && r.col_stride != 1) {
      return Error::make(Code::unsupported,
                         "gemm: residual has column stride %lld; only 1 is offered",
                         LL(r.col_stride));
    }
    if (!detail::same_view(r, c) && detail::overlap(r, r_bytes, c, c_bytes)) {
      return Error::make(Code::bad_data,
                         "gemm: c at %p overlaps residual at %p without being the same view",
                         args.c.data, args.residual.data);
    }
  }
  if (p.epilogue.has(Step::Kind::row_scale)) {
    if (std::ssize(args.row_scales) != rows) {
      return Error::make(Code::bad_shape, "gemm: %lld row scales for %lld rows",
                         LL(args.row_scales.size()), LL(rows));
    }
  }
  if (p.a_zero_points == ZeroPoints::per_row) {
    if (std::ssize(args.a_zero_points) != rows) {
      return Error::make(Code::bad_shape, "gemm: %lld zero points for %lld rows of a",
                         LL(args.a_zero_points.size()), LL(rows));
    }
  }
  return {};
}

/// The numbers that come with a valid call: row scales must be finite, zero points in the range of
/// a's type. Reads them, so they have to be in the program's memory.
inline Error validate_values(const GemmProblem& p, const GemmArgs& args) noexcept {
  using detail::LL;
  if (p.epilogue.has(Step::Kind::row_scale)) {
    Index i = 0;
    for (const float s : args.row_scales) {
      if (!std::isfinite(s)) {
        return Error::make(Code::bad_value, "gemm: row scale %lld is %g; it must be finite", LL(i),
                           double(s));
      }
      ++i;
    }
  }
  if (p.a_zero_points == ZeroPoints::per_row) {
    Index i = 0;
    for (const std::int32_t z : args.a_zero_points) {
      if (Error e = detail::check_zero_point("a's", z, p.a, i++)) return e;
    }
  }
  return {};
}

}  // namespace QUERN_ABI
}  // namespace quern
