// Instruction sets that Highway has no target for: VNNI with and without AVX-512.
#pragma once

#include "quern/config.hpp"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// Whether this CPU multiplies and adds quads of bytes: AVX512-VNNI if `wide`, else AVX-VNNI. On
/// other architectures true: there the compiled target says so. Intel SDM vol. 2A, CPUID leaf 7.
inline bool has_dot_product([[maybe_unused]] bool wide) {
#if defined(__x86_64__) || defined(__i386__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (wide) return __get_cpuid_count(7, 0, &a, &b, &c, &d) && ((c >> 11) & 1u) != 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && ((a >> 4) & 1u) != 0;
#else
  return true;
#endif
}

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
