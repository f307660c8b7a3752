// Which parameters decay (optimizer.h).
#include "train/optimizer.h"

namespace longstride::train {

torch::optim::AdamW make_optimizer(LongNetLM& model, const TrainSettings& settings) {
  std::vector<at::Tensor> decayed, kept;
  for (const auto& item : model->named_parameters()) {
    const bool matrix = item.value().dim() >= 2 && item.key().rfind("embedding", 0) != 0;
    (matrix ? decayed : kept).push_back(item.value());
  }
  const auto options = [&](double decay) {
    auto group = std::make_unique<torch::optim::AdamWOptions>(settings.lr);
    group->betas({0.9, settings.beta2}).eps(1e-8).weight_decay(decay);
    return group;
  };
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(decayed, options(settings.weight_decay));
  groups.emplace_back(kept, options(0.0));
  return torch::optim::AdamW(groups, torch::optim::AdamWOptions(settings.lr));
}

std::vector<at::Tensor> gradients(const LongNetLM& model) {
  std::vector<at::Tensor> all;
  for (const at::Tensor& parameter : model->parameters())
    if (parameter.grad().defined()) all.push_back(parameter.grad());
  return all;
}

void set_rate(torch::optim::AdamW& optimizer, double rate) {
  for (auto& group : optimizer.param_groups()) static_cast<torch::optim::AdamWOptions&>(group.options()).lr(rate);
}

}  // namespace longstride::train
