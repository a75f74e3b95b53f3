#include <cstdint>
#include <limits>

#include "quern/core/tensor.hpp"
#include "support.hpp"

using namespace quern;
using support::says;

namespace {

constexpr Index kMax = std::numeric_limits<Index>::max();
std::int8_t bytes[64];

Error measure(const ConstMatrixView& m, Index* size = nullptr) {
  Index ignored = 0;
  return quern::measure(m, "test: m", size != nullptr ? size : &ignored);
}

}  // namespace

TEST_CASE("a Matrix is row-major, dense and single unless it says otherwise") {
  const Matrix<std::int8_t> m{bytes, 3, 5};
  CHECK(m.row_stride == 5);
  CHECK(m.col_stride == 1);
  CHECK(m.batch == 1);
  const ConstMatrixView view = m;
  CHECK(view.type == DType::s8);
  CHECK(element(view, 0, 2, 1) == reinterpret_cast<std::byte*>(bytes) + 11);
}

TEST_CASE("transposed() exchanges rows and columns without moving anything") {
  const Matrix<std::int8_t> m{bytes, 3, 5}, t = m.transposed();
  CHECK(t.rows == 5);
  CHECK(t.cols == 3);
  CHECK(element(ConstMatrixView(t), 0, 4, 2) == element(ConstMatrixView(m), 0, 2, 4));
}

TEST_CASE("measure: bytes from the first element to one past the last") {
  Index size = 0;
  CHECK_FALSE(measure({bytes, DType::s8, 3, 5}, &size));
  CHECK(size == 15);
  CHECK_FALSE(measure({bytes, DType::f32, 2, 3, 4}, &size));  // a gap after each row but the last
  CHECK(size == 28);
  CHECK_FALSE(measure({bytes, DType::s8, 2, 3, 1, 2, 2, 10}, &size));  // transposed, a batch of two
  CHECK(size == 16);
  CHECK_FALSE(measure({nullptr, DType::s8, 0, 5}, &size));
  CHECK(size == 0);
}

TEST_CASE("measure: errors name the argument and the numbers") {
  SUBCASE("negative extents") {
    const Error e = measure({bytes, DType::s8, -3, 5});
    CHECK(e.code() == Code::bad_shape);
    CHECK(says(e, "test: m is 1 x -3 x 5"));
  }
  SUBCASE("negative strides") {
    const Error e = measure({bytes, DType::s8, 3, 5, -5});
    CHECK(e.code() == Code::bad_shape);
    CHECK(says(e, "strides"));
    CHECK(says(e, "-5"));
  }
  SUBCASE("null data with elements") {
    const Error e = measure({nullptr, DType::s8, 3, 5});
    CHECK(e.code() == Code::bad_data);
    CHECK(says(e, "null but has 1 x 3 x 5"));
  }
  SUBCASE("data that is not aligned for its type") {
    alignas(4) static float floats[4];
    const Error e = measure({reinterpret_cast<const std::byte*>(floats) + 1, DType::f32, 1, 2});
    CHECK(e.code() == Code::bad_data);
    CHECK(says(e, "aligned for f32"));
  }
  SUBCASE("a type that is none") {
    const Error e = measure({bytes, static_cast<DType>(99), 3, 5});
    CHECK(e.code() == Code::unsupported);
    CHECK(says(e, "99"));
  }
  SUBCASE("an extent that overflows") {
    for (const ConstMatrixView& m : {ConstMatrixView(bytes, DType::s8, kMax, 2, kMax, 1, 1, 0),
                                     ConstMatrixView(bytes, DType::s8, 2, kMax, kMax, 1, 1, 0),
                                     ConstMatrixView(bytes, DType::f32, 1, kMax / 2, 1, 1, 1, 0),
                                     ConstMatrixView(bytes, DType::f32, 1, 2, kMax, 1, 1, 0),
                                     ConstMatrixView(bytes, DType::s8, 2, 2, 1, 1, kMax, 2)}) {
      const Error e = measure(m);
      CHECK(e.code() == Code::bad_shape);
      CHECK(says(e, "overflows"));
    }
  }
}

TEST_CASE("a view too large for 63 bits can be described, so that it can be refused") {
  const Index huge = Index{1} << 62;
  CHECK(measure({bytes, DType::s8, huge, huge}).code() == Code::bad_shape);
  CHECK(measure(ConstMatrixView(Matrix<std::int8_t>{bytes, huge, huge})).code() == Code::bad_shape);
}
