// The mapper: which tiles, in which order, on which dataflow. It tries every combination of
// balanced tile sizes (halves, quarters, ... of each extent, in whole arrays), both loop orders,
// every dataflow the chip offers and both ways to share the work among dies, and keeps the one that
// the timing walker finds fastest; of equals, the one that moves fewer DRAM bytes. A bound, the
// larger of what the array and what the memory need at least, spares nearly all the walks.
//
// The set of candidates depends on the chip's arrays alone and buffers only forbid some of them, so
// more memory, or a faster part, never makes the answer slower.
#pragma once

#include "quern/sim/timing.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// Extents that stream have no natural unit: tiles of 16 are as small as anyone needs.
inline constexpr Index kStreamedPiece = 16;

/// Longer than this is refused: 28 hours at 1 THz.
inline constexpr Index kMostCycles = Index{100'000'000} * 1'000'000'000;

/// The last die's end, or anything above `limit`; and the bytes that DRAM has moved by then.
inline Index time_of(const Chip& chip, const Work& work, const Mapping& mapping, Index limit,
                     double* dram_bytes = nullptr) {
  Index end = 0;
  double bytes = 0;
  for (Index die = 0; die < chip.dies && end <= limit; ++die) {
    const Tiling tiling(chip, work, mapping, die);
    Timer timer(chip, work, mapping, tiling, die, false, limit);
    tiling.lower(timer);
    if (timer.end() > end) end = timer.end();
    bytes += timer.dram_bytes();
  }
  if (dram_bytes != nullptr) *dram_bytes = bytes;
  return end;
}

/// Whether every die has room for a tile of each operand.
inline bool fits(const Chip& chip, const Work& work, const Mapping& mapping) {
  for (Index die = 0; die < chip.dies; ++die) {
    if (!Tiling(chip, work, mapping, die).fits()) return false;
  }
  return true;
}

namespace detail {

/// Tile sizes for an extent: all of it, half, a quarter, ... in multiples of unit, down to unit.
class Sizes {
 public:
  Sizes(Index extent, Index unit) { add(extent, unit, 1); }

  /// The same for rows: of images, then planes, lines and positions of a line.
  Sizes(const Patches& rows, Index unit) {
    Index inner = 1;
    for (const Axis& a : rows.axes) inner *= a.out;
    for (const Axis& a : rows.axes) {
      if (count_ > 0 && a.out == 1) continue;
      inner = a.out == 0 ? 0 : inner / a.out;
      add(a.out, inner == 0 ? unit : divide_up(unit, inner), inner);
    }
  }
  const Index* begin() const { return size_; }
  const Index* end() const { return size_ + count_; }

 private:
  void add(Index extent, Index unit, Index scale) {
    Index pieces = 1;
    while (count_ < kMost) {
      const Index size = round_up(divide_up(extent, pieces), unit);
      const Index clipped = (size < extent ? size : extent) * scale;
      if (count_ == 0 || clipped < size_[count_ - 1]) size_[count_++] = clipped;
      if (size <= unit) break;
      pieces *= 2;
    }
  }

  static constexpr int kMost = 64;  // 58 halvings and the pieces that axes leave
  Index size_[kMost];
  int count_ = 0;
};

class Mapper {
 public:
  Mapper(const Chip& chip, const Work& work)
      : chip_(chip),
        work_(work),
        mac_(cycles_per_mac(chip.array, work.a, work.b)),
        dram_rate_(chip.dram.gb_per_s * chip.dram.efficiency * 1e3 / chip.clock_mhz) {}

  /// False if no tile fits, or none is done within kMostCycles.
  bool search(Mapping* best) {
    for (const Dataflow d :
         {Dataflow::weight_stationary, Dataflow::output_stationary, Dataflow::input_stationary}) {
      if (chip_.array.dataflows.has(d)) try_dataflow(d);
    }
    *best = best_;
    return found_;
  }
  bool fits() const { return fits_; }

