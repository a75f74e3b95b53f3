// The conformance suite for attention: a right backend passes, and each way to be wrong is seen.
#include <string>

#include "far_backend.hpp"
#include "quern/testing/conformance_attention.hpp"
#include "support.hpp"
#include "toy_attention.hpp"

using namespace quern;
using quern::testing::conformance_attention;
using quern::testing::ConformanceOptions;
using toy::Fault;

namespace {

/// What the suite says about a toy with this fault, first line.
std::string finding(Fault fault) {
  // The reference allocates, so allocations are counted in a test of their own.
  const auto report = conformance_attention(toy::Backend(fault), {.count = 64, .max_failures = 1});
  return report.ok() ? "nothing" : report.failures.front();
}
bool finds(Fault fault, const char* what) {
  const std::string line = finding(fault);
  const bool found = line.find(what) != std::string::npos;
  if (!found) MESSAGE("expected '" << std::string(what) << "', got '" << line << "'");
  return found;
}

}  // namespace

TEST_CASE("attention suite: passes the reference, and counts what it did") {
  static_assert(AttentionBackend<toy::Backend> && AttentionBackend<far::Backend>);
  const Index count = support::scaled(1000);
  const auto report = conformance_attention(toy::Backend{}, {.count = count});
  for (const std::string& line : report.failures) FAIL_CHECK(line);
  CHECK(report.problems == count);
  CHECK(report.runs > 4 * (count - report.unsupported));
  CHECK(report.unsupported < count / 3 + 1);
}

TEST_CASE("attention suite: passes a backend whose memory the program cannot touch") {
  const ConformanceOptions options{.count = support::scaled(100)};
  const auto report = conformance_attention(far::Backend{}, options);
  for (const std::string& line : report.failures) FAIL_CHECK(line);
  CHECK(report.runs == conformance_attention(toy::Backend(), options).runs);
  for (const Fault fault : {Fault::off_by_one, Fault::writes_before, Fault::overruns_workspace,
                            Fault::changes_a, Fault::upload_loses_a_byte}) {
    const auto wrong =
        conformance_attention(far::Backend{toy::Backend(fault)}, {.count = 64, .max_failures = 1});
    CHECK_FALSE(wrong.ok());
  }
}

TEST_CASE("attention suite: finds supports() and prepare() of different minds") {
  CHECK(finds(Fault::refuses_all, "refused every problem"));
  CHECK(
      finds(Fault::refuses_only_in_supports, "supports() refuses this, but prepare() accepts it"));
  CHECK(finds(Fault::refuses_with_another_code, "says no_memory"));
  CHECK(finds(Fault::refuses_only_in_prepare, "supports() accepts this, but prepare() says: toy"));
  CHECK(
      finds(Fault::ignores_validate, "qk_size = 0: supports() accepts it, and must say bad_shape"));
}

TEST_CASE("attention suite: finds a wrong result, wherever it comes from") {
  CHECK(finds(Fault::off_by_one, "must be"));
  CHECK(finds(Fault::depends_on_threads, "7 threads"));
  CHECK(finds(Fault::depends_on_order, "must be"));
  CHECK(finds(Fault::a_bit_off, "not as in the first run: "));
  CHECK(finds(Fault::coarse, "out["));
  CHECK(finds(Fault::remembers_extent, "smaller call"));
  CHECK(finds(Fault::forgets_window, "must be"));
  CHECK(finds(Fault::forgets_lengths, "must be"));
  CHECK(finds(Fault::forgets_sinks, "must be"));
  CHECK(finds(Fault::blind_is_nan, "is nan but must be 0"));
  CHECK(finds(Fault::wrong_lse, "lse["));
}

TEST_CASE("attention suite: finds writes to what is no result") {
  CHECK(finds(Fault::writes_a_gap, "around c"));
  CHECK(finds(Fault::writes_before, "around c"));
  CHECK(finds(Fault::overruns_workspace, "past the end of the workspace"));
  CHECK(finds(Fault::before_workspace, "before the workspace"));
  CHECK(finds(Fault::changes_a, "run() changed q;"));
}

TEST_CASE("attention suite: finds allocations in run(), and calls that should have been refused") {
  const auto allocating = conformance_attention(
      toy::Backend(), {.count = 64, .max_failures = 1, .allocations = support::allocations});
  REQUIRE(!allocating.ok());
  CHECK(allocating.failures.front().find("allocations in run()") != std::string::npos);
  CHECK(finds(Fault::writes_then_refuses, "wrote something and then failed"));
  CHECK(finds(Fault::accepts_any_workspace, "short workspace"));
  CHECK(finds(Fault::trusts_numbers, "run() accepts it, and must say bad_value"));
}

TEST_CASE("attention suite: a failure names the case, which can be made again from its seed") {
  const std::string line = finding(Fault::refuses_only_in_prepare);
  const auto at = line.find("AttentionCase(");
  REQUIRE(at != std::string::npos);
  const auto seed = std::stoull(line.substr(at + 14));
  CHECK(line.find(quern::testing::AttentionCase(seed).describe()) != std::string::npos);
}
