// Random GEMM problems with everything they need to run: for the conformance suite, for fuzzing,
// and for whoever wants to try a backend on something unfriendly.
#pragma once

#include <array>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "quern/ops/gemm.hpp"
#include "quern/testing/epilogues.hpp"
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
  AlignedBuffer c_memory() const { return copied(c_.memory); }
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
    if (steps_.residual_in_place()) {
      args.residual = args.c;
    } else if (problem_.epilogue.has(Step::Kind::residual)) {
      args.residual = residual_.view;
      args.residual.rows = m;
    }
    const std::span<const float> row_scales = steps_.row_scales();
    if (!row_scales.empty()) args.row_scales = row_scales.first(count);
    if (!a_zero_points_.empty()) args.a_zero_points = std::span(a_zero_points_).first(count);
    return args;
  }

  /// The memory, apart from C's, that a call reads: of A, of the residual, the row scales, and A's
  /// zero points. Empty where the problem has none; the residual's also when it is C itself.
  std::array<std::span<const std::byte>, 4> input_memory() const {
    return {std::span<std::byte>(a_.memory), std::span<std::byte>(residual_.memory),
            std::as_bytes(steps_.row_scales()), std::as_bytes(std::span(a_zero_points_))};
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
    return text + steps_.describe(problem_.epilogue, problem_.n);
  }

  /// Overwrites the weights and every array that the problem points to: who prepared it before must
  /// not notice.
  void forget() {
    if (b_.memory.size() != 0) std::memset(b_.memory.data(), 0x5A, b_.memory.size());
    for (std::int32_t& z : b_zero_points_) z ^= 1;  // another, still in the type's range
    steps_.forget();
  }

 private:
  using L = long long;
  bool integer() const { return is_int8(problem_.a) && is_int8(problem_.b); }

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
    if (is_int8(problem_.c))
      problem_.c_zero_point = random_.one_in(3) ? 0 : any_int8(random_, problem_.c);
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
        for (std::size_t i = 0; i < rows; ++i)
          a_zero_points_.push_back(any_int8(random_, problem_.a));
      } else {
        problem_.a_zero_point = any_int8(random_, problem_.a);
      }
    }
    if (is_int8(problem_.b) && random_.one_in(2)) {
      const Index count = random_.one_in(2) ? 1 : problem_.n;
      for (Index j = 0; j < count; ++j) b_zero_points_.push_back(any_int8(random_, problem_.b));
      problem_.b_zero_points = b_zero_points_;
    }
  }

  void choose_epilogue() {
    const EpilogueCase::Of of{problem_.b, problem_.c, problem_.n, m_ * batch_, problem_.k};
    steps_.choose(random_, of, problem_.epilogue, problem_.overflow, [&](DType type) {
      residual_ = any_layout(random_, type, batch_, m_, problem_.n, false, true);
      fill_any(random_, residual_.view);
    });
  }

  void allocate_c() {
    const Index gap = random_.one_in(2) ? 0 : random_.between(1, 37);
    Index stride = problem_.n + gap;
    Index batch_stride = m_ * stride + (random_.one_in(2) ? 0 : random_.between(0, 65));
    if (batch_ > 1 && random_.one_in(5)) {
      batch_stride = problem_.n + gap;
      stride = batch_ * batch_stride;
    }
    c_ = allocate({nullptr, problem_.c, m_, problem_.n, stride, 1, batch_, batch_stride},
                  guard_elements(random_, problem_.c));
    if (steps_.residual_in_place()) fill_any(random_, c_.view);
    c_.memory = guarded(random_, c_.memory);
  }

  std::uint64_t seed_;
  Random random_;
  GemmProblem problem_;
  Index m_ = 0, batch_ = 1;
  Operand a_, b_, residual_, c_;
  const char *a_values_ = "", *b_values_ = "";
  std::vector<std::int32_t> a_zero_points_, b_zero_points_;
  EpilogueCase steps_;
};

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
