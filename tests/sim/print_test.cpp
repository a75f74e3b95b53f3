#include "quern/sim/print.hpp"

#include <doctest/doctest.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <utility>

#include "quern/sim/gemm.hpp"
#include "quern/sim/presets.hpp"
#include "quern/sim/trace.hpp"
#include "small_chip.hpp"

using namespace quern;

namespace {

/// A small reader of JSON: whether a text is a value, and its numbers by their path ("a.b.0").
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {
    good_ = value("") && (space(), text_.empty());
  }
  bool good() const { return good_; }
  double operator[](const std::string& path) const {
    const auto found = numbers_.find(path);
    return found == numbers_.end() ? -1e300 : found->second;
  }
  std::string text(const std::string& path) const {
    const auto found = texts_.find(path);
    return found == texts_.end() ? "?" : found->second;
  }

 private:
  void space() {
    while (!text_.empty() && (text_[0] == ' ' || text_[0] == '\n')) text_.remove_prefix(1);
  }
  bool take(std::string_view word) {
    space();
    if (!text_.starts_with(word)) return false;
    text_.remove_prefix(word.size());
    return true;
  }
  bool string(std::string* out) {
    if (!take("\"")) return false;
    while (!text_.empty() && text_[0] != '"') {
      if (static_cast<unsigned char>(text_[0]) < 0x20) return false;
      const std::size_t length = text_[0] == '\\' ? text_[1] == 'u' ? 6 : 2 : 1;
      if (text_.size() < length) return false;
      *out += text_.substr(0, length);
      text_.remove_prefix(length);
    }
    return take("\"");
  }
  bool members(const std::string& path, const char* end, bool named) {
    if (take(end)) return true;
    int index = 0;
    do {
      std::string key = std::to_string(index++);
      if (named && (key.clear(), !string(&key) || !take(":"))) return false;
      if (!value(path.empty() ? key : path + "." + key)) return false;
    } while (take(","));
    return take(end);
  }
  bool value(const std::string& path) {
    if (take("{")) return members(path, "}", true);
    if (take("[")) return members(path, "]", false);
    if (take("null") || take("true") || take("false")) return true;
    space();
    if (text_.starts_with('"')) return string(&texts_[path]);
    double& number = numbers_[path];
    const auto end = std::from_chars(text_.data(), text_.data() + text_.size(), number);
    if (end.ec != std::errc() || !std::isfinite(number)) return false;
    text_.remove_prefix(static_cast<std::size_t>(end.ptr - text_.data()));
    return true;
  }

  std::string_view text_;
  std::map<std::string, double> numbers_;
  std::map<std::string, std::string> texts_;
  bool good_ = false;
};

bool has(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

std::pair<sim::Report, sim::Chip> estimated(const char* preset, const GemmProblem& p, Index m) {
  const sim::Chip chip = sim::preset(preset).value();
  return {sim::estimate(sim::Backend(chip), p, m).value(), chip};
}

}  // namespace

TEST_CASE("sim print: numbers for people") {
  CHECK(sim::grouped(0) == "0");
  CHECK(sim::grouped(999) == "999");
  CHECK(sim::grouped(-1000) == "-1,000");
  CHECK(sim::grouped(1234567) == "1,234,567");
  CHECK(sim::percent(0.1234) == "12.3 %");
  CHECK(sim::amount(0, "B") == "0 B");
  CHECK(sim::amount(9.994, "B") == "9.99 B");
  CHECK(sim::amount(9.996, "B") == "10.0 B");
  CHECK(sim::amount(999.4, "B") == "999 B");
  CHECK(sim::amount(999.6, "B") == "1.00 kB");
  CHECK(sim::amount(34e9, "B/s") == "34.0 GB/s");
  CHECK(sim::amount(2.5e-6, "J") == "2.50 uJ");
  CHECK(sim::amount(sim::kUnlimited, "B/s") == "unlimited");
  CHECK(sim::bar(0.5, 10) == "#####");
  CHECK(sim::bar(7, 10) == "##########");
  CHECK(sim::bar(-1, 10).empty());
  CHECK(sim::wrapped("aa bb cc", 5) == "aa bb\ncc");
  CHECK(sim::wrapped("aaaaaaaa bb", 5) == "aaaaaaaa bb");
}

