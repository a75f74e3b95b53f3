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
// A reader that recognizes a steady state, when one iteration of a loop leaves it as the iteration
// before did, may skip the iterations that are alike: see Repeats.
#pragma once

#include "quern/ops/gemm.hpp"
#include "quern/sim/report.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// A problem with its number of rows: `batch` products of one extent.
struct Work {
  Extent extent;
  Index batch = 1;
  DType a = DType::s8, b = DType::s8, c = DType::s32;
  bool quantizes = false;          ///< a holds floats that become s8 first
  Index residual_bytes = 0;        ///< of one element, if the epilogue adds one
  Index steps = 0, functions = 0;  ///< of the epilogue and the conversion, for one element
  bool on_chip = false;            ///< A is in buffer a already, and C stays there

  /// Rows of all batch elements that share weights are one product.
  static Work of(const GemmProblem& p, Index m, Index a_batch, Index residual_bytes) {
    Work w;
    w.batch = p.batch == 1 ? 1 : p.batch;
    w.extent = {p.batch == 1 ? m * a_batch : m, p.n, p.k};
    w.a = p.a;
    w.b = p.b;
    w.c = p.c;
    w.quantizes = is_float(p.a) && is_int8(p.b);
    w.steps = (w.quantizes ? 1 : 0) + (p.c == DType::s32 ? 0 : 1);
    for (const Step& s : p.epilogue) {
      using K = Step::Kind;
      const bool function =
          s.kind == K::gelu || s.kind == K::gelu_tanh || s.kind == K::silu || s.kind == K::custom;
      w.functions += function ? 1 : 0;
      w.steps += function ? 3 : s.kind == K::residual || s.kind == K::clamp ? 2 : 1;
      if (s.kind == K::residual) w.residual_bytes = residual_bytes;
    }
    return w;
  }
  /// Bytes of A and C together.
  double activation_bytes() const {
    const auto d = [](Index x) { return static_cast<double>(x); };
    return d(batch) * d(extent.m) * (d(extent.k) * d(a_bytes()) + d(extent.n) * d(size_of(c)));
  }
  /// Bytes of an element in buffer a.
  Index a_bytes() const { return quantizes ? 1 : size_of(a); }
  Index b_bytes() const { return size_of(b); }
  static constexpr Index kAccumulatorBytes = 4;
};

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

/// Where a reader stands between two iterations of a loop: level 0 (the inner one over tiles of C),
/// 1 (the outer one), 2 (slices of k) or 3 (products).
struct Repeats {
  int level = 0;
  Index left = 0;             ///< iterations to come that are like the last two
  Index a = 0, b = 0, c = 0;  ///< the slots that the next iteration begins with
};

/// One die's share of a work, and how its buffers are used.
class Tiling {
 public:
  static constexpr Index kMostSlots = 64;   ///< of a buffer
  static constexpr Index kMostResults = 4;  ///< tiles of C in flight

  Tiling(const Chip& chip, const Work& work, const Mapping& mapping, Index die)
      : work_(work), mapping_(mapping), die_(die), dies_(chip.dies) {
    const Extent& e = work.extent;
    part_ = e;
    const bool by_rows = mapping.split == Mapping::Split::rows;
    const Index all = by_rows ? e.m : e.n, share = divide_up(all, dies_);
    const Index begin = share * die < all ? share * die : all,
                size = begin + share < all ? share : all - begin;
    (by_rows ? m0_ : n0_) = begin;
    (by_rows ? part_.m : part_.n) = size;
    tile_ = {least(mapping.tile.m, part_.m), least(mapping.tile.n, part_.n),
             least(mapping.tile.k, part_.k)};
    m_tiles_ = tile_.m == 0 ? 0 : divide_up(part_.m, tile_.m);
    n_tiles_ = tile_.n == 0 ? 0 : divide_up(part_.n, tile_.n);
    k_tiles_ = tile_.k == 0 ? 1 : divide_up(part_.k, tile_.k);

    const Index a_room = slots(chip.a, tile_.m * tile_.k * work.a_bytes()),
                b_room = slots(chip.b, tile_.k * tile_.n * work.b_bytes()),
                c_room = slots(chip.c, tile_.m * tile_.n * Work::kAccumulatorBytes);
    fits_ = a_room > 0 && b_room > 0 && c_room > 0;
    if (!fits_) return;
    const bool rows_outer = mapping.order == Mapping::Order::rows_outer;
    a_stays_ = n_tiles_ == 1 || a_room >= m_tiles_ * k_tiles_ || (rows_outer && a_room >= k_tiles_);
    b_stays_ =
        m_tiles_ == 1 || b_room >= n_tiles_ * k_tiles_ || (!rows_outer && b_room >= k_tiles_);
    a_slots_ = least(a_room, work.batch * m_tiles_ * k_tiles_);
    b_slots_ = least(b_room, work.batch * n_tiles_ * k_tiles_);
    const Index results = mapping.results < kMostResults ? mapping.results : kMostResults;
    c_slots_ = chip.c.double_buffered && results > 1 ? least(c_room, results) : 1;
  }

