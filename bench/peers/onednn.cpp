// oneDNN's matmul and convolution, through the interface of 2.x or of 3.x.
#include <dlfcn.h>

#include <algorithm>
#include <oneapi/dnnl/dnnl.hpp>
#include <oneapi/dnnl/dnnl_debug.h>
#include <unordered_map>
#include <vector>

#include "registry.hpp"

namespace bench {

namespace {

using dnnl::memory;
using Tag = memory::format_tag;
using Type = memory::data_type;

/// oneDNN takes its threads from OpenMP. Which OpenMP runtime that is, only the loader knows.
bool use_one_thread() {
  using SetThreads = void (*)(int);
  const auto set = reinterpret_cast<SetThreads>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  if (set != nullptr) set(1);
  return set != nullptr;
}

memory::dims last(const Spatial& s, int rank) { return {s.end() - rank, s.end()}; }

/// A copy of its own.
template <class T>
memory vector(const dnnl::engine& engine, Type type, const std::vector<T>& values) {
  memory m({{static_cast<Index>(values.size())}, type, Tag::a}, engine);
  std::copy(values.begin(), values.end(), static_cast<T*>(m.get_data_handle()));
  return m;
}

/// Adds to the accumulator in 2.x, to its scaled value in 3.x.
memory accumulator_bias(const dnnl::engine& engine, const Operation& o) {
#if DNNL_VERSION_MAJOR >= 3
  std::vector<float> scaled(o.scales);
  for (std::size_t i = 0; i < scaled.size(); ++i) scaled[i] *= static_cast<float>(o.bias[i]);
  return vector(engine, Type::f32, scaled);
#else
  return vector(engine, Type::s32, o.bias);
#endif
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

dnnl::convolution_forward::primitive_desc describe(const dnnl::engine& engine, const Conv::Shape& s,
                                                   const memory::desc& a, const memory::desc& b,
                                                   const memory::desc& bias, const memory::desc& c,
                                                   const dnnl::primitive_attr& attributes) {
  const memory::dims stride = last(s.stride, s.rank), begin = last(s.pad_begin, s.rank),
                     end = last(s.pad_end, s.rank);
  memory::dims dilation = last(s.dilation, s.rank);
  for (auto& d : dilation) --d;  // it counts what is skipped
  const auto inference = dnnl::prop_kind::forward_inference;
  const auto algorithm = dnnl::algorithm::convolution_auto;
#if DNNL_VERSION_MAJOR >= 3
  return {engine, inference, algorithm, a, b, bias, c, stride, dilation, begin, end, attributes};
#else
  return {{inference, algorithm, a, b, bias, c, stride, dilation, begin, end}, attributes, engine};
#endif
}

struct ElementTypes {
  Type a, b, c;
};
ElementTypes element_types(Types t) {
  if (is_float(t)) return {Type::f32, Type::f32, Type::f32};
  return {has_u8(t) ? Type::u8 : Type::s8, Type::s8, is_requantized(t) ? Type::s8 : Type::s32};
}

using Arguments = std::unordered_map<int, memory>;

/// The caller's scratchpad, so that no run allocates, and what requantization asks for. In 3.x the
/// scales belong to the weights, of which this dimension is the columns'.
dnnl::primitive_attr attributes([[maybe_unused]] const dnnl::engine& engine, const Operation& o,
                                [[maybe_unused]] int weights_mask,
                                [[maybe_unused]] Arguments& args) {
  dnnl::primitive_attr a;
  a.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (is_requantized(o.types)) {
#if DNNL_VERSION_MAJOR >= 3
    a.set_scales_mask(DNNL_ARG_WEIGHTS, weights_mask);
    args[DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS] = vector(engine, Type::f32, o.scales);
#else
    constexpr int kPerColumn = 1 << 1;
    a.set_output_scales(kPerColumn, o.scales);
#endif
  }
  if (o.a_zero_point != 0) {
#if DNNL_VERSION_MAJOR >= 3
    a.set_zero_points_mask(DNNL_ARG_SRC, 0);
    args[DNNL_ARG_ATTR_ZERO_POINTS | DNNL_ARG_SRC] =
        vector(engine, Type::s32, std::vector<std::int32_t>{o.a_zero_point});
#else
    a.set_zero_points(DNNL_ARG_SRC, 0, {o.a_zero_point});
#endif
  }
  return a;
}

/// Weights go into the layout that the primitive asks for, images and results stay as they are.
template <class Primitive>
Ready make_ready(const dnnl::engine& engine, const Operation& o,
                 const typename Primitive::primitive_desc& pd, memory plain_weights,
                 Arguments args) {
  dnnl::stream stream(engine);
  memory weights(pd.weights_desc(), engine);
  dnnl::reorder(plain_weights, weights).execute(stream, plain_weights, weights);
  stream.wait();

  args[DNNL_ARG_SRC] = memory(pd.src_desc(), engine, o.a.as<void>());
  args[DNNL_ARG_WEIGHTS] = weights;
  args[DNNL_ARG_DST] = memory(pd.dst_desc(), engine, o.c.as<void>());
  args[DNNL_ARG_SCRATCHPAD] = memory(pd.scratchpad_desc(), engine);
  const auto run = [primitive = Primitive(pd), stream, args]() mutable {
    primitive.execute(stream, args);
    stream.wait();
  };
  return {run, pd.impl_info_str()};
}

Ready prepare(const dnnl::engine& engine, const Product& p) {
  const auto [m, n, k] = p.shape;
  const auto [a, b, c] = element_types(p.types);
  Arguments args;
  const auto pd =
      describe(engine, {{m, k}, a, Tag::ab}, {{k, n}, b, Tag::any}, {{m, n}, c, Tag::ab},
               attributes(engine, p, /*weights_mask=*/1 << 1, args));
  return make_ready<dnnl::matmul>(engine, p, pd,
                                  memory({{k, n}, b, Tag::ab}, engine, p.b.as<void>()), args);
}

Ready prepare(const dnnl::engine& engine, const Conv& conv) {
  constexpr Tag kImages[] = {Tag::nwc, Tag::nhwc, Tag::ndhwc};
  constexpr Tag kWeights[] = {Tag::oiw, Tag::oihw, Tag::oidhw};
  constexpr Tag kGroupedWeights[] = {Tag::goiw, Tag::goihw, Tag::goidhw};
  const Conv::Shape& s = conv.shape;
  const auto [a, b, c] = element_types(conv.types);
  const bool grouped = s.groups > 1;
  const Tag image = kImages[s.rank - 1];
  const Tag plain = (grouped ? kGroupedWeights : kWeights)[s.rank - 1];
  const auto extend = [&](memory::dims dims, const Spatial& tail) {
    for (const Index d : last(tail, s.rank)) dims.push_back(d);
    return dims;
  };
  const memory::dims in = extend({1, s.in}, s.size), out = extend({1, s.out}, s.extent()),
                     kernel =
                         extend(grouped ? memory::dims{s.groups, s.out / s.groups, s.in / s.groups}
                                        : memory::dims{s.out, s.in},
                                s.kernel);
  Arguments args;
  memory::desc bias;
  if (!conv.bias.empty()) {
    args[DNNL_ARG_BIAS] = accumulator_bias(engine, conv);
    bias = args[DNNL_ARG_BIAS].get_desc();
  }
  const auto pd = describe(engine, s, {in, a, image}, {kernel, b, Tag::any}, bias, {out, c, image},
                           attributes(engine, conv, /*weights_mask=*/grouped ? 3 : 1, args));
  const Buffer inputs_first = conv.inputs_first();
  return make_ready<dnnl::convolution_forward>(
      engine, conv, pd, memory({kernel, b, plain}, engine, inputs_first.as<void>()), args);
}

}  // namespace

void add_onednn(Registry& r) {
  const bool one_thread = use_one_thread();
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  const auto add = [&]<class Op>(std::vector<Implementation<Op>>& all, Types types) {
    all.push_back({.name = "onednn", .types = types, .prepare = [engine](const Op& o) {
                     return prepare(engine, o);
                   }});
  };
  for (const Types t : {Types::u8s8s32, Types::s8s8s32, Types::s8s8s8, Types::f32f32f32}) {
    add(r.gemms, t);
  }
  for (const Types t : {Types::u8s8s8, Types::s8s8s8, Types::f32f32f32}) add(r.convs, t);
  add(r.gemms, Types::u8s8s32);
  r.gemms.back().name = "onednn_7bit";
  r.gemms.back().weights = Weights::seven_bits;

  const dnnl_version_t* v = dnnl::version();
  const auto isa = static_cast<dnnl_cpu_isa_t>(dnnl::get_effective_cpu_isa());
  std::string about = std::to_string(v->major) + '.' + std::to_string(v->minor) + '.' +
                      std::to_string(v->patch) + ", " + dnnl_cpu_isa2str(isa);
  if (!one_thread) about += ", WARNING: the number of threads could not be set to 1";
  r.facts.emplace_back("onednn", about);
}

}  // namespace bench
