// Random appends to KV caches with everything they need to run.
#pragma once

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "quern/ops/kv_cache.hpp"
#include "quern/testing/heads.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

/// Calls visit(name, x) for all that a call reads, always in the same order; x is a reference to a
/// pointer or to a span. Scales per token are results.
template <class Visit>
void visit_inputs(KvAppendArgs& args, Visit&& visit) {
  visit("k", args.k.data);
  visit("v", args.v.data);
  visit("k_scales", args.k_scales.data);
  visit("v_scales", args.v_scales.data);
  visit("cos", args.tables.cos.data);
  visit("sin", args.tables.sin.data);
  visit("pages", args.pages.data);
  visit("offsets", args.offsets);
  visit("lengths", args.lengths);
  visit("positions", args.positions.positions);
  visit("starts", args.positions.starts);
}

/// A valid KvAppendProblem and the arguments of a call, all owned. The same seed always makes the
/// same case. Moves; does not copy.
class KvAppendCase {
 public:
  /// How much of the case a call appends: to the first sequences, of each all tokens or about half.
  struct Size {
    Index batch;
    bool half = false;
  };

  explicit KvAppendCase(std::uint64_t seed) : seed_(seed), random_(seed) {
    choose_problem();
    choose_tokens();
    choose_operands();
    fill();
  }

  const KvAppendProblem& problem() const { return problem_; }
  Size size() const { return {batch_}; }

  /// A copy of the memory that the caches and their scales per token live in, with guards, gaps and
  /// what the caches hold so far, which is anything.
  AlignedBuffer out_memory() const { return copied(out_memory_); }

  /// The call of this size; its caches are within such a copy.
  KvAppendArgs args(std::byte* memory, const Size& size) const {
    const KvAppendProblem& p = problem_;
    const auto first = [](const auto& all, Index count) {
      return all.empty() ? std::span<const std::int32_t>()
                         : std::span(all).first(static_cast<std::size_t>(count));
    };
    KvAppendArgs args{
        .k = k_.view, .v = v_.view, .k_cache = k_cache_.view, .v_cache = v_cache_.view};
    args.lengths = first(lengths_, size.batch);
    if (!offsets_.empty()) {
      args.offsets = std::span(offsets_).subspan(size.half ? offsets_.size() / 2 : 0,
                                                 static_cast<std::size_t>(size.batch + 1));
    } else {
      args.k.batch = args.v.batch = size.batch;
      args.k.tokens = args.v.tokens = size.half ? tokens_ / 2 : tokens_;
    }
    if (columns_ != 0) {
      args.pages = {pages_.data(), size.batch, columns_, columns_};
    } else {
      args.k_cache.batch = args.v_cache.batch = size.batch;
    }
    if (p.rope.rotary != 0) {
      const Index half = p.rope.rotary / 2;
      args.tables = {{cos_.data(), rows_, half, half + 3}, {sin_.data(), rows_, half}};
      args.positions = {first(positions_, args.k.batch * args.k.tokens),
                        first(starts_, size.batch)};
    }
    args.k_scales = k_scales_.view;
    args.v_scales = v_scales_.view;
    if (memory == nullptr) return args;
    const auto place = [&](const auto& from, auto& to, bool result) {
      using T = std::remove_reference_t<decltype(to.data)>;
      if (result && from.memory.size() != 0) to.data = reinterpret_cast<T>(memory + from.offset);
    };
    place(k_cache_, args.k_cache, true);
    place(v_cache_, args.v_cache, true);
    place(k_scales_, args.k_scales, p.k_scales == HeadScales::per_token);
    place(v_scales_, args.v_scales, p.v_scales == HeadScales::per_token);
    return args;
  }

  /// The memory that a call reads, in the order of visit_inputs().
  std::array<std::span<const std::byte>, 11> input_memory() const {
    const auto array = [](const auto& x) { return std::as_bytes(std::span(x)); };
    const auto memory = [](const auto& x, bool input) {
      return std::span<const std::byte>(x.memory.data(), input ? x.memory.size() : 0);
    };
    const KvAppendProblem& p = problem_;
    return {memory(k_, true),
            memory(v_, true),
            memory(k_scales_, p.k_scales == HeadScales::per_channel),
            memory(v_scales_, p.v_scales == HeadScales::per_channel),
            array(cos_),
            array(sin_),
            array(pages_),
            array(offsets_),
            array(lengths_),
            array(positions_),
            array(starts_)};
  }

