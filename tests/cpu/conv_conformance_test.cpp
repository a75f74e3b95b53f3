// Convolutions on the CPU: the conformance suite, on every instruction set this machine can run.
#include <string>

#include "quern/cpu/conv.hpp"
#include "quern/testing/conformance_conv.hpp"
#include "support.hpp"

using namespace quern;
using quern::testing::ConformanceOptions;

namespace {

constexpr Index kProblems = 1000;  // per backend

/// Targets whose multiply-add rounds once, as the reference does.
bool has_fused_multiply_add(const cpu::Backend& backend) {
  const std::string name = backend.name();
  for (const char* without : {"SCALAR", "EMU128", "SSE2", "SSSE3", "SSE4"}) {
    if (name.starts_with(without)) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("conv: every backend gives the reference's bits, for any executor, and no more") {
  static_assert(ConvBackend<cpu::Backend>);
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    ConformanceOptions options;
    options.count = support::scaled(kProblems);
    options.exact_floats = has_fused_multiply_add(backend);
    options.allocations = support::allocations;
    const auto report = conformance_conv(backend, options);
    for (const std::string& line : report.failures) FAIL_CHECK(backend.name() << ": " << line);
    MESSAGE(backend.name() << ": " << report.summary());
  }
}
