// What validate() accepts and refuses in a convolution, the views of images, output extents and
// padding; and the reference, which defines every backend's results, against arithmetic written
// differently.
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "quern/ops/conv_reference.hpp"
#include "quern/testing/random.hpp"
#include "support.hpp"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12, of constants in Valid below
#endif

using namespace quern;
using quern::testing::Random;

namespace {

using Words = std::vector<std::string>;
using Ints = std::vector<std::int32_t>;

constexpr Index kMax = std::numeric_limits<Index>::max();
constexpr Index kMost = Index{1} << 40;  // of any size in a problem

const std::vector<float> kSixFloats(6, 1.0f);
const std::vector<std::int32_t> kSixInts(6, 1);

/// u8 (2, 5 x 4, 4) -> s8 (2, 3 x 2, 6) in two groups with everything run() can be given; valid as
/// it stands.
struct Valid {
  std::vector<std::uint8_t> a = std::vector<std::uint8_t>(160);
  std::vector<std::int8_t> c = std::vector<std::int8_t>(72);
  std::vector<std::int8_t> residual = std::vector<std::int8_t>(72);
  std::vector<float> row_scales = std::vector<float>(12, 1.0f);
  ConvProblem problem{.in_channels = 4,
                      .out_channels = 6,
                      .groups = 2,
                      .kernel = {1, 3, 3},
                      .c = DType::s8,
                      .b_zero_points = kSixInts,
                      .epilogue = {epilogue::bias(kSixInts), epilogue::scale(kSixFloats),
                                   epilogue::row_scale(), epilogue::residual()}};
  ConvArgs args{
      .a = ConstImageView::channels_last(a.data(), DType::u8, 2, {1, 5, 4}, 4),
      .c = ImageView::channels_last(c.data(), DType::s8, 2, {1, 3, 2}, 6),
      .residual = ConstImageView::channels_last(residual.data(), DType::s8, 2, {1, 3, 2}, 6),
      .row_scales = row_scales};
};

void check_error(const Error& e, Code code, const Words& words) {
  CAPTURE(e);
  CHECK(e.code() == code);
  for (const std::string& word : words) {
    CAPTURE(word);
    CHECK(support::says(e, word));
  }
}
template <class Spoil>
void refuses(Spoil&& spoil, Code code, const Words& words) {
  Valid v;
  spoil(v.problem);
  check_error(validate(v.problem), code, words);
}
template <class Spoil>
void refuses_call(Spoil&& spoil, Code code, const Words& words) {
  Valid v;
  spoil(v);
  REQUIRE_FALSE(validate(v.problem));
  check_error(validate(v.problem, v.args), code, words);
}
template <class Change>
void accepts_call(Change&& change) {
  Valid v;
  change(v);
  const Error problem = validate(v.problem), call = validate(v.problem, v.args);
  CHECK_MESSAGE(!problem, problem);
  CHECK_MESSAGE(!call, call);
}

}  // namespace

TEST_CASE("conv: a valid problem and a call pass, and so does nothing at all") {
  accepts_call([](Valid&) {});
  CHECK_FALSE(validate(ConvProblem{}));
  CHECK_FALSE(validate(ConvProblem{}, ConvArgs{.a = {nullptr, DType::u8, 0, {}, 0, 0, {}, 1},
                                               .c = {nullptr, DType::s32, 0, {}, 0, 0, {}, 1}}));
}

TEST_CASE("conv: channels are 0 to 2^40") {
  for (const Index bad : {Index{-1}, kMost + 1, kMax}) {
    refuses([&](ConvProblem& p) { p.in_channels = bad; }, Code::bad_shape,
            {"conv: " + std::to_string(bad) + " input and 6 output", "0 to 2^40"});
    refuses([&](ConvProblem& p) { p.out_channels = bad; }, Code::bad_shape,
            {"4 input and " + std::to_string(bad) + " output"});
  }
}

TEST_CASE("conv: groups divide both channels") {
  for (const Index bad : {Index{0}, Index{-2}, Index{3}, Index{4}, Index{5}, Index{1} << 24}) {
    refuses([&](ConvProblem& p) { p.groups = bad; }, Code::bad_shape,
            {std::to_string(bad) + " groups must divide 4 input and 6 output"});
  }
}

TEST_CASE(
    "conv: kernels, strides and dilations are 1 to 2^40, pads 0 to 2^40, in every dimension") {
  const char* const kNames[] = {"depth", "height", "width"};
  for (std::size_t d = 0; d < 3; ++d) {
    const std::string along = std::string("along the ") + kNames[d];
    for (const Index bad : {Index{0}, Index{-1}, kMost + 1, kMax}) {
      const std::string number = std::to_string(bad);
      const auto check = [&](Spatial ConvProblem::*member, const char* what) {
        refuses([&](ConvProblem& p) { (p.*member)[d] = bad; }, Code::bad_shape,
                {along, what + (" " + number), "1 to 2^40"});
      };
      check(&ConvProblem::kernel, "kernel is");
      check(&ConvProblem::stride, "stride");
      check(&ConvProblem::dilation, "dilation");
      if (bad == 0) continue;
      refuses([&](ConvProblem& p) { p.pad_begin[d] = bad; }, Code::bad_shape,
              {along, number + " and 0 are padded", "0 to 2^40"});
      refuses([&](ConvProblem& p) { p.pad_end[d] = bad; }, Code::bad_shape,
              {along, "0 and " + number + " are padded"});
    }
    refuses(
        [&](ConvProblem& p) {
          p.kernel[d] = 3;
          p.dilation[d] = kMost / 2 + 1;
        },
        Code::bad_shape, {along, "a kernel of 3 with dilation 549755813889", "2^40"});
    Valid v;
    v.problem.kernel[d] = 3;
    v.problem.dilation[d] = kMost / 2;
    v.problem.stride[d] = v.problem.pad_begin[d] = v.problem.pad_end[d] = kMost;
    CHECK_FALSE(validate(v.problem));
  }
}

TEST_CASE("conv: kernels whose positions or weights overflow") {
  refuses(
      [](ConvProblem& p) {
        p.kernel = {kMost, kMost, 1};
      },
      Code::bad_shape, {"1099511627776 x 1099511627776 x 1 x 2 overflows"});
  refuses(
      [](ConvProblem& p) {
        p.kernel = {1 << 20, 1 << 20, 1 << 24};
      },
      Code::bad_shape, {"1048576 x 1048576 x 16777216 x 2 overflows"});
  refuses(
      [](ConvProblem& p) {
        p.kernel = {1, 1 << 30, 1 << 30}, p.in_channels = 32;
      },
      Code::bad_shape, {"x 16 overflows"});
  refuses([](ConvProblem& p) { p.kernel = {1, 1 << 28, 1 << 28}; }, Code::bad_shape, {"overflow"});
}