TEST_CASE("sim print: JSON is valid whatever is written") {
  sim::Json json;
  json.object().key("empty").array().end().key("none").object().end();
  json.member("text", "a\"b\\c\n\x01").member("bytes", std::string("\xC3\xA4\xFF\xED\xA0\x80z"));
  json.member("nan", std::numeric_limits<double>::quiet_NaN());
  json.member("inf", -sim::kUnlimited).member("flag", true);
  json.member("most", INT64_MAX).member("third", 1.0 / 3);
  json.key("list").array().value(1).value(2.5).end().end();
  const Reader read(json.text());
  CHECK(read.good());
  CHECK(read.text("text") == "a\\\"b\\\\c\\u000a\\u0001");
  CHECK(read.text("bytes") == "\xC3\xA4\\ufffd\\ufffd\\ufffd\\ufffdz");
  CHECK(has(json.text(), "\"nan\": null"));
  CHECK(has(json.text(), "\"most\": 9223372036854775807"));
  CHECK(read["third"] == 1.0 / 3);
  CHECK(read["list.1"] == 2.5);
  CHECK(sim::Json(sim::Json::Layout::compact).array().value(1).end().text() == "[1]");
}

TEST_CASE("sim print: a report's JSON has all of it, in full") {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    testing::Random random(seed);
    const sim::Chip chip = support::small_chip(random);
    const GemmProblem p{.n = random.between(0, 60), .k = random.between(0, 60)};
    const sim::Report r = sim::estimate(sim::Backend(chip), p, random.between(0, 60)).value();
    CAPTURE(seed);
    const Reader read(sim::to_json(r, chip));
    REQUIRE(read.good());
    CHECK(read.text("chip") == "small");
    CHECK(read.text("types") == "u8s8s32");
    CHECK(read.text("dataflow") == name(r.mapping.dataflow));
    CHECK(read.text("fold_model") == name(chip.array.fold_model));
    CHECK(read["cycles"] == static_cast<double>(r.cycles));
    CHECK(read["cycles"] ==
          read["start_up_cycles"] + read["compute_cycles"] + read["stall_cycles"]);
    CHECK(read["mapping.tile_k"] == static_cast<double>(r.mapping.tile.k));
    CHECK(read["stalls.dram_b"] == static_cast<double>(cycles_of(r, sim::Stall::dram_b)));
    CHECK(read["utilization"] == r.utilization);
    CHECK(read["seconds"] == r.seconds);
    CHECK(read["energy_pj.total"] == r.energy.total());
    sim::Counts::for_each([&](const char* key, Index sim::Counts::*count) {
      CHECK(read[key] == static_cast<double>(r.counts.*count));
    });
    CHECK(!sim::to_text(r, chip).empty());
  }
}

TEST_CASE("sim print: a text report names the numbers and what limits") {
  const auto [r, chip] = estimated("tpu_v1", {.n = 2000, .k = 2000}, 200);
  const std::string text = sim::to_text(r, chip);
  CAPTURE(text);
  CHECK(bound_of(r) == sim::Bound::dram);
  CHECK(has(text, "product 200 x 2000 x 2000 (m x n x k), u8 x s8 -> s32: 800 MMAC"));
  CHECK(has(text, sim::grouped(r.cycles) + " cycles"));
  CHECK(has(text, "bound by DRAM: weights arrive at 34.0 GB/s"));
  CHECK(has(text, "waiting: weights from DRAM"));
  CHECK(has(text, "pJ per MAC"));
  CHECK(has(text, "roofline 133 MAC per DRAM byte; the ridge is at 1.35 kMAC: memory allows"));
  std::size_t begin = 0;
  for (std::size_t end; (end = text.find('\n', begin)) != text.npos; begin = end + 1) {
    CHECK(end - begin <= 100);
    CHECK((end == begin || text[end - 1] != ' '));
  }
}

