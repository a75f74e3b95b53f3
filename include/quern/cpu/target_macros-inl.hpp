// Fragment, compiled per target and family: what the target has. Macros are the target's of the
// last pass, so that every family begins with this.
#undef QUERN_FIXED_SIZE
// Vectors of unknown length cannot be array elements, and unrolled emulated ones take minutes to
// compile.
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128 || HWY_HAVE_SCALABLE || \
    (defined(HWY_TARGET_IS_SVE) && HWY_TARGET_IS_SVE)
#define QUERN_FIXED_SIZE 0
#else
#define QUERN_FIXED_SIZE 1
#endif

// Idioms, see tile-inl.hpp. Quads: u8 x s8 on x86, s8 x s8 on Arm.
#undef QUERN_HAVE_SUMS
#undef QUERN_HAVE_PROVEN
#undef QUERN_HAVE_QUADS
#if HWY_TARGET == HWY_AVX2
#define QUERN_HAVE_SUMS 1
#else
#define QUERN_HAVE_SUMS 0
#endif
#if HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128 && HWY_TARGET <= HWY_SSSE3
#define QUERN_HAVE_PROVEN 1
#else
#define QUERN_HAVE_PROVEN 0
#endif
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
#define QUERN_HAVE_QUADS 1
#elif HWY_ARCH_ARM_A64 && HWY_HAVE_SCALABLE
#define QUERN_HAVE_QUADS 1
#elif HWY_ARCH_ARM_A64 && HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR && \
    (defined(__ARM_FEATURE_DOTPROD) || (defined(HWY_NEON_BF16) && HWY_TARGET == HWY_NEON_BF16))
#define QUERN_HAVE_QUADS 1
#else
#define QUERN_HAVE_QUADS 0
#endif
