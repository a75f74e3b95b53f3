// The timing walker: how long a tile program takes, and what it moves. Every unit (array, DMA
// engines, DRAM, vector unit, link) does its instructions in program order and begins each as soon
// as its operands are there and its destination is free; units run beside each other. Nothing here
// looks at values or allocates.
//
// A transfer takes the DRAM for its bytes in whole bursts at the sustained bandwidth. A load takes
// an engine too, until the data has arrived, a latency later; stores are posted. Times are maxima
// and sums of durations in a fixed order, so a faster part never makes a program slower.
#pragma once

#include <algorithm>
#include <functional>

#include "quern/sim/program.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// Something a unit did, in cycles from the beginning: for traces.
struct Event {
  enum class Unit : std::uint8_t { array, dma, vector, link };

  Unit unit = Unit::array;
  Index die = 0;
  const char* what = "";      ///< "multiply", "load a", "epilogue", ...
  Index product = 0;          ///< of the batch
  Index m = 0, n = 0, k = 0;  ///< first row, column and term of the tile
  Index begin = 0, end = 0;
};
constexpr const char* name(Event::Unit u) {
  constexpr const char* kNames[] = {"array", "dma", "vector", "link"};
  return kNames[static_cast<std::uint8_t>(u)];
}
using Trace = std::function<void(const Event&)>;

/// One die's program. Feed it to lower(), then read it.
class Timer {
 public:
  /// Stops, returning false, beyond `limit` cycles. Counts only if `counting`.
  Timer(const Chip& chip, const Work& work, const Mapping& mapping, const Tiling& tiling, Index die,
        bool counting, Index limit = INT64_MAX, const Trace* trace = nullptr)
      : chip_(chip),
        work_(work),
        dataflow_(mapping.dataflow),
        die_(die),
        counting_(counting),
        limit_(limit),
        trace_(trace != nullptr && *trace ? trace : nullptr),
        mac_(cycles_per_mac(chip.array, work.a, work.b)),
        dram_rate_(bytes_per_cycle(chip.dram.gb_per_s * chip.dram.efficiency)),
        link_rate_(bytes_per_cycle(chip.link.gb_per_s)),
        dram_latency_(latency(chip.dram.latency_ns)),
        link_latency_(latency(chip.link.latency_ns)),
        engines_(chip.dma.engines < kMostEngines ? chip.dma.engines : kMostEngines),
        link_span_(span_of(tiling)),
        a_used_(tiling.a_slots()),
        b_used_(tiling.b_slots()),
        c_used_(tiling.c_slots()) {
    const Index start = chip.array.start_up_cycles;
    array_free_ = results_ = load_free_ = dram_free_ = link_free_ = vector_free_ = stored_ = start;
    for (Index& e : engine_free_) e = start;
    for (Slot& s : a_) s.ready = s.busy = start;
    for (Slot& s : b_) s.ready = s.busy = start;
    for (Slot& s : c_) s.ready = start;
  }

  bool operator()(const Instruction& x) {
    switch (x.kind) {
      case Instruction::Kind::quantize:
        quantize(x);
        break;
      case Instruction::Kind::load_a:
        load(x, a_[x.a], chip_.a, Stall::dram_a);
        break;
      case Instruction::Kind::load_b:
        load(x, b_[x.b], chip_.b, Stall::dram_b);
        break;
      case Instruction::Kind::load_c:
        residual_ = transfer(x, vector_free_, x.dram_bytes);
        add(totals_.counts.dram_read_bytes, x.dram_bytes);
        break;
      case Instruction::Kind::multiply:
        multiply(x);
        break;
      case Instruction::Kind::epilogue:
        epilogue(x);
        break;
      case Instruction::Kind::store:
        store(x);
        break;
    }
    return array_free_ <= limit_ && dram_free_ <= limit_;
  }

