// Attention on the CPU: the conformance suite, on every instruction set this machine can run.
#if __has_include("quern/cpu/attention.hpp")
#include <string>

#include "quern/cpu/attention.hpp"
#include "quern/testing/conformance_attention.hpp"
#include "support.hpp"

using namespace quern;
using quern::testing::ConformanceOptions;

TEST_CASE("attention: every backend agrees with the reference, for any executor, and no more") {
  static_assert(AttentionBackend<cpu::Backend>);
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    ConformanceOptions options;
    options.count = support::scaled(1000);
    options.allocations = support::allocations;
    const auto report = conformance_attention(backend, options);
    for (const std::string& line : report.failures) FAIL_CHECK(backend.name() << ": " << line);
    MESSAGE(backend.name() << ": " << report.summary());
  }
}
#endif
