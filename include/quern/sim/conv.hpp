// Convolution on a simulated chip: the values, to the bit, and what they cost.
//
//   const sim::Backend chip(sim::preset("tpu_v1").value());
//   auto conv = prepare(chip, problem, FilterView::inputs_last(weights, problem)).value();
//   conv.run({.a = a, .c = c}, workspace);             the same bytes as on the CPU
//   sim::Report cost = conv.report(a.extent).value();  cycles, bytes, joules
//
// estimate() gives the same report without weights or values.
//
// Each group is a product: output positions are rows, (tap, input channel) the terms, its output
// channels the columns. No patches are made: buffer a holds pieces of the image, see sim/rows.hpp.
#pragma once

#include <cmath>

#include "quern/ops/conv_reference.hpp"
#include "quern/ops/owned_gemm.hpp"
#include "quern/sim/backend.hpp"
#include "quern/sim/conv_engine.hpp"
#include "quern/sim/values.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// A call's operands, for Values.
class ConvCall {
 public:
  static constexpr bool kPatches = true;

  ConvCall(const ConvProblem& p, const ConvArgs& args) : p_(p), args_(args) {}

  /// Of a call of so many output positions, on a chip.
  static double bytes(const Chip& chip, const ConvProblem& p, double positions) {
    const double k = static_cast<double>(p.taps()) * static_cast<double>(p.group_inputs()) + 1;
    return Values<ConvCall>::bytes(chip, p.a, p.b, positions,
                                   static_cast<double>(p.group_outputs()), k,
                                   static_cast<double>(p.groups));
  }

  const ConvProblem& problem() const { return p_; }
  Index column(const Instruction& x) const { return x.product * p_.group_outputs() + x.n; }

  /// Part of a patch; what is outside the image is a zero.
  template <class T>
  void read(Index group, Index row, Index k, Index count, T* out) const {
    const Position o = position(row);
    const Index channels = p_.group_inputs();
    Index tap = count == 0 ? 0 : k / channels, first = count == 0 ? 0 : k % channels;
    for (; count > 0; ++tap, first = 0) {
      const Index n = channels - first < count ? channels - first : count;
      const Index line = tap / p_.kernel[2];
      const Spatial t = {line / p_.kernel[1], line % p_.kernel[1], tap % p_.kernel[2]};
      Spatial at = {};
      bool inside = true;
      for (std::size_t d = 0; d < 3; ++d) {
        at[d] = o.at[d] * p_.stride[d] + t[d] * p_.dilation[d] - p_.pad_begin[d];
        inside &= at[d] >= 0 && at[d] < args_.a.extent[d];
      }
      if (inside) {
        const ConstMatrixView from(element(args_.a, o.image, at, group * channels + first), p_.a, 1,
                                   n, 0, args_.a.channel_stride);
        for (Index i = 0; i < n; ++i) out[i] = operand<T>(from, i, p_.a_zero_point);
      } else {
        std::fill_n(out, n, T{0});
      }
      out += n;
      count -= n;
    }
  }

  float scaled(float v, Index, Index) const { return v; }
  RowInputs inputs(Index, Index row) const {
    StepInputs in{args_.row_scales.empty() ? nullptr : args_.row_scales.data(), {}, 0};
    if (p_.epilogue.has(Step::Kind::residual)) in.residual = row_of(args_.residual, row);
    return {in, row};
  }
  MatrixView c(Index, Index row) const { return row_of(args_.c, row); }

 private:
  struct Position {
    Index image;
    Spatial at;
  };
  Position position(Index row) const {
    Position o{row, {}};
    for (std::size_t d = 3; d-- > 0; o.image /= args_.c.extent[d]) {
      o.at[d] = o.image % args_.c.extent[d];
    }
    return o;
  }
  /// The channels at an output position. Any row number finds them.
  template <class Void>
  AnyMatrix<Void> row_of(const AnyImage<Void>& x, Index row) const {
    const Position o = position(row);
    return {element(x, o.image, o.at, 0), x.type, 1, p_.out_channels, 0, x.channel_stride};
  }

  const ConvProblem& p_;
  const ConvArgs& args_;
};

namespace detail {

/// Extents that estimate() is asked about.
inline Error check_images(const ConvProblem& p, const Spatial& in, Index images) noexcept {
  using LL = long long;
  constexpr Index kMost = Index{1} << 40;
  const Spatial out = output_extent(p, in);
  bool good = images >= 0;
  Index rows = images;
  for (std::size_t d = 0; d < 3; ++d) {
    good = good && in[d] >= 0 && in[d] <= kMost && multiply_fits(rows, out[d], &rows);
  }
  if (good) return {};
  return Error::make(Code::bad_shape,
                     "conv: %lld images of (%lld, %lld, %lld): extents are 0 to 2^40, and the "
                     "output's positions must be below 2^63",
                     LL(images), LL(in[0]), LL(in[1]), LL(in[2]));
}

}  // namespace detail

/// What a convolution of so many images of extent `in` costs. `residual` is the type that the
/// epilogue's residual has, if it has one. On a chip with an engine for convolutions, and without a
/// mapping given by hand, what they cost there; an engine tells no events.
inline Result<Report> estimate(const Backend& backend, const ConvProblem& problem,
                               const Spatial& in, Index images = 1, const Trace& trace = {},
                               DType residual = DType::f32) {
  if (Error e = supports(backend, problem)) return e;
  if (Error e = detail::check_images(problem, in, images)) return e;
  if (has_conv_engine(backend.chip()) && !backend.mapping()) {
    return account_conv(backend.chip(), problem, in, images, size_of(residual));
  }
  const Work work = backend.work_of(problem, in, images, size_of(residual));
  Mapping mapping;
  if (Error e = backend.mapping_for(work, &mapping)) return e;
  return account(backend.chip(), work, mapping, &trace);
}

