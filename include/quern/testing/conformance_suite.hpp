// What the conformance suites of all operations share: how a prepared operation is run, compared
// and refused. An operation's own part, its problems and its reference, is in conformance_gemm.hpp
// and conformance_conv.hpp.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "quern/backend.hpp"
#include "quern/core/thread_pool.hpp"
#include "quern/testing/backend_memory.hpp"
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

/// Something that must be refused (a problem, weights, a call), and how.
template <class T>
struct Refused {
  const char* what;
  T value;
  Code code;
};

/// The suite of one operation, which has:
///
///   Case                                      a GemmCase or its like
///   sizes(case)                               of calls: the whole case first, then smaller ones
///   count(case, size)                         what workspace_bytes() takes
///   text(size)                                "m=3"
///   reference(case, args)
///   difference(case, args, actual args, expected memory, actual memory, exact)
///   bad_calls(args), bad_problems(case), bad_weights(case)         lists of Refused
template <Backend B, class Operation>
class Conformance {
 public:
  using Case = typename Operation::Case;

  Conformance(const B& backend, const ConformanceOptions& options)
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
      const Case c(seed);
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
  using Size = std::remove_cvref_t<decltype(Operation::sizes(std::declval<const Case&>())[0])>;
  using Args = decltype(std::declval<const Case&>().args(nullptr, std::declval<const Size&>()));
  using Inputs = CaseInputs<B, Case>;

  struct Expected {
    Size size;
    AlignedBuffer memory;
    Args args;
  };

  Expected expect(const Case& c, const Size& size) const {
    Expected e{size, c.c_memory(), {}};
    e.args = c.args(e.memory.data(), size);
    Operation::reference(c, e.args);
    return e;
  }

