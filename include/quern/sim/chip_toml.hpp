// Chips as files. Needs toml++ 3 (Debian: libtomlplusplus-dev), and only this header does:
//
//   name = "edge16"
//   [array]
//   rows = 16
//   dataflows = ["weight_stationary"]
//   [buffer.a]
//   kib = 128
//   [source]
//   "array.rows" = "data sheet, page 3; high"
//
// The keys are those of for_each_field(); what a file leaves out stays as in Chip{}. Whatever
// cannot be meant is refused with file, line and column: unknown keys, wrong types, values against
// the rules. docs/chips.md lists all keys.
#pragma once

#include <algorithm>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <toml++/toml.h>

#include "quern/sim/chip_fields.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

// toml++ throws or returns its syntax errors as the program has set it up (TOML_EXCEPTIONS), and
// so that quern does not decide that for everybody, both work. Units that differ must not share
// these functions: hence a namespace for each.
#if TOML_EXCEPTIONS
inline namespace toml_throws {
#else
inline namespace toml_returns {
#endif

namespace chip_file {

/// The number of letters to insert, delete or replace to get from one word to the other.
inline std::size_t edits(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j < row.size(); ++j) {
      const std::size_t replace = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replace, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

/// "; did you mean array.rows?", or nothing when no key or section is near. A key whose section
/// was forgotten or mistaken is found too.
inline std::string suggestion(std::string_view key) {
  key = key.substr(0, 64);
  std::string best;
  std::size_t least = 1 + std::max<std::size_t>(2, key.size() / 3);
  const auto consider = [&](std::string_view known) {
    std::size_t distance = edits(key, known);
    const std::string_view section = section_of(known);
    if (!section.empty()) {
      const std::string_view last =
          key.substr(section_of(key).size() + (key.find('.') != key.npos));
      distance = std::min(distance, 1 + edits(last, known.substr(section.size() + 1)));
    }
    if (distance >= least) return;
    least = distance;
    best = known;
  };
  for (const std::string_view known : {"name", "source"}) consider(known);
  for (const FieldText& f : fields(Chip{})) {
    consider(f.key);
    for (auto s = section_of(f.key); !s.empty(); s = section_of(s)) consider(s);
  }
  return best.empty() ? best : "; did you mean " + best + "?";
}

class ChipReader {
 public:
  explicit ChipReader(std::string_view file_name) : file_(file_name) {
    // The end of a path says most, and the message has 223 characters.
    if (file_.size() > 60) file_.replace(0, file_.size() - 57, "...");
  }

  Result<Chip> read(std::string_view text) {
    // Tables nest as deep as keys have points, and toml++ walks them recursively: with enough of
    // them it would run out of stack.
    const auto points = std::count(text.begin(), text.end(), '.');
    if (points > kMostPoints) {
      return Error::make(Code::bad_value, "%s: it has %lld points; a chip's file has at most %lld",
                         file_.c_str(), static_cast<long long>(points),
                         static_cast<long long>(kMostPoints));
    }
#if TOML_EXCEPTIONS
    try {
      return read(toml::parse(text));
    } catch (const toml::parse_error& e) {
      return syntax_error(e);
    }
#else
    const toml::parse_result parsed = toml::parse(text);
    return parsed ? read(parsed.table()) : syntax_error(parsed.error());
#endif
  }

  const std::string& file() const { return file_; }

 private:
  static constexpr std::ptrdiff_t kMostPoints = 2000;

  struct Entry {
    std::string key;
    const toml::node* value;
    toml::source_position at;
  };

  Result<Chip> read(const toml::table& root) {
    collect(root, "");
    for_each_field(chip_, [this](std::string_view key, auto& field, const Rule& rule) {
      if (const Entry* e = find(key)) assign(*e, field, rule);
    });
    if (const Entry* e = find("name")) assign_name(*e);
    if (const Entry* e = find("source")) assign_sources(*e);
    if (error_) return error_;
    if (const Error error = validate(chip_)) return at_culprit(error);
    return std::move(chip_);
  }

  /// Entries of known keys, in entries_; anything else is an error.
  void collect(const toml::table& table, const std::string& section) {
    for (const auto& [name, value] : table) {
      const std::string key =
          section.empty() ? std::string(name.str()) : section + "." + std::string(name.str());
      if (is_field(key) || key == "name" || key == "source") {
        if (find(key)) fail(name.source().begin, key + " is given twice");
        entries_.push_back({key, &value, value.source().begin});
      } else if (!is_section(key)) {
        fail(name.source().begin, "there is no key " + key.substr(0, 64) + suggestion(key));
      } else if (!value.is_table()) {
        fail(value.source().begin, key + " is " + kind(value) + "; it must be a section");
      } else {
        collect(*value.as_table(), key);
      }
    }
  }

  const Entry* find(std::string_view key) const {
    const auto e = std::find_if(entries_.begin(), entries_.end(),
                                [&](const Entry& entry) { return entry.key == key; });
    return e == entries_.end() ? nullptr : &*e;
  }

  template <class T>
  void assign(const Entry& e, T& field, const Rule& rule) {
    if constexpr (std::is_same_v<T, Dataflows>) {
      assign_dataflows(e, field);
    } else if constexpr (std::is_same_v<T, FoldModel>) {
      const auto text = e.value->template value_exact<std::string_view>();
      const bool drain = text == name(FoldModel::drain);
      if (!drain && text != name(FoldModel::overlap)) return refuse<T>(e, rule);
      field = drain ? FoldModel::drain : FoldModel::overlap;
    } else if constexpr (std::is_same_v<T, ConvDataflow>) {
      const auto text = e.value->template value_exact<std::string_view>();
      const auto* found = std::find_if(std::begin(kConvDataflows), std::end(kConvDataflows),
                                       [&](ConvDataflow d) { return text == name(d); });
      if (found == std::end(kConvDataflows)) return refuse<T>(e, rule);
      field = *found;
    } else if constexpr (std::is_same_v<T, bool>) {
      const auto flag = e.value->template value_exact<bool>();
      if (!flag) return refuse<T>(e, rule);
      field = *flag;
    } else {
      // A whole number can stand for any; 16.0 is not a number of rows.
      const auto whole = e.value->template value_exact<std::int64_t>();
      const auto real = e.value->template value_exact<double>();
      if (!whole && (!real || std::is_same_v<T, Index>)) return refuse<T>(e, rule);
      const T v = whole ? static_cast<T>(*whole) : static_cast<T>(*real);
      if (!rule.allows(static_cast<double>(v))) return refuse<T>(e, rule);
      field = v;
    }
  }

  void assign_dataflows(const Entry& e, Dataflows& field) {
    const toml::array* list = e.value->as_array();
    if (list == nullptr) return refuse<Dataflows>(e, {});
    field = {false, false, false};
    for (const toml::node& item : *list) {
      const auto text = item.value_exact<std::string_view>();
      if (text == name(Dataflow::weight_stationary)) {
        field.weight_stationary = true;
      } else if (text == name(Dataflow::output_stationary)) {
        field.output_stationary = true;
      } else if (text == name(Dataflow::input_stationary)) {
        field.input_stationary = true;
      } else {
        refuse<Dataflows>({e.key, &item, item.source().begin}, {});
      }
    }
  }

  void assign_name(const Entry& e) {
    if (const auto text = e.value->value_exact<std::string>()) {
      chip_.name = *text;
    } else {
      fail(e.at, "name is " + kind(*e.value) + "; it must be a string");
    }
  }

  void assign_sources(const Entry& e) {
    const toml::table* table = e.value->as_table();
    if (table == nullptr)
      return fail(e.at, "source is " + kind(*e.value) + "; it must be a section");
    std::vector<Entry> found;
    collect_sources(*table, "", found);
    // toml++ has them in the order of the alphabet.
    std::sort(found.begin(), found.end(), [](const Entry& a, const Entry& b) {
      return a.at.line != b.at.line ? a.at.line < b.at.line : a.at.column < b.at.column;
    });
    for (const Entry& s : found) assign_source(s);
  }

  /// array.rows = "..." stands for "array.rows" = "...".
  void collect_sources(const toml::table& table, const std::string& section,
                       std::vector<Entry>& found) {
    for (const auto& [name, value] : table) {
      const std::string key =
          section.empty() ? std::string(name.str()) : section + "." + std::string(name.str());
      if (!is_field(key) && !is_section(key)) {
        fail(name.source().begin, "source: there is no key " + key.substr(0, 64) + suggestion(key));
      } else if (value.is_table() && is_section(key)) {
        collect_sources(*value.as_table(), key, found);
      } else {
        found.push_back({key, &value, value.source().begin});
      }
    }
  }

  void assign_source(const Entry& e) {
    const auto text = e.value->value_exact<std::string_view>();
    if (!text)
      return fail(e.at, "source of " + e.key + " is " + kind(*e.value) + "; it must be a string");
    for (const Source& s : chip_.sources) {
      if (s.key == e.key) return fail(e.at, "source of " + e.key + " is given twice");
    }
    const std::size_t mark = text->rfind(';');
    std::string_view confidence = mark == text->npos ? "" : text->substr(mark + 1);
    while (confidence.starts_with(' ')) confidence.remove_prefix(1);
    while (confidence.ends_with(' ')) confidence.remove_suffix(1);
    if (std::find(kConfidences.begin(), kConfidences.end(), confidence) == kConfidences.end()) {
      return fail(e.at,
                  "source of " + e.key +
                      " must end with \"; high\", \"; medium\", \"; low\" or \"; assumption\"");
    }
    chip_.sources.push_back({e.key, std::string(text->substr(0, mark)), std::string(confidence)});
  }

  template <class T>
  void refuse(const Entry& e, const Rule& rule) {
    const bool whole = std::is_same_v<T, Index> && e.value->is_integer();  // but too small, large
    fail(e.at, e.key + " is " + shown(*e.value) + "; it must be " +
                   (whole ? words<double>(rule) : words<T>(rule)));
  }

  /// A number or word itself, the kind of anything larger.
  static std::string shown(const toml::node& node) {
    if (const auto v = node.value_exact<std::int64_t>()) return std::to_string(*v);
    if (const auto v = node.value_exact<double>()) {
      const std::string text = to_text(*v);
      return text.find_first_not_of("-0123456789") == text.npos ? text + ".0" : text;
    }
    if (const auto v = node.value_exact<bool>()) return to_text(*v);
    const auto v = node.value_exact<std::string_view>();
    return v && v->size() <= 32 ? '"' + std::string(*v) + '"' : kind(node);
  }

  static std::string kind(const toml::node& node) {
    if (node.is_table()) return "a section";
    if (node.is_array()) return "a list";
    if (node.is_string()) return "a string";
    if (node.is_boolean()) return "true or false";
    return node.is_number() ? "a number" : "a date or time";
  }

  /// Keeps the error that comes first in the file.
  void fail(const toml::source_position& at, const std::string& what) {
    if (error_ && (first_.line != at.line ? first_.line < at.line : first_.column <= at.column)) {
      return;
    }
    first_ = at;
    error_ = error_at(at, what);
  }

  Error error_at(const toml::source_position& at, std::string_view what) const {
    return Error::make(Code::bad_value, "%s:%u:%u: %.*s", file_.c_str(), unsigned(at.line),
                       unsigned(at.column), static_cast<int>(what.size()), what.data());
  }

  Error syntax_error(const toml::parse_error& e) const {
    return error_at(e.source().begin, e.description());
  }

  /// The error of a whole chip, at the entry that it names.
  Error at_culprit(const Error& error) const {
    const std::string_view what = error.what();
    const Entry* culprit = nullptr;
    std::size_t longest = 0;
    for (const Entry& e : entries_) {
      for (std::string_view key = e.key; key.size() > longest; key = section_of(key)) {
        if (what.find(key) == what.npos) continue;
        longest = key.size();
        culprit = &e;
      }
    }
    if (culprit != nullptr) return error_at(culprit->at, what);
    return Error::make(error.code(), "%s: %s", file_.c_str(), error.what());
  }

  std::string file_;
  std::vector<Entry> entries_;
  Chip chip_;
  Error error_;
  toml::source_position first_ = {};
};

/// Text in quotes, as TOML wants it.
inline std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out.append(1, '\\').append(1, c);
    } else if (code < 0x20 || code == 0x7F) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04X", unsigned(code));
      out += escape;
    } else {
      out += c;
    }
  }
  return out + '"';
}

}  // namespace chip_file