TEST_CASE("conv: b has none, one or out_channels zero points, in the range of its type") {
  const Ints many(7, 1), wrong{0, 0, 0, 0, -129, 0};
  for (const std::size_t count : {2u, 3u, 4u, 5u, 7u}) {  // 3 would fit one group
    refuses([&](ConvProblem& p) { p.b_zero_points = std::span(many).first(count); },
            Code::bad_shape,
            {"b has " + std::to_string(count) + " zero points", "out_channels = 6"});
  }
  for (const std::size_t count : {0u, 1u, 6u}) {
    Valid v;
    v.problem.b_zero_points = std::span(many).first(count);
    CHECK_FALSE(validate(v.problem));
  }
  refuses([&](ConvProblem& p) { p.b_zero_points = wrong; }, Code::bad_value,
          {"b's zero point -129", "[-128, 127]"});
  refuses([](ConvProblem& p) { p.a_zero_point = 256; }, Code::bad_value,
          {"a's zero point 256", "[0, 255]"});
  refuses([](ConvProblem& p) { p.c_zero_point = 128; }, Code::bad_value, {"c's zero point 128"});
}

TEST_CASE("conv: steps have a value for each output channel, a scale may have one") {
  const std::vector<float> floats(6, 1.0f);
  const auto step = [](const Step& s) { return [s](ConvProblem& p) { p.epilogue = {s}; }; };
  for (const std::size_t count : {0u, 1u, 3u, 5u}) {  // 3 would fit one group
    const std::string text = std::to_string(count) + " values for 6 output channels";
    const auto some = std::span(floats).first(count);
    refuses(step(epilogue::bias(some)), Code::bad_shape, {"step bias has " + text});
    refuses(step(epilogue::bias(std::span(kSixInts).first(count))), Code::bad_shape,
            {"step bias_s32 has " + text});
    if (count == 1) continue;
    refuses(step(epilogue::scale(some)), Code::bad_shape, {"step scale has " + text});
  }
  Valid v;
  v.problem.epilogue = {epilogue::scale(std::span(floats).first(1))};
  CHECK_FALSE(validate(v.problem));
  refuses(step(epilogue::bias(std::span<const float>(static_cast<const float*>(nullptr), 6))),
          Code::bad_data, {"(bias) is null"});
  std::vector<float> last_is_zero = floats;
  last_is_zero.back() = 0.0f;
  refuses(step(epilogue::scale(last_is_zero)), Code::bad_value, {"(scale)", "finite and not 0"});
  refuses(step(epilogue::clamp(2.0f, 1.0f)), Code::bad_value, {"[2, 1]"});
  refuses([](ConvProblem& p) { p.epilogue.count = 9; }, Code::unsupported, {"9 steps"});
}

TEST_CASE("conv: types are those of products, but floats are not quantized on the way") {
  const DType all[] = {DType::s8,
                       DType::u8,
                       DType::s32,
                       DType::f32,
                       DType::bf16,
                       DType::f16,
                       static_cast<DType>(42)};
  std::string wrong;
  for (const DType a : all) {
    for (const DType b : all) {
      for (const DType c : all) {
        const bool integers = is_int8(a) && is_int8(b), floats = is_float(a) && is_float(b);
        const bool output = is_int8(c) || is_float(c) || (c == DType::s32 && integers);
        const Error e =
            validate(ConvProblem{.in_channels = 2, .out_channels = 2, .a = a, .b = b, .c = c});
        const Code expected = (integers || floats) && output ? Code::ok : Code::unsupported;
        if (e.code() != expected || (e && !support::says(e, name(a)))) {
          wrong += std::string(name(a)) + " x " + name(b) + " -> " + name(c) + "; ";
        }
      }
    }
  }
  CHECK(wrong == "");
  refuses([](ConvProblem& p) { p.a = DType::f32; }, Code::unsupported,
          {"conv: f32 x s8 is not offered"});
}

TEST_CASE("conv: sums that may wrap are refused unless that is asked for") {
  ConvProblem p{.in_channels = 7312, .out_channels = 1, .kernel = {1, 3, 3}};  // k = 65808
  check_error(validate(p), Code::bad_value, {"k is 65808", "65793"});
  p.overflow = Overflow::wrap;
  CHECK_FALSE(validate(p));
  p.overflow = Overflow::refuse;
  p.in_channels = p.out_channels = p.groups = 7312;
  CHECK_FALSE(validate(p));
  // The bias of the last group counts too.
  Ints bias(6, 0);
  bias.back() = 0x7FFFFFFF;
  refuses([&](ConvProblem& q) { q.epilogue = {epilogue::bias(bias)}; }, Code::bad_value,
          {"k is 18", "up to k = 0"});
}

TEST_CASE("conv: more output positions only if transposed, below the stride or the dilation") {
  for (std::size_t d = 0; d < 3; ++d) {
    for (const Index bad : {Index{1}, Index{-1}, kMax}) {
      refuses([&](ConvProblem& p) { p.output_pad[d] = bad, p.stride[d] = 5; }, Code::bad_shape,
              {std::to_string(bad) + " positions are added", "0 to 0", "not transposed"});
    }
    for (const Index bad : {Index{-1}, Index{5}, kMax}) {
      for (const bool dilated : {false, true}) {
        refuses(
            [&](ConvProblem& p) {
              p.transposed = true, p.output_pad[d] = bad, p.stride[d] = dilated ? 2 : 5;
              if (dilated) p.dilation[d] = 5;
            },
            Code::bad_shape, {std::to_string(bad) + " positions are added", "0 to 4 are possible"});
      }
    }
    Valid v;
    v.problem.transposed = true;
    v.problem.stride[d] = 5;
    v.problem.output_pad[d] = 4;
    CHECK_FALSE(validate(v.problem));
    std::swap(v.problem.stride[d], v.problem.dilation[d]);
    CHECK_FALSE(validate(v.problem));
  }
}

TEST_CASE("conv: the bound of transposed sums counts the positions that meet in one output") {
  ConvProblem p{.in_channels = 16448,  // times 2 x 2: 65792, of at most 65793
                .out_channels = 1,
                .kernel = {1, 4, 4},
                .stride = {1, 2, 2},
                .transposed = true};
  CHECK_FALSE(validate(p));
  p.in_channels = 16449;
  check_error(validate(p), Code::bad_value, {"k is 65796", "65793"});
  p.dilation = {1, 2, 1};  // 4 x 2
  p.in_channels = 8224;
  CHECK_FALSE(validate(p));
  p.in_channels = 8225;
  check_error(validate(p), Code::bad_value, {"k is 65800"});
}

