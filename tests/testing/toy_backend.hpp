// A backend that runs the reference and, with a Fault, shows what the conformance suite sees. Its
// convolutions are in toy_conv.hpp, its attention is in toy_attention.hpp.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "quern/backend.hpp"
#include "quern/ops/gemm_reference.hpp"
#include "quern/ops/owned_gemm.hpp"

namespace toy {

using namespace quern;

enum class Fault {
  none,
  off_by_one,     ///< the last bit of the last element is wrong
  saturates,      ///< sums stop at 2^15 - 1 on the way, like the usual u8 x s8 instruction
  writes_a_gap,   ///< the byte after a row's end
  writes_before,  ///< the byte before C
  overruns_workspace,
  depends_on_threads,
  depends_on_order,  ///< which index comes last changes the result
  allocates,
  needs_all_rows,    ///< wrong for an odd number of rows
  remembers_extent,  ///< of convolutions: wrong for images of another size than the first ones
  forgets_dilation,  ///< of convolutions
  forgets_window,    ///< of attention, like the next ones
  forgets_lengths,   ///< reads all keys that there is room for
  forgets_sinks,
  blind_is_nan,  ///< rows that see nothing are NaN
  coarse,        ///< f32 results have the digits of bf16
  a_bit_off,     ///< f32 results are right within any bound, but not always the same
  wrong_lse,
  trusts_numbers,       ///< looks at no offset, length or page before it writes
  writes_then_refuses,  ///< touches C before it looks at the arguments
  accepts_any_workspace,
  forgets_weights,  ///< stored weights lose their last byte
  packs_at_random,  ///< packing twice gives different bytes
  keeps_pointers,   ///< to the caller's scales and biases
  changes_a,
  before_workspace,  ///< writes the byte before it
  refuses_all,
  refuses_only_in_supports,
  refuses_only_in_prepare,
  refuses_with_another_code,
  ignores_validate,
  upload_loses_a_byte,
  upload_clears_the_rest,  ///< beyond what is uploaded
  upload_takes_too_much,
  download_takes_too_much,
  allocates_too_much,  ///< buffers are larger than they should be
};

struct Backend : HostMemory {
  Fault fault = Fault::none;

  Backend() = default;
  explicit Backend(Fault f) : fault(f) {}
  std::string name() const { return "toy"; }

  Result<Buffer> allocate(std::size_t bytes) const {
    return HostMemory::allocate(fault == Fault::allocates_too_much ? bytes + 1 : bytes);
  }
  Error upload(Buffer& to, std::span<const std::byte> from) const {
    if (fault == Fault::upload_takes_too_much && from.size() > to.size()) return {};
    if (fault == Fault::upload_loses_a_byte && from.size() == 1000) from = from.first(999);
    if (fault == Fault::upload_clears_the_rest) std::fill_n(to.data(), to.size(), std::byte{});
    return HostMemory::upload(to, from);
  }
  Error download(std::span<std::byte> to, const Buffer& from) const {
    if (fault == Fault::download_takes_too_much && to.size() > from.size()) return {};
    return HostMemory::download(to, from);
  }
};

/// f16 outputs are not offered.
template <class Problem>
Error supports_any(const Backend& backend, const Problem& p) {
  if (backend.fault == Fault::ignores_validate) return {};
  if (Error e = validate(p)) return e;
  const char* type;
  if constexpr (requires { p.c; }) {
    type = quern::name(p.c);
  } else {
    type = quern::name(p.out);
  }
  if (std::strcmp(type, "f16") != 0 && backend.fault != Fault::refuses_all) return {};
  return Error::make(Code::unsupported, "toy: no output of %s", type);
}

/// What prepare() asks.
template <class Problem>
Error check(const Backend& backend, const Problem& p) {
  if (backend.fault == Fault::ignores_validate) return {};
  if (backend.fault == Fault::refuses_only_in_supports) return validate(p);
  Error e = supports_any(backend, p);
  if (e.code() == Code::unsupported && backend.fault == Fault::refuses_with_another_code) {
    return Error::make(Code::no_memory, "%s", e.what());
  }
  if (!e && backend.fault == Fault::refuses_only_in_prepare) {
    return Error::make(Code::unsupported, "toy: not today");
  }
  return e;
}

inline Error supports(const Backend& backend, const GemmProblem& p) {
  return supports_any(backend, p);
}

/// The weights as a dense row-major matrix.
struct PackedWeights {
  std::vector<std::byte> data;
  std::span<const std::byte> bytes() const { return data; }
  static Result<PackedWeights> from_bytes(std::span<const std::byte> bytes) {
    return PackedWeights{{bytes.begin(), bytes.end()}};
  }
};

/// Where a faulty operation strikes; null where there is nothing.
struct Places {
  std::byte *first = nullptr, *last = nullptr;  ///< elements of C
  std::byte* gap = nullptr;                     ///< between two rows of C
  std::byte* input = nullptr;                   ///< an element of A
};

inline void flip(std::byte* at) {
  if (at != nullptr) *at ^= std::byte{1};
}

/// A sum that stops at 2^15 - 1.
inline void saturate(std::byte* sum) {
  std::int32_t value;
  std::memcpy(&value, sum, sizeof value);
  value = std::min(value, 32767);
  std::memcpy(sum, &value, sizeof value);
}

/// What is wrong whatever the operation; `last`: the index that was run last.
inline void misbehave(Fault fault, const Places& at, std::span<std::byte> workspace, Index workers,
                      Index last) {
  switch (fault) {
    case Fault::off_by_one:
      return flip(at.last);
    case Fault::writes_a_gap:
      return flip(at.gap);
    case Fault::writes_before:
      return flip(at.first == nullptr ? nullptr : at.first - 1);
    case Fault::overruns_workspace:
      workspace.data()[workspace.size()] = std::byte{0};
      return;
    case Fault::before_workspace:
      workspace.data()[-1] = std::byte{0};
      return;
    case Fault::depends_on_threads:
      return flip(workers == 7 ? at.last : nullptr);
    case Fault::depends_on_order:
      return flip(last == 0 ? at.last : nullptr);
    case Fault::allocates:
      delete new volatile int(0);
      return;
    case Fault::changes_a:
      if (at.input != nullptr) *at.input = std::byte{0x5A};
      return;
    default:
      return;
  }
}

class Gemm {
 public:
  Gemm(Fault fault, const GemmProblem& problem, PackedWeights weights)
      : fault_(fault), owned_(problem), weights_(std::move(weights)) {
    problem_ = fault == Fault::keeps_pointers ? problem : *owned_;
  }

