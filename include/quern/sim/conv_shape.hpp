// A convolution as the engines see it: two dimensions, one group, plain sizes. What it costs them
// is a ConvCost.
#pragma once

#include <cmath>

#include "quern/ops/conv.hpp"
#include "quern/sim/report.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// One group of a convolution. Planes of a kernel in three dimensions are more input channels, and
/// planes of the output more images. A transposed one slides over its input with zeros between.
struct ConvShape {
  /// Height or width.
  struct Axis {
    Index in = 1, kernel = 1, stride = 1, dilation = 1, out = 1;

    constexpr Index span(Index taps) const { return (taps - 1) * dilation + 1; }
    /// Input positions from the first to the last that `count` outputs reach, padding included.
    constexpr Index reach(Index count) const { return (count - 1) * stride + span(kernel); }
    /// Those among them that `count` outputs meet with some neighbouring taps.
    constexpr Index met(Index count, Index taps) const {
      const Index dense = (count - 1) * stride + span(taps), sparse = count * taps;
      return dense < sparse ? dense : sparse;
    }
  };

  Index groups = 1;
  Index images = 1;
  Index channels = 0, filters = 0;  ///< of one group
  Axis height, width;
  DType a = DType::s8, b = DType::s8, c = DType::s32;
  Index residual_bytes = 0;  ///< of an output element, if the epilogue adds one

  Index taps() const { return height.kernel * width.kernel; }
  Index positions() const { return height.out * width.out; }
  bool empty() const {
    return images == 0 || channels == 0 || filters == 0 || groups == 0 || positions() == 0;
  }
  double macs() const {
    const auto d = [](Index x) { return static_cast<double>(x); };
    return d(groups) * d(images) * d(channels) * d(filters) * d(taps()) * d(height.out) *
           d(width.out);
  }

  /// `p` is valid. Error if there is too much of it: everything counted stays below 2^63.
  static Result<ConvShape> of(const ConvProblem& p, const Spatial& in, Index batch,
                              Index residual_bytes) {
    constexpr double kMost = 0x1p52;
    const auto d = [](Index x) { return static_cast<double>(x > 1 ? x : 1); };
    if (batch < 0 || in[0] < 0 || in[1] < 0 || in[2] < 0) {
      return Error::make(Code::bad_shape,
                         "conv: %lld images of (%lld, %lld, %lld): none can be negative",
                         static_cast<long long>(batch), static_cast<long long>(in[0]),
                         static_cast<long long>(in[1]), static_cast<long long>(in[2]));
    }
    const Spatial out = output_extent(p, in);
    const double outputs = d(batch) * d(out[0]) * d(out[1]) * d(out[2]) * d(p.out_channels),
                 inputs = d(batch) * d(in[0]) * d(in[1]) * d(in[2]) * d(p.in_channels) *
                          (p.transposed ? d(p.stride[0]) * d(p.stride[1]) * d(p.stride[2]) : 1);
    if (outputs * d(p.taps()) * d(p.group_inputs()) > kMost || inputs * d(p.taps()) > kMost) {
      return Error::make(Code::bad_shape, "conv: more than 2^52 products");
    }
    ConvShape s;
    s.groups = p.groups;
    s.images = batch * out[0];
    s.channels = p.group_inputs() * p.kernel[0];
    s.filters = p.group_outputs();
    const auto axis = [&](std::size_t i) {
      return p.transposed ? Axis{in[i] == 0 ? 0 : (in[i] - 1) * p.stride[i] + 1, p.kernel[i], 1,
                                 p.dilation[i], out[i]}
                          : Axis{in[i], p.kernel[i], p.stride[i], p.dilation[i], out[i]};
    };
    s.height = axis(1);
    s.width = axis(2);
    s.a = p.a;
    s.b = p.b;
    s.c = p.c;
    s.residual_bytes = p.epilogue.has(Step::Kind::residual) ? residual_bytes : 0;
    return s;
  }
};

/// Cycles and counts of all groups and images. Exact as long as they are below 2^53.
struct ConvCost {
  double start_up = 0;
  double load = 0, stream = 0;               ///< cycles of the array: see Report
  double input_stall = 0, weight_stall = 0;  ///< cycles waited for DRAM
  double bus_stall = 0;                      ///< cycles waited for buses between buffers and array
  double result_stall = 0;                   ///< cycles until results have left
  double dma = 0, vector = 0;                ///< cycles that DRAM and vector unit are busy
  double input_bytes = 0, weight_bytes = 0, output_bytes = 0;  ///< of DRAM
  double a_reads = 0, b_reads = 0, c_reads = 0, c_writes = 0;  ///< bytes, buffers to array and back
  double folds = 0;                                            ///< times that weights changed
  double places = 0;  ///< for multiplications in `stream`: elements x cycles
  Extent tile;        ///< positions, filters, terms of one fold

  double cycles() const {
    return start_up + load + stream + input_stall + weight_stall + bus_stall + result_stall;
  }
};

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
