// The one lowering: a product and a mapping become a program of tiles, which the timing walker
// (timing.hpp) and the functional walker (values.hpp) both read. The program is not stored: lower()
// hands out one instruction after the other.
//
//   for each product, for each tile of C in the mapping's order
//     for each slice of k: load a, load b (unless the buffer still has them), multiply
//     load the residual, epilogue, store     (after the next tile's first multiply, if buffer c has
//                                             room for two tiles: so loads run ahead of stores)
//
// Buffers hold whole tiles in slots that are filled in turn. An operand that would be needed again
// stays if all its tiles, or the strip that the inner loop repeats, fit; otherwise it streams.
//
// A convolution's rows are cut along one axis of its output: tiles are some images, or some planes,
// lines or positions of a line of one. A tile of A is the piece of the image that its rows and taps
// touch. Or, if the mapping says so, buffer a holds lines of the image from the first tile that
// touches them to the last: a tile then loads, once for all k, what no tile before it has brought.
//
// A reader that recognizes a steady state, when an iteration of a loop leaves it as an earlier one
// did, may skip the iterations that are alike: see Repeats.
#pragma once

#include <bit>

#include "quern/sim/rows.hpp"
#include "quern/sim/work.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// Steps that quantizing one element takes: its magnitude, a multiplication, a conversion.
inline constexpr Index kQuantizeSteps = 3;

struct Instruction {
  enum class Kind : std::uint8_t {
    quantize,  ///< rows m .. m + size.m of A become s8: read, scaled by the vector unit, written
    load_a,    ///< rows of m, terms of k, into slot a
    load_b,    ///< terms of k, columns of n, into slot b
    load_c,    ///< the residual of a tile, to the vector unit
    multiply,  ///< slot c (+)= slot a x slot b
    epilogue,  ///< on slot c
    store,     ///< slot c to C
  };
  Kind kind = Kind::multiply;
  Index product = 0;          ///< of the batch
  Index rows = 0;             ///< number of the tile's rows: see RowTiles
  Index m = 0, n = 0, k = 0;  ///< first row, column, term
  Extent size;                ///< of the tile
  Index a = 0, b = 0, c = 0;  ///< slots
  bool first = false;         ///< multiply: slot c begins at 0
  bool last = false;          ///< multiply: the sums are complete
  Index dram_bytes = 0;       ///< read or written
  Index link_bytes = 0;       ///< received from other dies
};
constexpr const char* name(Instruction::Kind k) {
  constexpr const char* kNames[] = {"quantize", "load a",   "load b", "load c",
                                    "multiply", "epilogue", "store"};
  return kNames[static_cast<std::uint8_t>(k)];
}

/// Where a reader stands between two iterations of a loop.
struct Repeats {
  /// Loops: over tiles of rows, by the axes of Patches; of columns; over slices of k; products.
  enum Level { images, depth, height, width, columns, terms, products, kLevels };
  Level level = images;
  Index left = 0;             ///< iterations to come that are like this one
  Index at = 0, step = 0;     ///< multiplies made, of them by this iteration
  Index a = 0, b = 0, c = 0;  ///< the slots that the next iteration begins with
  bool remember = true;       ///< compare later iterations with this one
};

/// One die's share of a work, and how its buffers are used.
class Tiling {
 public:
  static constexpr Index kMostSlots = 64;   ///< of a buffer
  static constexpr Index kMostResults = 4;  ///< tiles of C in flight
  static constexpr Index kMostAhead = 8;    ///< tiles of lines that do not all stay

  Tiling(const Chip& chip, const Work& work, const Mapping& mapping, Index die)
      : work_(work),
        mapping_(mapping),
        die_(die),
        dies_(chip.dies),
        rows_(work.patches, mapping, mapping.split == Mapping::Split::rows ? die : 0,
              mapping.split == Mapping::Split::rows ? chip.dies : 1),
        part_{rows_.all(), work.extent.n, work.extent.k} {
    if (mapping.split == Mapping::Split::columns) {
      const Index all = work.extent.n, each = divide_up(all, dies_);
      n0_ = least(each * die, all);
      part_.n = least(each, all - n0_);
    }
    tile_ = {rows_.tile(), least(mapping.tile.n, part_.n), least(mapping.tile.k, part_.k)};
    m_tiles_ = rows_.tiles();
    n_tiles_ = tile_.n == 0 ? 0 : divide_up(part_.n, tile_.n);
    k_tiles_ = tile_.k == 0 ? 1 : divide_up(part_.k, tile_.k);
    n_whole_ = tile_.n == 0 ? 0 : part_.n / tile_.n;
    // Pieces of an image differ in size, whatever k they serve.
    k_whole_ = tile_.k == 0 || (work.patches.overlap && !lines()) ? 0 : part_.k / tile_.k;
    a_pieces_ = lines() ? 1 : k_tiles_;
    const Index b_room = slots(chip.b, tile_.k * tile_.n * work.b_bytes()),
                c_room = slots(chip.c, tile_.m * tile_.n * Work::kAccumulatorBytes);
    const Index a_room = lines() ? slots_of_lines(chip.a) : slots(chip.a, largest_a());
    fits_ = a_room > 0 && b_room > 0 && c_room > 0;
    if (!fits_) return;
    const bool rows_outer = mapping.order == Mapping::Order::rows_outer;
    a_stays_ =
        n_tiles_ == 1 || a_room >= m_tiles_ * a_pieces_ || (rows_outer && a_room >= a_pieces_);
    b_stays_ =
        m_tiles_ == 1 || b_room >= n_tiles_ * k_tiles_ || (!rows_outer && b_room >= k_tiles_);
    a_slots_ = least(a_room, work.batch * m_tiles_ * a_pieces_);
    b_slots_ = least(b_room, work.batch * n_tiles_ * k_tiles_);
    const Index results = mapping.results < kMostResults ? mapping.results : kMostResults;
    c_slots_ = chip.c.double_buffered && results > 1 ? least(c_room, results) : 1;
  }

