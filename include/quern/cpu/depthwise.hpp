// Depthwise convolution: each output channel has one input channel, so there is no product of
// matrices in it, and channels go through vectors side by side.
//
//   for each 16 channels and a few rows of the output        a task
//     for each row of the output
//       make the lines of the input that its kernel needs    unless the row above had them
//       sums over lines and taps                             see depthwise-inl.hpp
//     epilogue
//
// A line is a row of pixels, padded, whose 8-bit channels have become words of two shorts: of this
// row and of the next that the kernel reads. One multiplication then serves two taps, and a line
// serves all taps along the width. Zero points: weights are w - zb, which fits 16 bits; padding is
// za, and za times the sum of a channel's weights is subtracted modulo 2^32 in the end. Floats have
// lines of one row, as they are.
#pragma once

#include <memory>
#include <bit>
#include <optional>

#include "quern/cpu/backend.hpp"
#include "quern/cpu/constants.hpp"
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
    return p.out_channels > 0 && p.group_inputs() == 1 && p.group_outputs() < kPanel &&
           p.kernel[0] <= kMostLines && lines_of(p) <= kMostLines &&
           p.kernel[0] * lines_of(p) <= kMostLines && p.kernel[2] <= kWidest &&
           (p.kernel[2] - 1) * p.dilation[2] <= kWidest && p.stride[2] <= kMostStride;
  }

  /// Of a valid problem that suits. Empty if memory runs out.
  static std::optional<Depthwise> make(const Kernels& kernels, const ConvProblem& p,
                                       const FilterView& b) {
    const Index width = divide_up(p.out_channels, kPanel) * kPanel;
    Depthwise d(kernels, p);
    auto weights = std::make_shared<AlignedBuffer>(
        static_cast<std::size_t>(width * d.line_count() * p.kernel[2] * 4));
    auto constants =
        std::make_shared<AlignedBuffer>(static_cast<std::size_t>(Constants::bytes(width, 1)));
    if (weights->size() == 0 || constants->size() == 0) return {};
    std::memset(weights->data(), 0, weights->size());
    Constants keep(constants->data(), width);
    keep.steps(d.problem_.epilogue);
    if (is_int8(p.b)) {
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
    return Carver::bytes<std::byte>(slots_ * columns_ * kPixel) +
           2 * Carver::bytes<std::byte>(columns_ * kPanel) + Carver::bytes<std::byte>(kPanel) +
           Carver::bytes<Tag>(slots_) + Carver::bytes<std::int32_t>(most_sums() * kPanel);
  }

  /// A validated call; `memory` is aligned and has worker_bytes() for each worker. `c` and
  /// `residual`: all output positions, matrices unless `places` finds them.
  void run(const ConvArgs& args, const MatrixView& c, const ConstMatrixView& residual,
           const RowPlaces& places, std::byte* memory, Parallel executor) const noexcept {
    const Spatial& out = args.c.extent;
    const Index panels = divide_up(problem_.out_channels, kPanel);
    const Index width = width_of(out[2]),
                row_bytes = args.a.extent[2] * problem_.in_channels * size_of(problem_.a);
    // Rows of a task: the lines at its top are made twice, but the input has to stay in L2 while
    // the channels pass by, and all workers should have work.
    constexpr Index kInputBytes = 256 * 1024, kFewest = 8;
    Index rows = row_bytes == 0 ? out[1] : kInputBytes / (row_bytes * problem_.stride[1]);
    rows = rows < kFewest ? kFewest : rows;
    const Index planes = args.c.batch * out[0], workers = executor.concurrency();
    if (workers > 1 && planes * panels * divide_up(out[1], rows) < 4 * workers) rows = kFewest;
    rows = divide_up(out[1], divide_up(out[1], rows));
    const Call call{args, c, residual, places, width, divide_up(out[2], width), rows};
    executor(planes * divide_up(out[1], rows) * panels, [&](Index index, Index worker) {
      const Index block = index / panels, blocks = divide_up(out[1], rows);
      Task(*this, call, block / blocks, block % blocks * rows, index % panels,
           memory + worker * worker_bytes())
          .run();
    });
  }

 private:
  static constexpr Index kPixel = kPanel * 4;  // bytes of a pixel of a line
  static constexpr Index kLines = 24 * 1024;   // bytes of all lines, for L1
  static constexpr Index kMostLines = 16;      // that one row of the output reads
  static constexpr Index kMostSums = 128;      // positions whose sums wait for the epilogue

  /// Which line is in a slot: the plane and row of the input, and where its columns begin.
  struct Tag {
    Index plane, row, column;
  };

  struct Call {
    const ConvArgs& args;
    const MatrixView& c;
    const ConstMatrixView& residual;
    const RowPlaces& places;
    Index width;    // output positions of a row that are computed together
    Index columns;  // such pieces of a row
    Index rows;     // of a task
  };

  Depthwise(const Kernels& kernels, const ConvProblem& p) : kernels_(&kernels), problem_(p) {
    // The rows that one row of the output reads, and those between that the next ones need.
    const Index reach = (lines_of(p) - 1) * line_step() * p.dilation[1] + 1;
    keeps_ = reach <= 16;
    plane_slots_ =
        keeps_ ? static_cast<Index>(std::bit_ceil(static_cast<std::uint64_t>(reach))) : lines_of(p);
    slots_ = p.kernel[0] * plane_slots_;
    const Index span = (p.kernel[2] - 1) * p.dilation[2] + 1;
    const Index room = kLines / (slots_ * kPixel), least = span + 7 * p.stride[2];
    columns_ = room < least ? least : room;
  }

  bool is_integer() const { return is_int8(problem_.b); }
  Index line_step() const { return is_integer() ? 2 : 1; }
  /// Lines of a plane of the kernel.
  static Index lines_of(const ConvProblem& p) {
    return is_int8(p.b) ? divide_up(p.kernel[1], 2) : p.kernel[1];
  }
  Index line_count() const { return problem_.kernel[0] * lines_of(problem_); }
  /// How many output positions lines have room for.
  Index most_width() const {
    const Index span = (problem_.kernel[2] - 1) * problem_.dilation[2] + 1;
    return (columns_ - span) / problem_.stride[2] + 1;
  }
  Index width_of(Index out) const { return divide_up(out, divide_up(out, most_width())); }
  Index most_sums() const { return most_width() < kMostSums ? kMostSums : most_width(); }

  void pack_integers(const ConvProblem& p, const FilterView& b, std::byte* weights,
                     std::int32_t* base) const {
    const Step& first = p.epilogue.steps[0];
    const bool has_bias = p.epilogue.count > 0 && first.kind == Step::Kind::bias_s32;
    for_each_weight(b, [&](Index j, Index at, const std::byte* w, bool is_second) {
      const std::size_t zeros = p.b_zero_points.size();
      const std::int32_t zb =
          zeros == 0 ? 0 : p.b_zero_points[zeros == 1 ? 0 : static_cast<std::size_t>(j)];
      const std::int32_t value = (p.b == DType::s8 ? std::int32_t{static_cast<std::int8_t>(*w)}
                                                   : std::int32_t{static_cast<std::uint8_t>(*w)}) -
                                 zb;
      reinterpret_cast<std::int16_t*>(weights)[at * 2 + is_second] =
          static_cast<std::int16_t>(value);
      base[j] = static_cast<std::int32_t>(static_cast<std::uint32_t>(base[j]) -
                                          static_cast<std::uint32_t>(p.a_zero_point * value));
    });
    for (Index j = 0; has_bias && j < p.out_channels; ++j) {
      base[j] = static_cast<std::int32_t>(
          static_cast<std::uint32_t>(base[j]) +
          static_cast<std::uint32_t>(static_cast<const std::int32_t*>(first.data)[j]));
    }
  }

  void pack_floats(const FilterView& b, std::byte* weights) const {
    for_each_weight(b, [&](Index, Index at, const std::byte* w, bool) {
      reinterpret_cast<float*>(weights)[at] = load_float(ConstMatrixView(w, b.type, 1, 1), 0, 0, 0);
    });
  }

  /// Calls f(out channel, its word's number, the weight, whether it is the second of a word).
  template <class F>
  void for_each_weight(const FilterView& b, const F& f) const {
    const Spatial& kernel = problem_.kernel;
    const Index lines = lines_of(problem_);
    for (Index j = 0; j < problem_.out_channels; ++j) {
      for (Index t = 0; t < problem_.taps(); ++t) {
        const Index x = t % kernel[2], y = t / kernel[2] % kernel[1], z = t / kernel[2] / kernel[1];
        const Index line = z * lines + y / line_step();
        const Index word =
            ((j / kPanel * line_count() + line) * kernel[2] + x) * kPanel + j % kPanel;
        f(j, word, element(b, j, z, y, x), y % line_step() != 0);
      }
    }
  }
  /// The only weight of an output channel at a position in the kernel.
  static const std::byte* element(const FilterView& b, Index j, Index z, Index y, Index x) {
    const Index offset = j * b.out_stride + z * b.strides[0] + y * b.strides[1] + x * b.strides[2];
    return static_cast<const std::byte*>(b.data) + offset * size_of(b.type);
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
          channel_(panel * kPanel) {
      Carver carver(memory);
      lines_ = carver.take<std::byte>(d.slots_ * d.columns_ * kPixel);
      for (std::byte*& s : stage_) s = carver.take<std::byte>(d.columns_ * kPanel);
      outside_ = carver.take<std::byte>(kPanel);
      tags_ = carver.take<Tag>(d.slots_);
      sums_ = carver.take<std::int32_t>(d.most_sums() * kPanel);
    }

    void run() {
      const Spatial& out = call_.args.c.extent;
      std::memset(outside_, p_.a_zero_point & 0xFF, kPanel);
      for (Index s = 0; s < d_.slots_; ++s) tags_[s].row = kNone;
      const Index rows = least(call_.rows, out[1] - row0_);
      for (Index column = 0; column < call_.columns; ++column) {
        const Index x0 = column * call_.width, width = least(call_.width, out[2] - x0);
        // Rows that follow each other in C go through the epilogue together.
        const Index most = width == out[2] ? d_.most_sums() / width : 1;
        for (Index y = 0; y < rows; y += most) {
          const Index count = least(most, rows - y);
          for (Index i = 0; i < count; ++i) {
            sums(row0_ + y + i, x0, width, sums_ + i * width * kPanel);
          }
          finish(row0_ + y, x0, count * width);
        }
      }
    }

   private:
    static constexpr Index kNone = INT64_MIN;
    static Index least(Index a, Index b) { return a < b ? a : b; }

    /// One row of output positions, from x0 on.
    void sums(Index y, Index x0, Index width, std::int32_t* to) {
      const Index step = d_.line_step(), lines = lines_of(p_);
      const Index first = x0 * p_.stride[2] - p_.pad_begin[2];
      const Index count = (width - 1) * p_.stride[2] + (p_.kernel[2] - 1) * p_.dilation[2] + 1;
      const std::byte* pointers[kMostLines];
      Index number = 0;
      for (Index kz = 0; kz < p_.kernel[0]; ++kz) {
        for (Index l = 0; l < lines; ++l, ++number) {
          const Index plane = z_ * p_.stride[0] + kz * p_.dilation[0] - p_.pad_begin[0];
          const Index row = y * p_.stride[1] + l * step * p_.dilation[1] - p_.pad_begin[1];
          const Index slot = kz * d_.plane_slots_ + (d_.keeps_ ? row & (d_.plane_slots_ - 1) : l);
          std::byte* line = lines_ + slot * d_.columns_ * kPixel;
          Tag& tag = tags_[slot];
          if (tag.plane != plane || tag.row != row || tag.column != first) {
            tag = {plane, row, first};
            make_line(plane, row, first, count, line);
          }
          pointers[number] = line;
        }
      }
      const DepthwiseRow row{pointers,
                             number,
                             p_.kernel[2],
                             p_.dilation[2] * kPixel,
                             p_.stride[2] * kPixel,
                             d_.weights_->data() + channel_ * number * p_.kernel[2] * 4};
      const Kernels& k = *d_.kernels_;
      (d_.is_integer() ? k.depthwise : k.depthwise_float)(row, width, to);
    }

    bool is_inside(Index plane, Index row) const {
      return plane >= 0 && plane < a_.extent[0] && row >= 0 && row < a_.extent[1];
    }

    /// Columns [first, first + count) of a row of the image, and of the next that the kernel
    /// reads.
    void make_line(Index plane, Index row, Index first, Index count, std::byte* to) {
      const Index begin = least(first < 0 ? -first : 0, count);  // inside the image
      const Index left = a_.extent[2] - first - begin,
                  end = begin + least(left < 0 ? 0 : left, count - begin);
      if (!d_.is_integer()) return make_float_line(plane, row, first, begin, end, count, to);
      const PixelRow outside{outside_, 0};
      const auto pair = [&](const PixelRow& x, const PixelRow& y, Index from, Index until) {
        if (from < until) {
          d_.kernels_->pair_lines(x, y, until - from, p_.a == DType::s8, to + from * kPixel);
        }
      };
      pair(outside, outside, 0, begin);
      pair(outside, outside, end, count);
      if (begin == end) return;
      // The kernel's last row may have no second, then its weight is 0.
      PixelRow rows[2];
      for (Index i = 0; i < 2; ++i) {
        const Index y = row + (p_.kernel[1] > 1 ? i * p_.dilation[1] : 0);
        rows[i] =
            is_inside(plane, y) ? pixels(plane, y, first + begin, end - begin, stage_[i]) : outside;
      }
      pair(rows[0], rows[1], begin, end);
    }

    /// 16 channels of `count` pixels of the image: where they are, or copied.
    PixelRow pixels(Index plane, Index y, Index x, Index count, std::byte* stage) const {
      const std::byte* from = pixel(plane, y, x);
      const Index channels = least(kPanel, p_.out_channels - channel_);
      const bool in_place = p_.group_outputs() == 1 && a_.channel_stride == 1 && channels == kPanel;
      if (in_place) return {from + channel_, a_.extent[2] > 1 ? a_.strides[2] : 0};
      for (Index c = 0; c < kPanel; ++c) {  // of the last again where there are no more
        const Index input = (channel_ + least(c, channels - 1)) / p_.group_outputs();
        const std::byte* x = from + input * a_.channel_stride;
        for (Index i = 0; i < count; ++i) stage[i * kPanel + c] = x[i * a_.strides[2]];
      }
      return {stage, kPanel};
    }

    void make_float_line(Index plane, Index row, Index first, Index begin, Index end, Index count,
                         std::byte* to) const {
      const auto zeros = [&](Index from, Index until) {
        std::memset(to + from * kPixel, 0, static_cast<std::size_t>((until - from) * kPixel));
      };
      if (!is_inside(plane, row) || begin == end) return zeros(0, count);
      zeros(0, begin);
      zeros(end, count);
      const Index channels = least(kPanel, p_.out_channels - channel_);
      const std::byte* from = pixel(plane, row, first + begin);
      const Index step = a_.extent[2] > 1 ? a_.strides[2] * size_of(p_.a) : 0;
      to += begin * kPixel;
      if (p_.group_outputs() == 1 && a_.channel_stride == 1 && p_.a == DType::f32 &&
          channels == kPanel) {
        from += channel_ * 4;
        for (Index i = begin; i < end; ++i, from += step, to += kPixel) {
          std::memcpy(to, from, kPixel);
        }
        return;
      }
      for (Index i = begin; i < end; ++i, from += step, to += kPixel) {
        auto* out = reinterpret_cast<float*>(to);
        for (Index c = 0; c < kPanel; ++c) {
          const Index input = (channel_ + least(c, channels - 1)) / p_.group_outputs();
          const ConstMatrixView one(from + input * a_.channel_stride * size_of(p_.a), p_.a, 1, 1);
          out[c] = load_float(one, 0, 0, 0);
        }
      }
    }

    const std::byte* pixel(Index plane, Index y, Index x) const {
      const Index offset =
          image_ * a_.batch_stride + plane * a_.strides[0] + y * a_.strides[1] + x * a_.strides[2];
      return static_cast<const std::byte*>(a_.data) + offset * size_of(a_.type);
    }

    void finish(Index y, Index x0, Index positions) const {
      const Spatial& out = call_.args.c.extent;
      const Index bias = p_.epilogue.count > 0 && p_.epilogue.steps[0].kind == Step::Kind::bias_s32;
      Output o;
      o.steps = p_.epilogue.steps + bias;
      o.step_count = p_.epilogue.count - bias;
      o.type = p_.c;
      o.zero_point = p_.c_zero_point;
      o.integer = d_.is_integer();
      if (o.integer) o.base = d_.base_ + channel_;
      o.row = ((image_ * out[0] + z_) * out[1] + y) * out[2] + x0;
      o.column = channel_;
      o.c = call_.c;
      o.inputs.residual = call_.residual;
      if (!call_.args.row_scales.empty()) o.inputs.row_scales = call_.args.row_scales.data();
      finish_rows(*d_.kernels_, call_.places, o, sums_, positions,
                  least(kPanel, p_.out_channels - channel_));
    }

    const Depthwise& d_;
    const ConvProblem& p_;
    const Call& call_;
    const ConstImageView& a_;
    Index image_, z_, row0_, channel_;
    std::byte* lines_;
    std::byte* stage_[2];
    std::byte* outside_;  // 16 channels of padding
    Tag* tags_;
    std::int32_t* sums_;
  };

  const Kernels* kernels_;
  ConvProblem problem_;                           // the epilogue's arrays are padded copies
  std::shared_ptr<const AlignedBuffer> weights_;  // (panels, lines, kernel width, 16) words
  std::shared_ptr<const AlignedBuffer> constants_;
  const std::int32_t* base_ = nullptr;  // what all sums of a channel begin with, if integers
  bool keeps_ = false;                  // lines serve the rows below too
  Index plane_slots_ = 0;               // a power of 2, if it does
  Index slots_ = 0;                     // lines that there is room for
  Index columns_ = 0;                   // pixels of a line
};

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
