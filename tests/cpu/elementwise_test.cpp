// Operations on elements and embedding tables on the CPU: the bits of their references.
#include "quern/cpu/elementwise.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "quern/core/thread_pool.hpp"
#include "quern/testing/random.hpp"
#include "support.hpp"

using namespace quern;

namespace {

using Bytes = std::vector<std::byte>;
using Floats = std::vector<float>;
using Ints = std::vector<std::int32_t>;

/// A matrix with room between its rows, columns and batch elements, filled with numbers.
struct Operand {
  Bytes memory;
  MatrixView view;

  Operand(testing::Random& random, DType type, Index batch, Index rows, Index cols, bool dense,
          float special) {
    const Index column = dense ? 1 : random.between(1, 2),
                row = cols * column + (dense ? 0 : random.between(0, 3));
    view = {nullptr, type, rows, cols, row, column, batch, rows * row + (dense ? 0 : 1)};
    memory.resize(static_cast<std::size_t>((batch * view.batch_stride + 1) * size_of(type)));
    view.data = memory.data();
    for (Index b = 0; b < batch; ++b) {
      for (Index i = 0; i < rows; ++i) {
        for (Index j = 0; j < cols; ++j) {
          const float x = random.one_in(9) ? special : random.uniform(-9.0f, 9.0f);
          set(element(view, b, i, j), type, x, random.bits());
        }
      }
    }
  }
  static void set(std::byte* at, DType type, float x, std::uint64_t bits) {
    if (type == DType::f32) std::memcpy(at, &x, 4);
    if (type == DType::bf16) *reinterpret_cast<bf16*>(at) = to_bf16(x);
    if (type == DType::f16) *reinterpret_cast<f16*>(at) = to_f16(x);
    if (!is_float(type)) std::memcpy(at, &bits, static_cast<std::size_t>(size_of(type)));
  }
};

/// The same bytes, but for NaN, whose bits depend on the order of operands.
bool same(const Operand& x, const Operand& y) {
  if (!is_float(x.view.type)) return x.memory == y.memory;
  for (Index b = 0; b < x.view.batch; ++b) {
    for (Index i = 0; i < x.view.rows; ++i) {
      for (Index j = 0; j < x.view.cols; ++j) {
        const float a = load_float(x.view, b, i, j), c = load_float(y.view, b, i, j);
        if (std::isnan(a) && std::isnan(c)) continue;
        if (std::bit_cast<std::uint32_t>(a) != std::bit_cast<std::uint32_t>(c)) return false;
      }
    }
  }
  return true;
}

struct Scales {
  Floats scales;
  Ints zeros;
  Quantization of(testing::Random& random, DType type, Index cols) {
    if (is_float(type)) return {};
    const Index count = random.pick({Index{1}, cols == 0 ? 1 : cols});
    for (Index j = 0; j < count; ++j) scales.push_back(random.uniform(0.01f, 0.2f));
    const Index low = type == DType::s32 ? -2147483647 : lowest(type),
                high = type == DType::s32 ? 2147483647 : highest(type);
    for (Index j = 0; j < random.pick({Index{0}, count}); ++j) {
      zeros.push_back(static_cast<std::int32_t>(random.between(low, high)));
    }
    if (zeros.size() > 1 && std::ssize(zeros) != cols) zeros.erase(zeros.begin() + 1, zeros.end());
    return {scales, zeros};
  }
};

}  // namespace

