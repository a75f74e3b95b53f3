// ONNX's own tests of MatMulInteger, QLinearMatMul, ConvInteger and QLinearConv, on the CPU, bit
// for bit; and of Conv and ConvTranspose, within the rounding errors of their sums.
//   quern_onnx_tests DIR      reads DIR/cases.txt, which export_cases.py writes and describes
// Prints a notice and succeeds when there is no such file: the cases need Python and a package.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "quern/cpu/conv.hpp"
#include "quern/ops/conv_reference.hpp"
#include "quern/quern.hpp"

namespace {

using namespace quern;

struct Tensor {
  std::string type = "none";
  std::vector<Index> shape;
  std::vector<std::int64_t> values;
  std::vector<std::byte> bytes;  // of int8, uint8 and float32 tensors

  bool given() const { return type != "none"; }
  DType dtype() const {
    return type == "int8"      ? DType::s8
           : type == "uint8"   ? DType::u8
           : type == "float32" ? DType::f32
                               : DType::s32;
  }
  float real(std::size_t i = 0) const {
    if (type == "float16") return to_float(f16{static_cast<std::uint16_t>(values.at(i))});
    return std::bit_cast<float>(static_cast<std::uint32_t>(values.at(i)));
  }
  std::vector<float> reals() const {
    std::vector<float> all(values.size());
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = real(i);
    return all;
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
    for (int byte = 0; byte < (t.type == "float32" ? 4 : 1); ++byte) {
      t.bytes.push_back(static_cast<std::byte>(value >> (8 * byte)));
    }
  }
  return in;
}

struct Case {
  std::string op;
  std::map<std::string, std::vector<std::string>> attributes;
  std::vector<Tensor> inputs;
  Tensor output;

