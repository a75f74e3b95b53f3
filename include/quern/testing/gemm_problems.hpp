// Random GEMM problems with everything they need to run: for the conformance suite, for fuzzing,
// and for whoever wants to try a backend on something unfriendly.
#pragma once

#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quern/ops/gemm.hpp"
#include "quern/testing/operands.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

/// A valid GemmProblem, its weights and the arguments of a call, all owned. The same seed always
/// makes the same case. Moves; does not copy.
class GemmCase {
 public:
  /// The most products a case has.
  static constexpr Index kMaxWork = 3'000'000;

  explicit GemmCase(std::uint64_t seed) : GemmCase(Random(seed), kMaxWork, seed) {}
  explicit GemmCase(Random random, Index max_work = kMaxWork, std::uint64_t seed = 0)
      : seed_(seed), random_(random) {
    choose_types();
    choose_shape(max_work);
    choose_operands();
    choose_zero_points();
    choose_epilogue();
    allocate_c();
  }

  const GemmProblem& problem() const { return problem_; }
  ConstMatrixView weights() const { return b_.view; }
  Index rows() const { return m_; }

  /// A copy of the memory C lives in: guard bytes, C's elements (the residual, when it is added in
  /// place) and the gaps between its rows.
  AlignedBuffer c_memory() const {
    AlignedBuffer copy(c_.memory.size());
    if (copy.size() != 0) std::memcpy(copy.data(), c_.memory.data(), copy.size());
    return copy;
  }
  /// C within such a copy: its first m rows.
  MatrixView c(std::byte* memory, Index m) const {
    MatrixView view = c_.view;
    view.data = memory == nullptr ? nullptr : memory + c_.offset;
    view.rows = m;
    return view;
  }
  /// The call with the first m <= rows() rows of A.
  GemmArgs args(std::byte* memory, Index m) const {
    const std::size_t count = static_cast<std::size_t>(m * a_.view.batch);
    GemmArgs args{.a = a_.view, .c = c(memory, m)};
    args.a.rows = m;
    if (residual_in_place_) {
      args.residual = args.c;
    } else if (problem_.epilogue.has(Step::Kind::residual)) {
      args.residual = residual_.view;
      args.residual.rows = m;
    }
    if (!row_scales_.empty()) args.row_scales = std::span(row_scales_).first(count);
    if (!a_zero_points_.empty()) args.a_zero_points = std::span(a_zero_points_).first(count);
    return args;
  }

  /// The memory, apart from C's, that a call reads: of A, of the residual, the row scales, and A's
  /// zero points. Empty where the problem has none; the residual's also when it is C itself.
  std::array<std::span<const std::byte>, 4> input_memory() const {
    return {std::span<std::byte>(a_.memory), std::span<std::byte>(residual_.memory),
            std::as_bytes(std::span(row_scales_)), std::as_bytes(std::span(a_zero_points_))};
  }

  /// One line that makes the case again, and says what it is.
  std::string describe() const {
    char text[512];
    std::snprintf(
        text, sizeof text,
        "GemmCase(%llu): %s (%s) x %s (%s) -> %s, m=%lld n=%lld k=%lld batch=%lld "
        "weights=%lld, strides a %lld,%lld,%lld b %lld,%lld,%lld c %lld,%lld, zero points "
        "a %s b %lld, epilogue",
        static_cast<unsigned long long>(seed_), quern::name(problem_.a), a_values_,
        quern::name(problem_.b), b_values_, quern::name(problem_.c), L(m_), L(problem_.n),
        L(problem_.k), L(a_.view.batch), L(problem_.batch), L(a_.view.batch_stride),
        L(a_.view.row_stride), L(a_.view.col_stride), L(b_.view.batch_stride),
        L(b_.view.row_stride), L(b_.view.col_stride), L(c_.view.batch_stride),
        L(c_.view.row_stride),
        problem_.a_zero_points == ZeroPoints::per_row
            ? "per row"
            : std::to_string(problem_.a_zero_point).c_str(),
        L(b_zero_points_.size()));
    std::string line = text;
    for (const Step& s : problem_.epilogue) {
      line += std::string(" ") + quern::name(s.kind);
      if (s.kind == Step::Kind::scale && s.count == 1 && problem_.n != 1) line += "(1)";
      if (s.kind == Step::Kind::residual) {
        line += std::string("(") + quern::name(residual_type()) +
                (residual_in_place_ ? " in place)" : ")");
      }
    }
    return line;
  }

 private:
  using L = long long;
  using Kind = Step::Kind;
  template <class T>
  using Array = std::vector<T>;

  bool integer() const { return is_int8(problem_.a) && is_int8(problem_.b); }
  std::int32_t any_of(DType t) {
    if (random_.one_in(4)) return random_.pick({lowest(t), highest(t)});
    return static_cast<std::int32_t>(random_.between(lowest(t), highest(t)));
  }

