// One systolic array, register by register and cycle by cycle: what array.hpp's closed forms are
// proved with. Slow and small on purpose. No cycle is computed here: words enter at the edges of
// the array, every processing element looks at the words beside and above it, and when the last
// result has left, the cycles have been counted.
//
//              lane c of the top edge is c cycles late
//                  |       |       |
//        lane r --PE------PE------PE    Words move one element to the right or one down in a
//        of the    |       |       |    cycle. An element works on a word in the cycle in which
//        left    --PE------PE------PE   it gets it, and hands it on at the end of that cycle.
//        edge is   |       |       |
//        r late  --PE------PE------PE
//                  |       |       |    results
//
// The array always runs as a whole. Where a fold is smaller than the array, the words of the other
// rows and columns are padding: they take their time and their place, but nothing is computed with
// them, and results of padding are dropped when they have left.
#pragma once

#include <cmath>
#include <deque>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "quern/core/tensor.hpp"
#include "quern/sim/array.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// Sums of float are float, sums of integers s32 modulo 2^32, kept unsigned.
template <class T>
using SteppedSum = std::conditional_t<std::is_floating_point_v<T>, float, std::uint32_t>;

/// A product, and what it took.
template <class T>
struct Stepped {
  Index cycles = 0;          ///< from the first word entering to the last result leaving, inclusive
  Index folds = 0;           ///< pieces that the stationary operand (or the result) was cut into
  Index busy_pe_cycles = 0;  ///< cycles of processing elements that made a product: m n k
  bool collided = false;     ///< two words met where one has room, or one was not met: the schedule
                             ///< below is wrong, and the array was stopped
  std::vector<SteppedSum<T>> c;  ///< m x n
};

namespace stepped {

/// An edge of the array: what is fed to lane i gets in i cycles later.
template <class Word>
class Skew {
 public:
  explicit Skew(Index lanes) {
    for (Index i = 0; i < lanes; ++i) lanes_.emplace_back(static_cast<std::size_t>(i));
  }
  Word operator()(Index lane, const Word& fed) {
    std::deque<Word>& line = lanes_[static_cast<std::size_t>(lane)];
    line.push_back(fed);
    Word out = line.front();
    line.pop_front();
    return out;
  }

 private:
  std::vector<std::deque<Word>> lanes_;
};

/// What arrays of any dataflow have in common; Element is what a processing element consists of.
template <class T, class Element>
class SteppedArray {
 protected:
  using Sum = SteppedSum<T>;

  SteppedArray(const Array& array, Index m, Index n)
      : array_(array),
        rows_(array.rows),
        columns_(array.columns),
        elements_(static_cast<std::size_t>(rows_ * columns_)) {
    result_.c.resize(static_cast<std::size_t>(m * n));
  }

  /// Calls cycle() until this many results have left.
  template <class Cycle>
  Stepped<T> run_until(Index results, Cycle cycle) {
    for (; left_ < results && !result_.collided; ++result_.cycles) cycle();
    return std::move(result_);
  }

  Element& at(Index r, Index c) { return elements_[static_cast<std::size_t>(r * columns_ + c)]; }

  static Sum multiply_add(T a, T b, Sum sum) {
    if constexpr (std::is_floating_point_v<T>) return std::fma(a, b, sum);
    return static_cast<Sum>(a) * static_cast<Sum>(b) + sum;
  }

  const Array array_;
  const Index rows_, columns_;
  std::vector<Element> elements_;
  Index left_ = 0;  // results that have left, with those of padding
  Stepped<T> result_;
};

/// An operand in a register or on its way to one.
template <class T>
struct Operand {
  bool here = false;  // false: no word
  bool used = false;  // false: padding
  T value = {};
};

/// A word for the element of one row: it counts down the rows that it has to go.
template <class T>
struct Load {
  Operand<T> operand;
  Index rows_to_go = 0;
};

/// A sum on its way down, which every element adds its product to.
template <class T>
struct Partial {
  SteppedSum<T> sum = 0;
  Index to = -1;             // its accumulator; -1: of padding
  bool first_step = false;   // of its fold
  bool first_piece = false;  // of k: the accumulator is written, not added to
};

/// A path down a column carries one word in a cycle: none, a load or a sum.
template <class T>
using Word = std::variant<std::monostate, Load<T>, Partial<T>>;

template <class T>
struct StationaryElement {
  Operand<T> held;   // what is stationary
  Operand<T> next;   // with preload: the next fold's
  Operand<T> right;  // to the next column
  Word<T> down;      // to the next row: sums, and loads when they have no path of their own
  Word<T> loads;     // with preload: that path
};

/// Weights or inputs stay: `held` (k x columns) is cut into folds of R x C, and the t rows of
/// `streamed` (t x k) pass each of them from the left. A fold is R rows of loads through the top
/// edge, the row of element 0 first, then a sum for every step: it starts as +0 at row 0, meets its
/// step's operands, which are skewed like the sums are, and leaves below row R - 1.
///
/// On one path, loads that enter behind the sums of a fold reach every element behind them, and
/// before the sums of the next: nothing waits but for its turn, R + t words in a fold. With preload
/// both paths work at a time; as an element has room for one operand in waiting, the loads of a
/// fold follow the first step of the one before: max(R, t) from fold to fold.
template <class T>
class Stationary : SteppedArray<T, StationaryElement<T>> {
  using Base = SteppedArray<T, StationaryElement<T>>;

