// Random attention with everything it needs to run: for the conformance suite, for fuzzing, and for
// whoever wants to try a backend on something unfriendly.
#pragma once

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <vector>

#include "quern/ops/attention.hpp"
#include "quern/testing/heads.hpp"
#include "quern/testing/sequences.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

/// Calls visit(name, x) for all that a call reads, always in the same order; x is a reference to a
/// pointer or to a span.
template <class Visit>
void visit_inputs(AttentionArgs& args, Visit&& visit) {
  visit("q", args.q.data);
  visit("k", args.k.data);
  visit("v", args.v.data);
  visit("k_scales", args.k_scales.data);
  visit("v_scales", args.v_scales.data);
  visit("mask", args.mask.data);
  visit("pages", args.pages.data);
  visit("q_offsets", args.q_offsets);
  visit("kv_offsets", args.kv_offsets);
  visit("kv_lengths", args.kv_lengths);
  visit("starts", args.starts);
  visit("alibi", args.alibi);
  visit("sinks", args.sinks);
}

/// A valid AttentionProblem and the arguments of a call, all owned. The same seed always makes the
/// same case. Moves; does not copy.
class AttentionCase {
 public:
  /// The most products a case has, about.
  static constexpr Index kMaxWork = 1'000'000;

  using Size = AttentionSize;

  explicit AttentionCase(std::uint64_t seed) : AttentionCase(Random(seed), kMaxWork, seed) {}
  explicit AttentionCase(Random random, Index max_work = kMaxWork, std::uint64_t seed = 0)
      : seed_(seed), random_(random) {
    choose_types();
    choose_arithmetic();
    choose_shape(max_work);
    sequences_.choose(random_, problem_);
    choose_operands();
    choose_row_inputs();
    choose_outputs();
    fill();
  }

  const AttentionProblem& problem() const { return problem_; }
  /// The whole case.
  Size size() const { return {sequences_.batch}; }

  /// A copy of the memory that results live in: guard bytes, out, lse and scores, and the gaps
  /// between their elements.
  AlignedBuffer out_memory() const { return copied(out_memory_); }

  /// The call of this size; its results are within such a copy.
  AttentionArgs args(std::byte* memory, const Size& size) const {
    AttentionArgs args;
    args.q = q_.view;
    args.k = k_.view;
    args.v = v_.view;
    args.out = out_.view;
    sequences_.set(args, size);
    args.k_scales = k_scales_.view;
    args.v_scales = v_scales_.view;
    args.mask = mask_.view;
    if (args.mask.batch != 1) args.mask.batch = size.batch;
    if (args.mask.rows != 1 && sequences_.q_offsets.empty()) args.mask.rows = args.q.tokens;
    if (args.mask.batch == 1) args.mask.batch_stride = 0;
    if (args.mask.rows == 1) args.mask.row_stride = 0;
    args.alibi = alibi_;
    args.sinks = sinks_;
    if (memory == nullptr) return args;
    if (out_.memory.size() != 0) args.out.data = memory + out_.offset;
    const auto floats = [&](const Owned<HeadFloats>& from, HeadFloats* to) {
      *to = from.view;
      if (from.memory.size() != 0) to->data = reinterpret_cast<float*>(memory + from.offset);
    };
    floats(lse_, &args.lse);
    floats(scores_, &args.scores);
    return args;
  }
  /// Of a call: the queries of all its sequences, the most keys of one.
  Index queries(const Size& size) const {
    const AttentionArgs call = args(nullptr, size);
    Index sum = 0;
    for (Index b = 0; b < size.batch; ++b) sum += call.q_tokens(b);
    return sum;
  }
  Index keys(const Size& size) const {
    const AttentionArgs call = args(nullptr, size);
    Index most = 0;
    for (Index b = 0; b < size.batch; ++b) most = std::max(most, call.kv_tokens(b));
    return most;
  }

  /// The memory that a call reads, in the order of visit_inputs(). Empty where the case has none;
  /// v's also where it is in k's.
  std::array<std::span<const std::byte>, 13> input_memory() const {
    const Sequences& s = sequences_;
    const auto array = [](const auto& x) { return std::as_bytes(std::span(x)); };
    const auto memory = [](const auto& x) {
      return std::span<const std::byte>(x.memory.data(), x.memory.size());
    };
    return {memory(q_),          memory(k_),          memory(v_),      memory(k_scales_),
            memory(v_scales_),   memory(mask_),       array(s.pages),  array(s.q_offsets),
            array(s.kv_offsets), array(s.kv_lengths), array(s.starts), array(alibi_),
            array(sinks_)};
  }

