// AdamW as a run has it, and the gradients that it takes. Called by the trainer.
#pragma once

#include <torch/optim/adamw.h>

#include "longstride/nn.h"
#include "longstride/train.h"

namespace longstride::train {

// Matrices decay; embeddings, norms and biases do not.
torch::optim::AdamW make_optimizer(LongNetLM& model, const TrainSettings& settings);

// Of the parameters that have one, in the model's order.
std::vector<at::Tensor> gradients(const LongNetLM& model);

void set_rate(torch::optim::AdamW& optimizer, double rate);

}  // namespace longstride::train
