// Highway with the ops of every enabled target open, and QUERN_DISPATCH to pick a function by
// target. With foreach_target.hpp, pass.hpp and ops-inl.hpp, the only places that deal with
// Highway's include mechanics.
#pragma once

#if defined(HWY_ONCE) && !HWY_ONCE
#error "quern: within a pass of hwy/foreach_target.h, include quern after HWY_ONCE has become true"
#endif

#include <cstddef>
#include <cstdint>

#include "quern/config.hpp"
#include "hwy/highway.h"

// Before a loop with a constant count: its arrays become registers.
#if defined(__clang__)
#define QUERN_UNROLL _Pragma("clang loop unroll(full)")
#else
#define QUERN_UNROLL _Pragma("GCC unroll 16")
#endif

// Lambdas lose the target attribute of the function around them, and inlining with it.
#define QUERN_LAMBDA HWY_ATTR __attribute__((always_inline))

#if !defined(QUERN_STATIC_DISPATCH) && !defined(HIGHWAY_HWY_FOREACH_TARGET_H_)
#define QUERN_TARGET_INCLUDE "quern/cpu/dispatch/ops-inl.hpp"
#include "quern/cpu/dispatch/foreach_target.hpp"
#ifdef HWY_TARGET_TOGGLE  // leave the state that a plain #include of highway.h leaves
#undef HWY_TARGET_TOGGLE
#define HWY_HIGHWAY_PER_TARGET
#endif
#endif

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

// QUERN_DISPATCH(F, targets): a pointer to F compiled for the best of `targets`. F is a function's
// name in namespace quern::cpu::N_<target>.
#if defined(QUERN_STATIC_DISPATCH) || (HWY_TARGETS & (HWY_TARGETS - 1)) == 0
#define QUERN_DISPATCH(F, targets) (static_cast<void>(targets), &HWY_STATIC_DISPATCH(F))
#else
#define QUERN_DISPATCH(F, targets)                                   \
  ([](std::int64_t allowed) {                                        \
    static constexpr decltype(&HWY_STATIC_DISPATCH(F)) kTable[] = {  \
        nullptr, HWY_CHOOSE_TARGET_LIST(F), HWY_CHOOSE_FALLBACK(F)}; \
    hwy::ChosenTarget chosen;                                        \
    chosen.Update(allowed);                                          \
    return kTable[chosen.GetIndex()];                                \
  }(targets))
#endif

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
