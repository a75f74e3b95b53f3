#include <limits>
#include <set>
#include <string>
#include <string_view>

#include "quern/sim/chip.hpp"
#include "quern/sim/chip_fields.hpp"
#include "docs.hpp"
#include "random_chip.hpp"
#include "support.hpp"

using namespace quern;
using sim::Chip;

TEST_CASE("sim::Chip: the default passes, and so does every random chip of allowed values") {
  CHECK_FALSE(sim::validate(Chip{}));
  testing::Random random(1);
  for (Index i = 0; i < support::scaled(500); ++i) {
    CAPTURE(i);
    CHECK_FALSE(sim::validate(support::random_chip(random)));
  }
}

TEST_CASE("sim::Chip: every number outside its rule is refused by key, value and rule") {
  Chip chip;
  chip.name = "edge";
  sim::for_each_field(chip, [&]<class T>(const char* key, T& field, const sim::Rule& rule) {
    if constexpr (std::is_same_v<T, Index> || std::is_same_v<T, double>) {
      const T usual = field;
      const auto refuses = [&](T value) {
        CAPTURE(key);
        CAPTURE(value);
        field = value;
        const Error e = sim::validate(chip);
        field = usual;
        CHECK(e.code() == Code::bad_value);
        CHECK(support::says(e, "chip edge: " + std::string(key) + " is "));
        CHECK(support::says(e, rule.words()));
      };
      refuses(T(-1));
      if (!rule.allows(0)) refuses(T(0));
      if (rule.most < 1e13 && rule.kind != sim::Rule::Kind::fraction) refuses(T(rule.most * 1.5));
      if (rule.kind == sim::Rule::Kind::fraction) refuses(T(2));
      if constexpr (std::is_same_v<T, double>) {
        refuses(std::numeric_limits<double>::quiet_NaN());
        refuses(-sim::kUnlimited);
        if (rule.most != sim::kUnlimited) refuses(sim::kUnlimited);
      }
    }
  });
}

TEST_CASE("sim::Chip: fields that exclude each other are refused") {
  Chip chip;
  chip.array.dataflows = {false, false, false};
  CHECK(support::says(sim::validate(chip), "array.dataflows is empty"));

  chip = {};
  chip.array.preload = true;
  CHECK(support::says(sim::validate(chip), "array.preload needs fold_model = \"overlap\""));
  chip.array.fold_model = sim::FoldModel::overlap;
  CHECK_FALSE(sim::validate(chip));

  chip.array.cycles_per_mac.s8 = 0;
  CHECK(support::says(sim::validate(chip), "array.cycles_per_mac is 0 for every type"));
}

TEST_CASE("sim::for_each_field: keys are unique, and each is a field of its own") {
  Chip chip;
  std::set<std::string_view> keys;
  std::set<const void*> addresses;
  sim::for_each_field(chip, [&](const char* key, auto& field, const sim::Rule&) {
    CAPTURE(key);
    CHECK(keys.insert(key).second);
    CHECK(addresses.insert(&field).second);
    CHECK(sim::is_field(key));
    CHECK_FALSE(sim::is_section(key));
    if (const auto section = sim::section_of(key); !section.empty()) {
      CHECK(sim::is_section(section));
    }
  });
  CHECK_FALSE(sim::is_field("array"));
  CHECK_FALSE(sim::is_section("arr"));
  CHECK_FALSE(sim::is_section(""));
}

TEST_CASE("sim::with_ideal_memory: nothing but the array is left to limit") {
  const Chip ideal = sim::with_ideal_memory({});
  CHECK_FALSE(sim::validate(ideal));
  CHECK(ideal.b.kib == sim::kUnlimited);
  CHECK(ideal.c.bytes_per_cycle() == sim::kUnlimited);
  CHECK(ideal.dram.gb_per_s == sim::kUnlimited);
  CHECK(ideal.array.rows == Chip{}.array.rows);
}

TEST_CASE("sim::to_text: numbers as TOML writes them") {
  CHECK(sim::to_text(0.1) == "0.1");
  CHECK(sim::to_text(700.0) == "700");
  CHECK(sim::to_text(sim::kUnlimited) == "inf");
  CHECK(sim::to_text(0x1p64) == "18446744073709551616.0");
  CHECK(sim::to_text(true) == "true");
  CHECK(sim::to_text(sim::Dataflows{true, true, false}) ==
        "[\"weight_stationary\", \"output_stationary\"]");
}

TEST_CASE("sim::source_of: a field's own source goes before its section's") {
  Chip chip;
  CHECK(sim::source_of(chip, "buffer.a.kib") == nullptr);
  chip.sources = {{"buffer", "x", "low"}, {"buffer.a.kib", "y", "high"}};
  CHECK(sim::source_of(chip, "buffer.a.kib")->source == "y");
  CHECK(sim::source_of(chip, "buffer.b.kib")->source == "x");
  CHECK(sim::source_of(chip, "dies") == nullptr);
  CHECK(sim::to_markdown(chip).find("| `buffer.a.kib` | 256 | y | high |\n") != std::string::npos);
}

TEST_CASE("docs/chips.md has every key with its default and rule") {
  const std::string docs = support::contents(support::repository_file("docs/chips.md"));
  if (docs.empty()) {
    MESSAGE("docs/chips.md not found: not checked");
    return;
  }
  for (const sim::FieldText& f : sim::fields(Chip{})) {
    const std::string row = "| `" + std::string(f.key) + "` | " + f.value + " | " + f.rule + " | ";
    CAPTURE(row);
    CHECK(docs.find(row) != std::string::npos);
  }
}
