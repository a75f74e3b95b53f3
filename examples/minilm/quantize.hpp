// Quantization for int8 networks: weights once, activations at run time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "quern/core/memory.hpp"
#include "quern/core/rounding.hpp"
#include "quern/core/tensor.hpp"

namespace minilm {

using quern::Index;
using quern::Matrix;

/// Rows of s8 that stand for floats: row j is values * scales[j].
struct QuantizedWeights {
  std::vector<std::int8_t> values;
  std::vector<float> scales;

  /// Symmetric, each row by its largest magnitude.
  static QuantizedWeights of(const Matrix<const float>& weights) {
    QuantizedWeights out;
    out.values.reserve(static_cast<std::size_t>(weights.rows * weights.cols));
    for (Index j = 0; j < weights.rows; ++j) {
      const std::span row(weights.data + j * weights.row_stride,
                          static_cast<std::size_t>(weights.cols));
      float most = 0;
      for (const float w : row) most = std::max(most, std::fabs(w));
      const auto q = quern::RowQuantization::of(most);
      for (const float w : row) {
        out.values.push_back(
            static_cast<std::int8_t>(quern::quantize(w * q.inverse, 0, quern::DType::s8)));
      }
      out.scales.push_back(q.scale == 0 ? 1 : q.scale);
    }
    return out;
  }
};

/// Rows of u8 that stand for floats: element (i, k) is (values - zero_points[i]) * scales[i].
///
/// quern quantizes rows of floats by itself when the problem says f32 x s8, symmetrically. This
/// network needs the finer steps of a range of its own for each row: in that of [CLS] one channel
/// is twenty times as large as the rest, and what leaves GELU is hardly ever negative. With
/// symmetric rows the empty sentence, the worst, has a cosine of 0.986 to its f32 vector; with
/// these, 0.993.
struct QuantizedRows {
  Matrix<std::uint8_t> values;
  std::span<float> scales;
  std::span<std::int32_t> zero_points;

  static std::size_t bytes(Index rows, Index cols) {
    using quern::Carver;
    return static_cast<std::size_t>(Carver::bytes<std::uint8_t>(rows * cols) +
                                    Carver::bytes<float>(rows) + Carver::bytes<std::int32_t>(rows));
  }

  /// In memory from a carver that has as many bytes.
  static QuantizedRows of(const Matrix<const float>& x, quern::Carver* memory) noexcept {
    const auto count = static_cast<std::size_t>(x.rows);
    QuantizedRows out{{memory->take<std::uint8_t>(x.rows * x.cols), x.rows, x.cols},
                      {memory->take<float>(x.rows), count},
                      {memory->take<std::int32_t>(x.rows), count}};
    for (std::size_t i = 0; i < count; ++i) {
      const Index row = static_cast<Index>(i);
      quantize(x.data + row * x.row_stride, out.values.data + row * x.cols, x.cols, &out.scales[i],
               &out.zero_points[i]);
    }
    return out;
  }

 private:
  /// Plain loops that compilers turn into vectors: several extremes side by side, and rounding by
  /// truncation of what is positive. An infinity makes the scale one, which run() refuses.
  static void quantize(const float* x, std::uint8_t* q, Index count, float* scale,
                       std::int32_t* zero_point) noexcept {
    constexpr Index kLanes = 16;
    float low[kLanes] = {}, high[kLanes] = {};  // 0 is always in the range
    const auto see = [&](Index j, Index lane) {
      low[lane] = x[j] < low[lane] ? x[j] : low[lane];
      high[lane] = x[j] > high[lane] ? x[j] : high[lane];
    };
    Index j = 0;
    for (; j + kLanes <= count; j += kLanes) {
      for (Index lane = 0; lane < kLanes; ++lane) see(j + lane, lane);
    }
    for (; j < count; ++j) see(j, 0);
    const float least = *std::min_element(low, low + kLanes);
    *scale = (*std::max_element(high, high + kLanes) - least) / 255.0f;
    const float inverse = *scale > 0x1p-120f ? 1.0f / *scale : 0.0f;
    *zero_point = static_cast<std::int32_t>(bounded(0.5f - least * inverse));
    const float shift = static_cast<float>(*zero_point) + 0.5f;
    for (j = 0; j < count; ++j) {
      q[j] = static_cast<std::uint8_t>(static_cast<std::int32_t>(bounded(x[j] * inverse + shift)));
    }
  }
  /// Into [0, 255]; NaN becomes 0.
  static float bounded(float x) noexcept {
    const float positive = x > 0.0f ? x : 0.0f;
    return positive < 255.0f ? positive : 255.0f;
  }
};

}  // namespace minilm
