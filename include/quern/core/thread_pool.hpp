// A small Executor over std::thread, for programs that bring none of their own.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "quern/core/executor.hpp"

namespace quern {
inline namespace QUERN_ABI {

/// `threads` workers: the caller of parallel_for is one, the others sleep between calls. Indices
/// are taken one at a time, so uneven tasks balance. One parallel_for at a time; it does not nest.
class ThreadPool {
 public:
  explicit ThreadPool(Index threads = static_cast<Index>(std::thread::hardware_concurrency()))
      : threads_(threads < 1 ? 1 : threads),
        workers_(std::make_unique<std::thread[]>(static_cast<std::size_t>(threads_ - 1))) {
    for (Index w = 1; w < threads_; ++w) {
      workers_[static_cast<std::size_t>(w - 1)] = std::thread([this, w] { serve(w); });
    }
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() {
    task_ = nullptr;
    start();
    for (Index w = 1; w < threads_; ++w) workers_[static_cast<std::size_t>(w - 1)].join();
  }

  Index concurrency() const noexcept { return threads_; }

  template <class F>
  void parallel_for(Index n, F&& task) {
    task_ = [](const void* f, Index index, Index worker) {
      (*static_cast<const std::remove_reference_t<F>*>(f))(index, worker);
    };
    context_ = &task;
    count_ = n;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(threads_ - 1, std::memory_order_relaxed);
    if (threads_ > 1) start();
    drain(0);
    for (Index left = busy_.load(std::memory_order_acquire); left != 0;
         left = busy_.load(std::memory_order_acquire)) {
      busy_.wait(left, std::memory_order_acquire);
    }
  }

 private:
  void start() {
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
  }

  void drain(Index worker) {
    for (Index i = next_.fetch_add(1, std::memory_order_relaxed); i < count_;
         i = next_.fetch_add(1, std::memory_order_relaxed)) {
      task_(context_, i, worker);
    }
  }

  void serve(Index worker) {
    for (std::uint32_t seen = 0;; ++seen) {
      epoch_.wait(seen, std::memory_order_acquire);
      if (task_ == nullptr) return;
      drain(worker);
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
    }
  }

  const Index threads_;
  void (*task_)(const void*, Index, Index) = nullptr;
  const void* context_ = nullptr;
  Index count_ = 0;
  std::atomic<Index> next_{0};
  std::atomic<Index> busy_{0};
  std::atomic<std::uint32_t> epoch_{0};
  std::unique_ptr<std::thread[]> workers_;
};

}  // namespace QUERN_ABI
}  // namespace quern
