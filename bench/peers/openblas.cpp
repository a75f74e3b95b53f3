// OpenBLAS. It has no interface for packed weights: it packs them in each call.
#include <cblas.h>

#include "registry.hpp"

namespace bench {

namespace {

Ready prepare(const Product& p) {
  const auto m = static_cast<blasint>(p.shape.m), n = static_cast<blasint>(p.shape.n),
             k = static_cast<blasint>(p.shape.k);
  const float *a = p.a.as<float>(), *b = p.b.as<float>();
  float* c = p.c.as<float>();
  if (m == 1) {
    const auto run = [=] { cblas_sgemv(CblasRowMajor, CblasTrans, k, n, 1, b, n, a, 1, 0, c, 1); };
    return {run, "sgemv"};
  }
  const auto run = [=] {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, n, k, 1, a, k, b, n, 0, c, n);
  };
  return {run, "sgemm"};
}

}  // namespace

void add_openblas(Registry& r) {
  openblas_set_num_threads(1);
  r.gemms.push_back({.name = "openblas", .types = Types::f32f32f32, .prepare = prepare});
  // The configuration ends with the kernel that was chosen: OpenBLAS 0.3.21 ... Haswell ...
  r.facts.emplace_back("openblas",
                       std::string(openblas_get_config()) + ", " + openblas_get_corename());
}

}  // namespace bench
