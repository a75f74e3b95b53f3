// The conformance suite itself: a right backend passes, and each way to be wrong is seen.
#include <string>

#include "far_backend.hpp"
#include "quern/testing/conformance.hpp"
#include "support.hpp"
#include "toy_backend.hpp"

using namespace quern;
using quern::testing::conformance_gemm;
using quern::testing::ConformanceOptions;
using toy::Fault;

namespace {

/// What the suite says about a toy with this fault, first line.
std::string finding(Fault fault) {
  const auto report = conformance_gemm(
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

TEST_CASE("the suite passes the reference, and counts what it did") {
  const Index count = support::scaled(100);
  const auto report =
      conformance_gemm(toy::Backend{}, {.count = count, .allocations = support::allocations});
  for (const std::string& line : report.failures) FAIL_CHECK(line);
  CHECK(report.ok());
  CHECK(report.problems == count);
  CHECK(report.runs > 4 * (count - report.unsupported));
}

TEST_CASE("the suite passes a backend whose memory the program cannot touch, and sees its faults") {
  const far::Backend far{};
  const ConformanceOptions options{.count = support::scaled(100),
                                   .allocations = support::allocations};
  const auto report = conformance_gemm(far, options);
  for (const std::string& line : report.failures) FAIL_CHECK(line);
  CHECK(report.runs == conformance_gemm(toy::Backend(), options).runs);
  for (const Fault fault : {Fault::off_by_one, Fault::writes_before, Fault::overruns_workspace,
                            Fault::changes_a, Fault::upload_loses_a_byte}) {
    const auto wrong = conformance_gemm(far::Backend{toy::Backend(fault)}, {.count = 64});
    CHECK_FALSE(wrong.ok());
  }
}

TEST_CASE("problems that are not offered are counted, and offering none is a failure") {
  const auto some = conformance_gemm(toy::Backend(), {.count = 50});
  CHECK(some.ok());
  CHECK(some.unsupported > 0);
  CHECK(some.unsupported < 25);
  CHECK(some.summary() == "50 problems (" + std::to_string(some.unsupported) + " not offered), " +
                              std::to_string(some.runs) + " runs: all right");
  const auto all = conformance_gemm(toy::Backend(Fault::refuses_all), {.count = 50});
  REQUIRE(all.failures.size() == 1);
  CHECK(all.failures.front().find("refused every problem") != std::string::npos);
  CHECK(all.failures.front().find("toy: no output of") != std::string::npos);
  CHECK(all.summary() == "50 problems (50 not offered), 0 runs: 1 failure");
}

TEST_CASE("the suite finds supports() and prepare() of different minds") {
  CHECK(
      finds(Fault::refuses_only_in_supports, "supports() refuses this, but prepare() accepts it"));
  CHECK(finds(Fault::refuses_with_another_code, "says no_memory"));
  CHECK(finds(Fault::refuses_only_in_prepare, "supports() accepts this, but prepare() says: toy"));
  CHECK(finds(Fault::ignores_validate, "n = -1: supports() accepts it, and must say bad_shape"));
}

TEST_CASE("the suite looks at memory first") {
  CHECK(finds(Fault::upload_loses_a_byte, "1000 bytes: what is downloaded is not what was"));
  CHECK(finds(Fault::upload_clears_the_rest, "an upload of half of it changed something else"));
  CHECK(finds(Fault::upload_takes_too_much, "upload() of a byte too many"));
  CHECK(finds(Fault::download_takes_too_much, "download() of a byte too many"));
  CHECK(finds(Fault::allocates_too_much, "a buffer of 0 bytes: size() is 1"));
}

TEST_CASE("the suite finds a wrong result, wherever it comes from") {
  CHECK(finds(Fault::off_by_one, "serial"));
  CHECK(finds(Fault::saturates, "is 32767 but must be"));
  CHECK(finds(Fault::depends_on_threads, "7 threads"));
  CHECK(finds(Fault::depends_on_order, "must be"));
  CHECK(finds(Fault::needs_all_rows, "must be"));
  CHECK(finds(Fault::forgets_weights, "stored weights"));
  CHECK(finds(Fault::packs_at_random, "twice gives different bytes"));
  CHECK(finds(Fault::keeps_pointers, "must be"));
}

TEST_CASE("the suite finds writes to what is not C's") {
  CHECK(finds(Fault::writes_a_gap, "around c"));
  CHECK(finds(Fault::writes_before, "around c"));
  CHECK(finds(Fault::overruns_workspace, "past the end of the workspace"));
  CHECK(finds(Fault::before_workspace, "before the workspace"));
  CHECK(finds(Fault::changes_a, "run() changed a;"));
}

TEST_CASE("the suite finds allocations in run(), and calls that should have been refused") {
  CHECK(finds(Fault::allocates, "1 allocations in run()"));
  CHECK(finds(Fault::writes_then_refuses, "wrote something and then failed"));
  CHECK(finds(Fault::accepts_any_workspace, "short workspace"));
}

TEST_CASE("a failure names the case, which can be made again from its seed") {
  const std::string line = finding(Fault::off_by_one);
  const auto at = line.find("GemmCase(");
  REQUIRE(at != std::string::npos);
  const auto seed = std::stoull(line.substr(at + 9));
  CHECK(line.find(quern::testing::GemmCase(seed).describe()) != std::string::npos);
  const auto again = conformance_gemm(toy::Backend(Fault::off_by_one), {.seed = seed, .count = 1});
  CHECK(again.failures.size() == 1);
}

TEST_CASE("the suite stops after max_failures") {
  const auto report =
      conformance_gemm(toy::Backend(Fault::off_by_one), {.count = 500, .max_failures = 3});
  CHECK(report.failures.size() == 3);
  CHECK(report.problems < 20);
}