  /// What is at a byte of the results' memory.
  const char* at(Index byte) const {
    const char* what = "what is no result";
    const auto check = [&](const auto& x, const char* name) {
      const Index end = x.offset + std::ssize(std::span<std::byte>(x.memory));
      if (x.memory.size() != 0 && byte >= x.offset && byte < end) what = name;
    };
    check(k_cache_, "k_cache or a gap in it");
    check(v_cache_, "v_cache or a gap in it");
    if (problem_.k_scales == HeadScales::per_token) check(k_scales_, "k_scales or a gap in them");
    if (problem_.v_scales == HeadScales::per_token) check(v_scales_, "v_scales or a gap in them");
    return what;
  }

  /// One line that makes the case again, and says what it is.
  std::string describe() const {
    const KvAppendProblem& p = problem_;
    const auto number = [](auto x) { return std::to_string(x); };
    const auto side = [&](const char* what, const ConstHeadsView& x) {
      return std::string(" ") + what + " " + quern::name(x.type) + " " + number(x.batch) + "x" +
             number(x.heads) + "x" + number(x.tokens) + "x" + number(x.size) + " strides " +
             number(x.batch_stride) + "," + number(x.head_stride) + "," + number(x.token_stride);
    };
    std::string text = "KvAppendCase(" + number(seed_) + "):" + side("k", k_.view) +
                       side("v", v_.view) + side("k_cache", k_cache_.view) +
                       side("v_cache", v_cache_.view) + ", " + number(batch_) + " sequences";
    if (!offsets_.empty()) text += ", ragged";
    if (columns_ != 0) text += ", pages";
    if (!lengths_.empty()) text += ", lengths";
    text += std::string(", scales ") + quern::name(p.k_scales) + " and " + quern::name(p.v_scales);
    text += ", rotary " + number(p.rope.rotary);
    if (p.rope.pairs == RopePairs::interleaved) text += " interleaved";
    if (!positions_.empty()) text += ", positions";
    if (!starts_.empty()) text += ", starts";
    return text;
  }

 private:
  void choose_problem() {
    using T = HeadType;
    KvAppendProblem& p = problem_;
    p.kv_heads = random_.pick<Index>({1, 1, 2, 3, 4, 8});
    p.source = random_.pick({T::f32, T::bf16, T::f16});
    p.k = random_.pick({T::f32, T::bf16, T::f16, T::s8, T::s8, T::s4, T::s4});
    p.v = random_.one_in(2) ? p.k : random_.pick({T::f32, T::bf16, T::f16, T::s8, T::s4});
    const auto scales = [&](T type) {
      if (is_float(type)) return HeadScales::none;
      return random_.one_in(2) ? HeadScales::per_token : HeadScales::per_channel;
    };
    p.k_scales = scales(p.k);
    p.v_scales = scales(p.v);
    const auto vector = [&](T type) {
      const Index size = random_.one_in(2)
                             ? 16 * random_.between(1, 8)
                             : random_.pick<Index>({0, 1, 2, 3, 5, 8, 15, 17, 40, 65});
      return type == T::s4 ? round_up(size, 2) : size;
    };
    p.k_size = vector(p.k);
    p.v_size = random_.one_in(3) ? vector(p.v) : p.v == T::s4 ? round_up(p.k_size, 2) : p.k_size;
    if (random_.one_in(2)) {
      p.rope.rotary = random_.one_in(2) ? p.k_size / 2 * 2 : 2 * random_.between(0, p.k_size / 2);
      p.rope.pairs = random_.pick({RopePairs::halves, RopePairs::interleaved});
    }
  }

  /// How many there are before and how many come, and their places in the caches.
  void choose_tokens() {
    batch_ = random_.between(random_.one_in(8) ? 0 : 1, 4);
    tokens_ = random_.one_in(2) ? random_.between(0, 2) : random_.between(1, 40);
    capacity_ = tokens_ + random_.between(0, 50);
    if (random_.one_in(3)) {
      std::vector<std::int32_t> half{0};
      offsets_ = {0};
      for (Index b = 0; b < batch_; ++b) {
        const auto tokens = static_cast<std::int32_t>(random_.between(0, tokens_));
        offsets_.push_back(offsets_.back() + tokens);
        half.push_back(half.back() + tokens / 2);
      }
      source_tokens_ = offsets_.back() + random_.between(0, 3);
      offsets_.insert(offsets_.end(), half.begin(), half.end());
    }
    if (random_.one_in(2) && batch_ > 0) {
      page_ = random_.pick<Index>({1, 3, 8, 16, 32});
      columns_ = std::max<Index>(1, divide_up(capacity_, page_));
      for (Index i = 0; i < batch_ * columns_; ++i) pages_.push_back(static_cast<std::int32_t>(i));
      for (std::size_t i = pages_.size() - 1; i > 0; --i) {
        std::swap(pages_[i],
                  pages_[static_cast<std::size_t>(random_.between(0, static_cast<Index>(i)))]);
      }
    }
    if (random_.one_in(3)) return;
    for (Index b = 0; b < batch_; ++b) {
      lengths_.push_back(static_cast<std::int32_t>(random_.between(0, capacity_ - tokens_)));
    }
  }

