// Fragment, compiled per target: what the other fragments share.
#include "quern/cpu/target_macros-inl.hpp"
HWY_BEFORE_NAMESPACE();
namespace quern {
inline namespace QUERN_ABI {
namespace cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
using D32 = hn::CappedTag<std::int32_t, 1>;
#else
using D32 = hn::CappedTag<std::int32_t, 16>;  // at most a panel's width
#endif
using DF = hn::RebindToFloat<D32>;
using V32 = hn::Vec<D32>;
using VF = hn::Vec<DF>;

/// x, hidden from the optimizer: see quern::unfused. The empty asm costs no instruction.
HWY_INLINE VF unfused(VF x) {
#if HWY_TARGET == HWY_EMU128 || !defined(__GNUC__)
  asm("" : "+m"(x));
#elif HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  asm("" : "+v"(x.raw));
#elif HWY_ARCH_X86
  asm("" : "+x"(x.raw));
#elif HWY_HAVE_SCALABLE || (defined(HWY_TARGET_IS_SVE) && HWY_TARGET_IS_SVE)
  asm("" : "+w"(x));
#elif HWY_ARCH_ARM_A64
  asm("" : "+w"(x.raw));
#endif
  return x;
}

}  // namespace HWY_NAMESPACE
}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
HWY_AFTER_NAMESPACE();
