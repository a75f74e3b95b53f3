// A layer on this CPU: how long it takes, and whether its outputs are those of the reference.
#pragma once

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "layers.hpp"
#include "quern/cpu/conv.hpp"
#include "quern/ops/conv_reference.hpp"

namespace detector {

struct Outcome {
  double seconds = 0;  // median
  std::string kernel;
  Index compared = 0, inexact = 0;  // outputs
};

/// Narrows a call to the outputs [first, first + extent) and to the inputs that they see: what was
/// next to other inputs is not padded any more. a is u8, c is s8.
inline void narrow(ConvProblem& p, quern::ConvArgs& args, const Spatial& first,
                   const Spatial& extent) {
  Index input = 0, output = 0;
  for (std::size_t d = 0; d < 3; ++d) {
    const Index begin = first[d] * p.stride[d] - p.pad_begin[d];
    const Index end = begin + (extent[d] - 1) * p.stride[d] + (p.kernel[d] - 1) * p.dilation[d] + 1;
    const Index from = std::max<Index>(begin, 0), to = std::min(end, args.a.extent[d]);
    p.pad_begin[d] = from - begin;
    p.pad_end[d] = end - to;
    args.a.extent[d] = to - from;
    args.c.extent[d] = extent[d];
    input += from * args.a.strides[d];
    output += first[d] * args.c.strides[d];
  }
  args.a.data = static_cast<const std::uint8_t*>(args.a.data) + input;
  args.c.data = static_cast<std::int8_t*>(args.c.data) + output;
}

/// Compares a part of the outputs with the reference, bit for bit.
inline Error compare(const Layer& layer, const quern::ConvArgs& whole, const Spatial& first,
                     const Spatial& extent, Outcome* outcome) {
  ConvProblem p = layer.problem();
  quern::ConvArgs part = whole;
  narrow(p, part, first, extent);
  const Index channels = p.out_channels, count = extent[1] * extent[2] * channels;
  std::vector<std::int8_t> expected(static_cast<std::size_t>(count));
  const quern::ConvArgs reference{
      .a = part.a,
      .c = quern::ImageView::channels_last(expected.data(), DType::s8, 1, extent, channels)};
  if (Error e = quern::validate(p)) return e;
  if (Error e = quern::validate(p, reference)) return e;
  reference_conv(p, quern::FilterView::inputs_first(layer.weights.data(), p), reference);
  const std::int8_t* e = expected.data();
  for (Spatial at = {}; at[1] < extent[1]; ++at[1]) {
    for (at[2] = 0; at[2] < extent[2]; ++at[2], e += channels) {
      const void* row = element(part.c, 0, at, 0);
      for (Index j = 0; j < channels; ++j) {
        outcome->inexact += static_cast<const std::int8_t*>(row)[j] != e[j];
      }
    }
  }
  outcome->compared += count;
  return {};
}

/// Where outputs are compared along a dimension: everywhere, or at both ends and in the middle, for
/// the reference is slow.
inline std::vector<std::pair<Index, Index>> compared_spans(Index extent) {
  constexpr Index kSpan = 5;
  if (extent <= 3 * kSpan) return {{0, extent}};
  return {{0, kSpan}, {(extent - kSpan) / 2, kSpan}, {extent - kSpan, kSpan}};
}

/// Runs a layer on random activations, in one thread.
inline Result<Outcome> run(const quern::cpu::Backend& backend, const Layer& layer) {
  constexpr std::size_t kRuns = 11;
  const ConvProblem p = layer.problem();
  auto conv = prepare(backend, p, quern::FilterView::inputs_first(layer.weights.data(), p));
  if (!conv) return conv.error();

  quern::testing::Random random(2);
  std::vector<std::uint8_t> a(
      static_cast<std::size_t>(layer.extent[1] * layer.extent[2] * p.in_channels));
  for (std::uint8_t& x : a) {
    x = static_cast<std::uint8_t>(bell(random, p.a_zero_point, DType::u8));
  }
  std::vector<std::int8_t> c(static_cast<std::size_t>(layer.positions() * p.out_channels));
  const Spatial out = layer.output();
  const quern::ConvArgs args{
      .a = quern::ImageView::channels_last(a.data(), DType::u8, 1, layer.extent, p.in_channels),
      .c = quern::ImageView::channels_last(c.data(), DType::s8, 1, out, p.out_channels)};
  const quern::Workspace workspace(conv->workspace_bytes(layer.positions()));

  if (Error e = conv->run(args, workspace)) return e;  // warms caches up
  std::vector<double> seconds;
  for (std::size_t i = 0; i < kRuns; ++i) {
    const auto start = std::chrono::steady_clock::now();
    if (Error e = conv->run(args, workspace)) return e;
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    seconds.push_back(spent.count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + kRuns / 2, seconds.end());

  Outcome outcome{.seconds = seconds[kRuns / 2], .kernel = conv->kernel()};
  for (const auto& [y, height] : compared_spans(out[1])) {
    for (const auto& [x, width] : compared_spans(out[2])) {
      if (Error e = compare(layer, args, {0, y, x}, {1, height, width}, &outcome)) return e;
    }
  }
  return outcome;
}

}  // namespace detector
