// The generator of convolutions: everything it makes is valid, repeatable, and everything is made
// often enough.
#include <cstring>
#include <map>
#include <string>

#include "quern/testing/conv_problems.hpp"
#include "support.hpp"

using namespace quern;
using quern::testing::ConvCase;
using quern::testing::Random;

namespace {

/// What a case is, in words.
class Features {
 public:
  void add(const ConvCase& c) {
    const ConvProblem& p = c.problem();
    const AlignedBuffer memory = c.c_memory();
    const ConvArgs args = c.args(memory.data(), c.size());
    const bool empty = args.c.batch * args.c.positions() * args.c.channels == 0;
    add_problem(p);
    add_call(p, args, c.weights());
    saw(empty, "empty");
    saw(args.c.batch == 0, "no images");
    saw(args.c.batch > 1, "several images");
    saw(args.a.positions() == 0, "an image without positions");
    saw(args.a.positions() != 0 && args.c.positions() == 0, "the kernel does not fit");
    saw(is_large_3x3(p, args), "large 3x3");
  }

  /// How many cases had it.
  Index operator[](const std::string& feature) const {
    const auto found = count_.find(feature);
    return found == count_.end() ? 0 : found->second;
  }

 private:
  void saw(bool it, const std::string& feature) { count_[feature] += it; }

  void add_problem(const ConvProblem& p) {
    const bool integer = is_int8(p.a);
    const Index n = p.out_channels;
    saw(true, std::string(name(p.a)) + name(p.b));
    saw(true, std::string("to ") + name(p.c));
    saw(integer && p.c == DType::s32, "int8 to s32");
    for (const Step& s : p.epilogue) saw(true, name(s.kind));
    saw(p.a_zero_point != 0, "a zero point");
    saw(integer && (p.a_zero_point == lowest(p.a) || p.a_zero_point == highest(p.a)),
        "an extreme zero point");
    saw(p.b_zero_points.size() == 1, "one zero point of b");
    saw(n > 1 && std::ssize(p.b_zero_points) == n, "zero points by channel");
    saw(p.overflow == Overflow::wrap, "wraps");
    saw(p.transposed, "transposed");
    saw(p.output_pad != Spatial{}, "output_pad");
    saw(p.taps() == 1, "pointwise");
    saw(p.kernel == Spatial{1, 3, 3}, "3x3");
    saw(p.kernel == Spatial{1, 5, 5}, "5x5");
    saw(p.kernel == Spatial{1, 7, 7} && p.stride[2] == 2, "7x7 s2");
    saw(p.kernel[1] == 1 && p.kernel[2] > 1, "1xk");
    saw(p.kernel[1] > 1 && p.kernel[2] == 1, "kx1");
    saw(p.kernel[2] % 2 == 0, "even kernel");
    saw(p.kernel[0] > 1, "3-D");
    saw(p.stride != Spatial{1, 1, 1}, "strides");
    saw(p.dilation != Spatial{1, 1, 1}, "dilation");
    saw(p.pad_begin != Spatial{}, "padding");
    saw(p.pad_begin != p.pad_end, "asymmetric padding");
    saw(p.in_channels == 0, "no input channels");
    saw(n == 0, "no output channels");
    saw(p.group_inputs() == 1, "an input channel");
    saw(p.group_inputs() > 0 && p.group_inputs() % 16 == 0, "sixteens of input channels");
    saw(p.groups > 1 && p.group_inputs() > 1, "groups");
    for (const Index multiplier : {1, 2, 3}) {
      saw(p.groups > 1 && p.groups == p.in_channels && n == p.groups * multiplier,
          "depthwise x" + std::to_string(multiplier));
    }
  }

  void add_call(const ConvProblem& p, const ConvArgs& args, const FilterView& weights) {
    const auto odd = [](const void* at) { return reinterpret_cast<std::uintptr_t>(at) % 2 == 1; };
    const ConstImageView a = args.a, c = args.c;
    saw(a.channel_stride == 1 && a.strides[2] == a.channels, "a channels last");
    saw(a.channel_stride == 1 && a.strides[2] > a.channels, "a padded");
    saw(a.channels > 1 && a.channel_stride > 1, "a channels first");
    saw(rows_are_even(c) && c.channel_stride == 1, "c a matrix");
    saw(c.channels > 1 && c.channel_stride > 1, "c channels first");
    saw(!rows_are_even(c), "c uneven");
    saw(odd(a.data), "a odd");
    saw(odd(c.data), "c odd");
    saw(odd(weights.data), "b odd");
    saw(p.taps() > 1 && p.group_inputs() > 1 && weights.in_stride == 1, "OHWI");
    saw(p.taps() > 1 && p.group_inputs() > 1 && weights.in_stride > 1, "OIHW or other");
    saw(p.groups > 1 && weights.group_gap != 0, "transposed weights");
    if (p.epilogue.has(Step::Kind::residual)) {
      saw(true, args.residual.data == args.c.data
                    ? "in place"
                    : std::string("residual ") + name(args.residual.type));
    }
  }

