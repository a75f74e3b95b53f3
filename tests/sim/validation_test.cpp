// How near the simulator comes to what has been published, and the table in docs/simulator.md.

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <string>

#include "docs.hpp"
#include "quern/sim/gemm.hpp"
#include "quern/sim/presets.hpp"
#include "quern/testing/gemm_compare.hpp"
#include "quern/testing/gemm_problems.hpp"
#include "support.hpp"

using namespace quern;

namespace {

std::string format(const char* text, ...) {
  char line[200];
  std::va_list args;
  va_start(args, text);
  std::vsnprintf(line, sizeof line, text, args);
  va_end(args);
  return line;
}

/// Cycles that a 16 x 16 weight-stationary Gemmini took in RTL simulation, s8 results.
struct GemminiRun {
  Index m, k, n;
  double cycles;
};
constexpr GemminiRun kGemmini[] = {
    {64, 64, 64, 3810}, {256, 256, 256, 69653}, {512, 512, 64, 74413}, {512, 512, 512, 543240}};

/// Shares of a TPU's cycles in percent (Jouppi et al., ISCA 2017, table 3).
struct TpuRun {
  const char* name;
  Index batch;
  double shift, stall, not_matrix;
};
constexpr TpuRun kTpu[] = {{"MLP0", 200, 15.9, 53.9, 17.5},
                           {"MLP1", 168, 13.4, 44.2, 31.9},
                           {"LSTM0", 64, 15.8, 58.1, 17.9},
                           {"LSTM1", 96, 17.1, 62.1, 10.3}};

}  // namespace

TEST_CASE("sim validation: Gemmini's RTL cycles within 5 % on average and 10 % each") {
  sim::Chip chip = sim::preset("gemmini16").value();
  chip.array.dataflows = sim::Dataflows::only(sim::Dataflow::weight_stationary);
  double sum = 0;
  std::string table =
      "| m x k x n | RTL cycles | simulated | error |\n| --- | ---: | ---: | ---: |\n";
  for (const GemminiRun& run : kGemmini) {
    const GemmProblem problem{.n = run.n, .k = run.k, .a = DType::s8, .c = DType::s8};
    const auto r = sim::estimate(sim::Backend(chip), problem, run.m).value();
    const double error = static_cast<double>(r.cycles) / run.cycles - 1;
    CHECK(std::fabs(error) < 0.10);
    sum += std::fabs(error);
    table += format("| %d x %d x %d | %.0f | %lld | %+.1f %% |\n", int(run.m), int(run.k),
                    int(run.n), run.cycles, static_cast<long long>(r.cycles), 100 * error);
  }
  const double mean = sum / static_cast<double>(std::size(kGemmini));
  CHECK(mean < 0.05);
  table += format("| mean of magnitudes | | | %.1f %% |\n", 100 * mean);
  support::check_docs("docs/simulator.md", "gemmini", table);
}

TEST_CASE("sim validation: the TPU's weight shift within 1 point and stall within 5 points") {
  const sim::Backend tpu(sim::preset("tpu_v1").value(), {.keep_activations = true});
  std::string table =
      "| | weight shift, measured | simulated | error | weight stall, measured | simulated | error "
      "|\n"
      "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n";
  for (const TpuRun& run : kTpu) {
    // The size hardly matters: every 256 x 256 tile of weights is used once and then replaced.
    const GemmProblem problem{.n = 2048, .k = 2048, .a = DType::u8, .c = DType::u8};
    const auto r = sim::estimate(tpu, problem, run.batch).value();
    // What is no matrix work is taken from the measurement.
    const double scale = (100 - run.not_matrix) / static_cast<double>(r.cycles);
    const double shift = static_cast<double>(r.load_cycles) * scale,
                 stall = static_cast<double>(r.stall_cycles) * scale;
    CHECK(std::fabs(shift - run.shift) <= 1);
    CHECK(std::fabs(stall - run.stall) <= 5);
    table += format("| %s, batch %d | %.1f %% | %.1f %% | %+.1f | %.1f %% | %.1f %% | %+.1f |\n",
                    run.name, int(run.batch), run.shift, shift, shift - run.shift, run.stall, stall,
                    stall - run.stall);
  }
  support::check_docs("docs/simulator.md", "tpu", table);
}

TEST_CASE("sim validation: 1,000 random products on all presets have the reference's bits") {
  Index ran = 0;
  for (std::uint64_t seed = 1; ran < support::scaled(1000); ++seed) {
    const testing::GemmCase c(testing::Random(seed), 200000, seed);
    if (!is_int8(c.problem().b)) continue;
    const auto presets = sim::presets();
    const sim::Preset& preset = presets[seed % presets.size()];
    CAPTURE(seed);
    CAPTURE(preset.name);
    const auto op = prepare(sim::Backend(preset.chip()), c.problem(), c.weights());
    INFO(op.error().what());
    REQUIRE(op);
    AlignedBuffer expected_memory = c.c_memory(), memory = c.c_memory();
    const GemmArgs expected = c.args(expected_memory.data(), c.rows()),
                   args = c.args(memory.data(), c.rows());
    reference_gemm(c.problem(), c.weights(), expected);
    const Workspace workspace(op->workspace_bytes(c.rows() * args.a.batch));
    REQUIRE(op->run(args, workspace).code() == Code::ok);
    CHECK(testing::difference(c.problem(), c.weights(), expected, args.c, expected_memory, memory,
                              true) == "");
    ++ran;
  }
}
