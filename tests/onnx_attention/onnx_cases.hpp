// The file that export_cases.py writes, as cases and tensors; and comparing with what they expect.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <istream>
#include <map>
#include <string>
#include <vector>

#include "quern/ops/attention_problem.hpp"

namespace onnx_cases {

using namespace quern;

struct Tensor {
  std::string type = "none";
  std::vector<Index> shape;
  std::vector<std::int64_t> values;
  std::vector<std::byte> bytes;  // of bool and float tensors

  bool given() const { return type != "none"; }
  DType dtype() const {
    return type == "float16" ? DType::f16 : type == "bfloat16" ? DType::bf16 : DType::f32;
  }
  HeadType head() const {
    return type == "float16" ? HeadType::f16 : type == "bfloat16" ? HeadType::bf16 : HeadType::f32;
  }
  MaskType mask() const {
    return !given()             ? MaskType::none
           : type == "bool"     ? MaskType::boolean
           : type == "float16"  ? MaskType::f16
           : type == "bfloat16" ? MaskType::bf16
                                : MaskType::f32;
  }
  float real(std::size_t i) const {
    const auto bits = static_cast<std::uint32_t>(values.at(i));
    if (type == "float16") return to_float(f16{static_cast<std::uint16_t>(bits)});
    if (type == "bfloat16") return to_float(bf16{static_cast<std::uint16_t>(bits)});
    return std::bit_cast<float>(bits);
  }
  std::vector<float> reals() const {
    std::vector<float> all(values.size());
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = real(i);
    return all;
  }
  std::vector<std::int32_t> integers() const { return {values.begin(), values.end()}; }
  Index product(std::size_t from, std::size_t to) const {
    Index product = 1;
    for (std::size_t d = from; d < to; ++d) product *= shape.at(d);
    return product;
  }
  /// Which dimension an attribute names.
  std::size_t dimension(Index axis) const {
    return static_cast<std::size_t>(axis < 0 ? axis + std::ssize(shape) : axis);
  }
};

inline std::istream& operator>>(std::istream& in, Tensor& t) {
  std::size_t rank = 0, count = 1;
  if (!(in >> t.type) || !t.given() || !(in >> rank)) return in;
  t.shape.resize(rank < 8 ? rank : 0);
  for (Index& extent : t.shape) {
    in >> extent;
    count *= static_cast<std::size_t>(extent);
  }
  t.values.resize(in ? count : 0);
  const int size = t.type == "float32" ? 4 : t.type == "bool" ? 1 : 2;
  for (std::int64_t& value : t.values) {
    in >> value;
    for (int byte = 0; byte < size; ++byte) {
      t.bytes.push_back(static_cast<std::byte>(value >> (8 * byte)));
    }
  }
  return in;
}

struct Case {
  std::string op;
  std::map<std::string, std::string> attributes;
  std::vector<Tensor> inputs, outputs;

  Tensor input(std::size_t i) const { return i < inputs.size() ? inputs[i] : Tensor{}; }
  Tensor output(std::size_t i) const { return i < outputs.size() ? outputs[i] : Tensor{}; }
  bool has(const std::string& name) const { return attributes.contains(name); }
  Index integer(const std::string& name, Index otherwise) const {
    return has(name) ? std::stoll(attributes.at(name)) : otherwise;
  }
  float real(const std::string& name, float otherwise) const {
    return has(name) ? std::stof(attributes.at(name)) : otherwise;
  }
};

using Limit = std::function<double(double expected)>;

/// The first element that is not as expected up to limit(expected), or nothing.
inline std::string compare(const char* what, const Tensor& expected, const std::vector<float>& got,
                           const Limit& limit) {
  if (got.size() != expected.values.size()) return std::string(what) + " has another size";
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double wanted = static_cast<double>(expected.real(i)),
                 found = static_cast<double>(got[i]);
    if (found == wanted || std::fabs(found - wanted) <= limit(wanted)) continue;
    return std::string(what) + " " + std::to_string(i) + " is " + std::to_string(found) +
           " but must be " + std::to_string(wanted) + ", up to " + std::to_string(limit(wanted));
  }
  return {};
}
inline double exact(double) { return 0.0; }

/// An output of this type to be filled, and its values.
struct Output {
  Tensor tensor;
  explicit Output(const Tensor& like) : tensor(like) {
    std::fill(tensor.bytes.begin(), tensor.bytes.end(), std::byte{0});
  }
  void* data() { return tensor.bytes.data(); }
  std::vector<float> reals() {
    const std::size_t size = tensor.values.empty() ? 1 : tensor.bytes.size() / tensor.values.size();
    for (std::size_t i = 0; i < tensor.values.size(); ++i) {
      tensor.values[i] = 0;
      std::memcpy(&tensor.values[i], &tensor.bytes[i * size], size);
    }
    return tensor.reals();
  }
};

/// What follows the word `case` and the name; false where the file is damaged.
inline bool read(std::istream& in, Case& test) {
  std::size_t attributes = 0, inputs = 0, outputs = 0;
  in >> test.op >> attributes >> inputs >> outputs;
  if (!in || attributes > 16 || inputs > 16 || outputs == 0 || outputs > 16) return false;
  for (; attributes > 0; --attributes) {
    std::string name, word;
    std::size_t count = 0;
    in >> name >> count >> word;
    if (count != 1) return false;
    test.attributes[name] = word;
  }
  test.inputs.resize(inputs);
  test.outputs.resize(outputs);
  for (Tensor& t : test.inputs) in >> t;
  for (Tensor& t : test.outputs) in >> t;
  return static_cast<bool>(in);
}

}  // namespace onnx_cases
