// The conformance suite itself: a right backend passes, and each way to be wrong is seen.
#include <string>

#include "quern/testing/conformance.hpp"
#include "support.hpp"
#include "toy_backend.hpp"

using namespace quern;
using quern::testing::conformance_gemm;
using toy::Fault;

namespace {

/// What the suite says about a toy with this fault, first line.
std::string finding(Fault fault) {
  const auto report = conformance_gemm(
      toy::Backend{fault}, {.count = 64, .max_failures = 1, .allocations = support::allocations});
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
  CHECK(report.runs > 4 * count);
}

TEST_CASE("the suite finds a wrong result, wherever it comes from") {
  CHECK(finds(Fault::off_by_one, "serial"));
  CHECK(finds(Fault::saturates, "is 32767 but must be"));
  CHECK(finds(Fault::depends_on_threads, "7 threads"));
  CHECK(finds(Fault::depends_on_order, "must be"));
  CHECK(finds(Fault::needs_all_rows, "must be"));
  CHECK(finds(Fault::forgets_weights, "stored weights"));
  CHECK(finds(Fault::packs_at_random, "twice gives different bytes"));
}

TEST_CASE("the suite finds writes to what is not C's") {
  CHECK(finds(Fault::writes_a_gap, "around c"));
  CHECK(finds(Fault::writes_before, "around c"));
  CHECK(finds(Fault::overruns_workspace, "past the end of the workspace"));
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
  const auto again = conformance_gemm(toy::Backend{Fault::off_by_one}, {.seed = seed, .count = 1});
  CHECK(again.failures.size() == 1);
}

TEST_CASE("the suite stops after max_failures") {
  const auto report =
      conformance_gemm(toy::Backend{Fault::off_by_one}, {.count = 500, .max_failures = 3});
  CHECK(report.failures.size() == 3);
  CHECK(report.problems < 20);
}
