// Opens Highway's ops for HWY_TARGET by flipping its include toggle; the static target's are open
// already. Only all_targets.hpp may include this.
#if HWY_TARGET != HWY_STATIC_TARGET
#ifdef HWY_TARGET_TOGGLE
#undef HWY_TARGET_TOGGLE
#else
#define HWY_TARGET_TOGGLE
#endif
#include "hwy/highway.h"
#endif
