// Depthwise convolution: each output channel has one input channel, so there is no product of
// matrices in it, and channels go through vectors side by side.
//
//   for each 16 channels and a few rows of the output        a task
//     for each block of these rows
//       make the lines of the input that its kernels need    unless the block above had them
//       sums over lines and taps, epilogue                   one call, see depthwise-inl.hpp
//
// A line is a row of pixels, padded, whose channels have become words: of one float; of two shorts,
// of this row and of the next that the kernel reads; or of four bytes, of four such rows. One
// multiplication then serves as many taps, and a line serves all taps along the width.
//
// Lines need not begin where the kernel does: of three rows that begin in the middle of one line,
//
//   rows 0 1 | 2 3     rows 0 1 | 2 3     rows 0 1 2 3     rows 0 1 2 3
//        a b | c 0          0 a | b c          a b c 0          0 a b c
//
// there are as many as of those that begin with it. Weights are kept for each of these *phases*, so
// lines serve several rows of the output, and fewer of them are made.
//
// Zero points: weights are w - zb, which fits 16 bits (8 bits, or there are no bytes); padding is
// za, and za times the sum of a channel's weights is subtracted modulo 2^32 in the end.
#pragma once

#include <bit>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "quern/cpu/backend.hpp"
#include "quern/cpu/constants.hpp"
#include "quern/cpu/conv_kernels.hpp"
#include "quern/cpu/rows.hpp"
#include "quern/ops/conv.hpp"
#include "quern/ops/gemm_reference.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// Immutable; copies share the weights.
class Depthwise {
 public:
  /// Whether it can be used, and is faster than a product for each group.
  static bool suits(const ConvProblem& p) {
    constexpr Index kWidest = 128, kMostStride = 16;
    const Index rows = is_int8(p.b) ? 2 : 1;
    return p.out_channels > 0 && p.group_inputs() == 1 && p.group_outputs() < kPanel &&
           p.kernel[0] <= kMostLines && p.kernel[1] <= kMostLines * rows &&
           p.kernel[0] * divide_up(p.kernel[1], rows) <= kMostLines && p.kernel[2] <= kWidest &&
           (p.kernel[2] - 1) * p.dilation[2] <= kWidest && p.stride[2] <= kMostStride;
  }

  /// Of a valid problem that suits. Empty if memory runs out.
  static std::optional<Depthwise> make(const Kernels& kernels, const ConvProblem& p,
                                       const FilterView& b) {
    const Index width = divide_up(p.out_channels, kPanel) * kPanel;
    Depthwise d(kernels, p, choose(conv_kernels_for(kernels), p, b));
    auto weights = std::make_shared<AlignedBuffer>(
        static_cast<std::size_t>(d.phases_ * width * d.line_count() * p.kernel[2] * 4));
    auto constants =
        std::make_shared<AlignedBuffer>(static_cast<std::size_t>(Constants::bytes(width, 1)));
    if (weights->size() == 0 || constants->size() == 0) return {};
    std::memset(weights->data(), 0, weights->size());
    Constants keep(constants->data(), width);
    keep.steps(d.problem_.epilogue);
    if (d.is_integer()) {
      std::int32_t* base = keep.take();
      d.pack_integers(p, b, weights->data(), base);
      d.base_ = base;
    } else {
      d.pack_floats(b, weights->data());
    }
    d.problem_.b_zero_points = {};
    d.weights_ = std::move(weights);
    d.constants_ = std::move(constants);
    return d;
  }

  std::string kernel() const { return std::string("depthwise on ") + kernels_->target; }

  Index worker_bytes() const {
    return Carver::bytes<std::byte>(line_bytes_) + Carver::bytes<std::byte>(columns_ * kPixel) +
           2 * Carver::bytes<std::byte>(kPixel) + Carver::bytes<Index>(kMostSlots) +
           Carver::bytes<std::int32_t>(most_sums() * kPanel);
  }

