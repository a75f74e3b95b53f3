// Convolution on the CPU: a product for each group whose rows of A are patches of the image,
// gathered while they are packed, so no matrix of patches is ever made. A 1 x 1 convolution with
// stride 1 is a product of the image itself. 3 x 3 convolutions of 8-bit numbers are done by
// Winograd's algorithm where that is exact and faster, see winograd.hpp: the bits are the same.
//
//   auto conv = prepare(cpu::Backend(), problem, FilterView::inputs_last(weights,
//   problem)).value(); Workspace workspace(conv.workspace_bytes(images * positions)); if (Error e =
//   conv.run({.a = a, .c = c}, workspace)) ...
#pragma once

#include <vector>

#include "quern/cpu/gemm.hpp"
#include "quern/cpu/winograd.hpp"
#include "quern/ops/conv.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// The patches of one group: row by row in the order of output positions, k = (position in the
/// kernel, input channel).
class Patches {
 public:
  Patches(const ConvProblem& p, const ConstImageView& a, const Spatial& out, Index group)
      : p_(p), a_(a), out_(out), first_(group * p.group_inputs()) {}

  RowReader reader() const {
    return {this, [](const void* self, Index row, Index k0, Index size, std::byte* to) noexcept {
              static_cast<const Patches*>(self)->read(row, k0, size, to);
            }};
  }

 private:
  Index element_bytes() const { return is_int8(p_.a) ? 1 : Index{sizeof(float)}; }

  void read(Index row, Index k0, Index size, std::byte* to) const {
    const Index channels = p_.group_inputs();
    Spatial o = {};
    for (std::size_t d = 3; d-- > 0; row /= out_[d]) o[d] = row % out_[d];
    const std::byte* image =
        static_cast<const std::byte*>(a_.data) +
        (row * a_.batch_stride + first_ * a_.channel_stride) * size_of(a_.type);
    // Where a row of the kernel lies in one piece, it is copied as one.
    const bool in_a_row = p_.dilation[2] == 1 && a_.channel_stride == 1 && copies() &&
                          (a_.strides[2] == channels || p_.kernel[2] == 1);
    const Index line = in_a_row ? p_.kernel[2] * channels : channels;
    Index number = k0 / line, at = k0 % line;
    for (; size > 0; ++number, at = 0) {
      const Index count = line - at < size ? line - at : size;
      in_a_row ? read_line(image, o, number, at, count, to)
               : read_channels(image, o, number, at, count, to);
      to += count * element_bytes();
      size -= count;
    }
  }

  bool copies() const { return is_int8(p_.a) || p_.a == DType::f32; }

  /// Zero points, which padding contributes.
  void pad(std::byte* to, Index count) const {
    std::memset(to, is_int8(p_.a) ? p_.a_zero_point & 0xFF : 0,
                static_cast<std::size_t>(count * element_bytes()));
  }

  /// The position in the image along one dimension.
  Index position(std::size_t d, Index o, Index k) const {
    return o * p_.stride[d] + k * p_.dilation[d] - p_.pad_begin[d];
  }

  /// Elements [at, at + count) of a row of the kernel, (position, channel).
  void read_line(const std::byte* image, const Spatial& o, Index number, Index at, Index count,
                 std::byte* to) const {
    const Index channels = p_.group_inputs(), bytes = element_bytes();
    const Index z = position(0, o[0], number / p_.kernel[1]),
                y = position(1, o[1], number % p_.kernel[1]), x = position(2, o[2], 0);
    Index first = 0, last = 0;  // inside the image
    if (z >= 0 && z < a_.extent[0] && y >= 0 && y < a_.extent[1]) {
      first = x < 0 ? -x * channels : 0;
      last = (a_.extent[2] - x < p_.kernel[2] ? a_.extent[2] - x : p_.kernel[2]) * channels;
    }
    first = first < at ? at : first < at + count ? first : at + count;
    last = last < first ? first : last < at + count ? last : at + count;
    if (first > at) pad(to, first - at);
    if (last > first) {
      const Index offset = z * a_.strides[0] + y * a_.strides[1] + x * a_.strides[2] + first;
      std::memcpy(to + (first - at) * bytes, image + offset * bytes,
                  static_cast<std::size_t>((last - first) * bytes));
    }
    if (at + count > last) pad(to + (last - at) * bytes, at + count - last);
  }

