#include "conv.hpp"

#include "random.hpp"

namespace bench {

namespace {

Index volume(const Spatial& s) { return s[0] * s[1] * s[2]; }

/// Calls copy(place with inputs last, place with inputs first) for each weight.
template <class F>
void each_weight(const Conv::Shape& s, F copy) {
  const Index taps = volume(s.kernel), inputs = s.in / s.groups;
  for (Index j = 0; j < s.out; ++j) {
    for (Index t = 0; t < taps; ++t) {
      for (Index i = 0; i < inputs; ++i) {
        copy((j * taps + t) * inputs + i, (j * inputs + i) * taps + t);
      }
    }
  }
}

}  // namespace

Spatial Conv::Shape::extent() const {
  Spatial e = {};
  for (std::size_t d = 0; d < 3; ++d) {
    const Index reach = dilation[d] * (kernel[d] - 1) + 1;
    e[d] = (size[d] + pad_begin[d] + pad_end[d] - reach) / stride[d] + 1;
  }
  return e;
}

Conv::Conv(Types t, const Shape& s)
    : Operation(t, volume(s.size) * s.in, s.out * s.k(), volume(s.extent()), s.out), shape(s) {
  if (!is_requantized(t)) return;
  choose_scales(s.k());
  Random random(3);
  for (float& scale : scales) scale *= 0.75f + 0.5f * random.unit();
}

Buffer Conv::inputs_first() const {
  Buffer out(b.bytes());
  each_weight(shape, [&](Index last, Index first) {
    if (is_float(types)) {
      out.as<float>()[first] = b.as<float>()[last];
    } else {
      out.as<std::int8_t>()[first] = b.as<std::int8_t>()[last];
    }
  });
  return out;
}

void Conv::set_weights(const std::int8_t* inputs_first) {
  each_weight(shape,
              [&](Index last, Index first) { b.as<std::int8_t>()[last] = inputs_first[first]; });
}

void Conv::each_pair(Index i, Index j, const std::function<void(Index, Index)>& multiply) const {
  const Shape& s = shape;
  const Spatial extent = s.extent();
  const Index inputs = s.in / s.groups, first = j / (s.out / s.groups) * inputs;
  const Spatial o = {i / extent[2] / extent[1], i / extent[2] % extent[1], i % extent[2]};
  const auto position = [&](std::size_t d, Index k) {
    return o[d] * s.stride[d] + k * s.dilation[d] - s.pad_begin[d];
  };
  for (Index kz = 0; kz < s.kernel[0]; ++kz) {
    for (Index ky = 0; ky < s.kernel[1]; ++ky) {
      for (Index kx = 0; kx < s.kernel[2]; ++kx) {
        const Index z = position(0, kz), y = position(1, ky), x = position(2, kx);
        const bool inside =
            0 <= z && z < s.size[0] && 0 <= y && y < s.size[1] && 0 <= x && x < s.size[2];
        if (!inside) continue;  // padding is a_zero_point, which contributes nothing
        const Index pixel = (z * s.size[1] + y) * s.size[2] + x;
        const Index tap = ((j * s.kernel[0] + kz) * s.kernel[1] + ky) * s.kernel[2] + kx;
        for (Index l = 0; l < inputs; ++l) multiply(pixel * s.in + first + l, tap * inputs + l);
      }
    }
  }
}

}  // namespace bench