  /// One line that makes the case again, and says what it is.
  std::string describe() const {
    const AttentionProblem& p = problem_;
    const auto number = [](auto x) { return std::to_string(x); };
    const auto side = [&](const char* what, const ConstHeadsView& x, const std::string& values) {
      return std::string(" ") + what + " " + quern::name(x.type) + values + " " + number(x.batch) +
             "x" + number(x.heads) + "x" + number(x.tokens) + "x" + number(x.size) + " strides " +
             number(x.batch_stride) + "," + number(x.head_stride) + "," + number(x.token_stride);
    };
    const auto in = [](const char* values) { return " (" + std::string(values) + ")"; };
    std::string text = "AttentionCase(" + number(seed_) + "):";
    if (p.arithmetic == AttentionArithmetic::int8) text += p.smooth_k ? " int8 smooth" : " int8";
    text += side("q", q_.view, in(q_values_)) + side("k", k_.view, in(k_values_)) +
            side("v", v_.view, in(v_values_)) + side("out", out_.view, "") + ", " +
            number(sequences_.batch) + " sequences";
    if (!sequences_.q_offsets.empty()) text += ", ragged q";
    if (!sequences_.kv_offsets.empty()) text += ", ragged k";
    if (!sequences_.pages.empty()) text += ", pages of " + number(k_.view.tokens);
    for (std::size_t b = 0; b < sequences_.kv_lengths.size() / 2; ++b) {
      text += (b == 0 ? ", lengths " : " ") + number(sequences_.kv_lengths[b]);
    }
    if (p.k_scales != HeadScales::none)
      text += std::string(", k scales ") + quern::name(p.k_scales);
    if (p.v_scales != HeadScales::none)
      text += std::string(", v scales ") + quern::name(p.v_scales);
    text += ", scale " + number(p.scale_value());
    if (p.softcap > 0.0f) text += ", softcap " + number(p.softcap);
    text += ", alignment " + number(int(p.alignment)) + ", window " + number(p.window.left) + " " +
            number(p.window.right);
    if (p.mask != MaskType::none) {
      const MaskView& m = mask_.view;
      text += std::string(", mask ") + quern::name(p.mask) + " (" + mask_values_ + ") " +
              number(m.batch) + "x" + number(m.heads) + "x" + number(m.rows) + "x" + number(m.cols);
    }
    if (p.alibi) text += ", alibi";
    if (p.sinks) text += ", sinks";
    if (p.lse) text += ", lse";
    if (p.scores != Scores::none) text += ", scores " + number(int(p.scores));
    return text;
  }

 private:
  void choose_types() {
    using T = HeadType;
    AttentionProblem& p = problem_;
    p.q = random_.pick({T::f32, T::f32, T::bf16, T::f16});
    p.out = random_.one_in(3) ? random_.pick({T::f32, T::bf16, T::f16}) : p.q;
    p.k = random_.one_in(2) ? p.q : random_.pick({T::f32, T::bf16, T::f16, T::s8, T::s8, T::s4});
    p.v = random_.one_in(3) ? random_.pick({T::f32, T::bf16, T::f16, T::s8, T::s4}) : p.k;
    const auto scales = [&](T type) {
      if (is_float(type)) return HeadScales::none;
      return random_.pick({HeadScales::per_token, HeadScales::per_token, HeadScales::per_channel});
    };
    p.k_scales = scales(p.k);
    p.v_scales = random_.one_in(2) && p.k == p.v ? p.k_scales : scales(p.v);
    p.kv_heads = random_.pick<Index>({1, 1, 2, 3, 4});
    p.q_heads = p.kv_heads * random_.pick<Index>({1, 1, 2, 3, 4, 8});
    const auto vector = [&](T type) {
      const Index size = random_.one_in(2)
                             ? 16 * random_.between(1, 8)
                             : random_.pick<Index>({1, 2, 3, 4, 5, 7, 8, 15, 17, 31, 40, 63, 65});
      return type == T::s4 ? round_up(size, 2) : size;
    };
    p.qk_size = vector(p.k);
    p.v_size = random_.one_in(3) ? vector(p.v) : p.v == T::s4 ? round_up(p.qk_size, 2) : p.qk_size;
  }

