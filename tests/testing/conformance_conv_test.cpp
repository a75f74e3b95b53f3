// The conformance suite for convolutions: a right backend passes, and each way to be wrong is seen.
#include <string>

#include "far_backend.hpp"
#include "quern/testing/conformance_conv.hpp"
#include "support.hpp"
#include "toy_conv.hpp"

using namespace quern;
using quern::testing::conformance_conv;
using quern::testing::ConformanceOptions;
using toy::Fault;

namespace {

/// What the suite says about a toy with this fault, first line.
std::string finding(Fault fault) {
  const auto report = conformance_conv(
      toy::Backend(fault), {.count = 64, .max_failures = 1, .allocations = support::allocations});
  return report.ok() ? "nothing" : report.failures.front();
}
bool finds(Fault fault, const char* what) {
  const std::string line = finding(fault);
  const bool found = line.find(what) != std::string::npos;
  if (!found) MESSAGE("expected '" << std::string(what) << "', got '" << line << "'");
  return found;
}

}  // namespace

TEST_CASE("conv suite: passes the reference, and counts what it did") {
  const Index count = support::scaled(100);
  const auto report =
      conformance_conv(toy::Backend{}, {.count = count, .allocations = support::allocations});
  for (const std::string& line : report.failures) FAIL_CHECK(line);
  CHECK(report.problems == count);
  CHECK(report.runs > 4 * (count - report.unsupported));
  CHECK(report.unsupported < count / 4 + 1);
}

TEST_CASE("conv suite: passes a backend whose memory the program cannot touch, sees its faults") {
  const ConformanceOptions options{.count = support::scaled(50),
                                   .allocations = support::allocations};
  const auto report = conformance_conv(far::Backend{}, options);
  for (const std::string& line : report.failures) FAIL_CHECK(line);
  CHECK(report.runs == conformance_conv(toy::Backend(), options).runs);
  for (const Fault fault : {Fault::off_by_one, Fault::writes_before, Fault::overruns_workspace,
                            Fault::changes_a, Fault::upload_loses_a_byte}) {
    const auto wrong =
        conformance_conv(far::Backend{toy::Backend(fault)}, {.count = 64, .max_failures = 1});
    CHECK_FALSE(wrong.ok());
  }
}

TEST_CASE("conv suite: finds supports() and prepare() of different minds") {
  CHECK(finds(Fault::refuses_all, "refused every problem"));
  CHECK(
      finds(Fault::refuses_only_in_supports, "supports() refuses this, but prepare() accepts it"));
  CHECK(finds(Fault::refuses_with_another_code, "says no_memory"));
  CHECK(finds(Fault::refuses_only_in_prepare, "supports() accepts this, but prepare() says: toy"));
  CHECK(finds(Fault::ignores_validate,
              "in_channels = -1: supports() accepts it, and must say bad_shape"));
}

TEST_CASE("conv suite: looks at memory first") {
  CHECK(finds(Fault::upload_loses_a_byte, "1000 bytes: what is downloaded is not what was"));
}

TEST_CASE("conv suite: finds a wrong result, wherever it comes from") {
  CHECK(finds(Fault::off_by_one, "serial"));
  CHECK(finds(Fault::saturates, "is 32767 but must be"));
  CHECK(finds(Fault::depends_on_threads, "7 threads"));
  CHECK(finds(Fault::depends_on_order, "must be"));
  CHECK(finds(Fault::remembers_extent, "smaller call"));
  CHECK(finds(Fault::forgets_dilation, "must be"));
  CHECK(finds(Fault::keeps_pointers, "must be"));
}

TEST_CASE("conv suite: finds writes to what is not C's") {
  CHECK(finds(Fault::writes_a_gap, "around c"));
  CHECK(finds(Fault::writes_before, "around c"));
  CHECK(finds(Fault::overruns_workspace, "past the end of the workspace"));
  CHECK(finds(Fault::before_workspace, "before the workspace"));
  CHECK(finds(Fault::changes_a, "run() changed a;"));
}

TEST_CASE("conv suite: finds allocations in run(), and calls that should have been refused") {
  CHECK(finds(Fault::allocates, "1 allocations in run()"));
  CHECK(finds(Fault::writes_then_refuses, "wrote something and then failed"));
  CHECK(finds(Fault::accepts_any_workspace, "short workspace"));
}

TEST_CASE("conv suite: a failure names the case, which can be made again from its seed") {
  const std::string line = finding(Fault::off_by_one);
  const auto at = line.find("ConvCase(");
  REQUIRE(at != std::string::npos);
  const auto seed = std::stoull(line.substr(at + 9));
  CHECK(line.find(quern::testing::ConvCase(seed).describe()) != std::string::npos);
  const auto again = conformance_conv(toy::Backend(Fault::off_by_one), {.seed = seed, .count = 1});
  CHECK(again.failures.size() == 1);
}