TEST_CASE("conv call: types") {
  refuses_call([](Valid& v) { v.args.a.type = DType::s8; }, Code::unsupported,
               {"hold s8 and s8", "says u8 and s8"});
  refuses_call([](Valid& v) { v.args.c.type = DType::f32; }, Code::unsupported,
               {"hold u8 and f32"});
  refuses_call([](Valid& v) { v.args.residual.type = static_cast<DType>(42); }, Code::unsupported,
               {"conv: residual has type 42"});
}

TEST_CASE("conv call: extents are not negative, those of a up to 2^40") {
  refuses_call([](Valid& v) { v.args.a.batch = -1; }, Code::bad_shape,
               {"conv: a is -1 x (1, 5, 4) x 4", "negative"});
  refuses_call([](Valid& v) { v.args.a.channels = -4; }, Code::bad_shape, {"x -4"});
  for (std::size_t d = 0; d < 3; ++d) {
    refuses_call([&](Valid& v) { v.args.a.extent[d] = -7; }, Code::bad_shape, {"conv: a", "-7"});
    refuses_call([&](Valid& v) { v.args.c.extent[d] = -7; }, Code::bad_shape, {"conv: c", "-7"});
    refuses_call([&](Valid& v) { v.args.residual.extent[d] = -7; }, Code::bad_shape,
                 {"conv: residual", "-7"});
    refuses_call([&](Valid& v) { v.args.a.extent[d] = kMost + 1; }, Code::bad_shape,
                 {"an extent of 1099511627777, above 2^40"});
  }
}

TEST_CASE("conv call: channels and the output's extent") {
  refuses_call([](Valid& v) { v.args.a.channels = 3; }, Code::bad_shape,
               {"have 3 and 6 channels, not 4 and 6"});
  refuses_call([](Valid& v) { v.args.c.channels = 5; }, Code::bad_shape, {"have 4 and 5 channels"});
  refuses_call(
      [](Valid& v) {
        v.args.c = ImageView::channels_last(v.c.data(), DType::s8, 2, {1, 2, 3}, 6);
      },
      Code::bad_shape, {"c is 2 x (1, 2, 3) but must be 2 x (1, 3, 2)"});
  refuses_call([](Valid& v) { v.args.c.batch = 1; }, Code::bad_shape,
               {"c is 1 x (1, 3, 2) but must be 2"});
  // The kernel does not fit: the output must be empty.
  refuses_call([](Valid& v) { v.args.a.extent[1] = 2; }, Code::bad_shape,
               {"must be 2 x (1, 0, 2)"});
  accepts_call([](Valid& v) {
    v.args.a.extent[1] = 2;
    v.args.c = ImageView::channels_last(nullptr, DType::s8, 2, {1, 0, 2}, 6);
    v.args.residual = v.args.c;
    v.args.row_scales = {};
  });
  accepts_call([](Valid& v) {
    v.args.a.batch = v.args.c.batch = v.args.residual.batch = 0;
    v.args.a.data = v.args.residual.data = nullptr;
    v.args.c.data = nullptr;
    v.args.row_scales = {};
  });
}

TEST_CASE("conv call: no two elements of an image share an address") {
  refuses_call([](Valid& v) { v.args.a.strides[2] = 3; }, Code::bad_shape,
               {"conv: a has strides 80 (batch), 80, 16, 3, 1 (channels)", "overlap"});
  refuses_call([](Valid& v) { v.args.a.strides[1] = 15; }, Code::bad_shape, {"conv: a", "overlap"});
  refuses_call([](Valid& v) { v.args.a.batch_stride = 0; }, Code::bad_shape,
               {"conv: a has strides 0 (batch)", "overlap"});
  refuses_call([](Valid& v) { v.args.a.channel_stride = -1; }, Code::bad_shape,
               {"conv: a", "-1 (channels)"});
  refuses_call([](Valid& v) { v.args.c.strides[2] = 5; }, Code::bad_shape, {"conv: c", "overlap"});
  refuses_call([](Valid& v) { v.args.residual.batch_stride = 35; }, Code::bad_shape,
               {"conv: residual", "35 (batch)", "overlap"});
  refuses_call([](Valid& v) { v.args.a.batch_stride = kMax; }, Code::bad_shape,
               {"conv: a overflows 63 bits"});
  // Where there is only one, its stride is nobody's business.
  accepts_call([](Valid& v) { v.args.a.strides[0] = v.args.c.strides[0] = -5; });
  // Any order of the dimensions will do for a.
  accepts_call([](Valid& v) {
    v.args.a = ConstImageView::channels_first(v.a.data(), DType::u8, 2, {1, 5, 4}, 4);
  });
  accepts_call([](Valid& v) {
    v.args.a = {v.a.data(), DType::u8, 2, {1, 5, 4}, 4, 1, {0, 2, 10}, 40};
  });
}

TEST_CASE("conv call: null and misaligned data") {
  refuses_call([](Valid& v) { v.args.a.data = nullptr; }, Code::bad_data, {"conv: a is null"});
  refuses_call([](Valid& v) { v.args.c.data = nullptr; }, Code::bad_data, {"conv: c is null"});
  refuses_call([](Valid& v) { v.args.residual.data = nullptr; }, Code::bad_data,
               {"conv: residual is null"});
  alignas(4) static std::byte memory[72 * 4 + 1];
  refuses_call(
      [&](Valid& v) {
        v.problem.c = DType::f32;
        v.args.c = ImageView::channels_last(memory + 1, DType::f32, 2, {1, 3, 2}, 6);
      },
      Code::bad_data, {"conv: c at", "not aligned for f32"});
  refuses_call(
      [&](Valid& v) {
        v.args.residual = ConstImageView::channels_last(memory + 1, DType::bf16, 2, {1, 3, 2}, 6);
      },
      Code::bad_data, {"conv: residual at", "not aligned for bf16"});
}

