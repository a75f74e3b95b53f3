#include <vector>

#include "quern/core/executor.hpp"
#include "quern/core/thread_pool.hpp"
#include "quern/testing/conformance.hpp"
#include "support.hpp"

using namespace quern;

namespace {

/// How often each index and each worker came by.
struct Visits {
  std::vector<int> indices, workers;
};
Visits visits(Parallel parallel, Index n) {
  Visits v{std::vector<int>(static_cast<std::size_t>(n)),
           std::vector<int>(static_cast<std::size_t>(parallel.concurrency()))};
  parallel(n, [&](Index index, Index worker) {
    ++v.indices[static_cast<std::size_t>(index)];
    ++v.workers[static_cast<std::size_t>(worker)];
  });
  return v;
}

}  // namespace

TEST_CASE("the executors are Executors, and other things are not") {
  static_assert(Executor<Serial> && Executor<const Serial> && Executor<ThreadPool>);
  static_assert(Executor<quern::testing::Backwards>);
  static_assert(!Executor<int> && !Executor<std::vector<int>>);
}

TEST_CASE("Parallel is serial unless given an executor") {
  const Parallel parallel;
  CHECK(parallel.concurrency() == 1);
  std::vector<Index> order;
  parallel(4, [&](Index index, Index worker) {
    CHECK(worker == 0);
    order.push_back(index);
  });
  CHECK(order == std::vector<Index>{0, 1, 2, 3});
}

TEST_CASE("Parallel calls each index once, whatever the executor") {
  const quern::testing::Backwards backwards;
  ThreadPool pool(3);
  const Serial serial;
  for (const Parallel& parallel : {Parallel(backwards), Parallel(serial)}) {
    for (const Index n : {Index{0}, Index{1}, Index{100}}) {
      CHECK(visits(parallel, n).indices == std::vector<int>(static_cast<std::size_t>(n), 1));
    }
  }
  CHECK(Parallel(pool).concurrency() == 3);
  CHECK(Parallel(backwards).concurrency() == 5);
  CHECK(visits(backwards, 100).workers == std::vector<int>(5, 20));
}

TEST_CASE("a view of a Parallel is that Parallel") {
  const quern::testing::Backwards backwards{2};
  Parallel parallel(backwards);
  const Parallel copy(parallel);
  CHECK(copy.concurrency() == 2);
}

TEST_CASE("running through a Parallel allocates nothing") {
  const Serial serial;
  Index sum = 0;
  const Index before = support::allocations();
  Parallel parallel(serial);
  parallel(10, [&](Index index, Index) { sum += index; });
  CHECK(support::allocations() == before);
  CHECK(sum == 45);
}

#if defined(_OPENMP)
TEST_CASE("OpenMP calls each index once, from workers that exist") {
  const OpenMP openmp{4};
  std::vector<int> seen(1000), worker_of(1000);
  Parallel parallel(openmp);
  parallel(1000, [&](Index index, Index worker) {
    ++seen[static_cast<std::size_t>(index)];
    worker_of[static_cast<std::size_t>(index)] = static_cast<int>(worker);
  });
  CHECK(seen == std::vector<int>(1000, 1));
  for (const int w : worker_of) CHECK((w >= 0 && w < 4));
}
#endif
