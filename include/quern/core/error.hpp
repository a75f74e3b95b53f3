// Errors: one value that says which rule was broken, with the numbers. Works without exceptions,
// never allocates, so that noexcept code can report through it too.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <utility>

#include "quern/config.hpp"

#if defined(__cpp_exceptions) || defined(__EXCEPTIONS) || defined(_CPPUNWIND)
#define QUERN_EXCEPTIONS 1
#include <stdexcept>
#else
#define QUERN_EXCEPTIONS 0
#endif

namespace quern {
inline namespace QUERN_ABI {

enum class Code : std::uint8_t {
  ok,
  bad_shape,     ///< negative, overflowing or mismatching extents or strides
  bad_data,      ///< a null or overlapping buffer
  bad_value,     ///< a scale, zero point or bound outside its range
  unsupported,   ///< a combination of types or steps that is not offered
  bad_packed,    ///< packed weights that are corrupt, truncated or of another problem
  no_workspace,  ///< the workspace is smaller than workspace_bytes() said
  no_memory,     ///< an allocation failed while preparing
};

constexpr const char* name(Code code) {
  constexpr const char* kNames[] = {"ok",          "bad_shape",  "bad_data",     "bad_value",
                                    "unsupported", "bad_packed", "no_workspace", "no_memory"};
  return kNames[static_cast<std::uint8_t>(code)];
}

/// What went wrong, or nothing. Converts to true when something did:
///   if (Error e = gemm.run(args, workspace)) report(e.what());
class [[nodiscard]] Error {
 public:
  Error() noexcept { text_[0] = '\0'; }

  /// Builds the sentence as printf does; it is cut at 223 characters.
#if defined(__GNUC__)
  __attribute__((format(printf, 2, 3)))
#endif
  static Error
  make(Code code, const char* format, ...) noexcept {
    Error e;
    e.code_ = code;
    std::va_list args;
    va_start(args, format);
    std::vsnprintf(e.text_, sizeof(e.text_), format, args);
    va_end(args);
    return e;
  }

  explicit operator bool() const noexcept { return code_ != Code::ok; }
  Code code() const noexcept { return code_; }
  const char* what() const noexcept { return text_; }

 private:
  Code code_ = Code::ok;
  char text_[224];
};

#if QUERN_EXCEPTIONS
/// Thrown by Result::value() and nowhere else.
class Exception : public std::runtime_error {
 public:
  explicit Exception(const Error& error) : std::runtime_error(error.what()), error_(error) {}
  const Error& error() const noexcept { return error_; }

 private:
  Error error_;
};
#endif

/// A T, or the Error that explains why there is none (the used subset of C++23's std::expected).
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : ok_(true) { ::new (static_cast<void*>(&value_)) T(std::move(value)); }
  Result(const Error& error) : ok_(false), error_(error) {}
  Result(Result&& other) noexcept : ok_(other.ok_) {
    if (ok_) {
      ::new (static_cast<void*>(&value_)) T(std::move(other.value_));
    } else {
      ::new (static_cast<void*>(&error_)) Error(other.error_);
    }
  }
  Result& operator=(Result&&) = delete;
  ~Result() {
    if (ok_) value_.~T();
  }

  explicit operator bool() const noexcept { return ok_; }
  T& operator*() & noexcept { return value_; }
  const T& operator*() const& noexcept { return value_; }
  T* operator->() noexcept { return &value_; }
  const T* operator->() const noexcept { return &value_; }
#if defined(__GNUC__) && !defined(__clang__)
  [[gnu::no_icf]]  // g++ 12 merges these functions of different Results and then warns of bounds
#endif
  Error
  error() const noexcept {
    return ok_ ? Error() : error_;
  }

  /// The value. Without one: throws Exception, or prints the error and aborts under
  /// -fno-exceptions.
  T& value() & {
    require();
    return value_;
  }
  T value() && {
    require();
    return std::move(value_);
  }

 private:
  void require() const {
    if (ok_) return;
#if QUERN_EXCEPTIONS
    throw Exception(error_);
#else
    std::fprintf(stderr, "quern: %s\n", error_.what());
    std::abort();
#endif
  }

  bool ok_;
  union {
    T value_;
    Error error_;
  };
};

}  // namespace QUERN_ABI
}  // namespace quern
