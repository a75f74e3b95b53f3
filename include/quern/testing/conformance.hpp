// The conformance suite: does a backend compute what the reference defines, and keep the promises
// that come with it? For any GemmBackend, without a test framework:
//
//   const auto report = quern::testing::conformance_gemm(MyBackend());
//   for (const std::string& line : report.failures) std::puts(line.c_str());
//   return report.ok() ? 0 : 1;
//
// Whatever run() gets is in the backend's memory, and nothing here reads or writes it there:
// matrices go by upload() and come back by download().
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "quern/backend.hpp"
#include "quern/core/thread_pool.hpp"
#include "quern/ops/gemm_reference.hpp"
#include "quern/testing/backend_memory.hpp"
#include "quern/testing/gemm_compare.hpp"
#include "quern/testing/gemm_problems.hpp"
#include "quern/testing/report.hpp"

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

template <GemmBackend B>
class GemmConformance {
 public:
  GemmConformance(const B& backend, const ConformanceOptions& options)
      : backend_(backend), options_(options) {
    for (Index t = 1; t <= options.threads; ++t) pools_.push_back(std::make_unique<ThreadPool>(t));
  }

  Report run() {
    if (std::string problem = memory_problem(backend_); !problem.empty()) {
      report_.failures.push_back(problem);
      return std::move(report_);  // nothing that follows would mean anything
    }
    std::string refusal;
    for (Index i = 0; i < options_.count && report_.failures.size() < options_.max_failures; ++i) {
      const std::uint64_t seed = options_.seed + static_cast<std::uint64_t>(i);
      const GemmCase c(seed);
      ++report_.problems;
      const Error unsupported = supports(backend_, c.problem());
      if (unsupported) refusal = unsupported.what();
      const std::string problem = unsupported ? check_refusal(c, unsupported) : check(c, seed);
      if (!problem.empty()) report_.failures.push_back(problem + "; " + c.describe());
    }
    if (report_.unsupported == report_.problems && report_.problems != 0) {
      report_.failures.push_back(
          "supports() refused every problem, so nothing was tested; the "
          "last time: " +
          refusal);
    }
    return std::move(report_);
  }

 private:
  struct Expected {
    Index m;
    AlignedBuffer memory;
    GemmArgs args;
  };

  /// Of a call with m rows in each batch element.
  static Index all_rows(const GemmCase& c, Index m) { return c.args(nullptr, m).a.batch * m; }

  Expected expect(const GemmCase& c, Index m) const {
    Expected e{m, c.c_memory(), {}};
    e.args = c.args(e.memory.data(), m);
    reference_gemm(c.problem(), c.weights(), e.args);
    return e;
  }

  /// A problem that is not offered: prepare() must say so too.
  std::string check_refusal(const GemmCase& c, const Error& unsupported) {
    ++report_.unsupported;
    return refuses(prepare(backend_, c.problem(), c.weights()).error(), unsupported.code(),
                   "supports() refuses this, but prepare()");
  }

  /// Empty if `e`, what `who` returned, has this code.
  static std::string refuses(const Error& e, Code code, const std::string& who) {
    if (e.code() == code) return {};
    if (!e) return who + " accepts it, and must say " + quern::name(code);
    return who + " says " + quern::name(e.code()) + " '" + e.what() + "', not " + quern::name(code);
  }

  std::string check(const GemmCase& c, std::uint64_t seed) {
    // Prepared from a twin that is gone when it runs: nothing may point to the weights, scales and
    // biases any more.
    auto op = [&] {
      const GemmCase twin(seed);
      return prepare(backend_, twin.problem(), twin.weights());
    }();
    if (!op)
      return std::string("supports() accepts this, but prepare() says: ") + op.error().what();
    const auto inputs = GemmInputs<B>::upload(backend_, c);
    if (!inputs) return std::string("upload: ") + inputs.error().what();
    std::string problem = compare_all(c, *op, *inputs, seed);
    if (problem.empty()) problem = refuses_bad_calls(c, *op, *inputs);
    if (problem.empty()) problem = refuses_bad_problems(c);
    if (problem.empty()) problem = weights_survive_storage(c, *inputs, seed);
    // Later runs read what an earlier one wrote: that is then the better explanation.
    const std::string changed = inputs->changed(backend_);
    return changed.empty() ? problem : changed;
  }

  /// Every way to run one prepared operation.
  template <class Op>
  std::string compare_all(const GemmCase& c, const Op& op, const GemmInputs<B>& inputs,
                          std::uint64_t seed) {
    const Expected full = expect(c, c.rows());
    std::string problem = compare(c, op, inputs, full, Parallel(), "serial");
    for (Index t = 1; t <= options_.threads && problem.empty(); ++t) {
      // One number of threads for most problems, all of them for some.
      if (seed % 16 != 0 && t != static_cast<Index>(seed) % options_.threads + 1) continue;
      problem = compare(c, op, inputs, full, *pools_[static_cast<std::size_t>(t - 1)],
                        (std::to_string(t) + " threads").c_str());
    }
    const Backwards backwards;
    if (problem.empty()) problem = compare(c, op, inputs, full, backwards, "backwards");
    for (const Index m : {Index{0}, Index{1}, c.rows() / 2, c.rows() - 1}) {
      if (!problem.empty() || m < 0 || m >= c.rows()) continue;
      problem = compare(c, op, inputs, expect(c, m), Parallel(), "fewer rows");
    }
    const auto workspace = static_cast<Index>(op.workspace_bytes(all_rows(c, c.rows())));
    for (const Index missing : {Index{1}, workspace}) {
      if (!problem.empty() || missing > workspace) continue;
      problem = compare(c, op, inputs, full, Parallel(), "short workspace", missing);
    }
    return problem;
  }

