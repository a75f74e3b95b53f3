#include <atomic>
#include <memory>
#include <vector>

#include "quern/core/thread_pool.hpp"
#include "support.hpp"

using namespace quern;

TEST_CASE("a pool has at least one worker, and as many as asked for") {
  CHECK(ThreadPool(0).concurrency() == 1);
  CHECK(ThreadPool(-3).concurrency() == 1);
  CHECK(ThreadPool(5).concurrency() == 5);
  CHECK(ThreadPool().concurrency() >= 1);
}

TEST_CASE("each index is called once, and everything is done when parallel_for returns") {
  for (Index threads = 1; threads <= 8; ++threads) {
    ThreadPool pool(threads);
    for (Index n : {0, 1, 2, 7, 64, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<std::size_t>(n));
      pool.parallel_for(n, [&](Index index, Index) { ++seen[static_cast<std::size_t>(index)]; });
      bool once = true;
      for (const auto& s : seen) once = once && s == 1;
      CHECK(once);
    }
  }
}

TEST_CASE("no two calls at a time have the same worker") {
  ThreadPool pool(4);
  std::atomic<bool> busy[4] = {};
  std::atomic<int> clashes{0}, spin{0};
  pool.parallel_for(2000, [&](Index, Index worker) {
    if (busy[worker].exchange(true)) ++clashes;
    for (int i = 0; i < 100; ++i) spin.fetch_add(1);  // long enough to be caught at it
    busy[worker].store(false);
  });
  CHECK(clashes == 0);
}

TEST_CASE("a pool can be used many times in a row") {
  ThreadPool pool(4);
  std::atomic<Index> sum{0};
  const Index rounds = support::scaled(5000);
  for (Index i = 0; i < rounds; ++i)
    pool.parallel_for(5, [&](Index index, Index) { sum += index; });
  CHECK(sum == 10 * rounds);
}

TEST_CASE("what a task wrote is visible to the caller, without atomics") {
  ThreadPool pool(3);
  std::vector<Index> values(500);
  for (Index round = 0; round < 100; ++round) {
    pool.parallel_for(500,
                      [&](Index i, Index) { values[static_cast<std::size_t>(i)] += i + round; });
  }
  bool right = true;
  for (Index i = 0; i < 500; ++i)
    right = right && values[static_cast<std::size_t>(i)] == 100 * i + 4950;
  CHECK(right);
}

TEST_CASE("a pool that was never used ends quietly") {
  for (int i = 0; i < 50; ++i) ThreadPool pool(3);
}

TEST_CASE("parallel_for allocates nothing") {
  ThreadPool pool(4);
  std::atomic<Index> sum{0};
  const Index before = support::allocations();
  for (int i = 0; i < 10; ++i) pool.parallel_for(100, [&](Index index, Index) { sum += index; });
  CHECK(support::allocations() == before);
  CHECK(sum == 49500);
}
