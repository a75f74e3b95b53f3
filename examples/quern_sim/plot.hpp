// A sweep, or a network's layers, as a picture: cycles, utilization and energy as bars, and the
// roofline. One file, which needs nothing else.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "run.hpp"
#include "svg.hpp"

namespace tool {

/// A bar in each chart, a dot under the roofline.
struct Point {
  std::string label;
  Total total;
  sim::Roofline roofline;
};

class Plot {
 public:
  Plot(std::string title, std::string across, std::string energy_of, std::vector<Point> points)
      : title_(std::move(title)), across_(std::move(across)), points_(std::move(points)) {
    svg_.label(kWidth / 2, 26, title_, Svg::Anchor::middle, "title");
    cycles({60, 60});
    utilization({60 + kStep, 60});
    energy({60, 60 + kRise}, energy_of);
    roofline({60 + kStep, 60 + kRise});
  }

  std::string svg() const { return svg_.picture(kWidth, kHeight, title_); }

  /// The picture and the numbers in it.
  std::string html() const {
    std::string text = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>" +
                       escaped(title_) + "</title>\n<style>\n" + kPage + "</style></head><body>\n" +
                       svg() + "<table>\n<tr><th>" + escaped(across_) +
                       "</th><th>cycles</th><th>stall cycles</th><th>time (s)</th>"
                       "<th>utilization</th><th>DRAM (bytes)</th><th>energy (J)</th></tr>\n";
    for (const Point& p : points_) {
      const Total& t = p.total;
      text += "<tr><td>" + escaped(p.label) + "</td>";
      for (const std::string& cell :
           {sim::grouped(t.cycles), sim::grouped(t.stall_cycles), sim::format("%.4g", t.seconds),
            sim::percent(t.utilization()), sim::grouped(t.dram_read_bytes + t.dram_write_bytes),
            sim::format("%.4g", t.energy.total() * 1e-12)}) {
        text += "<td>" + cell + "</td>";
      }
      text += "</tr>\n";
    }
    return text + "</table>\n</body></html>\n";
  }

 private:
  static constexpr double kWidth = 1000, kHeight = 800, kStep = 500, kRise = 380;
  static constexpr double kW = 410, kH = 240;  // of a chart, inside its axes
  static constexpr char kPage[] =
      "body{margin:2em auto;max-width:1000px;background:#fff;color:#1b1f24;"
      "font-family:system-ui,sans-serif}table{border-collapse:collapse;margin:1em auto}"
      "td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #d8dee4}"
      "@media(prefers-color-scheme:dark){body{background:#14181d;color:#e6edf3}"
      "td,th{border-color:#2d343c}}\n";
  struct Corner {
    double x, y;  // left, top
  };

  void frame(Corner c, std::string_view title) {
    svg_.line(c.x, c.y, c.x, c.y + kH, "axis");
    svg_.line(c.x, c.y + kH, c.x + kW, c.y + kH, "axis");
    svg_.label(c.x - 40, c.y - 10, title, Svg::Anchor::start);
  }

  /// Bars of one or two values on top of each other, in the units of the axis.
  template <class F>
  void bars(Corner c, std::string_view title, double largest, F&& values) {
    const LinearAxis axis(largest);
    for (int i = 0; i <= axis.ticks(); ++i) {
      const double v = axis.step * i, y = c.y + kH * (1 - axis.at(v));
      svg_.line(c.x, y, c.x + kW, y, "grid");
      svg_.label(c.x - 6, y + 4, sim::format("%g", v), Svg::Anchor::end);
    }
    const double step = kW / static_cast<double>(points_.size());
    const bool crowded = points_.size() > 6;
    for (std::size_t i = 0; i < points_.size(); ++i) {
      const auto [first, second] = values(points_[i]);
      const double x = c.x + step * static_cast<double>(i), left = x + step * 0.15,
                   low = kH * axis.at(first), high = kH * axis.at(second);
      const std::string tip =
          points_[i].label + sim::format(": %g", first) +
          (second > 0 ? sim::format(" + %g = %g", second, first + second) : std::string());
      svg_.bar(left, c.y + kH - low, step * 0.7, low, "first", tip);
      if (second > 0) svg_.bar(left, c.y + kH - low - high, step * 0.7, high, "second", tip);
      if (points_.size() > 40 && i % (points_.size() / 20) != 0) continue;
      svg_.label(x + step / 2, c.y + kH + 16, shortened(points_[i].label, crowded ? 11 : 9),
                 crowded ? Svg::Anchor::end : Svg::Anchor::middle, "label", crowded ? -40 : 0);
    }
    svg_.label(c.x + kW / 2, c.y + kH + (crowded ? 76 : 36), across_);
    frame(c, title);
  }

  template <class F>
  double largest(F&& value) const {
    double most = 0;
    for (const Point& p : points_) most = std::max(most, value(p));
    return most;
  }

  void cycles(Corner c) {
    const double most = largest([](const Point& p) { return static_cast<double>(p.total.cycles); });
    const Prefix prefix(std::max(most, 1.0));
    const auto scaled = [&](Index n) { return static_cast<double>(n) / prefix.factor; };
    const char* unit = prefix.factor == 1e3   ? "thousand "
                       : prefix.factor == 1e6 ? "million "
                       : prefix.factor == 1   ? ""
                                              : prefix.text;
    bars(c, sim::format("%scycles: working (lower part) and waiting", unit), most / prefix.factor,
         [&](const Point& p) {
           return std::pair(scaled(p.total.cycles - p.total.stall_cycles),
                            scaled(p.total.stall_cycles));
         });
  }
  void utilization(Corner c) {
    bars(c, "utilization of the array (%)", 100,
         [](const Point& p) { return std::pair(100 * p.total.utilization(), 0.0); });
  }
  void energy(Corner c, const std::string& of) {
    const double most = largest([](const Point& p) { return p.total.energy.total() * 1e-12; });
    const Prefix prefix(most);
    bars(c,
         "energy " + of + sim::format(" (%sJ)", prefix.text) + (most > 0 ? "" : ": none described"),
         most / prefix.factor, [&](const Point& p) {
           return std::pair(p.total.energy.total() * 1e-12 / prefix.factor, 0.0);
         });
  }

