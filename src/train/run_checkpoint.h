// A checkpoint of a run: the model's directory (config.json, model.safetensors) with AdamW's moments, the generator,
// the settings and the position beside it. Called by the trainer; eval and generate
// read the model through load_model.
#pragma once

#include <torch/optim/adamw.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "longstride/nn.h"
#include "train/checkpoint_store.h"
#include "train/settings.h"

namespace longstride::train {

// Where a run stands. The data position is a function of `step` (WindowOrder), the learning rate of step and seconds.
struct RunPosition {
  int64_t step = 0;                       // steps done
  double seconds = 0.0;                   // of training time so far, all sittings
  int64_t threads = 1;                    // of the sitting that saved
  uint64_t fingerprint = 0;               // of the corpus
  std::optional<double> held_out_before;  // bits per byte before the first step
  std::optional<double> held_out_latest;
};

// Saves beside and swaps `latest`; removes all but the last `keep`. Returns the checkpoint's folder. Throws
// std::runtime_error if anything cannot be written; the checkpoints from before are intact then.
std::filesystem::path save_run(const std::filesystem::path& run, LongNetLM& model, torch::optim::AdamW& optimizer,
                               const TrainSettings& settings, const RunPosition& position, int64_t keep);

struct LoadedRun {
  LongNetLM model{nullptr};
  TrainSettings settings;
  RunPosition position;
  std::map<std::string, at::Tensor> training;  // what restore_training puts back
};

// Reads and checks everything of `checkpoint` (a folder that find_checkpoint returned); the model comes to lie on
// `device`. Throws Error if anything is amiss.
LoadedRun load_run(const std::filesystem::path& checkpoint, at::Device device = at::kCPU);

// Puts the moments into `optimizer`, which holds the parameters of `model`, each on its parameter's device, and
// the state of the CPU's generator into torch.
void restore_training(const LoadedRun& loaded, LongNetLM& model, torch::optim::AdamW& optimizer);

// The model of a checkpoint, checked against its digests if it carries them (a model directory of another program has
// none).
LongNetLM load_model(const std::filesystem::path& checkpoint);

}  // namespace longstride::train
