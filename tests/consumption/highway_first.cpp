// Highway, and the user's own SIMD code, before quern.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace {
namespace hn = hwy::HWY_NAMESPACE;
HWY_ATTR int doubled(int x) {
  const hn::CappedTag<int, 1> d;
  const auto v = hn::Set(d, x);
  return hn::GetLane(hn::Add(v, v));
}
}  // namespace
HWY_AFTER_NAMESPACE();

#include "quern/quern.hpp"
// The order must not matter to this file, hence the distance.
#include "consumer.hpp"

int highway_first() { return doubled(21) == 42 ? consumer::run("highway_first") : 1; }
