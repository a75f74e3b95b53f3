// Memory: an aligned buffer that owns, and the carving of a caller's workspace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <utility>

#include "quern/core/dtype.hpp"

namespace quern {
inline namespace QUERN_ABI {

/// Alignment of everything quern allocates: a cache line, and the widest vector.
inline constexpr std::size_t kAlignment = 64;

constexpr Index round_up(Index x, Index multiple) {
  return (x + multiple - 1) / multiple * multiple;
}
constexpr Index divide_up(Index x, Index by) { return (x + by - 1) / by; }

/// Bytes on a cache-line boundary, released at the end of its life. Moves; does not copy. Empty
/// when the allocation failed.
class AlignedBuffer {
 public:
  AlignedBuffer() noexcept = default;
  explicit AlignedBuffer(std::size_t bytes) noexcept
      : data_(bytes == 0 ? nullptr
                         : static_cast<std::byte*>(
                               ::operator new (bytes, std::align_val_t{kAlignment}, std::nothrow))),
        size_(data_ == nullptr ? 0 : bytes) {}
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~AlignedBuffer() { ::operator delete (data_, std::align_val_t{kAlignment}); }

  std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  operator std::span<std::byte>() const noexcept { return {data_, size_}; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Scratch memory for run(): AlignedBuffer workspace(op.workspace_bytes(m, workers)).
/// Any span of bytes serves as well.
using Workspace = AlignedBuffer;

/// Hands out aligned pieces of a span, front to back. The caller has checked the size.
class Carver {
 public:
  explicit Carver(std::byte* begin) noexcept
      : next_((reinterpret_cast<std::uintptr_t>(begin) + kAlignment - 1) / kAlignment *
              kAlignment) {}
  template <class T>
  T* take(Index count) noexcept {
    T* piece = reinterpret_cast<T*>(next_);
    next_ += static_cast<std::uintptr_t>(bytes<T>(count));
    return piece;
  }
  /// What take<T>(count) uses up.
  template <class T>
  static constexpr Index bytes(Index count) {
    return round_up(count * static_cast<Index>(sizeof(T)), static_cast<Index>(kAlignment));
  }

 private:
  std::uintptr_t next_;
};

}  // namespace QUERN_ABI
}  // namespace quern