 private:
  void try_dataflow(Dataflow dataflow) {
    const Index r = chip_.array.rows, c = chip_.array.columns;
    const bool ws = dataflow == Dataflow::weight_stationary,
               os = dataflow == Dataflow::output_stationary;
    const Sizes ms(work_.patches, ws   ? kStreamedPiece
                                  : os ? r
                                       : c),
        ns(work_.extent.n, ws || os ? c : kStreamedPiece),
        ks(work_.extent.k, os ? kStreamedPiece : r);
    Mapping m;
    m.dataflow = dataflow;
    for (const Mapping::Split split : {Mapping::Split::rows, Mapping::Split::columns}) {
      m.split = split;
      // Without columns of its own, a die would not read its part of A.
      const bool shares = chip_.dies > 1 && work_.extent.n >= chip_.dies;
      if (split == Mapping::Split::columns && !shares) break;
      for (const Index tile_k : ks) {
        for (const Index tile_n : ns) {
          for (const Index tile_m : ms) {
            m.tile = {tile_m, tile_n, tile_k};
            for (const Mapping::Order order :
                 {Mapping::Order::columns_outer, Mapping::Order::rows_outer}) {
              m.order = order;
              m.lines = work_.patches.overlap;
              try_results(m);
              if (!m.lines) continue;
              m.lines = false;
              try_results(m);
            }
          }
        }
      }
    }
  }

  /// One tile of C at a time makes another order of stores, which may be faster.
  void try_results(Mapping m) {
    m.results = Tiling::kMostResults;
    consider(m);
    if (!chip_.c.double_buffered) return;
    m.results = 1;
    consider(m);
  }

  void consider(const Mapping& m) {
    const Tiling tiling(chip_, work_, m, 0);  // the first die's share is the largest
    // Its tiles are too, but for what the edges of an image save.
    if (!tiling.fits() || (work_.patches.overlap && !sim::fits(chip_, work_, m))) return;
    fits_ = true;
    double bytes = tiling.dram_bytes();
    if (bytes / dram_rate_ > static_cast<double>(time_)) return;
    const Index bound = array_bound(m, tiling);
    if (bound > time_ || (bound == time_ && bytes >= bytes_)) return;
    double walked = 0;
    const Index time = time_of(chip_, work_, m, time_, &walked);
    if (work_.patches.overlap) bytes = walked / static_cast<double>(chip_.dies);
    if (time > time_ || (time == time_ && bytes >= bytes_)) return;
    found_ = true;
    best_ = m;
    time_ = time;
    bytes_ = bytes;
  }

  /// The array's cycles for all full tiles; those at the edges come on top.
  Index array_bound(const Mapping& m, const Tiling& tiling) const {
    const Extent &part = tiling.part(), &tile = tiling.tile();
    if (tiling.empty() || tile.k == 0) return 0;
    const auto tiles = [](Index all, Index one) { return static_cast<double>(all / one); };
    const double cycles =
        static_cast<double>(tiling.rows().whole_tiles()) * tiles(part.n, tile.n) *
        tiles(part.k, tile.k) * static_cast<double>(work_.batch) *
        static_cast<double>(time_of(chip_.array, m.dataflow, mac_, tile).occupied());
    if (cycles > static_cast<double>(kMostCycles)) return kMostCycles + 1;
    return chip_.array.start_up_cycles + static_cast<Index>(cycles);
  }

  const Chip& chip_;
  const Work& work_;
  const Index mac_;
  const double dram_rate_;
  Mapping best_;
  Index time_ = kMostCycles;
  double bytes_ = kUnlimited;
  bool found_ = false, fits_ = false;
};

}  // namespace detail

inline Error takes_too_long(const Chip& chip, const Work& work) noexcept {
  return Error::make(Code::unsupported,
                     "chip %.40s: %lld x %lld x %lld x %lld takes more than %g cycles",
                     chip.name.c_str(), static_cast<long long>(work.batch),
                     static_cast<long long>(work.extent.m), static_cast<long long>(work.extent.n),
                     static_cast<long long>(work.extent.k), static_cast<double>(kMostCycles));
}

/// Error if no tile of the smallest size fits the buffers, or nothing ends within kMostCycles.
inline Error find_mapping(const Chip& chip, const Work& work, Mapping* mapping) noexcept {
  detail::Mapper mapper(chip, work);
  if (mapper.search(mapping)) return {};
  if (mapper.fits()) return takes_too_long(chip, work);
  return Error::make(Code::unsupported,
                     "chip %.40s: the buffers (a %g, b %g, c %g KiB) cannot hold one tile of its "
                     "%lld x %lld array",
                     chip.name.c_str(), chip.a.kib, chip.b.kib, chip.c.kib,
                     static_cast<long long>(chip.array.rows),
                     static_cast<long long>(chip.array.columns));
}

