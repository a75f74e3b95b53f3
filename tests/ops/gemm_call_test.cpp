// The calls that validate() accepts and refuses, of a problem that is fine.
#include <cmath>

#include "valid_gemm.hpp"

using namespace quern;
using namespace valid_gemm;

namespace {

void refuses_call(void (*spoil)(Valid&), Code code, const Words& words) {
  Valid v;
  spoil(v);
  Error e = validate(v.problem, v.args);
  if (!e) e = validate_values(v.problem, v.args);
  check_error(e, code, words);
}

}  // namespace

TEST_CASE("calls: types and shapes that do not fit") {
  refuses_call([](Valid& v) { v.args.a.type = DType::s8; }, Code::unsupported,
               {"s8 and s8", "u8 and s8"});
  refuses_call([](Valid& v) { v.args.c.type = DType::f32; }, Code::unsupported, {"u8 and f32"});
  refuses_call([](Valid& v) { v.args.a.cols = 4; }, Code::bad_shape, {"a has 4 columns", "k is 5"});
  refuses_call([](Valid& v) { v.args.a.rows = -1; }, Code::bad_shape, {"gemm: a", "-1"});
  refuses_call([](Valid& v) { v.args.c.rows = 2; }, Code::bad_shape,
               {"c is 1 x 2 x 4", "1 x 3 x 4"});
  refuses_call([](Valid& v) { v.args.c.cols = 3; }, Code::bad_shape,
               {"c is 1 x 3 x 3", "1 x 3 x 4"});
  refuses_call([](Valid& v) { v.args.c.batch = 0; }, Code::bad_shape, {"c is 0 x 3 x 4"});
  refuses_call([](Valid& v) { v.problem.batch = 2; }, Code::bad_shape,
               {"batch of 1", "2 weight matrices"});
  refuses_call([](Valid& v) { v.args.residual.rows = 2; }, Code::bad_shape,
               {"residual is 1 x 2 x 4", "c is 1 x 3 x 4"});
  refuses_call([](Valid& v) { v.args.residual = {}; }, Code::bad_shape, {"residual is 1 x 0 x 0"});
}

TEST_CASE("calls: strides that overlap or are not offered") {
  refuses_call([](Valid& v) { v.args.a.row_stride = 4; }, Code::bad_shape,
               {"gemm: a is 3 x 5", "4 and 1"});
  refuses_call([](Valid& v) { v.args.a.row_stride = 0; }, Code::bad_shape, {"gemm: a is 3 x 5"});
  refuses_call([](Valid& v) { v.args.a.row_stride = -5; }, Code::bad_shape, {"gemm: a", "-5"});
  refuses_call([](Valid& v) { v.args.a.row_stride = kMax; }, Code::bad_shape,
               {"gemm: a", "overflows"});
  refuses_call([](Valid& v) { v.args.c.row_stride = 3; }, Code::bad_shape, {"gemm: c is 3 x 4"});
  refuses_call([](Valid& v) { v.args.c.row_stride = 1, v.args.c.col_stride = 3; },
               Code::unsupported, {"c has column stride 3"});
  refuses_call([](Valid& v) { v.args.residual.row_stride = 1, v.args.residual.col_stride = 3; },
               Code::unsupported, {"residual has column stride 3"});
}

TEST_CASE("calls: matrices of c's batch must not overlap, but rows may interleave") {
  std::int8_t a[2 * 15] = {}, c[64] = {};
  const GemmProblem p = plain(DType::s8);
  GemmArgs args{.a = Matrix<const std::int8_t>{a, 3, 5, 5, 1, 2},
                .c = Matrix<std::int8_t>{c, 3, 4, 4, 1, 2, 11}};
  check_error(validate(p, args), Code::bad_shape, {"batch stride 11", "overlap"});
  args.c.batch_stride = 12;
  CHECK_FALSE(validate(p, args));
  args.c.row_stride = 8;
  args.c.batch_stride = 4;
  CHECK_FALSE(validate(p, args));
  args.c.batch_stride = 3;
  CHECK(validate(p, args).code() == Code::bad_shape);
  args.c.batch_stride = 0;
  CHECK(validate(p, args).code() == Code::bad_shape);
}

TEST_CASE("calls: more rows than can be counted, of matrices without elements") {
  const Index huge = Index{1} << 62;
  const GemmProblem p{.n = 0, .k = 0, .a = DType::s8};
  const GemmArgs args{.a = ConstMatrixView(nullptr, DType::s8, huge, 0, 0, 1, 4),
                      .c = MatrixView(nullptr, DType::s32, huge, 0, 0, 1, 4)};
  check_error(validate(p, args), Code::bad_shape, {"4 x 4611686018427387904 rows overflow"});
}

TEST_CASE("calls: null data") {
  refuses_call([](Valid& v) { v.args.a.data = nullptr; }, Code::bad_data, {"gemm: a is null"});
  refuses_call([](Valid& v) { v.args.c.data = nullptr; }, Code::bad_data, {"gemm: c is null"});
  refuses_call([](Valid& v) { v.args.residual.data = nullptr; }, Code::bad_data,
               {"residual is null"});
  Valid v;
  v.args.a.rows = v.args.c.rows = v.args.residual.rows = 0;
  v.args.a.data = v.args.c.data = nullptr;
  v.args.row_scales = {};
  v.args.a_zero_points = {};
  CHECK_FALSE(validate(v.problem, v.args));  // no rows need no memory
}

TEST_CASE("calls: c must not overlap a, nor the residual unless it is the same view") {
  refuses_call([](Valid& v) { v.args.c.data = v.a; }, Code::bad_data, {"overlaps a"});
  refuses_call([](Valid& v) { v.args.residual.data = v.c + 1; }, Code::bad_data,
               {"overlaps residual"});
  Valid v;
  v.args.residual = v.args.c;
  CHECK_FALSE(validate(v.problem, v.args));
}

TEST_CASE("calls: a and c may be different columns of one matrix") {
  std::int8_t both[3 * 9] = {};
  GemmArgs args{.a = Matrix<const std::int8_t>{both, 3, 5, 9},
                .c = Matrix<std::int8_t>{both + 5, 3, 4, 9}};
  CHECK_FALSE(validate(plain(DType::s8), args));
  args.c.data = both + 4;
  CHECK(validate(plain(DType::s8), args).code() == Code::bad_data);
}

TEST_CASE("calls: row scales and zero points, one finite and in range for each row") {
  refuses_call([](Valid& v) { v.args.row_scales = v.args.row_scales.first(2); }, Code::bad_shape,
               {"2 row scales for 3 rows"});
  refuses_call([](Valid& v) { v.row_scales[1] = NAN; }, Code::bad_value, {"row scale 1", "finite"});
  refuses_call([](Valid& v) { v.row_scales[2] = HUGE_VALF; }, Code::bad_value,
               {"row scale 2 is inf"});
  refuses_call([](Valid& v) { v.args.a_zero_points = {}; }, Code::bad_shape,
               {"0 zero points for 3 rows"});
  refuses_call([](Valid& v) { v.a_zero_points[2] = 256; }, Code::bad_value,
               {"a's zero point 256 at 2"});
}

TEST_CASE("checking a call allocates nothing") {
  Valid v;
  const Index before = support::allocations();
  const bool good = !validate(v.problem, v.args);
  v.args.a.cols = 4;
  const bool bad = bool(validate(v.problem, v.args));
  CHECK(support::allocations() == before);
  CHECK(good);
  CHECK(bad);
}