  /// A validated call; `memory` is aligned and has worker_bytes() for each worker. `c` and
  /// `residual`: all output positions, matrices unless `places` finds them.
  void run(const ConvArgs& args, const MatrixView& c, const ConstMatrixView& residual,
           const RowPlaces& places, std::byte* memory, Parallel executor) const noexcept {
    const Spatial& out = args.c.extent;
    const Index panels = divide_up(problem_.out_channels, kPanel);
    const Index row_bytes = args.a.extent[2] * problem_.in_channels * size_of(problem_.a);
    // Rows of a task: the lines at its top are made twice, but the input has to stay in L2 while
    // the channels pass by, and all workers should have work.
    constexpr Index kInputBytes = 256 * 1024, kFewest = 8;
    Index rows = row_bytes == 0 ? out[1] : kInputBytes / (row_bytes * problem_.stride[1]);
    rows = rows < kFewest ? kFewest : rows;
    const Index planes = args.c.batch * out[0], workers = executor.concurrency();
    if (workers > 1 && planes * panels * divide_up(out[1], rows) < 4 * workers) rows = kFewest;
    rows = divide_up(out[1], divide_up(out[1], rows));
    const Call call(*this, args, c, residual, places, rows);
    executor(planes * divide_up(out[1], rows) * panels, [&](Index index, Index worker) {
      const Index block = index / panels, blocks = divide_up(out[1], rows);
      Task(*this, call, block / blocks, block % blocks * rows, index % panels,
           memory + worker * worker_bytes())
          .run();
    });
  }

 private:
  static constexpr Index kPixel = kPanel * 4;  // bytes of a column of a line
  static constexpr Index kLines = 24 * 1024;   // bytes of all lines, for L1
  static constexpr Index kMostLines = 16;      // that one row of the output reads
  static constexpr Index kMostSlots = 64;      // lines at a time
  static constexpr Index kMostRows = 16;       // of a block
  static constexpr Index kMostSums = 384;      // positions of a block, unless one row has more

  static Index least(Index a, Index b) { return a < b ? a : b; }

  /// What all tasks of a call share.
  struct Call {
    const ConvArgs& args;
    const MatrixView& c;
    const ConstMatrixView& residual;
    const RowPlaces& places;
    Index rows;           // of a task
    Index width, pixels;  // output positions of a row that are computed together; their columns
    Index columns;        // such pieces of a row
    Index slots;          // lines of each plane of the kernel that there is room for
    Index block;          // rows of a block

    Call(const Depthwise& d, const ConvArgs& args, const MatrixView& c,
         const ConstMatrixView& residual, const RowPlaces& places, Index rows)
        : args(args), c(c), residual(residual), places(places), rows(rows) {
      const ConvProblem& p = d.problem_;
      const Index out = args.c.extent[2];
      width = divide_up(out, divide_up(out, d.most_width()));
      columns = divide_up(out, width);
      pixels = (width - 1) * p.stride[2] + d.span();
      slots = least(d.line_bytes_ / (pixels * kPixel), kMostSlots) / p.kernel[0];
      block = d.keeps_ ? (slots - d.reach()) * d.phases_ / p.stride[1] + 1 : slots / d.lines_;
      const Index most = least(kMostRows, d.most_sums() / width);
      block = least(block, most);
    }
  };

  Depthwise(const Kernels& kernels, const ConvProblem& p, const DepthwiseIdiom& idiom)
      : kernels_(&kernels), idiom_(&idiom), problem_(p) {
    const Index height = p.kernel[1], rows = idiom.rows;
    const bool dilated = height > 1 && p.dilation[1] > 1;
    lines_ = divide_up(height, rows);
    const auto spare = static_cast<std::uint64_t>(lines_ * rows - height + 1);
    phases_ = dilated ? 1 : least(rows, static_cast<Index>(std::bit_floor(spare)));
    row_step_ = dilated ? p.dilation[1] : 1;
    line_step_ = dilated ? rows * p.dilation[1] : rows / phases_;
    // Lines serve other rows of the output too, unless there are too many in between.
    keeps_ = reach() * p.kernel[0] <= 2 * kMostLines && p.stride[1] <= phases_ * reach();
    const Index fewest = keeps_ ? reach() : lines_;
    const Index wanted = keeps_ ? fewest + divide_up(3 * p.stride[1], phases_) : fewest;
    const Index room = kLines / (wanted * p.kernel[0] * kPixel), narrow = span() + 7 * p.stride[2];
    columns_ = room < narrow ? narrow : room;
    const Index bytes = fewest * p.kernel[0] * columns_ * kPixel;
    line_bytes_ = bytes < kLines ? kLines : bytes;
  }

