#include "gemm.hpp"

#include <benchmark/benchmark.h>

#include <exception>
#include <map>
#include <memory>

#include "stopwatch.hpp"

namespace bench {

namespace {

/// What the repetitions of a benchmark share, since packing again would take longer than measuring.
/// Only the latest workload's data is kept: with all of them it would be gigabytes.
class Cache {
 public:
  std::vector<Product>& products(const Workload& w, const Implementation& i) {
    if (w.name != workload_) {
      ready_.clear();
      products_.clear();
      workload_ = w.name;
    }
    auto [at, is_new] = products_.try_emplace({i.types, i.weights});
    if (is_new) {
      at->second = w.products(i.types, i.weights);
      for (Product& p : at->second) p.expect();
    }
    return at->second;
  }

  const std::vector<Ready>& ready(const Implementation& i, const std::vector<Product>& products) {
    auto [at, is_new] = ready_.try_emplace(&i);
    if (is_new) {
      for (const Product& p : products) at->second.push_back(i.prepare(p));
    }
    return at->second;
  }

  /// Forgets what a failed preparation left.
  void drop(const Implementation& i) { ready_.erase(&i); }

 private:
  std::string workload_;
  std::map<std::pair<Types, Weights>, std::vector<Product>> products_;
  std::map<const Implementation*, std::vector<Ready>> ready_;
};

void measure(benchmark::State& state, Cache& cache, const Workload& w, const Implementation& i) {
  std::vector<Product>& products = cache.products(w, i);
  const std::vector<Ready>& ready = cache.ready(i, products);

  for (Product& p : products) p.spoil();
  for (const Ready& r : ready) r.run();  // warms the caches

  const Stopwatch watch(i.threads == 1 ? Stopwatch::cpu : Stopwatch::wall);
  for (auto _ : state) {
    for (const Ready& r : ready) r.run();
  }
  const double seconds = watch.seconds();

  double macs = 0;
  Index checked = 0, wrong = 0;
  for (const Product& p : products) {
    macs += p.macs();
    checked += p.checked();
    wrong += p.wrong();
  }
  state.counters["GMAC/s"] = 1e-9 * macs * double(state.iterations()) / seconds;
  state.counters["checked"] = double(checked);
  state.counters["wrong"] = double(wrong);
  state.SetLabel(ready.front().kernel);
}

}  // namespace

void register_gemms(const Registry& registry, const std::vector<Workload>& all) {
  auto cache = std::make_shared<Cache>();
  for (const Workload& w : all) {
    for (const Implementation& i : registry.implementations) {
      if (!w.suits(i)) continue;
      std::string title = std::string("gemm/") + name(i.types) + '/' + i.name + '/' + w.name;
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