  void choose_operands() {
    const KvAppendProblem& p = problem_;
    const bool ragged = !offsets_.empty();
    const Index batch = ragged ? 1 : batch_, tokens = ragged ? source_tokens_ : tokens_;
    k_ = any_heads(random_, p.source, batch, p.kv_heads, tokens, p.k_size, true);
    v_ = any_heads(random_, p.source, batch, p.kv_heads, tokens, p.v_size, true);
    const Index elements = columns_ != 0 ? batch_ * columns_ : batch_;
    const Index room = columns_ != 0 ? page_ : capacity_;
    k_cache_ = any_heads(random_, p.k, elements, p.kv_heads, room, p.k_size, false);
    v_cache_ = any_heads(random_, p.v, elements, p.kv_heads, room, p.v_size, false);
    k_scales_ = any_head_floats(random_, p.k_scales, elements, p.kv_heads, room, p.k_size);
    v_scales_ = any_head_floats(random_, p.v_scales, elements, p.kv_heads, room, p.v_size);
    Index bytes = 0;
    const auto place = [&](auto& result, bool is_result) {
      if (result.memory.size() == 0 || !is_result) return;
      result.offset += round_up(bytes + 64, 64);  // its alignment, behind a guard
      bytes = round_up(bytes + 64, 64) + std::ssize(std::span<std::byte>(result.memory));
    };
    place(k_cache_, true);
    place(v_cache_, true);
    place(k_scales_, p.k_scales == HeadScales::per_token);
    place(v_scales_, p.v_scales == HeadScales::per_token);
    AlignedBuffer all(static_cast<std::size_t>(bytes));
    for (std::byte& x : std::span<std::byte>(all)) x = static_cast<std::byte>(random_.bits() & 255);
    out_memory_ = guarded(random_, all);
    choose_positions(batch * tokens);
  }

  void choose_positions(Index tokens) {
    if (problem_.rope.rotary == 0) return;
    rows_ = 2 * capacity_ + 8;
    const auto any_row = [&](Index most) {
      return static_cast<std::int32_t>(random_.between(0, most));
    };
    if (random_.one_in(3)) {
      for (Index i = 0; i < tokens; ++i) positions_.push_back(any_row(rows_ - 1));
    } else if (random_.one_in(2)) {
      for (Index b = 0; b < batch_; ++b) starts_.push_back(any_row(capacity_));
    }
    const Index half = problem_.rope.rotary / 2;
    for (Index i = 0; i < rows_ * (half + 3); ++i) cos_.push_back(random_.uniform(-1.0f, 1.0f));
    for (Index i = 0; i < rows_ * half; ++i) sin_.push_back(random_.uniform(-1.0f, 1.0f));
  }

  void fill() {
    const KvAppendProblem& p = problem_;
    const auto vectors = [&](const HeadsView& x, bool nans) {
      AnyVectors any(random_, x.type, nans);
      for (Index b = 0; b < x.batch; ++b) {
        for (Index t = 0; t < x.tokens; ++t) {
          for (Index h = 0; h < x.heads; ++h) {
            for (Index d = 0; d < x.size; ++d) store(x, b, h, t, d, any(d));
          }
        }
      }
    };
    // What becomes of a NaN's payload in arithmetic is the processor's.
    vectors(k_.view, !is_float(p.k));
    vectors(v_.view, !is_float(p.v));
    const auto channels = [&](const HeadFloats& s, HeadScales kind, Index size) {
      for (Index h = 0; h < p.kv_heads && kind == HeadScales::per_channel; ++h) {
        for (Index d = 0; d < size; ++d) s.at(0, h, 0, d) = random_.uniform(0.001f, 0.05f);
      }
    };
    channels(k_scales_.view, p.k_scales, p.k_size);
    channels(v_scales_.view, p.v_scales, p.v_size);
  }

  std::uint64_t seed_;
  Random random_;
  KvAppendProblem problem_;
  Index batch_ = 0, tokens_ = 0, capacity_ = 0;  // sequences; of one, the most that come, the room
  Index source_tokens_ = 0, page_ = 0, columns_ = 0, rows_ = 0;
  Owned<HeadsView> k_, v_, k_cache_, v_cache_;
  Owned<HeadFloats> k_scales_, v_scales_;
  AlignedBuffer out_memory_;
  std::vector<std::int32_t> pages_, offsets_, lengths_, positions_, starts_;
  std::vector<float> cos_, sin_;
};

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
