// XNNPACK: s8 activations, s8 weights, requantized to s8. Fully connected (qs8: one scale) and
// convolutions in two dimensions (qc8: a scale for each output channel).
#include <xnnpack.h>

#include <memory>
#include <stdexcept>

#include "registry.hpp"

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

Ready prepare(const Conv& conv) {
  const Conv::Shape& s = conv.shape;
  const auto u32 = [](Index x) { return static_cast<std::uint32_t>(x); };
  const auto size = [](Index x) { return static_cast<std::size_t>(x); };
  xnn_operator_t op = nullptr;
  check(xnn_create_convolution2d_nhwc_qc8(
            u32(s.pad_begin[1]), u32(s.pad_end[2]), u32(s.pad_end[1]), u32(s.pad_begin[2]),
            u32(s.kernel[1]), u32(s.kernel[2]), u32(s.stride[1]), u32(s.stride[2]),
            u32(s.dilation[1]), u32(s.dilation[2]), u32(s.groups), size(s.in / s.groups),
            size(s.out / s.groups), /*input_channel_stride=*/size(s.in),
            /*output_channel_stride=*/size(s.out), /*input_zero_point=*/0, /*input_scale=*/1.0f,
            conv.scales.data(), conv.b.as<std::int8_t>(), /*bias=*/nullptr,
            /*output_zero_point=*/0, /*output_scale=*/1.0f, -128, 127, /*flags=*/0, &op),
        "create");
  const std::shared_ptr<xnn_operator> owner(op, xnn_delete_operator);
  check(xnn_setup_convolution2d_nhwc_qc8(op, /*batch_size=*/1, size(s.size[1]), size(s.size[2]),
                                         conv.a.as<std::int8_t>(), conv.c.as<std::int8_t>(),
                                         /*threadpool=*/nullptr),
        "setup");
  return {[owner] { check(xnn_run_operator(owner.get(), nullptr), "run"); },
          "convolution2d_nhwc_qc8"};
}

}  // namespace

void add_xnnpack(Registry& r) {
  if (xnn_initialize(nullptr) != xnn_status_success) {
    r.facts.emplace_back("xnnpack", "does not support this CPU");
    return;
  }
  r.gemms.push_back({.name = "xnnpack", .types = Types::s8s8s8, .prepare = [](const Product& p) {
                       return prepare(p);
                     }});
  r.convs.push_back({.name = "xnnpack",
                     .types = Types::s8s8s8,
                     .prepare = [](const Conv& c) { return prepare(c); },
                     .offers = [](const Conv::Shape& s) { return s.rank <= 2; }});
  // It has neither version numbers nor a way to limit the instruction set.
  r.facts.emplace_back("xnnpack", "qs8 and qc8, instruction set of its own choice");
}

}  // namespace bench
