#include "quern/sim/array.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "docs.hpp"
#include "quern/testing/random.hpp"

using namespace quern;
using sim::Array;
using sim::ArrayTime;
using sim::Dataflow;
using sim::Extent;
using sim::FoldModel;
using sim::Folds;

namespace {

constexpr Dataflow kDataflows[] = {Dataflow::weight_stationary, Dataflow::output_stationary,
                                   Dataflow::input_stationary};

/// A layer that SCALE-Sim was run on, and what it said.
struct Recorded {
  std::string layer;
  Extent extent;
  Array array;
  Dataflow dataflow;
  Index total_cycles;                              // the number of the last cycle; the first is 0
  double overall_utilization, mapping_efficiency;  // per cent
  Index folds, cycles_per_fold;
};

std::vector<Recorded> recorded(const std::string& csv) {
  std::vector<Recorded> all;
  std::istringstream lines(csv);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line.front() == '#' || line.starts_with("layer,")) continue;
    std::vector<std::string> cells;
    std::istringstream row(line);
    for (std::string cell; std::getline(row, cell, ',');) cells.push_back(cell);
    REQUIRE_MESSAGE(cells.size() == 12, line);
    const auto integer = [&](std::size_t i) { return Index{std::stoll(cells[i])}; };
    Recorded r;
    r.layer = cells[0];
    r.extent = {.m = integer(1), .n = integer(2), .k = integer(3)};
    r.array.rows = integer(4);
    r.array.columns = integer(5);
    REQUIRE_MESSAGE((cells[6] == "ws" || cells[6] == "os" || cells[6] == "is"), line);
    r.dataflow = cells[6] == "ws"   ? Dataflow::weight_stationary
                 : cells[6] == "os" ? Dataflow::output_stationary
                                    : Dataflow::input_stationary;
    r.total_cycles = integer(7);
    r.overall_utilization = std::stod(cells[8]);
    r.mapping_efficiency = std::stod(cells[9]);
    r.folds = integer(10);
    r.cycles_per_fold = integer(11);
    all.push_back(r);
  }
  return all;
}

/// Follows an array through its folds, one after another, each of so many steps: by events, where
/// array.hpp multiplies. The cycle in which the last result leaves.
Index finish(const Array& array, Dataflow d, const std::vector<Index>& steps) {
  const bool sums = d == Dataflow::output_stationary;
  const Index skew = array.rows + array.columns - 2;
  Index loaded = 0, path_free = 0, stream_begin = 0, end = 0;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (sums) {
      stream_begin = array.fold_model == FoldModel::drain ? end : path_free;
      path_free = stream_begin + std::max(steps[i], array.rows);
    } else {
      const Index load_begin = array.fold_model == FoldModel::drain ? end
                               : array.preload                      ? stream_begin
                                                                    : path_free;
      loaded = load_begin + array.rows;
      stream_begin = array.preload ? std::max(loaded, path_free) : loaded;
      path_free = stream_begin + steps[i];
    }
    end = stream_begin + steps[i] + skew;
  }
  return end;
}

/// The first time at which `folds` folds can be done, over all ways to give each to an array.
Index best_of_all_ways(const Array& array, Dataflow d, Index folds, Index steps,
                       std::vector<std::vector<Index>>& given) {
  if (folds == 0) {
    Index end = 0;
    for (const auto& mine : given) end = std::max(end, finish(array, d, mine));
    return end;
  }
  Index best = INT64_MAX;
  for (auto& mine : given) {
    mine.push_back(steps);
    best = std::min(best, best_of_all_ways(array, d, folds - 1, steps, given));
    mine.pop_back();
    if (mine.empty()) break;  // arrays that have nothing yet are alike
  }
  return best;
}

Array random_array(testing::Random& random) {
  Array a;
  a.rows = random.between(1, 9);
  a.columns = random.between(1, 9);
  a.fold_model = random.one_in(2) ? FoldModel::drain : FoldModel::overlap;
  a.preload = a.fold_model == FoldModel::overlap && random.one_in(2);
  return a;
}

}  // namespace

