// Images as matrices: patches of the input as rows of A, positions of the output as rows of C.
#pragma once

#include <cstring>

#include "quern/cpu/phases.hpp"
#include "quern/cpu/rows.hpp"
#include "quern/ops/conv.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// The patches of one group in one phase: row by row in the order of output positions, k = (tap,
/// input channel).
class Patches {
 public:
  Patches(const ConvProblem& p, const Phase& phase, const ConstImageView& a, Index group)
      : p_(p), phase_(phase), a_(a), first_(group * p.group_inputs()) {
    // Where a row of the kernel lies in one piece, it is copied as one.
    const Index channels = p.group_inputs();
    in_a_row_ = phase.dilation[2] == 1 && a.channel_stride == 1 && copies() &&
                (a.strides[2] == channels || phase.taps[2] == 1);
    line_ = in_a_row_ ? phase.taps[2] * channels : channels;
  }

  RowReader reader() const {
    return {this, [](const void* self, Index row, Index rows, Index k0, Index size, std::byte* to,
                     Index step) noexcept {
              static_cast<const Patches*>(self)->read(row, rows, k0, size, to, step);
            }};
  }

 private:
  Index element_bytes() const { return is_int8(p_.a) ? 1 : Index{sizeof(float)}; }
  bool copies() const { return is_int8(p_.a) || p_.a == DType::f32; }

  void read(Index row, Index rows, Index k0, Index size, std::byte* to, Index step) const {
    if (line_ == 0) return;
    // Divisions take longer than a short copy: positions are counted from here on.
    Index image = row;
    Spatial o = {}, first = {};
    for (std::size_t d = 3; d-- > 0; image /= phase_.count[d]) o[d] = image % phase_.count[d];
    Index number = k0 / line_;
    for (std::size_t d = in_a_row_ ? 2 : 3; d-- > 0; number /= phase_.taps[d]) {
      first[d] = number % phase_.taps[d];
    }
    for (; rows > 0; --rows, to += step) {
      const Index offset = image * a_.batch_stride + first_ * a_.channel_stride;
      const std::byte* from = static_cast<const std::byte*>(a_.data) + offset * size_of(a_.type);
      in_a_row_ ? read_lines(from, o, first, k0 % line_, size, to)
                : read_taps(from, o, first, k0 % line_, size, to);
      image += next(o, phase_.count, 3);
    }
  }

  /// The next position in the order of rows; whether it is the first again.
  static bool next(Spatial& at, const Spatial& count, std::size_t dimensions) {
    for (std::size_t d = dimensions; d-- > 0;) {
      if (++at[d] < count[d]) return false;
      at[d] = 0;
    }
    return true;
  }

  /// A short copy, without a call.
  static void copy(std::byte* to, const std::byte* from, Index bytes) {
    const auto move = [&](Index at, auto chunk) {
      std::memcpy(&chunk, from + at, sizeof(chunk));
      std::memcpy(to + at, &chunk, sizeof(chunk));
    };
    struct Sixteen {
      std::uint64_t words[2];
    };
    if (bytes >= 16) {
      Index at = 0;
      for (; at + 16 <= bytes; at += 16) move(at, Sixteen());
      if (at < bytes) move(bytes - 16, Sixteen());
    } else if (bytes >= 8) {
      move(0, std::uint64_t());
      move(bytes - 8, std::uint64_t());
    } else if (bytes >= 4) {
      move(0, std::uint32_t());
      move(bytes - 4, std::uint32_t());
    } else {
      for (Index at = 0; at < bytes; ++at) move(at, std::byte());
    }
  }

  /// Zero points, which padding contributes.
  void pad(std::byte* to, Index count) const {
    std::memset(to, is_int8(p_.a) ? p_.a_zero_point & 0xFF : 0,
                static_cast<std::size_t>(count * element_bytes()));
  }

  /// The position that a tap meets along one dimension.
  Index position(std::size_t d, Index o, Index k) const {
    return o * phase_.stride[d] + k * phase_.dilation[d] - phase_.pad[d];
  }

