// All that main() puts together.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "conv.hpp"
#include "harness.hpp"
#include "product.hpp"

namespace bench {

/// What the files in peers/ add to: implementations, and facts for the report's head.
struct Registry {
  std::vector<Implementation<Product>> gemms;
  std::vector<Implementation<Conv>> convs;
  std::vector<std::pair<std::string, std::string>> facts;
};

void add_quern(Registry&);
void add_onednn(Registry&);
void add_openblas(Registry&);
void add_xnnpack(Registry&);

/// One product for each shape, and the layers in the file $QUERN_BENCH_LAYERS if it is set.
std::vector<Workload<Product>> gemm_workloads();

/// One layer each, ResNet-50 as a whole, and the layers in the file $QUERN_BENCH_CONV_LAYERS if it
/// is set.
std::vector<Workload<Conv>> conv_workloads();

/// peak/...: what this core can do at best, with counters GMAC/s or GB/s.
void register_peaks();

/// The environment variable, or "".
std::string environment(const char* variable);

}  // namespace bench
