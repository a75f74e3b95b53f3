// Executors: where the parallel parts of an operation run. quern owns no threads.
#pragma once

#include <concepts>
#include <type_traits>

#include "quern/core/dtype.hpp"

namespace quern {
inline namespace QUERN_ABI {

/// Anything with these two members can run quern's loops: a thread pool, OpenMP, TBB.
/// parallel_for calls task(index, worker) once for each index in [0, n), with `worker` in
/// [0, concurrency()) and never the same worker in two calls at a time; it returns when all are
/// done. Results never depend on the order, nor on which worker gets what.
template <class E>
concept Executor = requires(E& e, Index n, void (*task)(Index index, Index worker)) {
  { e.concurrency() } -> std::convertible_to<Index>;
  e.parallel_for(n, task);
};

/// Runs everything in the calling thread.
struct Serial {
  Index concurrency() const noexcept { return 1; }
  template <class F>
  void parallel_for(Index n, F&& task) const {
    for (Index i = 0; i < n; ++i) task(i, Index{0});
  }
};

#if defined(_OPENMP)
/// Runs on an OpenMP team of `threads` threads.
struct OpenMP {
  Index threads = 1;
  Index concurrency() const noexcept { return threads; }
  template <class F>
  void parallel_for(Index n, F&& task) const {
    // One iteration a thread, so that the iteration's number can name the worker.
#pragma omp parallel for schedule(static, 1) num_threads(static_cast <int>(threads))
    for (Index worker = 0; worker < threads; ++worker) {
      for (Index i = worker; i < n; i += threads) task(i, worker);
    }
  }
};
#endif

/// A non-owning view of any Executor: kernels are compiled once, not per pool. The executor must
/// outlive it.
class Parallel {
 public:
  Parallel() noexcept : Parallel(serial()) {}

  template <Executor E>
  requires(!std::same_as<std::remove_cvref_t<E>, Parallel>) Parallel(E& executor)
  noexcept  // NOLINT: implicit on purpose, a view
      : executor_(&executor),
        concurrency_(static_cast<Index>(executor.concurrency())),
        run_([](const void* e, Index n, Task task, void* context) {
          const_cast<E*>(static_cast<const E*>(e))->parallel_for(n, [=](Index index, Index worker) {
            task(context, index, worker);
          });
        }) {}

  Index concurrency() const noexcept { return concurrency_; }

  template <class F>
  void operator()(Index n, F&& task) const {
    using Function = std::remove_reference_t<F>;
    run_(
        executor_, n,
        [](void* f, Index index, Index worker) { (*static_cast<Function*>(f))(index, worker); },
        const_cast<std::remove_const_t<Function>*>(&task));
  }

 private:
  using Task = void (*)(void* context, Index index, Index worker);
  static const Serial& serial() noexcept {
    static constexpr Serial kSerial;
    return kSerial;
  }

  const void* executor_;
  Index concurrency_;
  void (*run_)(const void* executor, Index n, Task task, void* context);
};

}  // namespace QUERN_ABI
}  // namespace quern