  bool fits() const { return fits_; }  ///< at least one tile of each operand
  bool empty() const { return m_tiles_ == 0 || n_tiles_ == 0 || work_.batch == 0; }
  const Extent& part() const { return part_; }
  const Extent& tile() const { return tile_; }
  Index a_slots() const { return a_slots_; }
  Index b_slots() const { return b_slots_; }
  Index c_slots() const { return c_slots_; }
  Index multiplies() const { return work_.batch * m_tiles_ * n_tiles_ * k_tiles_; }

  /// DRAM bytes that the whole program moves.
  double dram_bytes() const {
    const auto d = [](Index x) { return static_cast<double>(x); };
    const double a = d(part_.m) * d(part_.k) * d(work_.a_bytes()) * d(a_stays_ ? 1 : n_tiles_),
                 b = d(part_.n) * d(part_.k) * d(work_.b_bytes()) * d(b_stays_ ? 1 : m_tiles_),
                 c = d(part_.m) * d(part_.n);
    const double activations =
        work_.on_chip ? 0 : a / d(remote() ? dies_ : 1) + c * d(size_of(work_.c));
    return d(work_.batch) * (activations + b + c * d(work_.residual_bytes));
  }

  /// What the largest load of a receives over links.
  Index link_bytes() const {
    return remote() ? tile_.m * tile_.k * work_.a_bytes() / dies_ * (dies_ - 1) + dies_ : 0;
  }

