// The toy backend behind a wall: its buffers are at addresses the program can do arithmetic with,
// but not read or write, like those of a device.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "quern/testing/attention_problems.hpp"
#include "toy_attention.hpp"
#include "toy_backend.hpp"
#include "toy_conv.hpp"

namespace far {

using namespace quern;

/// No user space of x86-64 or Arm reaches there.
inline constexpr std::uintptr_t kDistance = std::uintptr_t{1} << 52;

template <class T>
T* out(T* here) {
  return here == nullptr ? here
                         : reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(here) + kDistance);
}
template <class T>
T* in(T* there) {
  return there == nullptr
             ? there
             : reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(there) - kDistance);
}
template <class T>
std::span<T> in(std::span<T> there) {
  return {in(there.data()), there.size()};
}

class Buffer {
 public:
  explicit Buffer(AlignedBuffer memory) : memory_(std::move(memory)) {}
  std::byte* data() const { return out(memory_.data()); }
  std::size_t size() const { return memory_.size(); }

 private:
  friend struct Backend;
  AlignedBuffer memory_;
};

struct Backend {
  using Buffer = far::Buffer;
  toy::Backend device;

  std::string name() const { return "far " + device.name(); }
  Result<Buffer> allocate(std::size_t bytes) const {
    auto memory = device.allocate(bytes);
    if (!memory) return memory.error();
    return Buffer(std::move(*memory));
  }
  Error upload(Buffer& to, std::span<const std::byte> from) const {
    return device.upload(to.memory_, from);
  }
  Error download(std::span<std::byte> to, const Buffer& from) const {
    return device.download(to, from.memory_);
  }
};

/// An operation of the toy's, with the addresses of calls brought in.
template <class Op, class Problem, class Args>
class Operation {
 public:
  explicit Operation(Op op) : op_(std::move(op)) {}
  Index workspace_bytes(Index count, Index workers = 1) const {
    return op_.workspace_bytes(count, workers);
  }
  const Problem& problem() const { return op_.problem(); }
  std::string kernel() const { return "far"; }

  Error run(Args args, std::span<std::byte> workspace, Parallel executor = {}) const noexcept {
    args.a.data = in(args.a.data);
    args.c.data = in(args.c.data);
    args.residual.data = in(args.residual.data);
    args.row_scales = in(args.row_scales);
    if constexpr (requires { args.a_zero_points; }) args.a_zero_points = in(args.a_zero_points);
    return op_.run(args, in(workspace), executor);
  }

 private:
  Op op_;
};

/// The toy's attention, likewise.
class Attention {
 public:
  explicit Attention(toy::Attention op) : op_(std::move(op)) {}
  Index workspace_bytes(Index queries, Index keys, Index workers = 1) const {
    return op_.workspace_bytes(queries, keys, workers);
  }
  const AttentionProblem& problem() const { return op_.problem(); }
  std::string kernel() const { return "far"; }

  Error run(AttentionArgs args, std::span<std::byte> workspace,
            Parallel executor = {}) const noexcept {
    testing::visit_inputs(args, [](const char*, auto& x) { x = in(x); });
    args.out.data = in(args.out.data);
    args.lse.data = in(args.lse.data);
    args.scores.data = in(args.scores.data);
    return op_.run(args, in(workspace), executor);
  }

 private:
  toy::Attention op_;
};
using Gemm = Operation<toy::Gemm, GemmProblem, GemmArgs>;
using Conv = Operation<toy::Conv, ConvProblem, ConvArgs>;

template <class Problem>
Error supports(const Backend& backend, const Problem& p) {
  return supports(backend.device, p);
}
template <class Weights>  // ConstMatrixView, or packed ones
Result<Gemm> prepare(const Backend& backend, const GemmProblem& p, const Weights& weights) {
  auto op = prepare(backend.device, p, weights);
  if (!op) return op.error();
  return Gemm(std::move(*op));
}
inline Result<Conv> prepare(const Backend& backend, const ConvProblem& p, const FilterView& b) {
  auto op = prepare(backend.device, p, b);
  if (!op) return op.error();
  return Conv(std::move(*op));
}
inline Result<Attention> prepare(const Backend& backend, const AttentionProblem& p) {
  auto op = prepare(backend.device, p);
  if (!op) return op.error();
  return Attention(std::move(*op));
}
inline Result<toy::PackedWeights> pack(const Backend& backend, const GemmProblem& p,
                                       const ConstMatrixView& weights) {
  return pack(backend.device, p, weights);
}

}  // namespace far
