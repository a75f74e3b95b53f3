// The files that export.py writes, all little-endian. Every one is
//
//   char[8] magic, u32 version (1), u32 zero, u64 size of the whole file, a body, u32 CRC-32
//   (zlib's) of everything before it
//
// and open() refuses what is foreign, of another version, cut off or damaged. The body of a
// network:
//
//   u32 vocabulary, hidden, layers, heads, feed_forward, positions, most_tokens, characters, bytes
//   f32 epsilon of all LayerNorms
//   f32 weights, see Model: matrices have a row for each output
//   u32[6] of each range of characters: first, last, kind, up to three code points (0: none)
//   the vocabulary, UTF-8, each token followed by a line end, `bytes` in all
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "quern/core/error.hpp"
#include "quern/core/memory.hpp"

namespace minilm {

using quern::Code;
using quern::Error;
using quern::Index;
using quern::Result;

static_assert(std::endian::native == std::endian::little, "the files are read as they are");

template <class... Args>
Error bad(const char* pattern, Args... args) {
  return Error::make(Code::bad_value, pattern, args...);
}
inline Error bad(const char* sentence) { return Error::make(Code::bad_value, "%s", sentence); }

inline std::uint32_t crc32(std::span<const std::byte> bytes) {
  static constexpr auto kTable = [] {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      table[i] = i;
      for (int bit = 0; bit < 8; ++bit) table[i] = table[i] >> 1 ^ (table[i] & 1) * 0xEDB88320u;
    }
    return table;
  }();
  std::uint32_t crc = ~0u;
  for (const std::byte b : bytes) crc = crc >> 8 ^ kTable[(crc ^ std::uint32_t(b)) & 255];
  return ~crc;
}

/// The body of a file, read from front to back. Reading past the end gives nothing and is
/// remembered.
class File {
 public:
  /// Reads a file and checks its envelope.
  static Result<File> open(const std::string& path, std::string_view magic) {
    constexpr std::size_t kHead = 24, kTail = 4;
    const auto fail = [&](const char* what) { return bad("%.120s %s", path.c_str(), what); };
    std::error_code error;
    const std::uintmax_t size = std::filesystem::file_size(path, error);
    if (error) return bad("%.120s: %.60s", path.c_str(), error.message().c_str());
    if (size < kHead + kTail) return fail("is foreign: it is too short for a header");
    quern::AlignedBuffer bytes(static_cast<std::size_t>(size));
    if (bytes.size() != size) return fail("does not fit into memory");
    const auto close = [](std::FILE* f) { std::fclose(f); };
    const std::unique_ptr<std::FILE, decltype(close)> file(std::fopen(path.c_str(), "rb"), close);
    if (!file || std::fread(bytes.data(), 1, bytes.size(), file.get()) != bytes.size()) {
      return fail("cannot be read");
    }
    File f(std::move(bytes));
    if (std::memcmp(f.bytes_.data(), magic.data(), magic.size()) != 0) {
      return bad("%.120s is foreign: it does not begin with %.8s", path.c_str(), magic.data());
    }
    f.at_ = magic.size();
    if (const auto version = f.number(); version != 1) {
      return bad("%.120s has version %u; this program reads version 1", path.c_str(), version);
    }
    f.number();
    std::uint64_t stated = 0;
    std::memcpy(&stated, f.take<std::byte>(8).data(), 8);
    if (stated != size) {
      return bad("%.120s is cut off or has grown: it is %llu bytes long but says %llu",
                 path.c_str(), static_cast<unsigned long long>(size),
                 static_cast<unsigned long long>(stated));
    }
    f.end_ -= kTail;
    std::uint32_t crc = 0;
    std::memcpy(&crc, f.bytes_.data() + f.end_, kTail);
    if (const auto found = crc32({f.bytes_.data(), f.end_}); found != crc) {
      return bad("%.120s is damaged: its CRC-32 is %08x but says %08x", path.c_str(), found, crc);
    }
    return f;
  }

