// Fuzzes GEMM on the CPU with libFuzzer: problems, calls and stored weights, right and wrong ones.
//   quern_gemm_fuzz -max_total_time=60
// What validate() refuses must be refused by prepare() and run() too, with nothing written; the
// rest must equal the reference. Stored weights may hold anything: they are refused, or they are
// safe.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "quern/cpu/gemm.hpp"
#include "quern/testing/gemm_compare.hpp"
#include "quern/testing/gemm_problems.hpp"

namespace {

using namespace quern;
using quern::testing::GemmCase;
using quern::testing::Random;

constexpr Index kMaxWork = 20'000;

void require(bool holds, const GemmCase& c, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n%s\n", what, c.describe().c_str());
  std::abort();
}

/// A value that is wrong, or at least smaller: nothing here may make a view reach beyond its
/// memory.
Index spoil(Random& random, Index value) {
  return random.pick<Index>({-1, 0, 1 < value ? 1 : 0, value - 1, std::numeric_limits<Index>::max(),
                             std::numeric_limits<Index>::min()});
}
template <class View>
void spoil_view(Random& random, View& m) {
  switch (random.between(0, 7)) {
    case 0:
      m.data = nullptr;
      break;
    case 1:
      m.type = random.pick({DType::s8, DType::u8, static_cast<DType>(77)});  // none is wider
      break;
    case 2:
      m.rows = spoil(random, m.rows);
      break;
    case 3:
      m.cols = spoil(random, m.cols);
      break;
    case 4:
      m.batch = spoil(random, m.batch);
      break;
    case 5:
      m.row_stride = spoil(random, m.row_stride);
      break;
    case 6:
      m.col_stride = spoil(random, m.col_stride);
      break;
    case 7:
      m.batch_stride = spoil(random, m.batch_stride);
      break;
  }
}

void spoil_step(Random& random, GemmProblem& p) {
  if (p.epilogue.count == 0) return;
  Step& s = p.epilogue.steps[random.between(0, p.epilogue.count - 1)];
  switch (random.between(0, 4)) {
    case 0:
      s.kind = static_cast<Step::Kind>(random.between(0, 10));
      break;
    case 1:
      s.data = nullptr;
      break;
    case 2:
      s.count = spoil(random, s.count);
      break;
    case 3:
      s.low = random.pick({0.0f, 1e30f, -1e30f, float(NAN), float(HUGE_VAL)});
      break;
    case 4:
      s.function = nullptr;
      break;
  }
}

void spoil_problem(Random& random, GemmProblem& p) {
  const auto number = static_cast<std::int32_t>(random.between(-300, 300));
  switch (random.between(0, 11)) {
    case 0:
      p.n = spoil(random, p.n);
      break;
    case 1:
      p.k = spoil(random, p.k);
      break;
    case 2:
      p.batch = spoil(random, p.batch);
      break;
    case 3:
      p.a = static_cast<DType>(random.between(0, 7));
      break;
    case 4:
      p.b = static_cast<DType>(random.between(0, 7));
      break;
    case 5:
      p.c = static_cast<DType>(random.between(0, 7));
      break;
    case 6:
      p.a_zero_point = number;
      break;
    case 7:
      p.c_zero_point = number;
      break;
    case 8:
      p.a_zero_points = static_cast<ZeroPoints>(random.between(0, 1));
      break;
    case 9:
      p.b_zero_points = p.b_zero_points.first(p.b_zero_points.size() / 2);
      break;
    case 10:
      p.overflow = static_cast<Overflow>(random.between(0, 1));
      break;
    case 11:
      spoil_step(random, p);
      break;
  }
}

void spoil_args(Random& random, GemmArgs& args) {
  switch (random.between(0, 6)) {
    case 0:
      spoil_view(random, args.a);
      break;
    case 1:
      spoil_view(random, args.c);
      break;
    case 2:
      spoil_view(random, args.residual);
      break;
    case 3:
      args.row_scales = args.row_scales.first(args.row_scales.size() / 2);
      break;
    case 4:
      args.a_zero_points = args.a_zero_points.first(args.a_zero_points.size() / 2);
      break;
    case 5:
      args.residual = args.c;
      break;
    case 6:
      args.a.data = args.c.data;
      break;
  }
}

void fuzz_call(Random random) {
  const GemmCase c(random, kMaxWork);
  GemmProblem problem = c.problem();
  ConstMatrixView weights = c.weights();
  AlignedBuffer memory = c.c_memory(), expected = c.c_memory();
  GemmArgs args = c.args(memory.data(), c.rows());
  // The case's bytes, read again, decide what to spoil; half of the cases stay as they are.
  if (random.one_in(2)) {
    switch (random.between(0, 2)) {
      case 0:
        spoil_problem(random, problem);
        break;
      case 1:
        spoil_view(random, weights);
        break;
      case 2:
        spoil_args(random, args);
        break;
    }
  }

  const auto backends = cpu::Backend::all();
  const cpu::Backend backend =
      backends[static_cast<std::size_t>(random.between(0, std::ssize(backends) - 1))];
  const Error invalid = validate(problem, weights);
  auto gemm = prepare(backend, problem, weights);
  require(bool(invalid) == !gemm, c, "validate() and prepare() disagree");
  if (!gemm) return;

  Error refused = validate(problem, args);
  if (!refused) refused = validate_values(problem, args);
  const Index rows = refused ? c.rows() : args.a.rows;
  const AlignedBuffer workspace(static_cast<std::size_t>(gemm->workspace_bytes(rows)));
  const Error error = gemm->run(args, workspace);
  require(bool(refused) == bool(error), c, "validate() and run() disagree");
  if (!error) {
    GemmArgs same = args;
    same.c.data = c.c(expected.data(), c.rows()).data;
    if (args.residual.data == args.c.data) same.residual.data = same.c.data;
    reference_gemm(problem, weights, same);
    const std::string difference =
        quern::testing::difference(problem, weights, same, args.c, expected, memory, false);
    require(difference.empty(), c, difference.c_str());
  } else if (memory.size() != 0) {
    require(std::memcmp(memory.data(), expected.data(), memory.size()) == 0, c,
            "run() wrote something and then failed");
  }
}

/// Loads the bytes as weights of the case's problem and runs whatever is accepted.
void load(const GemmCase& c, std::span<const std::byte> bytes) {
  auto packed = cpu::PackedWeights::from_bytes(bytes);
  if (!packed) return;
  auto gemm = prepare(cpu::Backend(), c.problem(), std::move(*packed));
  if (!gemm) return;
  AlignedBuffer memory = c.c_memory();
  const AlignedBuffer workspace(static_cast<std::size_t>(gemm->workspace_bytes(c.rows())));
  const Error error = gemm->run(c.args(memory.data(), c.rows()), workspace);
  require(!error, c, error.what());
}

void fuzz_stored_weights(Random random, std::span<const std::uint8_t> data) {
  const GemmCase c(random, kMaxWork);
  load(c, std::as_bytes(data));
  // Bytes that were right, with a few changed: those get further.
  auto packed = pack(cpu::Backend(), c.problem(), c.weights());
  require(bool(packed), c, "pack() failed");
  const auto right = packed->bytes();
  std::vector<std::byte> bytes(right.begin(), right.end());
  for (Index i = random.between(0, 3); i-- > 0 && !bytes.empty();) {
    const Index last = std::ssize(bytes) - 1, near = last < 127 ? last : 127;
    const Index at = random.between(0, random.one_in(2) ? near : last);
    bytes[static_cast<std::size_t>(at)] = static_cast<std::byte>(random.between(0, 255));
  }
  if (random.one_in(4))
    bytes.resize(static_cast<std::size_t>(random.between(0, std::ssize(bytes))));
  load(c, bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::span<const std::uint8_t> bytes(data + 1, size - 1);
  // The first byte chooses, and seeds what the others leave open.
  const Random random(bytes, data[0]);
  if (data[0] % 4 == 0) {
    fuzz_stored_weights(random, bytes);
  } else {
    fuzz_call(random);
  }
  return 0;
}
