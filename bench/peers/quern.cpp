#include "quern/quern.hpp"

#include <memory>

#if __has_include("hwy/base.h") && !defined(QUERN_COMPILED)
#include "hwy/base.h"
#endif

#include "gemm.hpp"

namespace bench {

namespace {

/// $QUERN_BENCH_TARGET, e.g. AVX2, or the best that this CPU can run.
quern::cpu::Backend choose_backend() {
  const std::string target = environment("QUERN_BENCH_TARGET");
  if (target.empty()) return {};
  return quern::cpu::Backend::named(target).value();
}

std::string highway_version() {
#if defined(QUERN_BENCH_HIGHWAY)
  return QUERN_BENCH_HIGHWAY;
#elif defined(HWY_MAJOR)
  return std::to_string(HWY_MAJOR) + '.' + std::to_string(HWY_MINOR) + '.' +
         std::to_string(HWY_PATCH);
#else
  return "unknown";
#endif
}

struct ElementTypes {
  quern::DType a, b, c;
};
ElementTypes element_types(Types t) {
  using enum quern::DType;
  switch (t) {
    case Types::u8s8s32:
      return {u8, s8, s32};
    case Types::s8s8s32:
      return {s8, s8, s32};
    case Types::s8s8s8:
      return {s8, s8, s8};
    case Types::f32f32f32:
      return {f32, f32, f32};
  }
  return {};
}

/// All that a call needs, made before the clock starts.
struct Call {
  quern::cpu::Gemm gemm;
  quern::GemmArgs args;
  quern::ThreadPool pool;
  quern::Workspace workspace;

  Call(quern::cpu::Gemm prepared, const Product& p, ElementTypes t, Index threads)
      : gemm(std::move(prepared)),
        args{.a = {p.a.as<void>(), t.a, p.shape.m, p.shape.k},
             .c = {p.c.as<void>(), t.c, p.shape.m, p.shape.n}},
        pool(threads),
        workspace(static_cast<std::size_t>(gemm.workspace_bytes(p.shape.m, threads))) {}

  void run() {
    const quern::Parallel parallel =
        pool.concurrency() > 1 ? quern::Parallel(pool) : quern::Parallel();
    if (const quern::Error e = gemm.run(args, workspace, parallel)) throw quern::Exception(e);
  }
};

Ready prepare(const quern::cpu::Backend& backend, const Product& p, Index threads) {
  const ElementTypes t = element_types(p.types);
  quern::GemmProblem problem{.n = p.shape.n, .k = p.shape.k, .a = t.a, .b = t.b, .c = t.c};
  if (!p.scales.empty()) problem.epilogue.add(quern::epilogue::scale(p.scales));

  const quern::ConstMatrixView b(p.b.as<void>(), t.b, p.shape.k, p.shape.n);
  const auto call =
      std::make_shared<Call>(quern::prepare(backend, problem, b).value(), p, t, threads);
  return {[call] { call->run(); }, call->gemm.kernel()};
}

}  // namespace

void add_quern(Registry& r) {
  const quern::cpu::Backend backend = choose_backend();
  const auto prepare_for = [backend](Index threads) {
    return [=](const Product& p) { return prepare(backend, p, threads); };
  };
  for (const Types t : {Types::u8s8s32, Types::s8s8s32, Types::s8s8s8, Types::f32f32f32}) {
    for (const int threads : {1, 2}) {
      r.implementations.push_back(
          {.name = "quern", .types = t, .threads = threads, .prepare = prepare_for(threads)});
    }
  }
  r.implementations.push_back({.name = "quern_7bit",
                               .types = Types::u8s8s32,
                               .weights = Weights::seven_bits,
                               .prepare = prepare_for(1)});

  const std::string version = std::to_string(QUERN_VERSION_MAJOR) + '.' +
                              std::to_string(QUERN_VERSION_MINOR) + '.' +
                              std::to_string(QUERN_VERSION_PATCH);
  const std::string target = backend.name(), held_to = environment("QUERN_BENCH_TARGET");
  r.facts.emplace_back("quern", version + ", " + target);
  r.facts.emplace_back("quern_target", target);
  if (!held_to.empty()) r.facts.emplace_back("held_to", held_to);
  r.facts.emplace_back("highway", highway_version());
}

}  // namespace bench
