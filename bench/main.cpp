// quern_bench: see README.md.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>

#include "registry.hpp"

namespace bench {

std::string environment(const char* variable) {
  const char* value = std::getenv(variable);
  return value == nullptr ? "" : value;
}

namespace {

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "g++ " __VERSION__;
#else
  return "unknown";
#endif
}

Registry everything() {
  Registry r;
  r.facts = {{"cpu", cpu_model()},
             {"compiler", compiler()},
             {"flags", QUERN_BENCH_FLAGS},
             {"dispatch", QUERN_BENCH_DISPATCH}};
  add_quern(r);
#if defined(QUERN_BENCH_ONEDNN)
  add_onednn(r);
#endif
#if defined(QUERN_BENCH_OPENBLAS)
  add_openblas(r);
#endif
#if defined(QUERN_BENCH_XNNPACK)
  add_xnnpack(r);
#endif
  return r;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  try {
    const bench::Registry registry = bench::everything();
    const auto gemms = bench::gemm_workloads();
    const auto convs = bench::conv_workloads();
    for (const auto& [key, value] : registry.facts) benchmark::AddCustomContext(key, value);
    bench::register_peaks();
    bench::register_benchmarks("gemm", gemms, registry.gemms);
    bench::register_benchmarks("conv", convs, registry.convs);
    benchmark::RunSpecifiedBenchmarks();
    benchmark::ClearRegisteredBenchmarks();  // they refer to the constants above
  } catch (const std::exception& e) {
    std::fprintf(stderr, "quern_bench: %s\n", e.what());
    return 1;
  }
  benchmark::Shutdown();
  return 0;
}
