// The program's arguments.
#pragma once

#include <charconv>
#include <string>
#include <string_view>
#include <vector>

#include "chips.hpp"
#include "kernels.hpp"

namespace minilm {

inline constexpr char kHelp[] =
    R"(minilm: sentences to vectors with all-MiniLM-L6-v2.

  minilm --model FILE [SENTENCE ...]    how alike the sentences are: cosines of their vectors;
                                        without any, those on standard input, one a line
    --int8          s8 weights and activations instead of f32
    --vectors       prints each sentence's vector instead
    --tokens        prints each sentence's tokens instead
    --check FILE    compares with what export.py wrote; exit status 1 if they disagree
    --bench TOKENS  prints how long one sentence of so many tokens takes
    --target NAME   the instruction set, such as AVX2, instead of the best

  minilm --chip NAME [--chip NAME ...]  what it would cost on presets of the simulator
    --batch SxT     of S sentences of T tokens; without it, 1x128
    --every MS      and for how much of so many milliseconds it is busy
)";

struct Options {
  std::string model, check, target;
  std::vector<std::string> chips, sentences;
  Precision precision = Precision::f32;
  bool vectors = false, tokens = false, help = false;
  Index bench = 0;
  Load load = {};
};

/// A whole number of [1, most] at the front of a text.
inline bool take_count(std::string_view* text, Index most, Index* count) {
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), *count);
  if (error != std::errc() || *count < 1 || *count > most) return false;
  text->remove_prefix(static_cast<std::size_t>(end - text->data()));
  return true;
}

inline Error set(Options* o, std::string_view name, const char* value) {
  std::string_view text = value;
  if (name == "--model") {
    o->model = value;
  } else if (name == "--check") {
    o->check = value;
  } else if (name == "--target") {
    o->target = value;
  } else if (name == "--chip") {
    o->chips.push_back(value);
  } else if (name == "--bench") {
    if (!take_count(&text, 1 << 20, &o->bench) || !text.empty()) {
      return bad("--bench takes a number of tokens, not %.60s", value);
    }
  } else if (name == "--batch") {
    constexpr Index kMost = 4096;
    bool valid = take_count(&text, kMost, &o->load.sequences) && text.starts_with('x');
    if (valid) text.remove_prefix(1);
    valid = valid && take_count(&text, kMost, &o->load.tokens) && text.empty();
    if (!valid) return bad("--batch takes SENTENCESxTOKENS, 1 to 4096 each, not %.60s", value);
  } else {  // --every
    const auto [end, error] = std::from_chars(value, value + text.size(), o->load.every);
    if (error != std::errc() || *end != '\0' || !(o->load.every > 0 && o->load.every < 1e9)) {
      return bad("--every takes milliseconds, not %.60s", value);
    }
    o->load.every *= 1e-3;
  }
  return {};
}

inline Result<Options> parse(int count, const char* const* arguments) {
  Options o;
  bool names = true;  // until "--"
  for (int i = 1; i < count; ++i) {
    const std::string_view name = arguments[i];
    if (!names || !name.starts_with("--")) {
      o.sentences.push_back(arguments[i]);
    } else if (name == "--") {
      names = false;
    } else if (name == "--help") {
      o.help = true;
    } else if (name == "--int8") {
      o.precision = Precision::int8;
    } else if (name == "--vectors") {
      o.vectors = true;
    } else if (name == "--tokens") {
      o.tokens = true;
    } else if (name == "--model" || name == "--check" || name == "--target" || name == "--chip" ||
               name == "--bench" || name == "--batch" || name == "--every") {
      if (++i == count) return bad("%.60s needs a value", arguments[i - 1]);
      if (Error e = set(&o, name, arguments[i])) return e;
    } else {
      return bad("there is no option %.60s; see --help", arguments[i]);
    }
  }
  if (o.model.empty() && o.chips.empty() && !o.help) {
    return bad("there is neither --model nor --chip; see --help");
  }
  return o;
}

}  // namespace minilm