  void roofline(Corner c) {
    double least_x = 1e300, most_x = 0, least_y = 1e300, most_y = 0;
    const auto cover = [](double v, double& least, double& most) {
      if (!(v > 0) || !std::isfinite(v)) return;
      least = std::min(least, v);
      most = std::max(most, v);
    };
    for (const Point& p : points_) {
      cover(p.roofline.intensity, least_x, most_x);
      cover(p.roofline.ridge(), least_x, most_x);
      cover(p.roofline.reached, least_y, most_y);
      cover(p.roofline.peak, least_y, most_y);
    }
    const LogAxis xs(least_x, most_x), ys(least_y, most_y);
    const auto x_of = [&](double v) { return c.x + kW * xs.at(v); };
    const auto y_of = [&](double v) { return c.y + kH * (1 - ys.at(v)); };
    for (double e = xs.low; e <= xs.high; ++e) {
      const double v = std::pow(10.0, e);
      svg_.line(x_of(v), c.y, x_of(v), c.y + kH, "grid");
      svg_.label(x_of(v), c.y + kH + 16, sim::format("%g", v));
    }
    for (double e = ys.low; e <= ys.high; ++e) {
      const double v = std::pow(10.0, e);
      svg_.line(c.x, y_of(v), c.x + kW, y_of(v), "grid");
      const Prefix prefix(v * 1.001);
      svg_.label(c.x - 6, y_of(v) + 4, sim::format("%g%s", v / prefix.factor, prefix.text),
                 Svg::Anchor::end);
    }
    std::vector<std::pair<double, double>> drawn;
    for (const Point& p : points_) {
      const sim::Roofline& r = p.roofline;
      const std::pair roof(r.peak, r.bandwidth);
      if (!(r.peak > 0) || std::find(drawn.begin(), drawn.end(), roof) != drawn.end()) continue;
      drawn.push_back(roof);
      const double left = std::pow(10.0, xs.low), right = std::pow(10.0, xs.high),
                   bottom = std::pow(10.0, ys.low);
      // From where the slope enters the chart, to the ridge, to the right.
      const double from = std::max(left, bottom / r.bandwidth), ridge = std::max(left, r.ridge());
      if (ridge > from) {
        svg_.line(x_of(from), y_of(from * r.bandwidth), x_of(ridge), y_of(r.peak), "roof");
      }
      svg_.line(x_of(ridge), y_of(r.peak), x_of(right), y_of(r.peak), "roof");
    }
    std::vector<Corner> named;  // dots with their label beside them
    for (const Point& p : points_) {
      const sim::Roofline& r = p.roofline;
      if (!(r.intensity > 0 && r.reached > 0) || !std::isfinite(r.intensity)) continue;
      const Corner at{x_of(r.intensity), y_of(r.reached)};
      svg_.dot(at.x, at.y, "dot",
               p.label + ": " + sim::amount(r.intensity, "MAC per byte") + ", " +
                   sim::amount(r.reached, "MAC/s"));
      // Labels that would cover another are left to the pointer.
      const bool free = std::none_of(named.begin(), named.end(), [&](const Corner& other) {
        return std::abs(other.x - at.x) < 90 && std::abs(other.y - at.y) < 12;
      });
      if (!free) continue;
      named.push_back(at);
      const bool right = at.x > c.x + kW - 80;
      svg_.label(at.x + (right ? -7 : 7), at.y + 14, shortened(p.label, 12),
                 right ? Svg::Anchor::end : Svg::Anchor::start);
    }
    svg_.label(c.x + kW / 2, c.y + kH + 36, "multiply-adds per DRAM byte");
    frame(c, "roofline: multiply-adds per second");
  }

  std::string title_, across_;
  std::vector<Point> points_;
  Svg svg_;
};

inline std::string file_of(const Plot& plot, const Options& o) {
  return o.plot.ends_with(".html") ? plot.html() : plot.svg();
}

/// Of a sweep: a point for each value.
inline std::string plot_of(const Options& o, const std::vector<Run>& runs) {
  std::vector<Point> points;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const Total& t = runs[i].total;
    sim::Roofline line = roofline_of(runs[i].reports[0], runs[i].chip);
    const double macs = static_cast<double>(t.macs);
    line.intensity = macs / static_cast<double>(t.dram_read_bytes + t.dram_write_bytes);
    line.reached = macs / t.seconds;
    points.push_back({o.sweep_values[i], t, line});
  }
  const std::string& work = o.network.empty() ? o.gemm : o.network;
  return file_of(Plot(runs[0].chip.name + ", " + work + ": " + o.sweep_key, o.sweep_key,
                      o.network.empty() ? "per product" : "per inference", std::move(points)),
                 o);
}

/// Of a network: a point for each layer, as often as it occurs.
inline std::string plot_of(const Options& o, const Run& run, const std::vector<Layer>& layers) {
  std::vector<Point> points;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    Total t;
    t.add(run.reports[i], layers[i].count);
    points.push_back({layers[i].name, t, roofline_of(run.reports[i], run.chip)});
  }
  return file_of(
      Plot(run.chip.name + ", " + o.network, "layer", "per inference", std::move(points)), o);
}

}  // namespace tool
