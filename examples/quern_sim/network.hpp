// Networks: lists of products and convolutions (conv.hpp).
//
//   # name        MxNxK or CONV          count  types
//   attention_q   128x384x384            6      u8s8s32
//   conv2_3x3     56x56x64:64:k3:p1      3
#pragma once

#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "conv.hpp"
#include "options.hpp"

namespace tool {

struct Layer {
  std::string name;
  Index m = 0, n = 0, k = 0, batch = 1;  // a convolution's: of a group
  std::optional<Convolution> conv;
  Index count = 1;  // how often the network has it
  DType a = DType::u8, b = DType::s8, c = DType::s32;
};

inline std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  for (;;) {
    const std::size_t begin = line.find_first_not_of(" \t\r");
    if (begin == line.npos) return words;
    const std::size_t end = line.find_first_of(" \t\r", begin);
    words.push_back(line.substr(begin, end - begin));
    if (end == line.npos) return words;
    line.remove_prefix(end);
  }
}

/// MxNxK, or a convolution.
inline Error parse_work(std::string_view text, Layer* layer) {
  if (text.find(':') == text.npos) return parse_gemm(text, &layer->m, &layer->n, &layer->k);
  layer->conv.emplace();
  if (Error e = parse_conv(text, &*layer->conv)) return e;
  const quern::ConvProblem& p = layer->conv->problem;
  layer->m = layer->conv->positions();
  layer->n = p.group_outputs();
  layer->k = p.taps() * p.group_inputs();
  layer->batch = p.groups;
  return {};
}

inline Error parse_layer(const std::vector<std::string_view>& words, Layer* layer) {
  if (words.size() < 2 || words.size() > 4) {
    return bad(
        "a layer is NAME MxNxK [COUNT] [TYPES] or NAME CONV [COUNT] [TYPES], but here are %zu "
        "words",
        words.size());
  }
  layer->name = words[0];
  if (Error e = parse_work(words[1], layer)) return e;
  std::size_t next = 2;
  const bool number = next < words.size() &&
                      words[next].find_first_not_of("+-.0123456789") == std::string_view::npos;
  if (number && !parse_index(words[next++], 1, 1'000'000, &layer->count)) {
    return bad("a count is a whole number from 1 to 1000000, not '%.60s'",
               std::string(words[2]).c_str());
  }
  if (next < words.size()) {
    if (Error e = parse_types(words[next++], &layer->a, &layer->b, &layer->c)) return e;
  }
  if (next < words.size()) {
    return bad("'%.60s' comes after the types; a layer is NAME MxNxK [COUNT] [TYPES]",
               std::string(words[next]).c_str());
  }
  const double macs = static_cast<double>(layer->m) * static_cast<double>(layer->n) *
                      static_cast<double>(layer->k) * static_cast<double>(layer->batch) *
                      static_cast<double>(layer->count);
  if (macs <= kMostMacs) return {};
  return bad("the layer has %g multiply-adds; at most %g are simulated", macs, kMostMacs);
}

/// `usual`: the types of layers that name none. Errors begin with FILE:LINE.
inline Result<std::vector<Layer>> parse_network(std::string_view text, const std::string& file,
                                                const Layer& usual) {
  std::vector<Layer> layers;
  long long line = 0;
  for (const std::string_view raw : split(text, '\n')) {
    ++line;
    const auto words = words_of(raw.substr(0, raw.find('#')));
    if (words.empty()) continue;
    Layer layer = usual;
    if (Error e = parse_layer(words, &layer)) {
      return bad("%.80s:%lld: %s", file.c_str(), line, e.what());
    }
    layers.push_back(std::move(layer));
  }
  if (layers.empty()) return bad("%.80s: no layers in it", file.c_str());
  return layers;
}

inline Result<std::string> read_file(const std::string& path) {
  std::FILE* in = std::fopen(path.c_str(), "rb");
  if (in == nullptr) return bad("%.120s: cannot be opened", path.c_str());
  std::string text;
  char block[4096];
  for (std::size_t n; (n = std::fread(block, 1, sizeof block, in)) != 0;) text.append(block, n);
  const bool failed = std::ferror(in) != 0;
  std::fclose(in);
  if (failed) return bad("%.120s: cannot be read", path.c_str());
  return text;
}

/// The work: a network's layers, or the one product.
inline Result<std::vector<Layer>> layers_of(const Options& o) {
  Layer layer;
  layer.a = o.a;
  layer.b = o.b;
  layer.c = o.c;
  if (!o.network.empty()) {
    auto text = read_file(o.network);
    if (!text) return text.error();
    return parse_network(*text, o.network, layer);
  }
  if (!o.conv.empty()) {
    layer.name = o.conv;
    if (Error e = parse_work(o.conv, &layer)) return e;
    return std::vector<Layer>{layer};
  }
  layer.name = o.gemm;
  layer.m = o.m;
  layer.n = o.n;
  layer.k = o.k;
  layer.batch = o.batch;
  return std::vector<Layer>{layer};
}

}  // namespace tool
