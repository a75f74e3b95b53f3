#include <cstdint>
#include <cstring>
#include <utility>

#include "quern/core/memory.hpp"
#include "support.hpp"

using namespace quern;

namespace {
bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % kAlignment == 0; }
}  // namespace

TEST_CASE("a buffer starts on a cache line and has the size asked for") {
  for (const std::size_t bytes : {1u, 63u, 64u, 1000u}) {
    const AlignedBuffer buffer(bytes);
    REQUIRE(buffer.data() != nullptr);
    CHECK(aligned(buffer.data()));
    CHECK(buffer.size() == bytes);
    std::memset(buffer.data(), 1, bytes);
  }
}

TEST_CASE("a buffer of nothing, or of more than there is, is empty") {
  CHECK(AlignedBuffer().data() == nullptr);
  CHECK(AlignedBuffer(0).size() == 0);
  CHECK(AlignedBuffer(0).data() == nullptr);
}

TEST_CASE("a buffer moves its memory and leaves nothing behind") {
  AlignedBuffer a(100);
  std::byte* const memory = a.data();
  AlignedBuffer b(std::move(a));
  CHECK(b.data() == memory);
  CHECK(a.data() == nullptr);
  CHECK(a.size() == 0);
  a = std::move(b);
  CHECK(a.data() == memory);
  CHECK(std::span<std::byte>(a).size() == 100);
}

TEST_CASE("a carver hands out aligned pieces that do not overlap, from any address") {
  AlignedBuffer buffer(1024);
  for (const int skew : {0, 1, 63}) {
    Carver carver(buffer.data() + skew);
    const auto* bytes = carver.take<std::uint8_t>(3);
    const auto* floats = carver.take<float>(17);
    const auto* last = carver.take<std::uint8_t>(1);
    CHECK(aligned(bytes));
    CHECK(reinterpret_cast<const std::byte*>(bytes) >= buffer.data() + skew);
    CHECK(reinterpret_cast<const std::uint8_t*>(floats) - bytes == Carver::bytes<std::uint8_t>(3));
    CHECK(last - reinterpret_cast<const std::uint8_t*>(floats) == Carver::bytes<float>(17));
  }
  CHECK(Carver::bytes<std::uint8_t>(3) == 64);
  CHECK(Carver::bytes<float>(17) == 128);
  CHECK(Carver::bytes<float>(0) == 0);
}

TEST_CASE("rounding up and dividing up") {
  CHECK(round_up(0, 16) == 0);
  CHECK(round_up(1, 16) == 16);
  CHECK(round_up(16, 16) == 16);
  CHECK(divide_up(0, 3) == 0);
  CHECK(divide_up(7, 3) == 3);
  CHECK(divide_up(9, 3) == 3);
}
