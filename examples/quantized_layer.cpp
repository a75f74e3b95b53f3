// A linear layer of a quantized network: int8 activations and weights, per-channel scales, bias,
// ReLU, int8 out. Prepared once, then run for batches of different sizes.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "quern/quern.hpp"

int main() {
  using namespace quern;
  constexpr Index kInputs = 256, kOutputs = 64, kMostRows = 32;

  // What a quantizer would have produced.
  std::vector<std::int8_t> weights(kInputs * kOutputs);
  for (std::size_t i = 0; i < weights.size(); ++i)
    weights[i] = static_cast<std::int8_t>(i * 37 % 251 - 125);
  std::vector<float> scales(kOutputs);  // scale_a * scale_b[j] / scale_c
  for (std::size_t j = 0; j < scales.size(); ++j)
    scales[j] = 0.0005f + 0.00001f * static_cast<float>(j);
  std::vector<std::int32_t> bias(kOutputs, 1000);

  // 1. Describe.
  const GemmProblem layer{
      .n = kOutputs,
      .k = kInputs,
      .a = DType::u8,
      .b = DType::s8,
      .c = DType::s8,
      .a_zero_point = 128,
      .c_zero_point = -10,
      .epilogue = {epilogue::bias(bias), epilogue::scale(scales), epilogue::relu()}};

  // 2. Prepare: validates, packs the weights, picks kernels for this CPU.
  auto op =
      prepare(cpu::Backend(), layer, Matrix<const std::int8_t>{weights.data(), kInputs, kOutputs});
  if (!op) {
    std::fprintf(stderr, "%s\n", op.error().what());
    return 1;
  }
  std::printf("kernel: %s\n", op->kernel().c_str());

  // 3. Run, for any number of rows, without allocating.
  const Workspace workspace(op->workspace_bytes(kMostRows));
  std::vector<std::uint8_t> a(kMostRows * kInputs);
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = static_cast<std::uint8_t>(i * 11 % 256);
  std::vector<std::int8_t> c(kMostRows * kOutputs);
  for (const Index rows : {Index{1}, Index{7}, kMostRows}) {
    const Error error = op->run({.a = Matrix<const std::uint8_t>{a.data(), rows, kInputs},
                                 .c = Matrix<std::int8_t>{c.data(), rows, kOutputs}},
                                workspace);
    if (error) {
      std::fprintf(stderr, "%s\n", error.what());
      return 1;
    }
    std::printf("%2d rows: c[0][0] = %d, c[0][%d] = %d\n", static_cast<int>(rows), c[0],
                static_cast<int>(kOutputs - 1), c[kOutputs - 1]);
  }
}
