// The command line, as data.
#pragma once

#include <charconv>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quern/sim/chip_fields.hpp"

namespace tool {

using quern::Code;
using quern::DType;
using quern::Error;
using quern::Index;
using quern::Result;

inline constexpr char kHelp[] =
    R"(quern_sim: what a matrix product, or a network of them, costs on a chip.

  quern_sim CHIP --gemm MxNxK [options]     one product, (M x K) (K x N)
  quern_sim CHIP --conv CONV [options]      one convolution
  quern_sim CHIP --network FILE [options]   lines of: NAME MxNxK or CONV [COUNT] [TYPES]
  quern_sim CHIP --toml                     the chip's description as a file
  quern_sim --list                          the presets

CONV is HxWxC:OUT:kK[:sS][:pP][:dD][:gG][:nN]: an image of H x W with C channels, OUT output
channels, kernel, stride, padding, dilation, groups, images: 56x56x64:64:k3:p1

CHIP, one of:
  FILE.toml            a description; docs/chips.md lists the keys
  --preset NAME        one that comes with quern
  --array RxC          only an array: a chip with defaults for the rest

Changes to the chip:
  --dataflow ws|os|is  weight, output or input stationary, whatever the chip offers
  --fold-model drain|overlap
  --dies 1|2
  --ideal-memory       memory, links and buffers never limit
  --set KEY=VALUE      any key of a description; may be repeated

The work:
  --batch B            B products, each with weights of its own (default 1). Batches that share
                       weights belong into M
  --types ABC          element types of A, B and C in one word (default u8s8s32), from s8, u8, s32,
                       f32, bf16, f16: u8s8s32, s8s8s8, bf16bf16f32, f32s8f32

Output:
  --json               one JSON object instead of text
  --trace FILE         what happens when, for ui.perfetto.dev (Chrome's trace format)
  --sweep KEY=V1,V2..  one run for each value of a key of a description, of array (RxC), or of
                       dataflow (ws, os, is)
  --plot FILE          a picture of the sweep, or of the network's layers: .svg or .html
)";

/// A change of one field: --set, and each value of --sweep.
struct Change {
  std::string key, value;
};

struct Options {
  // The chip: one of these is set.
  std::string file, preset, array;
  std::vector<Change> changes;  // in the order given
  bool ideal_memory = false;

  // The work: one of these is set, unless the chip alone is asked for.
  std::string gemm, conv, network;
  Index m = 0, n = 0, k = 0, batch = 1;
  DType a = DType::u8, b = DType::s8, c = DType::s32;

  std::string sweep_key;
  std::vector<std::string> sweep_values;
  std::string trace, plot;
  bool json = false, toml = false, list = false, help = false;
};

template <class... Args>
Error bad(const char* pattern, Args... args) {
  return Error::make(Code::bad_value, pattern, args...);
}

inline Error bad(const char* sentence) { return Error::make(Code::bad_value, "%s", sentence); }

/// All of the text is a whole number within bounds.
inline bool parse_index(std::string_view text, Index least, Index most, Index* value) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *value);
  return error == std::errc() && stop == end && *value >= least && *value <= most;
}

inline std::vector<std::string_view> split(std::string_view text, char mark) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t at = text.find(mark);
    parts.push_back(text.substr(0, at));
    if (at == text.npos) return parts;
    text.remove_prefix(at + 1);
  }
}

inline constexpr Index kMostExtent = 1'000'000'000;
inline constexpr double kMostMacs = 1e14;

/// "128x768x3072".
inline Error parse_gemm(std::string_view text, Index* m, Index* n, Index* k) {
  const auto parts = split(text, 'x');
  bool good = parts.size() == 3;
  for (std::size_t i = 0; good && i < 3; ++i) {
    good = parse_index(parts[i], 1, kMostExtent, i == 0 ? m : i == 1 ? n : k);
  }
  if (!good) {
    return bad("a product is MxNxK, three whole numbers from 1 to %lld, not '%.60s'",
               static_cast<long long>(kMostExtent), std::string(text).c_str());
  }
  const double macs = static_cast<double>(*m) * static_cast<double>(*n) * static_cast<double>(*k);
  if (macs <= kMostMacs) return {};
  return bad("the product %.60s has %g multiply-adds; at most %g are simulated",
             std::string(text).c_str(), macs, kMostMacs);
}