  void choose_arithmetic() {
    AttentionProblem& p = problem_;
    const bool int8 = random_.one_in(3);
    p.arithmetic = int8 ? AttentionArithmetic::int8 : AttentionArithmetic::floats;
    if (random_.one_in(2)) {
      p.scale = random_.pick({0.125f, 1.0f, -0.5f, 0.0f, random_.uniform(0.01f, 1.0f)});
    }
    if (random_.one_in(4)) p.softcap = random_.pick({1.0f, 5.0f, 30.0f, 50.0f});
    p.alignment = random_.pick({Alignment::top_left, Alignment::bottom_right, Alignment::given});
    const auto reach = [&] {
      return random_.one_in(3) ? random_.between(0, 200) : random_.between(0, 9);
    };
    switch (random_.between(0, 7)) {
      case 0:
      case 1:
      case 2:
        break;
      case 3:
      case 4:
        p.window = Window::causal();
        break;
      case 5:
        p.window = Window::causal(reach());
        break;
      case 6:
        p.window = {reach(), reach()};
        break;
      default:
        p.window = {random_.one_in(2) ? -1 : reach(), random_.one_in(2) ? -1 : reach()};
    }
    if (random_.one_in(3)) {
      p.mask = random_.pick(
          {MaskType::boolean, MaskType::boolean, MaskType::f32, MaskType::bf16, MaskType::f16});
    }
    p.alibi = random_.one_in(6);
    p.sinks = random_.one_in(6);
    p.lse = random_.one_in(3);
    p.smooth_k =
        int8 && is_float(p.k) && p.softcap == 0.0f && !p.sinks && !p.lse && random_.one_in(2);
    if (!int8 && random_.one_in(8)) {
      p.scores = random_.pick({Scores::product, Scores::capped, Scores::masked, Scores::weights});
    }
  }

  /// Nothing, one, a few, odd, primes, hundreds.
  Index any_length(Index most) {
    switch (random_.between(0, 5)) {
      case 0:
        return random_.one_in(4) ? 0 : 1;
      case 1:
        return random_.between(1, 9);
      case 2:
        return 16 * random_.between(1, most / 16) + random_.between(-1, 1);
      case 3:
        return random_.pick<Index>({2, 3, 5, 7, 13, 17, 31, 37, 61, 67, 97, 113});
      default:
        return random_.between(1, most);
    }
  }

  void choose_shape(Index max_work) {
    Index &batch = sequences_.batch, &queries = sequences_.queries, &keys = sequences_.keys;
    batch = random_.one_in(3) ? random_.between(0, 4) : 1;
    const bool decode = random_.one_in(3);
    queries = decode ? random_.pick<Index>({1, 1, 1, 2, 4}) : any_length(160);
    if (decode && random_.one_in(4)) {
      batch = 1;
      keys = random_.pick<Index>({777, 1000, 1537, 2049});
    } else {
      keys = any_length(600);
      max_work >>= random_.between(0, 5);
    }
    const AttentionProblem& p = problem_;
    const Index products = p.q_heads * (p.qk_size + p.v_size);
    while (batch * queries * keys * products > max_work && std::max(queries, keys) > 1) {
      Index& larger = queries > 1 && 4 * queries > keys ? queries : keys;
      larger = divide_up(larger, 2);
    }
  }

  void choose_operands() {
    const AttentionProblem& p = problem_;
    const Sequences::Extent q = sequences_.q, kv = sequences_.kv;
    const bool may_share = !sequences_.paged();
    q_ = any_heads(random_, p.q, q.batch, p.q_heads, q.tokens, p.qk_size, true);
    if (p.k == p.v && p.qk_size == p.v_size && random_.one_in(3)) {  // in one buffer
      k_ = any_heads(random_, p.k, kv.batch, 2 * p.kv_heads, kv.tokens, p.qk_size, false);
      v_.view = k_.view;
      k_.view.heads = v_.view.heads = p.kv_heads;
      if (v_.view.data != nullptr) {
        v_.view.data = static_cast<std::byte*>(v_.view.data) +
                       p.kv_heads * v_.view.head_stride * bits_of(p.v) / 8;
      }
    } else {
      k_ = any_heads(random_, p.k, kv.batch, p.kv_heads, kv.tokens, p.qk_size, may_share);
      v_ = any_heads(random_, p.v, kv.batch, p.kv_heads, kv.tokens, p.v_size, may_share);
    }
    k_scales_ = any_head_floats(random_, p.k_scales, kv.batch, p.kv_heads, kv.tokens, p.qk_size);
    v_scales_ = any_head_floats(random_, p.v_scales, kv.batch, p.kv_heads, kv.tokens, p.v_size);
  }

  /// Mask, slopes and sinks.
  void choose_row_inputs() {
    AttentionProblem& p = problem_;
    const auto maybe_one = [&](Index extent) { return random_.one_in(2) ? 1 : extent; };
    if (p.mask != MaskType::none) {
      const Index keys = sequences_.room();
      Index cols = keys;
      if (random_.one_in(5)) cols = random_.between(0, keys + 9);
      mask_ = any_mask(
          random_, p.mask,
          {maybe_one(sequences_.batch), maybe_one(p.q_heads), maybe_one(sequences_.queries), cols},
          &mask_values_);
    }
    for (Index h = 0; h < p.q_heads && p.alibi; ++h) {
      alibi_.push_back(random_.one_in(4) ? 0.0f : random_.uniform(-0.1f, 1.0f));
    }
    for (Index h = 0; h < p.q_heads && p.sinks; ++h) {
      sinks_.push_back(random_.one_in(4) ? random_.pick({-HUGE_VALF, 40.0f, -40.0f})
                                         : random_.uniform(-3.0f, 3.0f));
    }
  }