  /// Quads if the weights fit.
  static const DepthwiseIdiom& choose(const ConvKernels& kernels, const ConvProblem& p,
                                      const FilterView& b) {
    if (!is_int8(p.b)) return kernels.depthwise_floats;
    bool fits = kernels.depthwise_quads.rows != 0;
    for_each_weight(p, [&](Index j, const Spatial& at) {
      const std::int32_t w = integer(p, b, j, at);
      fits &= w >= -128 && w <= 127;
    });
    return fits ? kernels.depthwise_quads : kernels.depthwise_pairs;
  }

  bool is_integer() const { return is_int8(problem_.b); }
  /// Of an input on its way into lines.
  Index size() const { return is_integer() ? 1 : 4; }
  Index line_count() const { return problem_.kernel[0] * lines_; }
  /// From the first line that a row of the output reads to the last, both included.
  Index reach() const { return (lines_ - 1) * line_step_ + 1; }
  /// Columns that a position of the output reads, first to last.
  Index span() const { return (problem_.kernel[2] - 1) * problem_.dilation[2] + 1; }
  /// How many output positions lines have room for.
  Index most_width() const { return (columns_ - span()) / problem_.stride[2] + 1; }
  Index most_sums() const { return most_width() < kMostSums ? kMostSums : most_width(); }

  /// What is added to 8-bit inputs on their way into lines.
  static std::int32_t shift(const ConvProblem& p, const DepthwiseIdiom& idiom) {
    return idiom.rows == 4 && p.a == DType::s8 ? 128 : 0;
  }

  template <class F>
  static void for_each_weight(const ConvProblem& p, const F& f) {
    Spatial at = {};
    for (Index j = 0; j < p.out_channels; ++j) {
      for (at[0] = 0; at[0] < p.kernel[0]; ++at[0]) {
        for (at[1] = 0; at[1] < p.kernel[1]; ++at[1]) {
          for (at[2] = 0; at[2] < p.kernel[2]; ++at[2]) f(j, at);
        }
      }
    }
  }

  /// The only weight of an output channel at a position in the kernel.
  static ConstMatrixView weight(const FilterView& b, const ConvProblem& p, Index j,
                                const Spatial& at) {
    const Index offset = b.offset(j / p.group_outputs(), j, at, 0) * size_of(b.type);
    return {static_cast<const std::byte*>(b.data) + offset, b.type, 1, 1};
  }
  /// The same less its zero point.
  static std::int32_t integer(const ConvProblem& p, const FilterView& b, Index j,
                              const Spatial& at) {
    const std::size_t zeros = p.b_zero_points.size();
    const std::int32_t zb =
        zeros == 0 ? 0 : p.b_zero_points[zeros == 1 ? 0 : static_cast<std::size_t>(j)];
    return quern::detail::load_int8(weight(b, p, j, at), 0, 0, 0) - zb;
  }

  /// Where a weight belongs: its word's number and which of the rows in it.
  struct Place {
    Index word, row;
  };
  Place place(Index phase, Index j, const Spatial& at) const {
    const Spatial& kernel = problem_.kernel;
    const Index y = phase + at[1], line = at[0] * lines_ + y / idiom_->rows;
    const Index panels = divide_up(problem_.out_channels, kPanel),
                panel = phase * panels + j / kPanel;
    return {((panel * line_count() + line) * kernel[2] + at[2]) * kPanel + j % kPanel,
            y % idiom_->rows};
  }

