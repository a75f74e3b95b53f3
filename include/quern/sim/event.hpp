// What happens on a chip, for traces.
#pragma once

#include <functional>

#include "quern/core/dtype.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// Something a unit did, in cycles from the beginning: for traces.
struct Event {
  enum class Unit : std::uint8_t { array, dma, vector, link };

  Unit unit = Unit::array;
  Index die = 0;
  const char* what = "";      ///< "multiply", "load a", "epilogue", ...
  Index product = 0;          ///< of the batch
  Index m = 0, n = 0, k = 0;  ///< first row, column and term of the tile
  Index begin = 0, end = 0;
};
constexpr const char* name(Event::Unit u) {
  constexpr const char* kNames[] = {"array", "dma", "vector", "link"};
  return kNames[static_cast<std::uint8_t>(u)];
}
using Trace = std::function<void(const Event&)>;

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
