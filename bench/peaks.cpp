// The machine's own ceilings, for one core: kernels that do nothing but the instruction in question
// (with the additions that belong to it) on registers, and a sum over memory that does nothing
// else.
#include <benchmark/benchmark.h>

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "registry.hpp"
#include "stopwatch.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>
#define BENCH_X86 1
#else
#define BENCH_X86 0
#endif

namespace bench {

namespace {

/// Runs `once` repeatedly; the counter is `work` units of 10^9 for each second of CPU time.
template <class F>
void measure(benchmark::State& state, const char* unit, double work, F&& once) {
  once();
  const Stopwatch watch(Stopwatch::cpu);
  for (auto _ : state) once();
  state.counters[unit] = 1e-9 * work * double(state.iterations()) / watch.seconds();
}

#if BENCH_X86

constexpr Index kSteps = 2000;
// Enough to hide a latency of 5 cycles at 2 instructions a cycle; fits 16 registers with operands.
constexpr int kSums = 10;

// A function for one instruction set: kSteps times kSums independent `SUM = expression of SUM, a,
// b`. A macro, because a lambda or a template argument would not take on the target attribute. The
// asm lines cost nothing: one makes the compiler believe that b has changed, so that it cannot
// compute the products only once; the other that the sums are needed.
#define BENCH_KERNEL(NAME, ISA, VECTOR, A, B, EXPRESSION)                             \
  __attribute__((target(ISA))) void NAME() {                                          \
    VECTOR sums[kSums] = {}, a = A, b = B;                                            \
    for (Index step = 0; step < kSteps; ++step) {                                     \
      _Pragma("GCC unroll 10") for (VECTOR & SUM : sums) {                            \
        asm volatile("" : "+v"(b));                                                   \
        SUM = EXPRESSION;                                                             \
      }                                                                               \
    }                                                                                 \
    _Pragma("GCC unroll 10") for (VECTOR & SUM : sums) asm volatile("" : : "v"(SUM)); \
  }

BENCH_KERNEL(avx2_f32, "avx2,fma", __m256, _mm256_set1_ps(0.5f), _mm256_set1_ps(0.25f),
             _mm256_fmadd_ps(a, b, SUM))
BENCH_KERNEL(avx2_s16, "avx2", __m256i, _mm256_set1_epi16(3), _mm256_set1_epi16(5),
             _mm256_add_epi32(SUM, _mm256_madd_epi16(a, b)))
BENCH_KERNEL(avx2_u8s8, "avx2", __m256i, _mm256_set1_epi8(3), _mm256_set1_epi8(5),
             _mm256_add_epi32(SUM,
                              _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1))))
BENCH_KERNEL(avxvnni_u8s8, "avx2,avxvnni", __m256i, _mm256_set1_epi8(3), _mm256_set1_epi8(5),
             _mm256_dpbusd_avx_epi32(SUM, a, b))
BENCH_KERNEL(avx512_f32, "avx512f", __m512, _mm512_set1_ps(0.5f), _mm512_set1_ps(0.25f),
             _mm512_fmadd_ps(a, b, SUM))
BENCH_KERNEL(avx512_s16, "avx512bw", __m512i, _mm512_set1_epi16(3), _mm512_set1_epi16(5),
             _mm512_add_epi32(SUM, _mm512_madd_epi16(a, b)))
BENCH_KERNEL(avx512_vnni, "avx512vnni", __m512i, _mm512_set1_epi8(3), _mm512_set1_epi8(5),
             _mm512_dpbusd_epi32(SUM, a, b))
#undef BENCH_KERNEL

bool has_avx_vnni() {  // clang 14 cannot ask for it by name
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 &&
         (a >> 4 & 1) != 0;
}

void register_arithmetic() {
  const auto add = [](const char* title, bool supported, void (*kernel)(), int macs) {
    if (!supported) return;
    benchmark::RegisterBenchmark(title, [=](benchmark::State& state) {
      measure(state, "GMAC/s", double(kSteps * kSums * macs), kernel);
    })->Unit(benchmark::kMicrosecond);
  };
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
  add("peak/avx2/f32_fma", avx2, avx2_f32, 8);
  add("peak/avx2/s16_madd", avx2, avx2_s16, 16);
  add("peak/avx2/u8s8_maddubs", avx2, avx2_u8s8, 32);
  add("peak/avxvnni/u8s8_vnni", has_avx_vnni(), avxvnni_u8s8, 32);
  add("peak/avx512/f32_fma", avx512, avx512_f32, 16);
  add("peak/avx512/s16_madd", avx512, avx512_s16, 32);
  add("peak/avx512/u8s8_vnni", avx512 && __builtin_cpu_supports("avx512vnni"), avx512_vnni, 64);
}

__attribute__((target("avx2"))) void sum_avx2(const std::byte* p, Index bytes) {
  __m256i sums[8] = {};
  for (const std::byte* end = p + bytes; p != end; p += sizeof(sums)) {
    _Pragma("GCC unroll 8") for (int i = 0; i < 8; ++i) {
      const __m256i x = _mm256_load_si256(reinterpret_cast<const __m256i*>(p) + i);
      sums[i] = _mm256_add_epi64(sums[i], x);
    }
  }
  _Pragma("GCC unroll 8") for (const __m256i& s : sums) asm volatile("" : : "x"(s));
}

#else

void register_arithmetic() {}

#endif  // BENCH_X86

void sum_plain(const std::byte* p, Index bytes) {
  std::uint64_t sum = 0;
  for (Index i = 0; i < bytes; i += 8) {
    std::uint64_t x;
    std::memcpy(&x, p + i, 8);
    sum += x;
  }
  benchmark::DoNotOptimize(sum);
}

void read(const Buffer& buffer) {
#if BENCH_X86
  if (__builtin_cpu_supports("avx2")) return sum_avx2(buffer.as<std::byte>(), buffer.bytes());
#endif
  sum_plain(buffer.as<std::byte>(), buffer.bytes());
}

void register_read(const char* title, Index bytes) {
  benchmark::RegisterBenchmark(title, [=, buffer = std::shared_ptr<Buffer>()](
                                          benchmark::State& state) mutable {
    if (buffer == nullptr) {
      buffer = std::make_shared<Buffer>(bytes);
      // Untouched pages would all be one page of zeros.
      std::memset(buffer->as<std::byte>(), 1, static_cast<std::size_t>(bytes));
    }
    measure(state, "GB/s", double(bytes), [&] { read(*buffer); });
    state.SetLabel(std::to_string(bytes >> 20) + " MiB");
  })->Unit(benchmark::kMicrosecond);
}

}  // namespace

void register_peaks() {
  Index l3 = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
  l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
  register_arithmetic();
  register_read("peak/read/16MiB", Index{16} << 20);  // 4096 x 4096 weights of 8 bits
  register_read("peak/read/64MiB", Index{64} << 20);  // the same in f32; 8192 x 8192 of 8 bits
  // Several times the cache, but a virtual machine may report any size.
  register_read("peak/read/memory", std::clamp(4 * l3, Index{256} << 20, Index{512} << 20));
}

}  // namespace bench