TEST_CASE("sim array: drained folds take the cycles that SCALE-Sim counts") {
  const auto path = support::repository_file("tests/sim/scalesim_results.csv");
  const std::string csv = support::contents(path);
  if (csv.empty()) {
    MESSAGE("tests/sim/scalesim_results.csv not found: not checked");
    return;
  }
  const std::vector<Recorded> all = recorded(csv);
  CHECK(all.size() == 123);
  for (const Recorded& r : all) {
    CAPTURE(r.layer);
    CAPTURE(r.array.rows);
    CAPTURE(sim::name(r.dataflow));
    const Folds folds = Folds::of(r.dataflow, r.extent);
    const ArrayTime time = sim::time_of(r.array, r.dataflow, 1, r.extent);
    CHECK(sim::ideal_cycles(r.array, r.dataflow, 1, r.extent) == r.total_cycles + 1);
    CHECK(time.folds == r.folds);
    CHECK(folds.count(r.array) == r.folds);
    CHECK(time.period == r.cycles_per_fold);
    CHECK(time.last == r.cycles_per_fold);
    CHECK(time.occupied() == time.results());
    CHECK(100 * folds.mapping_efficiency(r.array) ==
          doctest::Approx(r.mapping_efficiency).epsilon(1e-12));
    const double possible =
        static_cast<double>((time.results() - 1) * r.array.rows * r.array.columns);
    CHECK(100 * static_cast<double>(r.extent.macs()) / possible ==
          doctest::Approx(r.overall_utilization).epsilon(1e-12));
  }
}

TEST_CASE("sim array: folds of a product, by dataflow") {
  constexpr Extent e{.m = 20, .n = 30, .k = 50};
  Array a;
  a.rows = 8;
  a.columns = 16;
  CHECK(Folds::of(Dataflow::weight_stationary, e).count(a) == 7 * 2);  // k / 8, n / 16
  CHECK(Folds::of(Dataflow::output_stationary, e).count(a) == 3 * 2);  // m / 8, n / 16
  CHECK(Folds::of(Dataflow::input_stationary, e).count(a) == 7 * 2);   // k / 8, m / 16
  CHECK(Folds::of(Dataflow::weight_stationary, e).t == e.m);
  CHECK(Folds::of(Dataflow::output_stationary, e).t == e.k);
  CHECK(Folds::of(Dataflow::input_stationary, e).t == e.n);
  CHECK(Folds::of(Dataflow::weight_stationary, e).mapping_efficiency(a) ==
        doctest::Approx(50.0 * 30 / (14 * 8 * 16)));
  CHECK(Folds::of(Dataflow::weight_stationary, {}).mapping_efficiency(a) == 0);
}

TEST_CASE("sim array: by hand, a fold of each model") {
  // 4 x 6 elements, weights of 8 x 6: two folds; 10 rows stream past each.
  constexpr Extent e{.m = 10, .n = 6, .k = 8};
  Array a;
  a.rows = 4;
  a.columns = 6;
  const auto cycles = [&](Dataflow d) { return sim::ideal_cycles(a, d, 1, e); };
  CHECK(cycles(Dataflow::weight_stationary) == 2 * (4 + 10 + 8));
  CHECK(cycles(Dataflow::output_stationary) == 3 * (8 + 8));
  CHECK(cycles(Dataflow::input_stationary) == 4 * (4 + 6 + 8));
  a.fold_model = FoldModel::overlap;
  CHECK(cycles(Dataflow::weight_stationary) == 2 * (4 + 10) + 8);
  CHECK(cycles(Dataflow::output_stationary) == 3 * 8 + 8);
  CHECK(cycles(Dataflow::input_stationary) == 4 * (4 + 6) + 8);
  a.preload = true;
  CHECK(cycles(Dataflow::weight_stationary) == 4 + 2 * 10 + 8);
  CHECK(cycles(Dataflow::output_stationary) == 3 * 8 + 8);
  CHECK(cycles(Dataflow::input_stationary) == 4 + 4 * 6 + 8);
}

