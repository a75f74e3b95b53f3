// Convolutions in one word: HxWxC:OUT:kK[:sS][:pP][:dD][:gG][:nN], for an image of H x W with C
// channels, OUT output channels, a kernel of K, strides S, P positions padded on each side,
// dilations D, G groups and N images. K, S, P, D are one number for both dimensions, or AxB.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "options.hpp"
#include "quern/ops/conv.hpp"

namespace tool {

struct Convolution {
  quern::ConvProblem problem;
  quern::Spatial in = {1, 1, 1};
  Index images = 1;

  Index positions() const {
    const quern::Spatial out = output_extent(problem, in);
    return images * out[1] * out[2];
  }
};

/// "3" or "1x7" into height and width.
inline bool parse_pair(std::string_view text, Index least, Index most, quern::Spatial* pair) {
  const auto parts = split(text, 'x');
  if (parts.size() > 2) return false;
  return parse_index(parts.front(), least, most, &(*pair)[1]) &&
         parse_index(parts.back(), least, most, &(*pair)[2]);
}

inline Error parse_conv(std::string_view text, Convolution* conv) {
  constexpr Index kMost = 100'000;  // positions, channels: all products stay below 2^63
  quern::ConvProblem& p = conv->problem;
  const auto parts = split(text, ':');
  const auto image = split(parts[0], 'x');
  bool good = parts.size() >= 3 && image.size() == 3 &&
              parse_index(image[0], 1, kMost, &conv->in[1]) &&
              parse_index(image[1], 1, kMost, &conv->in[2]) &&
              parse_index(image[2], 1, kMost, &p.in_channels) &&
              parse_index(parts[1], 1, kMost, &p.out_channels);
  std::string seen;
  for (std::size_t i = 2; good && i < parts.size(); ++i) {
    const char what = parts[i].empty() ? ' ' : parts[i].front();
    const std::string_view value = parts[i].substr(parts[i].empty() ? 0 : 1);
    good = seen.find(what) == seen.npos;
    seen += what;
    switch (what) {
      case 'k':
        good = good && parse_pair(value, 1, 1000, &p.kernel);
        break;
      case 's':
        good = good && parse_pair(value, 1, 1000, &p.stride);
        break;
      case 'p':
        good = good && parse_pair(value, 0, 1000, &p.pad_begin);
        p.pad_end = p.pad_begin;
        break;
      case 'd':
        good = good && parse_pair(value, 1, 1000, &p.dilation);
        break;
      case 'g':
        good = good && parse_index(value, 1, kMost, &p.groups);
        break;
      case 'n':
        good = good && parse_index(value, 1, kMost, &conv->images);
        break;
      default:
        good = false;
    }
  }
  if (!good || seen.find('k') == seen.npos) {
    return bad("a convolution is HxWxC:OUT:kK[:sS][:pP][:dD][:gG][:nN], not '%.60s'",
               std::string(text).c_str());
  }
  p.overflow = quern::Overflow::wrap;
  if (Error e = validate(p)) return e;
  const double positions = static_cast<double>(conv->positions());
  if (positions == 0) {
    return bad("the convolution %.60s has no output", std::string(text).c_str());
  }
  const double macs = positions * static_cast<double>(p.out_channels) *
                      static_cast<double>(p.taps()) * static_cast<double>(p.group_inputs());
  if (macs <= kMostMacs) return {};
  return bad("the convolution %.60s has %g multiply-adds; at most %g are simulated",
             std::string(text).c_str(), macs, kMostMacs);
}

}  // namespace tool
