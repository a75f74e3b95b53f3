// What a conformance suite found.
#pragma once

#include <string>
#include <vector>

#include "quern/core/dtype.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

struct Report {
  Index problems = 0;
  Index unsupported = 0;  ///< of them: refused by supports() and by prepare(), so not run
  Index runs = 0;
  std::vector<std::string> failures;  ///< what is wrong, and how to get it again

  bool ok() const { return failures.empty(); }

  /// One line for people: "500 problems (281 not offered), 2134 runs: all right".
  std::string summary() const {
    std::string line = std::to_string(problems) + " problems";
    if (unsupported != 0) line += " (" + std::to_string(unsupported) + " not offered)";
    line += ", " + std::to_string(runs) + " runs: ";
    if (ok()) return line + "all right";
    return line + std::to_string(failures.size()) +
           (failures.size() == 1 ? " failure" : " failures");
  }
};

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