  Index workspace_bytes(Index rows, Index workers = 1) const { return 8 + rows + workers; }
  const GemmProblem& problem() const { return problem_; }
  const char* kernel() const { return "toy"; }

  Error run(const GemmArgs& args, std::span<std::byte> workspace,
            Parallel parallel = {}) const noexcept {
    if (fault_ == Fault::writes_then_refuses && args.c.data != nullptr) flip(places(args).last);
    if (Error e = validate(problem_, args)) return e;
    const Index needed = workspace_bytes(args.a.batch * args.a.rows, parallel.concurrency());
    if (fault_ != Fault::accepts_any_workspace && std::ssize(workspace) < needed) {
      return Error::make(Code::no_workspace, "gemm: the workspace has %lld bytes, %lld are needed",
                         static_cast<long long>(workspace.size()), static_cast<long long>(needed));
    }
    if (needed > 0) std::memset(workspace.data(), 0, static_cast<std::size_t>(needed));
    const GemmProblem& p = problem_;
    const ConstMatrixView b(weights_.data.data(), p.b, p.k, p.n, p.n, 1, p.batch);
    std::atomic<Index> last{-1};
    parallel(2, [&](Index index, Index) {
      if (index == 0) reference_gemm(p, b, args);
      last = index;
    });
    const Places at = places(args);
    for (Index i = 0; fault_ == Fault::saturates && at.first && p.c == DType::s32; ++i) {
      if (i == args.c.cols) break;
      saturate(element(args.c, 0, 0, i));
    }
    if (fault_ == Fault::needs_all_rows && args.c.rows % 2 == 1) flip(at.last);
    misbehave(fault_, at, workspace, parallel.concurrency(), last);
    return {};
  }

 private:
  static Places places(const GemmArgs& args) {
    const MatrixView& c = args.c;
    if (c.rows * c.cols * c.batch == 0) return {};
    Places at{.first = element(c, 0, 0, 0),
              .last = element(c, c.batch - 1, c.rows - 1, c.cols - 1)};
    if (c.rows > 1 && c.row_stride > c.cols) at.gap = element(c, 0, 0, c.cols);
    if (args.a.cols > 0) at.input = const_cast<std::byte*>(element(args.a, 0, 0, 0));
    return at;
  }

  Fault fault_;
  OwnedGemmProblem owned_;
  GemmProblem problem_;
  PackedWeights weights_;
};

inline Result<PackedWeights> pack(const Backend& backend, const GemmProblem& p,
                                  const ConstMatrixView& b) {
  if (Error e = validate(p, b)) return e;
  PackedWeights packed;
  const Index size = size_of(p.b);
  for (Index w = 0; w < p.batch; ++w) {
    for (Index k = 0; k < p.k; ++k) {
      for (Index j = 0; j < p.n; ++j) {
        packed.data.insert(packed.data.end(), element(b, w, k, j), element(b, w, k, j) + size);
      }
    }
  }
  static std::uint8_t packings = 0;
  if (backend.fault == Fault::packs_at_random) packed.data.push_back(std::byte{++packings});
  return packed;
}

inline Result<Gemm> prepare(const Backend& backend, const GemmProblem& p, PackedWeights packed) {
  if (Error e = check(backend, p)) return e;
  if (backend.fault == Fault::forgets_weights && !packed.data.empty())
    packed.data.back() ^= std::byte{1};
  return Gemm(backend.fault, p, std::move(packed));
}

inline Result<Gemm> prepare(const Backend& backend, const GemmProblem& p,
                            const ConstMatrixView& b) {
  if (Error e = check(backend, p)) return e;
  auto packed = pack(backend, p, b);
  if (!packed) return packed.error();
  return Gemm(backend.fault, p, std::move(*packed));
}

}  // namespace toy