  /// Where the CPU's integer Winograd may be chosen.
  static bool is_large_3x3(const ConvProblem& p, const ConvArgs& args) {
    const Spatial& out = args.c.extent;
    return is_int8(p.a) && !p.transposed && p.groups == 1 && p.kernel == Spatial{1, 3, 3} &&
           p.stride == Spatial{1, 1, 1} && p.dilation == Spatial{1, 1, 1} && p.in_channels > 0 &&
           p.in_channels % 16 == 0 && p.out_channels >= 16 && args.a.channel_stride == 1 &&
           divide_up(out[1], 4) * divide_up(out[2], 4) >= 9;
  }

  std::map<std::string, Index> count_;
};

}  // namespace

TEST_CASE("conv: every case is valid, whole and in part") {
  for (Index seed = 0; seed < support::scaled(1000); ++seed) {
    const ConvCase c{static_cast<std::uint64_t>(seed)};
    const ConvProblem& p = c.problem();
    AlignedBuffer memory = c.c_memory();
    const Error problem = validate(p);
    CHECK_MESSAGE(!problem, c.describe() << ": " << problem);
    const auto [images, extent] = c.size();
    Spatial less = extent;
    for (Index& e : less) e = divide_up(e, 2);
    for (const ConvCase::Size& size :
         {c.size(), ConvCase::Size{0, extent}, ConvCase::Size{images, less}}) {
      const Error call = validate(p, c.args(memory.data(), size));
      CHECK_MESSAGE(!call, c.describe() << ": " << call);
    }
    CHECK(c.positions(c.size()) * p.taps() * p.group_inputs() * p.out_channels <=
          ConvCase::kMaxWork);
  }
}

TEST_CASE("conv: a seed makes the same case every time") {
  for (const std::uint64_t seed : {1u, 2u, 77u}) {
    const ConvCase a(seed), b(seed);
    CHECK(a.describe() == b.describe());
    const AlignedBuffer x = a.c_memory(), y = b.c_memory();
    REQUIRE(x.size() == y.size());
    CHECK((x.size() == 0 || std::memcmp(x.data(), y.data(), x.size()) == 0));
  }
}

TEST_CASE("conv: a case that forgets keeps its inputs and loses its weights") {
  ConvCase c(3), twin(3);
  twin.forget();
  for (std::size_t i = 0; i < c.input_memory().size(); ++i) {
    const auto x = c.input_memory()[i], y = twin.input_memory()[i];
    REQUIRE(x.size() == y.size());
    CHECK((x.empty() || std::memcmp(x.data(), y.data(), x.size()) == 0));
  }
  REQUIRE(twin.weights().data != nullptr);
  CHECK(*static_cast<const std::uint8_t*>(twin.weights().data) == 0x5A);
}

TEST_CASE("conv: all types, kernels, steps, layouts and sizes turn up") {
  Features seen;
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    seen.add(ConvCase(seed));
  }
  const auto at_least = [&](Index count, std::initializer_list<const char*> features) {
    for (const char* feature : features) {
      CHECK_MESSAGE(seen[feature] >= count, std::string(feature) << ": " << seen[feature]);
    }
  };
  at_least(100, {"int8 to s32",
                 "to s8",
                 "to u8",
                 "to f32",
                 "pointwise",
                 "3x3",
                 "strides",
                 "dilation",
                 "padding",
                 "transposed",
                 "groups",
                 "asymmetric padding",
                 "a padded",
                 "large 3x3",
                 "a channels last",
                 "a channels first",
                 "c a matrix",
                 "c uneven",
                 "c channels first",
                 "several images",
                 "a odd",
                 "c odd",
                 "b odd",
                 "OHWI",
                 "1xk",
                 "even kernel",
                 "OIHW or other",
                 "an input channel"});
  at_least(30, {"u8s8",
                "s8s8",
                "u8u8",
                "s8u8",
                "f32f32",
                "bf16bf16",
                "f16f16",
                "to bf16",
                "to f16",
                "a zero point",
                "one zero point of b",
                "zero points by channel",
                "an extreme zero point",
                "wraps",
                "output_pad",
                "5x5",
                "kx1",
                "3-D",
                "no images",
                "the kernel does not fit",
                "an image without positions",
                "no input channels",
                "no output channels",
                "sixteens of input channels",
                "depthwise x1",
                "depthwise x2",
                "depthwise x3",
                "transposed weights",
                "bias_s32",
                "scale",
                "row_scale",
                "bias",
                "relu",
                "clamp",
                "gelu",
                "gelu_tanh",
                "silu",
                "residual",
                "custom",
                "in place"});
  at_least(8, {"7x7 s2", "residual s8", "residual u8", "residual s32", "residual f32",
               "residual bf16", "residual f16", "f32bf16", "f32f16", "bf16f32", "f16f32"});
  CHECK(seen["empty"] < 2000 / 4);
}