  /// Channels [at, at + count) of one position in the kernel.
  void read_channels(const std::byte* image, const Spatial& o, Index tap, Index at, Index count,
                     std::byte* to) const {
    Spatial k = {};
    for (std::size_t d = 3; d-- > 0; tap /= p_.kernel[d]) k[d] = tap % p_.kernel[d];
    Index offset = at * a_.channel_stride;
    for (std::size_t d = 0; d < 3; ++d) {
      const Index x = position(d, o[d], k[d]);
      if (x < 0 || x >= a_.extent[d]) return pad(to, count);
      offset += x * a_.strides[d];
    }
    const std::byte* from = image + offset * size_of(a_.type);
    if (copies() && a_.channel_stride == 1) {
      std::memcpy(to, from, static_cast<std::size_t>(count * element_bytes()));
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
  const ConstImageView& a_;
  const Spatial& out_;
  const Index first_;
};

/// A prepared convolution. Immutable: any number of threads may run it at a time, each call with a
/// workspace of its own.
class Conv {
 public:
  /// Bytes that run() needs for up to this many output positions, those of all images together, on
  /// up to this many workers.
  std::size_t workspace_bytes(Index positions, Index workers = 1) const {
    std::size_t direct = 0;
    for (const std::size_t g : kinds_) {
      const std::size_t bytes = groups_[g].workspace_bytes(positions, workers);
      if (bytes > direct) direct = bytes;
    }
    if (!winograd_) return direct;
    const auto fast = static_cast<std::size_t>(winograd_->worker_bytes() * workers) + kAlignment;
    return fast > direct ? fast : direct;
  }

  /// Computes args.c. Checks everything first: after an Error, nothing was written. The bits do not
  /// depend on the executor. Never allocates.
  Error run(const ConvArgs& args, std::span<std::byte> workspace,
            Parallel executor = {}) const noexcept {
    if (Error e = validate(problem_, args)) return e;
    for (const float s : args.row_scales) {
      if (!std::isfinite(s)) {
        return Error::make(Code::bad_value, "conv: a row scale is %g; it must be finite",
                           double(s));
      }
    }
    const ConvProblem& p = problem_;
    const ImageView& c = args.c;
    const Index rows = c.batch * c.positions();
    if (rows == 0 || p.out_channels == 0) return {};
    const Index workers = executor.concurrency();
    const std::size_t needed = workspace_bytes(rows, workers);
    if (workspace.size() < needed) {
      return Error::make(Code::no_workspace,
                         "conv: a workspace of %zu bytes, but %lld positions on %lld workers need "
                         "%zu",
                         workspace.size(), static_cast<long long>(rows),
                         static_cast<long long>(workers), needed);
    }
    if (winograd_ && args.a.channel_stride == 1 && winograd_->is_worth(c.extent)) {
      const ConstMatrixView residual =
          args.residual.data != nullptr ? matrix(args.residual, 0) : ConstMatrixView();
      winograd_->run(args, matrix(c, 0), residual, Carver(workspace.data()).take<std::byte>(0),
                     executor);
      return {};
    }
    for (Index g = 0; g < p.groups; ++g) {
      const Gemm& gemm = groups_[static_cast<std::size_t>(g)];
      GemmArgs product{.a = ConstMatrixView(nullptr, p.a, rows, gemm.problem().k),
                       .c = matrix(c, g),
                       .row_scales = args.row_scales};
      if (args.residual.data != nullptr) product.residual = matrix(args.residual, g);
      const Patches patches(p, args.a, c.extent, g);
      const RowReader reader = patches.reader();
      const bool plain = is_pointwise() && rows_are_even(args.a) && args.a.channel_stride == 1;
      if (plain) {
        product.a = ConstMatrixView(
            static_cast<const std::byte*>(args.a.data) + g * p.group_inputs() * size_of(p.a), p.a,
            rows, p.group_inputs(), pitch(args.a));
      }
      if (Error e = gemm.run_checked(product, workspace, executor, plain ? nullptr : &reader)) {
        return e;
      }
    }
    return {};
  }

  const ConvProblem& problem() const { return problem_; }
  /// How it is computed; with Winograd, images that are too small for it are not.
  std::string kernel() const {
    const std::string direct = "patches, " + groups_.front().kernel();
    return winograd_ ? "winograd_f4x4_3x3 or " + direct : direct;
  }

  /// What prepare() calls.
  static Result<Conv> make(const Backend& backend, const ConvProblem& p, const FilterView& b) {
    if (Error e = validate(p)) return e;
    if (b.type != p.b) {
      return Error::make(Code::unsupported, "conv: b holds %s but the problem says %s",
                         name(b.type), name(p.b));
    }
    const Index inputs = p.group_inputs(), outputs = p.group_outputs(), k = p.taps() * inputs;
    const Index size = size_of(p.b);
    if (b.data == nullptr && k * p.out_channels != 0) {
      return Error::make(Code::bad_data, "conv: b is null");
    }
    if (p.groups > 1 && p.epilogue.has(Step::Kind::custom)) {
      return Error::make(Code::unsupported, "conv: custom steps with %lld groups are not offered",
                         static_cast<long long>(p.groups));
    }
    const Index bytes = outputs * k * size;
    AlignedBuffer dense(static_cast<std::size_t>(bytes));
    if (dense.size() == 0 && bytes != 0) {
      return Error::make(Code::no_memory, "conv: no memory for %lld bytes of weights",
                         static_cast<long long>(bytes));
    }
    Conv conv;
    conv.problem_ = p;
    const Index groups = p.out_channels == 0 ? 1 : p.groups;
    for (Index g = 0; g < groups; ++g) {
      std::byte* out = dense.data();
      for (Index j = g * outputs; j < (g + 1) * outputs; ++j) {
        for (Index t = 0; t < p.taps(); ++t) {
          const Index x = t % p.kernel[2], y = t / p.kernel[2] % p.kernel[1],
                      z = t / p.kernel[2] / p.kernel[1];
          const Index offset =
              j * b.out_stride + z * b.strides[0] + y * b.strides[1] + x * b.strides[2];
          for (Index i = 0; i < inputs; ++i, out += size) {
            std::memcpy(out,
                        static_cast<const std::byte*>(b.data) + (offset + i * b.in_stride) * size,
                        static_cast<std::size_t>(size));
          }
        }
      }
      auto gemm = prepare(backend, quern::detail::group_gemm(p, g),
                          ConstMatrixView(dense.data(), p.b, k, outputs, 1, k));
      if (!gemm) return gemm.error();
      if (Winograd::suits(backend.kernels(), p)) {
        conv.winograd_ = Winograd::make(backend.kernels(), p, dense.data(), *gemm);
      }
      bool is_new = true;
      for (const std::size_t other : conv.kinds_) {
        is_new &= conv.groups_[other].kernel() != gemm->kernel();
      }
      if (is_new) conv.kinds_.push_back(conv.groups_.size());
      conv.groups_.push_back(std::move(*gemm));
    }
    // The groups have their own copies; run() asks only which steps there are.
    conv.problem_.b_zero_points = {};
    for (Step& s : conv.problem_.epilogue.steps) s.data = nullptr;
    return conv;
  }

 private:
  Conv() = default;

  bool is_pointwise() const {
    const ConvProblem& p = problem_;
    return p.taps() == 1 && p.stride == Spatial{1, 1, 1} && p.pad_begin == Spatial{} &&
           p.pad_end == Spatial{};
  }

  /// One group's channels of an image as a matrix of positions; validate() has seen that they are
  /// evenly spaced.
  template <class Void>
  AnyMatrix<Void> matrix(const AnyImage<Void>& image, Index group) const {
    using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
    const Index channels = problem_.group_outputs();
    return {static_cast<Byte*>(image.data) + group * channels * size_of(image.type), image.type,
            image.batch * image.positions(), channels, pitch(image)};
  }

  ConvProblem problem_;
  std::vector<Gemm> groups_;
  std::vector<std::size_t> kinds_;  // one group of each kernel: weights may suit different ones
  std::optional<Winograd> winograd_;
};

}  // namespace cpu

/// Prepares a convolution: validates, packs the weights of every group.
inline Result<cpu::Conv> prepare(const cpu::Backend& backend, const ConvProblem& problem,
                                 const FilterView& b) {
  return cpu::Conv::make(backend, problem, b);
}

}  // namespace QUERN_ABI
}  // namespace quern
