// What validate() and validate_values() refuse in attention, each with the numbers that are wrong.
#include <cmath>
#include <string>
#include <vector>

#include "ops/attention_call.hpp"
#include "support.hpp"

using namespace quern;

namespace {

using Ints = std::vector<std::int32_t>;
using Words = std::vector<std::string>;

/// 4 over 2 heads, 2 sequences, 3 queries over pages of 2 tokens, everything given; valid.
struct Valid : AttentionCall {
  Ints pages = {0, 1, 2, 3}, lengths = {4, 3}, starts = {1, 0};
  std::vector<float> mask = std::vector<float>(12), four = std::vector<float>(4),
                     scales = std::vector<float>(16, 1.0f),
                     scores = std::vector<float>(2 * 4 * 3 * 4);
  std::vector<std::int8_t> integers = std::vector<std::int8_t>(4 * 2 * 2 * 6);

  Valid()
      : AttentionCall({.q_heads = 4,
                       .kv_heads = 2,
                       .qk_size = 8,
                       .v_size = 6,
                       .v = HeadType::s8,
                       .v_scales = HeadScales::per_token,
                       .alignment = Alignment::given,
                       .mask = MaskType::f32,
                       .alibi = true,
                       .sinks = true,
                       .lse = true,
                       .scores = Scores::weights},
                      2, 3, 4) {
    args.k = ConstHeadsView::bhsd(k.data(), HeadType::f32, 4, 2, 2, 8);
    args.v = ConstHeadsView::bhsd(integers.data(), HeadType::s8, 4, 2, 2, 6);
    args.v_scales = HeadFloats::per_token(scales.data(), 2, 2);
    args.pages = {pages.data(), 2, 2};
    args.kv_lengths = lengths;
    args.starts = starts;
    const Index shape[2] = {3, 4};
    args.mask = MaskView::broadcast(mask.data(), MaskType::f32, shape);
    args.alibi = args.sinks = four;
    args.scores = {scores.data(), 48, 12, 4, 1};
  }
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
template <class Spoil>
void refuses_values(Spoil&& spoil, Code code, const Words& words) {
  Valid v;
  spoil(v);
  const Error call = validate(v.problem, v.args);
  REQUIRE_MESSAGE(!call, call);
  check_error(validate_values(v.problem, v.args), code, words);
}

constexpr Index kMax = std::numeric_limits<Index>::max();

}  // namespace

TEST_CASE("attention with everything given is valid, and runs, and asking allocates nothing") {
  Valid v;
  v.run();
  const Index before = support::allocations();
  CHECK_FALSE(validate(v.problem));
  CHECK_FALSE(validate(v.problem, v.args));
  CHECK_FALSE(validate_values(v.problem, v.args));
  CHECK(support::allocations() == before);
}

TEST_CASE("an attention problem that makes no sense is refused") {
  using P = AttentionProblem;
  refuses([](P& p) { p.q_heads = 5; }, Code::bad_shape, {"2 KV heads", "5 query heads"});
  refuses([](P& p) { p.kv_heads = 0; }, Code::bad_shape, {"0 KV heads"});
  refuses([](P& p) { p.q_heads = kMax; }, Code::bad_shape, {"query heads"});
  refuses([](P& p) { p.qk_size = 0; }, Code::bad_shape, {"vectors of 0 and 6"});
  refuses([](P& p) { p.v_size = 65537; }, Code::bad_shape, {"8 and 65537"});
  refuses([](P& p) { p.q = HeadType::s8; }, Code::unsupported, {"q as s8"});
  refuses([](P& p) { p.out = HeadType(9); }, Code::unsupported, {"unknown"});
  refuses([](P& p) { p.k = HeadType(9); }, Code::unsupported, {"k: type 9"});
  refuses([](P& p) { p.k = HeadType::s4; }, Code::unsupported, {"k: s4", "none"});
  refuses([](P& p) { p.v = HeadType::f16; }, Code::unsupported, {"v: f16", "per token"});
  refuses([](P& p) { p.scale = NAN; }, Code::bad_value, {"scale is nan"});
  refuses([](P& p) { p.softcap = -1.0f; }, Code::bad_value, {"softcap is -1"});
  refuses([](P& p) { p.window.left = -2; }, Code::bad_value, {"-2 and -1"});
  refuses([](P& p) { p.mask = MaskType(7); }, Code::unsupported, {"mask 7"});
  refuses([](P& p) { p.alignment = Alignment(3); }, Code::unsupported, {"alignment 3"});
  refuses([](P& p) { p.arithmetic = AttentionArithmetic::int8; }, Code::unsupported, {"scores"});
  refuses([](P& p) { p.smooth_k = true; }, Code::unsupported, {"smooth_k", "f32"});
}

TEST_CASE("an attention call that does not fit the problem is refused") {
  refuses_call([](Valid& v) { v.args.q.type = HeadType::f16; }, Code::unsupported, {"q holds f16"});
  refuses_call([](Valid& v) { v.args.q.heads = 3; }, Code::bad_shape, {"2 x 3 x 3 x 8", "4 heads"});
  refuses_call([](Valid& v) { v.args.k.size = 6; }, Code::bad_shape, {"k is", "size 8"});
  refuses_call([](Valid& v) { v.args.v.tokens = 1; }, Code::bad_shape, {"4 x 2 and 4 x 1"});
  refuses_call([](Valid& v) { v.args.out.tokens = 2; }, Code::bad_shape, {"2 x 3 and 2 x 2"});
  refuses_call([](Valid& v) { v.args.q.batch = -1; }, Code::bad_shape, {"-1 x 4"});
  refuses_call([](Valid& v) { v.args.q.data = nullptr; }, Code::bad_data, {"q is null"});
  refuses_call([](Valid& v) { v.args.k.token_stride = -1; }, Code::bad_shape, {"negative"});
  refuses_call([](Valid& v) { v.args.k.batch_stride = kMax; }, Code::bad_shape, {"overflows"});
  refuses_call([](Valid& v) { v.args.k.token_stride = 7; }, Code::bad_shape,
               {"overlap each other"});
  refuses_call([](Valid& v) { v.args.out.head_stride = 0; }, Code::bad_shape,
               {"overlap each other"});
  refuses_call([](Valid& v) { v.args.pages.rows = 1; }, Code::bad_shape, {"1 x 2", "2 sequences"});
  refuses_call([](Valid& v) { v.args.pages.data = nullptr; }, Code::bad_data,
               {"page table of 2 x 2", "null"});
  refuses_call(
      [](Valid& v) {
        v.args.pages = {nullptr, 2, 0};
        v.args.kv_lengths = {};
      },
      Code::bad_data, {"page table of 2 x 0", "null"});
  refuses_call([](Valid& v) { v.args.pages = {}; }, Code::bad_shape, {"batch of 4 for 2"});
  refuses_call([](Valid& v) { v.args.kv_offsets = v.lengths; }, Code::unsupported, {"both"});
  refuses_call([](Valid& v) { v.args.q_offsets = v.lengths; }, Code::bad_shape, {"2 offsets"});
  refuses_call([](Valid& v) { v.args.kv_lengths = v.pages; }, Code::bad_shape,
               {"4 KV lengths", "2"});
  refuses_call([](Valid& v) { v.args.starts = {}; }, Code::bad_shape, {"0 starts", "2"});
  refuses_call([](Valid& v) { v.problem.alignment = Alignment::top_left; }, Code::bad_shape,
               {"2 starts", "0"});
  refuses_call([](Valid& v) { v.args.alibi = {}; }, Code::bad_shape, {"0 ALiBi slopes", "4"});
  refuses_call([](Valid& v) { v.problem.sinks = false; }, Code::bad_shape, {"4 sinks", "0"});
  refuses_call([](Valid& v) { v.args.mask.type = MaskType::boolean; }, Code::unsupported,
               {"boolean mask is given", "f32"});
  refuses_call([](Valid& v) { v.args.mask.rows = 2; }, Code::bad_shape, {"1 x 1 x 2 x 4"});
  refuses_call([](Valid& v) { v.args.mask.batch_stride = 4; }, Code::bad_shape, {"stride 0"});
  refuses_call([](Valid& v) { v.args.mask.data = nullptr; }, Code::bad_data, {"mask at"});
  refuses_call([](Valid& v) { v.args.v_scales = {}; }, Code::bad_data, {"v_scales"});
  refuses_call([](Valid& v) { v.args.v_scales.head_stride = -1; }, Code::bad_shape, {"v_scales"});
  refuses_call([](Valid& v) { v.args.v_scales.channel_stride = 1; }, Code::bad_shape, {"v_scales"});
  refuses_call([](Valid& v) { v.args.lse = {}; }, Code::bad_data, {"lse"});
  refuses_call([](Valid& v) { v.args.lse.token_stride = 0; }, Code::bad_shape, {"lse"});
  refuses_call([](Valid& v) { v.args.scores = {}; }, Code::bad_data, {"scores"});
  refuses_call([](Valid& v) { v.args.scores.token_stride = 3; }, Code::bad_shape, {"scores", "3"});
  refuses_call([](Valid& v) { v.args.out.data = v.q.data() + 5; }, Code::bad_data,
               {"out at", "overlaps q"});
  refuses_call([](Valid& v) { v.args.lse.data = v.mask.data(); }, Code::bad_data,
               {"lse at", "overlaps mask"});
  refuses_call([](Valid& v) { v.args.lse.data = v.scores.data(); }, Code::bad_data,
               {"scores at", "overlaps lse"});
  refuses_call(
      [](Valid& v) {
        v.args.q.data = reinterpret_cast<const std::byte*>(v.q.data()) + 1;
        v.args.q.tokens = v.args.out.tokens = 2;
      },
      Code::bad_data, {"not aligned"});
}

TEST_CASE("numbers that come with an attention call are checked") {
  refuses_values([](Valid& v) { v.lengths[1] = 5; }, Code::bad_value,
                 {"sequence 1 has 5 keys", "room for 4"});
  refuses_values([](Valid& v) { v.lengths[0] = -1; }, Code::bad_value, {"-1 keys"});
  refuses_values([](Valid& v) { v.pages[2] = 4; }, Code::bad_value,
                 {"page 0 of sequence 1 is 4", "4 pages"});
  refuses_values([](Valid& v) { v.pages[1] = -1; }, Code::bad_value, {"is -1"});
  refuses_values([](Valid& v) { v.mask[7] = NAN; }, Code::bad_value, {"nan at 0, 0, 1, 3"});
  refuses_values([](Valid& v) { v.mask[0] = HUGE_VALF; }, Code::bad_value, {"inf at 0, 0, 0, 0"});
  refuses_values([](Valid& v) { v.four[3] = HUGE_VALF; }, Code::bad_value, {"slope 3"});
  refuses_values(
      [](Valid& v) {
        v.args.alibi = {v.scales.data(), 4}, v.four[1] = NAN;
      },
      Code::bad_value, {"sink 1 is nan"});
  refuses_values([](Valid& v) { v.scales[9] = -1.0f; }, Code::bad_value,
                 {"v's scale is -1", "token 1 of head 0 (sequence 1)"});
  const Ints offsets = {0, 3, 2};
  refuses_values(
      [&](Valid& v) {
        v.args.q_offsets = offsets;
        v.args.q.batch = v.args.out.batch = 1;
        v.problem.scores = Scores::none;
      },
      Code::bad_value, {"q: offset 2 is 2", "end by 3"});
  const Ints past_the_end = {0, 2, 4};
  refuses_values(
      [&](Valid& v) {
        v.args.q_offsets = past_the_end;
        v.args.q.batch = v.args.out.batch = 1;
        v.problem.scores = Scores::none;
      },
      Code::bad_value, {"q: offset 2 is 4", "end by 3"});
  const Ints late = {1, 2, 3}, few_rows = {0, 1, 3};
  refuses_values(
      [&](Valid& v) {
        v.args.q_offsets = late;
        v.args.q.batch = v.args.out.batch = 1;
        v.problem.scores = Scores::none;
      },
      Code::bad_value, {"offset 0 is 1"});
  refuses_values(
      [&](Valid& v) {
        v.args.q_offsets = few_rows;
        v.args.q.batch = v.args.out.batch = 1;
        v.problem.scores = Scores::none;
        v.args.mask.rows = 0;
      },
      Code::bad_shape, {"sequence 0 has 1 queries", "0 rows"});
}

TEST_CASE("a page table of no columns is a cache without room, not one without pages") {
  Valid v;
  v.args.pages = {v.pages.data(), 2, 0};
  v.args.kv_lengths = {};
  v.run();
  for (const float x : v.out) CHECK(x == 0.0f);
}

TEST_CASE("channels have scales though there are no tokens") {
  for (const auto arithmetic : {AttentionArithmetic::floats, AttentionArithmetic::int8}) {
    AttentionCall call({.qk_size = 8,
                        .v_size = 6,
                        .k = HeadType::s8,
                        .v = HeadType::s8,
                        .k_scales = HeadScales::per_channel,
                        .v_scales = HeadScales::per_channel,
                        .arithmetic = arithmetic},
                       2, 3, 0);
    AttentionArgs& args = call.args;
    args.k.type = args.v.type = HeadType::s8;
    const std::vector<float> scales(8, 0.5f);
    args.k_scales = ConstHeadFloats::per_channel(scales.data(), 8);
    check_error(validate(call.problem, args), Code::bad_data, {"v_scales (per channel)", "null"});
    args.v_scales = ConstHeadFloats::per_channel(scales.data(), 6);
    call.run();
    for (const float x : call.out) CHECK(x == 0.0f);
    args.k_scales.data = nullptr;
    check_error(validate(call.problem, args), Code::bad_data, {"k_scales (per channel)", "null"});
  }
}

TEST_CASE("a mask ends with its last element, and results may lie behind it") {
  // Columns 3 apart: a transposed mask, 3 queries x 4 keys.
  AttentionCall call({.qk_size = 8, .v_size = 2, .mask = MaskType::f32}, 1, 3, 4);
  std::vector<float> memory(12 + 6);
  call.args.mask = {memory.data(), MaskType::f32, 1, 1, 3, 4, 0, 0, 1, 3};
  call.args.out.data = memory.data() + 12;
  call.run();
  call.args.out.data = memory.data() + 11;
  check_error(validate(call.problem, call.args), Code::bad_data, {"out at", "overlaps mask"});
  call.args.mask.col_stride = 0;  // one column for all keys
  call.args.out.data = memory.data() + 3;
  call.run();
  call.args.out.data = memory.data() + 2;
  check_error(validate(call.problem, call.args), Code::bad_data, {"out at", "overlaps mask"});
}

TEST_CASE("pages that no token reaches may be anything") {
  Valid v;
  v.lengths = {2, 0};
  v.args.kv_lengths = v.lengths;
  v.pages = {3, -1, 99, -7};
  v.run();
}

TEST_CASE(
    "any numbers in an attention call are refused or mean something: no overflow on the way") {
  testing::Random random(11);
  const auto spoil = [&](Index& x) {
    if (!random.one_in(12)) return;
    x = random.pick({Index{-1}, Index{0}, Index{1}, Index{2}, Index{1} << 31, Index{1} << 55,
                     Index{1} << 60, kMax});
  };
  Index accepted = 0;
  for (Index round = 0; round < support::scaled(3000); ++round) {
    Valid v;
    const auto spoil_view = [&](auto& x) {
      for (Index* field : {&x.batch, &x.heads, &x.tokens, &x.size, &x.batch_stride, &x.head_stride,
                           &x.token_stride}) {
        spoil(*field);
      }
    };
    const auto spoil_floats = [&](auto& x) {
      for (Index* field : {&x.batch_stride, &x.head_stride, &x.token_stride, &x.channel_stride}) {
        spoil(*field);
      }
    };
    switch (random.between(0, 7)) {
      case 0:
        spoil_view(v.args.q);
        break;
      case 1:
        spoil_view(v.args.k);
        break;
      case 2:
        spoil_view(v.args.out);
        break;
      case 3:
        spoil_floats(v.args.v_scales);
        spoil_floats(v.args.lse);
        break;
      case 4:
        spoil_floats(v.args.scores);
        break;
      case 5:
        for (Index* field : {&v.args.pages.rows, &v.args.pages.cols, &v.args.pages.row_stride,
                             &v.args.pages.col_stride}) {
          spoil(*field);
        }
        break;
      case 6:
        for (Index* field :
             {&v.args.mask.rows, &v.args.mask.cols, &v.args.mask.batch, &v.args.mask.row_stride,
              &v.args.mask.col_stride, &v.args.mask.batch_stride}) {
          spoil(*field);
        }
        break;
      default:
        for (Index* field : {&v.problem.q_heads, &v.problem.kv_heads, &v.problem.qk_size,
                             &v.problem.v_size, &v.problem.window.left, &v.problem.window.right}) {
          spoil(*field);
        }
    }
    Error e = validate(v.problem);
    if (!e) e = validate(v.problem, v.args);
    if (!e) ++accepted;
  }
  CHECK(accepted > 0);
}
