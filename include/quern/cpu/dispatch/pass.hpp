// One pass of foreach_target.hpp: compiles QUERN_TARGET_INCLUDE for QUERN_PASS_TARGET, unless that
// target is disabled, unknown to this Highway (an undefined macro is 0), or the static one, which
// comes last.
#if (HWY_TARGETS & QUERN_PASS_TARGET) && HWY_STATIC_TARGET != QUERN_PASS_TARGET
#undef HWY_TARGET
#define HWY_TARGET QUERN_PASS_TARGET
#include "hwy/ops/set_macros-inl.h"
#include QUERN_TARGET_INCLUDE
#endif
#undef QUERN_PASS_TARGET
