// ONNX's own tests of MatMulInteger and QLinearMatMul, on the CPU, bit for bit.
//   quern_onnx_tests DIR      reads DIR/cases.txt, which export_cases.py writes and describes
// Prints a notice and succeeds when there is no such file: the cases need Python and a package.
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "quern/quern.hpp"

namespace {

using namespace quern;

struct Tensor {
  std::string type = "none";
  std::vector<Index> shape;
  std::vector<std::int64_t> values;
  std::vector<std::byte> bytes;  // of int8 and uint8 tensors

  bool given() const { return type != "none"; }
  DType dtype() const {
    return type == "int8" ? DType::s8 : type == "uint8" ? DType::u8 : DType::s32;
  }
  float real() const {
    if (type == "float16") return to_float(f16{static_cast<std::uint16_t>(values.at(0))});
    return std::bit_cast<float>(static_cast<std::uint32_t>(values.at(0)));
  }
  std::vector<std::int32_t> integers() const { return {values.begin(), values.end()}; }

  /// The last two dimensions as rows and columns, the others as one batch.
  ConstMatrixView matrix() const {
    const std::size_t rank = shape.size();
    const Index rows = rank < 2 ? 1 : shape[rank - 2], cols = shape[rank - 1];
    return {bytes.data(), dtype(), rows, cols, cols, 1, std::ssize(values) / (rows * cols)};
  }
};

std::istream& operator>>(std::istream& in, Tensor& t) {
  std::size_t rank = 0, count = 1;
  if (!(in >> t.type) || !t.given() || !(in >> rank)) return in;
  t.shape.resize(rank);
  for (Index& extent : t.shape) {
    in >> extent;
    count *= static_cast<std::size_t>(extent);
  }
  t.values.resize(in ? count : 0);
  for (std::int64_t& value : t.values) {
    in >> value;
    t.bytes.push_back(static_cast<std::byte>(value));
  }
  return in;
}

/// Where an operator keeps what, in its list of inputs.
struct Slots {
  std::size_t a, a_zero_point, b, b_zero_point;
};

/// Runs one case: what went wrong, or nothing.
std::string check(const std::string& op, const std::vector<Tensor>& inputs,
                  const Tensor& expected) {
  const bool quantized = op == "QLinearMatMul";
  if (!quantized && op != "MatMulInteger") return "an operator this test does not know: " + op;
  const Slots slot = quantized ? Slots{0, 2, 3, 5} : Slots{0, 2, 1, 3};
  const auto input = [&](std::size_t i) { return i < inputs.size() ? inputs[i] : Tensor{}; };
  const Tensor a = input(slot.a), b = input(slot.b);
  const std::vector<std::int32_t> a_zeros = input(slot.a_zero_point).integers(),
                                  b_zeros = input(slot.b_zero_point).integers();

  const ConstMatrixView weights = b.matrix();
  GemmProblem problem{.n = weights.cols,
                      .k = weights.rows,
                      .batch = weights.batch,
                      .a = a.dtype(),
                      .b = b.dtype(),
                      .c = expected.dtype(),
                      .b_zero_points = b_zeros};
  if (a_zeros.size() == 1) problem.a_zero_point = a_zeros[0];
  if (a_zeros.size() > 1) problem.a_zero_points = ZeroPoints::per_row;
  std::vector<float> scale;
  if (quantized) {
    scale = {input(1).real() * input(4).real() / input(6).real()};
    problem.epilogue.add(epilogue::scale(scale));
    problem.c_zero_point = input(7).integers().at(0);
  }

  auto gemm = prepare(cpu::Backend(), problem, weights);
  if (!gemm) return gemm.error().what();
  const ConstMatrixView rows = a.matrix();
  std::vector<std::byte> c(expected.values.size() * static_cast<std::size_t>(size_of(problem.c)));
  GemmArgs args{
      .a = rows,
      .c = MatrixView(c.data(), problem.c, rows.rows, problem.n, problem.n, 1, rows.batch)};
  if (a_zeros.size() > 1) args.a_zero_points = a_zeros;
  const Workspace workspace(static_cast<std::size_t>(gemm->workspace_bytes(rows.rows)));
  if (Error e = gemm->run(args, workspace)) return e.what();

  for (std::size_t i = 0; i < expected.values.size(); ++i) {
    std::int64_t got = 0;
    if (problem.c == DType::s32) {
      std::int32_t word;
      std::memcpy(&word, &c[i * 4], sizeof word);
      got = word;
    } else {
      got = problem.c == DType::s8 ? std::int64_t{static_cast<std::int8_t>(c[i])}
                                   : std::int64_t{static_cast<std::uint8_t>(c[i])};
    }
    if (got != expected.values[i]) {
      return "element " + std::to_string(i) + " is " + std::to_string(got) + " but must be " +
             std::to_string(expected.values[i]);
    }
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s DIR\n", argv[0]);
    return 2;
  }
  const std::string path = std::string(argv[1]) + "/cases.txt";
  std::ifstream file(path);
  if (!file) {
    std::printf("onnx: skipped, there is no %s (see tests/onnx/export_cases.py)\n", path.c_str());
    return 0;
  }
  std::string word, version, name, op;
  file >> word >> version;
  int passed = 0, failed = 0;
  bool damaged = false;
  while (!damaged && file >> word) {
    std::size_t count = 0;
    file >> name >> op >> count;
    std::vector<Tensor> tensors(count < 16 ? count : 0);
    for (Tensor& t : tensors) file >> t;
    damaged = !file || word != "case" || tensors.empty();
    if (damaged) break;
    const Tensor expected = tensors.back();
    tensors.pop_back();
    const std::string problem = check(op, tensors, expected);
    (problem.empty() ? passed : failed) += 1;
    if (!problem.empty()) std::printf("onnx: %s: %s\n", name.c_str(), problem.c_str());
  }
  if (damaged || passed + failed == 0) {
    std::printf("onnx: %s is damaged after %d cases\n", path.c_str(), passed + failed);
    return 1;
  }
  std::printf("onnx %s: %d cases passed, %d failed\n", version.c_str(), passed, failed);
  return failed == 0 ? 0 : 1;
}
