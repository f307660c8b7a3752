// Losses of windows, and their mean with its error (scoring.h).
#include "train/scoring.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "train/device.h"

namespace longstride::train {
namespace {

// Short contexts are scored several windows at a time, up to this many bytes a forward: enough for full speed, and the
// memory of one window at a context of 16k.
constexpr int64_t kBytesAForward = 16384;

size_t rows_a_forward(const ScoringPlan& plan) {
  return static_cast<size_t>(std::max<int64_t>(1, kBytesAForward / plan.context));
}

// What `ranks` do of it: a rank of several that share the windows has its own tokens' part of the bits.
std::vector<double> own_bits(LongNetLM& model, const Text& text, const ScoringPlan& plan, const Ranks& ranks,
                             const std::function<bool(size_t)>& on_window) {
  const bool was_training = model->is_training();
  model->eval();
  torch::NoGradGuard no_grad;
  const at::Device device = device_of(model);
  std::vector<double> bits;
  const size_t rows = rows_a_forward(plan);
  for (size_t first = 0; first < plan.starts.size(); first += rows) {
    std::vector<size_t> starts;
    for (size_t i = first; i < std::min(first + rows, plan.starts.size()); ++i) {
      starts.push_back(plan.starts[i] + static_cast<size_t>(plan.window_bytes - plan.context));
    }
    const at::Tensor samples = byte_tensor(text, starts, plan.context + 1);  // [rows, context + 1]
    // A copy: what is not scored is blotted out, and of a single row contiguous() would hand back the samples
    // themselves.
    at::Tensor targets = samples.slice(1, 1).clone();
    targets.slice(1, 0, plan.context - plan.scored_bytes).fill_(LongNetLMImpl::kIgnored);
    at::Tensor nats;  // [rows, its tokens]
    {
      AutocastGuard autocast(plan.bf16, device.type());
      nats = model->token_losses(ranks.own(samples.slice(1, 0, plan.context)).to(device), ranks.own(targets).to(device),
                                 ranks.call(plan.context));
    }
    const at::Tensor sums = nats.to(torch::kFloat64).sum(1).cpu();
    for (int64_t row = 0; row < sums.size(0); ++row) {
      bits.push_back(sums[row].item<double>() / (static_cast<double>(plan.scored_bytes) * std::numbers::ln2));
    }
    if (on_window && !on_window(bits.size())) break;
  }
  model->train(was_training);
  return bits;
}

}  // namespace

at::Tensor byte_tensor(const Text& text, const std::vector<size_t>& starts, int64_t size) {
  at::Tensor samples = torch::empty({static_cast<int64_t>(starts.size()), size}, torch::kInt64);
  int64_t* out = samples.data_ptr<int64_t>();
  for (size_t start : starts) {
    for (int64_t i = 0; i < size; ++i) {
      *out++ = static_cast<unsigned char>(text.bytes[(start + static_cast<size_t>(i)) % text.bytes.size()]);
    }
  }
  return samples;
}

std::vector<double> window_bits(LongNetLM& model, const Text& text, const ScoringPlan& plan,
                                const std::function<bool(size_t)>& on_window) {
  return own_bits(model, text, plan, Ranks({}), on_window);
}

std::vector<double> window_bits(LongNetLM& model, const Text& text, const ScoringPlan& plan, const Ranks& ranks,
                                const std::function<bool()>& go_on) {
  const size_t all = plan.starts.size(), parts = static_cast<size_t>(ranks.parts());
  const size_t rows = std::min(rows_a_forward(plan), (all + parts - 1) / parts);
  std::vector<double> bits(all);
  for (size_t first = 0; first < all; first += rows * parts) {
    const size_t begin = std::min(all, first + rows * static_cast<size_t>(ranks.part()));
    const size_t end = std::min(all, begin + rows);
    ScoringPlan own = plan;
    own.starts = {plan.starts.begin() + static_cast<int64_t>(begin), plan.starts.begin() + static_cast<int64_t>(end)};
    std::ranges::copy(own_bits(model, text, own, ranks, {}), bits.begin() + static_cast<int64_t>(begin));
    if (first + rows * parts < all && !go_on()) return {};
  }
  const at::Tensor sums = torch::tensor(bits, torch::kFloat64);
  ranks.add_up({sums});
  return {sums.const_data_ptr<double>(), sums.const_data_ptr<double>() + all};
}

Mean mean_of(const std::vector<double>& values) {
  const double n = static_cast<double>(values.size());
  Mean mean;
  mean.value = std::accumulate(values.begin(), values.end(), 0.0) / n;
  if (values.size() > 1) {
    double squares = 0.0;
    for (double value : values) squares += (value - mean.value) * (value - mean.value);
    mean.standard_error = std::sqrt(squares / (n - 1.0) / n);
  }
  return mean;
}

}  // namespace longstride::train
