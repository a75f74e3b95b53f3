// What the programs of this directory do with quern: one s8 x s8 product whose sums can be checked
// by hand. Included after quern, by units that include quern itself in different ways.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>

namespace consumer {

/// 0 when quern computes what it should.
inline int run(const char* who) {
  const std::int8_t a[2 * 3] = {1, -2, 3, -128, 127, 1};
  const std::int8_t b[3 * 2] = {1, 127, 2, 127, -1, -128};
  const std::int32_t expected[2 * 2] = {1 - 4 - 3, 127 - 254 - 384, -128 + 254 - 1,
                                        -16256 + 16129 - 128};
  std::int32_t c[2 * 2] = {};

  const quern::GemmProblem problem = {.n = 2, .k = 3, .a = quern::DType::s8, .b = quern::DType::s8};
  auto gemm =
      quern::prepare(quern::cpu::Backend(), problem, quern::Matrix<const std::int8_t>{b, 3, 2});
  if (!gemm) return std::printf("%s: %s\n", who, gemm.error().what()), 1;
  quern::Workspace workspace(static_cast<std::size_t>(gemm->workspace_bytes(2)));
  const quern::GemmArgs args = {.a = quern::Matrix<const std::int8_t>{a, 2, 3},
                                .c = quern::Matrix<std::int32_t>{c, 2, 2}};
  if (const quern::Error e = gemm->run(args, workspace))
    return std::printf("%s: %s\n", who, e.what()), 1;
  for (int i = 0; i < 4; ++i) {
    if (c[i] != expected[i])
      return std::printf("%s: c[%d] is %d, not %d\n", who, i, c[i], expected[i]), 1;
  }
  return 0;
}

}  // namespace consumer
