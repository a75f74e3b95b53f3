// Convolutions on the two presets whose hardware convolves in a way of its own, against published
// measurements, and the tables in docs/simulator.md.

#include <cmath>
#include <string>

#include "docs.hpp"
#include "quern/sim/conv.hpp"
#include "quern/sim/presets.hpp"
#include "quern/sim/text.hpp"

using namespace quern;
using sim::format;

namespace {

/// Cycles of NVDLA's nv_small in RTL simulation. Sizes, strides, padding and dilation are those in
/// the traces' registers (nvdla/hw, branch nv_small, verif/tests/trace_tests/nv_small/dc_*).
struct NvdlaRun {
  const char* name;
  Index height, width, channels, kernels;
  Spatial kernel, stride, dilation, pad_begin, pad_end;
  double cycles;
  const char* used_for;
};
constexpr NvdlaRun kNvdla[] = {
    {"8x16x128_3x3x32",
     16,
     8,
     128,
     32,
     {1, 3, 3},
     {1, 1, 1},
     {1, 1, 1},
     {0, 1, 1},
     {0, 2, 0},
     77001,
     "no"},
    {"6x8x192_3x3x32",
     8,
     6,
     192,
     32,
     {1, 3, 3},
     {1, 1, 1},
     {1, 4, 4},
     {0, 2, 2},
     {0, 0, 3},
     18034,
     "no"},
    {"24x33x55_5x5x25",
     33,
     24,
     55,
     25,
     {1, 5, 5},
     {1, 3, 4},
     {1, 1, 1},
     {0, 2, 2},
     {0, 3, 3},
     78734,
     "no"},
    {"13x15x64_5x3x16",
     15,
     13,
     64,
     16,
     {1, 3, 5},
     {1, 1, 1},
     {1, 1, 1},
     {0, 0, 1},
     {0, 1, 2},
     47606,
     "no"},
    {"14x7x49_3x4x32",
     7,
     14,
     49,
     32,
     {1, 4, 3},
     {1, 1, 1},
     {1, 1, 1},
     {0, 0, 1},
     {0, 3, 1},
     35897,
     "no"},
    {"1x1x8_1x1x1",
     1,
     1,
     8,
     1,
     {1, 1, 1},
     {1, 1, 1},
     {1, 1, 1},
     {0, 0, 0},
     {0, 0, 0},
     169,
     "start-up"},
};

/// AlexNet on the Eyeriss chip, batch 4, 200 MHz (Chen et al., JSSC 52(1), 2017, table V).
struct EyerissRun {
  const char* name;
  Index extent, in, out, groups, kernel, stride, pad;
  double ms, buffer_mb;
  Index active;
};
constexpr EyerissRun kEyeriss[] = {{"CONV1", 227, 3, 96, 1, 11, 4, 0, 16.5, 18.5, 154},
                                   {"CONV2", 27, 96, 256, 2, 5, 1, 2, 39.2, 77.6, 135},
                                   {"CONV3", 13, 256, 384, 1, 3, 1, 1, 21.8, 50.2, 156},
                                   {"CONV4", 13, 384, 384, 2, 3, 1, 1, 16.0, 37.4, 156},
                                   {"CONV5", 13, 384, 256, 2, 3, 1, 1, 10.0, 24.9, 156}};

double in_percent(double simulated, double measured) { return 100 * (simulated / measured - 1); }

}  // namespace

