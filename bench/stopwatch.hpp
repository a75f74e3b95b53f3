#pragma once

#include <time.h>

namespace bench {

/// Seconds of this thread's CPU time, which other work on the machine disturbs least, or by the
/// wall clock, which also counts the waiting of several threads. Google Benchmark would count CPU
/// time too, but print such a rate as "GMAC/s=100/s".
class Stopwatch {
 public:
  enum Kind { cpu = CLOCK_THREAD_CPUTIME_ID, wall = CLOCK_MONOTONIC };
  explicit Stopwatch(Kind kind) : kind_(kind), start_(now()) {}
  double seconds() const { return now() - start_; }

 private:
  double now() const {
    timespec t{};
    clock_gettime(kind_, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
  }

  Kind kind_;
  double start_;
};

}  // namespace bench