TEST_CASE("conv call: outputs and residuals have any strides that keep elements apart") {
  std::vector<std::int8_t> large(1000);
  const auto put = [&](auto& view, Index batch, const Spatial& strides, Index channels) {
    view.data = large.data();
    view.batch_stride = batch;
    view.strides = strides;
    view.channel_stride = channels;
  };
  for (const bool residual : {false, true}) {
    const auto accepts = [&](Index batch, const Spatial& strides, Index channels) {
      accepts_call([&](Valid& v) {
        residual ? put(v.args.residual, batch, strides, channels)
                 : put(v.args.c, batch, strides, channels);
      });
    };
    accepts(36, {36, 2, 1}, 6);    // channels first
    accepts(72, {72, 24, 12}, 2);  // every other channel
    accepts(39, {39, 13, 6}, 1);   // rows that are not evenly spaced
    accepts(37, {36, 12, 6}, 1);   // images that are not
    accepts(60, {60, 20, 10}, 1);
    accepts(1, {0, 2, 6}, 20);
  }
  refuses_call(
      [&](Valid& v) {
        put(v.args.c, 36, {36, 2, 1}, 5);
      },
      Code::bad_shape, {"conv: c has strides 36 (batch), 36, 2, 1, 5 (channels)", "overlap"});
  refuses_call(
      [&](Valid& v) {
        put(v.args.residual, 35, {36, 2, 1}, 6);
      },
      Code::bad_shape, {"conv: residual has strides 35", "overlap"});
}

TEST_CASE("conv call: c overlaps neither a nor a residual that is not the same view") {
  std::vector<std::int8_t> memory(300);
  refuses_call([&](Valid& v) { v.args.c.data = v.a.data() + 159; }, Code::bad_data,
               {"conv: c at", "overlaps a at"});
  refuses_call([&](Valid& v) { v.args.a.data = v.c.data() + 71; }, Code::bad_data, {"overlaps a"});
  const auto both = [&](Index ahead) {
    return [&memory, ahead](Valid& v) {
      v.args.c.data = memory.data() + 72;
      v.args.residual.data = memory.data() + 72 + ahead;
    };
  };
  for (const Index ahead : {-71, -1, 1, 71}) {
    refuses_call(both(ahead), Code::bad_data, {"overlaps residual", "same view"});
  }
  for (const Index ahead : {-72, 0, 72}) accepts_call(both(ahead));
  refuses_call(
      [&](Valid& v) {
        both(0)(v);
        v.args.residual.type = DType::u8;
      },
      Code::bad_data, {"overlaps residual"});
  refuses_call(
      [&](Valid& v) {
        both(0)(v);
        v.args.residual.batch_stride = 70, v.args.residual.strides = {70, 21, 7};
      },
      Code::bad_data, {"overlaps residual"});
  refuses_call(
      [&](Valid& v) {
        both(0)(v);
        v.args.residual.batch_stride = 36, v.args.residual.strides = {36, 2, 1};
        v.args.residual.channel_stride = 6;
      },
      Code::bad_data, {"overlaps residual"});
}

TEST_CASE("conv call: the residual is shaped like c, and only looked at if a step adds it") {
  refuses_call([](Valid& v) { v.args.residual.batch = 1; }, Code::bad_shape,
               {"residual is 1 x (1, 3, 2) x 6, unlike c"});
  refuses_call(
      [](Valid& v) {
        v.args.residual =
            ConstImageView::channels_last(v.residual.data(), DType::s8, 2, {1, 2, 3}, 6);
      },
      Code::bad_shape, {"residual is 2 x (1, 2, 3) x 6"});
  refuses_call([](Valid& v) { v.args.residual.channels = 5; }, Code::bad_shape, {"x 5, unlike c"});
  refuses_call([](Valid& v) { v.args.residual = {}; }, Code::bad_shape, {"residual is 0 x"});
  accepts_call([](Valid& v) {
    v.problem.epilogue = {};
    v.args.residual.channels = -1;
    v.args.row_scales = {};
  });
}

TEST_CASE("conv call: a row scale for each output position") {
  const std::vector<float> many(13, 1.0f);
  for (const std::size_t count : {0u, 6u, 11u, 13u}) {
    refuses_call([&](Valid& v) { v.args.row_scales = std::span(many).first(count); },
                 Code::bad_shape, {std::to_string(count) + " row scales for 12 output positions"});
  }
}

TEST_CASE("conv: output extents") {
  CHECK(output_extent(5, 3, 1, 1, 0) == 3);
  CHECK(output_extent(5, 3, 2, 1, 0) == 2);
  CHECK(output_extent(6, 3, 2, 1, 0) == 2);
  CHECK(output_extent(5, 5, 9, 1, 0) == 1);
  CHECK(output_extent(5, 6, 1, 1, 0) == 0);  // -0.5 and less must not round up to 0, that is to 1
  CHECK(output_extent(5, 7, 3, 1, 0) == 0);
  CHECK(output_extent(5, 3, 1, 2, 0) == 1);
  CHECK(output_extent(4, 3, 1, 2, 0) == 0);
  CHECK(output_extent(4, 3, 1, 2, 1) == 1);
  CHECK(output_extent(0, 1, 1, 1, 0) == 0);
  CHECK(output_extent(0, 3, 1, 1, 4) == 2);
  CHECK(output_extent(-1, 1, 1, 1, 5) == 0);
  CHECK(output_extent(kMost, kMost, kMost, 1, 2 * kMost) == 3);
  const ConvProblem p{.kernel = {2, 3, 1},
                      .stride = {1, 2, 3},
                      .dilation = {2, 1, 5},
                      .pad_begin = {0, 1, 0},
                      .pad_end = {1, 0, 0}};
  CHECK(output_extent(p, {4, 6, 7}) == Spatial{3, 3, 3});
}

TEST_CASE("conv: output extents count the positions at which the kernel fits") {
  for (Index in = 0; in < 9; ++in) {
    for (Index kernel = 1; kernel < 5; ++kernel) {
      for (Index stride = 1; stride < 4; ++stride) {
        for (Index dilation = 1; dilation < 4; ++dilation) {
          for (Index pads = 0; pads < 4; ++pads) {
            Index count = 0;
            for (Index o = 0; o + (kernel - 1) * dilation < in + pads; o += stride) ++count;
            CHECK(output_extent(in, kernel, stride, dilation, pads) == count);
          }
        }
      }
    }
  }
}