  /// One memory for out, lse and scores, each behind a guard. Their own memories only say how large
  /// they are.
  void choose_outputs() {
    const AttentionProblem& p = problem_;
    out_ = any_heads(random_, p.out, sequences_.q.batch, p.q_heads, sequences_.q.tokens, p.v_size,
                     false);
    if (p.lse) {
      lse_ = any_head_floats(random_, HeadScales::per_token, sequences_.q.batch, p.q_heads,
                             sequences_.q.tokens, 1);
    }
    if (p.scores != Scores::none) {
      const Index room = sequences_.room();
      const std::array<Index, 3> extents = {sequences_.batch, p.q_heads, sequences_.queries};
      const auto strides = any_block_strides(random_, extents, room, 1);
      scores_.view = {nullptr, strides[0], strides[1], strides[2], 1};
      const Index span = room == 0 ? 0 : span_of(extents, strides, room);
      if (span != 0) scores_.allocate(span, 32, random_.between(0, 3));
    }
    Index bytes = 0;
    const auto place = [&](auto& result) {
      if (result.memory.size() == 0) return;
      const Index own = std::ssize(std::span<std::byte>(result.memory));
      result.offset += round_up(bytes + 64, 64);
      bytes = round_up(bytes + 64, 64) + own;
    };
    place(out_);
    place(lse_);
    place(scores_);
    AlignedBuffer all(static_cast<std::size_t>(bytes));
    if (bytes != 0) std::memset(all.data(), 0xFF, all.size());
    out_memory_ = guarded(random_, all);
  }

  /// Only tokens in use get values; others, and gaps, stay as they are.
  void fill() {
    const AttentionProblem& p = problem_;
    const AttentionArgs call = args(nullptr, size());
    // In float arithmetic a NaN of v reaches further than in the reference, or not.
    const bool int8 = p.arithmetic == AttentionArithmetic::int8;
    q_values_ = fill(call.q_map(), q_.view, true, false);
    k_values_ = fill(call.kv_map(), k_.view, true, true);
    v_values_ = fill(call.kv_map(), v_.view, int8, true);
    fill_scales(k_scales_.view, p.k_scales, k_.view, call);
    fill_scales(v_scales_.view, p.v_scales, v_.view, call);
  }
  const char* fill(const TokenMap& map, const HeadsView& x, bool may_have_nans, bool keys) {
    AnyVectors any(random_, x.type, may_have_nans);
    const AttentionArgs call = args(nullptr, size());
    for (Index b = 0; b < sequences_.batch; ++b) {
      for (Index t = 0; t < (keys ? call.kv_tokens(b) : call.q_tokens(b)); ++t) {
        const TokenMap::Place at = map.place(x, b, t);
        for (Index h = 0; h < x.heads; ++h) {
          for (Index d = 0; d < x.size; ++d) store(x, at.batch, h, at.token, d, any(d));
        }
      }
    }
    return any.name();
  }
  void fill_scales(const HeadFloats& s, HeadScales kind, const HeadsView& x,
                   const AttentionArgs& call) {
    if (s.data == nullptr) return;
    const float most = x.type == HeadType::s4 ? 0.3f : 0.02f;
    const bool zeros = random_.one_in(4);
    const auto any = [&] {
      return zeros && random_.one_in(3) ? 0.0f : random_.uniform(0.01f * most, most);
    };
    for (Index h = 0; h < x.heads; ++h) {
      for (Index d = 0; d < x.size && kind == HeadScales::per_channel; ++d)
        s.at(0, h, 0, d) = any();
      for (Index b = 0; b < sequences_.batch && kind == HeadScales::per_token; ++b) {
        for (Index t = 0; t < call.kv_tokens(b); ++t) {
          const TokenMap::Place at = call.kv_map().place(x, b, t);
          s.at(at.batch, h, at.token) = any();
        }
      }
    }
  }

  std::uint64_t seed_;
  Random random_;
  AttentionProblem problem_;
  Sequences sequences_;
  Owned<HeadsView> q_, k_, v_, out_;
  Owned<HeadFloats> k_scales_, v_scales_, lse_, scores_;
  Owned<MaskView> mask_;
  AlignedBuffer out_memory_;
  std::vector<float> alibi_, sinks_;
  const char *q_values_ = "", *k_values_ = "", *v_values_ = "", *mask_values_ = "";
};

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