  /// Rows of the kernel, from element `at` of row k on.
  void read_lines(const std::byte* image, const Spatial& o, Spatial k, Index at, Index size,
                  std::byte* to) const {
    const Index channels = p_.group_inputs(), bytes = element_bytes();
    const Index x = position(2, o[2], 0);
    if (size == line_ * phase_.taps[0] * phase_.taps[1] && is_inside(o)) {
      return copy_lines(image, position(0, o[0], 0), position(1, o[1], 0), x, to);
    }
    // Of each line: what is inside the image.
    const Index begin = x < 0 ? -x * channels : 0;
    const Index inside = a_.extent[2] - x < phase_.taps[2] ? a_.extent[2] - x : phase_.taps[2];
    for (; size > 0; at = 0, next(k, phase_.taps, 2)) {
      const Index count = line_ - at < size ? line_ - at : size;
      const Index z = position(0, o[0], k[0]), y = position(1, o[1], k[1]);
      const bool is_inside = z >= 0 && z < a_.extent[0] && y >= 0 && y < a_.extent[1];
      const Index first = within(is_inside ? begin : 0, at, at + count),
                  last = within(is_inside ? inside * channels : 0, first, at + count);
      if (first > at) pad(to, first - at);
      if (last > first) {
        const Index offset = z * a_.strides[0] + y * a_.strides[1] + x * a_.strides[2] + first;
        copy(to + (first - at) * bytes, image + offset * bytes, (last - first) * bytes);
      }
      if (at + count > last) pad(to + (last - at) * bytes, at + count - last);
      to += count * bytes;
      size -= count;
    }
  }
  /// Whether all taps of an output position are inside the image. The last may come before the
  /// first.
  bool is_inside(const Spatial& o) const {
    for (std::size_t d = 0; d < 3; ++d) {
      for (const Index tap : {Index{0}, phase_.taps[d] - 1}) {
        const Index x = position(d, o[d], tap);
        if (x < 0 || x >= a_.extent[d]) return false;
      }
    }
    return true;
  }

  /// All rows of the kernel, from this position on.
  void copy_lines(const std::byte* image, Index z, Index y, Index x, std::byte* to) const {
    const Index bytes = element_bytes(), line = line_ * bytes;
    const Index plane = phase_.dilation[0] * a_.strides[0] * bytes,
                row = phase_.dilation[1] * a_.strides[1] * bytes;
    const auto each = [&](const auto& copy_line) {
      image += (z * a_.strides[0] + y * a_.strides[1] + x * a_.strides[2]) * bytes;
      for (Index i = 0; i < phase_.taps[0]; ++i, image += plane) {
        const std::byte* from = image;
        for (Index j = 0; j < phase_.taps[1]; ++j, from += row, to += line) copy_line(from);
      }
    };
    // A few channels of a few pixels: two moves that overlap.
    if (line >= 16 && line <= 32) {
      return each([&](const std::byte* from) {
        std::byte first[16], last[16];
        std::memcpy(first, from, 16);
        std::memcpy(last, from + line - 16, 16);
        std::memcpy(to, first, 16);
        std::memcpy(to + line - 16, last, 16);
      });
    }
    each([&](const std::byte* from) { copy(to, from, line); });
  }

  static Index within(Index x, Index low, Index high) {
    return x < low ? low : x < high ? x : high;
  }

  /// Taps, from channel `at` of tap k on.
  void read_taps(const std::byte* image, const Spatial& o, Spatial k, Index at, Index size,
                 std::byte* to) const {
    for (; size > 0; at = 0, next(k, phase_.taps, 3)) {
      const Index count = line_ - at < size ? line_ - at : size;
      Index offset = at * a_.channel_stride;
      bool is_inside = true;
      for (std::size_t d = 0; d < 3; ++d) {
        const Index x = position(d, o[d], k[d]);
        is_inside &= x >= 0 && x < a_.extent[d];
        offset += wrapping_multiply(x, a_.strides[d]);
      }
      is_inside ? read_channels(image + offset * size_of(a_.type), count, to) : pad(to, count);
      to += count * element_bytes();
      size -= count;
    }
  }