  void pack_integers(const ConvProblem& p, const FilterView& b, std::byte* weights,
                     std::int32_t* base) const {
    const auto add = [&](Index j, std::uint32_t x) {
      base[j] = static_cast<std::int32_t>(static_cast<std::uint32_t>(base[j]) + x);
    };
    const std::int32_t za = p.a_zero_point + shift(p, *idiom_);
    for_each_weight(p, [&](Index j, const Spatial& at) {
      const std::int32_t value = integer(p, b, j, at);
      for (Index phase = 0; phase < phases_; ++phase) {
        const Place to = place(phase, j, at);
        if (idiom_->rows == 2) {
          reinterpret_cast<std::int16_t*>(weights)[to.word * 2 + to.row] =
              static_cast<std::int16_t>(value);
        } else {
          reinterpret_cast<std::int8_t*>(weights)[to.word * 4 + to.row] =
              static_cast<std::int8_t>(value);
        }
      }
      add(j, static_cast<std::uint32_t>(-za * value));
    });
    const Step& first = p.epilogue.steps[0];
    if (!has_bias()) return;
    for (Index j = 0; j < p.out_channels; ++j) {
      add(j, static_cast<std::uint32_t>(static_cast<const std::int32_t*>(first.data)[j]));
    }
  }

  void pack_floats(const FilterView& b, std::byte* weights) const {
    for_each_weight(problem_, [&](Index j, const Spatial& at) {
      reinterpret_cast<float*>(weights)[place(0, j, at).word] =
          load_float(weight(b, problem_, j, at), 0, 0, 0);
    });
  }

  bool has_bias() const {
    return problem_.epilogue.count > 0 && problem_.epilogue.steps[0].kind == Step::Kind::bias_s32;
  }

  /// Some rows of one plane of the output, 16 channels.
  class Task {
   public:
    Task(const Depthwise& d, const Call& call, Index plane, Index row0, Index panel,
         std::byte* memory)
        : d_(d),
          p_(d.problem_),
          call_(call),
          a_(call.args.a),
          image_(plane / call.args.c.extent[0]),
          z_(plane % call.args.c.extent[0]),
          row0_(row0),
          channel_(panel * kPanel),
          channels_(least(kPanel, d.problem_.out_channels - channel_)) {
      Carver carver(memory);
      lines_ = carver.take<std::byte>(d.line_bytes_);
      stage_ = carver.take<std::byte>(d.columns_ * kPixel);
      outside_ = carver.take<std::byte>(kPixel);
      padding_ = carver.take<std::byte>(kPixel);
      numbers_ = carver.take<Index>(kMostSlots);
      sums_ = carver.take<std::int32_t>(d.most_sums() * kPanel);
    }

    void run() {
      const Spatial& out = call_.args.c.extent;
      std::memset(outside_, p_.a_zero_point & 0xFF, kPixel);
      make_line({}, 0, 1, true, padding_);
      output_.steps = p_.epilogue.steps + d_.has_bias();
      output_.step_count = p_.epilogue.count - d_.has_bias();
      output_.type = p_.c;
      output_.zero_point = p_.c_zero_point;
      output_.integer = d_.is_integer();
      if (output_.integer) output_.base = d_.base_ + channel_;
      output_.column = channel_;
      output_.c = call_.c;
      output_.inputs.residual = call_.residual;
      if (!call_.args.row_scales.empty()) output_.inputs.row_scales = call_.args.row_scales.data();
      const Index end = least(row0_ + call_.rows, out[1]);
      for (Index column = 0; column < call_.columns; ++column) {
        const Index x0 = column * call_.width;
        begin_columns(x0, least(call_.width, out[2] - x0));
        for (Index y = row0_; y < end; y += call_.block) block(y, least(call_.block, end - y), x0);
      }
    }

   private:
    static constexpr Index kNone = -1;

    /// The rows of the image that are in a line; null: outside.
    struct Rows4 {
      const std::byte* data[4] = {};
    };

