// A call of GEMM with everything it can have, to be spoiled in one place at a time.
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "quern/ops/gemm.hpp"
#include "support.hpp"

namespace valid_gemm {

using namespace quern;
using Words = std::vector<std::string>;

inline constexpr Index kMax = std::numeric_limits<Index>::max();

inline const std::vector<float> kFourFloats(4, 1.0f);
inline const std::vector<std::int32_t> kFourInts(4, 1);

/// u8 [3, 5] x s8 [5, 4] -> s8 [3, 4] with everything run() can be given; valid as it stands.
struct Valid {
  std::uint8_t a[15] = {};
  std::int8_t b[20] = {}, c[12] = {}, residual[12] = {};
  std::vector<float> row_scales = std::vector<float>(3, 1.0f);
  std::vector<std::int32_t> a_zero_points = std::vector<std::int32_t>(3, 128);
  GemmProblem problem{.n = 4,
                      .k = 5,
                      .c = DType::s8,
                      .a_zero_points = ZeroPoints::per_row,
                      .b_zero_points = kFourInts,
                      .epilogue = {epilogue::bias(kFourInts), epilogue::scale(kFourFloats),
                                   epilogue::row_scale(), epilogue::residual()}};
  ConstMatrixView weights = Matrix<const std::int8_t>{b, 5, 4};
  GemmArgs args{.a = Matrix<const std::uint8_t>{a, 3, 5},
                .c = Matrix<std::int8_t>{c, 3, 4},
                .residual = Matrix<const std::int8_t>{residual, 3, 4},
                .row_scales = row_scales,
                .a_zero_points = a_zero_points};
};

/// The same without any options: s8 x s8 -> `c`.
inline GemmProblem plain(DType c = DType::s32) { return {.n = 4, .k = 5, .a = DType::s8, .c = c}; }

inline void check_error(const Error& e, Code code, const Words& words) {
  CAPTURE(e);
  CHECK(e.code() == code);
  for (const std::string& word : words) {
    CAPTURE(word);
    CHECK(support::says(e, word));
  }
}

}  // namespace valid_gemm
