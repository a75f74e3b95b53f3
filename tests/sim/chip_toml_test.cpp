// Needs toml++, as chip_toml.hpp does.
#if __has_include(<toml++/toml.h>)

#include "quern/sim/chip_toml.hpp"

#include <algorithm>
#include <string>
#include <string_view>

#include "quern/sim/presets.hpp"
#include "docs.hpp"
#include "random_chip.hpp"
#include "support.hpp"

using namespace quern;
using sim::Chip;

namespace {

std::string refusal(std::string_view text) {
  const Result<Chip> chip = sim::chip_from_toml(text, "my_chip.toml");
  CAPTURE(text);
  REQUIRE_FALSE(chip);
  CHECK(chip.error().code() == Code::bad_value);
  return chip.error().what();
}

/// The sources as one text.
std::string sources(const Chip& chip) {
  std::string text;
  for (const sim::Source& s : chip.sources) {
    text += s.key + '\0' + s.source + '\0' + s.confidence + '\0';
  }
  return text;
}

void check_round_trip(const Chip& chip) {
  const std::string text = sim::to_toml(chip);
  CAPTURE(text);
  const Result<Chip> back = sim::chip_from_toml(text);
  REQUIRE_MESSAGE(back, back.error().what());
  CHECK(back->name == chip.name);
  CHECK((sim::fields(*back) == sim::fields(chip)));
  CHECK(sources(*back) == sources(chip));
}

}  // namespace

TEST_CASE("sim::chip_from_toml: what a file leaves out stays as it was") {
  const Chip chip = sim::chip_from_toml(R"(
name = "edge"
clock_mhz = 800   # a whole number will do
[array]
rows = 32
dataflows = ["weight_stationary", "input_stationary"]
fold_model = "overlap"
preload = true
cycles_per_mac.bf16 = 2
[buffer.a]
kib = 128.5
[dram]
gb_per_s = inf
)")
                        .value();
  Chip expected;
  expected.name = "edge";
  expected.clock_mhz = 800;
  expected.array.rows = 32;
  expected.array.dataflows = {true, false, true};
  expected.array.fold_model = sim::FoldModel::overlap;
  expected.array.preload = true;
  expected.array.cycles_per_mac.bf16 = 2;
  expected.a.kib = 128.5;
  expected.dram.gb_per_s = sim::kUnlimited;
  CHECK(chip.name == expected.name);
  CHECK((sim::fields(chip) == sim::fields(expected)));
  CHECK((sim::fields(sim::chip_from_toml("").value()) == sim::fields(Chip{})));
}

TEST_CASE("sim::chip_from_toml: unknown keys and sections are refused, the nearest is named") {
  CHECK(refusal("[array]\nrow = 4") ==
        "my_chip.toml:2:1: there is no key array.row; did you mean array.rows?");
  CHECK(refusal("[aray]\nrows = 4") ==
        "my_chip.toml:1:2: there is no key aray; did you mean array?");
  CHECK(refusal("rows = 4") == "my_chip.toml:1:1: there is no key rows; did you mean array.rows?");
  CHECK(refusal("[buffer]\nkib = 4") ==
        "my_chip.toml:2:1: there is no key buffer.kib; did you mean buffer.a.kib?");
  CHECK(refusal("nam = \"x\"") == "my_chip.toml:1:1: there is no key nam; did you mean name?");
  CHECK(refusal("[thermal_environment]\nx = 1") ==
        "my_chip.toml:1:2: there is no key thermal_environment");
}

TEST_CASE("sim::chip_from_toml: impossible values are refused by place, key, value and rule") {
  CHECK(refusal("[array]\n\nrows = -4") ==
        "my_chip.toml:3:8: array.rows is -4; it must be at least 1, at most 65536");
  CHECK(refusal("[dram]\nefficiency = 1.5") ==
        "my_chip.toml:2:14: dram.efficiency is 1.5; it must be above 0, at most 1");
  CHECK(refusal("[dram]\ngb_per_s = nan") ==
        "my_chip.toml:2:12: dram.gb_per_s is nan; it must be at least 0.001");
  CHECK(refusal("clock_mhz = inf") ==
        "my_chip.toml:1:13: clock_mhz is inf; it must be at least 0.001, at most 1e+06");
  CHECK(refusal("[array]\nfold_model = \"drian\"") ==
        "my_chip.toml:2:14: array.fold_model is \"drian\"; it must be \"drain\" or \"overlap\"");
  CHECK(
      refusal("[array]\ndataflows = [\"weight_stationary\", \"weights\"]")
          .starts_with("my_chip.toml:2:35: array.dataflows is \"weights\"; it must be a list of "));
}