 public:
  /// Result (step, column) is element step * step_stride + column * column_stride of c.
  Stationary(const Array& array, const Matrix<const T>& streamed, const Matrix<const T>& held,
             Index step_stride, Index column_stride)
      : Base(array, streamed.rows, held.cols),
        streamed_(streamed),
        held_(held),
        step_stride_(step_stride),
        column_stride_(column_stride),
        k_pieces_(divide_up(held.rows, array.rows)),
        folds_(streamed.rows == 0 ? 0 : k_pieces_ * divide_up(held.cols, array.columns)),
        left_edge_(array.rows),
        top_edge_(array.columns),
        load_edge_(array.columns) {}

  Stepped<T> run() {
    result_.folds = folds_;
    return Base::run_until(folds_ * results_per_fold(), [this] { cycle(); });
  }

 private:
  using Base::array_, Base::rows_, Base::columns_, Base::left_, Base::result_, Base::at;

  Index results_per_fold() const { return streamed_.rows * columns_; }
  Index first_k(Index fold) const { return fold % k_pieces_ * rows_; }  // k pieces innermost
  Index first_column(Index fold) const { return fold / k_pieces_ * columns_; }

  /// The word of element (row, column) of a matrix, padding outside.
  static Operand<T> operand(const Matrix<const T>& m, Index row, Index column) {
    if (row >= m.rows || column >= m.cols) return {true, false, T{}};
    return {true, true, m.data[row * m.row_stride + column * m.col_stride]};
  }

  void cycle() {
    // What is fed in this cycle. A fold streams as soon as all its loads are on their way.
    const bool streams = stream_fold_ < load_fold_;
    const bool loads = load_fold_ < folds_ && (load_row_ > 0 || may_load());
    if (streams && loads && !array_.preload) result_.collided = true;

    // Elements from the last to the first: each takes its neighbours' words of the cycle before.
    for (Index c = columns_ - 1; c >= 0; --c) {
      const Word<T> load = loads ? load_word(c) : Word<T>(),
                    sum = streams ? sum_word(c) : Word<T>();
      const Word<T> top = top_edge_(c, loads && !array_.preload ? load : sum);
      const Word<T> top_load = load_edge_(c, array_.preload ? load : Word<T>());
      for (Index r = rows_ - 1; r >= 0; --r) {
        const Operand<T> left =
            c > 0 ? at(r, c - 1).right : left_edge_(r, streams ? stream_word(r) : Operand<T>());
        step(at(r, c), left, r > 0 ? at(r - 1, c).down : top,
             r > 0 ? at(r - 1, c).loads : top_load);
      }
      if (const auto* result = std::get_if<Partial<T>>(&at(rows_ - 1, c).down)) collect(*result);
    }
    if (loads && ++load_row_ == rows_) load_row_ = 0, ++load_fold_;
    if (streams && ++stream_step_ == streamed_.rows) stream_step_ = 0, ++stream_fold_;
  }

  /// Is there room for the first row of the next fold?
  bool may_load() const {
    if (array_.fold_model == FoldModel::drain) return left_ == load_fold_ * results_per_fold();
    if (array_.preload) return stream_fold_ + 1 >= load_fold_;  // the fold before has begun
    return stream_fold_ == load_fold_;                          // it has no more to send
  }

