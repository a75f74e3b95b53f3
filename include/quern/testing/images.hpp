// Images for tests, as operands.hpp has matrices: their memory and layout, and their values.
#pragma once

#include <cstring>
#include <utility>

#include "quern/ops/image.hpp"
#include "quern/testing/operands.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

/// A batch of images and its memory, which ends with the last element. Gaps, and what is before the
/// first element, hold 0xFF bytes.
struct ImageOperand {
  AlignedBuffer memory;
  Index offset = 0;  ///< bytes before the first element
  ImageView view;
};

/// Memory for `view`, whose data is still null, `skip` elements from an aligned address.
inline ImageOperand allocate(const ImageView& view, Index skip) {
  ImageOperand o;
  o.view = view;
  if (view.batch * view.positions() * view.channels == 0) return o;
  Index span = (view.batch - 1) * view.batch_stride + (view.channels - 1) * view.channel_stride + 1;
  for (std::size_t d = 0; d < 3; ++d) span += (view.extent[d] - 1) * view.strides[d];
  o.offset = skip * size_of(view.type);
  o.memory = AlignedBuffer(static_cast<std::size_t>(o.offset + span * size_of(view.type)));
  std::memset(o.memory.data(), 0xFF, o.memory.size());
  o.view.data = o.memory.data() + o.offset;
  return o;
}

/// Strides of dimensions with these sizes, from the fastest to the slowest in any order, with gaps
/// here and there.
template <std::size_t N>
std::array<Index, N> any_strides(Random& random, const std::array<Index, N>& sizes) {
  std::array<std::size_t, N> order = {};
  for (std::size_t i = 0; i < N; ++i) order[i] = i;
  for (std::size_t i = N - 1; i > 0; --i) {
    std::swap(order[i], order[static_cast<std::size_t>(random.between(0, static_cast<Index>(i)))]);
  }
  std::array<Index, N> strides = {};
  Index next = 1;
  for (const std::size_t d : order) {
    next += random.one_in(3) ? random.between(0, 3) : 0;
    strides[d] = next;
    next *= sizes[d] > 0 ? sizes[d] : 1;
  }
  return strides;
}

/// Any layout that an image may have: channels last, some of them being a slice of an image with
/// more; channels first; channels last with gaps after rows, planes and images; or with strides in
/// any order.
inline ImageView any_image(Random& random, DType type, Index batch, const Spatial& e,
                           Index channels) {
  switch (random.between(0, 6)) {
    case 0:
    case 1:
    case 2: {
      const Index wide = channels + (random.one_in(2) ? 0 : random.between(1, 37));
      ImageView v = ImageView::channels_last(nullptr, type, batch, e, wide);
      v.channels = channels;
      return v;
    }
    case 3:
    case 4:
      return ImageView::channels_first(nullptr, type, batch, e, channels);
    case 5: {
      const Index x = channels + random.between(0, 9), y = e[2] * x + random.between(0, 9);
      const Index z = e[1] * y + random.between(0, 9), n = e[0] * z + random.between(0, 65);
      return {nullptr, type, batch, e, channels, n, {z, y, x}, 1};
    }
    default: {
      const auto s = any_strides<5>(random, {batch, e[0], e[1], e[2], channels});
      return {nullptr, type, batch, e, channels, s[0], {s[1], s[2], s[3]}, s[4]};
    }
  }
}

/// Values of any kind for the type; their name.
inline const char* fill_any(Random& random, const ImageView& v) {
  const Index rows = v.batch * v.positions();
  AlignedBuffer dense(static_cast<std::size_t>(rows * v.channels * size_of(v.type)));
  const MatrixView m(dense.data(), v.type, rows, v.channels);
  const char* values = fill_any(random, m);
  for (Index row = 0; row < rows; ++row) {
    Index n = row;
    Spatial at = {};
    for (std::size_t d = 3; d-- > 0; n /= v.extent[d]) at[d] = n % v.extent[d];
    for (Index j = 0; j < v.channels; ++j) {
      std::memcpy(element(v, n, at, j), element(m, 0, row, j),
                  static_cast<std::size_t>(size_of(v.type)));
    }
  }
  return values;
}

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
