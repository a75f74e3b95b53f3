// Writing JSON. Whatever is put in, the text is valid: numbers that JSON does not have become null,
// bytes that are not UTF-8 become U+FFFD.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>

#include "quern/core/dtype.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

namespace detail {

/// Bytes of the UTF-8 sequence at the beginning of the text; 0 if there is none.
inline std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const unsigned first = byte(0), second = byte(1);
  if (first < 0x80) return 1;
  const std::size_t length = first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (length == 0 || first > 0xF4) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, beyond U+10FFFF.
  const bool wrong = (first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ||
                     (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F);
  return wrong ? 0 : length;
}

}  // namespace detail

/// A value and its members, one after the other:
///   Json json;
///   json.object().member("cycles", 5).key("tile").array().value(1).value(2).end().end();
class Json {
 public:
  enum class Layout : std::uint8_t { indented, compact };
  explicit Json(Layout layout = Layout::indented) : layout_(layout) {}

  Json& object() { return open('{', '}'); }
  Json& array() { return open('[', ']'); }
  /// Closes the innermost object or array.
  Json& end() {
    const char bracket = closing_.back();
    closing_.pop_back();
    if (!empty_) line();
    text_ += bracket;
    empty_ = false;
    return *this;
  }
  Json& key(std::string_view name) {
    separate();
    quote(name);
    text_ += ": ";
    after_key_ = true;
    return *this;
  }

  Json& value(std::string_view text) {
    separate();
    quote(text);
    return *this;
  }
  Json& value(const char* text) { return value(std::string_view(text)); }
  Json& value(Index number) { return raw(std::to_string(number)); }
  Json& value(int number) { return raw(std::to_string(number)); }
  Json& value(bool flag) { return raw(flag ? "true" : "false"); }
  /// In full: it reads back to the same bits.
  Json& value(double number) {
    if (!std::isfinite(number)) return raw("null");
    char digits[40];
    return raw({digits, std::to_chars(digits, digits + sizeof digits, number).ptr});
  }

  template <class T>
  Json& member(std::string_view name, const T& v) {
    return key(name).value(v);
  }

  const std::string& text() const { return text_; }

 private:
  Json& open(char bracket, char closing) {
    separate();
    text_ += bracket;
    closing_ += closing;
    empty_ = true;
    return *this;
  }
  Json& raw(std::string_view text) {
    separate();
    text_ += text;
    return *this;
  }
  void separate() {
    if (!after_key_ && !closing_.empty()) {
      if (!empty_) text_ += ',';
      line();
    }
    after_key_ = empty_ = false;
  }
  void line() {
    if (layout_ == Layout::indented) text_.append(1, '\n').append(2 * closing_.size(), ' ');
  }

  void quote(std::string_view text) {
    text_ += '"';
    while (!text.empty()) {
      const std::size_t length = detail::utf8_length(text);
      const char c = text[0];
      if (length == 0) {
        text_ += "\\ufffd";
      } else if (static_cast<unsigned char>(c) < 0x20) {
        char escaped[8];
        std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(c));
        text_ += escaped;
      } else {
        if (c == '"' || c == '\\') text_ += '\\';
        text_ += text.substr(0, length);
      }
      text.remove_prefix(length == 0 ? 1 : length);
    }
    text_ += '"';
  }

  Layout layout_;
  std::string text_;
  std::string closing_;  // brackets that are open
  bool empty_ = true;    // nothing in the innermost yet
  bool after_key_ = false;
};

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
