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

/// The last die's end, or anything above `limit`.
inline Index time_of(const Chip& chip, const Work& work, const Mapping& mapping, Index limit) {
  Index end = 0;
  for (Index die = 0; die < chip.dies && end <= limit; ++die) {
    const Tiling tiling(chip, work, mapping, die);
    Timer timer(chip, work, mapping, tiling, die, false, limit);
    tiling.lower(timer);
    if (timer.end() > end) end = timer.end();
  }
  return end;
}

namespace detail {

/// Tile sizes for an extent: all of it, half, a quarter, ... in multiples of unit, down to unit.
class Sizes {
 public:
  Sizes(Index extent, Index unit) {
    Index pieces = 1;
    do {
      const Index size = round_up(divide_up(extent, pieces), unit);
      const Index clipped = size < extent ? size : extent;
      if (count_ == 0 || clipped < size_[count_ - 1]) size_[count_++] = clipped;
      if (size <= unit) break;
      pieces *= 2;
    } while (count_ < kMost);
  }
  const Index* begin() const { return size_; }
  const Index* end() const { return size_ + count_; }

 private:
  static constexpr int kMost = 48;
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
    const Sizes ms(work_.extent.m, ws   ? kStreamedPiece
                                   : os ? r
                                        : c),
        ns(work_.extent.n, ws || os ? c : kStreamedPiece),
        ks(work_.extent.k, os ? kStreamedPiece : r);
    Mapping m;
    m.dataflow = dataflow;
    for (const Mapping::Split split : {Mapping::Split::rows, Mapping::Split::columns}) {
      m.split = split;
      if (chip_.dies == 1 && split == Mapping::Split::columns) break;
      for (const Index tile_k : ks) {
        for (const Index tile_n : ns) {
          for (const Index tile_m : ms) {
            m.tile = {tile_m, tile_n, tile_k};
            for (const Mapping::Order order :
                 {Mapping::Order::columns_outer, Mapping::Order::rows_outer}) {
              m.order = order;
              // One tile of C at a time makes another order of stores, which may be faster.
              m.results = Tiling::kMostResults;
              consider(m);
              if (!chip_.c.double_buffered) continue;
              m.results = 1;
              consider(m);
            }
          }
        }
      }
    }
  }

  void consider(const Mapping& m) {
    const Tiling tiling(chip_, work_, m, 0);  // the first die's share is the largest
    if (!tiling.fits()) return;
    fits_ = true;
    const double bytes = tiling.dram_bytes();
    if (bytes / dram_rate_ > static_cast<double>(time_)) return;
    const Index bound = array_bound(m, tiling);
    if (bound > time_ || (bound == time_ && bytes >= bytes_)) return;
    const Index time = time_of(chip_, work_, m, time_);
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
        tiles(part.m, tile.m) * tiles(part.n, tile.n) * tiles(part.k, tile.k) *
        static_cast<double>(work_.batch) *
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
  if (macs <= 0x1p58) return {};
  return Error::make(Code::bad_shape, "gemm: %lld x %lld x %lld x %lld is more than 2^58 products",
                     static_cast<long long>(work.batch), static_cast<long long>(work.extent.m),
                     static_cast<long long>(work.extent.n), static_cast<long long>(work.extent.k));
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
  if (!tiling.fits()) {
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
