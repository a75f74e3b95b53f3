// Chips that validate() accepts, with any value that any field may have.
#pragma once

#include <cmath>
#include <string>

#include "quern/sim/chip_fields.hpp"
#include "quern/testing/random.hpp"

namespace support {

inline double random_number(quern::testing::Random& random, const quern::sim::Rule& rule) {
  if (rule.most == quern::sim::kUnlimited && random.one_in(4)) return rule.most;
  if (random.one_in(8) && std::isfinite(rule.most) && rule.allows(rule.most)) return rule.most;
  for (;;) {  // any magnitude, all bits of the significand
    const double x =
        std::ldexp(static_cast<double>(random.bits()), static_cast<int>(random.between(-100, 20)));
    if (rule.allows(x)) return x;
  }
}

inline std::string random_text(quern::testing::Random& random) {
  std::string text;
  for (quern::Index n = random.between(0, 20); n > 0; --n) {
    text +=
        random.one_in(8) ? "\xC3\xA4" : std::string(1, static_cast<char>(random.between(0, 127)));
  }
  return text;
}

/// Each field keeps its default with the same chance as it changes.
inline quern::sim::Chip random_chip(quern::testing::Random& random) {
  using namespace quern::sim;
  Chip chip;
  chip.name = random_text(random);
  for_each_field(chip, [&]<class T>(const char* key, T& field, const Rule& rule) {
    if (random.one_in(2)) return;
    if constexpr (std::is_same_v<T, bool>) {
      field = random.one_in(2);
    } else if constexpr (std::is_same_v<T, FoldModel>) {
      field = random.one_in(2) ? FoldModel::drain : FoldModel::overlap;
    } else if constexpr (std::is_same_v<T, ConvDataflow>) {
      field = kConvDataflows[random.between(0, 2)];
    } else if constexpr (std::is_same_v<T, Dataflows>) {
      field = {random.one_in(2), random.one_in(2), random.one_in(2)};
    } else if constexpr (std::is_same_v<T, quern::Index>) {
      const quern::Index least = rule.allows(0) ? 0 : 1;
      field = random.between(least, random.one_in(2) ? 1 : static_cast<quern::Index>(rule.most));
    } else {
      field = random_number(random, rule);
    }
    if (random.one_in(2)) {
      chip.sources.push_back({key, random_text(random),
                              std::string(random.pick({"high", "medium", "low", "assumption"}))});
    }
  });
  if (chip.array.dataflows == Dataflows{false, false, false}) chip.array.dataflows = {};
  if (chip.array.fold_model == FoldModel::drain) chip.array.preload = false;
  if (chip.array.conv.dataflow != ConvDataflow::product) chip.array.count = chip.dies = 1;
  chip.array.cycles_per_mac.f32 |= 1;
  return chip;
}

}  // namespace support
