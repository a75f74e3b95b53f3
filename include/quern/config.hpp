// Modes of use, and the inline namespace that keeps differently compiled translation units apart.
//
//   (nothing defined)         header-only, the instruction set is chosen at run time; link libhwy
//   QUERN_STATIC_DISPATCH     header-only, the instruction set your compiler flags allow; no
//   library QUERN_COMPILED            declarations only; link quern::compiled. Quick to compile.
//
// HWY_DISABLED_TARGETS, Highway's mask of targets not to compile, is respected. It must be the same
// in every translation unit of a program; CMake's QUERN_DISABLED_TARGETS sees to that.
#pragma once

#include "quern/version.hpp"

#if defined(QUERN_STATIC_DISPATCH) && defined(QUERN_COMPILED)
#error "quern: QUERN_STATIC_DISPATCH and QUERN_COMPILED exclude each other"
#endif

// Inline functions of two translation units built with different -m flags must not be merged: the
// linker would keep either, and an AVX2 body could reach a machine without AVX2. So everything
// lives in an inline namespace named after what the unit was compiled for; passing a prepared
// operation between unlike units becomes a link error. Code that does not depend on flags (the
// compiled library's interface) shares one name.
#if defined(QUERN_COMPILED)
#define QUERN_ABI compiled
#else
#include "hwy/detect_targets.h"
#define QUERN_ABI_PASTE(mode, target) mode##target
#define QUERN_ABI_NAME(mode, target) QUERN_ABI_PASTE(mode, target)
#if defined(QUERN_STATIC_DISPATCH)
#define QUERN_ABI_MODE static_
#else
#define QUERN_ABI_MODE dynamic_
#endif
#if HWY_STATIC_TARGET == HWY_SCALAR
#define QUERN_ABI QUERN_ABI_NAME(QUERN_ABI_MODE, scalar)
#elif HWY_STATIC_TARGET == HWY_EMU128
#define QUERN_ABI QUERN_ABI_NAME(QUERN_ABI_MODE, emu128)
#elif defined(HWY_SSE2) && HWY_STATIC_TARGET == HWY_SSE2
#define QUERN_ABI QUERN_ABI_NAME(QUERN_ABI_MODE, sse2)
#elif HWY_STATIC_TARGET == HWY_SSSE3
#define QUERN_ABI QUERN_ABI_NAME(QUERN_ABI_MODE, ssse3)
#elif HWY_STATIC_TARGET == HWY_SSE4
#define QUERN_ABI QUERN_ABI_NAME(QUERN_ABI_MODE, sse4)
#elif HWY_STATIC_TARGET == HWY_AVX2
#define QUERN_ABI QUERN_ABI_NAME(QUERN_ABI_MODE, avx2)
#elif HWY_STATIC_TARGET == HWY_AVX3
#define QUERN_ABI QUERN_ABI_NAME(QUERN_ABI_MODE, avx3)
#elif HWY_STATIC_TARGET == HWY_AVX3_DL
#define QUERN_ABI QUERN_ABI_NAME(QUERN_ABI_MODE, avx3_dl)
#elif HWY_STATIC_TARGET == HWY_NEON
#define QUERN_ABI QUERN_ABI_NAME(QUERN_ABI_MODE, neon)
#else
#define QUERN_ABI QUERN_ABI_NAME(QUERN_ABI_MODE, best)
#endif
#endif