  /// The next `count` values, which stay in the file's memory.
  template <class T>
  std::span<const T> take(Index count) {
    const auto n = static_cast<std::size_t>(count);
    if (count < 0 || n > (end_ - at_) / sizeof(T) || at_ % alignof(T) != 0) {
      short_ = true;
      return {};
    }
    const auto* data = reinterpret_cast<const T*>(bytes_.data() + at_);
    at_ += n * sizeof(T);
    return {data, n};
  }
  std::uint32_t number() {
    const auto one = take<std::uint32_t>(1);
    return one.empty() ? 0 : one[0];
  }
  std::string_view text(Index bytes) {
    const auto chars = take<char>(bytes);
    return {chars.data(), chars.size()};
  }
  /// Whether everything asked for was there, and nothing more.
  bool complete() const { return !short_ && at_ == end_; }
  bool is_short() const { return short_; }

 private:
  explicit File(quern::AlignedBuffer bytes) : bytes_(std::move(bytes)), end_(bytes_.size()) {}

  quern::AlignedBuffer bytes_;
  std::size_t at_ = 0, end_ = 0;
  bool short_ = false;
};

/// The sizes of a network.
struct Shape {
  Index vocabulary = 30522, hidden = 384, layers = 6, heads = 12, feed_forward = 1536;
  Index positions = 512, most_tokens = 256;
  float epsilon = 1e-12f;
};

/// What becomes of the characters `first` to `last` on their way to words.
struct Characters {
  enum Kind : std::uint32_t { vanish, space, replace, word };
  std::uint32_t first, last, kind;
  std::uint32_t text[3];  ///< what stands for them; none: themselves
};

/// A network as published. Everything points into `file`.
struct Model {
  using Floats = std::span<const float>;
  struct Part {
    Floats weights, bias;  ///< of a LayerNorm: gamma, beta
  };
  struct Layer {
    Part qkv;             ///< (3 hidden, hidden): queries, keys, values
    Part project;         ///< (hidden, hidden)
    Part attention_norm;  ///< (hidden)
    Part up;              ///< (feed_forward, hidden)
    Part down;            ///< (hidden, feed_forward)
    Part norm;            ///< (hidden)
  };

  File file;
  Shape shape = {};
  Floats words = {}, positions = {}, type = {};  ///< (vocabulary | positions | 1, hidden)
  Part embedding_norm = {};
  std::vector<Layer> layers = {};
  std::span<const Characters> characters = {};  ///< in order, apart
  std::string_view vocabulary = {};

  static Result<Model> read(const std::string& path) {
    auto file = File::open(path, "quernbrt");
    if (!file) return file.error();
    Model m{.file = std::move(*file)};
    Shape& s = m.shape;
    for (Index* size : {&s.vocabulary, &s.hidden, &s.layers, &s.heads, &s.feed_forward,
                        &s.positions, &s.most_tokens}) {
      *size = m.file.number();
      if (*size < 1 || *size > 1 << 20) {
        return bad("%.120s has a size of %lld; 1 to 2^20 can be", path.c_str(),
                   static_cast<long long>(*size));
      }
    }
    const Index characters = m.file.number(), bytes = m.file.number();
    s.epsilon = std::bit_cast<float>(m.file.number());
    if (s.hidden % s.heads != 0 || s.most_tokens > s.positions || s.most_tokens < 2) {
      return bad("%.120s: %lld heads share %lld, or %lld tokens have %lld positions", path.c_str(),
                 static_cast<long long>(s.heads), static_cast<long long>(s.hidden),
                 static_cast<long long>(s.most_tokens), static_cast<long long>(s.positions));
    }
    const auto take = [&](Index rows, Index cols) { return m.file.take<float>(rows * cols); };
    const auto part = [&](Index rows, Index cols) {
      const Floats weights = take(rows, cols);
      return Part{weights, take(rows, 1)};
    };
    m.words = take(s.vocabulary, s.hidden);
    m.positions = take(s.positions, s.hidden);
    m.type = take(1, s.hidden);
    m.embedding_norm = part(s.hidden, 1);
    for (Index i = 0; i < s.layers && !m.file.is_short(); ++i) {
      Layer& layer = m.layers.emplace_back();
      layer.qkv = part(3 * s.hidden, s.hidden);
      layer.project = part(s.hidden, s.hidden);
      layer.attention_norm = part(s.hidden, 1);
      layer.up = part(s.feed_forward, s.hidden);
      layer.down = part(s.hidden, s.feed_forward);
      layer.norm = part(s.hidden, 1);
    }
    m.characters = m.file.take<Characters>(characters);
    m.vocabulary = m.file.text(bytes);
    if (m.file.complete()) return m;
    return bad("%.120s does not hold what its sizes promise", path.c_str());
  }
};

}  // namespace minilm
