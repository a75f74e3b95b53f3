#include "product.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "random.hpp"

namespace bench {

namespace {

Index element_bytes(Types t) { return is_float(t) ? 4 : 1; }

}  // namespace

Buffer::Buffer(Index bytes) : bytes_(bytes) {
  constexpr std::size_t kLine = 64;
  const std::size_t padded = (static_cast<std::size_t>(bytes) / kLine + 2) * kLine;
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(kLine, padded)));
  if (data_ == nullptr) throw std::bad_alloc();
}

Product::Product(Types t, Shape s)
    : types(t),
      shape(s),
      a(s.m * s.k * element_bytes(t)),
      b(s.k * s.n * element_bytes(t)),
      c(s.m * s.n * (t == Types::s8s8s8 ? 1 : 4)) {
  if (t == Types::s8s8s8) {
    // Puts one standard deviation of full-range sums at 50, so that some outputs saturate.
    const double deviation = 74.0 * 74.0 * std::sqrt(double(s.k));
    scales.assign(static_cast<std::size_t>(s.n), static_cast<float>(50.0 / deviation));
  }
}

void Product::fill(Weights weights) {
  Random random(static_cast<std::uint64_t>(shape.m * 1000003 + shape.n * 1009 + shape.k));
  for (const Buffer* x : {&a, &b}) {
    if (is_float(types)) {
      for (Index i = 0; i < x->bytes() / 4; ++i) x->as<float>()[i] = 2.0f * random.unit() - 1.0f;
      continue;
    }
    const bool narrow = x == &b && weights == Weights::seven_bits;
    constexpr std::uint64_t kTopBits = 0x8080808080808080u;
    std::uint8_t* bytes = x->as<std::uint8_t>();
    for (Index i = 0; i < x->bytes(); i += 8) {
      std::uint64_t eight = random.bits();
      // The low 7 bits of each byte, less 64; no byte borrows from the next.
      if (narrow) eight = ((eight | kTopBits) - kTopBits / 2) ^ kTopBits;
      std::memcpy(bytes + i, &eight, static_cast<std::size_t>(std::min<Index>(8, x->bytes() - i)));
    }
  }
}

Product::Expected Product::exact(Index i, Index j) const {
  const Index k = shape.k, n = shape.n;
  if (is_float(types)) {
    double sum = 0, magnitude = 0;
    for (Index l = 0; l < k; ++l) {
      const double term = double(a.as<float>()[i * k + l]) * double(b.as<float>()[l * n + j]);
      sum += term;
      magnitude += std::fabs(term);
    }
    return {i, j, sum, 2.0 * double(k) * 0x1p-24 * magnitude};
  }
  std::int64_t sum = 0;
  for (Index l = 0; l < k; ++l) {
    const int x = types == Types::u8s8s32 ? int{a.as<std::uint8_t>()[i * k + l]}
                                          : int{a.as<std::int8_t>()[i * k + l]};
    sum += x * int{b.as<std::int8_t>()[l * n + j]};
  }
  if (types != Types::s8s8s8) return {i, j, double(sum), 0.0};
  const float scaled = static_cast<float>(sum) * scales[static_cast<std::size_t>(j)];
  return {i, j, std::fmin(std::fmax(std::nearbyint(scaled), -128.0f), 127.0f), 0.0};
}

double Product::result(Index i, Index j) const {
  const Index at = i * shape.n + j;
  switch (types) {
    case Types::f32f32f32:
      return c.as<float>()[at];
    case Types::s8s8s8:
      return c.as<std::int8_t>()[at];
    default:
      return c.as<std::int32_t>()[at];
  }
}

void Product::expect() {
  constexpr Index kSample = 2048;
  sample_.clear();
  if (shape.m * shape.n <= 2 * kSample) {
    for (Index i = 0; i < shape.m; ++i) {
      for (Index j = 0; j < shape.n; ++j) sample_.push_back(exact(i, j));
    }
    return;
  }
  Random random(7);
  for (Index s = 0; s < kSample; ++s) {
    sample_.push_back(exact(random.below(shape.m), random.below(shape.n)));
  }
  // The corners, where blocking goes wrong first.
  for (const Index i : {Index{0}, shape.m - 1}) {
    for (const Index j : {Index{0}, shape.n - 1}) sample_.push_back(exact(i, j));
  }
}

void Product::spoil() { std::memset(c.as<std::byte>(), 0x5A, static_cast<std::size_t>(c.bytes())); }

Index Product::wrong() const {
  Index count = 0;
  for (const Expected& e : sample_) {
    // Negated, so that NaN counts as wrong.
    if (!(std::fabs(result(e.i, e.j) - e.value) <= e.tolerance)) ++count;
  }
  return count;
}

}  // namespace bench