  bool fits() const { return fits_; }  ///< at least one tile of each operand
  bool empty() const { return m_tiles_ == 0 || n_tiles_ == 0 || work_.batch == 0; }
  const Extent& part() const { return part_; }
  const Extent& tile() const { return tile_; }
  const RowTiles& rows() const { return rows_; }
  Index a_slots() const { return a_slots_; }
  Index b_slots() const { return b_slots_; }
  Index c_slots() const { return c_slots_; }

  /// DRAM bytes that the whole program moves; of pieces of an image that overlap, at least.
  double dram_bytes() const {
    const auto d = [](Index x) { return static_cast<double>(x); };
    const double a = rows_.elements() * d(work_.a_bytes()) * d(a_stays_ ? 1 : n_tiles_),
                 b = d(part_.n) * d(part_.k) * d(work_.b_bytes()) * d(b_stays_ ? 1 : m_tiles_),
                 c = d(part_.m) * d(part_.n);
    const double activations =
        work_.on_chip ? 0 : a / d(remote() ? dies_ : 1) + c * d(size_of(work_.c));
    return d(work_.batch) * (activations + b + c * d(work_.residual_bytes));
  }

  /// What the largest load of a receives over links.
  Index link_bytes() const { return remote() ? largest_a() / dies_ * (dies_ - 1) + dies_ : 0; }

  /// Calls emit(instruction) for the whole program until it returns false. Between iterations,
  /// emit.skip(repeats), if there is such a function, says how many to leave out.
  template <class Emit>
  bool lower(Emit&& emit) const {
    // A die without columns of its own still quantizes its share of the rows.
    if (work_.quantizes && !lower_quantize(emit)) return false;
    if (empty()) return true;
    Progress at;
    for (at.product = 0; at.product < work_.batch; ++at.product) {
      if (mapping_.order == Mapping::Order::rows_outer) {
        for (Index mi = 0; mi < m_tiles_; ++mi) {
          for (Index ni = 0; ni < n_tiles_; ++ni) {
            if (!lower_tile(mi, ni, at, emit)) return false;
            ni += leap_columns(ni, mi, 1, at, emit);
          }
          mi += leap_rows(mi, 0, n_tiles_, at, emit);
        }
      } else {
        for (Index ni = 0; ni < n_tiles_; ++ni) {
          for (Index mi = 0; mi < m_tiles_; ++mi) {
            if (!lower_tile(mi, ni, at, emit)) return false;
            mi += leap_rows(mi, ni, 1, at, emit);
          }
          ni += leap_columns(ni, 0, m_tiles_, at, emit);
        }
      }
      at.product += leap(Repeats::products, {0, work_.batch - 1}, at.product, m_tiles_ * n_tiles_,
                         m_tiles_, n_tiles_, at, emit);
    }
    return !at.has_pending || finish(at.pending, emit);
  }

 private:
  struct Progress {
    Index product = 0;
    Index a_loads = 0, b_loads = 0, results = 0;
    Instruction pending;  ///< the tile whose epilogue and store are still to come
    bool has_pending = false;
  };

  static Index least(Index a, Index b) { return a < b ? a : b; }
  /// Activations of other dies come over links.
  bool remote() const { return mapping_.split == Mapping::Split::columns && dies_ > 1; }
  bool lines() const { return rows_.lines(); }

  static Index slots(double room, Index tile_bytes) {
    if (room < static_cast<double>(tile_bytes)) return 0;
    if (tile_bytes == 0 || room >= static_cast<double>(tile_bytes) * kMostSlots) return kMostSlots;
    return static_cast<Index>(room) / tile_bytes;
  }
  static Index slots(const Buffer& buffer, Index tile_bytes) {
    return slots(buffer.kib * 1024, tile_bytes);
  }