TEST_CASE("sim validation: NVDLA's RTL cycles of convolutions within 2 %") {
  const sim::Chip chip = sim::preset("nvdla_small").value();
  sim::Chip with_trace_banks = chip;  // of 13x15x64: 3 banks for weights, and input needs 4
  with_trace_banks.a.kib = 16;
  with_trace_banks.a.banks = 4;
  with_trace_banks.b.kib = 12;
  with_trace_banks.b.banks = 3;
  std::string table =
      "| W x H x C, kernel W x H x K | output | RTL cycles | simulated | error | calibrates |\n"
      "| --- | --- | ---: | ---: | ---: | --- |\n";
  for (const NvdlaRun& run : kNvdla) {
    CAPTURE(run.name);
    const ConvProblem p{.in_channels = run.channels,
                        .out_channels = run.kernels,
                        .kernel = run.kernel,
                        .stride = run.stride,
                        .dilation = run.dilation,
                        .pad_begin = run.pad_begin,
                        .pad_end = run.pad_end,
                        .a = DType::s8,
                        .c = DType::s8};
    const Spatial in = {1, run.height, run.width}, out = output_extent(p, in);
    const sim::Report r = sim::estimate(sim::Backend(chip), p, in).value();
    const double error = in_percent(static_cast<double>(r.cycles), run.cycles);
    CHECK(std::fabs(error) < 2);
    if (run.width == 13) {
      const double cycles =
          static_cast<double>(sim::estimate(sim::Backend(with_trace_banks), p, in).value().cycles);
      CHECK(std::fabs(in_percent(cycles, run.cycles)) < 0.1);
    }
    table += format("| %s | %d x %d | %.0f | %lld | %+.2f %% | %s |\n", run.name, int(out[2]),
                    int(out[1]), run.cycles, static_cast<long long>(r.cycles), error, run.used_for);
  }
  support::check_docs("docs/simulator.md", "nvdla", table);
}

TEST_CASE("sim validation: Eyeriss' time on AlexNet within 6 %, its buffer's traffic within 1 %") {
  const sim::Chip chip = sim::preset("eyeriss").value();
  std::string table =
      "| layer | processing ms, measured | simulated | error | buffer MB, measured | simulated | "
      "active elements, measured | simulated | mapping n, e, p, q, r, t, m |\n"
      "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n";
  double measured = 0, simulated = 0;
  for (const EyerissRun& run : kEyeriss) {
    CAPTURE(run.name);
    const ConvProblem p{.in_channels = run.in,
                        .out_channels = run.out,
                        .groups = run.groups,
                        .kernel = {1, run.kernel, run.kernel},
                        .stride = {1, run.stride, run.stride},
                        .pad_begin = {0, run.pad, run.pad},
                        .pad_end = {0, run.pad, run.pad},
                        .a = DType::f16,
                        .b = DType::f16,
                        .c = DType::f16};
    const Spatial in = {1, run.extent, run.extent};
    const sim::Report r = sim::estimate(sim::Backend(chip), p, in, 4).value();
    // The paper counts waiting for DRAM apart.
    const Index cycles = r.cycles - r.stalls[static_cast<std::size_t>(sim::Stall::dram_a)] -
                         r.stalls[static_cast<std::size_t>(sim::Stall::dram_b)];
    const double ms = static_cast<double>(cycles) / (chip.clock_mhz * 1e3);
    const double error = in_percent(ms, run.ms);
    CHECK(std::fabs(error) < 6);
    measured += run.ms;
    simulated += ms;

    const sim::ConvShape shape = sim::ConvShape::of(p, in, 4, 0).value();
    sim::ConvCost cost;
    sim::RowMapping x;
    REQUIRE_FALSE(sim::detail::RowStationary(chip, shape).measure(&cost, &x));
    const Index active = run.kernel * x.e * x.r * x.t;
    CHECK(active == run.active);
    const sim::Counts& c = r.counts;
    const double mb = 1e-6 * static_cast<double>(c.buffer_a_read_bytes + c.buffer_c_read_bytes +
                                                 c.buffer_c_write_bytes);
    CHECK(std::fabs(in_percent(mb, run.buffer_mb)) < 1);
    table += format("| %s | %.1f | %.1f | %+.1f %% | %.1f | %.1f | %d | %d | ", run.name, run.ms,
                    ms, error, run.buffer_mb, mb, int(run.active), int(active));
    table += format("%d, %d, %d, %d, %d, %d, %d |\n", int(x.n), int(x.e), int(x.p), int(x.q),
                    int(x.r), int(x.t), int(x.m));
  }
  CHECK(std::fabs(in_percent(simulated, measured)) < 5);
  table += format("| all | %.1f | %.1f | %+.1f %% | | | | | |\n", measured, simulated,
                  in_percent(simulated, measured));
  support::check_docs("docs/simulator.md", "eyeriss", table);
}