TEST_CASE("conv: transposed output extents are where the inputs of the other way come from") {
  for (Index in = 0; in < 7; ++in) {
    for (Index kernel = 1; kernel < 5; ++kernel) {
      for (Index stride = 1; stride < 4; ++stride) {
        for (Index dilation = 1; dilation < 4; ++dilation) {
          for (Index pads = 0; pads < 6; ++pads) {
            for (Index more = 0; more < std::max(stride, dilation); ++more) {
              const Index out = transposed_extent(in, kernel, stride, dilation, more, pads);
              if (in == 0 || out == 0) {
                CHECK(out == 0);
                CHECK((in == 0 || (in - 1) * stride + dilation * (kernel - 1) + more < pads));
              } else if (more < stride) {
                CHECK(output_extent(out, kernel, stride, dilation, pads) == in);
              }
            }
          }
        }
      }
    }
  }
  CHECK(transposed_extent(kMost, 1, kMost, 1, 0, 0) == kMax);  // 2^80
  ConvProblem p{.kernel = {2, 3, 4},
                .stride = {1, 2, 3},
                .dilation = {2, 1, 5},
                .pad_begin = {0, 1, 0},
                .pad_end = {1, 0, 2},
                .transposed = true,
                .output_pad = {1, 0, 4}};
  CHECK(output_extent(p, {4, 6, 7}) == Spatial{6, 12, 36});
  CHECK(output_extent(p, {4, 0, 7}) == Spatial{6, 0, 36});
  p.pad_begin[1] = 13;
  CHECK(output_extent(p, {4, 6, 7}) == Spatial{6, 0, 36});
}

TEST_CASE("conv call: transposed outputs have extents up to 2^40") {
  ConvProblem p{.stride = {1, 1, kMost}, .transposed = true};
  ConvArgs args{.a = {nullptr, DType::u8, 1, {1, 1, 2}, 0, 0, {}, 1},
                .c = {nullptr, DType::s32, 1, {1, 1, kMost + 1}, 0, 0, {}, 1}};
  check_error(validate(p, args), Code::bad_shape, {"1099511627777, above 2^40"});
  p.stride[2] = kMost - 1;
  args.c.extent[2] = kMost;
  CHECK_FALSE(validate(p, args));
}

TEST_CASE("conv: transposed, pad_same is ONNX's, and pad_to its output_shape") {
  // https://onnx.ai/onnx/operators/onnx__ConvTranspose.html: total_padding[i] = stride[i] *
  // (input_size[i] - 1) + output_padding[i] + ((kernel_shape[i] - 1) * dilations[i] + 1) -
  // output_shape[i]; SAME_UPPER begins with half of it, rounded down, and everything else rounded
  // up. SAME makes output_shape[i] = input_shape[i] * strides[i].
  for (Index in = 1; in < 6; ++in) {
    for (Index kernel = 1; kernel < 6; ++kernel) {
      for (Index stride = 1; stride < 5; ++stride) {
        for (Index dilation = 1; dilation < 4; ++dilation) {
          const ConvProblem p{.kernel = {1, kernel, 1},
                              .stride = {1, stride, 1},
                              .dilation = {1, dilation, 1},
                              .transposed = true};
          const Index all = stride * (in - 1) + (kernel - 1) * dilation + 1;
          ConvProblem upper = p, lower = p;
          pad_same(upper, {1, in, 1});
          pad_same(lower, {1, in, 1}, true);
          CHECK(output_extent(upper, {1, in, 1}) == Spatial{1, in * stride, 1});
          const Index total = std::max<Index>(0, all - in * stride);
          CHECK(upper.pad_begin == Spatial{0, total / 2, 0});
          CHECK(upper.pad_end == Spatial{0, total - total / 2, 0});
          CHECK(lower.pad_begin == upper.pad_end);
          CHECK(lower.pad_end == upper.pad_begin);
          CHECK(upper.output_pad == Spatial{0, std::max<Index>(0, in * stride - all), 0});
          CHECK_FALSE(validate(upper));
          for (Index out = 1; out < all + std::max(stride, dilation); ++out) {
            ConvProblem q = p;
            pad_to(q, {1, in, 1}, {1, out, 1});
            CHECK(output_extent(q, {1, in, 1}) == Spatial{1, out, 1});
            CHECK(q.pad_end[1] == std::max<Index>(0, all - out) / 2);
            CHECK_FALSE(validate(q));
          }
        }
      }
    }
  }
}

TEST_CASE("conv: pad_same is ONNX's SAME_UPPER and SAME_LOWER") {
  // https://onnx.ai/onnx/operators/onnx__Conv.html: output_shape[i] = ceil(input_shape[i] /
  // strides[i]), and the padding is split between the two sides, with the extra one at the end
  // (SAME_UPPER) or at the beginning (SAME_LOWER).
  for (Index in = 1; in < 12; ++in) {
    for (Index kernel = 1; kernel < 6; ++kernel) {
      for (Index stride = 1; stride < 5; ++stride) {
        for (Index dilation = 1; dilation < 4; ++dilation) {
          ConvProblem upper{
              .kernel = {1, kernel, 1}, .stride = {1, stride, 1}, .dilation = {1, dilation, 1}};
          ConvProblem lower = upper;
          pad_same(upper, {1, in, 1});
          pad_same(lower, {1, in, 1}, true);
          const auto out = Index(std::ceil(double(in) / double(stride)));
          CHECK(output_extent(upper, {1, in, 1}) == Spatial{1, out, 1});
          const Index total =
              std::max<Index>(0, (out - 1) * stride + ((kernel - 1) * dilation + 1) - in);
          CHECK(upper.pad_begin == Spatial{0, total / 2, 0});
          CHECK(upper.pad_end == Spatial{0, total - total / 2, 0});
          CHECK(lower.pad_begin == upper.pad_end);
          CHECK(lower.pad_end == upper.pad_begin);
        }
      }
    }
  }
  ConvProblem p{.kernel = {4, 2, 3}, .stride = {1, 1, 2}, .pad_begin = {9, 9, 9}};
  pad_same(p, {5, 6, 7});
  CHECK(p.pad_begin == Spatial{1, 0, 1});
  CHECK(p.pad_end == Spatial{2, 1, 1});
}

TEST_CASE("conv: image views address channels last and channels first") {
  std::vector<std::int8_t> data(2 * 3 * 4 * 5 * 6);
  const auto last = ConstImageView::channels_last(data.data(), DType::s8, 2, {3, 4, 5}, 6);
  const auto first = ConstImageView::channels_first(data.data(), DType::s8, 2, {3, 4, 5}, 6);
  CHECK(last.positions() == 60);
  bool right = true;
  for (Index n = 0; n < 2; ++n) {
    for (Index z = 0; z < 3; ++z) {
      for (Index y = 0; y < 4; ++y) {
        for (Index x = 0; x < 5; ++x) {
          for (Index c = 0; c < 6; ++c) {
            const auto at = [&](const ConstImageView& v) {
              return reinterpret_cast<const std::int8_t*>(element(v, n, {z, y, x}, c)) -
                     data.data();
            };
            right &= at(last) == (((n * 3 + z) * 4 + y) * 5 + x) * 6 + c;
            right &= at(first) == (((n * 6 + c) * 3 + z) * 4 + y) * 5 + x;
          }
        }
      }
    }
  }
  CHECK(right);
  // Sizes that validate() refuses must not be undefined before.
  const Spatial huge = {kMax, kMax, kMax};
  CHECK(ConstImageView::channels_last(nullptr, DType::s8, kMax, huge, kMax).extent == huge);
  CHECK(ConstImageView::channels_first(nullptr, DType::s8, kMax, huge, kMax).extent == huge);
}

