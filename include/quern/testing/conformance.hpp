// The conformance suite: does a backend compute what the reference defines, and keep the promises
// that come with it? For any backend that has prepare(backend, problem, weights), without a test
// framework:
//
//   const auto report = quern::testing::conformance_gemm(MyBackend());
//   for (const std::string& line : report.failures) std::puts(line.c_str());
//   return report.ok() ? 0 : 1;
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "quern/core/thread_pool.hpp"
#include "quern/ops/gemm_reference.hpp"
#include "quern/testing/gemm_compare.hpp"
#include "quern/testing/gemm_problems.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

struct ConformanceOptions {
  std::uint64_t seed = 1;    ///< of the first problem; the next has seed + 1
  Index count = 500;         ///< problems
  Index threads = 8;         ///< executors with 1 to this many threads are tried
  bool exact_floats = true;  ///< float sums bit for bit; else within the bound of float_tolerance()
  std::size_t max_failures = 10;     ///< stop after so many
  Index (*allocations)() = nullptr;  ///< counts the program's allocations; run() must make none
};

struct Report {
  Index problems = 0;
  Index runs = 0;
  std::vector<std::string> failures;  ///< what is wrong, and how to get it again

  bool ok() const { return failures.empty(); }
};

/// An executor as hostile as the concept allows: last index first, worker numbers all over the
/// place.
struct Backwards {
  Index workers = 5;
  Index concurrency() const { return workers; }
  template <class F>
  void parallel_for(Index n, F&& task) const {
    for (Index i = n; i-- > 0;) task(i, (i * 3 + 2) % workers);
  }
};

namespace detail {

template <class Backend>
class GemmConformance {
 public:
  GemmConformance(const Backend& backend, const ConformanceOptions& options)
      : backend_(backend), options_(options) {
    for (Index t = 1; t <= options.threads; ++t) pools_.push_back(std::make_unique<ThreadPool>(t));
  }

  Report run() {
    for (Index i = 0; i < options_.count && report_.failures.size() < options_.max_failures; ++i) {
      const std::uint64_t seed = options_.seed + static_cast<std::uint64_t>(i);
      const GemmCase c(seed);
      ++report_.problems;
      if (std::string problem = check(c, seed); !problem.empty()) {
        report_.failures.push_back(problem + "; " + c.describe());
      }
    }
    return std::move(report_);
  }

 private:
  struct Expected {
    Index m;
    AlignedBuffer memory;
    GemmArgs args;
  };

  static bool same_bytes(const AlignedBuffer& x, const AlignedBuffer& y) {
    return x.size() == 0 || std::memcmp(x.data(), y.data(), x.size()) == 0;
  }

  Expected expect(const GemmCase& c, Index m) const {
    Expected e{m, c.c_memory(), {}};
    e.args = c.args(e.memory.data(), m);
    reference_gemm(c.problem(), c.weights(), e.args);
    return e;
  }

  std::string check(const GemmCase& c, std::uint64_t seed) {
    // Prepared from a twin that is gone when it runs: nothing may point to the weights, scales and
    // biases any more.
    auto op = [&] {
      const GemmCase twin(seed);
      return prepare(backend_, twin.problem(), twin.weights());
    }();
    if (!op) return std::string("prepare: ") + op.error().what();
    const Expected full = expect(c, c.rows());
    std::string problem = compare(c, *op, full, Parallel(), "serial");
    for (Index t = 1; t <= options_.threads && problem.empty(); ++t) {
      // One number of threads for most problems, all of them for some.
      if (seed % 16 != 0 && t != static_cast<Index>(seed) % options_.threads + 1) continue;
      problem = compare(c, *op, full, *pools_[static_cast<std::size_t>(t - 1)],
                        (std::to_string(t) + " threads").c_str());
    }
    const Backwards backwards;
    if (problem.empty()) problem = compare(c, *op, full, backwards, "backwards");
    for (const Index m : {Index{0}, Index{1}, c.rows() / 2, c.rows() - 1}) {
      if (!problem.empty() || m < 0 || m >= c.rows()) continue;
      problem = compare(c, *op, expect(c, m), Parallel(), "fewer rows");
    }
    const auto workspace = static_cast<Index>(op->workspace_bytes(c.rows()));
    for (const Index missing : {Index{1}, workspace}) {
      if (!problem.empty() || missing > workspace) continue;
      problem = compare(c, *op, full, Parallel(), "short workspace", missing);
    }
    if (problem.empty()) problem = refuses_bad_calls(c, *op);
    if (problem.empty()) problem = weights_survive_storage(c, full, seed);
    return problem;
  }

