// A report for people (to_text) and for programs (to_json), and what it says about a chip: what
// limited it, and where it stands under its roofline.
#pragma once

#include <algorithm>
#include <string>

#include "quern/sim/json.hpp"
#include "quern/sim/report.hpp"
#include "quern/sim/text.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// What takes most of the cycles.
enum class Bound : std::uint8_t { array, loading, skew, dram, link, buffer, vector, start_up };
constexpr const char* name(Bound b) {
  constexpr const char* kNames[] = {"array", "loading", "skew",   "dram",
                                    "link",  "buffer",  "vector", "start_up"};
  return kNames[static_cast<std::uint8_t>(b)];
}

inline Index cycles_of(const Report& r, Stall s) { return r.stalls[static_cast<std::size_t>(s)]; }

/// Results leave through the vector unit and transfers keep their order, so loads queue behind
/// results that a busy vector unit has not finished.
inline bool vector_holds_up(const Report& r) {
  return r.vector_cycles > r.dma_cycles &&
         static_cast<double>(r.vector_cycles) > 0.8 * static_cast<double>(r.cycles);
}

/// Cycles waited for DRAM, in either direction, by its own fault.
inline Index dram_stalls(const Report& r) {
  if (vector_holds_up(r)) return 0;
  return cycles_of(r, Stall::dram_a) + cycles_of(r, Stall::dram_b) + cycles_of(r, Stall::dram_c) +
         cycles_of(r, Stall::store);
}

/// Cycles waited for the vector unit.
inline Index vector_stalls(const Report& r) {
  if (!vector_holds_up(r)) return cycles_of(r, Stall::vector);
  return r.stall_cycles - cycles_of(r, Stall::link) - cycles_of(r, Stall::buffer);
}

/// Of equals, the first of Bound.
inline Bound bound_of(const Report& r) {
  const Index cycles[] = {r.stream_cycles,
                          r.load_cycles,
                          r.skew_cycles,
                          dram_stalls(r),
                          cycles_of(r, Stall::link),
                          cycles_of(r, Stall::buffer),
                          vector_stalls(r),
                          r.start_up_cycles};
  return static_cast<Bound>(std::max_element(std::begin(cycles), std::end(cycles)) - cycles);
}

/// How far memory and arrays let a product go; all dies together.
struct Roofline {
  double peak = 0;       ///< multiply-adds per second of the arrays
  double bandwidth = 0;  ///< DRAM bytes per second
  double intensity = 0;  ///< multiply-adds per DRAM byte moved; infinite when none is
  double reached = 0;    ///< multiply-adds per second

  double ridge() const { return peak / bandwidth; }
  double roof() const { return std::min(peak, intensity * bandwidth); }
};

inline Roofline roofline_of(const Report& r, const Chip& chip) {
  const Array& a = chip.array;
  const double elements = static_cast<double>(a.rows * a.columns) * static_cast<double>(a.count),
               dies = static_cast<double>(chip.dies), macs = static_cast<double>(r.counts.macs),
               bytes = static_cast<double>(r.counts.dram_read_bytes + r.counts.dram_write_bytes);
  const Index mac = cycles_per_mac(a, r.a, r.b);
  Roofline line;
  if (mac != 0) line.peak = elements * dies * chip.clock_mhz * 1e6 / static_cast<double>(mac);
  line.bandwidth = chip.dram.gb_per_s * chip.dram.efficiency * 1e9 * dies;
  line.intensity = bytes == 0 ? kUnlimited : macs / bytes;
  if (r.seconds > 0) line.reached = macs / r.seconds;
  return line;
}