TEST_CASE("cpu elements: every kind, type, stride, quantization and target has the bits") {
  testing::Random random(5);
  ThreadPool three(3);
  const float infinity = std::numeric_limits<float>::infinity();
  for (Index trial = 0; trial < support::scaled(400); ++trial) {
    ElementwiseProblem p;
    p.kind = static_cast<Elementwise>(random.between(0, 8));
    p.cols = random.pick({Index{0}, Index{1}, random.between(2, 40), random.between(40, 300)});
    if (random.one_in(20)) p.cols = random.between(2000, 20000);
    p.a = static_cast<DType>(random.between(0, 5));
    p.b = static_cast<DType>(random.between(0, 5));
    do p.y = static_cast<DType>(random.between(0, 5));
    while (p.y == DType::s32);
    Scales a_scales, b_scales, y_scales;
    p.a_quantization = a_scales.of(random, p.a, p.cols);
    p.b_quantization = b_scales.of(random, p.b, p.cols);
    p.y_quantization = y_scales.of(random, p.y, p.cols);
    const Index batch = random.between(0, 2), rows = random.between(0, 3);
    const bool dense = random.one_in(2);
    const float special =
        random.pick({NAN, infinity, -infinity, 0.0f, -0.0f, 1e-40f, 3e38f, 65519.0f, -100.0f});
    const Operand a(random, p.a, batch, rows, p.cols, dense, special),
        b(random, p.b, batch, rows, p.cols, dense, special);
    Operand expected(random, p.y, batch, rows, p.cols, dense, special);
    const Operand before = expected;
    const auto args = [&](Operand& y) {
      y.view.data = y.memory.data();
      return ElementwiseArgs{a.view, b.view, y.view};
    };
    CAPTURE(trial);
    CAPTURE(int(p.kind));
    CAPTURE(p.cols);
    CAPTURE(name(p.a));
    CAPTURE(name(p.y));
    REQUIRE_FALSE(validate(p));
    REQUIRE_FALSE(validate(p, args(expected)));
    reference_elementwise(p, args(expected));
    for (const cpu::Backend& backend : cpu::Backend::all()) {
      CAPTURE(backend.name());
      const auto op = prepare(backend, p);
      REQUIRE(op);
      Operand y = before;
      const Index allocated = support::allocations();
      CHECK_FALSE(op->run(args(y)));
      CHECK(support::allocations() == allocated);
      CHECK(same(y, expected));
      if (is_int8(p.y)) CHECK(y.memory == expected.memory);  // nothing between was touched
      Operand threaded = before;
      CHECK_FALSE(op->run(args(threaded), {}, three));
      CHECK(threaded.memory == y.memory);
    }
  }
}

