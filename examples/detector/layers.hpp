// The layers to run: those of a file that bench/detector.py wrote, or a few made-up ones.
#pragma once

#include <bit>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quern/ops/conv.hpp"
#include "quern/testing/random.hpp"

namespace detector {

using quern::Code;
using quern::ConvProblem;
using quern::DType;
using quern::Error;
using quern::Index;
using quern::Result;
using quern::Spatial;

/// A quantized convolution, u8 to s8, and the extent of its input.
struct Layer {
  std::string name;
  ConvProblem shape = {.c = DType::s8};  // no epilogue, since a Layer is copied and moved
  Spatial extent = {1, 1, 1};
  std::vector<std::int8_t> weights = {};  // (out, in / groups, height, width)
  std::vector<float> scales = {};         // (out)
  std::vector<std::int32_t> bias = {};    // (out)

  /// What to prepare. It refers to this layer's arrays.
  ConvProblem problem() const {
    ConvProblem p = shape;
    p.epilogue = {quern::epilogue::bias(bias), quern::epilogue::scale(scales)};
    return p;
  }
  Spatial output() const { return quern::output_extent(shape, extent); }
  Index positions() const { return output()[1] * output()[2]; }
  Index weight_count() const { return shape.out_channels * shape.group_inputs() * shape.taps(); }
  Index macs() const { return positions() * weight_count(); }
};

/// An integer of a bell curve around `middle`, cut off at the ends of the type. Such are weights,
/// and activations as calibration leaves them: around a zero point of 0, like what a ReLU leaves.
inline Index bell(quern::testing::Random& random, Index middle, DType type) {
  float sum = 0;  // of four uniforms: deviates by 0.58
  for (int i = 0; i < 4; ++i) sum += random.uniform(-75.0f, 75.0f) * 0.5f;
  const Index value = middle + static_cast<Index>(std::lround(sum));
  const Index low = quern::lowest(type), high = quern::highest(type);
  return value < low ? low : value > high ? high : value;
}

/// One of each kind, with random weights; they run in a moment.
inline std::vector<Layer> built_in_layers() {
  const struct {
    const char* name;
    Index in, out, groups, kernel, stride, extent;
    std::int32_t zero_point;
  } kinds[] = {
      {"stem", 3, 16, 1, 3, 2, 96, 128},        {"depthwise_3x3", 32, 32, 32, 3, 1, 48, 0},
      {"pointwise", 32, 48, 1, 1, 1, 48, 3},    {"depthwise_5x5", 64, 64, 64, 5, 2, 24, 12},
      {"grouped", 48, 96, 4, 3, 2, 24, 104},    {"dense_3x3", 48, 48, 1, 3, 1, 24, 128},
      {"squeeze", 96, 24, 1, 1, 1, 1, 90},      {"lateral", 96, 42, 1, 1, 1, 12, 37},
      {"last_column", 24, 5, 1, 3, 1, 17, 255},
  };
  quern::testing::Random random(1);
  std::vector<Layer> layers;
  for (const auto& kind : kinds) {
    Layer layer{.name = kind.name, .extent = {1, kind.extent, kind.extent}};
    ConvProblem& p = layer.shape;
    p.in_channels = kind.in;
    p.out_channels = kind.out;
    p.groups = kind.groups;
    p.kernel = {1, kind.kernel, kind.kernel};
    p.stride = {1, kind.stride, kind.stride};
    p.pad_begin = p.pad_end = {0, kind.kernel / 2, kind.kernel / 2};
    p.a_zero_point = kind.zero_point;
    for (Index i = 0; i < layer.weight_count(); ++i) {
      layer.weights.push_back(static_cast<std::int8_t>(bell(random, 0, DType::s8)));
    }
    // Sums of products that deviate by 43 each become outputs that deviate by about 43 too.
    const float scale = 1 / (43 * std::sqrt(static_cast<float>(p.taps() * p.group_inputs())));
    for (Index j = 0; j < kind.out; ++j) {
      layer.scales.push_back(scale * random.uniform(0.5f, 1.5f));
      layer.bias.push_back(static_cast<std::int32_t>(random.between(-1000, 1000)));
    }
    layers.push_back(std::move(layer));
  }
  return layers;
}

template <class... Args>
Error bad(const char* pattern, Args... args) {
  return Error::make(Code::bad_value, pattern, args...);
}
inline Error bad(const char* sentence) { return Error::make(Code::bad_value, "%s", sentence); }

/// "NAME IN OUT GROUPS KH KW SH SW PT PL PB PR H W AZ".
inline Error parse_shape(std::string_view line, Layer* layer) {
  ConvProblem& p = layer->shape;
  Index zero_point = 0;
  constexpr Index kMost = 65536, kMostKernel = 255;  // products of three stay below 2^63
  const struct {
    const char* name;
    Index* value;
    Index least, most;
  } fields[] = {{"IN", &p.in_channels, 1, kMost},        {"OUT", &p.out_channels, 1, kMost},
                {"GROUPS", &p.groups, 1, kMost},         {"KH", &p.kernel[1], 1, kMostKernel},
                {"KW", &p.kernel[2], 1, kMostKernel},    {"SH", &p.stride[1], 1, kMostKernel},
                {"SW", &p.stride[2], 1, kMostKernel},    {"PT", &p.pad_begin[1], 0, kMostKernel},
                {"PL", &p.pad_begin[2], 0, kMostKernel}, {"PB", &p.pad_end[1], 0, kMostKernel},
                {"PR", &p.pad_end[2], 0, kMostKernel},   {"H", &layer->extent[1], 1, kMost},
                {"W", &layer->extent[2], 1, kMost},      {"AZ", &zero_point, 0, 255}};
  const auto word = [&] {
    const std::string_view w = line.substr(0, line.find(' '));
    line.remove_prefix(w.size() < line.size() ? w.size() + 1 : w.size());
    return w;
  };
  layer->name = word();
  if (layer->name.empty()) return bad("it begins with a space instead of a name");
  for (const auto& f : fields) {
    const std::string_view text = word();
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), *f.value);
    if (error == std::errc() && stop == text.data() + text.size() && *f.value >= f.least &&
        *f.value <= f.most) {
      continue;
    }
    return bad("%s is a whole number from %lld to %lld, not '%.20s'", f.name,
               static_cast<long long>(f.least), static_cast<long long>(f.most),
               std::string(text).c_str());
  }
  if (!line.empty()) return bad("'%.20s' comes after AZ", std::string(line).c_str());
  p.a_zero_point = static_cast<std::int32_t>(zero_point);
  if (Error e = quern::validate(p)) return e;
  for (const std::size_t d : {1u, 2u}) {
    if (p.pad_begin[d] < p.kernel[d] && p.pad_end[d] < p.kernel[d] && layer->output()[d] > 0) {
      continue;
    }
    return bad("a kernel of %lld with pads of %lld and %lld does not suit %lld pixels",
               static_cast<long long>(p.kernel[d]), static_cast<long long>(p.pad_begin[d]),
               static_cast<long long>(p.pad_end[d]), static_cast<long long>(layer->extent[d]));
  }
  const Index input = layer->extent[1] * layer->extent[2] * p.in_channels;
  const Index output = layer->positions() * p.out_channels;
  constexpr Index kMostElements = Index{1} << 28;
  if (input <= kMostElements && output <= kMostElements && layer->weight_count() <= kMostElements &&
      layer->macs() <= Index{1} << 36) {
    return {};
  }
  return bad(
      "it is too large: %lld inputs, %lld outputs, %lld weights; 2^28 of each and 2^36 "
      "multiplications are possible",
      static_cast<long long>(input), static_cast<long long>(output),
      static_cast<long long>(layer->weight_count()));
}

