// Operations without weights, in the shape of those with weights that conformance_suite.hpp knows.
//
// Their Case has, beside what the suite asks for, a Call (their arguments, with the place of the
// results, c, and a size), and visit(call, f), which calls f(name, x) for all that a call reads, in
// the order of input_memory(); x is a reference to a pointer or to a span.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "quern/testing/conformance_suite.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

namespace detail {

struct NoWeights {};

/// A backend whose operations of one kind are prepared from a problem and nothing, and become
/// Wrap<operation>.
template <class B, class Problem, template <class> class Wrap>
struct Weightless {
  using Buffer = typename B::Buffer;
  B backend;

  std::string name() const { return backend.name(); }
  Result<Buffer> allocate(std::size_t bytes) const { return backend.allocate(bytes); }
  Error upload(Buffer& to, std::span<const std::byte> from) const {
    return backend.upload(to, from);
  }
  Error download(std::span<std::byte> to, const Buffer& from) const {
    return backend.download(to, from);
  }

  friend Error supports(const Weightless& b, const Problem& p) { return supports(b.backend, p); }
  friend auto prepare(const Weightless& b, const Problem& p, NoWeights) {
    auto op = prepare(b.backend, p);
    using Op = Wrap<std::remove_cvref_t<decltype(*op)>>;
    return op ? Result<Op>(Op{std::move(*op)}) : Result<Op>(op.error());
  }
};

template <class Case>
concept WeightlessCase = requires(const Case& c) {
  { c.weights() } -> std::same_as<NoWeights>;
};

}  // namespace detail

/// The inputs of such a case in a backend's memory; several of them may share a buffer.
template <Backend B, detail::WeightlessCase Case>
class CaseInputs<B, Case> {
 public:
  static Result<CaseInputs> upload(const B& backend, const Case& c) {
    CaseInputs inputs(c);
    for (const std::span<const std::byte> bytes : c.input_memory()) {
      auto buffer = uploaded(backend, bytes);
      if (!buffer) return buffer.error();
      inputs.buffers_.push_back(std::move(*buffer));
    }
    return inputs;
  }

  /// The call of this size, all of it in the backend's memory; its results are at `c`.
  template <class Size>
  auto args(std::byte* c, const Size& size) const {
    auto call = case_->args(c, size);
    Case::visit(call, [&](const char*, auto& x) {
      if constexpr (requires { x.size(); }) {
        x = {there(x.data()), x.size()};
      } else {
        x = there(x);
      }
    });
    return call;
  }

  /// What is not any more what was uploaded; empty if all is.
  std::string changed(const B& backend) const {
    std::string found;
    std::size_t i = 0;
    typename Case::Call names;
    Case::visit(names, [&](const char* name, const auto&) {
      const auto now = downloaded(backend, buffers_[i]);
      if (!now) found = std::string("download: ") + now.error().what();
      if (now && !same_bytes(case_->input_memory()[i], bytes_of(*now))) {
        found = std::string("run() changed ") + name;
      }
      ++i;
    });
    return found;
  }

 private:
  explicit CaseInputs(const Case& c) : case_(&c) {}

  /// The address on the backend of what is `here` in one of the inputs; others stay as they are.
  template <class T>
  T* there(T* here) const {
    const auto memory = case_->input_memory();
    for (std::size_t i = 0; i < memory.size(); ++i) {
      const auto at = reinterpret_cast<std::uintptr_t>(here),
                 begin = reinterpret_cast<std::uintptr_t>(memory[i].data());
      if (here == nullptr || at < begin || at >= begin + memory[i].size()) continue;
      return reinterpret_cast<T*>(buffers_[i].data() + (at - begin));
    }
    return here;
  }

  const Case* case_;
  std::vector<typename B::Buffer> buffers_;  // as in input_memory()
};

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
