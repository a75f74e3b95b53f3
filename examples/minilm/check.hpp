// minilm.check: what the network has to compute. Its body (see file.hpp for the rest) is
//
//   u32 records, hidden
//
// and for each record
//
//   u32 bytes of text, tokens, vectors (0 or 1)
//   s32 tokens[], f32 vectors[hidden], the text in UTF-8, zeros up to a multiple of 4
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "network.hpp"
#include "tokenizer.hpp"

namespace minilm {

/// How far a network is from what it has to compute.
struct Agreement {
  Index texts = 0, vectors = 0;
  Index wrong_tokens = 0;  ///< texts whose tokens differ
  double difference = 0;   ///< the largest of any element of any vector
  double cosine = 1;       ///< the smallest of any vector

  /// f32: every element within 1e-4. int8: every vector's cosine at least 0.99.
  bool holds(Precision precision) const {
    if (wrong_tokens != 0) return false;
    return precision == Precision::f32 ? difference <= 1e-4 : cosine >= 0.99;
  }
};

/// Tokenizes the texts of a file and runs the network on those that have a vector.
inline Result<Agreement> check(const std::string& path, const Tokenizer& tokenizer, Network& net,
                               Index hidden) {
  auto file = File::open(path, "quernchk");
  if (!file) return file.error();
  const Index records = file->number(), size = file->number();
  if (size != hidden) {
    return bad("%.120s is of vectors of %lld, the network's have %lld", path.c_str(),
               static_cast<long long>(size), static_cast<long long>(hidden));
  }
  Agreement a;
  std::vector<std::int32_t> tokens;
  std::vector<float> vector(static_cast<std::size_t>(hidden));
  Batch batch;
  for (Index i = 0; i < records && !file->is_short(); ++i) {
    const Index bytes = file->number(), count = file->number(), vectors = file->number();
    const auto expected = file->take<std::int32_t>(count);
    const auto wanted = file->take<float>(vectors * hidden);
    const std::string_view text = file->text(bytes);
    file->text(quern::round_up(bytes, 4) - bytes);
    tokenizer.tokenize(text, &tokens);
    const bool right = std::ranges::equal(tokens, expected);
    if (!right && ++a.wrong_tokens <= 5) {
      std::fprintf(stderr, "wrong tokens: record %lld, \"%.*s\"\n", static_cast<long long>(i),
                   static_cast<int>(std::min<std::size_t>(text.size(), 60)), text.data());
    }
    ++a.texts;
    if (wanted.empty()) continue;
    batch.clear();
    batch.add(tokens);
    if (Error e = net.run(batch, {vector.data(), 1, hidden})) return e;
    double dot = 0, most = 0;
    for (std::size_t j = 0; j < vector.size(); ++j) {
      const double x = static_cast<double>(vector[j]), y = static_cast<double>(wanted[j]);
      dot += x * y;  // both have length 1
      const double apart = std::fabs(x - y);
      if (!(apart <= most)) most = apart < HUGE_VAL ? apart : HUGE_VAL;  // NaN too
    }
    a.difference = std::max(a.difference, most);
    if (!(dot >= a.cosine)) a.cosine = dot == dot ? dot : -1;
    ++a.vectors;
  }
  if (!file->complete()) return bad("%.120s does not hold what its counts promise", path.c_str());
  return a;
}

}  // namespace minilm