  /// All iterations to come, if the last one only moved everything on by the time it took. Else 0.
  Index skip(const Repeats& at) {
    if (trace_ != nullptr) return 0;
    Snapshot& before = snapshot_[at.level];
    const Snapshot now = snapshot(at);
    const bool steady = before.at.left == at.left + 1 && before.count == now.count &&
                        std::equal(now.times, now.times + now.count, before.times);
    if (!steady) {
      before = now;
      return 0;
    }
    // Everything that is to come moves on, and every sum grows, as in the last iteration.
    const Index n = at.left;
    Index time = 0;
    if (!multiply_fits(n, now.array_free - before.array_free, &time) || time > kLongest) {
      array_free_ = limit_;  // more than anyone waits for
      return n;
    }
    for_each_time([&](Index& t) { t += time; });
    Totals& t = totals_;
    for (std::size_t i = 0; i < t.stalls.size(); ++i) {
      t.stalls[i] += n * (t.stalls[i] - before.totals.stalls[i]);
    }
    for (Index Totals::*cycles : {&Totals::load, &Totals::stream, &Totals::skew, &Totals::dma,
                                  &Totals::vector, &Totals::folds}) {
      t.*cycles += n * (t.*cycles - before.totals.*cycles);
    }
    t.mapped += static_cast<double>(n) * (t.mapped - before.totals.mapped);
    Counts::for_each([&](const char*, Index Counts::*c) {
      t.counts.*c += n * (t.counts.*c - before.totals.counts.*c);
    });
    // The slots that the next iteration begins with have moved on too.
    const auto rotate = [n](Slot* slot, Index used, Index from, Index to) {
      if (used > 1) std::rotate(slot, slot + used - n * (to - from + used) % used, slot + used);
    };
    rotate(a_, a_used_, before.at.a, at.a);
    rotate(b_, b_used_, before.at.b, at.b);
    rotate(c_, c_used_, before.at.c, at.c);
    before.at.left = -1;
    return n;
  }

  /// When everything is done.
  Index end() const {
    Index t = results_;
    for (const Index other : {vector_free_, stored_, dram_free_}) t = other > t ? other : t;
    return t;
  }

  /// Times of this die, as those of the chip.
  void write_times(Report& r) const {
    r.cycles = end();
    r.start_up_cycles = chip_.array.start_up_cycles;
    r.stalls = totals_.stalls;
    r.load_cycles = totals_.load;
    r.stream_cycles = totals_.stream;
    // After the last product the wavefront leaves the array, then epilogue and store remain.
    const Index tail = results_ > array_free_ ? results_ - array_free_ : 0;
    r.skew_cycles = totals_.skew + tail;
    r.compute_cycles = totals_.load + totals_.stream + r.skew_cycles;
    const Index done = array_free_ + tail;
    if (vector_free_ > done) r.stalls[index(Stall::vector)] += vector_free_ - done;
    const Index computed = vector_free_ > done ? vector_free_ : done;
    if (r.cycles > computed) r.stalls[index(Stall::store)] += r.cycles - computed;
    r.stall_cycles = r.cycles - r.start_up_cycles - r.compute_cycles;
    r.dma_cycles = totals_.dma;
    r.vector_cycles = totals_.vector;
  }
  const Counts& counts() const { return totals_.counts; }
  Index folds() const { return totals_.folds; }
  /// Processing elements that held something, summed over folds.
  double mapped() const { return totals_.mapped; }

 private:
  static constexpr Index kLongest = Index{1} << 60;
  static constexpr Index kMostEngines = 16;  // more never wait: there are few operands
  struct Slot {
    Index ready = 0;  // filled; c: free for new sums
    Index busy = 0;   // read until
    Stall why = Stall::store;
  };
  /// A product of one size: computed once for a run of equal tiles.
  struct Product {
    Extent size{-1, -1, -1};
    ArrayTime time;
    Counts counts;
    Index buffer_cycles = 0;
    double mapped = 0;
  };

  /// What only ever grows.
  struct Totals {
    std::array<Index, kStalls> stalls = {};
    Index load = 0, stream = 0, skew = 0, dma = 0, vector = 0;  // cycles
    Index folds = 0;
    double mapped = 0;
    Counts counts;
  };
  /// Everything that the future depends on, relative to array_free.
  struct Snapshot {
    Repeats at = {.left = -1};
    Index array_free = 0;
    int count = 0;
    Index times[12 + kMostEngines + 6 * Tiling::kMostSlots + 3 * Tiling::kMostResults];
    Totals totals;
  };

