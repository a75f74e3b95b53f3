// The conformance suite for GEMM; see conformance.hpp.
#pragma once

#include <string>
#include <vector>

#include "quern/ops/gemm_reference.hpp"
#include "quern/testing/conformance_suite.hpp"
#include "quern/testing/gemm_compare.hpp"
#include "quern/testing/gemm_problems.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

namespace detail {

struct GemmOperation {
  using Case = GemmCase;

  static std::vector<Index> sizes(const GemmCase& c) {
    std::vector<Index> rows{c.rows()};
    for (const Index m : {Index{0}, Index{1}, c.rows() / 2, c.rows() - 1}) {
      if (m >= 0 && m < c.rows()) rows.push_back(m);
    }
    return rows;
  }
  static Index count(const GemmCase& c, Index m) { return c.args(nullptr, m).a.batch * m; }
  static std::string text(Index m) { return "m=" + std::to_string(m); }

  static void reference(const GemmCase& c, const GemmArgs& args) {
    reference_gemm(c.problem(), c.weights(), args);
  }
  static std::string difference(const GemmCase& c, const GemmArgs& args, const GemmArgs& actual,
                                const AlignedBuffer& expected_memory, AlignedBuffer& actual_memory,
                                bool exact) {
    return testing::difference(c.problem(), c.weights(), args, actual.c, expected_memory,
                               actual_memory, exact);
  }

  static std::vector<Refused<GemmArgs>> bad_calls(const GemmArgs& good) {
    GemmArgs wide = good, null = good, over = good;
    wide.a.cols += 1;
    wide.a.rows = wide.c.rows = 0;  // so that the column would not be read
    std::vector<Refused<GemmArgs>> calls{{"a column too many in a", wide, Code::bad_shape}};
    if (good.c.rows * good.c.cols * good.c.batch == 0) return calls;
    null.c.data = nullptr;
    calls.push_back({"null c", null, Code::bad_data});
    if (good.a.cols != 0) {
      over.a.data = good.c.data;
      calls.push_back({"a in the place of c", over, Code::bad_data});
    }
    return calls;
  }
  static std::vector<Refused<GemmProblem>> bad_problems(const GemmCase& c) {
    GemmProblem negative = c.problem();
    negative.n = -1;
    return {{"n = -1", negative, Code::bad_shape}};
  }
  static std::vector<Refused<ConstMatrixView>> bad_weights(const GemmCase& c) {
    ConstMatrixView short_of_one = c.weights();
    if (short_of_one.rows == 0) return {};
    short_of_one.rows -= 1;
    return {{"a row too few in b", short_of_one, Code::bad_shape}};
  }
};

}  // namespace detail

/// Checks the backend's memory, then runs `options.count` random problems on the backend and checks
/// each against the reference:
///  - the result, bit for bit (see exact_floats), and that nothing else was written;
///  - serially, with several numbers of threads and in reverse order;
///  - one prepared operation with several m, after its weights are gone;
///  - problems and calls that must be refused, with C left alone, and workspaces too small;
///  - weights that were packed, stored and read again, where the backend can.
/// Problems that supports() refuses must be refused by prepare() with the same code, and are
/// counted; refusing all of them is a failure.
template <GemmBackend B>
Report conformance_gemm(const B& backend, const ConformanceOptions& options = {}) {
  return detail::Conformance<B, detail::GemmOperation>(backend, options).run();
}

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