TEST_CASE("sim::chip_from_toml: wrong types are refused") {
  const std::string rows = "; it must be a whole number, at least 1, at most 65536";
  CHECK(refusal("array.rows = 4.0") == "my_chip.toml:1:14: array.rows is 4.0" + rows);
  CHECK(refusal("array.rows = \"4\"") == "my_chip.toml:1:14: array.rows is \"4\"" + rows);
  CHECK(refusal("array.rows = true") == "my_chip.toml:1:14: array.rows is true" + rows);
  CHECK(refusal("array.rows = [4]") == "my_chip.toml:1:14: array.rows is a list" + rows);
  CHECK(refusal("array.rows = {}") == "my_chip.toml:1:14: array.rows is a section" + rows);
  CHECK(refusal("array.rows = 1979-05-27") ==
        "my_chip.toml:1:14: array.rows is a date or time" + rows);
  CHECK(refusal("array.preload = 1") ==
        "my_chip.toml:1:17: array.preload is 1; it must be true or false");
  CHECK(refusal("array.fold_model = 1") ==
        "my_chip.toml:1:20: array.fold_model is 1; it must be \"drain\" or \"overlap\"");
  CHECK(
      refusal("array.dataflows = \"weight_stationary\"")
          .starts_with("my_chip.toml:1:19: array.dataflows is \"weight_stationary\"; it must be"));
  CHECK(refusal("array = 3") == "my_chip.toml:1:9: array is a number; it must be a section");
  CHECK(refusal("[[array]]\nrows = 4").ends_with("array is a list; it must be a section"));
  CHECK(refusal("name = 3") == "my_chip.toml:1:8: name is a number; it must be a string");
  CHECK(refusal("\"array.rows\" = 3\n[array]\nrows = 4").ends_with("array.rows is given twice"));
}

TEST_CASE("sim::chip_from_toml: what is no TOML is refused with its place") {
  CHECK(refusal("[array\nrows = 4").starts_with("my_chip.toml:1:7: "));
  CHECK(refusal("dies = 1\ndies = 2").starts_with("my_chip.toml:2:8: "));
  CHECK(refusal("dies = 99999999999999999999").starts_with("my_chip.toml:1:"));
  CHECK(refusal("name = \"\xFF\"").starts_with("my_chip.toml:1:"));
}

TEST_CASE("sim::chip_from_toml: a chip that contradicts itself is refused where it does") {
  CHECK(refusal("[array]\nrows = 8\npreload = true")
            .starts_with("my_chip.toml:3:11: chip unnamed: array.preload needs"));
  CHECK(refusal("[array]\ndataflows = []")
            .starts_with("my_chip.toml:2:13: chip unnamed: array.dataflows is empty"));
  CHECK(refusal("[array]\nrows = 8\ncycles_per_mac.s8 = 0")
            .starts_with("my_chip.toml:3:21: chip unnamed: array.cycles_per_mac is 0"));
}

TEST_CASE("sim::chip_from_toml: of several mistakes the first is reported") {
  CHECK(refusal("[vector]\nlanes = 0\n[array]\nrows = 0\nrow = 1").starts_with("my_chip.toml:2:9"));
}

TEST_CASE("sim::chip_from_toml: sources keep their order, text and confidence") {
  const Chip chip = sim::chip_from_toml(R"([source]
"dram.gb_per_s" = "a; b; low"
"array.rows" = "ISCA 2017, table 2;high"
energy = "guess; assumption"
buffer.a.kib = "dotted; medium"
)")
                        .value();
  REQUIRE(chip.sources.size() == 4);
  CHECK(chip.sources[0].key == "dram.gb_per_s");
  CHECK(chip.sources[0].source == "a; b");
  CHECK(chip.sources[0].confidence == "low");
  CHECK(chip.sources[1].source == "ISCA 2017, table 2");
  CHECK(chip.sources[1].confidence == "high");
  CHECK(chip.sources[2].key == "energy");
  CHECK(chip.sources[3].key == "buffer.a.kib");
}