/// A chip from the text of a file; `file_name` is what errors call it: "edge16.toml:7:8: array.rows
/// is -4; it must be at least 1, at most 65536". The chip passes validate().
inline Result<Chip> chip_from_toml(std::string_view text, std::string_view file_name = "chip") {
  return chip_file::ChipReader(file_name).read(text);
}

/// A chip from a file. Code::bad_data when it cannot be read.
inline Result<Chip> load_chip(const std::string& path) {
  chip_file::ChipReader reader(path);
  std::string text;
  bool complete = false;
  if (std::FILE* in = std::fopen(path.c_str(), "rb")) {
    char piece[4096];
    for (std::size_t n = 1; n != 0; text.append(piece, n))
      n = std::fread(piece, 1, sizeof piece, in);
    complete = std::ferror(in) == 0;
    std::fclose(in);
  }
  if (!complete) {
    return Error::make(Code::bad_data, "%s: the file cannot be read", reader.file().c_str());
  }
  return reader.read(text);
}

/// A file that chip_from_toml() reads back as the same chip, if the chip passes validate(), its
/// texts are UTF-8 and its sources are of different keys. It has what differs from Chip{}.
inline std::string to_toml(const Chip& chip) {
  std::string text;
  if (chip.name != Chip{}.name) text += "name = " + chip_file::quoted(chip.name) + "\n";
  std::vector<FieldText> changed = changed_fields(chip);
  // A section is written in one piece, wherever its keys are in the list; the chip's own come
  // first.
  std::vector<std::string_view> sections = {""};
  for (const FieldText& f : changed) {
    const std::string_view s = section_of(f.key);
    if (std::find(sections.begin(), sections.end(), s) == sections.end()) sections.push_back(s);
  }
  for (const std::string_view section : sections) {
    if (!section.empty()) text.append(text.empty() ? "[" : "\n[").append(section).append("]\n");
    for (const FieldText& f : changed) {
      if (section_of(f.key) != section) continue;
      text.append(f.key.substr(section.empty() ? 0 : section.size() + 1));
      text.append(" = ").append(f.value).append("\n");
    }
  }
  if (!chip.sources.empty()) text += text.empty() ? "[source]\n" : "\n[source]\n";
  for (const Source& s : chip.sources) {
    text +=
        chip_file::quoted(s.key) + " = " + chip_file::quoted(s.source + "; " + s.confidence) + "\n";
  }
  return text;
}

}  // inline namespace toml_throws or toml_returns
}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
