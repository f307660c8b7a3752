// How much of a model's attention a pattern covers: a model is run with an attention function that looks at q and k of
// every layer on the way.
#include "coverage.h"

#include <fmt/format.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "longstride/attention.h"
#include "longstride/attention/weights.h"
#include "longstride/error.h"
#include "longstride/nn.h"
#include "longstride/pattern/reach.h"

namespace longstride::cli {
namespace {

// What a layer of one window gave: [layer][pattern].
using Looks = std::vector<std::vector<Coverage>>;

// bool [heads, len, len]: who sees whom, from the weights of queries that prefer nothing.
at::Tensor seen_pairs(const at::Tensor& q, const at::Tensor& k, const Pattern& pattern) {
  return attention_weights(torch::zeros_like(q), torch::zeros_like(k), pattern)[0] > 0;
}

}  // namespace

Coverage coverage(const at::Tensor& weights, const at::Tensor& seen, double share) {
  const int64_t len = weights.size(1);
  const at::Tensor visible = torch::arange(1, len + 1, torch::kFloat64);                        // [len]
  const at::Tensor wanted = (visible * share).ceil().clamp_min(1).to(torch::kInt64);            // [len]
  const auto [values, keys] = weights.topk(wanted.max().item<int64_t>(), 2);                    // [heads, len, most]
  const at::Tensor counts = torch::arange(keys.size(2)).unsqueeze(0) < wanted.unsqueeze(1);     // [len, most]
  const at::Tensor kept = seen.gather(2, keys).logical_and(counts).sum(2).to(torch::kFloat64);  // [heads, len]
  Coverage result;
  result.heaviest = (kept / wanted).mean().item<double>();
  result.mass = weights.masked_fill(seen.logical_not(), 0).sum(2, false, torch::kFloat64).mean().item<double>();
  return result;
}

void check_sees_all(const Pattern& dense, int64_t len, int64_t kv_heads) {
  if (const Reach whole = reach(dense, len, kv_heads); whole.density < 1) {
    throw Error(fmt::format(
        "--dense must be a run that sees everything at --len {}, got one that sees {:.1f} % of the pairs; train one "
        "with --segments {} --rates 1",
        len, 100 * whole.density, len));
  }
}

std::vector<std::vector<LayerCoverage>> coverage_of_model(const std::filesystem::path& checkpoint,
                                                          const train::Text& text, const CoverageWork& work,
                                                          const std::function<void(size_t)>& on_window) {
  const LongNetLMConfig config = load_model<LongNetLM>(checkpoint)->config;
  const Pattern& dense = config.layer.attention.attention.pattern;
  std::vector<at::Tensor> seen;  // by pattern, of the first call
  Looks looks;
  const AttentionFn look = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const AttentionOptions& call) {
    if (seen.empty()) {
      for (const Pattern& pattern : work.patterns) seen.push_back(seen_pairs(q, k, pattern));
    }
    const at::Tensor weights = attention_weights(q, k, dense, {.scale = call.scale})[0];  // [heads, len, len]
    std::vector<Coverage> layer;
    for (const at::Tensor& pairs : seen) layer.push_back(coverage(weights, pairs, work.share));
    looks.push_back(std::move(layer));
    return attention(q, k, v, dense, call);
  };
  LongNetLM model = longstride::load_model<LongNetLM>(checkpoint, look);
  model->eval();
  const torch::NoGradGuard no_grad;
  const size_t patterns = work.patterns.size(), layers = static_cast<size_t>(config.layers);
  using ByWindow = std::vector<double>;
  std::vector<std::vector<ByWindow>> mass(patterns, std::vector<ByWindow>(layers)), heaviest = mass;
  for (size_t window = 0; window < work.starts.size(); ++window) {
    looks.clear();
    model->forward(train::byte_tensor(text, {work.starts[window]}, work.len));
    for (size_t layer = 0; layer < layers; ++layer) {
      for (size_t p = 0; p < patterns; ++p) {
        mass[p][layer].push_back(looks[layer][p].mass);
        heaviest[p][layer].push_back(looks[layer][p].heaviest);
      }
    }
    on_window(window + 1);
  }
  std::vector<std::vector<LayerCoverage>> result(patterns);
  for (size_t p = 0; p < patterns; ++p) {
    for (size_t layer = 0; layer < layers; ++layer) {
      result[p].push_back({train::mean_of(mass[p][layer]), train::mean_of(heaviest[p][layer])});
    }
  }
  return result;
}

}  // namespace longstride::cli
