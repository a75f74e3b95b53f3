// The network: tokens of any number of sentences to a vector of length 1 for each.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "kernels.hpp"

namespace minilm {

/// Sentences as the network takes them: their tokens one behind the other.
struct Batch {
  std::vector<std::int32_t> tokens = {};
  std::vector<std::int32_t> offsets = {0};  ///< where each begins, and the end of the last

  Index size() const { return std::ssize(offsets) - 1; }
  void add(std::span<const std::int32_t> sentence) {
    tokens.insert(tokens.end(), sentence.begin(), sentence.end());
    offsets.push_back(static_cast<std::int32_t>(tokens.size()));
  }
  void clear() {
    tokens.clear();
    offsets.resize(1);
  }
};

/// Prepared for batches of up to `most_tokens` tokens. run() works in the network's own memory, so
/// that one network serves one thread.
class Network {
 public:
  /// The embeddings stay in the model, which must outlive the network; other weights are packed.
  static Result<Network> make(const cpu::Backend& backend, const Model& model, Precision precision,
                              Index most_tokens) {
    const Shape& s = model.shape;
    Network net(model, most_tokens);
    auto norm = Norm::make(backend, model.embedding_norm, s.epsilon);
    auto attention = Attention::make(backend, s);
    if (!norm) return norm.error();
    if (!attention) return attention.error();
    net.norm_.emplace(std::move(*norm));
    net.attention_.emplace(std::move(*attention));
    std::size_t bytes = net.attention_->workspace_bytes(most_tokens, s.most_tokens);
    for (const Model::Layer& l : model.layers) {
      auto qkv = Linear::make(backend, l.qkv, precision, Then::nothing);
      auto project = Linear::make(backend, l.project, precision, Then::add);
      auto up = Linear::make(backend, l.up, precision, Then::gelu);
      auto down = Linear::make(backend, l.down, precision, Then::add);
      for (const auto* linear : {&qkv, &project, &up, &down}) {
        if (!*linear) return linear->error();
        bytes = std::max(bytes, (*linear)->workspace_bytes(most_tokens));
      }
      auto attention_norm = Norm::make(backend, l.attention_norm, s.epsilon);
      auto layer_norm = Norm::make(backend, l.norm, s.epsilon);
      if (!attention_norm) return attention_norm.error();
      if (!layer_norm) return layer_norm.error();
      net.layers_.push_back({std::move(*qkv), std::move(*project), std::move(*up), std::move(*down),
                             std::move(*attention_norm), std::move(*layer_norm)});
    }
    net.workspace_ = quern::Workspace(bytes);
    const Index row = (1 + 3 + 1 + 1) * s.hidden + s.feed_forward;  // of the matrices of run()
    net.rows_ = quern::AlignedBuffer(static_cast<std::size_t>(most_tokens * (row + 5 * 16)) * 4);
    if (net.workspace_.size() < bytes || net.rows_.size() == 0) {
      return Error::make(Code::no_memory, "no memory for %lld tokens",
                         static_cast<long long>(most_tokens));
    }
    return net;
  }

  Index most_tokens() const { return most_tokens_; }
  std::string kernel() const { return layers_.front().qkv.kernel(); }

  /// vectors: (batch.size(), hidden). Nothing is allocated.
  Error run(const Batch& batch, Matrix<float> vectors) noexcept {
    const Shape& s = model_->shape;
    if (Error e = check(batch, vectors)) return e;
    const Index tokens = std::ssize(batch.tokens);
    quern::Carver carver(rows_.data());
    const auto matrix = [&](Index cols) {
      return Matrix<float>{carver.take<float>(tokens * cols), tokens, cols};
    };
    const auto x = matrix(s.hidden), qkv = matrix(3 * s.hidden), mixed = matrix(s.hidden),
               y = matrix(s.hidden), inner = matrix(s.feed_forward);
    embed(batch, x);
    if (Error e = norm_->run(x)) return e;
    for (const Layer& l : layers_) {
      if (Error e = l.qkv.run(read(x), qkv, workspace_)) return e;
      if (Error e = attention_->run(qkv, mixed, batch.offsets, workspace_)) return e;
      if (Error e = l.project.run(read(mixed), y, workspace_, read(x))) return e;
      if (Error e = l.attention_norm.run(y)) return e;
      if (Error e = l.up.run(read(y), inner, workspace_)) return e;
      if (Error e = l.down.run(read(inner), x, workspace_, read(y))) return e;
      if (Error e = l.norm.run(x)) return e;
    }
    pool(batch, x, vectors);
    return {};
  }

