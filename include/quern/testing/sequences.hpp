// Sequences for tests of attention: how many tokens each has, and where they lie in the views.
#pragma once

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "quern/core/memory.hpp"
#include "quern/ops/attention_problem.hpp"
#include "quern/testing/random.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

/// How much of an attention case a call computes: the first sequences, of each all queries and keys
/// or about half of them.
struct AttentionSize {
  Index batch;
  bool half_queries = false, half_keys = false;
  bool operator==(const AttentionSize&) const = default;
};

/// Sequences whose tokens lie in batch elements of their own, one after the other, or in pages.
/// Arrays of a number for each sequence are there twice: the second time for half the size.
struct Sequences {
  struct Extent {
    Index batch = 0, tokens = 0;
  };
  Index batch = 1, queries = 0, keys = 0;  ///< sequences; of one, the most
  Extent q, kv;                            ///< of the views
  Index columns = 0;                       ///< of pages; 0: there are none
  std::vector<std::int32_t> pages, q_offsets, kv_offsets, kv_lengths, starts;

  bool paged() const { return columns != 0; }
  /// The most keys that a sequence has room for.
  Index room() const { return paged() ? columns * kv.tokens : keys; }

  /// Everything else, from batch, queries and keys.
  void choose(Random& random, const AttentionProblem& p) {
    const bool scores = p.scores != Scores::none;
    q = {batch, queries};
    kv = {batch, keys};
    if (!scores && random.one_in(4)) q = ragged(random, queries, &q_offsets);
    const Index kind = random.between(0, 5);
    if (kind == 0 && !scores) kv = ragged(random, keys, &kv_offsets);
    if ((kind == 1 || kind == 2) && batch > 0) {
      kv.tokens = random.pick<Index>({1, 3, 8, 16, 16, 32, 64});
      columns = std::max<Index>(1, divide_up(keys, kv.tokens)) + random.between(0, 2);
    }
    if (paged() ? !random.one_in(6) : random.one_in(3)) choose_lengths(random);
    if (paged()) choose_pages(random);
    for (Index b = 0; b < 2 * batch && p.alignment == Alignment::given; ++b) {
      starts.push_back(static_cast<std::int32_t>(
          random.pick<Index>({0, keys - queries, keys, random.between(-9, keys + 9)})));
    }
  }

  /// The part of a call of this size, whose views are those of the whole.
  void set(AttentionArgs& args, const AttentionSize& size) const {
    const auto first = [&](const std::vector<std::int32_t>& all, Index more, bool half) {
      if (all.empty()) return std::span<const std::int32_t>();
      return std::span(all).subspan(half ? all.size() / 2 : 0,
                                    static_cast<std::size_t>(size.batch + more));
    };
    const bool lengths = !kv_lengths.empty();
    args.q_offsets = first(q_offsets, 1, size.half_queries);
    args.kv_offsets = first(kv_offsets, 1, size.half_keys && !lengths);
    args.kv_lengths = first(kv_lengths, 0, size.half_keys);
    args.starts = first(starts, 0, false);
    if (q_offsets.empty()) {
      args.q.batch = args.out.batch = size.batch;
      if (size.half_queries) args.q.tokens = args.out.tokens = queries / 2;
    }
    if (paged()) {
      args.pages = {pages.data(), size.batch, columns, columns};
      if (size.half_keys && !lengths) args.pages.cols = divide_up(columns, 2);
    } else if (kv_offsets.empty()) {
      args.k.batch = args.v.batch = size.batch;
      if (size.half_keys && !lengths) args.k.tokens = args.v.tokens = keys / 2;
    }
  }

 private:
  static Index any_part(Random& random, Index most) {
    return random.one_in(3) ? most : random.between(0, most);
  }

  Extent ragged(Random& random, Index most, std::vector<std::int32_t>* offsets) const {
    std::vector<std::int32_t> half{0};
    offsets->push_back(0);
    for (Index b = 0; b < batch; ++b) {
      const auto tokens = static_cast<std::int32_t>(any_part(random, most));
      offsets->push_back(offsets->back() + tokens);
      half.push_back(half.back() + tokens / 2);
    }
    const Index all = offsets->back();
    offsets->insert(offsets->end(), half.begin(), half.end());
    return {1, all + random.between(0, 3)};
  }

  void choose_lengths(Random& random) {
    for (Index b = 0; b < batch; ++b) {
      const auto i = static_cast<std::size_t>(b);
      const Index most = kv_offsets.empty() ? keys : kv_offsets[i + 1] - kv_offsets[i];
      kv_lengths.push_back(static_cast<std::int32_t>(any_part(random, most)));
    }
    for (std::size_t i = 0, n = kv_lengths.size(); i < n; ++i) {
      kv_lengths.push_back(kv_lengths[i] / 2);
    }
  }

  /// Pages in any order; at times sequences share them; what is not in use names no page.
  void choose_pages(Random& random) {
    kv.batch = batch * columns + random.between(0, 3);
    std::vector<std::int32_t> order;
    for (Index i = 0; i < kv.batch; ++i) order.push_back(static_cast<std::int32_t>(i));
    for (std::size_t i = order.size() - 1; i > 0; --i) {
      std::swap(order[i],
                order[static_cast<std::size_t>(random.between(0, std::ssize(order) - 1))]);
    }
    const bool shared = random.one_in(4);
    for (Index b = 0; b < batch; ++b) {
      const Index tokens = kv_lengths.empty() ? room() : kv_lengths[static_cast<std::size_t>(b)];
      for (Index c = 0; c < columns; ++c) {
        const Index from = shared && c == 0 ? 0 : b * columns + c;
        pages.push_back(c * kv.tokens < tokens ? order[static_cast<std::size_t>(from)] : -1);
      }
    }
  }
};

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
