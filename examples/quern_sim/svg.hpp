// Drawing: a picture as SVG text, and scales for axes. Colours are classes, which follow the
// reader's light or dark scheme.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "quern/sim/json.hpp"
#include "quern/sim/text.hpp"

namespace tool {

/// For XML and HTML; what is not text there becomes '?'.
inline std::string escaped(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t length = quern::sim::detail::utf8_length(text);
    const char c = text[0];
    if (length == 0 || static_cast<unsigned char>(c) < 0x20) {
      out += '?';
    } else if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return out;
}

/// The first characters of a long text.
inline std::string shortened(std::string_view text, std::size_t most) {
  std::string out;
  while (!text.empty()) {
    const std::size_t length = std::max<std::size_t>(quern::sim::detail::utf8_length(text), 1);
    if (most-- == 0) return out + "..";
    out += text.substr(0, length);
    text.remove_prefix(length);
  }
  return out;
}

class Svg {
 public:
  enum class Anchor { start, middle, end };

  void line(double x1, double y1, double x2, double y2, const char* style) {
    text_ +=
        quern::sim::format("<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n",
                           style, x1, y1, x2, y2);
  }
  void bar(double x, double y, double width, double height, const char* style,
           std::string_view tip) {
    text_ += quern::sim::format(
                 "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\">", style,
                 x, y, width, std::max(height, 0.0)) +
             "<title>" + escaped(tip) + "</title></rect>\n";
  }
  void dot(double x, double y, const char* style, std::string_view tip) {
    text_ +=
        quern::sim::format("<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\">", style, x, y) +
        "<title>" + escaped(tip) + "</title></circle>\n";
  }
  /// Turned by so many degrees around its point.
  void label(double x, double y, std::string_view text, Anchor anchor = Anchor::middle,
             const char* style = "label", double turn = 0) {
    constexpr const char* kAnchors[] = {"start", "middle", "end"};
    text_ += quern::sim::format("<text class=\"%s\" text-anchor=\"%s\" x=\"%.1f\" y=\"%.1f\"",
                                style, kAnchors[static_cast<int>(anchor)], x, y);
    if (turn != 0) {
      text_ += quern::sim::format(" transform=\"rotate(%.0f %.1f %.1f)\"", turn, x, y);
    }
    text_ += ">" + escaped(text) + "</text>\n";
  }

  /// The picture, whole.
  std::string picture(double width, double height, std::string_view title) const {
    return quern::sim::format(
               "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" "
               "role=\"img\" font-family=\"system-ui, sans-serif\">\n",
               width, height) +
           "<title>" + escaped(title) + "</title>\n" + kStyle +
           "<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n" + text_ + "</svg>\n";
  }

 private:
  static constexpr char kStyle[] = R"(<style>
.paper{fill:#fff}.label{fill:#424a53;font-size:11px}.title{fill:#1b1f24;font-size:14px}
.axis{stroke:#57606a}.grid{stroke:#d8dee4}.first{fill:#0969da}.second{fill:#d4a04a}
.roof{stroke:#57606a;stroke-width:1.5}.dot{fill:#0969da;stroke:#fff}
@media(prefers-color-scheme:dark){.paper{fill:#14181d}.label{fill:#adb7c2}.title{fill:#e6edf3}
.axis{stroke:#8b949e}.grid{stroke:#2d343c}.first{fill:#58a6ff}.second{fill:#b98a3c}
.roof{stroke:#8b949e}.dot{fill:#58a6ff;stroke:#14181d}}
</style>
)";

  std::string text_;
};

/// A linear axis from 0: ticks of 1, 2 or 5 times a power of ten, up to the first at or above the
/// largest value.
struct LinearAxis {
  double step = 1, top = 1;

  explicit LinearAxis(double largest) {
    if (!(largest > 0) || !std::isfinite(largest)) return;
    const double rough = largest / 5, power = std::pow(10.0, std::floor(std::log10(rough)));
    step = 10 * power;
    for (const double factor : {5.0, 2.0, 1.0}) {
      if (factor * power >= rough * 0.999) step = factor * power;
    }
    top = step * std::ceil(largest / step * 0.999);
  }
  double at(double value) const { return value / top; }  // 0 .. 1
  int ticks() const { return static_cast<int>(std::lround(top / step)); }
};

/// A logarithmic axis over whole decades.
struct LogAxis {
  double low = 0, high = 1;  // powers of ten

  LogAxis(double least, double most) {
    if (!(least > 0) || !std::isfinite(most) || most < least) return;
    low = std::floor(std::log10(least) - 0.1);
    high = std::max(low + 1, std::ceil(std::log10(most) + 0.1));
  }
  double at(double value) const { return (std::log10(value) - low) / (high - low); }
};

/// A factor that makes numbers of this size readable, with its prefix for the unit.
struct Prefix {
  double factor = 1;
  const char* text = "";

  explicit Prefix(double largest) {
    constexpr const char* kPrefixes[] = {"f", "p", "n", "\xC2\xB5", "m", "",
                                         "k", "M", "G", "T",        "P"};
    if (!(largest > 0) || !std::isfinite(largest)) return;
    const double thousands = std::clamp(std::floor(std::log10(largest) / 3), -5.0, 5.0);
    factor = std::pow(10.0, 3 * thousands);
    text = kPrefixes[static_cast<int>(thousands) + 5];
  }
};

}  // namespace tool
