// Random convolutions with everything they need to run: for the conformance suite, for fuzzing,
// and for whoever wants to try a backend on something unfriendly.
#pragma once

#include <array>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "quern/ops/conv.hpp"
#include "quern/testing/epilogues.hpp"
#include "quern/testing/images.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

/// A valid ConvProblem, its weights and the arguments of a call, all owned. The same seed always
/// makes the same case. Moves; does not copy.
class ConvCase {
 public:
  /// The most products a case has.
  static constexpr Index kMaxWork = 3'000'000;

  /// How much of the case a call computes.
  struct Size {
    Index images;
    Spatial extent;  ///< of the input
  };

  explicit ConvCase(std::uint64_t seed) : ConvCase(Random(seed), kMaxWork, seed) {}
  explicit ConvCase(Random random, Index max_work = kMaxWork, std::uint64_t seed = 0)
      : seed_(seed), random_(random) {
    choose_types();
    choose_shape(max_work);
    choose_weights();
    choose_zero_points();
    a_ = allocate(any_image(random_, problem_.a, batch_, in_, problem_.in_channels), any_skip());
    a_values_ = fill_any(random_, a_.view);
    choose_epilogue();
    c_ = allocate(any_image(random_, problem_.c, batch_, out_, problem_.out_channels),
                  guard_elements(random_, problem_.c));
    if (steps_.residual_in_place()) fill_any(random_, c_.view);
    c_.memory = guarded(random_, c_.memory);
  }

  const ConvProblem& problem() const { return problem_; }
  FilterView weights() const { return weights_; }

  /// The whole case.
  Size size() const { return {batch_, in_}; }
  /// Output positions of all images.
  Index positions(const Size& size) const {
    const Spatial out = output_extent(problem_, size.extent);
    return size.images * out[0] * out[1] * out[2];
  }

  /// A copy of the memory C lives in: guard bytes, C's elements (the residual, when it is added in
  /// place) and the gaps between them.
  AlignedBuffer c_memory() const { return copied(c_.memory); }
  /// The call with the first images, and of each the beginning; C is within such a copy.
  ConvArgs args(std::byte* memory, const Size& size) const {
    const Spatial out = output_extent(problem_, size.extent);
    ConvArgs args{.a = part(a_.view, size.images, size.extent),
                  .c = part(c_.view, size.images, out)};
    args.c.data = memory == nullptr ? nullptr : memory + c_.offset;
    if (steps_.residual_in_place()) {
      args.residual = args.c;
    } else if (problem_.epilogue.has(Step::Kind::residual)) {
      args.residual = part(residual_.view, size.images, out);
    }
    const std::span<const float> row_scales = steps_.row_scales();
    if (!row_scales.empty()) {
      args.row_scales = row_scales.first(static_cast<std::size_t>(positions(size)));
    }
    return args;
  }

  /// The memory, apart from C's, that a call reads: of A, of the residual, and the row scales.
  /// Empty where the problem has none; the residual's also when it is C itself.
  std::array<std::span<const std::byte>, 3> input_memory() const {
    return {std::span<std::byte>(a_.memory), std::span<std::byte>(residual_.memory),
            std::as_bytes(steps_.row_scales())};
  }

  /// Overwrites the weights and every array that the problem points to: who prepared it before must
  /// not notice.
  void forget() {
    if (filter_.size() != 0) std::memset(filter_.data(), 0x5A, filter_.size());
    for (std::int32_t& z : b_zero_points_) z ^= 1;  // another, still in the type's range
    steps_.forget();
  }

