#include <fstream>
#include <stdexcept>

#include "random.hpp"
#include "registry.hpp"

namespace bench {

namespace {

constexpr Product::Shape kShapes[] = {
    {1, 4096, 4096},    {4, 4096, 4096}, {16, 4096, 4096},  // few rows: bound by memory
    {1, 8192, 8192},                                        // weights beyond most L3 caches
    {64, 1024, 1024},   {128, 768, 768}, {128, 3072, 768},  // transformers
    {256, 256, 256},    {512, 512, 512}, {1024, 1024, 1024},
    {2048, 2048, 2048}, {3136, 64, 576}, {784, 128, 1152},  // 3x3 convolutions
    {100, 100, 100},    {37, 53, 71},                       // small, and no multiple of anything
};

Workload<Product> random_product(Product::Shape s) {
  return {
      .name = std::to_string(s.m) + 'x' + std::to_string(s.n) + 'x' + std::to_string(s.k),
      .shapes = {s},
      // 8192 x 8192 weights in f32 would only tell the memory's speed again, at four times the
      // cost.
      .suits = [s](const Implementation<Product>& i) { return !is_float(i.types) || s.k < 8192; },
      .operations =
          [s](Types types, Weights weights) {
            std::vector<Product> one;
            one.emplace_back(types, s).fill(weights);
            return one;
          },
  };
}

/// A linear layer of a real network, as minilm.py writes it.
struct Layer {
  std::string name;
  Index n = 0, k = 0;
  std::vector<std::int8_t> weights;  // (n, k)
};

/// The file: a line "NAME N K" for each layer, an empty line, then their weights one after another.
std::vector<Layer> read_layers(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<Layer> layers;
  for (Layer l; file.peek() != '\n' && file >> l.name >> l.n >> l.k;) {
    file.ignore(1, '\n');
    layers.push_back(l);
  }
  file.ignore(1, '\n');
  for (Layer& l : layers) {
    l.weights.resize(static_cast<std::size_t>(l.n * l.k));
    file.read(reinterpret_cast<char*>(l.weights.data()), l.n * l.k);
  }
  if (!file || layers.empty()) throw std::runtime_error(path + " holds no layers");
  return layers;
}

Workload<Product> network(std::shared_ptr<const std::vector<Layer>> layers, Index rows) {
  std::vector<Product::Shape> shapes;
  for (const Layer& l : *layers) shapes.push_back({rows, l.n, l.k});
  return {
      .name = "minilm/" + std::to_string(rows),
      .shapes = shapes,
      .suits =
          [](const Implementation<Product>& i) {
            return i.types == Types::u8s8s32 && i.weights == Weights::full && i.threads == 1;
          },
      .operations =
          [layers, rows](Types types, Weights) {
            std::vector<Product> products;
            Random random(1);
            for (const Layer& l : *layers) {
              Product& p = products.emplace_back(types, Product::Shape{rows, l.n, l.k});
              for (Index i = 0; i < p.a.bytes(); ++i)
                p.a.as<std::uint8_t>()[i] = activation(random);
              for (Index i = 0; i < l.n * l.k; ++i) {
                p.b.as<std::int8_t>()[i % l.k * l.n + i / l.k] =
                    l.weights[static_cast<std::size_t>(i)];
              }
            }
            return products;
          },
  };
}

}  // namespace

std::vector<Workload<Product>> gemm_workloads() {
  std::vector<Workload<Product>> all;
  for (const Product::Shape& s : kShapes) all.push_back(random_product(s));
  const std::string path = environment("QUERN_BENCH_LAYERS");
  if (!path.empty()) {
    const auto layers = std::make_shared<const std::vector<Layer>>(read_layers(path));
    for (const Index rows : {1, 32, 128}) all.push_back(network(layers, rows));
  }
  return all;
}

}  // namespace bench
