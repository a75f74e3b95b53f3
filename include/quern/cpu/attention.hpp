// Attention on the CPU: prepare once, run for any number of sequences of any lengths.
//
//   auto attention = prepare(cpu::Backend(), AttentionProblem{.q_heads = 32, .kv_heads = 8, ...});
//   Workspace workspace(attention->workspace_bytes(queries, keys));
//   if (Error e = attention->run({.q = q, .k = k, .v = v, .out = out}, workspace)) ...
#pragma once

#include <span>
#include <string>

#include "quern/core/executor.hpp"
#include "quern/core/memory.hpp"
#include "quern/cpu/attention_floats.hpp"
#include "quern/cpu/attention_int8.hpp"
#include "quern/cpu/backend.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

/// A prepared attention. Immutable: any number of threads may run it at a time, each call with a
/// workspace of its own.
class Attention {
 public:
  /// Bytes that run() needs for up to this many queries, of all sequences together, and keys, of
  /// one sequence, on up to this many workers: blocks, which do not grow beyond some size.
  std::size_t workspace_bytes(Index queries, Index keys, Index workers = 1) const {
    return static_cast<std::size_t>(worker_bytes(queries, keys) * workers + partial_bytes(keys)) +
           kAlignment;
  }

  /// Computes args.out. Checks everything first, offsets, lengths and pages too: after an Error,
  /// nothing was written. Runs on `executor`, serially by default; the bits do not depend on it.
  /// Never allocates.
  Error run(const AttentionArgs& args, std::span<std::byte> workspace,
            Parallel executor = {}) const noexcept {
    const AttentionProblem& p = plan_.problem;
    if (Error e = validate(p, args)) return e;
    if (Error e = validate_values(p, args)) return e;
    const Index batch = args.batch(), workers = executor.concurrency();
    Call call{args, 0, 0, 0};
    for (Index b = 0; b < batch; ++b) {
      call.queries += args.q_tokens(b);
      call.rows = std::max(call.rows, args.q_tokens(b) * p.group());
      call.keys = std::max(call.keys, args.kv_tokens(b));
    }
    if (call.queries == 0) return {};
    const std::size_t needed = workspace_bytes(call.queries, call.keys, workers);
    if (workspace.size() < needed) {
      using detail::LL;
      return Error::make(Code::no_workspace,
                         "attention: a workspace of %lld bytes, but %lld queries and %lld keys on "
                         "%lld workers need %lld",
                         LL(workspace.size()), LL(call.queries), LL(call.keys), LL(workers),
                         LL(needed));
    }
    std::byte* memory = Carver(workspace.data()).take<std::byte>(0);
    if (p.arithmetic == AttentionArithmetic::int8) {
      run_int8(call, memory, executor);
    } else if (call.rows <= FloatBlocks::kFewRows && p.scores == Scores::none) {
      run_chunks(call, memory, executor);
    } else {
      run_blocks(call, memory, executor);
    }
    return {};
  }

  const AttentionProblem& problem() const { return plan_.problem; }
  /// How products are formed for many queries, and where: "f32 on AVX2".
  std::string kernel() const {
    const bool int8 = plan_.problem.arithmetic == AttentionArithmetic::int8;
    return std::string(int8 ? plan_.int8().name : "f32") + " on " + plan_.products->target;
  }

  /// What prepare() calls.
  static Result<Attention> make(const Backend& backend, const AttentionProblem& p) {
    if (Error e = validate(p)) return e;
    const Kernels& kernels = backend.kernels();
    Attention op;
    op.plan_ = {p, &kernels, &rowwise_kernels_for(kernels.target_bit),
                &attention_kernels_for(kernels.target_bit)};
    return op;
  }

 private:
  struct Call {
    const AttentionArgs& args;
    Index queries, rows, keys;  ///< of all, the most of a KV head, the most
  };

  Attention() = default;

  Index worker_bytes(Index queries, Index keys) const {
    const AttentionProblem& p = plan_.problem;
    // No product overflows: more rows than a block has make no difference.
    const Index rows = std::min<Index>(queries, 1 << 20) * p.group();
    return p.arithmetic == AttentionArithmetic::int8 ? Int8Blocks(p, rows, keys).worker_bytes()
                                                     : FloatBlocks(p, rows, keys).worker_bytes();
  }
  /// Of results of chunks of keys.
  Index partial_bytes(Index keys) const {
    const AttentionProblem& p = plan_.problem;
    const bool chunks = p.arithmetic == AttentionArithmetic::floats && keys > FloatBlocks::kChunk;
    return chunks ? Carver::bytes<float>(FloatBlocks::kMostPartialRows *
                                         FloatBlocks(p, 1, keys).partial_floats())
                  : 0;
  }

