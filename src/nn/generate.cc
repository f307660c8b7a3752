// The generation loop and sampling. Called by users and the program.
#include "longstride/nn/generate.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Functions.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "nn/require.h"

namespace longstride {
namespace {

// The tokens that may be drawn, in ascending order of token: all, or the likeliest under top_k and top_p.
std::vector<int64_t> candidates(const std::vector<double>& weights, const GenerateOptions& options) {
  std::vector<int64_t> order(weights.size());
  std::iota(order.begin(), order.end(), 0);
  const auto vocab = std::ssize(order);
  const int64_t most = options.top_k == 0 ? vocab : std::min(options.top_k, vocab);
  if (most == vocab && options.top_p >= 1) return order;
  std::partial_sort(order.begin(), order.begin() + most, order.end(), [&](int64_t a, int64_t b) {
    return weights[size_t(a)] != weights[size_t(b)] ? weights[size_t(a)] > weights[size_t(b)] : a < b;
  });
  order.resize(size_t(most));
  if (options.top_p < 1) {
    double total = 0;
    for (const int64_t token : order) total += weights[size_t(token)];
    double mass = 0;
    size_t kept = 0;
    while (kept < order.size() && mass < options.top_p * total) mass += weights[size_t(order[kept++])];
    order.resize(std::max<size_t>(kept, 1));
  }
  // By token and not by weight: two nearly equal weights that change places would exchange their intervals, and the
  // drawn token would hang on the last bit of a logit.
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace

void GenerateOptions::validate() const {
  nn::require_positive("max_tokens", max_tokens);
  if (!(temperature >= 0) || !std::isfinite(temperature)) {
    core::refuse("temperature", "must be finite and not negative", temperature);
  }
  if (top_k < 0) core::refuse("top_k", "must be positive, or 0 for all", top_k);
  if (!(top_p > 0 && top_p <= 1)) core::refuse("top_p", "must be in (0, 1]", top_p);
  nn::require_positive("prefill_tokens", prefill_tokens);
}

int64_t sample_token(const at::Tensor& logits, const GenerateOptions& options, double uniform) {
  nn::require_readable("logits", logits);
  if (logits.dim() != 1 || logits.numel() == 0) core::refuse("logits", "must be [vocab]", nn::shape_text(logits));
  if (logits.is_complex()) core::refuse("logits", "must be real", c10::toString(logits.scalar_type()));
  options.validate();
  if (!(uniform >= 0 && uniform < 1)) core::refuse("uniform", "must be in [0, 1)", uniform);
  const at::Tensor row = logits.detach().to(at::kCPU, at::kDouble).contiguous();
  std::vector<double> weights(row.data_ptr<double>(), row.data_ptr<double>() + row.numel());
  for (const double x : weights) {
    if (std::isnan(x)) core::refuse("logits", "must not be NaN", "NaN", "the model's weights or input are broken");
  }
  const auto largest = std::max_element(weights.begin(), weights.end());
  if (options.temperature == 0) return largest - weights.begin();
  const double top = *largest;
  if (!std::isfinite(top)) core::refuse("logits", "must have a finite maximum", top);
  for (double& x : weights) x = std::exp((x - top) / options.temperature);
  const std::vector<int64_t> tokens = candidates(weights, options);
  double total = 0;
  for (const int64_t token : tokens) total += weights[size_t(token)];
  double left = uniform * total;
  int64_t last = tokens.front();
  for (const int64_t token : tokens) {
    if (weights[size_t(token)] == 0) continue;
    last = token;
    left -= weights[size_t(token)];
    if (left < 0) break;
  }
  return last;
}

at::Tensor generate(LongNetLM& model, const at::Tensor& prompt, const GenerateOptions& options,
                    const OnTokens& on_tokens) {
  options.validate();
  if (model.is_empty()) core::refuse("model", "must hold a module", "an empty holder");
  if (model->is_training()) core::refuse("model", "must be in eval mode", "training mode", "call eval()");
  nn::require_readable("prompt", prompt);
  if (prompt.dim() != 2 || prompt.scalar_type() != at::kLong || prompt.numel() == 0) {
    core::refuse("prompt", "must be int64 [batch >= 1, len >= 1]",
                 fmt::format("{} {}", c10::toString(prompt.scalar_type()), nn::shape_text(prompt)));
  }
  if (options.stop_token && (*options.stop_token < 0 || *options.stop_token >= model->config.vocab)) {
    core::refuse("stop_token", fmt::format("must be in [0, {})", model->config.vocab), *options.stop_token);
  }
  const int64_t batch = prompt.size(0);
  const int64_t len = prompt.size(1);
  const int64_t max_len = model->config.layer.attention.positions.max_len;
  if (len > max_len || options.max_tokens > max_len - len) {
    core::refuse("len + max_tokens", fmt::format("must not exceed max_len {}", max_len),
                 fmt::format("{} + {}", len, options.max_tokens), "ask for fewer tokens or shorten the prompt");
  }

  const at::NoGradGuard no_grad;
  const bool draws = options.temperature > 0;
  at::Generator generator;
  if (draws) {
    const uint64_t seed =
        options.seed ? *options.seed : static_cast<uint64_t>(at::empty({}, at::kLong).random_().item<int64_t>());
    generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  }
  // The last token is drawn but never read.
  DecodeState state = model->start_decoding(batch, len + options.max_tokens - 1);
  at::Tensor logits;  // [batch, vocab]
  for (int64_t begin = 0; begin < len; begin += options.prefill_tokens) {
    logits = model->decode(prompt.narrow(1, begin, std::min(options.prefill_tokens, len - begin)), state);
  }
  std::vector<at::Tensor> steps;
  std::vector<bool> stopped(static_cast<size_t>(batch), false);
  for (int64_t step = 0; step < options.max_tokens; ++step) {
    const at::Tensor uniform = draws ? at::rand({batch}, generator, at::kDouble) : at::zeros({batch}, at::kDouble);
    const at::Tensor rows = logits.cpu();
    std::vector<int64_t> tokens;
    for (int64_t b = 0; b < batch; ++b) {
      const bool ended = stopped[size_t(b)];
      const int64_t token = ended ? *options.stop_token : sample_token(rows[b], options, uniform.data_ptr<double>()[b]);
      stopped[size_t(b)] = ended || (options.stop_token && token == *options.stop_token);
      tokens.push_back(token);
    }
    steps.push_back(at::tensor(tokens, at::kLong).unsqueeze(1));  // [batch, 1]
    if (on_tokens && !on_tokens(tokens)) break;
    if (std::find(stopped.begin(), stopped.end(), false) == stopped.end()) break;
    if (step + 1 < options.max_tokens) logits = model->decode(steps.back().to(prompt.device()), state);
  }
  return at::cat(steps, 1);
}

}  // namespace longstride
