// XNNPACK's fully connected operator, qs8: s8 activations, s8 weights, requantized to s8.
#include <xnnpack.h>

#include <memory>
#include <stdexcept>

#include "gemm.hpp"

namespace bench {

namespace {

void check(xnn_status status, const char* what) {
  if (status != xnn_status_success) {
    throw std::runtime_error(std::string("xnnpack: ") + what + " failed with " +
                             std::to_string(status));
  }
}

Ready prepare(const Product& p) {
  const auto m = static_cast<std::size_t>(p.shape.m), n = static_cast<std::size_t>(p.shape.n),
             k = static_cast<std::size_t>(p.shape.k);
  xnn_operator_t op = nullptr;
  check(xnn_create_fully_connected_nc_qs8(
            k, n, /*input_stride=*/k, /*output_stride=*/n, /*input_zero_point=*/0,
            /*input_scale=*/1.0f, /*kernel_scale=*/p.scales.front(), p.b.as<std::int8_t>(),
            /*bias=*/nullptr, /*output_zero_point=*/0, /*output_scale=*/1.0f, -128, 127,
            XNN_FLAG_TRANSPOSE_WEIGHTS, &op),
        "create");
  const std::shared_ptr<xnn_operator> owner(op, xnn_delete_operator);
  check(xnn_setup_fully_connected_nc_qs8(op, m, p.a.as<std::int8_t>(), p.c.as<std::int8_t>(),
                                         /*threadpool=*/nullptr),
        "setup");
  return {[owner] { check(xnn_run_operator(owner.get(), nullptr), "run"); },
          "fully_connected_nc_qs8"};
}

}  // namespace

void add_xnnpack(Registry& r) {
  if (xnn_initialize(nullptr) != xnn_status_success) {
    r.facts.emplace_back("xnnpack", "does not support this CPU");
    return;
  }
  r.implementations.push_back({.name = "xnnpack", .types = Types::s8s8s8, .prepare = prepare});
  // It has neither version numbers nor a way to limit the instruction set.
  r.facts.emplace_back("xnnpack", "qs8, instruction set of its own choice");
}

}  // namespace bench
