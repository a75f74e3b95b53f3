// Has the toy backend checked by quern's conformance suite: 500 random and nasty problems.
#include "toy_backend.hpp"

#include <cstdio>

#include "quern/testing/conformance.hpp"

int main() {
  const toy::Backend backend;
  const auto report = quern::testing::conformance_gemm(backend);
  for (const std::string& line : report.failures) std::printf("%s\n", line.c_str());
  std::printf("%s: %s\n", backend.name().c_str(), report.summary().c_str());
  return report.ok() ? 0 : 1;
}
