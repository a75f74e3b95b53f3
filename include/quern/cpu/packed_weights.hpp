// Packed weights: B in the order the tiles read it. Plain bytes, the same for every instruction
// set, with a header that says what they are; write them to a file, map them back, share them.
//
//   header        64 bytes, PackedHeader
//   column sums   (batch, panels, 16) s32; only of 8-bit weights
//   panels        8-bit: (batch, panels, quads, 16, 4) s8; u8 weights are stored with 128
//   subtracted
//                 float: (batch, panels, k, 16) f32
//
// Columns beyond n and k beyond the last are zeros. Little-endian.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>

#include "quern/core/memory.hpp"
#include "quern/cpu/kernels.hpp"
#include "quern/ops/gemm.hpp"

namespace quern {
inline namespace QUERN_ABI {
namespace cpu {

static_assert(std::endian::native == std::endian::little,
              "quern: packed words assume little-endian");

struct PackedHeader {
  static constexpr std::uint64_t kMagic = 0x0031'4e52'4555'51ull;  // "QUERN1"
  static constexpr std::uint32_t kVersion = 1;

  std::uint64_t magic = kMagic;
  std::uint32_t version = kVersion;
  DType type = DType::s8;
  std::uint8_t proven = 0;  ///< 8-bit: no two products that share a 16-bit sum can saturate it
  std::uint8_t reserved[2] = {};
  std::int64_t n = 0, k = 0, batch = 0;
  std::uint64_t checksum = 0;  ///< of everything, with 0 here
  std::uint64_t unused[2] = {};
};
static_assert(sizeof(PackedHeader) == 64);

/// Immutable; copies share the bytes.
class PackedWeights {
 public:
  const PackedHeader& header() const { return *reinterpret_cast<const PackedHeader*>(data_); }
  /// The whole, header included.
  std::span<const std::byte> bytes() const { return {data_, size_}; }

  Index panels() const { return divide_up(header().n, kPanel); }
  bool is_int8() const { return quern::is_int8(header().type); }
  /// Bytes of one panel.
  Index panel_bytes() const { return panel_bytes(header()); }
  /// Sums over k of batch element b, (panels, 16).
  const std::int32_t* column_sums(Index b) const {
    return reinterpret_cast<const std::int32_t*>(data_ + sizeof(PackedHeader)) +
           b * panels() * kPanel;
  }
  const std::byte* panel(Index b, Index p) const {
    return data_ + sizeof(PackedHeader) + sums_bytes(header()) + (b * panels() + p) * panel_bytes();
  }

  /// Packs b (batch, k, n) of a problem that validate() accepts.
  static Result<PackedWeights> pack(const GemmProblem& p, const ConstMatrixView& b) {
    if (Error e = validate(p, b)) return e;
    PackedHeader h;
    h.type = p.b;
    h.n = p.n;
    h.k = p.k;
    h.batch = p.batch;
    auto buffer = std::make_shared<AlignedBuffer>(static_cast<std::size_t>(total_bytes(h)));
    if (buffer->size() == 0) {
      return Error::make(Code::no_memory, "gemm: no memory for %lld bytes of packed weights",
                         static_cast<long long>(total_bytes(h)));
    }
    std::byte* payload = buffer->data() + sizeof(PackedHeader);
    std::byte* panel = payload + sums_bytes(h);
    auto* sums = reinterpret_cast<std::int32_t*>(payload);
    bool proven = true;
    for (Index bi = 0; bi < h.batch; ++bi) {
      for (Index j = 0; j < h.n; j += kPanel, panel += panel_bytes(h), sums += kPanel) {
        if (quern::is_int8(p.b)) {
          proven &= pack_int8(b, bi, j, reinterpret_cast<std::int8_t*>(panel), sums);
        } else {
          pack_float(b, bi, j, reinterpret_cast<float*>(panel));
        }
      }
    }
    h.proven = quern::is_int8(p.b) && proven;
    h.checksum = checksum(h, payload, total_bytes(h) - Index{sizeof(PackedHeader)});
    std::memcpy(buffer->data(), &h, sizeof(h));
    const std::byte* data = buffer->data();
    return PackedWeights(std::move(buffer), data, static_cast<std::size_t>(total_bytes(h)));
  }

  /// Copies bytes that bytes() once returned, after checking all of them.
  static Result<PackedWeights> from_bytes(std::span<const std::byte> bytes) {
    if (Error e = check(bytes)) return e;
    auto buffer = std::make_shared<AlignedBuffer>(bytes.size());
    if (buffer->size() == 0) {
      return Error::make(Code::no_memory, "packed weights: no memory for %lld bytes",
                         static_cast<long long>(bytes.size()));
    }
    std::memcpy(buffer->data(), bytes.data(), bytes.size());
    const std::byte* data = buffer->data();
    return PackedWeights(std::move(buffer), data, bytes.size());
  }

  /// Uses bytes where they are, e.g. in a mapped file: 64-byte aligned, and alive as long as any
  /// copy.
  static Result<PackedWeights> view(std::span<const std::byte> bytes) {
    if (reinterpret_cast<std::uintptr_t>(bytes.data()) % kAlignment != 0) {
      return Error::make(Code::bad_packed, "packed weights at %p are not aligned to %d bytes",
                         static_cast<const void*>(bytes.data()), static_cast<int>(kAlignment));
    }
    if (Error e = check(bytes)) return e;
    return PackedWeights(nullptr, bytes.data(), bytes.size());
  }

 private:
  PackedWeights(std::shared_ptr<AlignedBuffer> owner, const std::byte* data, std::size_t size)
      : owner_(std::move(owner)), data_(data), size_(size) {}

  static Index panel_bytes(const PackedHeader& h) {
    return quern::is_int8(h.type) ? round_up(h.k, kQuad) * kPanel : h.k * kPanel * 4;
  }
  static Index sums_bytes(const PackedHeader& h) {
    return quern::is_int8(h.type) ? h.batch * divide_up(h.n, kPanel) * kPanel * 4 : 0;
  }
  static Index total_bytes(const PackedHeader& h) {
    return Index{sizeof(PackedHeader)} + sums_bytes(h) +
           h.batch * divide_up(h.n, kPanel) * panel_bytes(h);
  }

  /// One panel of 8-bit weights and its column sums; returns whether its pairs are proven: for u8
  /// activations up to 255, two products fit 16 bits if the weights of one sign add up to at most
  /// 128.
  static bool pack_int8(const ConstMatrixView& b, Index bi, Index j0, std::int8_t* out,
                        std::int32_t* sums) {
    const std::int32_t shift = b.type == DType::u8 ? 128 : 0;
    const Index k = b.rows, columns = b.cols - j0 < kPanel ? b.cols - j0 : kPanel;
    std::memset(out, 0, static_cast<std::size_t>(round_up(k, kQuad) * kPanel));
    std::memset(sums, 0, sizeof(std::int32_t) * kPanel);
    bool proven = true;
    for (Index j = 0; j < columns; ++j) {
      const auto* source = reinterpret_cast<const std::uint8_t*>(element(b, bi, 0, j0 + j));
      std::int32_t previous = 0;
      std::uint32_t sum = 0;
      for (Index i = 0; i < k; ++i) {
        const std::uint8_t raw = source[i * b.row_stride];
        const std::int32_t w = b.type == DType::u8 ? std::int32_t{raw} - shift
                                                   : std::int32_t{static_cast<std::int8_t>(raw)};
        out[(i / kQuad * kPanel + j) * kQuad + i % kQuad] = static_cast<std::int8_t>(w);
        sum += static_cast<std::uint32_t>(w);
        if (i % 2 == 1) {
          const std::int32_t up = (w > 0 ? w : 0) + (previous > 0 ? previous : 0);
          const std::int32_t down = (w < 0 ? w : 0) + (previous < 0 ? previous : 0);
          proven &= up <= 128 && down >= -128;
        }
        previous = w;
      }
      sums[j] = static_cast<std::int32_t>(sum);
    }
    return proven;
  }

  static void pack_float(const ConstMatrixView& b, Index bi, Index j0, float* out) {
    const Index columns = b.cols - j0 < kPanel ? b.cols - j0 : kPanel;
    for (Index i = 0; i < b.rows; ++i, out += kPanel) {
      for (Index j = 0; j < kPanel; ++j) out[j] = j < columns ? load_float(b, bi, i, j0 + j) : 0.0f;
    }
  }

  /// FNV-1a over 8-byte words, which all sizes are multiples of.
  static std::uint64_t checksum(PackedHeader h, const std::byte* payload, Index size) {
    std::uint64_t hash = 0xcbf29ce484222325ull;
    const auto add = [&](const void* data, Index bytes) {
      for (Index i = 0; i < bytes; i += 8) {
        std::uint64_t word;
        std::memcpy(&word, static_cast<const std::byte*>(data) + i, 8);
        hash = (hash ^ word) * 0x100000001b3ull;
        hash ^= hash >> 32;
      }
    };
    h.checksum = 0;
    add(&h, sizeof(h));
    add(payload, size);
    return hash;
  }

  static Error check(std::span<const std::byte> bytes) {
    using LL = long long;
    const Index size = std::ssize(bytes);
    PackedHeader h;
    if (size < Index{sizeof(h)}) {
      return Error::make(Code::bad_packed, "packed weights: %lld bytes are less than a header",
                         LL(size));
    }
    std::memcpy(&h, bytes.data(), sizeof(h));
    if (h.magic != PackedHeader::kMagic) {
      return Error::make(Code::bad_packed,
                         "packed weights: these bytes are something else (magic %llx)",
                         static_cast<unsigned long long>(h.magic));
    }
    if (h.version != PackedHeader::kVersion) {
      return Error::make(Code::bad_packed,
                         "packed weights: version %u, but this quern reads version %u", h.version,
                         PackedHeader::kVersion);
    }
    const bool storable = quern::is_int8(h.type) || is_float(h.type);
    const GemmProblem sizes{.n = h.n, .k = h.k, .batch = h.batch, .overflow = Overflow::wrap};
    if (!storable || validate(sizes)) {
      return Error::make(Code::bad_packed,
                         "packed weights: a header with %s, %lld x %lld x %lld is corrupt",
                         name(h.type), LL(h.batch), LL(h.k), LL(h.n));
    }
    if (size != total_bytes(h)) {
      return Error::make(Code::bad_packed, "packed weights: %lld bytes, but the header says %lld",
                         LL(size), LL(total_bytes(h)));
    }
    const Index payload = size - Index{sizeof(h)};
    if (checksum(h, bytes.data() + sizeof(h), payload) != h.checksum) {
      return Error::make(Code::bad_packed,
                         "packed weights: the checksum differs, %lld bytes are corrupt", LL(size));
    }
    return {};
  }

  std::shared_ptr<AlignedBuffer> owner_;
  const std::byte* data_;
  std::size_t size_;
};

}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
