// The comparison: workloads (operations on test data: one, or a network's layers) and the
// implementations that run them. Op is Product or Conv.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "operation.hpp"
#include "stopwatch.hpp"

namespace bench {

/// An operation that an implementation has prepared: its weights are packed, nothing is left to do
/// but run. Refers to the Op, which must stay where it is.
struct Ready {
  std::function<void()> run;
  std::string kernel;  ///< which code it runs, in the implementation's own words
};

template <class Op>
struct Implementation {
  std::string name;  ///< as in the benchmark's name
  Types types = Types::u8s8s32;
  Weights weights = Weights::full;
  int threads = 1;
  std::function<Ready(const Op&)> prepare;  ///< throws std::exception when it cannot
  /// Whether it offers this shape at all.
  std::function<bool(const typename Op::Shape&)> offers = [](const auto&) { return true; };
};

template <class Op>
struct Workload {
  std::string name;  ///< as in the benchmark's name
  std::vector<typename Op::Shape> shapes;
  std::function<bool(const Implementation<Op>&)> suits;
  /// One for each shape, with its data.
  std::function<std::vector<Op>(Types, Weights)> operations;
};

/// What the repetitions of a benchmark share, since packing again would take longer than measuring.
/// Only the latest workload's data is kept: with all of them it would be gigabytes.
template <class Op>
class Cache {
 public:
  std::vector<Op>& operations(const Workload<Op>& w, const Implementation<Op>& i) {
    if (w.name != workload_) {
      ready_.clear();
      operations_.clear();
      workload_ = w.name;
    }
    auto [at, is_new] = operations_.try_emplace({i.types, i.weights});
    if (is_new) {
      at->second = w.operations(i.types, i.weights);
      for (Op& o : at->second) o.expect();
    }
    return at->second;
  }

  const std::vector<Ready>& ready(const Implementation<Op>& i, const std::vector<Op>& operations) {
    auto [at, is_new] = ready_.try_emplace(&i);
    if (is_new) {
      for (const Op& o : operations) at->second.push_back(i.prepare(o));
    }
    return at->second;
  }

  /// Forgets what a failed preparation left.
  void drop(const Implementation<Op>& i) { ready_.erase(&i); }

 private:
  std::string workload_;
  std::map<std::pair<Types, Weights>, std::vector<Op>> operations_;
  std::map<const Implementation<Op>*, std::vector<Ready>> ready_;
};

/// Each once: "a + b".
inline std::string kernels(const std::vector<Ready>& ready) {
  std::vector<std::string> names;
  std::string all;
  for (const Ready& r : ready) {
    if (std::find(names.begin(), names.end(), r.kernel) != names.end()) continue;
    all += (names.empty() ? "" : " + ") + r.kernel;
    names.push_back(r.kernel);
  }
  return all;
}

template <class Op>
void measure(benchmark::State& state, Cache<Op>& cache, const Workload<Op>& w,
             const Implementation<Op>& i) {
  std::vector<Op>& operations = cache.operations(w, i);
  const std::vector<Ready>& ready = cache.ready(i, operations);

  for (Op& o : operations) o.spoil();
  for (const Ready& r : ready) r.run();  // warms the caches

  const Stopwatch watch(i.threads == 1 ? Stopwatch::cpu : Stopwatch::wall);
  for (auto _ : state) {
    for (const Ready& r : ready) r.run();
  }
  const double seconds = watch.seconds();

  double macs = 0;
  Index checked = 0, wrong = 0;
  for (const Op& o : operations) {
    macs += o.macs();
    checked += o.checked();
    wrong += o.wrong();
  }
  state.counters["GMAC/s"] = 1e-9 * macs * double(state.iterations()) / seconds;
  state.counters["checked"] = double(checked);
  state.counters["wrong"] = double(wrong);
  state.SetLabel(kernels(ready));
}

/// <kind>/<types>/<implementation>/<workload>[/threads:2], with counters
///   GMAC/s    10^9 multiply-adds a second of CPU time; with several threads: by the wall clock
///   checked   outputs that were compared with exact arithmetic, outside of the timed loop
///   wrong     how many of them differed
/// The vectors must outlive the benchmarks.
template <class Op>
void register_benchmarks(const std::string& kind, const std::vector<Workload<Op>>& workloads,
                         const std::vector<Implementation<Op>>& implementations) {
  auto cache = std::make_shared<Cache<Op>>();
  for (const Workload<Op>& w : workloads) {
    for (const Implementation<Op>& i : implementations) {
      if (!w.suits(i) || !std::all_of(w.shapes.begin(), w.shapes.end(), i.offers)) continue;
      std::string title = kind + '/' + name(i.types) + '/' + i.name + '/' + w.name;
      if (i.threads > 1) title += "/threads:" + std::to_string(i.threads);
      const auto run = [cache, &w, &i](benchmark::State& state) {
        try {
          measure(state, *cache, w, i);
        } catch (const std::exception& e) {
          cache->drop(i);
          state.SkipWithError(e.what());
        }
      };
      benchmark::RegisterBenchmark(title.c_str(), run)->Unit(benchmark::kMicrosecond);
    }
  }
}

}  // namespace bench
