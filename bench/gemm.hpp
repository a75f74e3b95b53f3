// The comparison: workloads (matrix products of one shape, or a network's layers) and the
// implementations that run them.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "product.hpp"

namespace bench {

/// A product that an implementation has prepared: its weights are packed, nothing is left to do but
/// run. Refers to the Product, which must stay where it is.
struct Ready {
  std::function<void()> run;
  std::string kernel;  ///< which code it runs, in the implementation's own words
};

struct Implementation {
  std::string name;  ///< as in the benchmark's name
  Types types = Types::u8s8s32;
  Weights weights = Weights::full;
  int threads = 1;
  std::function<Ready(const Product&)> prepare;  ///< throws std::exception when it cannot
};

struct Workload {
  std::string name;  ///< as in the benchmark's name
  std::function<bool(const Implementation&)> suits;
  std::function<std::vector<Product>(Types, Weights)> products;
};

/// What the files in peers/ add to: implementations, and facts for the report's head.
struct Registry {
  std::vector<Implementation> implementations;
  std::vector<std::pair<std::string, std::string>> facts;
};

void add_quern(Registry&);
void add_onednn(Registry&);
void add_openblas(Registry&);
void add_xnnpack(Registry&);

/// One product for each shape, and the layers in the file $QUERN_BENCH_LAYERS if it is set.
std::vector<Workload> workloads();

/// gemm/<types>/<implementation>/<workload>[/threads:2], with counters
///   GMAC/s    10^9 multiply-adds a second of CPU time; with several threads: by the wall clock
///   checked   outputs that were compared with exact arithmetic, outside of the timed loop
///   wrong     how many of them differed
void register_gemms(const Registry&, const std::vector<Workload>&);

/// peak/...: what this core can do at best, with counters GMAC/s or GB/s.
void register_peaks();

/// The environment variable, or "".
std::string environment(const char* variable);

}  // namespace bench