TEST_CASE("sim array: overlap never takes longer than drain, nor preload than overlap") {
  testing::Random random(1);
  for (int i = 0; i < 1000; ++i) {
    Array a = random_array(random);
    a.count = random.between(1, 5);
    const Extent e{random.between(1, 60), random.between(1, 60), random.between(1, 60)};
    for (const Dataflow d : kDataflows) {
      const auto cycles = [&](FoldModel f, bool preload) {
        a.fold_model = f;
        a.preload = preload;
        return sim::ideal_cycles(a, d, 1, e);
      };
      const Index drain = cycles(FoldModel::drain, false),
                  overlap = cycles(FoldModel::overlap, false),
                  preload = cycles(FoldModel::overlap, true);
      CHECK(overlap <= drain);
      CHECK(preload <= overlap);
      CHECK(preload * a.count * a.rows * a.columns >= e.macs());
    }
  }
}

TEST_CASE("sim array: one array takes its folds one after another") {
  testing::Random random(2);
  for (int i = 0; i < 1000; ++i) {
    const Array a = random_array(random);
    const Extent e{random.between(1, 40), random.between(1, 40), random.between(1, 40)};
    for (const Dataflow d : kDataflows) {
      const Folds f = Folds::of(d, e);
      const std::vector<Index> steps(static_cast<std::size_t>(f.count(a)), f.t);
      CHECK(sim::ideal_cycles(a, d, 1, e) == finish(a, d, steps));
    }
  }
}

TEST_CASE("sim array: several arrays share folds as well as any assignment of whole folds could") {
  testing::Random random(3);
  int checked = 0;
  while (checked < 300) {
    Array a = random_array(random);
    a.count = random.between(2, 4);
    const Extent e{random.between(1, 24), random.between(1, 24), random.between(1, 24)};
    const Dataflow d = kDataflows[random.between(0, 2)];
    const Folds f = Folds::of(d, e);
    const Index folds = f.count(a);
    if (folds > 8 || (folds < a.count && d != Dataflow::output_stationary)) continue;
    ++checked;
    CAPTURE(folds);
    CAPTURE(a.count);
    std::vector<std::vector<Index>> given(static_cast<std::size_t>(a.count));
    CHECK(sim::ideal_cycles(a, d, 1, e) == best_of_all_ways(a, d, folds, f.t, given));
    CHECK(sim::time_of(a, d, 1, e).folds == folds);
  }
}

TEST_CASE("sim array: with fewer folds than arrays, each fold's steps are shared out too") {
  testing::Random random(4);
  int checked = 0;
  while (checked < 300) {
    Array a = random_array(random);
    a.count = random.between(2, 12);
    const Extent e{random.between(1, 40), random.between(1, 40), random.between(1, 40)};
    const Dataflow d = random.one_in(2) ? Dataflow::weight_stationary : Dataflow::input_stationary;
    const Folds f = Folds::of(d, e);
    const Index folds = f.count(a);
    if (folds >= a.count) continue;
    ++checked;
    CAPTURE(folds);
    CAPTURE(a.count);
    // Every fold gets as many arrays as there are for each; its steps go round among them.
    Index end = 0;
    for (Index fold = 0; fold < folds; ++fold) {
      std::vector<Index> steps(static_cast<std::size_t>(a.count / folds));
      for (Index s = 0; s < f.t; ++s) ++steps[static_cast<std::size_t>(s) % steps.size()];
      for (const Index mine : steps) {
        if (mine > 0) end = std::max(end, finish(a, d, {mine}));
      }
    }
    CHECK(sim::ideal_cycles(a, d, 1, e) == end);
  }
}

TEST_CASE("sim array: slower multiplications stretch what streams") {
  constexpr Extent e{.m = 10, .n = 6, .k = 8};
  Array a;
  a.rows = 4;
  a.columns = 6;
  for (const Dataflow d : kDataflows) {
    const ArrayTime one = sim::time_of(a, d, 1, e), four = sim::time_of(a, d, 4, e);
    CHECK(four.stream == 4 * one.stream);
    CHECK(four.load == one.load);
  }
}

TEST_CASE("sim array: nothing to do takes no time") {
  for (const Dataflow d : kDataflows) {
    for (const Extent& e : {Extent{0, 3, 3}, Extent{3, 0, 3}, Extent{3, 3, 0}}) {
      CHECK(sim::ideal_cycles(Array(), d, 1, e) == 0);
      CHECK(sim::time_of(Array(), d, 1, e).occupied() == 0);
    }
  }
}