TEST_CASE("conv: pitch and rows_are_even") {
  const auto image = [](Index n, const Spatial& e) {
    return ConstImageView::channels_last(nullptr, DType::s8, n, e, 6);
  };
  CHECK(pitch(image(2, {3, 4, 5})) == 6);
  CHECK(rows_are_even(image(2, {3, 4, 5})));
  CHECK_FALSE(rows_are_even(ConstImageView::channels_first(nullptr, DType::s8, 2, {3, 4, 5}, 6)));
  // One image, channels first: its positions are adjacent.
  CHECK(rows_are_even(ConstImageView::channels_first(nullptr, DType::s8, 1, {3, 4, 5}, 6)));
  CHECK(pitch(ConstImageView::channels_first(nullptr, DType::s8, 1, {3, 4, 5}, 6)) == 1);

  // Strides of extents of 1 are not looked at; the innermost other one is the pitch.
  ConstImageView v = image(2, {3, 4, 1});
  v.strides[2] = 99;
  CHECK(pitch(v) == 6);
  CHECK(rows_are_even(v));
  v = image(2, {3, 1, 1});
  v.strides = {7, 98, 99};
  v.batch_stride = 21;
  CHECK(pitch(v) == 7);
  CHECK(rows_are_even(v));
  v.batch_stride = 22;
  CHECK_FALSE(rows_are_even(v));
  v = image(2, {1, 1, 1});
  v.strides = {97, 98, 99};
  v.batch_stride = 50;
  CHECK(pitch(v) == 50);
  CHECK(rows_are_even(v));
  v.batch = 1;
  CHECK(pitch(v) == 6);
  CHECK(rows_are_even(v));

  for (int d = 0; d < 3; ++d) {
    v = image(2, {3, 4, 5});
    ++(d == 2 ? v.batch_stride : v.strides[std::size_t(d)]);
    CHECK_FALSE(rows_are_even(v));
  }
}

TEST_CASE("conv: filter views address inputs last and inputs first") {
  const ConvProblem p{.in_channels = 14, .out_channels = 4, .groups = 2, .kernel = {2, 3, 5}};
  CHECK(p.taps() == 30);
  CHECK(p.group_inputs() == 7);
  CHECK(p.group_outputs() == 2);
  const FilterView last = FilterView::inputs_last(nullptr, p);
  CHECK(last.out_stride == 210);
  CHECK(last.strides == Spatial{105, 35, 7});
  CHECK(last.in_stride == 1);
  const FilterView first = FilterView::inputs_first(nullptr, p);
  CHECK(first.out_stride == 210);
  CHECK(first.strides == Spatial{15, 5, 1});
  CHECK(first.in_stride == 30);
  CHECK(first.type == p.b);
  CHECK(first.offset(1, 3, {1, 2, 4}, 6) == ((3 * 7 + 6) * 2 + 1) * 15 + 2 * 5 + 4);
  const FilterView across = FilterView::transposed(nullptr, p);  // (14, 2, 2, 3, 5)
  CHECK(across.type == p.b);
  for (Index out = 0; out < 4; ++out) {
    for (Index in = 0; in < 7; ++in) {
      const Index group = out / 2, row = group * 7 + in;
      CHECK(across.offset(group, out, {1, 2, 4}, in) == (row * 2 + out % 2) * 30 + 29);
    }
  }
}

namespace {

/// Numbers (n, z, y, x, channel), in that order whatever the layout is they came from.
template <class T>
struct Volume {
  Index n, z, y, x, channels;
  std::vector<T> values = std::vector<T>(std::size_t(n * z * y * x * channels));