/// "u8s8s32".
inline Error parse_types(std::string_view text, DType* a, DType* b, DType* c) {
  std::string_view rest = text;
  for (DType* type : {a, b, c}) {
    bool found = false;
    for (const DType t : {DType::s8, DType::u8, DType::s32, DType::f32, DType::bf16, DType::f16}) {
      if (!rest.starts_with(name(t))) continue;
      *type = t;
      rest.remove_prefix(std::string_view(name(t)).size());
      found = true;
      break;
    }
    if (!found) rest = " ";
  }
  if (rest.empty()) return {};
  return bad("types are three of s8, u8, s32, f32, bf16, f16 in one word, not '%.60s'",
             std::string(text).c_str());
}

/// The dataflow in full, from "ws", "os", "is" or the full name.
inline std::string full_dataflow(std::string_view text) {
  return text == "ws"   ? "weight_stationary"
         : text == "os" ? "output_stationary"
         : text == "is" ? "input_stationary"
                        : std::string(text);
}

class Parser {
 public:
  explicit Parser(std::span<const char* const> arguments) : rest_(arguments) {}

  Result<Options> parse() {
    while (!rest_.empty() && !error_) {
      std::string_view argument = next();
      inline_value_.reset();
      if (!argument.starts_with("--")) {
        positional(argument);
        continue;
      }
      const std::size_t equals = argument.find('=');
      if (equals != argument.npos) inline_value_ = argument.substr(equals + 1);
      argument = argument.substr(0, equals);
      option(argument);
      if (inline_value_ && !error_) {
        fail(bad("%.40s takes no value", std::string(argument).c_str()));
      }
    }
    if (!error_ && !o_.help && !o_.list) check();
    if (error_) return error_;
    return std::move(o_);
  }

 private:
  std::string_view next() {
    const std::string_view text = rest_.front();
    rest_ = rest_.subspan(1);
    return text;
  }
  void fail(const Error& error) {
    if (!error_) error_ = error;
  }

  void positional(std::string_view text) {
    const std::string word(text);
    if (text.starts_with('-'))
      return fail(bad("there is no option %.60s; see --help", word.c_str()));
    if (!o_.file.empty()) {
      return fail(bad("two chips are named, %.60s and %.60s", o_.file.c_str(), word.c_str()));
    }
    if (text.empty()) return fail(bad("the name of the chip's file is empty"));
    o_.file = word;
  }

  void option(std::string_view name) {
    const std::string key(name);
    if (name == "--help") return void(o_.help = true);
    if (name == "--list") return void(o_.list = true);
    if (name == "--json") return void(o_.json = true);
    if (name == "--toml") return void(o_.toml = true);
    if (name == "--ideal-memory") return void(o_.ideal_memory = true);
    if (name == "--preset") return text(key, &o_.preset);
    if (name == "--array") return text(key, &o_.array);
    if (name == "--network") return text(key, &o_.network);
    if (name == "--conv") return text(key, &o_.conv);
    if (name == "--trace") return text(key, &o_.trace);
    if (name == "--plot") return text(key, &o_.plot);
    if (name == "--gemm") {
      text(key, &o_.gemm);
      if (!error_) fail_if(parse_gemm(o_.gemm, &o_.m, &o_.n, &o_.k));
    } else if (name == "--types") {
      std::string types;
      text(key, &types);
      if (!error_) fail_if(parse_types(types, &o_.a, &o_.b, &o_.c));
    } else if (name == "--batch") {
      std::string number;
      text(key, &number);
      if (!error_ && !parse_index(number, 1, 1'000'000, &o_.batch)) {
        fail(bad("--batch is a whole number from 1 to 1000000, not '%.60s'", number.c_str()));
      }
    } else if (name == "--dataflow" || name == "--fold-model" || name == "--dies") {
      Change c;
      text(key, &c.value);
      c.key = name == "--dataflow" ? "dataflow" : name == "--dies" ? "dies" : "array.fold_model";
      o_.changes.push_back(c);
    } else if (name == "--set") {
      std::string assignment;
      again(key);
      text(key, &assignment);
      const std::size_t equals = assignment.find('=');
      if (error_) return;
      if (equals == assignment.npos) {
        return fail(bad("--set wants KEY=VALUE, not '%.60s'", assignment.c_str()));
      }
      o_.changes.push_back({assignment.substr(0, equals), assignment.substr(equals + 1)});
    } else if (name == "--sweep") {
      sweep(key);
    } else {
      fail(bad("there is no option %.60s; see --help", key.c_str()));
    }
  }

