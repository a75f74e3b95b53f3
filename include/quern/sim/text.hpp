// Numbers for people.
#pragma once

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <string>

#include "quern/core/dtype.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// printf into a string.
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
inline std::string
format(const char* pattern, ...) {
  std::va_list args, again;
  va_start(args, pattern);
  va_copy(again, args);
  const int size = std::vsnprintf(nullptr, 0, pattern, args);
  va_end(args);
  std::string text(size > 0 ? static_cast<std::size_t>(size) : 0, '\0');
  std::vsnprintf(text.data(), text.size() + 1, pattern, again);
  va_end(again);
  return text;
}

/// 1234567 as "1,234,567".
inline std::string grouped(Index value) {
  std::string text = std::to_string(value);
  const std::size_t first = value < 0 ? 1 : 0;
  for (std::size_t i = text.size(); i > first + 3;) text.insert(i -= 3, 1, ',');
  return text;
}

/// 0.1234 as "12.3 %".
inline std::string percent(double share) { return format("%.1f %%", share * 100); }

/// Three digits and a decimal prefix: 91750000000000 op/s as "91.8 Top/s". From 10^18 on, and
/// below 10^-15, in powers of ten; infinity is "unlimited".
inline std::string amount(double value, const char* unit) {
  if (std::isinf(value)) return "unlimited";
  const double size = std::fabs(value);
  if (size == 0 || !(size >= 1e-15 && size < 1e18)) return format("%.3g %s", value, unit);
  constexpr const char* kPrefixes[] = {"f", "p", "n", "u", "m", "", "k", "M", "G", "T", "P"};
  double scale = 1e-15;
  std::size_t prefix = 0;
  // 999.5 would be printed as 1000.
  while (size >= 999.5 * scale && prefix + 1 < std::size(kPrefixes)) scale *= 1e3, ++prefix;
  const double scaled = size / scale;
  const int decimals = scaled < 9.995 ? 2 : scaled < 99.95 ? 1 : 0;
  return format("%.*f %s%s", decimals, value / scale, kPrefixes[prefix], unit);
}

/// A bar of up to `width` characters.
inline std::string bar(double share, int width = 30) {
  const double length = std::round(share * width);
  return std::string(length > 0 ? static_cast<std::size_t>(length < width ? length : width) : 0,
                     '#');
}

/// Spaces become line ends where lines would be longer than `width`.
inline std::string wrapped(std::string text, std::size_t width = 100) {
  std::size_t begin = 0;
  while (text.size() - begin > width) {
    const std::size_t space = text.rfind(' ', begin + width);
    if (space == text.npos || space <= begin) break;
    text[space] = '\n';
    begin = space + 1;
  }
  return text;
}

/// As "u8s8s32": the types of a, b and c in one word.
inline std::string type_names(DType a, DType b, DType c) {
  return std::string(name(a)) + name(b) + name(c);
}

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