  T& at(Index in, Index iz, Index iy, Index ix, Index c) {
    return values[std::size_t((((in * z + iz) * y + iy) * x + ix) * channels + c)];
  }
};

/// The transposed convolution as every element of the image spread over the output, which is cut in
/// the end.
template <class T, class Load>
Volume<T> spread(const ConvProblem& p, const FilterView& b, const ConstImageView& a,
                 const Spatial& out, Load&& load) {
  Spatial all = {};
  for (std::size_t d = 0; d < 3; ++d) all[d] = out[d] + p.pad_begin[d] + p.pad_end[d];
  Volume<T> whole{a.batch, all[0], all[1], all[2], p.out_channels};
  const Index inputs = p.in_channels / p.groups, outputs = p.out_channels / p.groups;
  for (Index c = 0; c < a.channels; ++c) {
    for (Index j = c / inputs * outputs; j < (c / inputs + 1) * outputs; ++j) {
      T zb = 0;
      if (p.b_zero_points.size() == 1) zb = T(p.b_zero_points[0]);
      if (p.b_zero_points.size() > 1) zb = T(p.b_zero_points[std::size_t(j)]);
      for (Index k = 0; k < p.taps(); ++k) {
        const Index x = k % p.kernel[2], y = k / p.kernel[2] % p.kernel[1],
                    z = k / p.kernel[2] / p.kernel[1];
        const Index offset = j * b.out_stride + z * b.strides[0] + y * b.strides[1] +
                             x * b.strides[2] + c % inputs * b.in_stride + c / inputs * b.group_gap;
        const T w =
            load(static_cast<const std::byte*>(b.data) + offset * size_of(b.type), b.type) - zb;
        for (Index i = 0; i < a.batch * a.positions(); ++i) {
          const Index n = i / a.positions(), ix = i % a.extent[2],
                      iy = i / a.extent[2] % a.extent[1],
                      iz = i / a.extent[2] / a.extent[1] % a.extent[0];
          const T v = load(element(a, n, {iz, iy, ix}, c), a.type) - T(p.a_zero_point);
          whole.at(n, iz * p.stride[0] + z * p.dilation[0], iy * p.stride[1] + y * p.dilation[1],
                   ix * p.stride[2] + x * p.dilation[2], j) += v * w;
        }
      }
    }
  }
  Volume<T> sums{a.batch, out[0], out[1], out[2], p.out_channels};
  for (Index n = 0; n < a.batch; ++n) {
    for (Index z = 0; z < out[0]; ++z) {
      for (Index y = 0; y < out[1]; ++y) {
        for (Index x = 0; x < out[2]; ++x) {
          for (Index j = 0; j < p.out_channels; ++j) {
            sums.at(n, z, y, x, j) =
                whole.at(n, z + p.pad_begin[0], y + p.pad_begin[1], x + p.pad_begin[2], j);
          }
        }
      }
    }
  }
  return sums;
}

/// The convolution as an image with its padding added, a - za, times b - zb, one group and output
/// channel after the other, each weight added to all positions at once: another order than the
/// reference's.
template <class T, class Load>
Volume<T> convolve(const ConvProblem& p, const FilterView& b, const ConstImageView& a,
                   const Spatial& out, Load&& load) {
  if (p.transposed) return spread<T>(p, b, a, out, load);
  Volume<T> padded{a.batch, a.extent[0] + p.pad_begin[0] + p.pad_end[0],
                   a.extent[1] + p.pad_begin[1] + p.pad_end[1],
                   a.extent[2] + p.pad_begin[2] + p.pad_end[2], a.channels};
  for (Index c = 0; c < a.channels; ++c) {
    for (Index n = 0; n < a.batch; ++n) {
      for (Index z = 0; z < a.extent[0]; ++z) {
        for (Index y = 0; y < a.extent[1]; ++y) {
          for (Index x = 0; x < a.extent[2]; ++x) {
            padded.at(n, z + p.pad_begin[0], y + p.pad_begin[1], x + p.pad_begin[2], c) =
                load(element(a, n, {z, y, x}, c), a.type) - T(p.a_zero_point);
          }
        }
      }
    }
  }
  Volume<T> sums{a.batch, out[0], out[1], out[2], p.out_channels};
  const Index per_group = p.in_channels / p.groups;
  for (Index j = 0; j < p.out_channels; ++j) {
    const Index group = j * p.groups / p.out_channels;
    T zb = 0;
    if (p.b_zero_points.size() == 1) zb = T(p.b_zero_points[0]);
    if (p.b_zero_points.size() > 1) zb = T(p.b_zero_points[std::size_t(j)]);
    for (Index c = 0; c < per_group; ++c) {
      for (Index kz = 0; kz < p.kernel[0]; ++kz) {
        for (Index ky = 0; ky < p.kernel[1]; ++ky) {
          for (Index kx = 0; kx < p.kernel[2]; ++kx) {
            const Index offset = j * b.out_stride + kz * b.strides[0] + ky * b.strides[1] +
                                 kx * b.strides[2] + c * b.in_stride + group * b.group_gap;
            const T w =
                load(static_cast<const std::byte*>(b.data) + offset * size_of(b.type), b.type) - zb;
            for (Index n = 0; n < a.batch; ++n) {
              for (Index z = 0; z < out[0]; ++z) {
                for (Index y = 0; y < out[1]; ++y) {
                  for (Index x = 0; x < out[2]; ++x) {
                    sums.at(n, z, y, x, j) +=
                        w * padded.at(n, z * p.stride[0] + kz * p.dilation[0],
                                      y * p.stride[1] + ky * p.dilation[1],
                                      x * p.stride[2] + kx * p.dilation[2], group * per_group + c);
                  }
                }
              }
            }
          }
        }
      }
    }
  }
  return sums;
}

/// A random problem in `dimensions` dimensions, its image and weights of random bytes or floats.
struct Sample {
  Sample(std::uint64_t seed, DType a, DType b, DType c, bool transposed = false) : r(seed) {
    problem.a = a, problem.b = b, problem.c = c;
    problem.transposed = transposed;
    problem.groups = r.one_in(2) ? 1 : r.between(2, 4);
    problem.in_channels = problem.groups * r.between(1, 3);
    problem.out_channels = problem.groups * r.between(1, 3);
    for (std::size_t d = std::size_t(r.between(0, 2)); d < 3; ++d) {
      problem.kernel[d] = r.between(1, 4);
      problem.stride[d] = r.between(1, 3);
      problem.dilation[d] = r.between(1, 3);
      problem.pad_begin[d] = r.between(0, 4);
      problem.pad_end[d] = r.between(0, 4);
      in[d] = r.between(1, 7);
      if (!transposed) continue;
      const Index most =
          problem.stride[d] > problem.dilation[d] ? problem.stride[d] : problem.dilation[d];
      problem.output_pad[d] = r.between(0, most - 1);
      // Nothing may be left, or only some of the edge.
      const Index all = transposed_extent(in[d], problem.kernel[d], problem.stride[d],
                                          problem.dilation[d], problem.output_pad[d], 0);
      if (problem.pad_begin[d] + problem.pad_end[d] > all)
        problem.pad_begin[d] = problem.pad_end[d] = 0;
    }
    batch = r.between(0, 2);
    out = output_extent(problem, in);
    fill(image, a, batch * in[0] * in[1] * in[2] * problem.in_channels);
    fill(weights, b, problem.out_channels * problem.taps() * problem.group_inputs());
    if (is_int8(a)) {
      problem.a_zero_point = std::int32_t(r.between(lowest(a), highest(a)));
      const Index count = r.pick<Index>({0, 1, problem.out_channels});
      for (Index j = 0; j < count; ++j) {
        zeros.push_back(std::int32_t(r.between(lowest(b), highest(b))));
      }
      problem.b_zero_points = zeros;
    }
    const bool first = r.one_in(2);
    view = first ? ConstImageView::channels_first(image.data(), a, batch, in, problem.in_channels)
                 : ConstImageView::channels_last(image.data(), a, batch, in, problem.in_channels);
    filter = r.one_in(3)   ? FilterView::transposed(weights.data(), problem)
             : r.one_in(2) ? FilterView::inputs_first(weights.data(), problem)
                           : FilterView::inputs_last(weights.data(), problem);
  }
  void fill(std::vector<std::byte>& bytes, DType type, Index count) {
    bytes.resize(std::size_t(count * size_of(type)));
    for (Index i = 0; i < count; ++i) {
      if (is_int8(type)) {
        bytes[std::size_t(i)] = static_cast<std::byte>(r.bits());
      } else {
        const float v = r.uniform(-1.0f, 1.0f);
        std::memcpy(&bytes[std::size_t(i * 4)], &v, 4);
      }
    }
  }
  template <class T>
  std::vector<T> reference() {
    std::vector<T> c(std::size_t(batch * out[0] * out[1] * out[2] * problem.out_channels));
    const ConvArgs args{
        .a = view,
        .c = ImageView::channels_last(c.data(), dtype_of<T>, batch, out, problem.out_channels)};
    const Error e = validate(problem), call = validate(problem, args);
    REQUIRE_MESSAGE(!e, e);
    REQUIRE_MESSAGE(!call, call);
    reference_conv(problem, filter, args);
    return c;
  }

