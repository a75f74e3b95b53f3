#include "quern/sim/presets.hpp"

#include <algorithm>
#include <set>
#include <string>

#include "docs.hpp"
#include "support.hpp"

using namespace quern;
using sim::Chip;

namespace {

/// Two operations a MAC, all processing elements.
double peak_tops(const Chip& chip) {
  return 2e-6 * chip.clock_mhz *
         static_cast<double>(chip.array.rows * chip.array.columns * chip.array.count * chip.dies);
}

}  // namespace

TEST_CASE("sim::preset: every preset passes validate() under its own name") {
  std::set<std::string_view> names;
  for (const sim::Preset& p : sim::presets()) {
    CAPTURE(p.name);
    const Result<Chip> chip = sim::preset(p.name);
    REQUIRE(chip);
    CHECK(chip->name == p.name);
    CHECK_FALSE(sim::validate(*chip));
    CHECK_FALSE(p.summary.empty());
    CHECK(names.insert(p.name).second);
  }
}

TEST_CASE("sim::preset: every number that a preset changes has a source of its own") {
  for (const sim::Preset& p : sim::presets()) {
    const Chip chip = p.chip();
    for (const sim::FieldText& f : sim::changed_fields(chip)) {
      CAPTURE(p.name);
      CAPTURE(f.key);
      const sim::Source* source = sim::source_of(chip, f.key);
      REQUIRE(source != nullptr);
      CHECK(source->key == f.key);
    }
  }
}

TEST_CASE("sim::preset: every source names a key, says something, and how far to trust it") {
  for (const sim::Preset& p : sim::presets()) {
    std::set<std::string> keys;
    for (const sim::Source& s : p.chip().sources) {
      CAPTURE(p.name);
      CAPTURE(s.key);
      CHECK(sim::is_field(s.key));
      CHECK(keys.insert(s.key).second);
      CHECK(s.source.size() > 3);
      CHECK(s.source.find('|') == std::string::npos);  // it would end the cell of a table
      CHECK(std::find(sim::kConfidences.begin(), sim::kConfidences.end(), s.confidence) !=
            sim::kConfidences.end());
    }
  }
}

TEST_CASE("sim::preset: peaks are the published ones") {
  const struct {
    const char* name;
    double tops;
  } kPublished[] = {{"tpu_v1", 92},         {"eyeriss", 0.0672}, {"tesla_fsd_hw3", 2 * 36.86},
                    {"dojo_d1", 362},       {"simba36", 128},    {"nvdla_small", 0.128},
                    {"ai5_assumed", 589.8}, {"gemmini16", 0.512}};
  for (const auto& published : kPublished) {
    CAPTURE(published.name);
    CHECK(peak_tops(sim::preset(published.name).value()) ==
          doctest::Approx(published.tops).epsilon(0.005));
  }
}

TEST_CASE("sim::preset: what is assumed is called so") {
  for (const char* name : {"ai5_assumed", "ai5_assumed_dual"}) {
    for (const sim::Source& s : sim::preset(name).value().sources) {
      CHECK(s.confidence == "assumption");
    }
  }
  CHECK(sim::preset("ai5_assumed_dual").value().dies == 2);
}

TEST_CASE("sim::preset: eyeriss spends what Accelergy's breakdown has, given its counts") {
  // 10,838,016 MACs: 208 + 387 + 1007 + 112 + 375 + 3381 = 5,470 fJ each, 59.28 uJ together. The
  // accesses of 8 bytes are what 3,381 and 375 fJ are of 512 and of 16.16 pJ; so this checks units
  // and sums, not the counts that the simulator makes.
  const sim::Energy e = sim::preset("eyeriss").value().energy;
  const double macs = 10838016;
  const double pj = macs * (e.mac_s8_pj + e.register_a_pj + e.register_b_pj + e.register_c_pj) +
                    71569 * 8 * e.dram_pj_per_byte + 251500 * 8 * e.buffer_a_pj_per_byte;
  CHECK(pj * 1e-6 == doctest::Approx(59.28).epsilon(0.005));
}

TEST_CASE("sim::preset: an unknown name is refused with those there are") {
  const Error e = sim::preset("tpu_v9").error();
  CHECK(e.code() == Code::bad_value);
  CHECK(support::says(e, "no preset is called tpu_v9"));
  for (const sim::Preset& p : sim::presets()) CHECK(support::says(e, p.name));
}

TEST_CASE("docs/chips.md has the presets' numbers and sources") {
  std::string tables;
  for (const sim::Preset& p : sim::presets()) {
    tables.append("\n### ").append(p.name).append("\n\n").append(p.summary).append("\n\n");
    tables += sim::to_markdown(p.chip());
  }
  support::check_docs("docs/chips.md", "presets", tables + "\n");
}
