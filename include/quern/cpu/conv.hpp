// Convolution on the CPU: a product for each group whose rows of A are patches of the image,
// gathered while they are packed, so no matrix of patches is ever made; a transposed one has such
// products for each of its phases, see phases.hpp. A 1 x 1 convolution with stride 1 is a product
// of the image itself. 3 x 3 convolutions of 8-bit numbers are done by Winograd's algorithm where
// that is exact and faster, see winograd.hpp: the bits are the same. Outputs may be in any layout:
// where positions are not rows of a matrix, finished blocks are spread over them, see rows.hpp.
//
//   auto conv = prepare(cpu::Backend(), problem, FilterView::inputs_last(weights,
//   problem)).value(); Workspace workspace(conv.workspace_bytes(images * positions)); if (Error e =
//   conv.run({.a = a, .c = c}, workspace)) ...
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "quern/cpu/depthwise.hpp"
#include "quern/cpu/gemm.hpp"
#include "quern/cpu/patches.hpp"
#include "quern/cpu/phases.hpp"
#include "quern/cpu/winograd.hpp"
#include "quern/ops/conv.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// A prepared convolution. Immutable: any number of threads may run it at a time, each call with a
/// workspace of its own.
class Conv {
 public:
  /// Bytes that run() needs for up to this many output positions, those of all images together, on
  /// up to this many workers.
  std::size_t workspace_bytes(Index positions, Index workers = 1) const {
    if (depthwise_) {
      return static_cast<std::size_t>(depthwise_->worker_bytes() * workers) + kAlignment;
    }
    std::size_t direct = 0;
    for (const std::size_t i : kinds_) {
      const std::size_t bytes = products_[i].workspace_bytes(positions, workers);
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
    const bool adds = p.epilogue.has(Step::Kind::residual);
    if (depthwise_ || uses_winograd(c.batch, c.extent)) {
      const ImageRows rows_of_c(Phase::whole(c.extent), c, adds ? &args.residual : nullptr);
      const RowPlaces places = rows_of_c.is_matrix() ? RowPlaces() : rows_of_c.places();
      const ConstMatrixView residual = adds ? matrix(args.residual, 0) : ConstMatrixView();
      std::byte* memory = Carver(workspace.data()).take<std::byte>(0);
      if (depthwise_) {
        depthwise_->run(args, matrix(c, 0), residual, places, memory, executor);
      } else {
        winograd_->run(args, matrix(c, 0), residual, places, memory, executor);
      }
      return {};
    }
    Error error;
    phases_.for_each(c.extent, [&](Index number, const Phase& phase) {
      const ImageRows rows_of_c(phase, c, adds ? &args.residual : nullptr);
      for (Index g = 0; g < p.groups && !error; ++g) {
        const Gemm& product = products_[static_cast<std::size_t>(g * phases_.all() + number)];
        error = run_product(product, g, phase, rows_of_c, args, workspace, executor);
      }
    });
    return error;
  }

  const ConvProblem& problem() const { return problem_; }
  /// How it is computed; with Winograd, outputs that are too small for it are not.
  std::string kernel() const {
    if (depthwise_) return depthwise_->kernel();
    return winograd_ ? winograd_->kernel() + ", or " + direct_kernel() : direct_kernel();
  }
  /// How so many images with outputs of this extent are computed.
  std::string kernel(Index images, const Spatial& out) const {
    if (depthwise_) return depthwise_->kernel();
    return uses_winograd(images, out) ? winograd_->kernel() : direct_kernel();
  }

  /// What prepare() calls.
  static Result<Conv> make(const Backend& backend, const ConvProblem& p, const FilterView& b) {
    if (Error e = validate(p)) return e;
    if (b.type != p.b) {
      return Error::make(Code::unsupported, "conv: b holds %s but the problem says %s",
                         name(b.type), name(p.b));
    }
    const Index outputs = p.group_outputs(), most_bytes = quern::detail::most_taps(p) *
                                                          p.group_inputs() * outputs * size_of(p.b);
    if (b.data == nullptr && most_bytes != 0) {
      return Error::make(Code::bad_data, "conv: b is null");
    }
    Conv conv;
    conv.problem_ = p;
    if (!p.transposed && Depthwise::suits(p)) {
      conv.depthwise_ = Depthwise::make(backend.kernels(), p, b);
      if (!conv.depthwise_) {
        return Error::make(Code::no_memory, "conv: no memory for the weights of %lld channels",
                           static_cast<long long>(p.out_channels));
      }
      conv.drop_arrays();
      return conv;
    }
    const AlignedBuffer dense(static_cast<std::size_t>(most_bytes));
    if (dense.size() == 0 && most_bytes != 0) {
      return Error::make(Code::no_memory, "conv: no memory for %lld bytes of weights",
                         static_cast<long long>(most_bytes));
    }
    conv.phases_ = Phases(p);
    const Index groups = p.out_channels == 0 ? 1 : p.groups;
    if (p.groups > 1 && p.epilogue.has(Step::Kind::custom)) {
      conv.absolute_ = std::make_shared<std::vector<AbsoluteColumns>>();
      conv.absolute_->reserve(static_cast<std::size_t>(groups * p.epilogue.count));
    }
    for (Index g = 0; g < groups; ++g) {
      GemmProblem product = quern::detail::group_gemm(p, g);
      if (conv.absolute_) conv.make_absolute(product.epilogue, g * outputs);
      for (Index number = 0; number < conv.phases_.all(); ++number) {
        const PhaseTaps taps = conv.phases_.taps(number);
        product.k = taps.size() * p.group_inputs();
        if (product.k * outputs != 0) pack_densely(p, b, taps, g, dense.data());
        auto gemm = prepare(backend, product,
                            ConstMatrixView(dense.data(), p.b, product.k, outputs, 1, product.k));
        if (!gemm) return gemm.error();
        conv.add(std::move(*gemm));
      }
    }
    if (!p.transposed && Winograd::suits(backend.kernels(), p)) {
      conv.winograd_ = Winograd::make(backend.kernels(), p, dense.data(), conv.products_.front());
    }
    conv.drop_arrays();
    return conv;
  }

 private:
  Conv() = default;

  /// Each form has its own copies; run() asks only which steps there are.
  void drop_arrays() {
    problem_.b_zero_points = {};
    for (Step& s : problem_.epilogue.steps) s.data = nullptr;
  }

  /// What a custom step of a group is told: columns of all groups.
  struct AbsoluteColumns {
    Step::Custom function;
    const void* context;
    Index first;

    static void call(const void* self, float* values, Index row, Index col, Index count) {
      const auto& s = *static_cast<const AbsoluteColumns*>(self);
      s.function(s.context, values, row, s.first + col, count);
    }
  };

  void make_absolute(Epilogue& epilogue, Index first) {
    for (Step& s : epilogue.steps) {
      if (s.kind != Step::Kind::custom) continue;
      absolute_->push_back({s.function, s.context, first});
      s = epilogue::custom(&AbsoluteColumns::call, &absolute_->back());
    }
  }

  /// One group's weights of some taps as (out channel, tap, in channel).
  static void pack_densely(const ConvProblem& p, const FilterView& b, const PhaseTaps& taps,
                           Index group, std::byte* to) {
    const Index size = size_of(p.b), outputs = p.group_outputs();
    for (Index j = group * outputs; j < (group + 1) * outputs; ++j) {
      for (Index t = 0; t < taps.size(); ++t) {
        Spatial k = {};
        for (std::size_t d = 3, left = static_cast<std::size_t>(t); d-- > 0;) {
          const auto count = static_cast<std::size_t>(taps.count[d]);
          k[d] = taps.first[d] + static_cast<Index>(left % count) * taps.step[d];
          left /= count;
        }
        for (Index i = 0; i < p.group_inputs(); ++i, to += size) {
          std::memcpy(to, static_cast<const std::byte*>(b.data) + b.offset(group, j, k, i) * size,
                      static_cast<std::size_t>(size));
        }
      }
    }
  }

  void add(Gemm gemm) {
    const auto like = [&](std::size_t i) {
      return products_[i].kernel() == gemm.kernel() && products_[i].problem().k == gemm.problem().k;
    };
    if (std::none_of(kinds_.begin(), kinds_.end(), like)) kinds_.push_back(products_.size());
    products_.push_back(std::move(gemm));
  }

  bool uses_winograd(Index images, const Spatial& out) const {
    return winograd_ && winograd_->is_worth(images, out);
  }
  std::string direct_kernel() const {
    const bool is_product = !problem_.transposed && problem_.taps() == 1;
    return (is_product ? "" : "patches, ") + products_.front().kernel();
  }

  /// One group of one phase.
  Error run_product(const Gemm& gemm, Index group, const Phase& phase, const ImageRows& rows_of_c,
                    const ConvArgs& args, std::span<std::byte> workspace,
                    Parallel executor) const noexcept {
    const ConvProblem& p = problem_;
    const Index rows = args.c.batch * phase.count[0] * phase.count[1] * phase.count[2];
    GemmArgs product{.a = ConstMatrixView(nullptr, p.a, rows, gemm.problem().k),
                     .c = matrix(args.c, group),
                     .row_scales = args.row_scales};
    if (p.epilogue.has(Step::Kind::residual)) product.residual = matrix(args.residual, group);
    RowAccess access;
    if (!rows_of_c.is_matrix()) access.places = rows_of_c.places();
    const Patches patches(p, phase, args.a, group);
    if (phase.is_image(args.a.extent) && rows_are_even(args.a) && args.a.channel_stride == 1) {
      product.a = ConstMatrixView(
          static_cast<const std::byte*>(args.a.data) + group * p.group_inputs() * size_of(p.a), p.a,
          rows, p.group_inputs(), pitch(args.a));
    } else {
      access.reader = patches.reader();
    }
    return gemm.run_checked(product, workspace, executor, access);
  }

  /// One group's channels of an image as a matrix of positions. Where they are not evenly spaced,
  /// ImageRows says where they are.
  template <class Void>
  AnyMatrix<Void> matrix(const AnyImage<Void>& image, Index group) const {
    using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
    const Index channels = problem_.group_outputs();
    const Index first = group * channels * image.channel_stride;
    return {static_cast<Byte*>(image.data) + first * size_of(image.type),
            image.type,
            image.batch * image.positions(),
            channels,
            pitch(image),
            image.channel_stride};
  }

  ConvProblem problem_;
  Phases phases_;
  std::vector<Gemm> products_;      // (group, phase)
  std::vector<std::size_t> kinds_;  // one product of each kernel and depth, for the workspace
  std::shared_ptr<std::vector<AbsoluteColumns>> absolute_;  // custom steps, if there are groups
  std::optional<Winograd> winograd_;
  std::optional<Depthwise> depthwise_;
};

}  // namespace cpu

/// Every valid convolution is supported.
inline Error supports(const cpu::Backend&, const ConvProblem& problem) { return validate(problem); }

/// Prepares a convolution: validates, packs the weights of every group.
inline Result<cpu::Conv> prepare(const cpu::Backend& backend, const ConvProblem& problem,
                                 const FilterView& b) {
  return cpu::Conv::make(backend, problem, b);
}

}  // namespace QUERN_ABI
}  // namespace quern
