// What the tests share.
#pragma once

#include <cstdlib>
#include <ostream>
#include <string>
#include <string_view>

#include <doctest/doctest.h>

#include "quern/core/dtype.hpp"
#include "quern/core/error.hpp"

// So that a failing check shows them.
namespace quern {
inline std::ostream& operator<<(std::ostream& out, Code code) { return out << name(code); }
inline std::ostream& operator<<(std::ostream& out, const Error& error) {
  return out << error.code() << " '" << error.what() << "'";
}
}  // namespace quern

namespace support {

/// How many random cases to try: `count`, times QUERN_TEST_SCALE when that is set ("0.1", "20").
inline quern::Index scaled(quern::Index count) {
  const char* text = std::getenv("QUERN_TEST_SCALE");
  const double scaled = static_cast<double>(count) * (text == nullptr ? 1.0 : std::atof(text));
  return scaled < 1.0 ? 1 : static_cast<quern::Index>(scaled);
}

/// Calls of operator new in this program so far, of any form and from any thread; in main.cpp.
quern::Index allocations();

/// Does the message mention this?
inline bool says(const quern::Error& error, std::string_view text) {
  return std::string_view(error.what()).find(text) != std::string_view::npos;
}

}  // namespace support
