// WordPiece, as BERT's uncased models have it: text becomes words, words become the longest pieces
// that the vocabulary has, from left to right.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "file.hpp"

namespace minilm {

class Tokenizer {
 public:
  /// Refers to the model, which must outlive it.
  static Result<Tokenizer> make(const Model& model) {
    Tokenizer t(model);
    Index count = 0;
    for (std::string_view rest = model.vocabulary; !rest.empty(); ++count) {
      const std::size_t end = rest.find('\n');
      if (end == rest.npos) return bad("the vocabulary's last token has no line end");
      std::string_view token = rest.substr(0, end);
      rest.remove_prefix(end + 1);
      const bool inside = token.starts_with("##");
      if (inside) token.remove_prefix(2);
      t.longest_ = std::max(t.longest_, token.size());
      (inside ? t.inside_ : t.whole_).emplace(token, static_cast<std::int32_t>(count));
    }
    if (count != model.shape.vocabulary) {
      return bad("the vocabulary has %lld tokens but the network %lld",
                 static_cast<long long>(count), static_cast<long long>(model.shape.vocabulary));
    }
    for (std::size_t i = 0; i < std::size(kSpecial); ++i) {
      const auto found = t.whole_.find(kSpecial[i]);
      if (found == t.whole_.end()) return bad("the vocabulary lacks %.10s", kSpecial[i].data());
      t.special_[i] = found->second;
    }
    const auto before = [](const Characters& a, const Characters& b) { return a.last < b.first; };
    for (std::size_t i = 0; i < model.characters.size(); ++i) {
      const Characters& c = model.characters[i];
      if (c.first > c.last || c.kind > Characters::word ||
          (i > 0 && !before(model.characters[i - 1], c))) {
        return bad("characters %04x to %04x are out of order or of kind %u", c.first, c.last,
                   c.kind);
      }
    }
    return t;
  }

  /// Puts [CLS], the text's tokens and [SEP] into `tokens`, at most as many as the network takes.
  /// Bytes that are no UTF-8 vanish. The names of special tokens in the text are taken for them.
  void tokenize(std::string_view text, std::vector<std::int32_t>* tokens) const {
    Words words{*this, *tokens};
    tokens->assign(1, special_[kCls]);
    while (!text.empty() && !words.full()) {
      if (const std::size_t i = special_at(text); i < std::size(kSpecial)) {
        words.end();
        tokens->push_back(special_[i]);
        text.remove_prefix(kSpecial[i].size());
      } else {
        words.add(next_character(&text));
      }
    }
    words.end();
    const auto most = static_cast<std::size_t>(model_->shape.most_tokens);
    if (tokens->size() > most - 1) tokens->resize(most - 1);
    tokens->push_back(special_[kSep]);
  }

 private:
  using Pieces = std::unordered_map<std::string_view, std::int32_t>;
  static constexpr std::string_view kSpecial[] = {"[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]"};
  static constexpr std::size_t kCls = 0, kSep = 1, kUnknown = 2;
  static constexpr std::size_t kMostCharacters = 100;  // of a word; longer ones are unknown

  explicit Tokenizer(const Model& model) : model_(&model) {}

  static std::size_t special_at(std::string_view text) {
    if (text[0] != '[') return std::size(kSpecial);
    const auto* end = std::end(kSpecial);
    return static_cast<std::size_t>(
        std::find_if(kSpecial, end, [&](auto name) { return text.starts_with(name); }) - kSpecial);
  }

  /// Takes a code point from the front of a text; of a byte that begins none, U+FFFD.
  static std::uint32_t next_character(std::string_view* text) {
    const auto byte = [&](std::size_t i) {
      return i < text->size() ? static_cast<unsigned char>((*text)[i]) : 0u;
    };
    const std::uint32_t first = byte(0);
    const std::size_t more = first < 0xC2 ? 0 : first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
    constexpr std::uint32_t kLeast[] = {0, 0x80, 0x800, 0x10000};
    std::uint32_t code = more == 0 ? first : first & (0x3Fu >> more);
    bool valid = first < 0x80 || (first >= 0xC2 && first < 0xF5);
    for (std::size_t i = 1; i <= more; ++i) {
      valid &= (byte(i) & 0xC0) == 0x80;
      code = code << 6 | (byte(i) & 0x3F);
    }
    valid &= code >= kLeast[more] && code < 0x110000 && (code < 0xD800 || code >= 0xE000);
    text->remove_prefix(valid ? more + 1 : 1);
    return valid ? code : 0xFFFD;
  }

  static void append(std::string* text, std::uint32_t code) {
    const int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    constexpr std::uint32_t kLead[] = {0, 0xC0, 0xE0, 0xF0};
    text->push_back(static_cast<char>(kLead[more] | code >> 6 * more));
    for (int i = more; i-- > 0;) text->push_back(static_cast<char>(0x80 | (code >> 6 * i & 63)));
  }

  /// The words of a text, one after the other, on their way to becoming tokens.
  struct Words {
    const Tokenizer& tokenizer;
    std::vector<std::int32_t>& tokens;
    std::string word = {};
    std::size_t characters = 0;

    bool full() const {
      return tokens.size() >= static_cast<std::size_t>(tokenizer.model_->shape.most_tokens);
    }
    void add(std::uint32_t code) {
      const auto ranges = tokenizer.model_->characters;
      const auto c =
          std::lower_bound(ranges.begin(), ranges.end(), code,
                           [](const Characters& range, std::uint32_t x) { return range.last < x; });
      if (c == ranges.end() || c->first > code) return put(code);
      if (c->kind == Characters::vanish) return;
      if (c->kind != Characters::replace) end();
      if (c->kind == Characters::space) return;
      if (c->text[0] == 0) put(code);
      for (const std::uint32_t x : c->text) {
        if (x != 0) put(x);
      }
      if (c->kind == Characters::word) end();
    }
    void put(std::uint32_t code) {
      append(&word, code);
      ++characters;
    }
    /// The word is complete.
    void end() {
      if (!word.empty()) tokenizer.split(word, characters, &tokens);
      word.clear();
      characters = 0;
    }
  };

  /// The longest piece, then the longest of the rest; the whole word is unknown if a rest has none.
  void split(std::string_view word, std::size_t characters,
             std::vector<std::int32_t>* tokens) const {
    const std::size_t before = tokens->size();
    const Pieces* pieces = &whole_;
    bool known = characters <= kMostCharacters;
    while (known && !word.empty()) {
      known = false;
      for (std::size_t n = std::min(word.size(), longest_); n > 0 && !known; --n) {
        const auto found = pieces->find(word.substr(0, n));
        if (found == pieces->end()) continue;
        tokens->push_back(found->second);
        word.remove_prefix(n);
        known = true;
      }
      pieces = &inside_;
    }
    if (known) return;
    tokens->resize(before);
    tokens->push_back(special_[kUnknown]);
  }

  const Model* model_;
  Pieces whole_, inside_;
  std::size_t longest_ = 0;  // bytes of the longest piece
  std::int32_t special_[std::size(kSpecial)] = {};
};

}  // namespace minilm