  /// Times that are so long past that they cannot matter any more count as the latest such.
  Snapshot snapshot(const Repeats& at) const {
    Snapshot s;
    s.at = at;
    s.array_free = array_free_;
    s.totals = totals_;
    const auto add = [&](Index t) { s.times[s.count++] = t - array_free_; };
    for (const Index t : {results_, dram_free_, larger(stored_, array_free_)}) add(t);
    // Within a tile of C, the next epilogue comes after products that are still to be made.
    add(at.level == 2 ? larger(vector_free_, array_free_) : vector_free_);
    if (chip_.array.preload) add(load_free_);
    // DRAM and engines begin nothing before dram_free. A link may, but what it brought before the
    // DRAM brings its part of the tile does not matter.
    const Index past = dram_free_ < array_free_ ? dram_free_ : array_free_;
    const Index link_past = past - link_span_;
    add(larger(residual_, past));
    for (const Index t : {quantized_, link_free_}) add(larger(t, link_past));
    for (Index e = 0; e < engines_; ++e) {
      add(larger(engine_free_[(next_engine_ + e) % engines_], past));
    }
    const auto slots = [&](const Slot* slot, Index used, Index first, Index busy_past) {
      for (Index i = 0; i < used; ++i) {
        const Slot& x = slot[(first + i) % used];
        const bool awaited = x.ready > array_free_;
        add(awaited ? x.ready : array_free_);
        add(larger(x.busy, busy_past));
        s.times[s.count++] = awaited ? static_cast<Index>(x.why) : 0;
      }
    };
    slots(a_, a_used_, at.a, link_past);
    slots(b_, b_used_, at.b, past);
    slots(c_, c_used_, at.c, past);
    return s;
  }

  template <class F>
  void for_each_time(F&& f) {
    for (Index* t : {&array_free_, &results_, &load_free_, &dram_free_, &link_free_, &vector_free_,
                     &stored_, &quantized_, &residual_}) {
      f(*t);
    }
    for (Index& t : engine_free_) f(t);
    for (Slot* slots : {a_, b_}) {
      for (Index i = 0; i < Tiling::kMostSlots; ++i) f(slots[i].ready), f(slots[i].busy);
    }
    for (Slot& s : c_) f(s.ready), f(s.busy);
  }

  Index span_of(const Tiling& tiling) const {
    const Index each = link_latency_ + cycles(tiling.link_bytes(), link_rate_);
    return each < kLongest / Tiling::kMostSlots ? each * tiling.a_slots() : kLongest;
  }

  static std::size_t index(Stall s) { return static_cast<std::size_t>(s); }
  static Index larger(Index a, Index b) { return a > b ? a : b; }
  double bytes_per_cycle(double gb_per_s) const { return gb_per_s * 1e3 / chip_.clock_mhz; }
  Index latency(double ns) const {
    return static_cast<Index>(std::ceil(ns * chip_.clock_mhz * 1e-3));
  }
  static Index cycles(Index bytes, double rate) {
    const double c = std::ceil(static_cast<double>(bytes) / rate);
    return c < static_cast<double>(kLongest) ? static_cast<Index>(c) : kLongest;
  }
  void add(Index& count, Index n) const {
    if (counting_) count += n;
  }
  void event(Event::Unit unit, const Instruction& x, const char* what, Index begin,
             Index end) const {
    if (trace_ != nullptr && end > begin) {
      (*trace_)({unit, die_, what, x.product, x.m, x.n, x.k, begin, end});
    }
  }

  /// Takes DRAM and the next engine; returns when the data is there.
  Index transfer(const Instruction& x, Index ready, Index bytes) {
    if (bytes == 0) return ready;
    const Index burst = chip_.dram.burst_bytes;
    const Index busy = cycles(round_up(bytes, burst), dram_rate_);
    const Index moving = larger(busy, cycles(bytes, chip_.dma.bytes_per_cycle));
    if (x.kind == Instruction::Kind::store) {
      // Posted: it takes its share of the DRAM, but holds no load up while it waits to be ready.
      dram_free_ += busy;
      totals_.dma += busy;
      const Index done = larger(ready + moving, dram_free_);
      event(Event::Unit::dma, x, name(x.kind), done - moving, done);
      return done;
    }
    Index& engine = engine_free_[next_engine_];
    next_engine_ = next_engine_ + 1 == engines_ ? 0 : next_engine_ + 1;
    const Index begin = larger(ready, larger(engine, dram_free_));
    dram_free_ = begin + busy;
    totals_.dma += busy;
    engine = begin + moving + dram_latency_;
    event(Event::Unit::dma, x, name(x.kind), begin, engine);
    return engine;
  }

