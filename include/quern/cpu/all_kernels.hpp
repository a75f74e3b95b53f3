// kernels_for(): the Kernels of the best allowed target. In compiled mode only declared here, and
// defined by the quern::compiled library, so that nothing of Highway is included.
#pragma once

#include <cstdint>

#include "quern/cpu/kernels.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// The targets compiled in that this CPU can run, one bit each; a lower bit is a better target.
std::int64_t runnable_targets();
/// The kernels for the best of `targets`, a subset of runnable_targets(). Of a target that uses
/// dot-product instructions where the CPU has them: those with them if `dot`, else those without.
const Kernels& kernels_for(std::int64_t targets, bool dot);

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern

#if !defined(QUERN_COMPILED) || defined(QUERN_COMPILED_BUILD)

#include <cmath>
#include <cstring>
#include <utility>

#include "quern/cpu/dispatch/all_targets.hpp"
#include "quern/cpu/dispatch/cpu_features.hpp"

#define QUERN_TARGET_INCLUDE "quern/cpu/kernels-inl.hpp"
#include "quern/cpu/dispatch/foreach_target.hpp"

// Compiled mode's definitions must be emitted; elsewhere they are inline.
#if defined(QUERN_COMPILED_BUILD)
#define QUERN_DEFINITION
#else
#define QUERN_DEFINITION inline
#endif

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

QUERN_DEFINITION std::int64_t runnable_targets() {
#if defined(QUERN_STATIC_DISPATCH)
  return HWY_STATIC_TARGET;
#else
  return (hwy::SupportedTargets() | HWY_STATIC_TARGET) & HWY_TARGETS;
#endif
}

QUERN_DEFINITION const Kernels& kernels_for(std::int64_t targets, bool dot) {
  const auto get = QUERN_DISPATCH(kernels, targets);
  return *get(dot);
}

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern

#endif