 private:
  struct Layer {
    Linear qkv, project, up, down;
    Norm attention_norm, norm;
  };

  Network(const Model& model, Index most_tokens) : model_(&model), most_tokens_(most_tokens) {}

  static Matrix<const float> read(const Matrix<float>& m) { return {m.data, m.rows, m.cols}; }

  Error check(const Batch& batch, const Matrix<float>& vectors) const noexcept {
    const Shape& s = model_->shape;
    const auto long_of = [](auto x) { return static_cast<long long>(x); };
    if (std::ssize(batch.tokens) > most_tokens_ ||
        batch.tokens.size() != std::size_t(batch.offsets.back())) {
      return bad("%lld tokens; the network is prepared for %lld", long_of(batch.tokens.size()),
                 long_of(most_tokens_));
    }
    if (vectors.rows != batch.size() || vectors.cols != s.hidden) {
      return bad("%lld vectors of %lld for %lld sentences", long_of(vectors.rows),
                 long_of(vectors.cols), long_of(batch.size()));
    }
    for (const std::int32_t token : batch.tokens) {
      if (token < 0 || token >= s.vocabulary) return bad("there is no token %d", int(token));
    }
    for (std::size_t i = 0; i + 1 < batch.offsets.size(); ++i) {
      const Index count = Index{batch.offsets[i + 1]} - batch.offsets[i];
      if (count < 1 || count > s.most_tokens) {
        return bad("sentence %lld has %lld tokens; 1 to %lld can be", long_of(i), long_of(count),
                   long_of(s.most_tokens));
      }
    }
    return {};
  }

  /// Word, position and type of each token, added up.
  void embed(const Batch& batch, const Matrix<float>& x) const {
    const Index hidden = x.cols;
    Index sentence = 0;
    for (Index t = 0; t < x.rows; ++t) {
      const auto at = static_cast<std::size_t>(t);
      if (t == batch.offsets[static_cast<std::size_t>(sentence) + 1]) ++sentence;
      const Index position = t - batch.offsets[static_cast<std::size_t>(sentence)];
      const float* word = model_->words.data() + batch.tokens[at] * hidden;
      const float* place = model_->positions.data() + position * hidden;
      for (Index j = 0; j < hidden; ++j) {
        x.data[t * hidden + j] = word[j] + place[j] + model_->type[static_cast<std::size_t>(j)];
      }
    }
  }

  /// The mean of each sentence's rows, brought to length 1. The mean's count cancels.
  static void pool(const Batch& batch, const Matrix<float>& x, const Matrix<float>& vectors) {
    for (Index i = 0; i < batch.size(); ++i) {
      const auto at = static_cast<std::size_t>(i);
      float* sum = vectors.data + i * vectors.row_stride;
      std::fill_n(sum, x.cols, 0.0f);
      for (Index t = batch.offsets[at]; t < batch.offsets[at + 1]; ++t) {
        for (Index j = 0; j < x.cols; ++j) sum[j] += x.data[t * x.cols + j];
      }
      double square = 0;
      for (Index j = 0; j < x.cols; ++j) square += double(sum[j]) * double(sum[j]);
      const auto factor = static_cast<float>(square > 0 ? 1 / std::sqrt(square) : 0);
      for (Index j = 0; j < x.cols; ++j) sum[j] *= factor;
    }
  }

  const Model* model_;
  Index most_tokens_;
  std::optional<Norm> norm_;
  std::optional<Attention> attention_;
  std::vector<Layer> layers_;
  quern::Workspace workspace_;
  quern::AlignedBuffer rows_;
};

}  // namespace minilm