  void load(const Instruction& x, Slot& slot, const Buffer& buffer, Stall why) {
    Index ready = slot.busy;
    if (!buffer.double_buffered) ready = larger(ready, array_free_);
    slot.why = why;
    if (x.kind == Instruction::Kind::load_a) {
      const Index else_ready = larger(ready, larger(dram_free_, engine_free_[next_engine_]));
      if (quantized_ > else_ready) slot.why = Stall::vector;
      ready = larger(ready, quantized_);
    }
    slot.ready = transfer(x, ready, x.dram_bytes);
    if (x.link_bytes != 0) {
      slot.ready = larger(slot.ready, dram_free_);  // in turn, even if this die has no part of it
      const Index begin = larger(ready, link_free_);
      link_free_ = begin + cycles(x.link_bytes, link_rate_);
      const Index there = link_free_ + link_latency_;
      event(Event::Unit::link, x, "receive a", begin, there);
      if (there > slot.ready) {
        slot.ready = there;
        slot.why = Stall::link;
      }
      add(totals_.counts.link_bytes, x.link_bytes);
    }
    add(totals_.counts.dram_read_bytes, x.dram_bytes);
    add(x.kind == Instruction::Kind::load_a ? totals_.counts.buffer_a_write_bytes
                                            : totals_.counts.buffer_b_write_bytes,
        x.dram_bytes + x.link_bytes);
  }

  void multiply(const Instruction& x) {
    if (!(product_.size == x.size)) measure(x.size);
    const ArrayTime& t = product_.time;
    Slot &a = a_[x.a], &b = b_[x.b], &c = c_[x.c];
    const bool stationary_a = dataflow_ == Dataflow::input_stationary;
    Index begin = array_free_;
    Stall why = Stall::store;
    const auto wait_for = [&](const Slot& s) {
      if (s.ready > begin) begin = s.ready, why = s.why;
    };
    if (x.first) wait_for(c);
    if (chip_.array.preload && t.load != 0) {
      // Its stationary operand may enter while the array still streams the product before.
      const Slot& stationary = stationary_a ? a : b;
      wait_for(stationary_a ? b : a);
      const Index loading = larger(load_free_, stationary.ready);
      const Index loaded = loading + t.load;
      const Index streaming = larger(begin, loaded);
      // What of the wait is loading counts as the array's own.
      const Index from = larger(loading, array_free_);
      const Index shifted = loaded > from ? loaded - from : 0;
      if (loaded > begin) why = stationary.why;
      stall(why, streaming - array_free_ - shifted);
      load_free_ = streaming + t.occupied() - t.period;
      array_free_ = load_free_ + t.stream;
      results_ = streaming + t.results() - t.load;
      totals_.load += shifted;
      totals_.stream += t.per_array * t.stream;
      totals_.skew += array_free_ - streaming - t.per_array * t.stream;
      event(Event::Unit::array, x, "multiply", streaming - shifted, array_free_);
    } else {
      wait_for(a);
      wait_for(b);
      stall(why, begin - array_free_);
      array_free_ = begin + t.occupied();
      results_ = begin + t.results();
      totals_.load += t.per_array * t.load;
      totals_.stream += t.per_array * t.stream;
      totals_.skew += t.per_array * (t.period - t.load - t.stream);
      event(Event::Unit::array, x, "multiply", begin, array_free_);
    }
    // Buffers too narrow for the array hold it up.
    const Index extra = product_.buffer_cycles - t.occupied();
    if (extra > 0) {
      stall(Stall::buffer, extra);
      array_free_ += extra;
      results_ += extra;
      load_free_ += extra;
    }
    a.busy = b.busy = array_free_;
    c.busy = results_;
    totals_.folds += t.folds;
    totals_.mapped += product_.mapped;
    if (counting_) {
      totals_.counts += product_.counts;
      if (x.first)
        totals_.counts.buffer_c_read_bytes -= x.size.m * x.size.n * Work::kAccumulatorBytes;
    }
  }

  void stall(Stall why, Index cycles) { totals_.stalls[index(why)] += cycles; }

