// A run as a picture: events in Chrome's trace format, which ui.perfetto.dev and chrome://tracing
// open. A process is a die, a thread a unit of it.
//
//   sim::ChromeTrace trace(chip.clock_mhz);
//   sim::estimate(backend, problem, m, 1, trace.sink());
//   write("gemm.json", trace.json());
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "quern/sim/json.hpp"
#include "quern/sim/text.hpp"
#include "quern/sim/timing.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

class ChromeTrace {
 public:
  static constexpr Index kMost = 200000;

  /// Keeps the first `most` events and counts the rest.
  explicit ChromeTrace(double clock_mhz, Index most = kMost)
      : clock_mhz_(clock_mhz), most_(most < 0 ? 0 : most) {}

  /// What estimate() calls; this must outlive it, at the same place.
  Trace sink() {
    return [this](const Event& e) { add(e); };
  }
  void add(Event e) {
    if (++seen_ > most_) return;
    e.begin += offset_;
    e.end += offset_;
    events_.push_back(e);
  }
  /// What comes next happens this many cycles later: for one operation after the other.
  void advance(Index cycles) { offset_ += cycles; }

  Index kept() const { return static_cast<Index>(events_.size()); }
  Index dropped() const { return seen_ - kept(); }
  /// Empty, or a sentence about the events that are missing.
  std::string note() const {
    if (dropped() == 0) return "";
    return format("the first %s of %s events", grouped(kept()).c_str(), grouped(seen_).c_str());
  }

  /// The file. ts and dur are microseconds; args have the tile's origin and the cycles.
  std::string json() const {
    std::vector<Event> events = events_;
    std::sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
      return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
    });
    std::vector<Lane> lanes;
    Json json(Json::Layout::compact);
    json.object().member("displayTimeUnit", "ns");
    json.key("otherData").object().member("clock_mhz", clock_mhz_).member("note", note()).end();
    json.key("traceEvents").array();
    for (const Event& e : events) write(json, e, lane_of(lanes, e));
    for (const Lane& lane : lanes) write(json, lane);
    json.end().end();
    return json.text() + "\n";
  }

 private:
  /// Events of one thread must not overlap, but transfers do, waiting for their data: each goes to
  /// the first lane of its unit that is free.
  struct Lane {
    Index die;
    Event::Unit unit;
    Index number;  // within the unit
    Index busy;
    Index thread() const { return static_cast<Index>(unit) * 1000 + number; }
  };

  static Lane lane_of(std::vector<Lane>& lanes, const Event& e) {
    Index number = 0;
    for (Lane& lane : lanes) {
      if (lane.die != e.die || lane.unit != e.unit) continue;
      if (lane.busy <= e.begin) {
        lane.busy = e.end;
        return lane;
      }
      ++number;
    }
    lanes.push_back({e.die, e.unit, number, e.end});
    return lanes.back();
  }

  void write(Json& json, const Event& e, const Lane& lane) const {
    json.object().member("name", e.what).member("ph", "X");
    json.member("pid", e.die).member("tid", lane.thread());
    json.member("ts", static_cast<double>(e.begin) / clock_mhz_);
    json.member("dur", static_cast<double>(e.end - e.begin) / clock_mhz_);
    json.key("args").object().member("product", e.product).member("m", e.m).member("n", e.n);
    json.member("k", e.k).member("cycle", e.begin).member("cycles", e.end - e.begin);
    json.end().end();
  }

  static void write(Json& json, const Lane& lane) {
    const auto metadata = [&](const char* kind, const std::string& text) {
      json.object().member("name", kind).member("ph", "M");
      json.member("pid", lane.die).member("tid", lane.thread());
      json.key("args").object().member("name", text).end().end();
    };
    if (lane.number == 0) metadata("process_name", format("die %d", static_cast<int>(lane.die)));
    const std::string unit = name(lane.unit);
    metadata("thread_name", lane.number == 0
                                ? unit
                                : format("%s %d", unit.c_str(), static_cast<int>(lane.number) + 1));
  }

  double clock_mhz_;
  Index most_;
  Index seen_ = 0, offset_ = 0;
  std::vector<Event> events_;
};

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
