// oneDNN's matmul, through the interface of 2.x or of 3.x.
#include <dlfcn.h>

#include <cstdlib>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <oneapi/dnnl/dnnl_debug.h>

#include "gemm.hpp"

namespace bench {

namespace {

using dnnl::memory;

/// oneDNN takes its threads from OpenMP. Which OpenMP runtime that is, only the loader knows.
bool use_one_thread() {
  using SetThreads = void (*)(int);
  const auto set = reinterpret_cast<SetThreads>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  if (set != nullptr) set(1);
  return set != nullptr;
}

dnnl::matmul::primitive_desc describe(const dnnl::engine& engine, const memory::desc& a,
                                      const memory::desc& b, const memory::desc& c,
                                      const dnnl::primitive_attr& attributes) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine, a, b, c, attributes};
#else
  return {{a, b, c}, attributes, engine};
#endif
}

Ready prepare(const dnnl::engine& engine, const Product& p) {
  using Type = memory::data_type;
  const auto [m, n, k] = p.shape;
  const bool is_f32 = is_float(p.types), requantized = p.types == Types::s8s8s8;
  const Type a_type = is_f32 ? Type::f32 : p.types == Types::u8s8s32 ? Type::u8 : Type::s8;
  const Type b_type = is_f32 ? Type::f32 : Type::s8;
  const Type c_type = is_f32 ? Type::f32 : requantized ? Type::s8 : Type::s32;
  const auto plain = memory::format_tag::ab, any = memory::format_tag::any;

  // The caller's scratchpad, so that no run allocates.
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  std::unordered_map<int, memory> args;
  if (requantized) {
    constexpr int kPerColumn = 1 << 1;
#if DNNL_VERSION_MAJOR >= 3
    attributes.set_scales_mask(DNNL_ARG_WEIGHTS, kPerColumn);
    args[DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS] = memory(
        {{n}, Type::f32, memory::format_tag::a}, engine, const_cast<float*>(p.scales.data()));
#else
    attributes.set_output_scales(kPerColumn, p.scales);
#endif
  }
  const auto pd = describe(engine, {{m, k}, a_type, plain}, {{k, n}, b_type, any},
                           {{m, n}, c_type, plain}, attributes);

  dnnl::stream stream(engine);
  memory plain_b({{k, n}, b_type, plain}, engine, p.b.as<void>());
  memory packed_b(pd.weights_desc(), engine);
  dnnl::reorder(plain_b, packed_b).execute(stream, plain_b, packed_b);
  stream.wait();

  args[DNNL_ARG_SRC] = memory(pd.src_desc(), engine, p.a.as<void>());
  args[DNNL_ARG_WEIGHTS] = packed_b;
  args[DNNL_ARG_DST] = memory(pd.dst_desc(), engine, p.c.as<void>());
  args[DNNL_ARG_SCRATCHPAD] = memory(pd.scratchpad_desc(), engine);
  const auto run = [matmul = dnnl::matmul(pd), stream, args]() mutable {
    matmul.execute(stream, args);
    stream.wait();
  };
  return {run, pd.impl_info_str()};
}

}  // namespace

void add_onednn(Registry& r) {
  const bool one_thread = use_one_thread();
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  const auto add = [&](const char* name, Types types, Weights weights) {
    r.implementations.push_back(
        {.name = name, .types = types, .weights = weights, .prepare = [engine](const Product& p) {
           return prepare(engine, p);
         }});
  };
  for (const Types t : {Types::u8s8s32, Types::s8s8s32, Types::s8s8s8, Types::f32f32f32}) {
    add("onednn", t, Weights::full);
  }
  add("onednn_7bit", Types::u8s8s32, Weights::seven_bits);

  const dnnl_version_t* v = dnnl::version();
  const auto isa = static_cast<dnnl_cpu_isa_t>(dnnl::get_effective_cpu_isa());
  std::string about = std::to_string(v->major) + '.' + std::to_string(v->minor) + '.' +
                      std::to_string(v->patch) + ", " + dnnl_cpu_isa2str(isa);
  if (!one_thread) about += ", WARNING: the number of threads could not be set to 1";
  r.facts.emplace_back("onednn", about);
}

}  // namespace bench