  /// Calls f(b, KV head, block of `rows` rows, worker) for all that there are; the last blocks,
  /// which see the most if attention is causal, first.
  template <class F>
  void for_blocks(const Call& call, Index rows, const Parallel& executor, const F& f) const {
    const Index batch = call.args.batch(), heads = plan_.problem.kv_heads;
    const Index blocks = divide_up(call.rows, rows);
    executor(blocks * batch * heads, [&](Index index, Index worker) {
      const Index head = index % heads, b = index / heads % batch,
                  block = blocks - 1 - index / heads / batch;
      if (block * rows < call.args.q_tokens(b) * plan_.problem.group()) {
        f(b, head, block * rows, worker);
      }
    });
  }

  void run_blocks(const Call& call, std::byte* memory, const Parallel& executor) const {
    FloatBlocks blocks(plan_.problem, call.rows, call.keys);
    blocks.even_out(call.rows);
    const Index bytes = blocks.worker_bytes();
    for_blocks(call, blocks.rows, executor, [&](Index b, Index head, Index begin, Index worker) {
      FloatTask(plan_, call.args, blocks, memory + worker * bytes)
          .run_block(AttentionRows(plan_, call.args, b, head), begin);
    });
  }

  void run_chunks(const Call& call, std::byte* memory, const Parallel& executor) const {
    const FloatBlocks blocks(plan_.problem, call.rows, call.keys);
    const Index sequences = call.args.batch() * plan_.problem.kv_heads,
                bytes = blocks.worker_bytes();
    const Index most = divide_up(call.keys, FloatBlocks::kChunk);
    const Index chunks = std::max<Index>(std::min(FloatBlocks::kParallelism / sequences, most), 1);
    const Index size = round_up(divide_up(call.keys, chunks), blocks.keys);
    auto* partial = reinterpret_cast<float*>(memory + bytes * executor.concurrency());
    const Index step = call.rows * blocks.partial_floats();
    const auto task = [&](Index sequence, Index worker, const auto& f) {
      const Index heads = plan_.problem.kv_heads;
      const AttentionRows rows(plan_, call.args, sequence / heads, sequence % heads);
      f(FloatTask(plan_, call.args, blocks, memory + worker * bytes), rows,
        partial + sequence * chunks * step);
    };
    executor(sequences * chunks, [&](Index index, Index worker) {
      task(index / chunks, worker, [&](FloatTask&& t, const AttentionRows& rows, float* results) {
        const Index c = index % chunks;
        t.run_chunk(rows, c * size, (c + 1) * size, c == 0,
                    chunks == 1 ? nullptr : results + c * step);
      });
    });
    if (chunks == 1) return;
    executor(sequences, [&](Index sequence, Index worker) {
      task(sequence, worker, [&](FloatTask&& t, const AttentionRows& rows, const float* results) {
        t.merge(rows, results, chunks, step);
      });
    });
  }

  void run_int8(const Call& call, std::byte* memory, const Parallel& executor) const {
    Int8Blocks blocks(plan_.problem, call.rows, call.keys);
    blocks.even_out(call.rows);
    const Index bytes = blocks.worker_bytes();
    for_blocks(call, blocks.rows, executor, [&](Index b, Index head, Index begin, Index worker) {
      Int8Task(plan_, call.args, blocks, memory + worker * bytes)
          .run(AttentionRows(plan_, call.args, b, head), begin);
    });
  }

  AttentionPlan plan_{};
};

}  // namespace cpu

/// The CPU takes every valid problem.
inline Error supports(const cpu::Backend&, const AttentionProblem& p) { return validate(p); }

/// Prepares a problem: validates and chooses kernels.
inline Result<cpu::Attention> prepare(const cpu::Backend& backend, const AttentionProblem& p) {
  return cpu::Attention::make(backend, p);
}
static_assert(AttentionBackend<cpu::Backend>);

}  // namespace QUERN_ABI
}  // namespace quern
