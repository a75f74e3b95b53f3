// The toy backend's convolutions, likewise with faults.
#pragma once

#include <memory>

#include "quern/ops/conv_reference.hpp"
#include "toy_backend.hpp"

namespace toy {

class Conv {
 public:
  Conv(Fault fault, const ConvProblem& problem, std::vector<std::byte> weights)
      : fault_(fault),
        problem_(problem),
        arrays_({.b_zero_points = problem.b_zero_points, .epilogue = problem.epilogue}),
        weights_(std::move(weights)) {
    if (fault == Fault::keeps_pointers) return;
    problem_.b_zero_points = arrays_->b_zero_points;
    problem_.epilogue = arrays_->epilogue;
  }

  Index workspace_bytes(Index positions, Index workers = 1) const {
    return 8 + positions + workers;
  }
  const ConvProblem& problem() const { return problem_; }
  const char* kernel() const { return "toy"; }

  Error run(const ConvArgs& args, std::span<std::byte> workspace,
            Parallel parallel = {}) const noexcept {
    if (fault_ == Fault::writes_then_refuses && args.c.data != nullptr) flip(places(args).last);
    if (Error e = validate(problem_, args)) return e;
    const Index needed = workspace_bytes(args.c.batch * args.c.positions(), parallel.concurrency());
    if (fault_ != Fault::accepts_any_workspace && std::ssize(workspace) < needed) {
      return Error::make(Code::no_workspace, "conv: the workspace has %lld bytes, %lld are needed",
                         static_cast<long long>(workspace.size()), static_cast<long long>(needed));
    }
    if (needed > 0) std::memset(workspace.data(), 0, static_cast<std::size_t>(needed));
    ConvProblem p = problem_;
    if (fault_ == Fault::forgets_dilation) p.dilation = {1, 1, 1};
    std::atomic<Index> last{-1};
    parallel(2, [&](Index index, Index) {
      if (index == 0) reference_conv(p, FilterView::inputs_last(weights_.data(), p), args);
      last = index;
    });
    const Places at = places(args);
    if (fault_ == Fault::saturates && at.first && p.c == DType::s32) {
      for (Index j = 0; j < p.out_channels; ++j) saturate(element(args.c, 0, {}, j));
    }
    if (fault_ == Fault::remembers_extent) {
      if (*first_ == Spatial{-1, -1, -1}) *first_ = args.a.extent;
      if (*first_ != args.a.extent) flip(at.last);
    }
    misbehave(fault_, at, workspace, parallel.concurrency(), last);
    return {};
  }

 private:
  static Places places(const ConvArgs& args) {
    const ImageView& c = args.c;
    const ConstImageView& a = args.a;
    if (c.batch * c.positions() * c.channels == 0) return {};
    Places at{.first = element(c, 0, {}, 0),
              .last = element(c, c.batch - 1, {c.extent[0] - 1, c.extent[1] - 1, c.extent[2] - 1},
                              c.channels - 1)};
    if (c.extent[2] > 1 && c.channel_stride == 1 && c.strides[2] > c.channels) {
      at.gap = element(c, 0, {}, c.channels);
    }
    if (a.positions() * a.channels > 0) {
      at.input = const_cast<std::byte*>(element(a, 0, {}, 0));
    }
    return at;
  }

  Fault fault_;
  ConvProblem problem_;
  OwnedGemmProblem arrays_;         // of zero points and steps
  std::vector<std::byte> weights_;  // OHWI
  std::shared_ptr<Spatial> first_ = std::make_shared<Spatial>(Spatial{-1, -1, -1});
};

inline Error supports(const Backend& backend, const ConvProblem& p) {
  return supports_any(backend, p);
}

inline Result<Conv> prepare(const Backend& backend, const ConvProblem& p, const FilterView& b) {
  if (Error e = check(backend, p)) return e;
  if (b.type != p.b) {
    return Error::make(Code::unsupported, "toy: b holds %s, not %s", quern::name(b.type),
                       quern::name(p.b));
  }
  std::vector<std::byte> weights;
  if (b.data == nullptr && p.taps() * p.in_channels * p.out_channels != 0) {
    return Error::make(Code::bad_data, "toy: b is null");
  }
  const Index size = size_of(p.b);
  Spatial k = {};
  for (Index j = 0; j < p.out_channels; ++j) {
    for (k[0] = 0; k[0] < p.kernel[0]; ++k[0]) {
      for (k[1] = 0; k[1] < p.kernel[1]; ++k[1]) {
        for (k[2] = 0; k[2] < p.kernel[2]; ++k[2]) {
          for (Index i = 0; i < p.group_inputs(); ++i) {
            const auto* from = static_cast<const std::byte*>(b.data) +
                               b.offset(j / p.group_outputs(), j, k, i) * size;
            weights.insert(weights.end(), from, from + size);
          }
        }
      }
    }
  }
  return Conv(backend.fault, p, std::move(weights));
}

}  // namespace toy
