// The conformance suite for convolutions; see conformance.hpp.
#pragma once

#include <string>
#include <vector>

#include "quern/ops/conv_reference.hpp"
#include "quern/testing/conformance_suite.hpp"
#include "quern/testing/conv_compare.hpp"
#include "quern/testing/conv_problems.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace testing {

namespace detail {

struct ConvOperation {
  using Case = ConvCase;
  using Size = ConvCase::Size;

  /// Fewer images, and smaller ones, with another number of positions along each dimension.
  static std::vector<Size> sizes(const ConvCase& c) {
    const auto [images, extent] = c.size();
    std::vector<Size> all{{images, extent}};
    if (images > 0) all.push_back({0, extent});
    if (images > 1) all.push_back({images - 1, extent});
    Spatial cropped = extent;
    for (std::size_t d = 0; d < 3; ++d) cropped[d] -= cropped[d] > 1 ? cropped[d] / 4 + 1 : 0;
    if (cropped != extent) all.push_back({images, cropped});
    return all;
  }
  static Index count(const ConvCase& c, const Size& size) { return c.positions(size); }
  static std::string text(const Size& size) {
    return std::to_string(size.images) + " x (" + std::to_string(size.extent[0]) + ", " +
           std::to_string(size.extent[1]) + ", " + std::to_string(size.extent[2]) + ")";
  }

  static void reference(const ConvCase& c, const ConvArgs& args) {
    reference_conv(c.problem(), c.weights(), args);
  }
  static std::string difference(const ConvCase& c, const ConvArgs& args, const ConvArgs& actual,
                                const AlignedBuffer& expected_memory, AlignedBuffer& actual_memory,
                                bool exact) {
    return testing::difference(c.problem(), c.weights(), args, actual.c, expected_memory,
                               actual_memory, exact);
  }

  static std::vector<Refused<ConvArgs>> bad_calls(const ConvArgs& good) {
    ConvArgs wide = good;
    wide.a.channels += 1;
    wide.a.batch = wide.c.batch = 0;  // so that the channel would not be read
    std::vector<Refused<ConvArgs>> calls{{"a channel too many in a", wide, Code::bad_shape}};
    if (good.c.batch * good.c.positions() * good.c.channels == 0) return calls;
    ConvArgs null = good, narrow = good, fewer = good, over = good, scales = good;
    null.c.data = nullptr;
    narrow.c.extent[2] -= 1;
    fewer.c.batch -= 1;
    calls.push_back({"null c", null, Code::bad_data});
    calls.push_back({"a position too few in c", narrow, Code::bad_shape});
    calls.push_back({"an image too few in c", fewer, Code::bad_shape});
    if (good.a.batch * good.a.positions() * good.a.channels != 0) {
      over.a.data = good.c.data;
      calls.push_back({"a in the place of c", over, Code::bad_data});
    }
    if (!good.row_scales.empty()) {
      scales.row_scales = scales.row_scales.first(scales.row_scales.size() - 1);
      calls.push_back({"a row scale too few", scales, Code::bad_shape});
    }
    return calls;
  }
  static std::vector<Refused<ConvProblem>> bad_problems(const ConvCase& c) {
    ConvProblem negative = c.problem(), flat = c.problem(), uneven = c.problem();
    negative.in_channels = -1;
    flat.kernel[2] = 0;
    uneven.groups = c.problem().in_channels + 1;
    std::vector<Refused<ConvProblem>> problems{{"in_channels = -1", negative, Code::bad_shape},
                                               {"a kernel of no width", flat, Code::bad_shape}};
    if (uneven.in_channels > 0) {
      problems.push_back({"more groups than channels", uneven, Code::bad_shape});
    }
    return problems;
  }
  static std::vector<Refused<FilterView>> bad_weights(const ConvCase& c) {
    FilterView other = c.weights(), null = c.weights();
    other.type = other.type == DType::s8 ? DType::u8 : DType::s8;  // none is wider
    std::vector<Refused<FilterView>> weights{{"b of another type", other, Code::unsupported}};
    null.data = nullptr;
    if (c.weights().data != nullptr) weights.push_back({"null b", null, Code::bad_data});
    return weights;
  }
};

}  // namespace detail

/// As conformance_gemm(), for convolutions: the same promises, and one prepared operation is run
/// with images of another number and extent.
template <ConvBackend B>
Report conformance_conv(const B& backend, const ConformanceOptions& options = {}) {
  return detail::Conformance<B, detail::ConvOperation>(backend, options).run();
}

}  // namespace testing
}  // namespace QUERN_ABI
}  // namespace quern
