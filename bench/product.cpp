#include "product.hpp"

namespace bench {

Product::Product(Types t, Shape s) : Operation(t, s.m * s.k, s.k * s.n, s.m, s.n), shape(s) {
  if (is_requantized(t)) choose_scales(s.k);
}

void Product::each_pair(Index i, Index j, const std::function<void(Index, Index)>& multiply) const {
  for (Index l = 0; l < shape.k; ++l) multiply(i * shape.k + l, l * shape.n + j);
}

}  // namespace bench
