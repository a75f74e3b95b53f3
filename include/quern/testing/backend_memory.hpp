// A backend's memory, for the conformance suite: what the program has goes there and comes back,
// and is touched nowhere in between. And a check of that memory by itself.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "quern/backend.hpp"
#include "quern/testing/random.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

inline std::span<const std::byte> bytes_of(const AlignedBuffer& buffer) {
  return {buffer.data(), buffer.size()};
}

/// A buffer of the backend with a copy of these bytes.
template <Backend B>
Result<typename B::Buffer> uploaded(const B& backend, std::span<const std::byte> bytes) {
  auto buffer = backend.allocate(bytes.size());
  if (!buffer) return buffer.error();
  if (Error e = backend.upload(*buffer, bytes)) return e;
  return buffer;
}

/// The whole buffer in the program's memory.
template <Backend B>
Result<AlignedBuffer> downloaded(const B& backend, const typename B::Buffer& buffer) {
  AlignedBuffer bytes(static_cast<std::size_t>(buffer.size()));
  if (Error e = backend.download(bytes, buffer)) return e;
  return bytes;
}

inline bool same_bytes(std::span<const std::byte> x, std::span<const std::byte> y) {
  return x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), x.size()) == 0);
}
inline bool same_bytes(const AlignedBuffer& x, const AlignedBuffer& y) {
  return same_bytes(bytes_of(x), bytes_of(y));
}

/// The inputs of a case (a GemmCase, a ConvCase), but for C, in a backend's memory. The case must
/// outlive it.
template <Backend B, class Case>
class CaseInputs {
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

  /// The call of this size, all of it in the backend's memory; C's is at `c`.
  template <class Size>
  auto args(std::byte* c, const Size& size) const {
    auto args = case_->args(c, size);
    args.a.data = there(args.a.data, 0);
    args.residual.data = there(args.residual.data, 1);
    args.row_scales = there(args.row_scales, 2);
    if constexpr (requires { args.a_zero_points; }) {
      args.a_zero_points = there(args.a_zero_points, 3);
    }
    return args;
  }

  /// What is not any more what was uploaded; empty if all is.
  std::string changed(const B& backend) const {
    constexpr const char* kNames[] = {"a", "the residual", "row_scales", "a_zero_points"};
    const auto memory = case_->input_memory();
    for (std::size_t i = 0; i < memory.size(); ++i) {
      const auto now = downloaded(backend, buffers_[i]);
      if (!now) return std::string("download: ") + now.error().what();
      if (!same_bytes(memory[i], bytes_of(*now))) {
        return std::string("run() changed ") + kNames[i];
      }
    }
    return {};
  }

 private:
  explicit CaseInputs(const Case& c) : case_(&c) {}

  /// The address on the backend of what is `here` in input i. C and null stay as they are.
  const void* there(const void* here, std::size_t i) const {
    const std::span<const std::byte> bytes = case_->input_memory()[i];
    if (here == nullptr || bytes.empty()) return here;
    return buffers_[i].data() + (static_cast<const std::byte*>(here) - bytes.data());
  }
  template <class T>
  std::span<const T> there(std::span<const T> here, std::size_t i) const {
    if (here.empty()) return here;
    const void* address = there(static_cast<const void*>(here.data()), i);
    return {static_cast<const T*>(address), here.size()};
  }

  const Case* case_;
  std::vector<typename B::Buffer> buffers_;  // as in input_memory()
};

namespace detail {

inline AlignedBuffer pattern(std::size_t bytes, std::uint64_t seed) {
  AlignedBuffer buffer(bytes);
  Random random(seed);
  for (std::size_t i = 0; i < bytes; ++i) {
    buffer.data()[i] = static_cast<std::byte>(random.bits() & 0xFF);
  }
  return buffer;
}

/// Does the buffer hold these bytes?
template <Backend B>
bool holds(const B& backend, const typename B::Buffer& buffer, const AlignedBuffer& bytes) {
  const auto now = downloaded(backend, buffer);
  return now && same_bytes(*now, bytes);
}

template <Backend B>
std::string check_buffer(const B& backend, std::size_t bytes) {
  const AlignedBuffer first = pattern(bytes, 1), second = pattern(bytes, 2);
  auto x = uploaded(backend, bytes_of(first)), y = uploaded(backend, bytes_of(second));
  if (!x || !y) return (x ? y : x).error().what();
  const auto at = [](const auto& buffer) {
    return reinterpret_cast<std::uintptr_t>(buffer.data());
  };
  if (x->size() != bytes) return "size() is " + std::to_string(x->size());
  if (bytes != 0 && at(*x) % kAlignment != 0) return "data() is not a multiple of kAlignment";
  if (bytes != 0 && at(*x) < at(*y) + bytes && at(*y) < at(*x) + bytes) {
    return "two buffers share addresses";
  }
  bool same = holds(backend, *x, first) && holds(backend, *y, second);
  // And exchanged: a byte that was never written may have been right by chance, but not twice.
  if (Error e = backend.upload(*x, bytes_of(second))) return e.what();
  if (Error e = backend.upload(*y, bytes_of(first))) return e.what();
  same = same && holds(backend, *x, second) && holds(backend, *y, first);
  if (!same) return "what is downloaded is not what was uploaded";

  // Half of the second pattern over the first.
  if (Error e = backend.upload(*x, bytes_of(first))) return e.what();
  AlignedBuffer mixed = pattern(bytes, 1);
  if (bytes > 1) std::memcpy(mixed.data(), second.data(), bytes / 2);
  if (Error e = backend.upload(*x, bytes_of(second).first(bytes / 2))) return e.what();
  if (!holds(backend, *x, mixed)) return "an upload of half of it changed something else";

  AlignedBuffer larger = pattern(bytes + 1, 3);
  if (backend.upload(*x, bytes_of(larger)).code() != Code::bad_shape) {
    return "upload() of a byte too many does not say bad_shape";
  }
  if (!holds(backend, *x, mixed)) return "an upload that was refused changed something";
  if (backend.download(larger, *x).code() != Code::bad_shape) {
    return "download() of a byte too many does not say bad_shape";
  }
  if (!same_bytes(larger, pattern(bytes + 1, 3))) {
    return "a download that was refused wrote something";
  }
  const typename B::Buffer moved = std::move(*x);
  if (!holds(backend, moved, mixed)) return "a buffer that was moved lost its bytes";
  return {};
}

}  // namespace detail

/// Whether the backend's memory keeps what the concept Backend promises; empty if so.
template <Backend B>
std::string memory_problem(const B& backend) {
  for (const std::size_t bytes : std::initializer_list<std::size_t>{0, 1, 63, 64, 1000, 100'000}) {
    const std::string problem = detail::check_buffer(backend, bytes);
    if (!problem.empty()) {
      return "memory, a buffer of " + std::to_string(bytes) + " bytes: " + problem;
    }
  }
  return {};
}

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
