// The fields of a chip as text, for files, tables and comparisons: all of it follows
// for_each_field() in chip.hpp, there is no second list.
#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "quern/sim/chip.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// How far a source can be trusted; "assumption": nobody published it.
inline constexpr std::array<std::string_view, 4> kConfidences = {"high", "medium", "low",
                                                                 "assumption"};

/// A field's value as it stands in a file. Numbers read back to the same bits.
inline std::string to_text(Index value) { return std::to_string(value); }
inline std::string to_text(bool value) { return value ? "true" : "false"; }
inline std::string to_text(FoldModel value) { return '"' + std::string(name(value)) + '"'; }
inline std::string to_text(ConvDataflow value) { return '"' + std::string(name(value)) + '"'; }
inline std::string to_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char digits[40];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  std::string text(digits, end);
  // Without a point it reads as an integer, and would overflow one from 2^63 on.
  if (std::abs(value) >= 0x1p53 && text.find_first_of(".e") == text.npos) text += ".0";
  return text;
}
inline std::string to_text(const Dataflows& value) {
  std::string text = "[";
  for (const Dataflow d :
       {Dataflow::weight_stationary, Dataflow::output_stationary, Dataflow::input_stationary}) {
    if (!value.has(d)) continue;
    if (text.size() > 1) text += ", ";
    text.append(1, '"').append(name(d)).append(1, '"');
  }
  return text + "]";
}

/// A rule in words for a field of type T: "a whole number, at least 1, at most 65536".
template <class T>
std::string words(const Rule& rule) {
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_same_v<T, FoldModel>) return "\"drain\" or \"overlap\"";
  if constexpr (std::is_same_v<T, ConvDataflow>) {
    return "\"product\", \"row_stationary\" or \"channel_atoms\"";
  }
  if constexpr (std::is_same_v<T, Dataflows>) {
    return "a list of \"weight_stationary\", \"output_stationary\", \"input_stationary\"";
  }
  const char* kind = std::is_same_v<T, Index> ? "a whole number, " : "";
  return std::string(kind) + rule.words() + detail::FieldCheck::limit(rule).text;
}

struct FieldText {
  std::string_view key;
  std::string value;
  std::string rule;
  bool operator==(const FieldText&) const = default;
};

/// Every field of a chip, in the order of for_each_field().
inline std::vector<FieldText> fields(const Chip& chip) {
  std::vector<FieldText> all;
  for_each_field(chip, [&]<class T>(const char* key, const T& field, const Rule& rule) {
    all.push_back({key, to_text(field), words<T>(rule)});
  });
  return all;
}

/// Those in which it differs from Chip{}.
inline std::vector<FieldText> changed_fields(const Chip& chip) {
  const std::vector<FieldText> all = fields(chip), usual = fields(Chip{});
  std::vector<FieldText> changed;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (all[i] != usual[i]) changed.push_back(all[i]);
  }
  return changed;
}

/// The section of a key, empty for a key of the chip itself: "buffer.a" of "buffer.a.kib".
constexpr std::string_view section_of(std::string_view key) {
  const std::size_t point = key.rfind('.');
  return point == key.npos ? std::string_view() : key.substr(0, point);
}

inline bool is_field(std::string_view key) {
  bool found = false;
  static const Chip kUsual;
  for_each_field(kUsual, [&](std::string_view k, const auto&, const Rule&) { found |= k == key; });
  return found;
}

/// Is it the beginning of a field's key, up to a point? "buffer", "buffer.a".
inline bool is_section(std::string_view key) {
  bool found = false;
  static const Chip kUsual;
  for_each_field(kUsual, [&](std::string_view k, const auto&, const Rule&) {
    found |= k.size() > key.size() && k[key.size()] == '.' && k.substr(0, key.size()) == key;
  });
  return found;
}

/// The source of a field: its own, or the one of the section around it; null if there is none.
inline const Source* source_of(const Chip& chip, std::string_view key) {
  for (; !key.empty(); key = section_of(key)) {
    for (const Source& s : chip.sources) {
      if (s.key == key) return &s;
    }
  }
  return nullptr;
}

/// A table in Markdown of the fields that a chip changes or has a source for.
inline std::string to_markdown(const Chip& chip) {
  const std::vector<FieldText> all = fields(chip), usual = fields(Chip{});
  std::string text = "| key | value | source | confidence |\n| --- | --- | --- | --- |\n";
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Source* source = source_of(chip, all[i].key);
    if (all[i] == usual[i] && (source == nullptr || source->key != all[i].key)) continue;
    text.append("| `").append(all[i].key).append("` | ").append(all[i].value).append(" | ");
    if (source != nullptr) text.append(source->source).append(" | ").append(source->confidence);
    text.append(source != nullptr ? " |\n" : "unknown | none |\n");
  }
  return text;
}

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