  /// One line that makes the case again, and says what it is.
  std::string describe() const {
    const ConvProblem& p = problem_;
    const auto number = [](Index x) { return std::to_string(x); };
    const auto three = [](const Spatial& x) {
      return std::to_string(x[0]) + " x " + std::to_string(x[1]) + " x " + std::to_string(x[2]);
    };
    const auto strides = [&](const auto& x, Index outer, Index inner) {
      return number(outer) + "," + number(x.strides[0]) + "," + number(x.strides[1]) + "," +
             number(x.strides[2]) + "," + number(inner);
    };
    std::string text = "ConvCase(" + std::to_string(seed_) + "): ";
    text += std::string(quern::name(p.a)) + " (" + a_values_ + ") x " + quern::name(p.b) + " (" +
            b_values_ + ") -> " + quern::name(p.c) + ", ";
    text += number(batch_) + " x " + three(in_) + " x " + number(p.in_channels) + " to " +
            three(out_) + " x " + number(p.out_channels) + ", groups " + number(p.groups) +
            ", kernel " + three(p.kernel) + ", stride " + three(p.stride) + ", dilation " +
            three(p.dilation) + ", pads " + three(p.pad_begin) + " " + three(p.pad_end);
    if (p.transposed) text += ", transposed with output pad " + three(p.output_pad);
    text += ", strides a " + strides(a_.view, a_.view.batch_stride, a_.view.channel_stride) +
            " b " + strides(weights_, weights_.out_stride, weights_.in_stride) + " c " +
            strides(c_.view, c_.view.batch_stride, c_.view.channel_stride);
    text += ", zero points a " + number(p.a_zero_point) + " b " +
            number(std::ssize(b_zero_points_)) + ", epilogue";
    return text + steps_.describe(p.epilogue, p.out_channels);
  }

 private:
  bool integer() const { return is_int8(problem_.a); }
  Index any_skip() { return random_.one_in(2) ? 0 : random_.between(1, 3); }

  void choose_types() {
    using D = DType;
    ConvProblem& p = problem_;
    if (random_.one_in(3)) {
      p.a = random_.pick({D::f32, D::bf16, D::f16});
      p.b = random_.one_in(3) ? random_.pick({D::f32, D::bf16, D::f16}) : p.a;
    } else {
      p.a = random_.pick({D::s8, D::u8});
      p.b = random_.pick({D::s8, D::s8, D::u8});
    }
    p.c = integer() && random_.one_in(3)
              ? D::s32
              : random_.pick({D::s8, D::u8, D::s8, D::u8, D::f32, D::bf16, D::f16});
    if (is_int8(p.c)) p.c_zero_point = random_.one_in(3) ? 0 : any_int8(random_, p.c);
  }

  Index work() const {
    const ConvProblem& p = problem_;
    return batch_ * out_[0] * out_[1] * out_[2] * p.taps() * p.group_inputs() * p.out_channels;
  }

  void choose_shape(Index max_work) {
    if (integer() && max_work >= 1'000'000 && random_.one_in(6)) return choose_large_3x3(max_work);
    max_work >>= random_.between(0, 8);
    const std::size_t dimensions = random_.pick<std::size_t>({1, 2, 2, 2, 3});
    batch_ = random_.one_in(3) ? random_.between(0, 4) : 1;
    constexpr Index kMost[] = {100, 24, 9};
    for (std::size_t d = 3 - dimensions; d < 3; ++d) {
      in_[d] = random_.between(1, random_.one_in(8) ? 4 : kMost[dimensions - 1]);
      if (random_.one_in(60)) in_[d] = 0;
    }
    choose_channels();
    choose_kernel(3 - dimensions);
    choose_window(3 - dimensions);
    settle();
    while (work() > max_work) {
      Index* largest = &batch_;
      for (Index* x : {&in_[0], &in_[1], &in_[2], &inputs_, &outputs_, &problem_.groups}) {
        if (*x > *largest) largest = x;
      }
      if (*largest <= 1) break;
      *largest = divide_up(*largest, 2);
      settle();
    }
  }

  /// Channels of a group: few, primes, around and at multiples of sixteen.
  void choose_channels() {
    const auto any = [&] {
      if (random_.one_in(30)) return Index{0};
      if (random_.one_in(4)) return 16 * random_.between(1, 4);
      return random_.pick<Index>({1, 1, 2, 3, 4, 5, 7, 8, 13, 15, 17, 31, 33, 61, 67});
    };
    const Index kind = random_.between(0, 9);
    if (kind < 3) {  // depthwise
      problem_.groups = random_.pick<Index>({1, 3, 8, 16, 17, 32, 40, 64, 67});
      inputs_ = 1;
      outputs_ = random_.pick<Index>({1, 1, 1, 2, 3});
      return;
    }
    if (kind < 5) problem_.groups = random_.between(2, 5);
    inputs_ = any();
    outputs_ = any();
  }

