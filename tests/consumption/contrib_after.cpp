// Highway's contrib headers, and SIMD code that uses them, after quern.
#include "quern/quern.hpp"

#include <hwy/highway.h>
#include <hwy/contrib/algo/transform-inl.h>
#include <hwy/contrib/math/math-inl.h>

#include "consumer.hpp"

HWY_BEFORE_NAMESPACE();
namespace {
namespace hn = hwy::HWY_NAMESPACE;
HWY_ATTR float exp_of_zero() {
  const hn::CappedTag<float, 1> d;
  return hn::GetLane(hn::Exp(d, hn::Zero(d)));
}
}  // namespace
HWY_AFTER_NAMESPACE();

int contrib_after() { return exp_of_zero() == 1.0f ? consumer::run("contrib_after") : 1; }