  /// A slot is for what a tile brings. What earlier tiles brought and the oldest still needs comes
  /// on top; where images or groups follow each other, that of two.
  Index slots_of_lines(const Buffer& buffer) const {
    const RowTiles::Lines x = rows_.measure_lines();
    const double room = buffer.kib * 1024;
    const auto bytes = [&](Index elements) {
      return static_cast<double>(elements * work_.a_bytes());
    };
    const bool all = room >= bytes(x.all) + (work_.batch > 1 ? bytes(x.kept) : 0);
    if (all && m_tiles_ <= kMostSlots) return m_tiles_ < 1 ? 1 : m_tiles_;
    const bool several = work_.batch > 1 || x.images > 1;
    return least(slots(room - bytes(x.kept) * (several ? 2 : 1), x.fresh * work_.a_bytes()),
                 kMostAhead);
  }

  /// No tile of A is larger.
  Index largest_a() const {
    const Index piece = rows_.largest();
    return (lines() ? piece : least(piece, tile_.m * tile_.k)) * work_.a_bytes();
  }

  /// All slices of one tile of C.
  template <class Emit>
  bool lower_tile(Index mi, Index ni, Progress& at, Emit& emit) const {
    Instruction x;
    x.product = at.product;
    x.rows = mi;
    x.m = rows_.first(mi);
    x.n = n0_ + ni * tile_.n;
    x.size.m = rows_.size(mi);
    x.size.n = least(tile_.n, part_.n - ni * tile_.n);
    x.c = at.results % c_slots_;
    const Index a_number = (at.product * m_tiles_ + mi) * a_pieces_,
                b_number = (at.product * n_tiles_ + ni) * k_tiles_;
    for (Index ki = 0; ki < k_tiles_; ++ki) {
      x.k = ki * tile_.k;
      x.size.k = least(tile_.k, part_.k - x.k);
      const bool a_begins = ki == 0 || !lines(), loads_a = a_begins && (!a_stays_ || ni == 0),
                 loads_b = !b_stays_ || mi == 0;
      if (a_begins) x.a = (a_stays_ ? a_number + ki : at.a_loads) % a_slots_;
      x.b = (b_stays_ ? b_number + ki : at.b_loads) % b_slots_;
      if (loads_a) {
        ++at.a_loads;
        if (!emit(load_a(x))) return false;
      }
      if (loads_b) {
        ++at.b_loads;
        if (!emit(load_b(x))) return false;
      }
      x.kind = Instruction::Kind::multiply;
      x.first = ki == 0;
      x.last = ki + 1 == k_tiles_;
      if (!emit(x)) return false;
      if (at.has_pending) {
        at.has_pending = false;
        if (!finish(at.pending, emit)) return false;
      }
      Index n = 0;
      if (may_skip(emit, {0, k_whole_ - 1}, ki)) {
        const Index next_a = a_stays_ ? a_number + ki + 1 : at.a_loads,
                    next_b = b_stays_ ? b_number + ki + 1 : at.b_loads;
        n = skip(emit, {Repeats::terms, k_whole_ - 1 - ki, at.results * k_tiles_ + ki, 1,
                        lines() ? x.a : next_a % a_slots_, next_b % b_slots_, at.results % c_slots_,
                        ki + 1 == begin_of_looks(ki + 1)});
      }
      ki += n;
      if (loads_a && !lines()) at.a_loads += n;
      if (loads_b) at.b_loads += n;
    }
    ++at.results;
    at.pending = x;
    at.has_pending = c_slots_ > 1;
    return at.has_pending || finish(x, emit);
  }

  /// Whether to look for a steady state after iteration `done`, one of the run. That takes as long
  /// as a few instructions: a state is remembered after iterations 2^i - 1, and the next few are
  /// compared with it.
  template <class Emit>
  static bool may_skip(const Emit&, const Axis::Run& run, Index done) {
    constexpr Index kLongestPeriod = 8;
    const Index number = done - run.first + 1;
    return requires(Emit & e, const Repeats& r) { e.skip(r); }
    &&number >= 1 && run.last - done >= 3 && number - begin_of_looks(number) <= kLongestPeriod;
  }
  static Index begin_of_looks(Index number) {
    return static_cast<Index>(std::bit_floor(static_cast<std::uint64_t>(number)));
  }
  template <class Emit>
  static Index skip(Emit& emit, const Repeats& r) {
    if constexpr (requires { emit.skip(r); }) return emit.skip(r);
    return 0;
  }