    /// Output positions [x0, x0 + width) of rows, and what they read of the image.
    void begin_columns(Index x0, Index width) {
      width_ = width;
      first_ = x0 * p_.stride[2] - p_.pad_begin[2];
      count_ = (width - 1) * p_.stride[2] + d_.span();
      begin_ = least(first_ < 0 ? -first_ : 0, count_);
      const Index left = a_.extent[2] - first_ - begin_;
      end_ = begin_ + least(left < 0 ? 0 : left, count_ - begin_);
      for (Index s = 0; s < call_.slots * p_.kernel[0]; ++s) numbers_[s] = kNone;
    }

    void block(Index y, Index rows, Index x0) {
      const Spatial& out = call_.args.c.extent;
      const Index line_count = d_.line_count(), taps = p_.kernel[2],
                  panel_bytes = line_count * taps * kPixel,
                  panels = divide_up(p_.out_channels, kPanel);
      const std::byte *lines[kMostRows * kMostLines], *weights[kMostRows];
      const std::byte** next = lines;
      const int shift = std::countr_zero(static_cast<std::uint64_t>(d_.phases_));
      for (Index i = 0; i < rows; ++i) {
        const Index top = (y + i) * p_.stride[1], phase = top & (d_.phases_ - 1);
        weights[i] = d_.weights_->data() + (phase * panels + channel_ / kPanel) * panel_bytes;
        for (Index kz = 0; kz < p_.kernel[0]; ++kz) {
          for (Index l = 0; l < d_.lines_; ++l) {
            *next++ = line(kz, (top >> shift) + l * d_.line_step_, i * d_.lines_ + l);
          }
        }
      }
      const DepthwiseRows in{rows,
                             width_,
                             lines,
                             weights,
                             line_count,
                             taps,
                             p_.dilation[2] * kPixel,
                             p_.stride[2] * kPixel,
                             out[2]};
      output_.row = ((image_ * out[0] + z_) * out[1] + y) * out[2] + x0;
      if (call_.places.find == nullptr && d_.idiom_->sum_and_finish(in, output_, channels_)) return;
      d_.idiom_->sum(in, sums_);
      const Index together = width_ == out[2] ? rows : 1;  // rows that follow each other in C
      for (Index i = 0; i < rows; i += together, output_.row += out[2]) {
        finish_rows(*d_.kernels_, call_.places, output_, sums_ + i * width_ * kPanel,
                    together * width_, channels_);
      }
    }

    /// A line of a plane of the kernel. `place`: its own within the block, if lines are not kept.
    const std::byte* line(Index kz, Index number, Index place) {
      const Index within = !d_.keeps_             ? place
                           : number < call_.slots ? number
                                                  : number % call_.slots;
      const Index slot = kz * call_.slots + within;
      std::byte* to = lines_ + slot * call_.pixels * kPixel;
      Index& has = numbers_[slot];
      if (has == number) return to;
      if (has == kNone) {  // the columns outside the image stay
        for (Index i = 0; i < begin_; ++i) std::memcpy(to + i * kPixel, padding_, kPixel);
        for (Index i = end_; i < count_; ++i) std::memcpy(to + i * kPixel, padding_, kPixel);
      }
      has = number;
      const Index plane = z_ * p_.stride[0] + kz * p_.dilation[0] - p_.pad_begin[0],
                  row = number * d_.phases_ - p_.pad_begin[1];
      const bool inside = plane >= 0 && plane < a_.extent[0];
      Rows4 rows;
      for (Index i = 0; i < d_.idiom_->rows; ++i) {
        const Index y = row + i * d_.row_step_;
        if (inside && y >= 0 && y < a_.extent[1] && begin_ < end_) {
          rows.data[i] = element(a_, image_, {plane, y, first_ + begin_}, 0);
        }
      }
      const Index direct = in_place();
      make_line(rows, begin_, direct, true, to);
      make_line(rows, direct, end_, false, to);
      return to;
    }

