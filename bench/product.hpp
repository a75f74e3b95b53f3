// One matrix product: its inputs, the place for its result, and what the result should be.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

namespace bench {

using Index = std::int64_t;

struct Shape {
  Index m, n, k;
};

/// Element types of a x b -> c.
enum class Types { u8s8s32, s8s8s32, s8s8s8, f32f32f32 };
constexpr const char* name(Types t) {
  constexpr const char* kNames[] = {"u8s8s32", "s8s8s32", "s8s8s8", "f32f32f32"};
  return kNames[static_cast<int>(t)];
}
constexpr bool is_float(Types t) { return t == Types::f32f32f32; }

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

/// C = A B, all row-major without gaps. For s8s8s8, C = saturate(round(A B * scales[column])).
class Product {
 public:
  Product(Types types, Shape shape);

  Types types;
  Shape shape;
  Buffer a;                   ///< (m, k)
  Buffer b;                   ///< (k, n)
  Buffer c;                   ///< (m, n)
  std::vector<float> scales;  ///< n, for s8s8s8: all the same, since XNNPACK offers only that

  double macs() const { return double(shape.m) * double(shape.n) * double(shape.k); }

  /// Uniform values over the whole range of each type, but for `weights`; f32: in [-1, 1).
  void fill(Weights weights);

  /// Chooses outputs to check and computes them with plain loops, which share no code with anything
  /// that is measured. To be called when a and b are final.
  void expect();
  /// Overwrites c, so that an output that is never written is seen as wrong.
  void spoil();
  Index checked() const { return static_cast<Index>(sample_.size()); }
  /// How many of the checked outputs differ: at all for integers, by more than
  /// 2 k 2^-24 sum |a b| for f32.
  Index wrong() const;

 private:
  struct Expected {
    Index i, j;
    double value, tolerance;
  };
  Expected exact(Index i, Index j) const;
  double result(Index i, Index j) const;

  std::vector<Expected> sample_;
};

}  // namespace bench