  /// One run against the expected memory. With a workspace too small by `missing` bytes, run() may
  /// also refuse.
  template <class Op>
  std::string compare(const GemmCase& c, const Op& op, const Expected& e, Parallel executor,
                      const char* how, Index missing = 0) {
    AlignedBuffer memory = c.c_memory();
    const GemmArgs args = c.args(memory.data(), e.m);
    const Index bytes =
        static_cast<Index>(op.workspace_bytes(e.m, executor.concurrency())) - missing;
    const auto where = [&](const std::string& what) {
      return std::string(op.kernel()) + ", " + how + ", m=" + std::to_string(e.m) + ": " + what;
    };
    // Full of NaNs, at an odd address, and guarded.
    AlignedBuffer scratch(static_cast<std::size_t>(bytes + missing) + 65);
    std::memset(scratch.data(), 0xFF, scratch.size());
    const std::span<std::byte> workspace(scratch.data() + 1, static_cast<std::size_t>(bytes));

    static_assert(noexcept(op.run(args, workspace, executor)), "run() must be noexcept");
    const Index before = options_.allocations ? options_.allocations() : 0;
    const Error error = op.run(args, workspace, executor);
    const Index after = options_.allocations ? options_.allocations() : 0;
    ++report_.runs;
    if (missing != 0 && error.code() == Code::no_workspace) {
      const bool same = same_bytes(memory, c.c_memory());
      return same ? std::string() : where("wrote something and then failed");
    }
    if (error) return where(error.what());
    if (after != before) return where(std::to_string(after - before) + " allocations in run()");
    for (std::size_t i = static_cast<std::size_t>(bytes) + 1; i < scratch.size(); ++i) {
      if (scratch.data()[i] != std::byte{0xFF}) return where("wrote past the end of the workspace");
    }
    const bool exact = options_.exact_floats || is_int8(c.problem().b);
    const std::string problem =
        difference(c.problem(), c.weights(), e.args, args.c, e.memory, memory, exact);
    return problem.empty() ? problem : where(problem);
  }

  template <class Op>
  std::string refuses_bad_calls(const GemmCase& c, const Op& op) {
    const AlignedBuffer untouched = c.c_memory();
    AlignedBuffer memory = c.c_memory();
    const GemmArgs good = c.args(memory.data(), c.rows());
    AlignedBuffer workspace(static_cast<std::size_t>(op.workspace_bytes(c.rows())));
    const auto refuses = [&](const char* what, const GemmArgs& args, Code code) {
      const Error e = op.run(args, workspace);
      if (e.code() != code) {
        return std::string(what) + ": run() says '" + e.what() + "', not " + quern::name(code);
      }
      const bool same = same_bytes(memory, untouched);
      return same ? std::string() : std::string(what) + ": run() wrote something and then failed";
    };
    GemmArgs wide = good, null = good;
    wide.a.cols += 1;
    wide.a.rows = wide.c.rows = 0;  // so that the column would not be read
    std::string problem = refuses("a column too many in a", wide, Code::bad_shape);
    if (problem.empty() && good.c.data != nullptr) {
      null.c.data = nullptr;
      problem = refuses("null c", null, Code::bad_data);
    }
    return problem;
  }

  /// For backends whose weights can be stored: pack(), bytes(), from_bytes(), prepare(packed).
  std::string weights_survive_storage(const GemmCase& c, const Expected& e, std::uint64_t seed) {
    if constexpr (requires { pack(backend_, c.problem(), c.weights()); }) {
      const std::vector<std::byte> file = [&] {
        const GemmCase twin(seed);
        const auto packed = pack(backend_, twin.problem(), twin.weights());
        if (!packed) return std::vector<std::byte>();
        const std::span<const std::byte> bytes = packed->bytes();
        return std::vector<std::byte>(bytes.begin(), bytes.end());
      }();
      auto packed = pack(backend_, c.problem(), c.weights());
      if (!packed) return std::string("pack: ") + packed.error().what();
      const std::span<const std::byte> bytes = packed->bytes();
      if (!std::equal(bytes.begin(), bytes.end(), file.begin(), file.end())) {
        return "packing the same weights twice gives different bytes";
      }
      using Packed = std::remove_cvref_t<decltype(*packed)>;
      auto restored = Packed::from_bytes(file);
      if (!restored) return std::string("from_bytes: ") + restored.error().what();
      auto op = prepare(backend_, c.problem(), std::move(*restored));
      if (!op) return std::string("prepare from stored weights: ") + op.error().what();
      return compare(c, *op, e, Parallel(), "stored weights");
    } else {
      return {};
    }
  }

  const Backend& backend_;
  const ConformanceOptions options_;
  std::vector<std::unique_ptr<ThreadPool>> pools_;
  Report report_;
};

}  // namespace detail

/// Runs `options.count` random problems on the backend and checks each against the reference:
///  - the result, bit for bit (see exact_floats), and that nothing else was written;
///  - serially, with several numbers of threads and in reverse order;
///  - one prepared operation with several m, after its weights are gone;
///  - calls that must be refused, with C left alone, and workspaces that are too small;
///  - weights that were packed, stored and read again, where the backend can.
template <class Backend>
Report conformance_gemm(const Backend& backend, const ConformanceOptions& options = {}) {
  return detail::GemmConformance<Backend>(backend, options).run();
}

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
