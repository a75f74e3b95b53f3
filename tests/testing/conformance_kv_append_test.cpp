// The conformance suite for appending to KV caches: a right backend passes, and each way to be
// wrong is seen.
#include <string>

#include "far_backend.hpp"
#include "quern/testing/conformance_kv_append.hpp"
#include "support.hpp"
#include "toy_kv_append.hpp"

using namespace quern;
using quern::testing::conformance_kv_append;
using quern::testing::KvAppendCase;
using toy::Fault;

namespace {

/// What the suite says about a toy with this fault, first line.
bool finds(Fault fault, const char* what) {
  const auto report = conformance_kv_append(toy::Backend(fault), {.count = 64, .max_failures = 1});
  const std::string line = report.ok() ? "nothing" : report.failures.front();
  const bool found = line.find(what) != std::string::npos;
  if (!found) MESSAGE("expected '" << std::string(what) << "', got '" << line << "'");
  return found;
}

}  // namespace

TEST_CASE("append suite: every case is valid, whole and in part") {
  for (Index seed = 0; seed < support::scaled(1000); ++seed) {
    const KvAppendCase c{static_cast<std::uint64_t>(seed)};
    const AlignedBuffer memory = c.out_memory();
    const Error problem = validate(c.problem());
    CHECK_MESSAGE(!problem, c.describe() << ": " << problem);
    for (const bool half : {false, true}) {
      for (const Index batch : {c.size().batch, c.size().batch / 2, Index{0}}) {
        const KvAppendArgs args = c.args(memory.data(), {batch, half});
        const Error call = validate(c.problem(), args);
        CHECK_MESSAGE(!call, c.describe() << ": " << call);
        if (call) continue;
        const Error values = validate_values(c.problem(), args);
        CHECK_MESSAGE(!values, c.describe() << ": " << values);
      }
    }
  }
}

TEST_CASE("append suite: passes the reference, and counts what it did") {
  const Index count = support::scaled(1000);
  const auto report = conformance_kv_append(toy::Backend{}, {.count = count});
  for (const std::string& line : report.failures) FAIL_CHECK(line);
  CHECK(report.problems == count);
  CHECK(report.runs > 4 * count);
}

TEST_CASE("append suite: finds what is wrong") {
  CHECK(finds(Fault::off_by_one, "k_cache or a gap in it: byte"));
  CHECK(finds(Fault::writes_before, "what is no result: byte"));
  CHECK(finds(Fault::depends_on_threads, "7 threads"));
  CHECK(finds(Fault::forgets_lengths, "must be"));
  CHECK(finds(Fault::changes_a, "run() changed k;"));
  CHECK(finds(Fault::writes_then_refuses, "wrote something and then failed"));
  CHECK(finds(Fault::ignores_validate, "k_size = -1: supports() accepts it"));
}
