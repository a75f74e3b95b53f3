// A simulated chip as a backend.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "quern/backend.hpp"
#include "quern/sim/mapper.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace sim {

/// How to use the chip.
struct Options {
  std::optional<Mapping> mapping = {};  ///< this one, instead of the fastest
  bool keep_activations = false;  ///< where A and C fit buffer a together, A is there already and
                                  ///< C stays there: a layer within a network
};

/// Cheap to copy. A chip or mapping that validate() refuses is reported by supports(), prepare()
/// and estimate().
class Backend : public HostMemory {
 public:
  explicit Backend(Chip chip, const Options& options = {})
      : chip_(std::make_shared<const Chip>(std::move(chip))), options_(options) {}

  std::string name() const { return "sim:" + chip_->name; }
  const Chip& chip() const { return *chip_; }
  /// The one given by hand, if one was.
  const std::optional<Mapping>& mapping() const { return options_.mapping; }

  /// A problem with m rows of each of a_batch batch elements on this chip.
  Work work_of(const GemmProblem& p, Index m, Index a_batch, Index residual_bytes) const noexcept {
    return placed(Work::of(p, m, a_batch, residual_bytes));
  }
  /// A convolution of so many images of this extent.
  Work work_of(const ConvProblem& p, const Spatial& in, Index images,
               Index residual_bytes) const noexcept {
    return placed(Work::of(p, in, images, residual_bytes));
  }

  /// With that many rows, a tile that fits is one that fits for any number of rows.
  Index rows_of_smallest_tile() const noexcept {
    constexpr Index kMany = Index{1} << 40;
    Index rows = kStreamedPiece;
    for (const Index other : {chip_->array.rows, chip_->array.columns,
                              options_.mapping ? options_.mapping->tile.m : 0}) {
      if (other > rows) rows = other;
    }
    return rows < kMany ? rows * chip_->dies : kMany;  // dies may share the rows out
  }

  /// The mapping that is used for a work. Never allocates.
  Error mapping_for(const Work& work, Mapping* mapping) const noexcept {
    if (Error e = check_size(work)) return e;
    if (!options_.mapping) return find_mapping(*chip_, work, mapping);
    *mapping = *options_.mapping;
    return validate(*chip_, work, *mapping);
  }

 private:
  Work placed(Work work) const noexcept {
    work.on_chip = options_.keep_activations && !work.quantizes &&
                   work.activation_bytes() <= chip_->a.kib * 1024;
    return work;
  }

  std::shared_ptr<const Chip> chip_;
  Options options_;
};

}  // namespace sim

/// Whether the chip's arrays multiply these types, and its buffers hold a tile.
inline Error supports(const sim::Backend& backend, const GemmProblem& p) {
  const sim::Chip& chip = backend.chip();
  if (Error e = sim::validate(chip)) return e;
  if (Error e = validate(p)) return e;
  if (sim::cycles_per_mac(chip.array, p.a, p.b) == 0) {
    return Error::make(Code::unsupported, "gemm: %.40s does not multiply %s x %s",
                       chip.name.c_str(), name(p.a), name(p.b));
  }
  sim::Mapping unused;
  return backend.mapping_for(backend.work_of(p, backend.rows_of_smallest_tile(), 1, 4), &unused);
}

/// Whether the chip's arrays multiply these types, and its buffers hold a tile.
inline Error supports(const sim::Backend& backend, const ConvProblem& p) {
  const sim::Chip& chip = backend.chip();
  if (Error e = sim::validate(chip)) return e;
  if (Error e = validate(p)) return e;
  if (sim::cycles_per_mac(chip.array, p.a, p.b) == 0) {
    return Error::make(Code::unsupported, "conv: %.40s does not multiply %s x %s",
                       chip.name.c_str(), name(p.a), name(p.b));
  }
  if (p.transposed) {
    return Error::make(Code::unsupported, "conv: %.40s: transposed convolutions are not simulated",
                       chip.name.c_str());
  }
  // Outputs that see nothing but padding load nothing, so that no steady state is found in them.
  constexpr Index kMostBeyond = 16;
  for (std::size_t d = 0; d < 3; ++d) {
    const Index most = (p.kernel[d] - 1) * p.dilation[d] + kMostBeyond,
                pad = p.pad_begin[d] > p.pad_end[d] ? p.pad_begin[d] : p.pad_end[d];
    if (pad <= most) continue;
    return Error::make(Code::unsupported,
                       "conv: %.40s: %lld positions are padded; with this kernel, at most %lld are "
                       "simulated",
                       chip.name.c_str(), static_cast<long long>(pad),
                       static_cast<long long>(most));
  }
  // Rows without overlap need the most of the buffers.
  GemmProblem product = quern::detail::group_gemm(p, 0);
  product.batch = p.groups;
  sim::Mapping unused;
  return backend.mapping_for(backend.work_of(product, backend.rows_of_smallest_tile(), 1, 4),
                             &unused);
}

}  // namespace QUERN_ABI
}  // namespace quern