TEST_CASE("cpu elements: all bf16 and f16 convert as the scalar functions do, and back") {
  std::vector<std::uint16_t> all(65536), back(65536);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    CAPTURE(backend.name());
    for (const DType type : {DType::bf16, DType::f16}) {
      Floats wide(65536);
      const ConstMatrixView in(all.data(), type, 1, 65536);
      const MatrixView out(back.data(), type, 1, 65536), floats(wide.data(), DType::f32, 1, 65536);
      CHECK_FALSE(prepare(backend, ElementwiseProblem{.cols = 65536, .a = type})
                      ->run({.a = in, .y = floats}));
      CHECK_FALSE(prepare(backend, ElementwiseProblem{.cols = 65536, .y = type})
                      ->run({.a = floats, .y = out}));
      Index wrong = 0;
      for (std::size_t i = 0; i < all.size(); ++i) {
        const float x = type == DType::bf16 ? to_float(bf16{all[i]}) : to_float(f16{all[i]});
        const std::uint16_t y = type == DType::bf16 ? to_bf16(x).bits : to_f16(x).bits;
        wrong += std::bit_cast<std::uint32_t>(x) != std::bit_cast<std::uint32_t>(wide[i]);
        wrong += y != back[i];
      }
      CHECK(wrong == 0);
      // Floats between, around every rounding.
      for (std::size_t i = 0; i < all.size(); ++i) {
        const auto bits = static_cast<std::uint32_t>(i) << 16;
        wide[i] = std::bit_cast<float>(bits + (i % 7 == 0   ? 0x8000u
                                               : i % 7 == 1 ? 0x7FFFu
                                               : i % 7 == 2 ? 0x1000u
                                               : i % 7 == 3 ? 0x3000u
                                               : i % 7 == 4 ? 0x1001u
                                               : i % 7 == 5 ? 1u
                                                            : 0xFFFu));
      }
      CHECK_FALSE(prepare(backend, ElementwiseProblem{.cols = 65536, .y = type})
                      ->run({.a = floats, .y = out}));
      for (std::size_t i = 0; i < all.size(); ++i) {
        wrong += back[i] != (type == DType::bf16 ? to_bf16(wide[i]).bits : to_f16(wide[i]).bits);
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("cpu elements: in place, over the first, the second or both inputs") {
  testing::Random random(6);
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    for (const DType type : {DType::f32, DType::bf16}) {
      const ElementwiseProblem p{
          .kind = Elementwise::silu_multiply, .cols = 5003, .a = type, .b = type, .y = type};
      const auto op = prepare(backend, p);
      const Operand a(random, type, 1, 2, 5003, true, 0.5f),
          b(random, type, 1, 2, 5003, true, 2.0f);
      Operand expected = a;
      for (const int over : {0, 1, 2}) {
        Operand x = a, z = b;
        x.view.data = x.memory.data();
        z.view.data = over == 2 ? x.memory.data() : z.memory.data();
        expected.view.data = expected.memory.data();
        reference_elementwise(p, {x.view, z.view, expected.view});
        Operand& y = over == 1 ? z : x;
        CHECK_FALSE(op->run({x.view, z.view, y.view}));
        CHECK(y.memory == expected.memory);
      }
    }
  }
}

TEST_CASE("cpu elements: arrays of a problem may go away, errors come before anything is written") {
  const cpu::Backend backend;
  auto scales = std::make_unique<Floats>(3, 0.5f);
  Floats x = {1.0f, 2.0f, 3.0f};
  std::vector<std::int8_t> q(3);
  const MatrixView in(x.data(), DType::f32, 1, 3), out(q.data(), DType::s8, 1, 3);
  const auto op = prepare(
      backend, ElementwiseProblem{.cols = 3, .y = DType::s8, .y_quantization = {*scales, {}}});
  REQUIRE(op);
  std::fill(scales->begin(), scales->end(), 99.0f);
  scales.reset();
  const auto copy = *op;
  CHECK_FALSE(copy.run({.a = in, .y = out}));
  CHECK(q == std::vector<std::int8_t>{2, 4, 6});
  CHECK(copy.problem().y_quantization.scale(2) == 0.5f);
  q = {7, 7, 7};
  CHECK(copy.run({.a = in, .y = in}).code() == Code::unsupported);
  CHECK(copy.run({.a = {x.data(), DType::f32, 1, 2}, .y = out}).code() == Code::bad_shape);
  CHECK(q == std::vector<std::int8_t>{7, 7, 7});
  CHECK(prepare(backend, ElementwiseProblem{.cols = -1}).error().code() == Code::bad_shape);
  CHECK(copy.workspace_bytes() == 0);
  CHECK(copy.kernel().find("rows on ") == 0);
}

TEST_CASE("cpu embedding: rows of every type of table, to the bit, and ids that are no rows") {
  testing::Random random(7);
  ThreadPool three(3);
  for (const cpu::Backend& backend : cpu::Backend::all()) {
    CAPTURE(backend.name());
    for (const DType type : {DType::f32, DType::bf16, DType::f16, DType::s8, DType::u8}) {
      for (const DType y_type : {DType::f32, DType::bf16, DType::f16}) {
        const Index size = random.pick({Index{0}, Index{1}, random.between(2, 70), Index{2049}});
        const Operand table(random, type, 1, 11, size, false, -1.5f);
        Floats scales;
        for (Index i = 0; i < (is_int8(type) ? 11 : 0); ++i) {
          scales.push_back(random.uniform(0.1f, 2.0f));
        }
        Ints ids;
        for (Index i = 0; i < 40; ++i) ids.push_back(std::int32_t(random.between(0, 10)));
        const EmbeddingProblem p{
            .vocabulary = 11, .size = size, .table = type, .y = y_type, .row_scales = scales};
        Operand expected(random, y_type, 1, 40, size, true, 0.0f), y = expected;
        expected.view.data = expected.memory.data();
        y.view.data = y.memory.data();
        reference_embedding(p, table.view, {ids, expected.view});
        const auto op = prepare(backend, p, table.view);
        REQUIRE(op);
        CHECK_FALSE(op->run({ids, y.view}, {}, three));
        CHECK(y.memory == expected.memory);
        ids[39] = 11;
        const Error e = op->run({ids, y.view});
        CHECK(support::says(e, "id 39 is 11"));
        CHECK(y.memory == expected.memory);
      }
    }
  }
}