  void choose_types() {
    using D = DType;
    const D int8 = random_.pick({D::s8, D::u8}), real = random_.pick({D::f32, D::bf16, D::f16});
    const Index family = random_.between(0, 5);  // half integer, the rest dynamic or float
    problem_.a = family < 3 ? int8 : real;
    problem_.b = family < 5          ? random_.pick({D::s8, D::s8, D::u8})
                 : random_.one_in(3) ? random_.pick({D::f32, D::bf16, D::f16})
                                     : real;
    problem_.c = family < 3 && random_.one_in(3)
                     ? D::s32
                     : random_.pick({D::s8, D::u8, D::s8, D::u8, D::f32, D::bf16, D::f16});
    if (is_int8(problem_.c)) problem_.c_zero_point = random_.one_in(3) ? 0 : any_of(problem_.c);
  }

  /// Sizes where kernels break: nothing, one, around multiples of the vector, primes, blocks of K.
  Index any_size(Index most) {
    switch (random_.between(0, 9)) {
      case 0:
        return random_.one_in(4) ? 0 : 1;
      case 1:
        return random_.between(1, 8);
      case 2:
      case 3:
        return 16 * random_.between(1, most / 16) + random_.between(-1, 1);
      case 4:
        return random_.pick<Index>({2, 3, 5, 7, 13, 17, 31, 37, 61, 67, 97, 113});
      default:
        return random_.between(1, most);
    }
  }

  void choose_shape(Index max_work) {
    max_work >>= random_.between(0, 8);
    m_ = random_.one_in(4) ? random_.between(1, 8) : any_size(200);
    problem_.n = any_size(200);
    problem_.k = random_.one_in(4)
                     ? random_.pick<Index>({511, 512, 513, 1023, 1024, 1025, 2049, 3000})
                     : any_size(300);
    batch_ = random_.one_in(4) ? random_.between(0, 4) : 1;
    problem_.batch = random_.one_in(2) ? 1 : batch_;
    while (m_ * problem_.n * problem_.k * batch_ > max_work && m_ * problem_.n > 1) {
      Index& larger = m_ > problem_.n ? m_ : problem_.n;
      larger = divide_up(larger, 2);
    }
  }

  void choose_operands() {
    a_ = any_layout(random_, problem_.a, batch_, m_, problem_.k, true, true);
    a_values_ = fill_any(random_, a_.view);
    b_ = any_layout(random_, problem_.b, problem_.batch, problem_.k, problem_.n, true, true);
    b_values_ = fill_any(random_, b_.view);
  }

  void choose_zero_points() {
    const std::size_t rows = static_cast<std::size_t>(m_ * batch_);
    if (integer() && random_.one_in(2)) {
      if (random_.one_in(3)) {
        problem_.a_zero_points = ZeroPoints::per_row;
        for (std::size_t i = 0; i < rows; ++i) a_zero_points_.push_back(any_of(problem_.a));
      } else {
        problem_.a_zero_point = any_of(problem_.a);
      }
    }
    if (is_int8(problem_.b) && random_.one_in(2)) {
      const Index count = random_.one_in(2) ? 1 : problem_.n;
      for (Index j = 0; j < count; ++j) b_zero_points_.push_back(any_of(problem_.b));
      problem_.b_zero_points = b_zero_points_;
    }
  }

  /// A factor that brings sums of the usual size near the range of the output, or a power of two,
  /// which makes ties when the sum is an integer.
  float any_scale() {
    if (random_.one_in(3)) return random_.pick({0.5f, 0.25f, 0x1p-6f, 0x1p-9f, -0.5f, 2.0f});
    const float spread = is_int8(problem_.b) ? std::sqrt(float(problem_.k + 1)) * 5000.0f : 1.0f;
    return random_.uniform(0.5f, 200.0f) / spread;
  }

  void choose_epilogue() {
    const std::size_t n = static_cast<std::size_t>(problem_.n);
    if (is_int8(problem_.b) && random_.one_in(3)) {
      const bool wrap = random_.one_in(4);
      if (wrap) problem_.overflow = Overflow::wrap;
      const std::int32_t extremes[] = {0x7FFFFFFF, -0x7FFFFFFF - 1, 0, -1};
      Array<std::int32_t> bias(n);
      for (std::int32_t& v : bias) {
        v = wrap ? extremes[random_.bits() % 4] : std::int32_t(random_.bits() % 200001) - 100000;
      }
      s32_bias_ = std::move(bias);
      problem_.epilogue.add(epilogue::bias(std::span<const std::int32_t>(s32_bias_)));
    }
    if (problem_.c == DType::s32) return;
    const Index steps = random_.between(0, 5);
    if (steps > 0 && !random_.one_in(8)) add(Kind::scale);
    const Index room = Epilogue::kMaxSteps - problem_.epilogue.count;
    for (Index i = 0; i < steps && i < room; ++i) {
      add(random_.pick({Kind::scale, Kind::row_scale, Kind::bias, Kind::relu, Kind::clamp,
                        Kind::gelu, Kind::gelu_tanh, Kind::silu, Kind::residual, Kind::custom}));
    }
  }

