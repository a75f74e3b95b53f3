#include <fstream>
#include <regex>
#include <stdexcept>

#include "random.hpp"
#include "registry.hpp"

namespace bench {

namespace {

/// Layers of real networks: <network>/[dw]<kernel>[s<stride>][d<dilation>]_<in>[_<out>]_<size>.
/// dw is depthwise. Images have one size for both edges; sequences are padded at the beginning
/// (causal), others alike on both sides, so that with stride 1 the size stays.
struct Layer {
  const char* name;
  int times;  ///< in the network
};
constexpr Layer kResNet50[] = {
    {"resnet50/7x7s2_3_64_224", 1},

    {"resnet50/1x1_64_64_56", 1},       {"resnet50/1x1_256_64_56", 2},
    {"resnet50/3x3_64_56", 3},          {"resnet50/1x1_64_256_56", 4},

    {"resnet50/1x1_256_128_56", 1},     {"resnet50/3x3s2_128_56", 1},
    {"resnet50/1x1s2_256_512_56", 1},   {"resnet50/1x1_512_128_28", 3},
    {"resnet50/3x3_128_28", 3},         {"resnet50/1x1_128_512_28", 4},

    {"resnet50/1x1_512_256_28", 1},     {"resnet50/3x3s2_256_28", 1},
    {"resnet50/1x1s2_512_1024_28", 1},  {"resnet50/1x1_1024_256_14", 5},
    {"resnet50/3x3_256_14", 5},         {"resnet50/1x1_256_1024_14", 6},

    {"resnet50/1x1_1024_512_14", 1},    {"resnet50/3x3s2_512_14", 1},
    {"resnet50/1x1s2_1024_2048_14", 1}, {"resnet50/1x1_2048_512_7", 2},
    {"resnet50/3x3_512_7", 2},          {"resnet50/1x1_512_2048_7", 3},
};
constexpr const char* kOthers[] = {
    "mobilenetv2/dw3x3_32_112",    "mobilenetv2/dw3x3s2_96_112", "mobilenetv2/dw3x3_144_56",
    "mobilenetv2/dw3x3s2_144_56",  "mobilenetv2/dw3x3_192_28",   "mobilenetv2/dw3x3_384_14",
    "mobilenetv2/dw3x3_576_14",    "mobilenetv2/dw3x3s2_576_14", "mobilenetv2/dw3x3_960_7",
    "mobilenetv2/1x1_16_96_112",   "mobilenetv2/1x1_96_24_56",   "mobilenetv2/1x1_192_32_28",
    "mobilenetv2/1x1_384_64_14",   "mobilenetv2/1x1_960_160_7",  "mobilenetv2/1x1_320_1280_7",
    "efficientdet/dw5x5_240_28",   "efficientdet/dw5x5_480_14",  "efficientdet/dw5x5s2_672_14",
    "efficientdet/dw5x5_1152_7",   "efficientdet/dw3x3_64_64",   "efficientdet/dw3x3_64_32",
    "efficientdet/dw3x3_64_16",    "unet3d/3x3x3_32_16x32x32",   "unet3d/3x3x3_64_8x16x16",
    "unet3d/3x3x3_64_128_8x16x16", "wavenet/2_64_128_4000",      "wavenet/2d8_64_128_4000",
    "wavenet/2d512_64_128_4000",
};

std::vector<Index> numbers(const std::string& text) {  // "16x32x32"
  std::vector<Index> all;
  for (std::size_t at = 0, used = 0; at < text.size(); at += used + 1) {
    all.push_back(std::stoll(text.substr(at), &used));
  }
  return all;
}

Conv::Shape parse(const std::string& name) {
  static const std::regex kGrammar(
      R"(\w+/(dw)?(\d+(?:x\d+)*)(?:s(\d+))?(?:d(\d+))?_(\d+)(?:_(\d+))?_(\d+(?:x\d+)*))");
  std::smatch match;
  if (!std::regex_match(name, match, kGrammar)) throw std::logic_error(name + " is no layer");
  const auto number = [&](std::size_t part, Index otherwise) {
    return match[part].matched ? std::stoll(match[part]) : otherwise;
  };
  const std::vector<Index> kernel = numbers(match[2]), size = numbers(match[7]);
  const Index in = number(5, 0);
  Conv::Shape s{.rank = static_cast<int>(kernel.size()),
                .in = in,
                .out = number(6, in),
                .groups = match[1].matched ? in : 1,
                .size = {1, 1, 1}};
  for (std::size_t i = 0; i < kernel.size(); ++i) {
    const std::size_t d = 3 - kernel.size() + i;
    s.size[d] = size.size() == 1 ? size[0] : size.at(i);
    s.kernel[d] = kernel[i];
    s.stride[d] = number(3, 1);
    s.dilation[d] = number(4, 1);
    const Index pads = s.dilation[d] * (kernel[i] - 1);
    s.pad_end[d] = s.rank == 1 ? 0 : pads / 2;
    s.pad_begin[d] = pads - s.pad_end[d];
  }
  return s;
}

Workload<Conv> random_layers(const std::string& name, const std::vector<Conv::Shape>& shapes) {
  // Two threads are measured for the four layers that everything else is compared by.
  const bool threaded = name.starts_with("resnet50/3x3_");
  return {
      .name = name,
      .shapes = shapes,
      .suits = [threaded](const Implementation<Conv>& i) { return i.threads == 1 || threaded; },
      .operations =
          [shapes](Types types, Weights weights) {
            std::vector<Conv> all;
            for (const Conv::Shape& s : shapes) all.emplace_back(types, s).fill(weights);
            return all;
          },
  };
}

/// A layer of a quantized network.
struct RealLayer {
  std::string name;
  Conv::Shape shape;
  std::int32_t a_zero_point = 0;
  std::vector<std::int8_t> weights;  // (out, in / groups, kernel)
  std::vector<float> scales;         // from accumulator to output
  std::vector<std::int32_t> bias;
};

/// The file: for each layer a line
///   NAME IN OUT GROUPS KH KW SH SW PT PL PB PR H W AZ
/// (channels, groups, kernel, stride, padding at the top, left, bottom and right, the input's size,
/// the zero point of u8 activations), an empty line, then for each layer its weights s8
/// (out, in / groups, kh, kw), and for each output channel a scale (f32, from accumulator to
/// output) and a bias (s32), little-endian.
std::vector<RealLayer> read_layers(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<RealLayer> layers;
  for (RealLayer l; file.peek() != '\n'; layers.push_back(l)) {
    Conv::Shape s{.rank = 2, .in = 0, .out = 0, .size = {1, 0, 0}};
    file >> l.name >> s.in >> s.out >> s.groups >> s.kernel[1] >> s.kernel[2] >> s.stride[1] >>
        s.stride[2] >> s.pad_begin[1] >> s.pad_begin[2] >> s.pad_end[1] >> s.pad_end[2] >>
        s.size[1] >> s.size[2] >> l.a_zero_point;
    if (!file) break;
    file.ignore(1, '\n');
    l.shape = s;
  }
  file.ignore(1, '\n');
  const auto read = [&file](auto& values, Index count) {
    values.resize(static_cast<std::size_t>(count));
    file.read(reinterpret_cast<char*>(values.data()),
              count * static_cast<Index>(sizeof(values.front())));
  };
  for (RealLayer& l : layers) {
    read(l.weights, l.shape.out * l.shape.k());
    read(l.scales, l.shape.out);
    read(l.bias, l.shape.out);
  }
  if (!file || layers.empty()) throw std::runtime_error(path + " holds no layers");
  return layers;
}

Workload<Conv> network(const std::string& name, std::vector<RealLayer> layers) {
  std::vector<Conv::Shape> shapes;
  for (const RealLayer& l : layers) shapes.push_back(l.shape);
  const auto shared = std::make_shared<const std::vector<RealLayer>>(std::move(layers));
  return {
      .name = "detector/" + name,
      .shapes = shapes,
      .suits =
          [](const Implementation<Conv>& i) { return i.types == Types::u8s8s8 && i.threads == 1; },
      .operations =
          [shared](Types types, Weights) {
            std::vector<Conv> all;
            Random random(1);
            for (const RealLayer& l : *shared) {
              Conv& c = all.emplace_back(types, l.shape);
              for (Index i = 0; i < c.a.bytes(); ++i)
                c.a.as<std::uint8_t>()[i] = activation(random);
              c.set_weights(l.weights.data());
              c.scales = l.scales;
              c.bias = l.bias;
              c.a_zero_point = l.a_zero_point;
            }
            return all;
          },
  };
}

}  // namespace

std::vector<Workload<Conv>> conv_workloads() {
  std::vector<Workload<Conv>> all;
  std::vector<Conv::Shape> resnet;
  for (const Layer& l : kResNet50) {
    all.push_back(random_layers(l.name, {parse(l.name)}));
    resnet.insert(resnet.end(), static_cast<std::size_t>(l.times), parse(l.name));
  }
  all.push_back(random_layers("resnet50/all", resnet));
  for (const char* name : kOthers) all.push_back(random_layers(name, {parse(name)}));

  const std::string path = environment("QUERN_BENCH_CONV_LAYERS");
  if (!path.empty()) {
    const std::vector<RealLayer> layers = read_layers(path);
    for (const RealLayer& l : layers) all.push_back(network(l.name, {l}));
    all.push_back(network("all", layers));
  }
  return all;
}

}  // namespace bench