TEST_CASE("sim print: each bound has its sentence") {
  const auto bound = [](sim::Chip chip, GemmProblem p, Index m) {
    const sim::Report r = sim::estimate(sim::Backend(chip), p, m).value();
    return std::pair(bound_of(r), sim::bound_sentence(r, chip));
  };
  using B = sim::Bound;
  sim::Chip fast = sim::with_ideal_memory({});
  CHECK(bound(fast, {.n = 64, .k = 64}, 1000).first == B::array);
  CHECK(bound(fast, {.n = 64, .k = 64}, 1).first == B::skew);
  CHECK(has(bound(fast, {.n = 64, .k = 64}, 1).second, "30 cycles for a fold, one fold after"));
  fast.array.fold_model = sim::FoldModel::overlap;
  CHECK(has(bound(fast, {.n = 640, .k = 640}, 1).second, "bound by loading: weights enter"));
  fast.array.start_up_cycles = 1'000'000;
  CHECK(has(bound(fast, {.n = 64, .k = 64}, 1).second, "1,000,000 cycles before anything"));
  sim::Chip chip;
  chip.vector.cycles_per_step = 1000;
  CHECK(has(bound(chip, {.n = 64, .k = 64, .c = DType::s8}, 64).second, "vector unit: 16 lanes"));
  chip = {};
  chip.b.bank_bytes_per_cycle = 0.01;
  CHECK(has(bound(chip, {.n = 64, .k = 64}, 64).second, "a, b, c give inf, 0.01, inf bytes"));
  chip = {};
  chip.dram.latency_ns = 10000;
  CHECK(has(bound(chip, {.n = 64, .k = 64}, 64).second, "bound by DRAM latency"));
  CHECK(bound(chip, {.n = 64, .k = 64}, 0).second == "nothing to do");
}

TEST_CASE("sim print: the roofline is never passed") {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    testing::Random random(seed);
    const sim::Chip chip = support::small_chip(random);
    const GemmProblem p{.n = random.between(1, 90), .k = random.between(1, 90)};
    const sim::Report r = sim::estimate(sim::Backend(chip), p, random.between(1, 90)).value();
    CAPTURE(seed);
    const sim::Roofline line = sim::roofline_of(r, chip);
    CHECK(line.reached <= line.roof() * 1.0001);
    CHECK(line.reached == doctest::Approx(r.utilization * line.peak));
  }
}

TEST_CASE("sim trace: events are complete, and do not overlap on a thread") {
  const sim::Chip chip = sim::preset("ai5_assumed_dual").value();
  sim::ChromeTrace trace(chip.clock_mhz);
  const sim::Report r =
      sim::estimate(sim::Backend(chip), {.n = 4000, .k = 3000}, 1000, 1, trace.sink()).value();
  REQUIRE(trace.kept() > 10);
  CHECK(trace.note().empty());
  const Reader read(trace.json());
  REQUIRE(read.good());
  std::map<std::pair<double, double>, double> busy;
  std::map<std::pair<double, double>, std::string> threads;
  Index events = 0;
  double last = 0;
  for (int i = 0;; ++i) {
    const std::string at = "traceEvents." + std::to_string(i) + ".";
    const std::pair thread(read[at + "pid"], read[at + "tid"]);
    if (read.text(at + "ph") == "M") {
      if (read.text(at + "name") == "thread_name") threads[thread] = read.text(at + "args.name");
      continue;
    }
    if (read.text(at + "ph") != "X") break;
    ++events;
    const double begin = read[at + "args.cycle"], end = begin + read[at + "args.cycles"];
    CHECK(busy[thread] <= begin);
    busy[thread] = end;
    CHECK(read[at + "ts"] == begin / chip.clock_mhz);
    last = std::max(last, end);
  }
  CHECK(events == trace.kept());
  CHECK(last <= static_cast<double>(r.cycles));
  CHECK(threads.size() == busy.size());
  CHECK(threads[std::pair(0.0, 0.0)] == "array");
  CHECK(threads[std::pair(1.0, 1000.0)] == "dma");
}

TEST_CASE("sim trace: it keeps so many events and says so, and operations follow each other") {
  sim::ChromeTrace trace(1000, 2);
  sim::Event e;
  e.what = "multiply";
  e.end = 10;
  trace.add(e);
  trace.advance(1000);
  trace.add(e);
  trace.add(e);
  CHECK(trace.kept() == 2);
  CHECK(trace.dropped() == 1);
  CHECK(trace.note() == "the first 2 of 3 events");
  const Reader read(trace.json());
  CHECK(read.good());
  CHECK(read["traceEvents.1.ts"] == 1.0);
  CHECK(read["traceEvents.1.dur"] == 0.01);
  CHECK(read.text("otherData.note") == "the first 2 of 3 events");
  CHECK(Reader(sim::ChromeTrace(1).json()).good());
}