  void choose_kernel(std::size_t first) {
    Spatial& kernel = problem_.kernel;
    const Index kind = random_.between(0, 11);
    const std::size_t line =
        static_cast<std::size_t>(random_.between(static_cast<Index>(first), 2));  // of 1 x k
    for (std::size_t d = first; d < 3; ++d) {
      switch (kind) {
        case 0:
        case 1:
          break;  // pointwise
        case 2:
        case 3:
        case 4:
          kernel[d] = 3;
          break;
        case 5:
          kernel[d] = 5;
          break;
        case 6:
          kernel[d] = 7;
          break;
        case 7:
          if (d == line) kernel[d] = random_.between(2, 9);
          break;
        case 8:
          kernel[d] = random_.pick<Index>({2, 2, 4});
          break;
        default:
          kernel[d] = random_.between(1, 4);
      }
    }
    if (kind == 6) seven_ = true;
  }

  /// Strides, dilations and pads; some images lie entirely in the pads.
  void choose_window(std::size_t first) {
    ConvProblem& p = problem_;
    p.transposed = random_.one_in(6);
    const bool strides = random_.one_in(3), dilates = random_.one_in(4);
    const Index pads = random_.between(0, 3);  // none, same, near the kernel's size, any
    same_ = pads == 1;
    same_lower_ = same_ && random_.one_in(2);
    for (std::size_t d = first; d < 3; ++d) {
      p.stride[d] = seven_ ? 2 : strides ? random_.between(1, 3) : 1;
      if (dilates) p.dilation[d] = random_.between(1, 3);
      const Index reach = (p.kernel[d] - 1) * p.dilation[d];
      if (pads >= 2) {
        p.pad_begin[d] = random_.between(0, pads == 2 ? reach : reach + 3);
        p.pad_end[d] = random_.between(0, pads == 2 ? reach : reach + 3);
      }
      const Index limit = p.stride[d] > p.dilation[d] ? p.stride[d] : p.dilation[d];
      if (p.transposed && random_.one_in(2)) output_pad_[d] = random_.between(0, limit - 1);
    }
  }

  /// What follows from the sizes.
  void settle() {
    problem_.in_channels = problem_.groups * inputs_;
    problem_.out_channels = problem_.groups * outputs_;
    problem_.output_pad = output_pad_;
    if (same_) pad_same(problem_, in_, same_lower_);
    out_ = output_extent(problem_, in_);
  }

  /// Many channels and enough tiles of 4 x 4 outputs: there are faster ways than patches, with
  /// bounds of their own.
  void choose_large_3x3(Index max_work) {
    ConvProblem& p = problem_;
    p.kernel = {1, 3, 3};
    inputs_ = random_.pick<Index>({16, 16, 32, 48, 64, 128, 256, 256});
    outputs_ = random_.one_in(2) ? 16 * random_.between(1, 3) : random_.between(16, 50);
    batch_ = random_.one_in(4) ? 2 : 1;
    in_[0] = random_.one_in(6) ? 2 : 1;
    const bool same = random_.one_in(2);
    Spatial out = {in_[0], random_.between(9, 17), random_.between(9, 17)};
    for (std::size_t d = 1; d < 3; ++d) {
      p.pad_begin[d] = same ? 1 : random_.between(0, 3);
      p.pad_end[d] = same ? 1 : random_.between(0, 3);
    }
    for (Index step = 0;; ++step) {
      for (std::size_t d = 1; d < 3; ++d) in_[d] = out[d] + 2 - p.pad_begin[d] - p.pad_end[d];
      settle();
      if (work() <= max_work) return;
      if (step == 0) batch_ = in_[0] = 1;
      if (step == 1) out = {1, 9, 9};
      if (step == 2) outputs_ = 16;
      if (step >= 3) inputs_ -= 16;
    }
  }

