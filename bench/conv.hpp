// One convolution of one image.
#pragma once

#include <array>

#include "operation.hpp"

namespace bench {

/// Depth, height, width; where there are fewer dimensions, the others are 1 (padding: 0).
using Spatial = std::array<Index, 3>;

/// C = A * B: a is the image (size, in), channels last, as is c (extent, out); b is
/// (out, kernel, in / groups). No two output channels need have the same scale.
class Conv final : public Operation {
 public:
  struct Shape {
    int rank;  ///< dimensions: 1, 2 or 3
    Index in, out, groups = 1;
    Spatial size;
    Spatial kernel = {1, 1, 1}, stride = {1, 1, 1}, dilation = {1, 1, 1};
    Spatial pad_begin = {}, pad_end = {};

    Spatial extent() const;  ///< of the output
    Index k() const { return kernel[0] * kernel[1] * kernel[2] * (in / groups); }
  };

  Conv(Types types, const Shape& shape);

  Shape shape;

  double macs() const override { return double(rows()) * double(columns()) * double(shape.k()); }

  /// The weights with input channels first: (out, in / groups, kernel).
  Buffer inputs_first() const;
  /// Sets the weights from such an array.
  void set_weights(const std::int8_t* inputs_first);

 private:
  void each_pair(Index i, Index j,
                 const std::function<void(Index, Index)>& multiply) const override;
};

}  // namespace bench
