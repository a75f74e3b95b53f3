// ONNX's own tests of attention and the operators around it, on the references. Bit for bit where
// quern defines the bits (rotations, caches), and within the rounding errors of both sides
// elsewhere.
//   quern_onnx_attention_tests DIR      reads DIR/cases.txt, which export_cases.py writes
// Prints a notice and succeeds when there is no such file: the cases need Python and a package.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "onnx_cases.hpp"
#include "quern/ops/attention_reference.hpp"
#include "quern/ops/elementwise.hpp"
#include "quern/ops/kv_cache_reference.hpp"
#include "quern/ops/normalize.hpp"

namespace {

using namespace quern;
using namespace onnx_cases;

const std::string kUnsupported = "not supported: ";

template <class Problem, class Args>
std::string refused(const Problem& p, const Args& args) {
  if (Error e = validate(p)) return e.what();
  if (Error e = validate(p, args)) return e.what();
  if constexpr (requires { validate_values(p, args); }) {
    if (Error e = validate_values(p, args)) return e.what();
  }
  return {};
}

/// [batch, heads, tokens, size], or [batch, tokens, heads * size].
template <class View, class Data>
View heads_of(Data* data, const Tensor& t, Index heads) {
  const auto& s = t.shape;
  if (s.size() == 4) return View::bhsd(data, t.head(), s[0], s[1], s[2], s[3]);
  return View::bshd(data, t.head(), s.at(0), heads, s.at(1), s.at(2) / heads);
}
ConstHeadsView heads_of(const Tensor& t, Index heads) {
  return heads_of<ConstHeadsView>(static_cast<const void*>(t.bytes.data()), t, heads);
}

/// Appends past and new keys and values to caches that become `k` and `v`.
std::string append_past(const Case& test, AttentionProblem& p, AttentionArgs& args, Output& k,
                        Output& v) {
  const Tensor past_k = test.input(4), past_v = test.input(5);
  const KvAppendProblem append{.kv_heads = p.kv_heads,
                               .k_size = p.qk_size,
                               .v_size = p.v_size,
                               .source = p.k,
                               .k = p.k,
                               .v = p.v};
  KvAppendArgs call{.k = heads_of(past_k, p.kv_heads),
                    .v = heads_of(past_v, p.kv_heads),
                    .k_cache = heads_of<HeadsView>(k.data(), k.tensor, p.kv_heads),
                    .v_cache = heads_of<HeadsView>(v.data(), v.tensor, p.kv_heads)};
  if (std::string e = refused(append, call); !e.empty()) return e;
  reference_append(append, call);
  const std::vector<std::int32_t> lengths(static_cast<std::size_t>(past_k.shape.at(0)),
                                          static_cast<std::int32_t>(past_k.shape.at(2)));
  call.k = args.k;
  call.v = args.v;
  call.lengths = lengths;
  if (std::string e = refused(append, call); !e.empty()) return e;
  reference_append(append, call);
  args.k = call.k_cache;
  args.v = call.v_cache;
  std::string e = compare("present_key", test.output(1), k.reals(), exact);
  return e.empty() ? compare("present_value", test.output(2), v.reals(), exact) : e;
}

std::string check_attention(const Case& test) {
  const Tensor q = test.input(0), k = test.input(1), v = test.input(2), mask = test.input(3),
               past = test.input(4), lengths = test.input(6);
  const ConstHeadsView q_view = heads_of(q, test.integer("q_num_heads", 0)),
                       k_view = heads_of(k, test.integer("kv_num_heads", 0)),
                       v_view = heads_of(v, test.integer("kv_num_heads", 0));
  const Index mode = test.integer("qk_matmul_output_mode", 0),
              right = test.integer("right_window_size", -1);
  const Tensor scores = test.output(3);
  AttentionProblem p{.q_heads = q_view.heads,
                     .kv_heads = k_view.heads,
                     .qk_size = q_view.size,
                     .v_size = v_view.size,
                     .q = q.head(),
                     .k = k.head(),
                     .v = v.head(),
                     .out = q.head(),
                     .softcap = test.real("softcap", 0.0f),
                     .alignment = past.given()      ? Alignment::given
                                  : lengths.given() ? Alignment::bottom_right
                                                    : Alignment::top_left,
                     .window = {test.integer("left_window_size", -1),
                                test.integer("is_causal", 0) != 0 ? 0 : right},
                     .mask = mask.mask(),
                     .scores = scores.given() ? Scores(1 + mode) : Scores::none};
  if (test.has("scale")) p.scale = test.real("scale", 0.0f);
  Output out(test.output(0)), present_k(test.output(1)), present_v(test.output(2));
  AttentionArgs args{.q = q_view,
                     .k = k_view,
                     .v = v_view,
                     .out = heads_of<HeadsView>(out.data(), out.tensor, p.q_heads)};
  const std::vector<std::int32_t> kv_lengths = lengths.integers(),
                                  starts(static_cast<std::size_t>(q_view.batch),
                                         past.given() ? std::int32_t(past.shape.at(2)) : 0);
  if (past.given()) {
    args.starts = starts;
    if (std::string e = append_past(test, p, args, present_k, present_v); !e.empty()) return e;
  }
  args.kv_lengths = kv_lengths;
  if (mask.given()) args.mask = MaskView::broadcast(mask.bytes.data(), mask.mask(), mask.shape);
  std::vector<float> shown(scores.values.size());
  if (scores.given()) {
    const Index row = scores.shape.at(3), head = row * scores.shape.at(2);
    args.scores = {shown.data(), head * p.q_heads, head, row, 1};
  }
  if (std::string e = refused(p, args); !e.empty()) return e;
  reference_attention(p, args);

  // ONNX's reference computes in the type of its inputs. For f32 the bound is that of backends. A
  // half type rounds the logits about 3 times on the way and values 8 times, each a roundoff u of
  // the type: weights are off by a factor of 1 + 6 u X, X the largest logit.
  const AttentionRange range = attention_range(p, args);
  AttentionTolerance limit = attention_tolerance(p, args.k.tokens, range);
  if (p.q != HeadType::f32) {
    const double u = unit_roundoff(p.q),
                 x = double(p.scale_value()) * range.q_norm * range.k_norm + range.bias;
    limit = {(6.0 * x + 8.0) * u * range.v, (6.0 * x + 8.0) * u};
  }
  std::string e = compare("Y", test.output(0), out.reals(), [&](double) { return limit.out; });
  if (!e.empty() || !scores.given()) return e;
  return compare("qk_matmul_output", scores, shown, [&](double) { return limit.lse; });
}

std::string check_rotation(const Case& test) {
  const Tensor x = test.input(0), cos = test.input(1), sin = test.input(2), ids = test.input(3);
  const ConstHeadsView view = heads_of(x, test.integer("num_heads", 0));
  const Index rotary = test.integer("rotary_embedding_dim", 0);
  const RopeProblem p{
      .heads = view.heads,
      .size = view.size,
      .x = x.head(),
      .y = x.head(),
      .rope = {rotary == 0 ? view.size : rotary,
               test.integer("interleaved", 0) != 0 ? RopePairs::interleaved : RopePairs::halves}};
  Output y(test.output(0));
  const std::vector<float> cos_values = cos.reals(), sin_values = sin.reals();
  const Index half = cos.shape.back(), rows = std::ssize(cos_values) / half;
  std::vector<std::int32_t> positions = ids.integers();
  if (!ids.given()) {  // tables of their own for each token
    for (Index i = 0; i < rows; ++i) positions.push_back(static_cast<std::int32_t>(i));
  }
  const RopeArgs args{.x = view,
                      .y = heads_of<HeadsView>(y.data(), y.tensor, view.heads),
                      .tables = {{cos_values.data(), rows, half}, {sin_values.data(), rows, half}},
                      .positions = {positions, {}}};
  if (std::string e = refused(p, args); !e.empty()) return e;
  reference_rope(p, args);
  return compare("Y", test.output(0), y.reals(), exact);
}

std::string check_softmax(const Case& test) {
  const Tensor x = test.input(0);
  const std::size_t axis = x.dimension(test.integer("axis", -1));
  const Index outer = x.product(0, axis), inner = x.product(axis + 1, x.shape.size());
  const SoftmaxProblem p{
      .cols = x.shape.at(axis),
      .x = x.dtype(),
      .y = x.dtype(),
      .result = test.op == "Softmax" ? SoftmaxResult::weights : SoftmaxResult::logarithms};
  Output y(test.output(0));
  const auto view = [&](auto* data) {
    return AnyMatrix<std::remove_pointer_t<decltype(data)>>(data, p.x, inner, p.cols, 1, inner,
                                                            outer, p.cols * inner);
  };
  const SoftmaxArgs args{view(static_cast<const void*>(x.bytes.data())), view(y.data())};
  if (std::string e = refused(p, args); !e.empty()) return e;
  reference_softmax(p, args);
  double most = 0.0;
  for (const float v : x.reals()) most = std::max(most, std::fabs(double(v)));
  const RowTolerance limit = softmax_tolerance(p, most);
  return compare("Y", test.output(0), y.reals(),
                 [&](double v) { return limit.absolute + limit.relative * std::fabs(v); });
}

std::string check_normalization(const Case& test) {
  const Tensor x = test.input(0);
  const std::size_t axis = x.dimension(test.integer("axis", -1));
  const std::vector<float> gamma = test.input(1).reals(), beta = test.input(2).reals();
  const NormalizeProblem p{
      .cols = x.product(axis, x.shape.size()),
      .kind = test.op == "RMSNormalization" ? Normalization::rms : Normalization::layer,
      .x = x.dtype(),
      .y = x.dtype(),
      .epsilon = test.real("epsilon", 1e-5f),
      .gamma = gamma,
      .beta = beta};
  const Index rows = x.product(0, axis);
  Output y(test.output(0));
  std::vector<float> means(test.output(1).values.size()), factors(test.output(2).values.size());
  const NormalizeArgs args{.x = {x.bytes.data(), p.x, rows, p.cols},
                           .y = {y.data(), p.y, rows, p.cols},
                           .means = means,
                           .factors = factors};
  if (std::string e = refused(p, args); !e.empty()) return e;
  reference_normalize(p, args);
  const NormalizeRange range = normalize_range(p, args.x);
  const RowTolerance limit = normalize_tolerance(p, range);
  const double u = 0x1p-24 * double(p.cols + 16);
  std::string e = compare("Y", test.output(0), y.reals(),
                          [&](double v) { return limit.absolute + limit.relative * std::fabs(v); });
  if (e.empty() && !means.empty()) {
    e = compare("Mean", test.output(1), means, [&](double) { return u * range.x; });
  }
  if (!e.empty() || factors.empty()) return e;
  return compare("InvStdDev", test.output(2), factors, [&](double v) { return u * v; });
}

std::string check_scatter(const Case& test) {
  const Tensor cache = test.input(0), update = test.input(1);
  const bool flat = cache.shape.size() == 3;
  if (test.has("mode") && test.attributes.at("mode") != "linear") {
    return kUnsupported + "a cache that wraps around";
  }
  const Index heads = flat ? 1 : cache.shape.at(1);
  const KvAppendProblem p{.kv_heads = heads,
                          .k_size = cache.shape.back(),
                          .source = cache.head(),
                          .k = cache.head(),
                          .v = cache.head()};
  Output y(cache);
  y.tensor.bytes = cache.bytes;
  const std::vector<std::int32_t> lengths = test.input(2).integers();
  KvAppendArgs args{.k = heads_of(update, heads),
                    .v = heads_of(update, heads),
                    .k_cache = heads_of<HeadsView>(y.data(), cache, heads),
                    .v_cache = heads_of<HeadsView>(y.data(), cache, heads),
                    .lengths = lengths};
  args.v.size = args.v_cache.size = 0;
  if (std::string e = refused(p, args); !e.empty()) return e;
  reference_append(p, args);
  return compare("present_cache", test.output(0), y.reals(), exact);
}

std::string check_elementwise(const Case& test) {
  const Tensor a = test.input(0), b = test.input(1);
  const bool tanh = test.has("approximate") && test.attributes.at("approximate") == "tanh";
  if (test.real("alpha", 1.0f) != 1.0f) return kUnsupported + "SwiGLU with an alpha";
  const Index cols = std::ssize(a.values);
  const ElementwiseProblem p{.kind = test.op == "SwiGLU" ? Elementwise::silu_multiply
                                     : tanh              ? Elementwise::gelu_tanh
                                                         : Elementwise::gelu,
                             .cols = cols,
                             .a = a.dtype(),
                             .b = a.dtype(),
                             .y = a.dtype()};
  Output y(test.output(0));
  const ElementwiseArgs args{
      {a.bytes.data(), p.a, 1, cols}, {b.bytes.data(), p.b, 1, cols}, {y.data(), p.y, 1, cols}};
  if (std::string e = refused(p, args); !e.empty()) return e;
  reference_elementwise(p, args);
  // Of ONNX's results, 3 roundings to the type; of ours, the functions' errors
  // (ops/activation.hpp).
  double most = 1.0;
  for (const float v : a.reals()) most = std::max(most, std::fabs(double(v)));
  return compare("Y", test.output(0), y.reals(), [&](double v) {
    return 4.0 * detail::unit_roundoff(p.y) * std::fabs(v) + 3e-7 * most;
  });
}

/// Runs one case: what went wrong, or nothing.
std::string check(const Case& test) {
  if (test.op == "Attention") return check_attention(test);
  if (test.op == "RotaryEmbedding") return check_rotation(test);
  if (test.op == "TensorScatter") return check_scatter(test);
  if (test.op.ends_with("Softmax")) return check_softmax(test);
  if (test.op.ends_with("Normalization")) return check_normalization(test);
  return check_elementwise(test);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s DIR\n", argv[0]);
    return 2;
  }
  const std::string path = std::string(argv[1]) + "/cases.txt";
  std::ifstream file(path);
  if (!file) {
    std::printf("onnx: skipped, there is no %s (see tests/onnx_attention/export_cases.py)\n",
                path.c_str());
    return 0;
  }
  std::string word, version, name;
  file >> word >> version;
  int passed = 0, failed = 0, unsupported = 0;
  bool damaged = false;
  while (!damaged && file >> word) {
    Case test;
    file >> name;
    damaged = word != "case" || !read(file, test);
    if (damaged) break;
    const std::string problem = check(test);
    (problem.empty() ? passed : problem.starts_with(kUnsupported) ? unsupported : failed) += 1;
    if (!problem.empty()) std::printf("onnx: %s: %s\n", name.c_str(), problem.c_str());
  }
  if (damaged || passed + failed == 0) {
    std::printf("onnx: %s is damaged after %d cases\n", path.c_str(), passed + failed);
    return 1;
  }
  std::printf("onnx %s: %d cases passed, %d failed, %d are not supported\n", version.c_str(),
              passed, failed, unsupported);
  return failed == 0 ? 0 : 1;
}