  /// OHWI, OIHW, the transposed order, or any with gaps; groups may differ in the kind of their
  /// values, for a kernel may be chosen by them.
  void choose_weights() {
    const ConvProblem& p = problem_;
    const Index k = p.taps() * inputs_, size = size_of(p.b);
    switch (random_.between(0, 4)) {
      case 0:
      case 1:
        weights_ = FilterView::inputs_last(nullptr, p);
        break;
      case 2:
        weights_ = FilterView::inputs_first(nullptr, p);
        break;
      case 3:
        weights_ = FilterView::transposed(nullptr, p);
        break;
      default: {
        const auto s = any_strides<5>(
            random_, {p.out_channels, p.kernel[0], p.kernel[1], p.kernel[2], inputs_});
        weights_ = {nullptr, p.b, s[0], {s[1], s[2], s[3]}, s[4]};
      }
    }
    if (k * p.out_channels == 0) return;
    const Spatial last = {p.kernel[0] - 1, p.kernel[1] - 1, p.kernel[2] - 1};
    const Index span = weights_.offset(p.groups - 1, p.out_channels - 1, last, inputs_ - 1) + 1;
    const Index skip = any_skip();
    filter_ = AlignedBuffer(static_cast<std::size_t>((skip + span) * size));
    std::memset(filter_.data(), 0xFF, filter_.size());
    std::byte* const begin = filter_.data() + skip * size;
    weights_.data = begin;

    AlignedBuffer dense(static_cast<std::size_t>(k * p.out_channels * size));  // by out channel
    const Index pieces = random_.one_in(2) ? 1 : p.groups, columns = p.out_channels / pieces;
    for (Index piece = 0; piece < pieces; ++piece) {
      std::byte* at = dense.data() + piece * columns * k * size;
      b_values_ = fill_any(random_, MatrixView(at, p.b, k, columns, 1, k));
    }
    if (pieces > 1) b_values_ = "by group";
    const std::byte* from = dense.data();
    Spatial at = {};
    for (Index j = 0; j < p.out_channels; ++j) {
      for (at[0] = 0; at[0] < p.kernel[0]; ++at[0]) {
        for (at[1] = 0; at[1] < p.kernel[1]; ++at[1]) {
          for (at[2] = 0; at[2] < p.kernel[2]; ++at[2]) {
            for (Index i = 0; i < inputs_; ++i, from += size) {
              std::memcpy(begin + weights_.offset(j / outputs_, j, at, i) * size, from,
                          static_cast<std::size_t>(size));
            }
          }
        }
      }
    }
  }

  void choose_zero_points() {
    if (!integer()) return;
    if (random_.one_in(2)) problem_.a_zero_point = any_int8(random_, problem_.a);
    if (random_.one_in(2)) return;
    const Index count = random_.one_in(2) ? 1 : problem_.out_channels;
    for (Index j = 0; j < count; ++j) b_zero_points_.push_back(any_int8(random_, problem_.b));
    problem_.b_zero_points = b_zero_points_;
  }

  void choose_epilogue() {
    const ConvProblem& p = problem_;
    const EpilogueCase::Of of{p.b, p.c, p.out_channels, positions(size()), p.taps() * inputs_};
    steps_.choose(random_, of, problem_.epilogue, problem_.overflow, [&](DType type) {
      residual_ = allocate(any_image(random_, type, batch_, out_, p.out_channels), any_skip());
      fill_any(random_, residual_.view);
    });
  }

  static ImageView part(ImageView view, Index images, const Spatial& extent) {
    view.batch = images;
    view.extent = extent;
    return view;
  }

  std::uint64_t seed_;
  Random random_;
  ConvProblem problem_;
  Index inputs_ = 1, outputs_ = 1, batch_ = 1;  // channels of a group
  Spatial in_ = {1, 1, 1}, out_ = {}, output_pad_ = {};
  bool seven_ = false, same_ = false, same_lower_ = false;
  FilterView weights_;
  AlignedBuffer filter_;
  ImageOperand a_, residual_, c_;
  const char *a_values_ = "", *b_values_ = "";
  std::vector<std::int32_t> b_zero_points_;
  EpilogueCase steps_;
};

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