  /// A problem that is not offered: prepare() must say so too.
  std::string check_refusal(const Case& c, const Error& unsupported) {
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

  std::string check(const Case& c, std::uint64_t seed) {
    // Prepared from a twin whose weights, scales and biases are overwritten before anything runs:
    // nothing may point to them any more.
    Case twin(seed);
    auto op = prepare(backend_, twin.problem(), twin.weights());
    twin.forget();
    if (!op)
      return std::string("supports() accepts this, but prepare() says: ") + op.error().what();
    const auto inputs = Inputs::upload(backend_, c);
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
  std::string compare_all(const Case& c, const Op& op, const Inputs& inputs, std::uint64_t seed) {
    const std::vector<Size> sizes = Operation::sizes(c);
    const Expected full = expect(c, sizes.front());
    std::string problem = compare(c, op, inputs, full, Parallel(), "serial");
    for (Index t = 1; t <= options_.threads && problem.empty(); ++t) {
      // One number of threads for most problems, all of them for some.
      if (seed % 16 != 0 && t != static_cast<Index>(seed) % options_.threads + 1) continue;
      problem = compare(c, op, inputs, full, *pools_[static_cast<std::size_t>(t - 1)],
                        (std::to_string(t) + " threads").c_str());
    }
    const Backwards backwards;
    if (problem.empty()) problem = compare(c, op, inputs, full, backwards, "backwards");
    for (std::size_t i = 1; i < sizes.size() && problem.empty(); ++i) {
      problem = compare(c, op, inputs, expect(c, sizes[i]), Parallel(), "smaller call");
    }
    const auto workspace =
        static_cast<Index>(op.workspace_bytes(Operation::count(c, sizes.front())));
    for (const Index missing : {Index{1}, workspace}) {
      if (!problem.empty() || missing > workspace) continue;
      problem = compare(c, op, inputs, full, Parallel(), "short workspace", missing);
    }
    return problem;
  }

  /// One run against the expected memory. With a workspace too small by `missing` bytes, run() may
  /// also refuse.
  template <class Op>
  std::string compare(const Case& c, const Op& op, const Inputs& inputs, const Expected& e,
                      Parallel executor, const char* how, Index missing = 0) {
    const auto where = [&](const std::string& what) {
      return std::string(op.kernel()) + ", " + how + ", " + Operation::text(e.size) + ": " + what;
    };
    // The workspace is full of NaNs, at an odd address, and guarded.
    const auto needed =
        static_cast<Index>(op.workspace_bytes(Operation::count(c, e.size), executor.concurrency()));
    const auto bytes = static_cast<std::size_t>(needed - missing);
    AlignedBuffer blank(static_cast<std::size_t>(needed) + 65);
    std::memset(blank.data(), 0xFF, blank.size());
    const auto scratch = uploaded(backend_, bytes_of(blank));
    const AlignedBuffer before = c.c_memory();
    const auto there = uploaded(backend_, bytes_of(before));
    if (!scratch || !there) return where((scratch ? there : scratch).error().what());
    const Args args = inputs.args(there->data(), e.size);
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
    // The residual as it was: in place, the reference has overwritten it.
    Args call = c.args(before.data(), e.size);
    call.c = e.args.c;
    const bool exact = options_.exact_floats || is_int8(c.problem().b);
    const std::string problem =
        Operation::difference(c, call, c.args(memory->data(), e.size), e.memory, *memory, exact);
    return problem.empty() ? problem : where(problem);
  }

  template <class Op>
  std::string refuses_bad_calls(const Case& c, const Op& op, const Inputs& inputs) {
    const Size size = Operation::sizes(c).front();
    // With room for A as well: one of the calls puts it there.
    const AlignedBuffer around = c.c_memory();
    AlignedBuffer untouched(around.size() + c.input_memory()[0].size());
    if (untouched.size() != 0) std::memset(untouched.data(), 0xFF, untouched.size());
    if (around.size() != 0) std::memcpy(untouched.data(), around.data(), around.size());
    const auto there = uploaded(backend_, bytes_of(untouched));
    auto workspace =
        backend_.allocate(static_cast<std::size_t>(op.workspace_bytes(Operation::count(c, size))));
    if (!there || !workspace) return (there ? workspace : there).error().what();
    const std::span<std::byte> scratch(workspace->data(), workspace->size());
    const Args good = inputs.args(there->data(), size);
    for (const Refused<Args>& bad : Operation::bad_calls(good)) {
      const std::string who = std::string(bad.what) + ": run()";
      const std::string problem = refuses(op.run(bad.value, scratch), bad.code, who);
      if (!problem.empty()) return problem;
      if (!holds(backend_, *there, untouched)) return who + " wrote something and then failed";
    }
    return {};
  }

  /// Problems that validate() refuses are refused, whatever else the backend offers.
  std::string refuses_bad_problems(const Case& c) {
    for (const auto& bad : Operation::bad_problems(c)) {
      const std::string what = bad.what;
      std::string problem = refuses(supports(backend_, bad.value), bad.code, what + ": supports()");
      if (problem.empty()) {
        problem = refuses(prepare(backend_, bad.value, c.weights()).error(), bad.code,
                          what + ": prepare()");
      }
      if (!problem.empty()) return problem;
    }
    for (const auto& bad : Operation::bad_weights(c)) {
      const std::string problem = refuses(prepare(backend_, c.problem(), bad.value).error(),
                                          bad.code, std::string(bad.what) + ": prepare()");
      if (!problem.empty()) return problem;
    }
    return {};
  }

  /// For backends whose weights can be stored: pack(), bytes(), from_bytes(), prepare(packed).
  std::string weights_survive_storage(const Case& c, const Inputs& inputs, std::uint64_t seed) {
    if constexpr (requires { pack(backend_, c.problem(), c.weights()); }) {
      const std::vector<std::byte> file = [&] {
        const Case twin(seed);
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
      return compare(c, *op, inputs, expect(c, Operation::sizes(c).front()), Parallel(),
                     "stored weights");
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

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