  void sweep(const std::string& key) {
    std::string text_value;
    text(key, &text_value);
    if (error_) return;
    const std::size_t equals = text_value.find('=');
    if (equals == text_value.npos || equals == 0) {
      return fail(bad("--sweep wants KEY=V1,V2,..., not '%.60s'", text_value.c_str()));
    }
    o_.sweep_key = text_value.substr(0, equals);
    for (const std::string_view v : split(std::string_view(text_value).substr(equals + 1), ',')) {
      if (v.empty()) return fail(bad("--sweep %.60s: a value is empty", text_value.c_str()));
      o_.sweep_values.emplace_back(v);
    }
  }

  /// The option's value, which is given once and is not empty.
  void text(const std::string& name, std::string* value) {
    for (const std::string& other : seen_) {
      if (other == name) return fail(bad("%.40s is given twice", name.c_str()));
    }
    seen_.push_back(name);
    if (inline_value_) {
      *value = *inline_value_;
      inline_value_.reset();
    } else if (rest_.empty() || std::string_view(rest_.front()).starts_with("--")) {
      return fail(bad("%.40s wants a value; see --help", name.c_str()));
    } else {
      *value = next();
    }
    if (value->empty()) fail(bad("%.40s: the value is empty", name.c_str()));
  }
  /// The option may be repeated.
  void again(const std::string& name) { std::erase(seen_, name); }
  void fail_if(const Error& error) {
    if (error) fail(error);
  }

  /// What is missing, and what does not go together.
  void check() {
    const int chips = !o_.file.empty() + !o_.preset.empty() + !o_.array.empty();
    if (chips == 0) {
      return fail(bad("no chip: name a FILE.toml, --preset NAME or --array RxC; see --help"));
    }
    if (chips > 1) return fail(bad("FILE.toml, --preset and --array exclude each other"));
    const int works = !o_.gemm.empty() + !o_.conv.empty() + !o_.network.empty();
    const bool work = works > 0;
    if (o_.toml) {
      if (work || o_.json || !o_.sweep_key.empty() || !o_.trace.empty() || !o_.plot.empty()) {
        fail(
            bad("--toml writes the chip and nothing else: no --gemm, --conv, --network, --json, "
                "--sweep, "
                "--trace or --plot beside it"));
      }
      return;
    }
    if (!work)
      return fail(bad("no work: give --gemm MxNxK, --conv CONV or --network FILE; see --help"));
    if (works > 1) return fail(bad("--gemm, --conv and --network exclude each other"));
    if (o_.gemm.empty() && o_.batch != 1) {
      return fail(bad("--batch goes with --gemm; a convolution has n, a network's lines a count"));
    }
    if (!o_.trace.empty() && !o_.sweep_key.empty()) {
      return fail(bad("--trace shows one run, --sweep makes several"));
    }
    if (!o_.gemm.empty()) {
      const double macs = static_cast<double>(o_.m) * static_cast<double>(o_.n) *
                          static_cast<double>(o_.k) * static_cast<double>(o_.batch);
      if (macs > kMostMacs) {
        return fail(bad("%lld products of %.60s have %g multiply-adds; at most %g are simulated",
                        static_cast<long long>(o_.batch), o_.gemm.c_str(), macs, kMostMacs));
      }
    }
    if (o_.plot.empty()) return;
    if (o_.sweep_key.empty() && o_.network.empty()) {
      return fail(bad("--plot shows a --sweep or a --network"));
    }
    if (!o_.plot.ends_with(".svg") && !o_.plot.ends_with(".html")) {
      fail(bad("--plot writes FILE.svg or FILE.html, not '%.60s'", o_.plot.c_str()));
    }
  }

  std::span<const char* const> rest_;
  std::optional<std::string_view> inline_value_;
  std::vector<std::string> seen_;
  Options o_;
  Error error_;
};

/// `arguments` without the program's name.
inline Result<Options> parse_options(std::span<const char* const> arguments) {
  return Parser(arguments).parse();
}

}  // namespace tool