/// Everything that is counted stays below 2^63 if no product of extents exceeds 2^58.
inline Error check_size(const Work& work) noexcept {
  const auto d = [](Index x) { return static_cast<double>(x > 1 ? x : 1); };
  const double macs = d(work.batch) * d(work.extent.m) * d(work.extent.n) * d(work.extent.k);
  if (macs > 0x1p58) {
    return Error::make(
        Code::bad_shape, "gemm: %lld x %lld x %lld x %lld is more than 2^58 products",
        static_cast<long long>(work.batch), static_cast<long long>(work.extent.m),
        static_cast<long long>(work.extent.n), static_cast<long long>(work.extent.k));
  }
  const double elements = d(work.batch) * work.patches.image();
  if (elements <= 0x1p58) return {};
  return Error::make(Code::bad_shape, "conv: an image of %g elements is more than 2^58", elements);
}

/// Whether a mapping given by hand can be used.
inline Error validate(const Chip& chip, const Work& work, const Mapping& m) noexcept {
  using LL = long long;
  if (!chip.array.dataflows.has(m.dataflow)) {
    return Error::make(Code::unsupported, "chip %.40s: its arrays cannot be %s", chip.name.c_str(),
                       name(m.dataflow));
  }
  if (m.tile.m < 1 || m.tile.n < 1 || m.tile.k < 1) {
    return Error::make(Code::bad_value,
                       "mapping: a tile of %lld x %lld x %lld; none can be below 1", LL(m.tile.m),
                       LL(m.tile.n), LL(m.tile.k));
  }
  const Tiling tiling(chip, work, m, 0);
  const Extent& tile = tiling.tile();
  if (!fits(chip, work, m)) {
    return Error::make(Code::bad_value,
                       "mapping: a tile of %lld x %lld x %lld needs %lld, %lld, %lld bytes of "
                       "buffers a, b, c; chip %.40s has %g, %g, %g KiB",
                       LL(tile.m), LL(tile.n), LL(tile.k), LL(tile.m * tile.k * work.a_bytes()),
                       LL(tile.k * tile.n * work.b_bytes()),
                       LL(tile.m * tile.n * Work::kAccumulatorBytes), chip.name.c_str(), chip.a.kib,
                       chip.b.kib, chip.c.kib);
  }
  if (time_of(chip, work, m, kMostCycles) > kMostCycles) return takes_too_long(chip, work);
  return {};
}

/// The whole account of a work on a chip.
inline Report account(const Chip& chip, const Work& work, const Mapping& mapping,
                      const Trace* trace = nullptr) {
  Report r;
  r.chip = chip.name;
  r.extent = work.extent;
  r.batch = work.batch;
  r.input_bytes = work.input_bytes();
  r.a = work.a;
  r.b = work.b;
  r.c = work.c;
  r.mapping = mapping;
  double mapped = 0;
  for (Index die = 0; die < chip.dies; ++die) {
    const Tiling tiling(chip, work, mapping, die);
    Timer timer(chip, work, mapping, tiling, die, true, INT64_MAX, trace);
    tiling.lower(timer);
    if (die == 0 || timer.end() > r.cycles) timer.write_times(r);
    r.counts += timer.counts();
    r.folds += timer.folds();
    mapped += timer.mapped();
  }
  const Array& array = chip.array;
  const double elements = static_cast<double>(array.rows * array.columns);
  const Index mac = cycles_per_mac(array, work.a, work.b);
  if (r.folds != 0) r.mapping_efficiency = mapped / (static_cast<double>(r.folds) * elements);
  if (r.cycles != 0) {
    r.utilization =
        static_cast<double>(r.counts.macs) * static_cast<double>(mac) /
        (static_cast<double>(r.cycles) * elements * static_cast<double>(array.count * chip.dies));
  }
  r.seconds = static_cast<double>(r.cycles) / (chip.clock_mhz * 1e6);
  const double mac_pj = is_int8(work.b)                            ? chip.energy.mac_s8_pj
                        : work.a != DType::f32 && work.a == work.b ? chip.energy.mac_f16_pj
                                                                   : chip.energy.mac_f32_pj;
  r.energy = energy_of(r.counts, chip.energy, mac_pj, r.seconds);
  return r;
}

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