  /// One run against the expected memory. With a workspace too small by `missing` bytes, run() may
  /// also refuse.
  template <class Op>
  std::string compare(const GemmCase& c, const Op& op, const GemmInputs<B>& inputs,
                      const Expected& e, Parallel executor, const char* how, Index missing = 0) {
    const auto where = [&](const std::string& what) {
      return std::string(op.kernel()) + ", " + how + ", m=" + std::to_string(e.m) + ": " + what;
    };
    // The workspace is full of NaNs, at an odd address, and guarded.
    const auto needed =
        static_cast<Index>(op.workspace_bytes(all_rows(c, e.m), executor.concurrency()));
    const auto bytes = static_cast<std::size_t>(needed - missing);
    AlignedBuffer blank(static_cast<std::size_t>(needed) + 65);
    std::memset(blank.data(), 0xFF, blank.size());
    const auto scratch = uploaded(backend_, bytes_of(blank));
    const AlignedBuffer before = c.c_memory();
    const auto there = uploaded(backend_, bytes_of(before));
    if (!scratch || !there) return where((scratch ? there : scratch).error().what());
    const GemmArgs args = inputs.args(there->data(), e.m);
    const std::span<std::byte> workspace(scratch->data() + 1, bytes);

    const Index allocations = options_.allocations ? options_.allocations() : 0;
    const Error error = op.run(args, workspace, executor);
    const Index made = options_.allocations ? options_.allocations() - allocations : 0;
    ++report_.runs;

    auto memory = downloaded(backend_, *there);
    const auto used = downloaded(backend_, *scratch);
    if (!memory || !used) return where((memory ? used : memory).error().what());
    if (missing != 0 && error.code() == Code::no_workspace) {
      return same_bytes(*memory, before) ? "" : where("wrote something and then failed");
    }
    if (error) return where(error.what());
    if (made != 0) return where(std::to_string(made) + " allocations in run()");
    if (used->data()[0] != std::byte{0xFF}) return where("wrote before the workspace");
    for (std::size_t i = bytes + 1; i < used->size(); ++i) {
      if (used->data()[i] != std::byte{0xFF}) return where("wrote past the end of the workspace");
    }
    const bool exact = options_.exact_floats || is_int8(c.problem().b);
    const std::string problem = difference(c.problem(), c.weights(), e.args,
                                           c.c(memory->data(), e.m), e.memory, *memory, exact);
    return problem.empty() ? problem : where(problem);
  }

  template <class Op>
  std::string refuses_bad_calls(const GemmCase& c, const Op& op, const GemmInputs<B>& inputs) {
    const AlignedBuffer untouched = c.c_memory();
    const auto there = uploaded(backend_, bytes_of(untouched));
    auto workspace =
        backend_.allocate(static_cast<std::size_t>(op.workspace_bytes(all_rows(c, c.rows()))));
    if (!there || !workspace) return (there ? workspace : there).error().what();
    const std::span<std::byte> scratch(workspace->data(), workspace->size());
    const auto refuses_call = [&](const char* what, const GemmArgs& args, Code code) {
      const std::string who = std::string(what) + ": run()";
      const std::string problem = refuses(op.run(args, scratch), code, who);
      if (!problem.empty() || holds(backend_, *there, untouched)) return problem;
      return who + " wrote something and then failed";
    };
    const GemmArgs good = inputs.args(there->data(), c.rows());
    GemmArgs wide = good, null = good;
    wide.a.cols += 1;
    wide.a.rows = wide.c.rows = 0;  // so that the column would not be read
    std::string problem = refuses_call("a column too many in a", wide, Code::bad_shape);
    if (problem.empty() && good.c.data != nullptr) {
      null.c.data = nullptr;
      problem = refuses_call("null c", null, Code::bad_data);
    }
    return problem;
  }

  /// Problems that validate() refuses are refused, whatever else the backend offers.
  std::string refuses_bad_problems(const GemmCase& c) {
    GemmProblem negative = c.problem();
    negative.n = -1;
    std::string problem =
        refuses(supports(backend_, negative), Code::bad_shape, "n = -1: supports()");
    if (problem.empty()) {
      problem = refuses(prepare(backend_, negative, c.weights()).error(), Code::bad_shape,
                        "n = -1: prepare()");
    }
    ConstMatrixView weights = c.weights();
    if (!problem.empty() || weights.rows == 0) return problem;
    weights.rows -= 1;
    return refuses(prepare(backend_, c.problem(), weights).error(), Code::bad_shape,
                   "a row too few in b: prepare()");
  }

  /// For backends whose weights can be stored: pack(), bytes(), from_bytes(), prepare(packed).
  std::string weights_survive_storage(const GemmCase& c, const GemmInputs<B>& inputs,
                                      std::uint64_t seed) {
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
      if (!same_bytes(packed->bytes(), file)) {
        return "packing the same weights twice gives different bytes";
      }
      using Packed = std::remove_cvref_t<decltype(*packed)>;
      auto restored = Packed::from_bytes(file);
      if (!restored) return std::string("from_bytes: ") + restored.error().what();
      auto op = prepare(backend_, c.problem(), std::move(*restored));
      if (!op) return std::string("prepare from stored weights: ") + op.error().what();
      return compare(c, *op, inputs, expect(c, c.rows()), Parallel(), "stored weights");
    } else {
      return {};
    }
  }

  const B& backend_;
  const ConformanceOptions options_;
  std::vector<std::unique_ptr<ThreadPool>> pools_;
  Report report_;
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
  return detail::GemmConformance<B>(backend, options).run();
}

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
