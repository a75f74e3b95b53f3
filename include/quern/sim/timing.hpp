// The timing walker: how long a tile program takes, and what it moves. Every unit (array, DMA
// engines, DRAM, vector unit, link) does its instructions in program order and begins each as soon
// as its operands are there and its destination is free; units run beside each other. Nothing here
// looks at values or allocates.
//
// A transfer takes the DRAM for its bytes in whole bursts at the sustained bandwidth. A load takes
// an engine too, until the data has arrived, a latency later; stores are posted. Times are maxima
// and sums of durations in a fixed order, so a faster part never makes a program slower.
#pragma once

#include "quern/sim/event.hpp"
#include "quern/sim/steady.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// One die's program. Feed it to lower(), then read it.
class Timer {
  using Slot = Clocks::Slot;
  static constexpr Index kLongest = Clocks::kLongest;

 public:
  /// Stops, returning false, beyond `limit` cycles. Counts only DRAM bytes unless
  /// `counting`.
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
        t_(chip, tiling),
        steady_(preloads(), link_latency_ + cycles(tiling.link_bytes(), link_rate_)) {}

  bool operator()(const Instruction& x) {
    switch (x.kind) {
      case Instruction::Kind::quantize:
        quantize(x);
        break;
      case Instruction::Kind::load_a:
        load(x, t_.a[x.a], chip_.a, Stall::dram_a);
        break;
      case Instruction::Kind::load_b:
        load(x, t_.b[x.b], chip_.b, Stall::dram_b);
        break;
      case Instruction::Kind::load_c:
        t_.residual = transfer(x, 0, x.dram_bytes);
        totals_.counts.dram_read_bytes += x.dram_bytes;
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
    return t_.array_free <= limit_ && t_.dram_free <= limit_;
  }

  /// Iterations to come that are like the last ones.
  Index skip(const Repeats& at) {
    return trace_ == nullptr ? steady_.skip(t_, totals_, at, limit_) : 0;
  }

  /// When everything is done.
  Index end() const {
    Index t = t_.results;
    for (const Index other : {t_.vector_free, t_.stored, t_.dram_free}) t = other > t ? other : t;
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
    const Index tail = t_.results > t_.array_free ? t_.results - t_.array_free : 0;
    r.skew_cycles = totals_.skew + tail;
    r.compute_cycles = totals_.load + totals_.stream + r.skew_cycles;
    const Index done = t_.array_free + tail;
    if (t_.vector_free > done) r.stalls[index(Stall::vector)] += t_.vector_free - done;
    const Index computed = t_.vector_free > done ? t_.vector_free : done;
    if (r.cycles > computed) r.stalls[index(Stall::store)] += r.cycles - computed;
    r.stall_cycles = r.cycles - r.start_up_cycles - r.compute_cycles;
    r.dma_cycles = totals_.dma;
    r.vector_cycles = totals_.vector;
  }
  const Counts& counts() const { return totals_.counts; }
  /// Counted in any case.
  double dram_bytes() const {
    return static_cast<double>(totals_.counts.dram_read_bytes + totals_.counts.dram_write_bytes);
  }
  Index folds() const { return totals_.folds; }
  /// Processing elements that held something, summed over folds.
  double mapped() const { return totals_.mapped; }

 private:
  /// A product of one size: computed once for a run of equal tiles.
  struct Product {
    Extent size{-1, -1, -1};
    ArrayTime time;
    Counts counts;
    Index buffer_cycles = 0;
    double mapped = 0;
  };

  /// Sums are made in place: there is nothing to load.
  bool preloads() const { return chip_.array.preload && dataflow_ != Dataflow::output_stationary; }

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
      t_.dram_free += busy;
      totals_.dma += busy;
      const Index done = larger(ready + moving, t_.dram_free);
      event(Event::Unit::dma, x, name(x.kind), done - moving, done);
      return done;
    }
    Index& engine = t_.engine_free[t_.next_engine];
    t_.next_engine = t_.next_engine + 1 == t_.engines ? 0 : t_.next_engine + 1;
    const Index begin = larger(ready, larger(engine, t_.dram_free));
    t_.dram_free = begin + busy;
    totals_.dma += busy;
    engine = begin + moving + dram_latency_;
    event(Event::Unit::dma, x, name(x.kind), begin, engine);
    return engine;
  }

  void load(const Instruction& x, Slot& slot, const Buffer& buffer, Stall why) {
    Index ready = slot.busy;
    if (!buffer.double_buffered) ready = larger(ready, t_.array_free);
    slot.why = why;
    if (x.kind == Instruction::Kind::load_a) {
      const Index else_ready = larger(ready, larger(t_.dram_free, t_.engine_free[t_.next_engine]));
      if (t_.quantized > else_ready) slot.why = Stall::vector;
      ready = larger(ready, t_.quantized);
    }
    slot.ready = transfer(x, ready, x.dram_bytes);
    if (x.link_bytes != 0) {
      slot.ready = larger(slot.ready, t_.dram_free);  // in turn, even if this die has no part of it
      const Index begin = larger(ready, t_.link_free);
      t_.link_free = begin + cycles(x.link_bytes, link_rate_);
      const Index there = t_.link_free + link_latency_;
      event(Event::Unit::link, x, "receive a", begin, there);
      if (there > slot.ready) {
        slot.ready = there;
        slot.why = Stall::link;
      }
      add(totals_.counts.link_bytes, x.link_bytes);
    }
    totals_.counts.dram_read_bytes += x.dram_bytes;
    add(x.kind == Instruction::Kind::load_a ? totals_.counts.buffer_a_write_bytes
                                            : totals_.counts.buffer_b_write_bytes,
        x.dram_bytes + x.link_bytes);
  }

  void multiply(const Instruction& x) {
    if (!(product_.size == x.size)) measure(x.size);
    const ArrayTime& t = product_.time;
    Slot &a = t_.a[x.a], &b = t_.b[x.b], &c = t_.c[x.c];
    const bool stationary_a = dataflow_ == Dataflow::input_stationary;
    Index begin = t_.array_free;
    Stall why = Stall::store;
    const auto wait_for = [&](const Slot& s) {
      if (s.ready > begin) begin = s.ready, why = s.why;
    };
    if (x.first) wait_for(c);
    if (preloads()) {
      // Its stationary operand may enter while the array still streams the product before.
      const Slot& stationary = stationary_a ? a : b;
      wait_for(stationary_a ? b : a);
      const Index loading = larger(t_.load_free, stationary.ready);
      const Index loaded = loading + t.load;
      const Index streaming = larger(begin, loaded);
      // What of the wait is loading counts as the array's own.
      const Index from = larger(loading, t_.array_free);
      const Index shifted = loaded > from ? loaded - from : 0;
      if (loaded > begin) why = stationary.why;
      stall(why, streaming - t_.array_free - shifted);
      t_.load_free = streaming + t.occupied() - t.period;
      t_.array_free = t_.load_free + t.stream;
      t_.results = streaming + t.results() - t.load;
      totals_.load += shifted;
      totals_.stream += t.per_array * t.stream;
      totals_.skew += t_.array_free - streaming - t.per_array * t.stream;
      event(Event::Unit::array, x, "multiply", streaming - shifted, t_.array_free);
    } else {
      wait_for(a);
      wait_for(b);
      stall(why, begin - t_.array_free);
      t_.array_free = begin + t.occupied();
      t_.results = begin + t.results();
      totals_.load += t.per_array * t.load;
      totals_.stream += t.per_array * t.stream;
      totals_.skew += t.per_array * (t.period - t.load - t.stream);
      event(Event::Unit::array, x, "multiply", begin, t_.array_free);
    }
    // Buffers too narrow for the array hold it up.
    const Index extra = product_.buffer_cycles - t.occupied();
    if (extra > 0) {
      stall(Stall::buffer, extra);
      t_.array_free += extra;
      t_.results += extra;
      t_.load_free += extra;
    }
    a.busy = b.busy = t_.array_free;
    c.busy = t_.results;
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
    const Index begin = larger(t_.vector_free, larger(results_of(x.c), t_.residual));
    t_.vector_free = begin + vector_time(elements, work_.steps, work_.functions);
    event(Event::Unit::vector, x, "epilogue", begin, t_.vector_free);
    add(totals_.counts.buffer_c_read_bytes, elements * Work::kAccumulatorBytes);
  }

  void store(const Instruction& x) {
    const Index begin = t_.vector_free;
    Slot& c = t_.c[x.c];
    c.ready = t_.stored = larger(t_.stored, transfer(x, begin, x.dram_bytes));
    c.why = c.ready - begin > begin - c.busy ? Stall::store : Stall::vector;
    totals_.counts.dram_write_bytes += x.dram_bytes;
  }

  /// Reading, scaling and writing overlap; everything that reads the result waits for all of it.
  void quantize(const Instruction& x) {
    const Index elements = x.size.m * x.size.k;
    const Index begin = t_.dram_free, read = cycles(x.dram_bytes, dram_rate_),
                write = cycles(elements, dram_rate_);
    t_.dram_free = begin + read + write;
    totals_.dma += read + write;
    t_.vector_free = larger(t_.vector_free, begin + read + dram_latency_) +
                     vector_time(elements, kQuantizeSteps, 0);
    t_.quantized = larger(t_.dram_free, t_.vector_free + write);
    event(Event::Unit::vector, x, "quantize", begin, t_.vector_free);
    totals_.counts.dram_read_bytes += x.dram_bytes;
    totals_.counts.dram_write_bytes += elements;
  }

  /// When the sums in slot c are complete: the last multiply's, or those of the tile before it.
  Index results_of(Index c) const { return t_.c[c].busy; }

  const Chip& chip_;
  const Work& work_;
  const Dataflow dataflow_;
  const Index die_;
  const bool counting_;
  const Index limit_;
  const Trace* trace_;
  const Index mac_;
  const double dram_rate_, link_rate_;
  const Index dram_latency_, link_latency_;

  Clocks t_;
  Product product_;

  Totals totals_;
  SteadyState steady_;
};

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