  /// Calls emit(instruction) for the whole program until it returns false. Between iterations,
  /// emit.skip(repeats), if there is such a function, says how many to leave out.
  template <class Emit>
  bool lower(Emit&& emit) const {
    // A die without columns of its own still quantizes its share of the rows.
    if (work_.quantizes && !lower_quantize(emit)) return false;
    if (empty()) return true;
    const bool rows_outer = mapping_.order == Mapping::Order::rows_outer;
    const Index outer = rows_outer ? m_tiles_ : n_tiles_, inner = rows_outer ? n_tiles_ : m_tiles_;
    Index a_loads = 0, b_loads = 0, results = 0;
    Instruction pending;  // the tile whose epilogue and store are still to come
    bool has_pending = false;
    for (Index p = 0; p < work_.batch; ++p) {
      // Iterations are alike if their tiles are whole; the first loads what stays.
      const Index k_alike = tile_.k == 0 ? 0 : part_.k / tile_.k;
      const Index inner_alike = (rows_outer ? part_.n / tile_.n : part_.m / tile_.m),
                  outer_alike = (rows_outer ? part_.m / tile_.m : part_.n / tile_.n);
      for (Index o = 0; o < outer; ++o) {
        for (Index i = 0; i < inner; ++i, ++results) {
          const Index mi = rows_outer ? o : i, ni = rows_outer ? i : o;
          Instruction x;
          x.product = p;
          x.m = m0_ + mi * tile_.m;
          x.n = n0_ + ni * tile_.n;
          x.size.m = least(tile_.m, part_.m - mi * tile_.m);
          x.size.n = least(tile_.n, part_.n - ni * tile_.n);
          x.c = results % c_slots_;
          for (Index ki = 0; ki < k_tiles_; ++ki) {
            x.k = ki * tile_.k;
            x.size.k = least(tile_.k, part_.k - x.k);
            const Index a_number = (p * m_tiles_ + mi) * k_tiles_ + ki,
                        b_number = (p * n_tiles_ + ni) * k_tiles_ + ki;
            x.a = (a_stays_ ? a_number : a_loads) % a_slots_;
            x.b = (b_stays_ ? b_number : b_loads) % b_slots_;
            if (!a_stays_ || ni == 0) {
              ++a_loads;
              if (!emit(load_a(x))) return false;
            }
            if (!b_stays_ || mi == 0) {
              ++b_loads;
              if (!emit(load_b(x))) return false;
            }
            x.kind = Instruction::Kind::multiply;
            x.first = ki == 0;
            x.last = ki + 1 == k_tiles_;
            if (!emit(x)) return false;
            if (has_pending) {
              has_pending = false;
              if (!finish(pending, emit)) return false;
            }
            const Index n = skip(emit, 2, ki, k_alike - ki - 1, a_number + 1, b_number + 1, a_loads,
                                 b_loads, results);
            ki += n;
            if (!a_stays_ || ni == 0) a_loads += n;
            if (!b_stays_ || mi == 0) b_loads += n;
          }
          pending = x;
          has_pending = c_slots_ > 1;
          if (!has_pending && !finish(x, emit)) return false;
          const Index next_m = rows_outer ? mi : mi + 1, next_n = rows_outer ? ni + 1 : ni;
          const Index n = skip(emit, 0, i, inner_alike - i - 1, (p * m_tiles_ + next_m) * k_tiles_,
                               (p * n_tiles_ + next_n) * k_tiles_, a_loads, b_loads, results + 1);
          i += n;
          results += n;
          a_loads += n * k_tiles_;
          b_loads += n * k_tiles_;
          pending.c = results % c_slots_;
        }
        const Index next = o + 1;
        const Index n = skip(
            emit, 1, o, outer_alike - next, (p * m_tiles_ + (rows_outer ? next : 0)) * k_tiles_,
            (p * n_tiles_ + (rows_outer ? 0 : next)) * k_tiles_, a_loads, b_loads, results);
        o += n;
        results += n * inner;
        a_loads += n * inner * k_tiles_;
        b_loads += n * inner * k_tiles_;
        pending.c = (results + c_slots_ - 1) % c_slots_;
      }
      const Index n = skip(emit, 3, p, work_.batch - p - 1, (p + 1) * m_tiles_ * k_tiles_,
                           (p + 1) * n_tiles_ * k_tiles_, a_loads, b_loads, results);
      p += n;
      results += n * outer * inner;
      a_loads += n * outer * inner * k_tiles_;
      b_loads += n * outer * inner * k_tiles_;
      pending.c = (results + c_slots_ - 1) % c_slots_;
    }
    return !has_pending || finish(pending, emit);
  }

 private:
  static Index least(Index a, Index b) { return a < b ? a : b; }
  /// Activations of other dies come over links.
  bool remote() const { return mapping_.split == Mapping::Split::columns && dies_ > 1; }

  static Index slots(const Buffer& buffer, Index tile_bytes) {
    const double room = buffer.kib * 1024;
    if (tile_bytes == 0 || room >= static_cast<double>(tile_bytes) * kMostSlots) return kMostSlots;
    return static_cast<Index>(room) / tile_bytes;
  }

  /// After iteration `done` of a loop; the next begins with tiles of these numbers.
  template <class Emit>
  Index skip(Emit&& emit, int level, Index done, Index left, Index a_number, Index b_number,
             Index a_loads, Index b_loads, Index results) const {
    if constexpr (requires(const Repeats& r) { emit.skip(r); }) {
      // Looking for a steady state takes as long as a few instructions: it is done after iterations
      // 2^i - 1 and 2^i, whose states are compared.
      const bool looks = (done & (done - 1)) == 0 || (done & (done + 1)) == 0;
      if (left < 3 || !looks) return 0;
      const Index a = a_stays_ ? a_number : a_loads, b = b_stays_ ? b_number : b_loads;
      return emit.skip({level, left, a % a_slots_, b % b_slots_, results % c_slots_});
    }
    return 0;
  }

  Instruction load_a(Instruction x) const {
    x.kind = Instruction::Kind::load_a;
    const Index bytes = x.size.m * x.size.k * work_.a_bytes();
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
        x.m = m0_ + m;
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
  Extent part_, tile_;
  Index m0_ = 0, n0_ = 0;
  Index m_tiles_ = 0, n_tiles_ = 0, k_tiles_ = 0;
  Index a_slots_ = 0, b_slots_ = 0, c_slots_ = 0;
  bool fits_ = false, a_stays_ = false, b_stays_ = false;
};

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