TEST_CASE("sim::chip_from_toml: sources of nothing, or not to be trusted at all, are refused") {
  CHECK(refusal("[source]\n\"array.row\" = \"x; high\"") ==
        "my_chip.toml:2:1: source: there is no key array.row; did you mean array.rows?");
  CHECK(refusal("[source]\n\"array.rows\" = \"x; hihg\"")
            .starts_with("my_chip.toml:2:16: source of array.rows must end with \"; high\""));
  CHECK(refusal("[source]\n\"array.rows\" = \"high\"").find("must end with") != std::string::npos);
  CHECK(refusal("[source]\n\"array.rows\" = 2017").ends_with("is a number; it must be a string"));
  CHECK(refusal("source = 1") == "my_chip.toml:1:10: source is a number; it must be a section");
  CHECK(refusal("[source]\n\"array.rows\" = \"x; high\"\narray.rows = \"y; high\"")
            .ends_with("source of array.rows is given twice"));
}

TEST_CASE("sim::chip_from_toml: no text is too deep, no name too long") {
  std::string deep;
  for (int i = 0; i < 2000; ++i) deep += "a.";
  CHECK(refusal(deep + "a = 1").starts_with("my_chip.toml:1:1: there is no key a"));
  CHECK(refusal(deep + "a.a = 1") ==
        "my_chip.toml: it has 2001 points; a chip's file has at most 2000");
  CHECK(refusal("a = " + std::string(100000, '[')).starts_with("my_chip.toml:1:"));
  CHECK(refusal(std::string(300, 'k') + " = 1").size() < 223);
  const Result<Chip> chip = sim::chip_from_toml("dies = 3", std::string(300, 'd') + "/x.toml");
  CHECK(support::says(chip.error(), "ddd/x.toml:1:8: dies is 3; it must be at least 1"));
}

TEST_CASE("sim::load_chip: reads a file, or says that it cannot") {
  CHECK(sim::load_chip("/no/such/chip.toml").error().code() == Code::bad_data);
  CHECK(support::says(sim::load_chip("/").error(), "/: the file cannot be read"));

  const auto path = support::repository_file("examples/chips/edge16.toml");
  const std::string text = support::contents(path);
  if (text.empty()) {
    MESSAGE("examples/chips/edge16.toml not found: not checked");
    return;
  }
  const Result<Chip> chip = sim::load_chip(path.string());
  REQUIRE_MESSAGE(chip, chip.error().what());
  CHECK(chip->name == "edge16");
  CHECK(std::count(text.begin(), text.end(), '\n') <= 40);
  check_round_trip(*chip);
}

TEST_CASE("sim::to_toml: only what differs from the default, a section in one piece") {
  CHECK(sim::to_toml({}).empty());
  Chip chip;
  chip.name = "two \"dies\"\n";
  chip.dies = 2;
  chip.array.rows = 8;
  chip.array.cycles_per_mac.f32 = 4;
  chip.b.bank_bytes_per_cycle = 0.5;
  chip.sources = {{"dies", "page 3", "high"}};
  CHECK(sim::to_toml(chip) == R"(name = "two \"dies\"\u000A"
dies = 2

[array]
rows = 8

[array.cycles_per_mac]
f32 = 4

[buffer.b]
bank_bytes_per_cycle = 0.5

[source]
"dies" = "page 3; high"
)");
}

TEST_CASE("sim::to_toml: every preset and every random chip reads back the same") {
  for (const sim::Preset& p : sim::presets()) check_round_trip(p.chip());
  for (Index seed = 0; seed < support::scaled(300); ++seed) {
    CAPTURE(seed);
    testing::Random random(static_cast<std::uint64_t>(seed));
    check_round_trip(support::random_chip(random));
  }
}

#endif