/// Moves `count` elements from the beginning of `bytes` to an array.
template <class T>
bool take(std::string_view& bytes, Index count, std::vector<T>* to) {
  const std::size_t n = static_cast<std::size_t>(count);
  if (bytes.size() / sizeof(T) < n) return false;
  to->resize(n);
  std::memcpy(to->data(), bytes.data(), n * sizeof(T));
  bytes.remove_prefix(n * sizeof(T));
  return true;
}

/// A file's contents: lines, an empty line, and each layer's weights, scales and bias. Every layer
/// is valid.
inline Result<std::vector<Layer>> parse_layers(std::string_view bytes) {
  std::vector<Layer> layers;
  for (;;) {
    const std::size_t end = bytes.find('\n');
    const std::string_view line = bytes.substr(0, end);
    if (end == bytes.npos) return bad("no empty line ends the list of layers");
    bytes.remove_prefix(end + 1);
    if (line.empty()) break;
    Layer& layer = layers.emplace_back();
    if (Error e = parse_shape(line, &layer)) {
      return bad("line %zu: %s", layers.size(), e.what());
    }
  }
  if (layers.empty()) return bad("it holds no layers");
  for (Layer& layer : layers) {
    const Index out = layer.shape.out_channels;
    if (!take(bytes, layer.weight_count(), &layer.weights) || !take(bytes, out, &layer.scales) ||
        !take(bytes, out, &layer.bias)) {
      return bad("it is truncated: %zu bytes are left in the arrays of layer %.60s", bytes.size(),
                 layer.name.c_str());
    }
    if (Error e = quern::validate(layer.problem())) {
      return bad("layer %.40s: %s", layer.name.c_str(), e.what());
    }
  }
  if (!bytes.empty()) return bad("%zu bytes are left after the last layer", bytes.size());
  return layers;
}

inline Result<std::vector<Layer>> read_layers(const std::string& path) {
  if (std::endian::native != std::endian::little) return bad("files are little-endian");
  std::FILE* in = std::fopen(path.c_str(), "rb");
  if (in == nullptr) return bad("%.120s: cannot be opened", path.c_str());
  std::string bytes;
  char block[65536];
  for (std::size_t n; (n = std::fread(block, 1, sizeof block, in)) != 0;) bytes.append(block, n);
  const bool failed = std::ferror(in) != 0;
  std::fclose(in);
  if (failed) return bad("%.120s: cannot be read", path.c_str());
  auto layers = parse_layers(bytes);
  if (!layers) return bad("%.80s: %s", path.c_str(), layers.error().what());
  return layers;
}

}  // namespace detector
