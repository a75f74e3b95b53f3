// What a backend is. A backend is a small copyable value (a CPU's instruction set, a simulated
// chip, a GPU's device and stream) that names itself, owns a kind of memory, and prepares
// operations. It provides, found by argument-dependent lookup beside its class:
//
//   Error supports(const B&, const GemmProblem&);          empty: prepare() takes such problems
//   Result<Op> prepare(const B&, const GemmProblem&, const ConstMatrixView& weights);
//
// likewise of convolutions, if it offers them,
//
//   Error supports(const B&, const ConvProblem&);
//   Result<Op> prepare(const B&, const ConvProblem&, const FilterView& weights);
//
// of attention, which has no weights,
//
//   Error supports(const B&, const AttentionProblem&);
//   Result<Op> prepare(const B&, const AttentionProblem&);
//
// and, when its packed weights can be stored,
//
//   Result<P> pack(const B&, const GemmProblem&, const ConstMatrixView& weights);
//   Result<Op> prepare(const B&, const GemmProblem&, const P&);       P::bytes(), P::from_bytes()
//
// The weights and the epilogue's arrays given to prepare() and pack() are in the program's own
// memory; they may go away afterwards. Everything that run() gets, matrices, row scales, zero
// points, offsets, lengths, page tables and the workspace, is in the backend's memory. A problem
// that is not supported gets an Error from supports() and the same from prepare(); there is no
// silent fallback.
//
// testing/conformance.hpp checks all of this for any backend. docs/backends.md builds one.
#pragma once

#include <concepts>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include "quern/core/executor.hpp"
#include "quern/core/memory.hpp"
#include "quern/ops/attention.hpp"
#include "quern/ops/conv.hpp"
#include "quern/ops/gemm.hpp"