  /// Input number i, which may be left out.
  Tensor input(std::size_t i) const { return i < inputs.size() ? inputs[i] : Tensor{}; }
  /// One number of an attribute, or what it is when there is no such attribute.
  Index number(const std::string& name, std::size_t at, Index otherwise) const {
    const auto found = attributes.find(name);
    return found == attributes.end() ? otherwise : std::stoll(found->second.at(at));
  }
};

/// The first element of `c` that is not the output's, or nothing.
std::string compare(const Tensor& expected, const std::vector<std::byte>& c) {
  for (std::size_t i = 0; i < expected.values.size(); ++i) {
    std::int64_t got = 0;
    if (expected.dtype() == DType::s32) {
      std::int32_t word;
      std::memcpy(&word, &c[i * 4], sizeof word);
      got = word;
    } else {
      got = expected.dtype() == DType::s8 ? std::int64_t{static_cast<std::int8_t>(c[i])}
                                          : std::int64_t{static_cast<std::uint8_t>(c[i])};
    }
    if (got != expected.values[i]) {
      return "element " + std::to_string(i) + " is " + std::to_string(got) + " but must be " +
             std::to_string(expected.values[i]);
    }
  }
  return {};
}

/// Where an operator keeps what, in its list of inputs.
struct Slots {
  std::size_t a, a_zero_point, b, b_zero_point;
};

/// Runs a matrix product: what went wrong, or nothing.
std::string check_product(const Case& test) {
  const bool quantized = test.op == "QLinearMatMul";
  const Slots slot = quantized ? Slots{0, 2, 3, 5} : Slots{0, 2, 1, 3};
  const Tensor a = test.input(slot.a), b = test.input(slot.b);
  const std::vector<std::int32_t> a_zeros = test.input(slot.a_zero_point).integers(),
                                  b_zeros = test.input(slot.b_zero_point).integers();

  const ConstMatrixView weights = b.matrix();
  GemmProblem problem{.n = weights.cols,
                      .k = weights.rows,
                      .batch = weights.batch,
                      .a = a.dtype(),
                      .b = b.dtype(),
                      .c = test.output.dtype(),
                      .b_zero_points = b_zeros};
  if (a_zeros.size() == 1) problem.a_zero_point = a_zeros[0];
  if (a_zeros.size() > 1) problem.a_zero_points = ZeroPoints::per_row;
  std::vector<float> scale;
  if (quantized) {
    scale = {test.input(1).real() * test.input(4).real() / test.input(6).real()};
    problem.epilogue.add(epilogue::scale(scale));
    problem.c_zero_point = test.input(7).integers().at(0);
  }

  auto gemm = prepare(cpu::Backend(), problem, weights);
  if (!gemm) return gemm.error().what();
  const ConstMatrixView rows = a.matrix();
  std::vector<std::byte> c(test.output.values.size() *
                           static_cast<std::size_t>(size_of(problem.c)));
  GemmArgs args{
      .a = rows,
      .c = MatrixView(c.data(), problem.c, rows.rows, problem.n, problem.n, 1, rows.batch)};
  if (a_zeros.size() > 1) args.a_zero_points = a_zeros;
  const Workspace workspace(static_cast<std::size_t>(gemm->workspace_bytes(rows.rows)));
  if (Error e = gemm->run(args, workspace)) return e.what();

  return compare(test.output, c);
}

/// The extent that the dimensions of a tensor from the third on are.
Spatial extent_of(const Tensor& t) {
  Spatial extent = {1, 1, 1};
  const std::size_t dims = t.shape.size() - 2;
  for (std::size_t d = 0; d < dims; ++d) extent[3 - dims + d] = t.shape[2 + d];
  return extent;
}

/// What the attributes of a convolution and the tensors' shapes say.
ConvProblem conv_problem(const Case& test, const Tensor& x, const Tensor& w) {
  const std::size_t dims = x.shape.size() - 2, skip = 3 - dims;
  ConvProblem p{.in_channels = x.shape.at(1),
                .groups = test.number("group", 0, 1),
                .kernel = extent_of(w),
                .transposed = test.op == "ConvTranspose",
                .a = x.dtype(),
                .b = w.dtype(),
                .c = test.output.dtype()};
  p.out_channels = p.transposed ? w.shape.at(1) * p.groups : w.shape.at(0);
  const Spatial in = extent_of(x);
  for (std::size_t d = 0; d < dims; ++d) {
    p.stride[skip + d] = test.number("strides", d, 1);
    p.dilation[skip + d] = test.number("dilations", d, 1);
    p.pad_begin[skip + d] = test.number("pads", d, 0);
    p.pad_end[skip + d] = test.number("pads", dims + d, 0);
    p.output_pad[skip + d] = test.number("output_padding", d, 0);
  }
  const auto automatic = test.attributes.find("auto_pad");
  const std::string pad = automatic == test.attributes.end() ? "NOTSET" : automatic->second.at(0);
  if (test.attributes.contains("output_shape")) {
    Spatial out = {1, 1, 1};
    for (std::size_t d = 0; d < dims; ++d) out[skip + d] = test.number("output_shape", d, 1);
    pad_to(p, in, out, pad != "SAME_UPPER");
  } else if (pad.starts_with("SAME")) {
    pad_same(p, in, pad == "SAME_LOWER");
  }
  return p;
}

/// Images of ONNX, channels first, and its weights.
ConstImageView image(const Tensor& t) {
  return ConstImageView::channels_first(t.bytes.data(), t.dtype(), t.shape.at(0), extent_of(t),
                                        t.shape.at(1));
}
FilterView filter(const ConvProblem& p, const Tensor& w) {
  return p.transposed ? FilterView::transposed(w.bytes.data(), p)
                      : FilterView::inputs_first(w.bytes.data(), p);
}

/// Tolerance of element i of a float convolution: both sums may have added their k products and the
/// bias in any order, each addition and each product wrong by at most 2^-24 of its result. Those
/// are at most sum |a b| + |bias|, here computed as the same convolution of magnitudes.
std::vector<float> tolerances(ConvProblem p, Tensor x, Tensor w, Tensor bias) {
  for (Tensor* t : {&x, &w, &bias}) {
    for (std::size_t i = 3; i < t->bytes.size(); i += 4) t->bytes[i] &= std::byte{0x7F};
    for (std::int64_t& v : t->values) v &= 0x7FFFFFFF;
  }
  const std::vector<float> values = bias.reals();
  p.epilogue = {};
  if (bias.given()) p.epilogue.add(epilogue::bias(values));
  const ConstImageView a = image(x);
  const Spatial out = output_extent(p, a.extent);
  std::vector<std::byte> c(
      static_cast<std::size_t>(a.batch * out[0] * out[1] * out[2] * p.out_channels) * 4);
  const ConvArgs args{.a = a,
                      .c = ImageView::channels_first(c.data(), p.c, a.batch, out, p.out_channels)};
  reference_conv(p, filter(p, w), args);
  std::vector<float> limits(c.size() / 4);
  std::memcpy(limits.data(), c.data(), c.size());
  const auto additions = static_cast<float>(p.taps() * p.group_inputs() + 2);
  for (float& limit : limits) limit *= 2.0f * additions * 0x1p-24f;
  return limits;
}

/// Runs a convolution: what went wrong, or nothing.
std::string check_convolution(const Case& test) {
  const bool quantized = test.op == "QLinearConv", integer = quantized || test.op == "ConvInteger";
  const Slots slot = quantized ? Slots{0, 2, 3, 5} : Slots{0, 2, 1, 3};
  const Tensor x = test.input(slot.a), w = test.input(slot.b),
               bias = quantized ? test.input(8)
                      : integer ? Tensor{}
                                : test.input(2);
  ConvProblem problem = conv_problem(test, x, w);

  std::vector<std::int32_t> zeros, integer_bias = bias.integers();
  std::vector<float> scales, float_bias;
  if (integer) {
    if (const Tensor zero = test.input(slot.a_zero_point); zero.given()) {
      problem.a_zero_point = zero.integers().at(0);
    }
    zeros = test.input(slot.b_zero_point).integers();
    problem.b_zero_points = zeros;
  }
  if (quantized) {
    if (bias.given()) problem.epilogue.add(epilogue::bias(integer_bias));
    for (const float scale : test.input(4).reals()) {
      scales.push_back(test.input(1).real() * scale / test.input(6).real());
    }
    problem.epilogue.add(epilogue::scale(scales));
    problem.c_zero_point = test.input(7).integers().at(0);
  } else if (bias.given()) {
    float_bias = bias.reals();
    problem.epilogue.add(epilogue::bias(float_bias));
  }

  const auto conv = prepare(cpu::Backend(), problem, filter(problem, w));
  if (!conv) return conv.error().what();
  const ConstImageView a = image(x);
  const Spatial out = output_extent(problem, a.extent);
  const Index positions = a.batch * out[0] * out[1] * out[2];
  const Tensor& expected = test.output;
  if (out != extent_of(expected) || problem.out_channels != expected.shape.at(1)) {
    return "another extent";
  }
  std::vector<std::byte> c(expected.values.size() * static_cast<std::size_t>(size_of(problem.c)));
  const ConvArgs args{
      .a = a,
      .c = ImageView::channels_first(c.data(), problem.c, a.batch, out, problem.out_channels)};
  const Workspace workspace(conv->workspace_bytes(positions));
  if (Error e = conv->run(args, workspace)) return e.what();
  if (integer) return compare(expected, c);

  const std::vector<float> limits = tolerances(problem, x, w, bias);
  for (std::size_t i = 0; i < limits.size(); ++i) {
    float got;
    std::memcpy(&got, &c[i * 4], 4);
    if (!(std::fabs(got - expected.real(i)) <= limits[i])) {
      return "element " + std::to_string(i) + " is " + std::to_string(got) + " but must be " +
             std::to_string(expected.real(i)) + ", up to " + std::to_string(limits[i]);
    }
  }
  return {};
}

/// Runs one case: what went wrong, or nothing.
std::string check(const Case& test) {
  if (test.op == "QLinearMatMul" || test.op == "MatMulInteger") return check_product(test);
  if (test.op == "QLinearConv" || test.op == "ConvInteger" || test.op == "Conv" ||
      test.op == "ConvTranspose") {
    return check_convolution(test);
  }
  return "an operator this test does not know: " + test.op;
}

/// What follows the word `case` and the name; false where the file is damaged.
bool read(std::istream& in, Case& test) {
  std::size_t attributes = 0, tensors = 0;
  in >> test.op >> attributes >> tensors;
  if (!in || attributes > 16 || tensors == 0 || tensors > 16) return false;
  for (; attributes > 0; --attributes) {
    std::string name;
    std::size_t count = 0;
    in >> name >> count;
    std::vector<std::string> words(count < 16 ? count : 0);
    for (std::string& word : words) in >> word;
    test.attributes[name] = words;
  }
  test.inputs.resize(tensors - 1);
  for (Tensor& t : test.inputs) in >> t;
  in >> test.output;
  return static_cast<bool>(in);
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
  std::string word, version, name;
  file >> word >> version;
  int passed = 0, failed = 0;
  bool damaged = false;
  while (!damaged && file >> word) {
    Case test;
    file >> name;
    damaged = word != "case" || !read(file, test);
    if (damaged) break;
    const std::string problem = check(test);
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