  /// How many iterations to leave out of a loop over tiles of C, `tiles` of them in an iteration;
  /// the next begins with tiles next_m and next_n of A and B.
  template <class Emit>
  Index leap(Repeats::Level level, const Axis::Run& run, Index done, Index tiles, Index next_m,
             Index next_n, Progress& at, Emit& emit) const {
    if (!may_skip(emit, run, done)) return 0;
    const Index a = a_stays_ ? (at.product * m_tiles_ + next_m) * a_pieces_ : at.a_loads,
                b = b_stays_ ? (at.product * n_tiles_ + next_n) * k_tiles_ : at.b_loads;
    const Index number = done - run.first + 1;
    const Index n =
        skip(emit, {level, run.last - done, at.results * k_tiles_, tiles * k_tiles_, a % a_slots_,
                    b % b_slots_, at.results % c_slots_, number == begin_of_looks(number)});
    at.results += n * tiles;
    at.a_loads += n * tiles * a_pieces_;
    at.b_loads += n * tiles * k_tiles_;
    at.pending.c = (at.results + c_slots_ - 1) % c_slots_;
    return n;
  }

  template <class Emit>
  Index leap_columns(Index ni, Index next_m, Index tiles, Progress& at, Emit& emit) const {
    return leap(Repeats::columns, {0, n_whole_ - 1}, ni, tiles, next_m, ni + 1, at, emit);
  }

  /// By every axis that tile mi is the last of, from the innermost.
  template <class Emit>
  Index leap_rows(Index mi, Index next_n, Index tiles, Progress& at, Emit& emit) const {
    Index m = mi;
    Index below = 1;  // tiles of rows in an iteration
    for (int d = rows_.cut(); d >= 0; --d) {
      const Index count = rows_.count(d), t = m / below % count;
      const Index n = leap(static_cast<Repeats::Level>(d), rows_.alike(d, t), t, tiles * below,
                           m + 1, next_n, at, emit);
      m += n * below;
      if (t + n + 1 < count) break;
      below *= count;
    }
    return m - mi;
  }

  Instruction load_a(Instruction x) const {
    x.kind = Instruction::Kind::load_a;
    if (lines()) x.size.k = part_.k;
    const Index bytes = rows_.piece(x.rows, x.k, x.size.k) * work_.a_bytes();
    // Each die reads its part from its own memory and sends it to the others.
    x.dram_bytes = remote() ? bytes * (die_ + 1) / dies_ - bytes * die_ / dies_ : bytes;
    x.link_bytes = bytes - x.dram_bytes;
    if (work_.on_chip) x.dram_bytes = 0;
    return x;
  }
  Instruction load_b(Instruction x) const {
    x.kind = Instruction::Kind::load_b;
    x.dram_bytes = x.size.k * x.size.n * work_.b_bytes();
    return x;
  }

  template <class Emit>
  bool finish(Instruction x, Emit&& emit) const {
    const Index elements = x.size.m * x.size.n;
    if (work_.residual_bytes != 0) {
      x.kind = Instruction::Kind::load_c;
      x.dram_bytes = elements * work_.residual_bytes;
      if (!emit(x)) return false;
    }
    x.kind = Instruction::Kind::epilogue;
    x.dram_bytes = 0;
    if (!emit(x)) return false;
    x.kind = Instruction::Kind::store;
    x.dram_bytes = work_.on_chip ? 0 : elements * size_of(work_.c);
    return emit(x);
  }

  /// All rows first: a row's scale needs the whole row. Dies that share columns share the rows of
  /// this out.
  template <class Emit>
  bool lower_quantize(Emit&& emit) const {
    const Index share = remote() ? divide_up(part_.m, dies_) : part_.m,
                begin = remote() ? least(share * die_, part_.m) : 0,
                end = least(begin + share, part_.m);
    for (Index p = 0; p < work_.batch; ++p) {
      for (Index m = begin; m < end; m += tile_.m) {
        Instruction x;
        x.kind = Instruction::Kind::quantize;
        x.product = p;
        x.m = rows_.first(0) + m;
        x.size = {least(tile_.m, end - m), 0, part_.k};
        x.dram_bytes = x.size.m * x.size.k * size_of(work_.a);  // read; a byte each is written
        if (!emit(x)) return false;
      }
    }
    return true;
  }

  const Work& work_;
  const Mapping& mapping_;
  const Index die_, dies_;
  const RowTiles rows_;
  Extent part_, tile_;
  Index n0_ = 0;
  Index m_tiles_ = 0, n_tiles_ = 0, k_tiles_ = 0;
  Index n_whole_ = 0, k_whole_ = 0;  ///< tiles that are as large as any, and alike
  Index a_pieces_ = 0;               ///< of a tile of rows
  Index a_slots_ = 0, b_slots_ = 0, c_slots_ = 0;
  bool fits_ = false, a_stays_ = false, b_stays_ = false;
};

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