namespace detail {

inline double share(Index part, Index all) {
  return all == 0 ? 0 : static_cast<double>(part) / static_cast<double>(all);
}

inline const char* words(Stall s) {
  constexpr const char* kWords[] = {
      "activations from DRAM", "weights from DRAM", "residual from DRAM", "other dies",
      "narrow buffers",        "vector unit",       "results to leave"};
  return kWords[static_cast<std::uint8_t>(s)];
}

inline const char* words(Dataflow d) {
  constexpr const char* kWords[] = {"weight stationary", "output stationary", "input stationary"};
  return kWords[static_cast<std::uint8_t>(d)];
}

inline std::string size_text(const Extent& e) {
  return format("%lld x %lld x %lld", static_cast<long long>(e.m), static_cast<long long>(e.n),
                static_cast<long long>(e.k));
}

inline std::string trimmed(std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

inline std::string time_line(const char* what, Index part, Index all) {
  if (part == 0) return "";
  const double s = share(part, all);
  std::string line = format("  %-30s %15s %8s  ", what, grouped(part).c_str(), percent(s).c_str());
  return trimmed(line + bar(s)) + "\n";
}

/// How much of the array's time and space makes products.
inline std::string array_sentence(const Report& r, const Chip& chip) {
  const double streaming = share(r.stream_cycles, r.cycles);
  std::string text = format(
      "bound by the array: products are made %s of the time, on %s of its processing elements",
      percent(streaming).c_str(), percent(r.mapping_efficiency).c_str());
  const double full = streaming * r.mapping_efficiency, even = full > 0 ? r.utilization / full : 1;
  if (chip.array.count * chip.dies > 1 && even < 0.98) {
    text += "; folds do not divide evenly among the arrays, which costs " + percent(1 - even);
  }
  return text;
}

/// Why DRAM holds the array up: bandwidth, or waiting for each transfer.
inline std::string dram_sentence(const Report& r, const Chip& chip) {
  Stall most = Stall::dram_a;
  for (const Stall s : {Stall::dram_b, Stall::dram_c, Stall::store}) {
    if (cycles_of(r, s) > cycles_of(r, most)) most = s;
  }
  const double busy = share(r.dma_cycles, r.cycles);
  const std::string waits =
      format("the array waits %s of the time, %s of it for %s",
             percent(share(dram_stalls(r), r.cycles)).c_str(),
             percent(share(cycles_of(r, most), dram_stalls(r))).c_str(), words(most));
  if (busy < 0.6 || std::isinf(chip.dram.gb_per_s)) {
    return format(
        "bound by DRAM latency, engines and buffers rather than bandwidth: memory is busy %s of "
        "the time; %s",
        percent(busy).c_str(), waits.c_str());
  }
  const char* operand = most == Stall::dram_a   ? "activations arrive"
                        : most == Stall::dram_b ? "weights arrive"
                        : most == Stall::dram_c ? "residuals arrive"
                                                : "results leave";
  const Index working = r.cycles - dram_stalls(r);
  const double rate = chip.dram.gb_per_s * chip.dram.efficiency * 1e9;
  const std::string needed =
      working == 0 ? ""
                   : format(", and %s would keep the array busy",
                            amount(rate * share(r.dma_cycles, working), "B/s").c_str());
  return format("bound by DRAM: %s at %s%s; %s", operand, amount(rate, "B/s").c_str(),
                needed.c_str(), waits.c_str());
}

}  // namespace detail

/// One sentence: what limits this product on this chip.
inline std::string bound_sentence(const Report& r, const Chip& chip) {
  if (r.cycles == 0) return "nothing to do";
  const auto of_time = [&](Index part) { return percent(detail::share(part, r.cycles)); };
  const Bound bound = bound_of(r);
  switch (bound) {
    case Bound::array:
      return detail::array_sentence(r, chip);
    case Bound::loading:
      return format("bound by loading: %s enter the array %s of the time, between short streams",
                    r.mapping.dataflow == Dataflow::input_stationary ? "activations" : "weights",
                    of_time(r.load_cycles).c_str());
    case Bound::skew:
      return format(
          "bound by filling and draining the array: %s of the time, %lld cycles for a fold%s",
          of_time(r.skew_cycles).c_str(),
          static_cast<long long>(chip.array.rows + chip.array.columns - 2),
          chip.array.fold_model == FoldModel::drain ? ", one fold after the other" : "");
    case Bound::dram:
      return detail::dram_sentence(r, chip);
    case Bound::link:
      return format("bound by the links between dies: activations arrive at %s; the array waits %s",
                    amount(chip.link.gb_per_s * 1e9, "B/s").c_str(),
                    of_time(cycles_of(r, Stall::link)).c_str());
    case Bound::buffer:
      return format(
          "bound by the buffers: a, b, c give %g, %g, %g bytes per cycle; the array waits %s of "
          "the time",
          chip.a.bytes_per_cycle(), chip.b.bytes_per_cycle(), chip.c.bytes_per_cycle(),
          of_time(cycles_of(r, Stall::buffer)).c_str());
    case Bound::vector:
      return format("bound by the vector unit: %lld lanes, busy %s of the time; the array waits %s",
                    static_cast<long long>(chip.vector.lanes), of_time(r.vector_cycles).c_str(),
                    of_time(vector_stalls(r)).c_str());
    case Bound::start_up:
      return format("bound by starting up: %s cycles before anything happens, %s of the time",
                    grouped(r.start_up_cycles).c_str(), of_time(r.start_up_cycles).c_str());
  }
  return "";
}

/// What the chip is, in two lines.
inline std::string chip_text(const Chip& chip) {
  const Array& a = chip.array;
  std::string text = chip.name + ": ";
  if (chip.dies > 1) text += format("%lld dies of ", static_cast<long long>(chip.dies));
  if (a.count > 1) text += format("%lld arrays of ", static_cast<long long>(a.count));
  text += format("%lld x %lld, %g MHz, ", static_cast<long long>(a.rows),
                 static_cast<long long>(a.columns), chip.clock_mhz);
  text += a.fold_model == FoldModel::drain ? "folds drain"
          : a.preload                      ? "folds overlap and preload"
                                           : "folds overlap";
  const auto kib = [](const Buffer& b) {
    const std::string size = std::isinf(b.kib) ? "unlimited"
                             : b.kib < 1024    ? format("%g KiB", b.kib)
                                               : format("%.4g MiB", b.kib / 1024);
    return size + (b.double_buffered ? "" : " (single)");
  };
  return text + format("\n  buffers %s activations, %s weights, %s sums; DRAM %s%s\n",
                       kib(chip.a).c_str(), kib(chip.b).c_str(), kib(chip.c).c_str(),
                       amount(chip.dram.gb_per_s * 1e9, "B/s").c_str(),
                       chip.dram.efficiency == 1
                           ? ""
                           : (", " + percent(chip.dram.efficiency) + " of it usable").c_str());
}

/// The product and how it was cut.
inline std::string product_text(const Report& r) {
  std::string text = "product " + detail::size_text(r.extent) + " (m x n x k)";
  if (r.batch != 1) text += format(", %lld times", static_cast<long long>(r.batch));
  text += format(", %s x %s -> %s: %s\n", name(r.a), name(r.b), name(r.c),
                 amount(static_cast<double>(r.counts.macs), "MAC").c_str());
  text += format("  mapped %s, tiles of %s, %s", detail::words(r.mapping.dataflow),
                 detail::size_text(r.mapping.tile).c_str(),
                 r.mapping.order == Mapping::Order::rows_outer
                     ? "rows outer: activations stay while columns pass"
                     : "columns outer: weights stay while rows pass");
  if (r.mapping.lines) text += ", lines of the image are fetched once";
  return text + "\n";
}

/// Where the cycles go.
inline std::string time_text(const Report& r) {
  std::string text = format(
      "time %s cycles, %s: %s, utilization %s\n", grouped(r.cycles).c_str(),
      amount(r.seconds, "s").c_str(),
      amount(r.seconds > 0 ? static_cast<double>(r.counts.macs) / r.seconds : 0, "MAC/s").c_str(),
      percent(r.utilization).c_str());
  const bool inputs = r.mapping.dataflow == Dataflow::input_stationary;
  text += detail::time_line("start-up", r.start_up_cycles, r.cycles);
  text += detail::time_line("streaming (products)", r.stream_cycles, r.cycles);
  text += detail::time_line(inputs ? "loading activations" : "loading weights", r.load_cycles,
                            r.cycles);
  text += detail::time_line("skew (filling, draining)", r.skew_cycles, r.cycles);
  for (int i = 0; i < kStalls; ++i) {
    const Stall s = static_cast<Stall>(i);
    text += detail::time_line(format("waiting: %s", detail::words(s)).c_str(), cycles_of(r, s),
                              r.cycles);
  }
  return text + format("  %s folds, which cover %s of the array; DRAM busy %s, vector unit %s\n",
                       grouped(r.folds).c_str(), percent(r.mapping_efficiency).c_str(),
                       percent(detail::share(r.dma_cycles, r.cycles)).c_str(),
                       percent(detail::share(r.vector_cycles, r.cycles)).c_str());
}

inline std::string energy_text(const Report& r) {
  const double total = r.energy.total();
  if (total <= 0) return "energy: the chip's description has none\n";
  const double macs = static_cast<double>(r.counts.macs);
  std::string text = "energy " + amount(total * 1e-12, "J");
  if (macs > 0) text += format(", %.3g pJ per MAC", total / macs);
  if (r.seconds > 0) text += ", " + amount(total * 1e-12 / r.seconds, "W");
  text += "\n";
  for (std::size_t i = 0; i < r.energy.pj.size(); ++i) {
    const double pj = r.energy.pj[i];
    if (pj == 0) continue;
    const std::string line = format("  %-30s %15s %8s  ", EnergyUse::kNames[i],
                                    amount(pj * 1e-12, "J").c_str(), percent(pj / total).c_str());
    text += detail::trimmed(line + bar(pj / total)) + "\n";
  }
  return text;
}

/// What each operand moves, against its size.
inline std::string traffic_text(const Report& r) {
  const Counts& c = r.counts;
  const bool quantizes = is_float(r.a) && is_int8(r.b);
  const Extent& e = r.extent;
  const auto line = [](const char* what, Index size, Index moved, const char* verb) {
    return format("  %-12s %11s %11s %9s  ", what, amount(static_cast<double>(size), "B").c_str(),
                  amount(static_cast<double>(moved), "B").c_str(),
                  size == 0 ? "-" : format("%.2f x", detail::share(moved, size)).c_str()) +
           verb + "\n";
  };
  const auto uses = [](Index read, Index filled) {
    return format("fetched; the array reads each byte %.3g x", detail::share(read, filled));
  };
  std::string text = format("memory %s read, %s written\n",
                            amount(static_cast<double>(c.dram_read_bytes), "B").c_str(),
                            amount(static_cast<double>(c.dram_write_bytes), "B").c_str());
  text += format("  %-12s %11s %11s\n", "", "size", "moved");
  text += line("activations", r.input_bytes, c.buffer_a_write_bytes,
               uses(c.buffer_a_read_bytes, c.buffer_a_write_bytes).c_str());
  text += line("weights", r.batch * e.k * e.n * size_of(r.b), c.buffer_b_write_bytes,
               uses(c.buffer_b_read_bytes, c.buffer_b_write_bytes).c_str());
  const Index result = r.batch * e.m * e.n * size_of(r.c);
  text += line("results", result, result, "written");
  const Index others = c.dram_read_bytes + c.link_bytes - c.buffer_a_write_bytes -
                       c.buffer_b_write_bytes + c.dram_write_bytes - result;
  if (others > 0) {
    text += format("  %-12s %11s %11s %9s  %s\n", "others", "",
                   amount(static_cast<double>(others), "B").c_str(), "",
                   quantizes ? "activations read, and written as s8" : "residuals");
  }
  if (c.link_bytes > 0) {
    text += format("  %s of the activations came from the other die\n",
                   amount(static_cast<double>(c.link_bytes), "B").c_str());
  }
  return text;
}

inline std::string roofline_text(const Report& r, const Chip& chip) {
  const Roofline line = roofline_of(r, chip);
  const bool memory = line.intensity < line.ridge();
  return wrapped(format(
             "roofline %s per DRAM byte; the ridge is at %s: %s %s, of which %s are reached",
             amount(line.intensity, "MAC").c_str(), amount(line.ridge(), "MAC").c_str(),
             memory ? "memory allows" : "the arrays allow", amount(line.roof(), "MAC/s").c_str(),
             percent(line.roof() > 0 ? line.reached / line.roof() : 0).c_str())) +
         "\n";
}

/// All of it, for a terminal of 100 columns.
inline std::string to_text(const Report& r, const Chip& chip) {
  return chip_text(chip) + product_text(r) + "\n" + time_text(r) + "\n" +
         wrapped(bound_sentence(r, chip)) + "\n\n" + energy_text(r) + "\n" + traffic_text(r) +
         "\n" + roofline_text(r, chip);
}

/// Picojoules by component, and their total.
inline void write_member(Json& json, const char* key, const EnergyUse& energy) {
  json.key(key).object();
  for (std::size_t i = 0; i < energy.pj.size(); ++i) {
    json.member(EnergyUse::kNames[i], energy.pj[i]);
  }
  json.member("total", energy.total()).end();
}

/// The members of a report, into an object that is open.
inline void write_members(Json& json, const Report& r, const Chip& chip) {
  json.member("chip", r.chip);
  json.member("m", r.extent.m).member("n", r.extent.n).member("k", r.extent.k);
  json.member("batch", r.batch).member("types", type_names(r.a, r.b, r.c));
  json.member("dataflow", name(r.mapping.dataflow));
  json.member("fold_model", name(chip.array.fold_model));
  json.member("dies", chip.dies).member("clock_mhz", chip.clock_mhz);
  json.key("mapping").object();
  json.member("tile_m", r.mapping.tile.m).member("tile_n", r.mapping.tile.n);
  json.member("tile_k", r.mapping.tile.k);
  json.member("order",
              r.mapping.order == Mapping::Order::rows_outer ? "rows_outer" : "columns_outer");
  json.member("split", r.mapping.split == Mapping::Split::rows ? "rows" : "columns");
  json.member("lines", r.mapping.lines).end();
  json.member("cycles", r.cycles).member("seconds", r.seconds);
  json.member("start_up_cycles", r.start_up_cycles).member("compute_cycles", r.compute_cycles);
  json.member("load_cycles", r.load_cycles).member("stream_cycles", r.stream_cycles);
  json.member("skew_cycles", r.skew_cycles).member("stall_cycles", r.stall_cycles);
  json.key("stalls").object();
  for (int i = 0; i < kStalls; ++i) {
    json.member(name(static_cast<Stall>(i)), cycles_of(r, static_cast<Stall>(i)));
  }
  json.end();
  json.member("dma_cycles", r.dma_cycles).member("vector_cycles", r.vector_cycles);
  json.member("folds", r.folds).member("utilization", r.utilization);
  json.member("mapping_efficiency", r.mapping_efficiency);
  json.member("bound", name(bound_of(r)));
  Counts::for_each(
      [&](const char* key, Index Counts::*count) { json.member(key, r.counts.*count); });
  write_member(json, "energy_pj", r.energy);
  const Roofline line = roofline_of(r, chip);
  json.key("roofline").object().member("macs_per_byte", line.intensity);
  json.member("peak_macs_per_s", line.peak).member("bytes_per_s", line.bandwidth);
  json.member("roof_macs_per_s", line.roof()).member("macs_per_s", line.reached).end();
}

/// One JSON object, numbers in full.
inline std::string to_json(const Report& r, const Chip& chip) {
  Json json;
  json.object();
  write_members(json, r, chip);
  json.end();
  return json.text() + "\n";
}

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