  Word<T> load_word(Index c) const {
    const Index k = first_k(load_fold_) + load_row_, column = first_column(load_fold_) + c;
    return Load<T>{operand(held_, k, column), load_row_};
  }
  Operand<T> stream_word(Index r) const {
    return operand(streamed_, stream_step_, first_k(stream_fold_) + r);
  }
  Word<T> sum_word(Index c) const {
    const Index column = first_column(stream_fold_) + c;
    const Index to = stream_step_ * step_stride_ + column * column_stride_;
    return Partial<T>{0, column < held_.cols ? to : -1, stream_step_ == 0,
                      first_k(stream_fold_) == 0};
  }

  /// A processing element's cycle.
  void step(StationaryElement<T>& e, const Operand<T>& left, Word<T> above, Word<T> load) {
    Partial<T>* sum = std::get_if<Partial<T>>(&above);
    if (left.here != (sum != nullptr)) result_.collided = true;
    if (sum != nullptr) {
      if (array_.preload && sum->first_step) {
        if (!e.next.here) result_.collided = true;
        e.held = e.next;
        e.next = {};
      }
      if (e.held.used && left.used) {
        sum->sum = Base::multiply_add(left.value, e.held.value, sum->sum);
        ++result_.busy_pe_cycles;
      }
    }
    take(above, e.held);
    if (take(load, e.next)) result_.collided = true;
    e.right = left;
    e.down = above;
    e.loads = load;
  }

  /// Keeps a load that has arrived. True if it took the place of another.
  static bool take(Word<T>& word, Operand<T>& place) {
    Load<T>* load = std::get_if<Load<T>>(&word);
    if (load == nullptr) return false;
    if (load->rows_to_go > 0) {
      --load->rows_to_go;
      return false;
    }
    const bool replaced = place.here;
    place = load->operand;
    word = {};
    return replaced;
  }

  void collect(const Partial<T>& p) {
    ++left_;
    if (p.to < 0) return;
    SteppedSum<T>& accumulator = result_.c[static_cast<std::size_t>(p.to)];
    accumulator = p.first_piece ? p.sum : accumulator + p.sum;
  }

  const Matrix<const T> streamed_, held_;
  const Index step_stride_, column_stride_, k_pieces_, folds_;
  Index load_fold_ = 0, load_row_ = 0;       // what is loaded next
  Index stream_fold_ = 0, stream_step_ = 0;  // what streams next
  Skew<Operand<T>> left_edge_;
  Skew<Word<T>> top_edge_, load_edge_;
};

/// An element of a row of a or a column of b, on its way through the array.
template <class T>
struct Term {
  bool here = false;
  bool first = false, last = false;  // of k
  Index line = -1;                   // its row of a or column of b; -1: padding
  T value = {};
};

template <class T>
struct SumElement {
  Term<T> right, down;
  SteppedSum<T> sum = 0;
};

/// Sums stay: every element has one, rows of a pass from the left and columns of b from the top.
/// With the last terms of k the element hands its sum to the bus of its column, on which it leaves
/// the array in the same cycle. The bus takes one word in a cycle, and elements below one another
/// end one cycle after another: R cycles in a fold, during which the elements above can be in the
/// next fold already, but not past its end: max(k, R) from fold to fold.
template <class T>
class OutputStationary : SteppedArray<T, SumElement<T>> {
  using Base = SteppedArray<T, SumElement<T>>;

 public:
  OutputStationary(const Array& array, const Matrix<const T>& a, const Matrix<const T>& b)
      : Base(array, a.rows, b.cols),
        a_(a),
        columns_of_b_(b.transposed()),
        column_pieces_(divide_up(b.cols, array.columns)),
        folds_(a.cols == 0 ? 0 : divide_up(a.rows, array.rows) * column_pieces_),
        left_edge_(array.rows),
        top_edge_(array.columns) {}

  Stepped<T> run() {
    result_.folds = folds_;
    return Base::run_until(folds_ * results_per_fold(), [this] { cycle(); });
  }

 private:
  using Base::array_, Base::rows_, Base::columns_, Base::left_, Base::result_, Base::at;

  Index results_per_fold() const { return rows_ * columns_; }

