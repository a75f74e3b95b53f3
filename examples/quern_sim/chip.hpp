// The chip that the options ask for.
#pragma once

#include <string>
#include <string_view>

#include "options.hpp"
#include "quern/sim/presets.hpp"

// Files need toml++; without it everything else works.
#if __has_include(<toml++/toml.h>) && !defined(QUERN_SIM_WITHOUT_TOML)
#include "quern/sim/chip_toml.hpp"
#define QUERN_SIM_HAS_TOML 1
#else
#define QUERN_SIM_HAS_TOML 0
#endif

namespace tool {

namespace sim = quern::sim;

#if QUERN_SIM_HAS_TOML
inline Result<sim::Chip> read_chip(const std::string& path) { return sim::load_chip(path); }
inline Result<std::string> chip_file(const sim::Chip& chip) { return sim::to_toml(chip); }
#else
inline Error no_toml() {
  return Error::make(Code::unsupported,
                     "this quern_sim was built without toml++ and neither reads nor writes chips' "
                     "files; --preset and --array work");
}
inline Result<sim::Chip> read_chip(const std::string&) { return no_toml(); }
inline Result<std::string> chip_file(const sim::Chip&) { return no_toml(); }
#endif

/// "16x32".
inline Error set_array(sim::Chip& chip, std::string_view text) {
  const auto parts = split(text, 'x');
  if (parts.size() == 2 && parse_index(parts[0], 1, 65536, &chip.array.rows) &&
      parse_index(parts[1], 1, 65536, &chip.array.columns)) {
    return {};
  }
  return bad("an array is RxC, two whole numbers from 1 to 65536, not '%.60s'",
             std::string(text).c_str());
}

inline Error set_dataflow(sim::Chip& chip, std::string_view text) {
  const std::string full = full_dataflow(text);
  for (const auto d : {sim::Dataflow::weight_stationary, sim::Dataflow::output_stationary,
                       sim::Dataflow::input_stationary}) {
    if (full != name(d)) continue;
    chip.array.dataflows = sim::Dataflows::only(d);
    return {};
  }
  return bad("a dataflow is ws, os or is, not '%.60s'", std::string(text).c_str());
}

inline bool parse_field(std::string_view text, Index& field, const sim::Rule& rule) {
  return parse_index(text, INT64_MIN, INT64_MAX, &field) && rule.allows(static_cast<double>(field));
}
inline bool parse_field(std::string_view text, double& field, const sim::Rule& rule) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, field);
  return error == std::errc() && stop == end && rule.allows(field);
}
inline bool parse_field(std::string_view text, bool& field, const sim::Rule&) {
  field = text == "true" || text == "1";
  return field || text == "false" || text == "0";
}
inline bool parse_field(std::string_view text, sim::FoldModel& field, const sim::Rule&) {
  field = text == "drain" ? sim::FoldModel::drain : sim::FoldModel::overlap;
  return text == name(field);
}
inline bool parse_field(std::string_view text, sim::ConvDataflow& field, const sim::Rule&) {
  for (const sim::ConvDataflow d : sim::kConvDataflows) {
    if (text != name(d)) continue;
    field = d;
    return true;
  }
  return false;
}

/// Any field of a chip by its key; `array` and `dataflow` for short.
inline Error set_field(sim::Chip& chip, const Change& change) {
  if (change.key == "array") return set_array(chip, change.value);
  if (change.key == "dataflow" || change.key == "array.dataflows") {
    return set_dataflow(chip, change.value);
  }
  if (!sim::is_field(change.key)) {
    return bad("there is no key %.60s; docs/chips.md lists them, and array and dataflow exist",
               change.key.c_str());
  }
  Error error;
  sim::for_each_field(chip, [&]<class T>(const char* key, T& field, const sim::Rule& rule) {
    if constexpr (!std::is_same_v<T, sim::Dataflows>) {
      if (change.key != key || parse_field(change.value, field, rule)) return;
      error = bad("%s is %s, not '%.40s'", key, sim::words<T>(rule).c_str(), change.value.c_str());
    }
  });
  // Nothing can be loaded beside a fold that drains; the change that was asked for wins.
  if (change.key == "array.fold_model" && change.value == "drain") chip.array.preload = false;
  return error;
}

/// Checked: validate(chip) passed.
inline Result<sim::Chip> chip_of(const Options& o) {
  Result<sim::Chip> read = !o.file.empty()     ? read_chip(o.file)
                           : !o.preset.empty() ? sim::preset(o.preset)
                                               : Result<sim::Chip>(sim::Chip{});
  if (!read) return read.error();
  sim::Chip chip = std::move(*read);
  if (!o.array.empty()) {
    chip.name = o.array;
    if (Error e = set_array(chip, o.array)) return e;
  }
  for (const Change& c : o.changes) {
    if (Error e = set_field(chip, c)) return e;
  }
  if (o.ideal_memory) chip = with_ideal_memory(std::move(chip));
  if (Error e = validate(chip)) return e;
  return chip;
}

}  // namespace tool
