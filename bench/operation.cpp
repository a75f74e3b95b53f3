#include "operation.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "random.hpp"

namespace bench {

namespace {

Index input_bytes(Types t) { return is_float(t) ? 4 : 1; }
Index output_bytes(Types t) { return is_requantized(t) ? 1 : 4; }

/// Products and sums of integers are exact in double as well: they stay far below 2^53.
double load_a(const Operation& o, Index i) {
  if (is_float(o.types)) return double(o.a.as<float>()[i]);
  const int value =
      has_u8(o.types) ? int{o.a.as<std::uint8_t>()[i]} : int{o.a.as<std::int8_t>()[i]};
  return value - o.a_zero_point;
}
double load_b(const Operation& o, Index i) {
  return is_float(o.types) ? double(o.b.as<float>()[i]) : double(o.b.as<std::int8_t>()[i]);
}

}  // namespace

Buffer::Buffer(Index bytes) : bytes_(bytes) {
  constexpr std::size_t kLine = 64;
  const std::size_t padded = (static_cast<std::size_t>(bytes) / kLine + 2) * kLine;
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(kLine, padded)));
  if (data_ == nullptr) throw std::bad_alloc();
}

Operation::Operation(Types t, Index a_elements, Index b_elements, Index rows, Index columns)
    : types(t),
      a(a_elements * input_bytes(t)),
      b(b_elements * input_bytes(t)),
      c(rows * columns * output_bytes(t)),
      rows_(rows),
      columns_(columns) {}

void Operation::choose_scales(Index k) {
  // The root mean square of uniform u8 and of uniform s8.
  const double deviation = (has_u8(types) ? 147.0 : 74.0) * 74.0 * std::sqrt(double(k));
  scales.assign(static_cast<std::size_t>(columns_), static_cast<float>(50.0 / deviation));
}

void Operation::fill(Weights weights) {
  Random random(static_cast<std::uint64_t>(a.bytes() * 1000003 + b.bytes() * 1009 + c.bytes()));
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

Operation::Expected Operation::exact(Index i, Index j) const {
  double sum = 0, magnitude = 0;
  Index k = 0;
  each_pair(i, j, [&](Index x, Index y) {
    const double product = load_a(*this, x) * load_b(*this, y);
    sum += product;
    magnitude += std::fabs(product);
    ++k;
  });
  if (is_float(types)) return {i, j, sum, 2.0 * double(k) * 0x1p-24 * magnitude};
  const auto column = static_cast<std::size_t>(j);
  if (!bias.empty()) sum += bias[column];
  if (!is_requantized(types)) return {i, j, sum, 0.0};
  const float scaled = static_cast<float>(sum) * scales[column];
  return {i, j, std::fmin(std::fmax(std::nearbyint(scaled), -128.0f), 127.0f), 0.0};
}

double Operation::result(Index i, Index j) const {
  const Index at = i * columns_ + j;
  if (is_float(types)) return c.as<float>()[at];
  return is_requantized(types) ? double(c.as<std::int8_t>()[at]) : double(c.as<std::int32_t>()[at]);
}

void Operation::expect() {
  constexpr Index kSample = 2048;
  sample_.clear();
  if (rows_ * columns_ <= 2 * kSample) {
    for (Index i = 0; i < rows_; ++i) {
      for (Index j = 0; j < columns_; ++j) sample_.push_back(exact(i, j));
    }
    return;
  }
  Random random(7);
  for (Index s = 0; s < kSample; ++s) {
    sample_.push_back(exact(random.below(rows_), random.below(columns_)));
  }
  // The corners, where blocking goes wrong first.
  for (const Index i : {Index{0}, rows_ - 1}) {
    for (const Index j : {Index{0}, columns_ - 1}) sample_.push_back(exact(i, j));
  }
}

void Operation::spoil() {
  std::memset(c.as<std::byte>(), 0x5A, static_cast<std::size_t>(c.bytes()));
}

Index Operation::wrong() const {
  Index count = 0;
  for (const Expected& e : sample_) {
    // Negated, so that NaN counts as wrong.
    if (!(std::fabs(result(e.i, e.j) - e.value) <= e.tolerance)) ++count;
  }
  return count;
}

}  // namespace bench
