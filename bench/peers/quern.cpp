#include "quern/quern.hpp"

#include <memory>

#if __has_include("hwy/base.h") && !defined(QUERN_COMPILED)
#include "hwy/base.h"
#endif

#include "registry.hpp"

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
    case Types::u8s8s8:
      return {u8, s8, s8};
    case Types::s8s8s8:
      return {s8, s8, s8};
    case Types::f32f32f32:
      return {f32, f32, f32};
  }
  return {};
}

/// All that a call needs, made before the clock starts.
template <class Prepared, class Args>
struct Call {
  Prepared operation;
  Args args;
  quern::ThreadPool pool;
  quern::Workspace workspace;

  Call(Prepared prepared, const Args& arguments, Index rows, Index threads)
      : operation(std::move(prepared)),
        args(arguments),
        pool(threads),
        workspace(static_cast<std::size_t>(operation.workspace_bytes(rows, threads))) {}

  void run() {
    const quern::Parallel parallel =
        pool.concurrency() > 1 ? quern::Parallel(pool) : quern::Parallel();
    if (const quern::Error e = operation.run(args, workspace, parallel)) throw quern::Exception(e);
  }
};

template <class Prepared, class Args>
Ready make_ready(Prepared prepared, const Args& args, const Operation& o, Index threads) {
  const std::string kernel = prepared.kernel();
  const auto call =
      std::make_shared<Call<Prepared, Args>>(std::move(prepared), args, o.rows(), threads);
  return {[call] { call->run(); }, kernel};
}

quern::Epilogue epilogue(const Operation& o) {
  quern::Epilogue e;
  if (!o.bias.empty()) e.add(quern::epilogue::bias(o.bias));
  if (!o.scales.empty()) e.add(quern::epilogue::scale(o.scales));
  return e;
}

Ready prepare(const quern::cpu::Backend& backend, const Product& p, Index threads) {
  const ElementTypes t = element_types(p.types);
  const auto [m, n, k] = p.shape;
  const quern::GemmProblem problem{
      .n = n, .k = k, .a = t.a, .b = t.b, .c = t.c, .epilogue = epilogue(p)};
  const quern::GemmArgs args{.a = {p.a.as<void>(), t.a, m, k}, .c = {p.c.as<void>(), t.c, m, n}};
  return make_ready(
      quern::prepare(backend, problem, quern::ConstMatrixView(p.b.as<void>(), t.b, k, n)).value(),
      args, p, threads);
}

Ready prepare(const quern::cpu::Backend& backend, const Conv& conv, Index threads) {
  const ElementTypes t = element_types(conv.types);
  const Conv::Shape& s = conv.shape;
  const quern::ConvProblem problem{.in_channels = s.in,
                                   .out_channels = s.out,
                                   .groups = s.groups,
                                   .kernel = s.kernel,
                                   .stride = s.stride,
                                   .dilation = s.dilation,
                                   .pad_begin = s.pad_begin,
                                   .pad_end = s.pad_end,
                                   .a = t.a,
                                   .b = t.b,
                                   .c = t.c,
                                   .a_zero_point = conv.a_zero_point,
                                   .epilogue = epilogue(conv)};
  const quern::ConvArgs args{
      .a = quern::ConstImageView::channels_last(conv.a.as<void>(), t.a, 1, s.size, s.in),
      .c = quern::ImageView::channels_last(conv.c.as<void>(), t.c, 1, s.extent(), s.out)};
  const auto weights = quern::FilterView::inputs_last(conv.b.as<void>(), problem);
  return make_ready(quern::prepare(backend, problem, weights).value(), args, conv, threads);
}

template <class Op>
Implementation<Op> implementation(const quern::cpu::Backend& backend, Types types,
                                  int threads = 1) {
  return {.name = "quern", .types = types, .threads = threads, .prepare = [=](const Op& o) {
            return prepare(backend, o, threads);
          }};
}

}  // namespace

void add_quern(Registry& r) {
  const quern::cpu::Backend backend = choose_backend();
  for (const int threads : {1, 2}) {
    for (const Types t : {Types::u8s8s32, Types::s8s8s32, Types::s8s8s8, Types::f32f32f32}) {
      r.gemms.push_back(implementation<Product>(backend, t, threads));
    }
    for (const Types t : {Types::u8s8s8, Types::s8s8s8, Types::f32f32f32}) {
      r.convs.push_back(implementation<Conv>(backend, t, threads));
    }
  }
  r.gemms.push_back(implementation<Product>(backend, Types::u8s8s32));
  r.gemms.back().name = "quern_7bit";
  r.gemms.back().weights = Weights::seven_bits;

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
