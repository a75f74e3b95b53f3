// One matrix product.
#pragma once

#include "operation.hpp"

namespace bench {

/// C = A B, all row-major without gaps: a is (m, k), b is (k, n). For s8s8s8 all scales are the
/// same, since XNNPACK offers only that.
class Product final : public Operation {
 public:
  struct Shape {
    Index m, n, k;
  };

  Product(Types types, Shape shape);

  Shape shape;

  double macs() const override { return double(shape.m) * double(shape.n) * double(shape.k); }

 private:
  void each_pair(Index i, Index j,
                 const std::function<void(Index, Index)>& multiply) const override;
};

}  // namespace bench