  void add(Kind kind) {
    Epilogue& e = problem_.epilogue;
    const auto floats = [&](Index count, auto value) -> std::span<const float> {
      Array<float> values(static_cast<std::size_t>(count));
      for (float& v : values) v = value();
      arrays_.push_back(std::move(values));
      return arrays_.back();
    };
    switch (kind) {
      case Kind::scale:
        e.add(epilogue::scale(
            floats(random_.one_in(3) ? 1 : problem_.n, [&] { return any_scale(); })));
        break;
      case Kind::row_scale:
        if (row_scales_.empty()) {
          row_scales_.resize(static_cast<std::size_t>(m_ * batch_));
          for (float& v : row_scales_) v = random_.one_in(16) ? 0.0f : random_.uniform(-2.0f, 2.0f);
        }
        e.add(epilogue::row_scale());
        break;
      case Kind::bias:
        e.add(epilogue::bias(floats(problem_.n, [&] { return random_.uniform(-50.0f, 50.0f); })));
        break;
      case Kind::relu:
        e.add(epilogue::relu());
        break;
      case Kind::clamp: {
        const float low = random_.uniform(-90.0f, 30.0f);
        e.add(epilogue::clamp(low, random_.one_in(8) ? low : low + random_.uniform(0.0f, 90.0f)));
        break;
      }
      case Kind::gelu:
        e.add(epilogue::gelu());
        break;
      case Kind::gelu_tanh:
        e.add(epilogue::gelu_tanh());
        break;
      case Kind::silu:
        e.add(epilogue::silu());
        break;
      case Kind::residual:
        add_residual();
        break;
      case Kind::custom:
        e.add(random_.one_in(2) ? epilogue::each(halve_) : epilogue::custom(flip_signs));
        break;
      case Kind::bias_s32:
        break;  // only ever the first step
    }
  }

  DType residual_type() const { return residual_in_place_ ? problem_.c : residual_.view.type; }

  void add_residual() {
    if (!problem_.epilogue.has(Kind::residual)) {
      using D = DType;
      residual_in_place_ = random_.one_in(3);
      if (!residual_in_place_) {
        const D type = random_.pick({D::s8, D::u8, D::s32, D::f32, D::bf16, D::f16});
        residual_ = any_layout(random_, type, batch_, m_, problem_.n, false, true);
        fill_any(random_, residual_.view);
      }
    }
    const DType type = residual_type();
    const std::int32_t zero_point = is_int8(type) ? any_of(type) : 0;
    const float scale = type == DType::s32 ? 0x1p-25f : random_.uniform(0.1f, 1.5f);
    problem_.epilogue.add(epilogue::residual(random_.one_in(3) ? 1.0f : scale, zero_point));
  }

  /// Custom steps that are exact, so that no compiler's freedom shows, and depend on the position.
  static void flip_signs(const void*, float* values, Index row, Index col, Index count) {
    for (Index i = 0; i < count; ++i) {
      if ((row + col + i) % 3 == 0) values[i] = -values[i];
    }
  }
  struct Halve {
    float operator()(float x) const { return x * 0.5f; }
  };
  static constexpr Halve halve_{};

  void allocate_c() {
    // Guards of 64 bytes: before C always, after it mostly. Without one a sanitizer sees the end.
    const Index gap = random_.one_in(2) ? 0 : random_.between(1, 37);
    Index stride = problem_.n + gap;
    Index batch_stride = m_ * stride + (random_.one_in(2) ? 0 : random_.between(0, 65));
    if (batch_ > 1 && random_.one_in(5)) {
      batch_stride = problem_.n + gap;
      stride = batch_ * batch_stride;
    }
    const Index before = 64 / size_of(problem_.c) + (random_.one_in(2) ? 0 : random_.between(1, 3));
    c_ = allocate({nullptr, problem_.c, m_, problem_.n, stride, 1, batch_, batch_stride}, before);
    if (c_.memory.size() == 0) return;
    if (residual_in_place_) fill_any(random_, c_.view);
    AlignedBuffer guarded(c_.memory.size() + (random_.one_in(3) ? 0 : 64));
    std::memset(guarded.data(), 0xFF, guarded.size());
    std::memcpy(guarded.data(), c_.memory.data(), c_.memory.size());
    c_.memory = std::move(guarded);
  }

  std::uint64_t seed_;
  Random random_;
  GemmProblem problem_;
  Index m_ = 0, batch_ = 1;
  Operand a_, b_, residual_, c_;
  bool residual_in_place_ = false;
  const char *a_values_ = "", *b_values_ = "";
  Array<std::int32_t> a_zero_points_, b_zero_points_, s32_bias_;
  Array<float> row_scales_;
  Array<Array<float>> arrays_;  // scales and biases, wherever the steps point
};

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