  void cycle() {
    const bool drain = array_.fold_model == FoldModel::drain;
    const bool in_fold =
        fold_ < folds_ && (step_ > 0 || !drain || left_ == fold_ * results_per_fold());
    const bool feeds = in_fold && step_ < a_.cols;

    for (Index c = columns_ - 1; c >= 0; --c) {
      const Index column = fold_ % column_pieces_ * columns_ + c;
      const Term<T> top = top_edge_(c, feeds ? term(columns_of_b_, column) : Term<T>());
      bus_is_taken_ = false;
      for (Index r = rows_ - 1; r >= 0; --r) {
        const Index row = fold_ / column_pieces_ * rows_ + r;
        const Term<T> left =
            c > 0 ? at(r, c - 1).right : left_edge_(r, feeds ? term(a_, row) : Term<T>());
        step(at(r, c), left, r > 0 ? at(r - 1, c).down : top);
      }
    }
    if (!in_fold) return;
    ++step_;
    // With fewer terms than rows the bus needs longer than the terms.
    if (step_ >= a_.cols && (drain || step_ >= rows_)) step_ = 0, ++fold_;
  }

  /// The next term of a line, padding outside.
  Term<T> term(const Matrix<const T>& lines, Index line) const {
    Term<T> t{true, step_ == 0, step_ == lines.cols - 1, -1, T{}};
    if (line >= lines.rows) return t;
    t.line = line;
    t.value = lines.data[line * lines.row_stride + step_ * lines.col_stride];
    return t;
  }

  /// A processing element's cycle.
  void step(SumElement<T>& e, const Term<T>& a, const Term<T>& b) {
    e.right = a;
    e.down = b;
    if (a.here != b.here || a.first != b.first || a.last != b.last) result_.collided = true;
    if (!a.here) return;
    const bool used = a.line >= 0 && b.line >= 0;
    if (a.first) e.sum = 0;
    if (used) {
      e.sum = Base::multiply_add(a.value, b.value, e.sum);
      ++result_.busy_pe_cycles;
    }
    if (!a.last) return;
    if (bus_is_taken_) result_.collided = true;
    bus_is_taken_ = true;
    ++left_;
    if (used) result_.c[static_cast<std::size_t>(a.line * columns_of_b_.rows + b.line)] = e.sum;
  }

  const Matrix<const T> a_, columns_of_b_;
  const Index column_pieces_, folds_;
  Index fold_ = 0, step_ = 0;  // what is fed next
  bool bus_is_taken_ = false;  // of the column at hand, in this cycle
  Skew<Term<T>> left_edge_, top_edge_;
};

}  // namespace stepped

/// Multiplies a (m x k) by b (k x n) on one array; takes as long as cycles x rows x columns does,
/// so for small products. A multiplication takes one cycle, start-up is not counted. Float sums of
/// weight and input stationary arrays: p = fma(a, b, p) from +0 over the k of a fold, added to the
/// accumulator from fold to fold, the first stored; output stationary: one such chain over all k.
/// Error for an array without elements or of several, for preload without overlap, for views that
/// cannot be, and when a's columns are not b's rows. T: std::int8_t, std::int32_t or float.
template <class T>
Result<Stepped<T>> stepped_gemm(const Array& array, Dataflow dataflow, const Matrix<const T>& a,
                                const Matrix<const T>& b) {
  using LL = long long;
  Index bytes = 0;
  if (Error e = measure(ConstMatrixView(a), "stepped: a", &bytes)) return e;
  if (Error e = measure(ConstMatrixView(b), "stepped: b", &bytes)) return e;
  if (a.cols != b.rows) {
    return Error::make(Code::bad_shape, "stepped: a has %lld columns but b has %lld rows",
                       LL(a.cols), LL(b.rows));
  }
  if (array.rows < 1 || array.columns < 1 || array.count != 1) {
    return Error::make(Code::bad_value,
                       "stepped: %lld arrays of %lld x %lld; it must be one, not empty",
                       LL(array.count), LL(array.rows), LL(array.columns));
  }
  if (array.preload && array.fold_model == FoldModel::drain) {
    return Error::make(Code::bad_value, "stepped: preload needs the fold model overlap");
  }
  switch (dataflow) {
    case Dataflow::weight_stationary:
      return stepped::Stationary<T>(array, a, b, b.cols, 1).run();
    case Dataflow::input_stationary:  // c^T = b^T a^T
      return stepped::Stationary<T>(array, b.transposed(), a.transposed(), 1, b.cols).run();
    case Dataflow::output_stationary:
      break;
  }
  return stepped::OutputStationary<T>(array, a, b).run();
}

}  // namespace sim
}  // namespace QUERN_ABI
}  // namespace quern
