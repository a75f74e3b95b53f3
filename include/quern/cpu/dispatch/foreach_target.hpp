// Compiles the fragment QUERN_TARGET_INCLUDE once per enabled SIMD target, the static target last.
// No include guard: each family of kernels includes it once.
//
// Highway's own foreach_target.h works once per translation unit, and not after the user's
// highway.h; this loop has neither limit, because it changes HWY_TARGET without touching Highway's
// include toggle: the ops of every target were opened once, by all_targets.hpp.
#if !defined(QUERN_STATIC_DISPATCH)
#define QUERN_PASS_TARGET HWY_SSE2
#include "quern/cpu/dispatch/pass.hpp"
#define QUERN_PASS_TARGET HWY_SSSE3
#include "quern/cpu/dispatch/pass.hpp"
#define QUERN_PASS_TARGET HWY_SSE4
#include "quern/cpu/dispatch/pass.hpp"
#define QUERN_PASS_TARGET HWY_AVX2
#include "quern/cpu/dispatch/pass.hpp"
#define QUERN_PASS_TARGET HWY_AVX3
#include "quern/cpu/dispatch/pass.hpp"
#define QUERN_PASS_TARGET HWY_AVX3_DL
#include "quern/cpu/dispatch/pass.hpp"
#define QUERN_PASS_TARGET HWY_AVX3_ZEN4
#include "quern/cpu/dispatch/pass.hpp"
#define QUERN_PASS_TARGET HWY_AVX3_SPR
#include "quern/cpu/dispatch/pass.hpp"
#define QUERN_PASS_TARGET HWY_AVX10_2
#include "quern/cpu/dispatch/pass.hpp"
#define QUERN_PASS_TARGET HWY_NEON_WITHOUT_AES
#include "quern/cpu/dispatch/pass.hpp"
#define QUERN_PASS_TARGET HWY_NEON
#include "quern/cpu/dispatch/pass.hpp"
#define QUERN_PASS_TARGET HWY_NEON_BF16
#include "quern/cpu/dispatch/pass.hpp"
#define QUERN_PASS_TARGET HWY_SVE
#include "quern/cpu/dispatch/pass.hpp"
#define QUERN_PASS_TARGET HWY_SVE2
#include "quern/cpu/dispatch/pass.hpp"
#define QUERN_PASS_TARGET HWY_SVE_256
#include "quern/cpu/dispatch/pass.hpp"
#define QUERN_PASS_TARGET HWY_SVE2_128
#include "quern/cpu/dispatch/pass.hpp"
#define QUERN_PASS_TARGET HWY_RVV
#include "quern/cpu/dispatch/pass.hpp"
#define QUERN_PASS_TARGET HWY_EMU128
#include "quern/cpu/dispatch/pass.hpp"
#define QUERN_PASS_TARGET HWY_SCALAR
#include "quern/cpu/dispatch/pass.hpp"
#endif
#undef HWY_TARGET
#define HWY_TARGET HWY_STATIC_TARGET
#include "hwy/ops/set_macros-inl.h"
#include QUERN_TARGET_INCLUDE
#undef QUERN_TARGET_INCLUDE