/// A prepared convolution. Immutable; copies share everything. Runs serially, whatever the
/// executor.
class Conv {
 public:
  /// Bytes that run() needs for up to this many output positions, of all images together.
  std::size_t workspace_bytes(Index positions, Index /*workers*/ = 1) const {
    return static_cast<std::size_t>(
        ConvCall::bytes(backend_.chip(), problem_, static_cast<double>(positions)));
  }

  /// Computes args.c as the chip would. Checks everything first: after an Error, nothing was
  /// written. Never allocates.
  Error run(const ConvArgs& args, std::span<std::byte> workspace,
            Parallel /*executor*/ = {}) const noexcept {
    const ConvProblem& p = problem_;
    if (Error e = validate(p, args)) return e;
    for (const float s : args.row_scales) {
      if (!std::isfinite(s)) {
        return Error::make(Code::bad_value, "conv: a row scale is %g; it must be finite",
                           double(s));
      }
    }
    const Index positions = args.c.batch * args.c.positions();
    if (positions == 0 || p.out_channels == 0) return {};
    const std::size_t needed = workspace_bytes(positions);
    if (workspace.size() < needed) {
      return Error::make(Code::no_workspace,
                         "conv: a workspace of %zu bytes, but %lld positions on %.40s need %zu",
                         workspace.size(), static_cast<long long>(positions),
                         backend_.chip().name.c_str(), needed);
    }
    const Work work = backend_.work_of(p, args.a.extent, args.a.batch, size_of(args.residual.type));
    Mapping mapping;
    if (Error e = backend_.mapping_for(work, &mapping)) return e;
    const ConstMatrixView weights(weights_->data(), p.b, p.taps() * p.group_inputs(),
                                  p.group_outputs(), p.group_outputs(), 1, p.groups);
    ConvCall call(p, args);
    Values(call, weights, workspace.data()).run(backend_.chip(), work, mapping);
    return {};
  }

  const ConvProblem& problem() const { return problem_; }
  std::string kernel() const { return "tiles on " + backend_.name(); }

  /// What images of extent `in` cost; see estimate().
  Result<Report> report(const Spatial& in, Index images = 1, const Trace& trace = {}) const {
    return estimate(backend_, problem_, in, images, trace);
  }

  /// What prepare() calls.
  static Result<Conv> make(const Backend& backend, const ConvProblem& p, const FilterView& b) {
    if (Error e = supports(backend, p)) return e;
    if (b.type != p.b) {
      return Error::make(Code::unsupported, "conv: b holds %s but the problem says %s",
                         name(b.type), name(p.b));
    }
    const Index inputs = p.group_inputs(), outputs = p.group_outputs(), size = size_of(p.b);
    const Index bytes = p.taps() * inputs * p.out_channels * size;
    if (b.data == nullptr && bytes != 0) return Error::make(Code::bad_data, "conv: b is null");
    auto weights = std::make_shared<AlignedBuffer>(static_cast<std::size_t>(bytes));
    if (std::ssize(std::span<std::byte>(*weights)) != bytes) {
      return Error::make(Code::no_memory, "conv: no memory for %lld bytes of weights",
                         static_cast<long long>(bytes));
    }
    std::byte* out = weights->data();  // (group, tap, input, output)
    for (Index g = 0; g < p.groups && bytes != 0; ++g) {
      Spatial k = {};
      for (k[0] = 0; k[0] < p.kernel[0]; ++k[0]) {
        for (k[1] = 0; k[1] < p.kernel[1]; ++k[1]) {
          for (k[2] = 0; k[2] < p.kernel[2]; ++k[2]) {
            for (Index i = 0; i < inputs; ++i) {
              for (Index j = g * outputs; j < (g + 1) * outputs; ++j, out += size) {
                std::memcpy(out,
                            static_cast<const std::byte*>(b.data) + b.offset(g, j, k, i) * size,
                            static_cast<std::size_t>(size));
              }
            }
          }
        }
      }
    }
    return Conv(backend, p, std::move(weights));
  }

 private:
  Conv(const Backend& backend, const ConvProblem& p, std::shared_ptr<const AlignedBuffer> weights)
      : backend_(backend),
        problem_(p),
        arrays_({.n = p.out_channels,
                 .a = p.a,
                 .b = p.b,
                 .c = p.c,
                 .b_zero_points = p.b_zero_points,
                 .epilogue = p.epilogue}),
        weights_(std::move(weights)) {
    problem_.b_zero_points = arrays_->b_zero_points;
    problem_.epilogue = arrays_->epilogue;
  }

  Backend backend_;
  ConvProblem problem_;
  OwnedGemmProblem arrays_;  // that problem_ points to
  std::shared_ptr<const AlignedBuffer> weights_;
};

}  // namespace sim

/// Prepares a convolution for a simulated chip.
inline Result<sim::Conv> prepare(const sim::Backend& backend, const ConvProblem& problem,
                                 const FilterView& b) {
  return sim::Conv::make(backend, problem, b);
}

}  // namespace QUERN_ABI
}  // namespace quern