  /// Everything about a product of this size that does not depend on when it happens.
  void measure(const Extent& e) {
    const Array& array = chip_.array;
    product_.size = e;
    product_.time = time_of(array, dataflow_, mac_, e);
    const Folds f = Folds::of(dataflow_, e);
    product_.mapped = static_cast<double>(f.rows) * static_cast<double>(f.columns);
    const Index rows = divide_up(f.rows, array.rows), columns = divide_up(f.columns, array.columns);
    Counts& c = product_.counts;
    c = {};
    c.macs = c.register_a = c.register_b = c.register_c = e.macs();
    // The stationary operand is read once, a streaming one for each fold across; sums are made in
    // place or pass through buffer c for each fold of k.
    Index a = 1, b = 1, sums = 1;
    if (dataflow_ == Dataflow::weight_stationary) {
      a = columns;
      sums = rows;
    } else if (dataflow_ == Dataflow::output_stationary) {
      a = columns;
      b = rows;
    } else {
      b = columns;
      sums = rows;
    }
    c.buffer_a_read_bytes = e.m * e.k * work_.a_bytes() * a;
    c.buffer_b_read_bytes = e.k * e.n * work_.b_bytes() * b;
    c.buffer_c_write_bytes = e.m * e.n * Work::kAccumulatorBytes * larger(sums, 1);
    c.buffer_c_read_bytes = c.buffer_c_write_bytes;  // the first fold of a tile does not read
    product_.buffer_cycles =
        larger(cycles(c.buffer_a_read_bytes, chip_.a.bytes_per_cycle()),
               larger(cycles(c.buffer_b_read_bytes, chip_.b.bytes_per_cycle()),
                      cycles(c.buffer_c_write_bytes, chip_.c.bytes_per_cycle())));
  }

  Index vector_time(Index elements, Index steps, Index functions) {
    const double each = static_cast<double>(steps) * chip_.vector.cycles_per_step +
                        static_cast<double>(functions) * chip_.vector.cycles_per_function;
    const Index groups = divide_up(elements, chip_.vector.lanes);
    add(totals_.counts.vector_steps, elements * steps);
    add(totals_.counts.vector_functions, elements * functions);
    const Index time = static_cast<Index>(std::ceil(static_cast<double>(groups) * each));
    totals_.vector += time;
    return time;
  }

  void epilogue(const Instruction& x) {
    const Index elements = x.size.m * x.size.n;
    const Index begin = larger(vector_free_, larger(results_of(x.c), residual_));
    vector_free_ = begin + vector_time(elements, work_.steps, work_.functions);
    event(Event::Unit::vector, x, "epilogue", begin, vector_free_);
    add(totals_.counts.buffer_c_read_bytes, elements * Work::kAccumulatorBytes);
  }

  void store(const Instruction& x) {
    const Index begin = vector_free_;
    Slot& c = c_[x.c];
    c.ready = stored_ = larger(stored_, transfer(x, begin, x.dram_bytes));
    c.why = c.ready - begin > begin - c.busy ? Stall::store : Stall::vector;
    add(totals_.counts.dram_write_bytes, x.dram_bytes);
  }

  /// Reading, scaling and writing overlap; everything that reads the result waits for all of it.
  void quantize(const Instruction& x) {
    const Index elements = x.size.m * x.size.k;
    const Index begin = dram_free_, read = cycles(x.dram_bytes, dram_rate_),
                write = cycles(elements, dram_rate_);
    dram_free_ = begin + read + write;
    totals_.dma += read + write;
    vector_free_ = larger(vector_free_, begin + read + dram_latency_) +
                   vector_time(elements, kQuantizeSteps, 0);
    quantized_ = larger(dram_free_, vector_free_ + write);
    event(Event::Unit::vector, x, "quantize", begin, vector_free_);
    add(totals_.counts.dram_read_bytes, x.dram_bytes);
    add(totals_.counts.dram_write_bytes, elements);
  }

  /// When the sums in slot c are complete: the last multiply's, or those of the tile before it.
  Index results_of(Index c) const { return c_[c].busy; }

  const Chip& chip_;
  const Work& work_;
  const Dataflow dataflow_;
  const Index die_;
  const bool counting_;
  const Index limit_;
  const Trace* trace_;
  const Index mac_;
  const double dram_rate_, link_rate_;
  const Index dram_latency_, link_latency_, engines_;
  const Index link_span_;                 // of the longest transfer
  const Index a_used_, b_used_, c_used_;  // slots

  Index array_free_, results_, load_free_;  // results_: the last sums have left the array
  Index dram_free_, link_free_, vector_free_, stored_;
  Index quantized_ = 0, residual_ = 0;
  Index engine_free_[kMostEngines];
  Index next_engine_ = 0;
  Slot a_[Tiling::kMostSlots], b_[Tiling::kMostSlots], c_[Tiling::kMostResults];
  Product product_;

  Totals totals_;
  Snapshot snapshot_[4];
};

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
