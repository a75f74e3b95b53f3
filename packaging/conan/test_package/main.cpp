#include <cstdint>
#include <cstdio>

#include "quern/quern.hpp"

int main() {
  const std::uint8_t a[] = {255, 255, 1};
  const std::int8_t b[] = {127, 127, -128};  // one column; the pair's 64770 does not fit in 16 bits
  std::int32_t c = 0;

  auto gemm = quern::prepare(quern::cpu::Backend(), {.n = 1, .k = 3},
                             quern::Matrix<const std::int8_t>{b, 3, 1});
  if (!gemm) return std::puts(gemm.error().what()), 1;
  quern::Workspace workspace(static_cast<std::size_t>(gemm->workspace_bytes(1)));
  const quern::Error error = gemm->run(
      {.a = quern::Matrix<const std::uint8_t>{a, 1, 3}, .c = quern::Matrix<std::int32_t>{&c, 1, 1}},
      workspace);
  if (error) return std::puts(error.what()), 1;

  std::printf("quern %d.%d.%d: %s says %d\n", QUERN_VERSION_MAJOR, QUERN_VERSION_MINOR,
              QUERN_VERSION_PATCH, gemm->kernel(), c);
  return c == 2 * 255 * 127 - 128 ? 0 : 1;
}