    /// How many columns come first whose 16 channels can be read where they are. Channels that do
    /// not exist are read too, as whatever is there, while that is within the image.
    Index in_place() const {
      if (p_.group_outputs() != 1 || a_.channel_stride != 1 || size_of(a_.type) != d_.size()) {
        return begin_;
      }
      if (channels_ == kPanel) return end_;
      if (a_.extent[2] == 1) return begin_;
      const Index beyond = divide_up(kPanel - channels_, a_.strides[2]);
      const Index safe = least(end_, a_.extent[2] - beyond - first_);
      return safe < begin_ ? begin_ : safe;
    }

    /// Columns [from, until) of a line. Each row begins in column begin_; null: it is outside.
    void make_line(const Rows4& rows, Index from, Index until, bool direct, std::byte* to) const {
      if (from >= until) return;
      const Index step = a_.extent[2] > 1 ? a_.strides[2] * size_of(a_.type) : 0;
      PixelRow pixels[4];
      for (Index i = 0; i < d_.idiom_->rows; ++i) {
        pixels[i] = {outside_, 0};
        if (rows.data[i] == nullptr) continue;
        const std::byte* x = rows.data[i] + (from - begin_) * step;
        if (direct) {
          pixels[i] = {x + channel_ * size_of(a_.type), step};
        } else {
          const Index pixel = kPanel * d_.size();
          std::byte* stage = stage_ + i * d_.columns_ * pixel;
          gather(x, until - from, stage);
          pixels[i] = {stage, pixel};
        }
      }
      d_.idiom_->make_line(pixels, until - from, a_.type == DType::s8, to + from * kPixel);
    }

    /// 16 channels of `count` pixels from x on: bytes or floats.
    void gather(const std::byte* x, Index count, std::byte* to) const {
      const Index size = size_of(a_.type), step = a_.strides[2], multiple = p_.group_outputs();
      if (multiple == 1 && size == d_.size()) {
        rows_detail::copy_elements(size, x + channel_ * a_.channel_stride * size, step,
                                   a_.channel_stride, to, kPanel, 1, count, channels_);
        return;
      }
      for (Index c = 0; c < channels_; ++c) {
        const std::byte* from = x + (channel_ + c) / multiple * a_.channel_stride * size;
        for (Index i = 0; i < count; ++i, from += step * size) {
          if (d_.is_integer()) {
            to[i * kPanel + c] = *from;
          } else {
            const float value = load_float(ConstMatrixView(from, a_.type, 1, 1), 0, 0, 0);
            std::memcpy(to + (i * kPanel + c) * 4, &value, 4);
          }
        }
      }
    }

    const Depthwise& d_;
    const ConvProblem& p_;
    const Call& call_;
    const ConstImageView& a_;
    Index image_, z_, row0_, channel_, channels_;
    Output output_;
    Index width_ = 0;            // output positions of a row
    Index first_ = 0;            // the image's column where lines begin,
    Index count_ = 0;            // how many they have,
    Index begin_ = 0, end_ = 0;  // and which are within the image
    std::byte* lines_;
    std::byte* stage_;    // rows of pixels whose channels had to be gathered
    std::byte* outside_;  // 16 channels of padding,
    std::byte* padding_;  // and what it is in a line
    Index* numbers_;      // of the lines in the slots
    std::int32_t* sums_;
  };

  const Kernels* kernels_;
  const DepthwiseIdiom* idiom_;
  ConvProblem problem_;                           // the epilogue's arrays are padded copies
  std::shared_ptr<const AlignedBuffer> weights_;  // (phases, panels, lines, kernel width, 16) words
  std::shared_ptr<const AlignedBuffer> constants_;
  const std::int32_t* base_ = nullptr;  // what all sums of a channel begin with, if integers
  Index lines_ = 0;                     // of a plane of the kernel
  Index phases_ = 1;                    // rows from a line to the next: 1, 2 or 4
  Index row_step_ = 1;                  // from one row of a line to the next
  Index line_step_ = 1;                 // from one line that a row of the output reads to the next
  bool keeps_ = false;                  // lines serve the rows below too
  Index columns_ = 0;                   // of a line
  Index line_bytes_ = 0;                // of all lines together
};

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