  Random r;
  ConvProblem problem;
  Index batch = 1;
  Spatial in = {1, 1, 1}, out = {};
  std::vector<std::byte> image, weights;
  Ints zeros;
  ConstImageView view;
  FilterView filter;
};

std::int64_t load_integer(const std::byte* at, DType type) {
  return type == DType::s8 ? std::int64_t{static_cast<std::int8_t>(*at)}
                           : std::int64_t{static_cast<std::uint8_t>(*at)};
}
double load_real(const std::byte* at, DType) {
  float v;
  std::memcpy(&v, at, 4);
  return double{v};
}
double load_magnitude(const std::byte* at, DType type) { return std::fabs(load_real(at, type)); }

}  // namespace

TEST_CASE("reference_conv: integers are exact, and padding contributes nothing") {
  Index elements = 0;
  for (Index seed = 0; seed < support::scaled(300); ++seed) {
    CAPTURE(seed);
    const DType a = seed % 2 ? DType::s8 : DType::u8, b = seed / 2 % 2 ? DType::u8 : DType::s8;
    Sample s(std::uint64_t(seed), a, b, DType::s32, seed / 4 % 2);
    const Ints got = s.reference<std::int32_t>();
    const auto want =
        convolve<std::int64_t>(s.problem, s.filter, s.view, s.out, load_integer).values;
    CHECK(std::vector<std::int64_t>(got.begin(), got.end()) == want);
    elements += Index(want.size());
  }
  CHECK(elements > 0);
}

TEST_CASE("reference_conv: floats are near the exact sums") {
  for (Index seed = 0; seed < support::scaled(150); ++seed) {
    CAPTURE(seed);
    Sample s(std::uint64_t(1000 + seed), DType::f32, DType::f32, DType::f32, seed % 2);
    const std::vector<float> got = s.reference<float>();
    const auto want = convolve<double>(s.problem, s.filter, s.view, s.out, load_real).values;
    const auto sizes = convolve<double>(s.problem, s.filter, s.view, s.out, load_magnitude).values;
    REQUIRE(got.size() == want.size());
    const double k = double(s.problem.taps() * s.problem.group_inputs());
    bool near = true;
    for (std::size_t i = 0; i < got.size(); ++i) {
      near &= std::fabs(double(got[i]) - want[i]) <= k * 0x1p-24 * sizes[i];
    }
    CHECK(near);
  }
}

TEST_CASE(
    "reference_conv: transposed, floats outside the image count as zeros, others not at all") {
  // (1 2) spread by 2 times (3 inf 5): 3 | inf | 5 + 6 | inf | 10, of which the first and the last
  // have one product with what is outside: inf * 0 would show.
  const float a[] = {1, 2}, b[] = {3, HUGE_VALF, 5};
  const ConvProblem p{.in_channels = 1,
                      .out_channels = 1,
                      .kernel = {1, 1, 3},
                      .stride = {1, 1, 2},
                      .transposed = true,
                      .output_pad = {0, 0, 1},
                      .a = DType::f32,
                      .b = DType::f32,
                      .c = DType::f32};
  std::vector<float> c(6);
  const ConvArgs args{.a = ConstImageView::channels_last(a, DType::f32, 1, {1, 1, 2}, 1),
                      .c = ImageView::channels_last(c.data(), DType::f32, 1, {1, 1, 6}, 1)};
  REQUIRE_FALSE(validate(p, args));
  reference_conv(p, FilterView::inputs_last(b, p), args);
  c.back() = std::isnan(c.back()) ? -1.0f : 0.0f;  // inf * what is outside
  CHECK(c == std::vector<float>{3, HUGE_VALF, 11, HUGE_VALF, 10, -1});
}

TEST_CASE("reference_conv: a sequence by hand") {
  // (1 2 3) - 1, padded by one: 0 | 0 1 2 | 0, times (2 3) - 1 = (1 2).
  const std::uint8_t a[] = {1, 2, 3};
  const std::int8_t b[] = {2, 3};
  const Ints ones{1};
  ConvProblem p{.in_channels = 1,
                .out_channels = 1,
                .kernel = {1, 1, 2},
                .pad_begin = {0, 0, 1},
                .pad_end = {0, 0, 1},
                .a_zero_point = 1,
                .b_zero_points = ones};
  Ints c(4);
  const ConvArgs args{.a = ConstImageView::channels_last(a, DType::u8, 1, {1, 1, 3}, 1),
                      .c = ImageView::channels_last(c.data(), DType::s32, 1, {1, 1, 4}, 1)};
  reference_conv(p, FilterView::inputs_last(b, p), args);
  CHECK(c == Ints{0, 2, 5, 2});
}

TEST_CASE("reference_conv: steps, in order, of each position and channel") {
  // Two positions, two channels: sums (3 4; 6 8).
  const std::int8_t a[] = {1, 2}, b[] = {3, 4};
  const Ints bias{1, -2};
  const std::vector<float> scale{0.5f, 2.0f}, offset{0.25f, 0.0f}, rows{1.0f, -1.0f};
  ConvProblem p{.in_channels = 1, .out_channels = 2, .a = DType::s8, .c = DType::f32};
  p.epilogue = {epilogue::bias(bias), epilogue::scale(scale), epilogue::row_scale(),
                epilogue::bias(offset), epilogue::residual(2.0f)};
  std::vector<float> c{1, 2, 3, 4};
  ConvArgs args{.a = ConstImageView::channels_last(a, DType::s8, 1, {1, 1, 2}, 1),
                .c = ImageView::channels_last(c.data(), DType::f32, 1, {1, 1, 2}, 2),
                .row_scales = rows};
  args.residual = args.c;
  REQUIRE_FALSE(validate(p));
  REQUIRE_FALSE(validate(p, args));
  reference_conv(p, FilterView::inputs_last(b, p), args);
  CHECK(c == std::vector<float>{2.0f + 0.25f + 2, 4 + 4, -3.5f + 0.25f + 6, -12 + 8});

  const std::vector<float> half{0.5f};
  std::vector<std::uint8_t> bytes(4);
  p.c = DType::u8;
  p.c_zero_point = 250;
  p.epilogue = {epilogue::scale(half)};
  args = {.a = args.a, .c = ImageView::channels_last(bytes.data(), DType::u8, 1, {1, 1, 2}, 2)};
  reference_conv(p, FilterView::inputs_last(b, p), args);
  CHECK(bytes == std::vector<std::uint8_t>{252, 252, 253, 254});  // 1.5 rounds to even, up to 2
}