  void read_channels(const std::byte* from, Index count, std::byte* to) const {
    if (copies() && a_.channel_stride == 1) {
      copy(to, from, count * element_bytes());
    } else if (is_int8(p_.a)) {
      for (Index i = 0; i < count; ++i) to[i] = from[i * a_.channel_stride];
    } else {
      const ConstMatrixView row(from, p_.a, 1, count, 0, a_.channel_stride);
      for (Index i = 0; i < count; ++i) {
        const float v = load_float(row, 0, 0, i);
        std::memcpy(to + i * 4, &v, 4);
      }
    }
  }

  const ConvProblem& p_;
  const Phase& phase_;
  const ConstImageView& a_;
  const Index first_;  // channel
  bool in_a_row_;
  Index line_;  // elements that are copied as one
};

/// The output positions of one phase, in c and in the residual.
class ImageRows {
 public:
  /// residual: null if there is none.
  ImageRows(const Phase& phase, const ImageView& c, const ConstImageView* residual) {
    const auto mul = wrapping_multiply;  // strides of a single position are nobody's business
    const ConstImageView r = residual != nullptr ? *residual : ConstImageView();
    bool is_whole = true;
    Index row = 1;  // of all output positions, from one to the next
    for (std::size_t d = 3; d-- > 0; row *= c.extent[d]) {
      is_whole &= phase.count[d] == c.extent[d];
      const Index first = phase.first[d], step = phase.step[d];
      axes_[d + 1] = {phase.count[d], row * step, mul(step, c.strides[d]), mul(step, r.strides[d])};
      origin_.row += row * first;
      origin_.c += mul(first, c.strides[d]);
      origin_.residual += mul(first, r.strides[d]);
    }
    axes_[0] = {c.batch, row, c.batch_stride, r.batch_stride};
    const auto is_matrix = [](const auto& x) {
      return rows_are_even(x) && (x.channel_stride == 1 || x.channels == 1);
    };
    is_matrix_ = is_whole && is_matrix(c) && (residual == nullptr || is_matrix(r));
    merge();
  }

  /// Whether the rows are all there are and evenly spaced, with contiguous channels.
  bool is_matrix() const { return is_matrix_; }

  RowPlaces places() const {
    return {this, [](const void* self, Index row) noexcept {
              return static_cast<const ImageRows*>(self)->find(row);
            }};
  }

 private:
  /// A dimension of the output: how many positions, and the way from one to the next.
  struct Axis {
    Index count = 1, row = 0, c = 0, residual = 0;
  };

  /// Joins dimensions to the innermost one while they go on in its steps, so that runs are long.
  void merge() {
    Axis& inner = axes_[3];
    for (int joined = 0; joined < 3; ++joined) {
      const Axis& outer = axes_[2];
      const bool follows = outer.row == inner.count * inner.row &&
                           outer.c == wrapping_multiply(inner.count, inner.c) &&
                           outer.residual == wrapping_multiply(inner.count, inner.residual);
      if (inner.count == 1) {
        inner = outer;
      } else if (outer.count == 1 || follows) {
        inner.count *= outer.count;
      } else {
        return;
      }
      axes_[2] = axes_[1];
      axes_[1] = axes_[0];
      axes_[0] = {};
    }
  }

  RowRun find(Index row) const {
    const Axis& inner = axes_[3];
    RowRun run = origin_;
    run.count = inner.count - row % inner.count;
    run.row_step = inner.row;
    run.c_step = inner.c;
    run.residual_step = inner.residual;
    for (std::size_t d = 4; d-- > 0; row /= axes_[d].count) {
      const Index i = row % axes_[d].count;
      run.row += i * axes_[d].row;
      run.c += wrapping_multiply(i, axes_[d].c);
      run.residual += wrapping_multiply(i, axes_[d].residual);
    }
    return run;
  }

  Axis axes_[4];  // images, depth, height, width
  RowRun origin_;
  bool is_matrix_ = false;
};

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