namespace quern {
inline namespace QUERN_ABI {

/// A name, and memory: allocate, upload (program to backend), download (backend to program). Both
/// copies start at the buffer's first byte, refuse what does not fit (Code::bad_shape, nothing is
/// copied), are complete when they return, and come after every run() that was called before. A
/// buffer has the size that was asked for, 0 included, and frees itself. Its data() is an address
/// for views and for arithmetic, a multiple of kAlignment and apart from those of other buffers;
/// only the backend need be able to read there.
template <class B>
concept Backend = std::copyable<B> && std::movable<typename B::Buffer> &&
    requires(const B& backend, typename B::Buffer& buffer, std::size_t bytes,
             std::span<std::byte> to, std::span<const std::byte> from) {
  { backend.name() } -> std::convertible_to<std::string>;
  { backend.allocate(bytes) } -> std::same_as<Result<typename B::Buffer>>;
  { backend.upload(buffer, from) } -> std::same_as<Error>;
  { backend.download(to, std::as_const(buffer)) } -> std::same_as<Error>;
  { std::as_const(buffer).data() } -> std::same_as<std::byte*>;
  { std::as_const(buffer).size() } -> std::convertible_to<std::size_t>;
};

/// What all prepared operations have: they are immutable, copies share everything, run() neither
/// throws nor allocates, and after an Error it has written nothing. workspace_bytes(), whose
/// arguments depend on the operation, is enough for calls of up to that size on up to that many
/// workers.
template <class Op, class Problem, class Args>
concept PreparedOperation = std::move_constructible<Op> &&
    requires(const Op& op, const Args& args, std::span<std::byte> workspace, Parallel executor) {
  { op.run(args, workspace) } -> std::same_as<Error>;
  { op.run(args, workspace, executor) } -> std::same_as<Error>;
  requires noexcept(op.run(args, workspace))&& noexcept(op.run(args, workspace, executor));
  { op.problem() } -> std::convertible_to<const Problem&>;
  { op.kernel() } -> std::convertible_to<std::string>;  // how it is computed, for people
};

/// A workspace that grows with one number: workspace_bytes(count, workers).
template <class Op>
concept WorkspaceByCount = requires(const Op& op, Index count, Index workers) {
  { op.workspace_bytes(count) } -> std::convertible_to<std::size_t>;  // on one worker
  { op.workspace_bytes(count, workers) } -> std::convertible_to<std::size_t>;
};

/// A prepared GEMM; the workspace's count is of rows, those of all batch elements together.
template <class Op>
concept PreparedGemm = PreparedOperation<Op, GemmProblem, GemmArgs> && WorkspaceByCount<Op>;

/// A prepared convolution, for images of any number and extent; the workspace's count is of output
/// positions, those of all images together.
template <class Op>
concept PreparedConv = PreparedOperation<Op, ConvProblem, ConvArgs> && WorkspaceByCount<Op>;

/// A prepared attention, for any number of sequences of any lengths. workspace_bytes(queries, keys,
/// workers): the queries of all sequences together, and the most keys of one sequence, those in use
/// (AttentionArgs::kv_tokens()). Results in float arithmetic, too, have the same bits for every
/// executor.
///
/// Offsets, lengths and pages that validate_values() refuses are refused by run() as well where
/// they are in the program's memory (its Buffer is AlignedBuffer): they would lead astray. Of other
/// memory, and of the values of masks, slopes, sinks and scales, run() need not know.
template <class Op>
concept PreparedAttention = PreparedOperation<Op, AttentionProblem, AttentionArgs> &&
    requires(const Op& op, Index queries, Index keys, Index workers) {
  { op.workspace_bytes(queries, keys) } -> std::convertible_to<std::size_t>;  // on one worker
  { op.workspace_bytes(queries, keys, workers) } -> std::convertible_to<std::size_t>;
};

/// A backend that offers GEMM.
template <class B>
concept GemmBackend = Backend<B> &&
    requires(const B& backend, const GemmProblem& problem, const ConstMatrixView& weights) {
  { supports(backend, problem) } -> std::same_as<Error>;
  { prepare(backend, problem, weights).error() } -> std::same_as<Error>;
  requires PreparedGemm<std::remove_cvref_t<decltype(*prepare(backend, problem, weights))>>;
};

/// A backend that offers convolutions.
template <class B>
concept ConvBackend = Backend<B> &&
    requires(const B& backend, const ConvProblem& problem, const FilterView& weights) {
  { supports(backend, problem) } -> std::same_as<Error>;
  { prepare(backend, problem, weights).error() } -> std::same_as<Error>;
  requires PreparedConv<std::remove_cvref_t<decltype(*prepare(backend, problem, weights))>>;
};

/// A backend that offers attention.
template <class B>
concept AttentionBackend = Backend<B> &&
    requires(const B& backend, const AttentionProblem& problem) {
  { supports(backend, problem) } -> std::same_as<Error>;
  { prepare(backend, problem).error() } -> std::same_as<Error>;
  requires PreparedAttention<std::remove_cvref_t<decltype(*prepare(backend, problem))>>;
};

/// Memory of the program itself, for backends that compute there. Inherit from it.
struct HostMemory {
  using Buffer = AlignedBuffer;

  Result<Buffer> allocate(std::size_t bytes) const {
    Buffer buffer(bytes);
    if (buffer.size() == bytes) return buffer;
    return Error::make(Code::no_memory, "no memory for a buffer of %zu bytes", bytes);
  }
  Error upload(Buffer& to, std::span<const std::byte> from) const {
    return copy(to.data(), to.size(), from.data(), from.size());
  }
  Error download(std::span<std::byte> to, const Buffer& from) const {
    return copy(to.data(), from.size(), from.data(), to.size());
  }

 private:
  static Error copy(std::byte* to, std::size_t buffer, const std::byte* from, std::size_t bytes) {
    if (bytes > buffer) {
      return Error::make(Code::bad_shape, "%zu bytes do not fit a buffer of %zu", bytes, buffer);
    }
    if (bytes != 0) std::memcpy(to, from, bytes);
    return {};
  }
};

}  // namespace QUERN_ABI
}  // namespace quern
