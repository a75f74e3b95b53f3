// Appending to KV caches on the CPU: the conformance suite, on every instruction set this machine
// can run.
#if __has_include("quern/cpu/kv_cache.hpp")
#include <string>

#include "quern/cpu/kv_cache.hpp"
#include "quern/testing/conformance_kv_append.hpp"
#include "support.hpp"

using namespace quern;
using quern::testing::ConformanceOptions;

TEST_CASE("append: every backend gives the reference's bits, for any executor, and no more") {
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    ConformanceOptions options;
    options.count = support::scaled(1000);
    options.allocations = support::allocations;
    const auto report = conformance_kv_append(backend, options);
    for (const std::string& line : report.failures) FAIL_CHECK(backend.name() << ": " << line);
    MESSAGE(backend.name() << ": " << report.summary());
  }
}
#endif
