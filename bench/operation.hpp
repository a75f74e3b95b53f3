// What is measured: an operation on test data, the place for its result, and what the result should
// be.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

namespace bench {

using Index = std::int64_t;

/// Element types of a x b -> c.
enum class Types { u8s8s32, s8s8s32, u8s8s8, s8s8s8, f32f32f32 };
constexpr const char* name(Types t) {
  constexpr const char* kNames[] = {"u8s8s32", "s8s8s32", "u8s8s8", "s8s8s8", "f32f32f32"};
  return kNames[static_cast<int>(t)];
}
constexpr bool is_float(Types t) { return t == Types::f32f32f32; }
constexpr bool has_u8(Types t) { return t == Types::u8s8s32 || t == Types::u8s8s8; }
constexpr bool is_requantized(Types t) { return t == Types::u8s8s8 || t == Types::s8s8s8; }

/// The whole range of s8, or [-64, 63]: then no sum of two u8 x s8 products leaves 16 bits, and
/// instructions that saturate such sums are exact.
enum class Weights { full, seven_bits };

/// Memory on a cache-line boundary, with some to spare behind it: XNNPACK reads beyond the end.
class Buffer {
 public:
  explicit Buffer(Index bytes);
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }
  Index bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  Index bytes_;
  std::unique_ptr<std::byte, Free> data_;
};

/// C[i, j] is a sum of products of elements of A and B; which ones, the operation says.
/// Requantized, C = saturate(round((sum of (a - a_zero_point) * b + bias[j]) * scales[j])).
class Operation {
 public:
  Operation(Operation&&) = default;
  Operation& operator=(Operation&&) = default;
  virtual ~Operation() = default;

  Types types;
  Buffer a, b;
  Buffer c;                        ///< (rows, columns), row-major without gaps
  std::vector<float> scales;       ///< one for each column, if is_requantized(types)
  std::vector<std::int32_t> bias;  ///< one for each column, or none
  std::int32_t a_zero_point = 0;

  Index rows() const { return rows_; }
  Index columns() const { return columns_; }
  /// Multiply-adds; an element that is padded counts like any other.
  virtual double macs() const = 0;

  /// Uniform values over the whole range of each type, but for `weights`; f32: in [-1, 1).
  void fill(Weights weights);

  /// Chooses outputs to check and computes them with plain loops, which share no code with anything
  /// that is measured. To be called when all inputs are final.
  void expect();
  /// Overwrites c, so that an output that is never written is seen as wrong.
  void spoil();
  Index checked() const { return static_cast<Index>(sample_.size()); }
  /// How many of the checked outputs differ: at all for integers, by more than
  /// 2 k 2^-24 sum |a b| for sums of k products in f32.
  Index wrong() const;

 protected:
  Operation(Types types, Index a_elements, Index b_elements, Index rows, Index columns);

  /// Fills `scales` so that one standard deviation of sums of k full-range products becomes 50:
  /// some outputs saturate.
  void choose_scales(Index k);

 private:
  using Pair = std::function<void(Index a, Index b)>;
  /// Calls `multiply` with the places in a and b of the factors whose products are summed in c[i,
  /// j].
  virtual void each_pair(Index i, Index j, const Pair& multiply) const = 0;

  struct Expected {
    Index i, j;
    double value, tolerance;
  };
  Expected exact(Index i, Index j) const;
  double result(Index i, Index j) const;

  Index rows_, columns_;
  std::vector<Expected> sample_;
};

}  // namespace bench
