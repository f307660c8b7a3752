// Saving and loading runs: see run_checkpoint.h. Names in training.safetensors: "exp_avg/<parameter>",
// "exp_avg_sq/<parameter>", "step/<parameter>" and "generator".
#include "train/run_checkpoint.h"

#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <torch/optim/adamw.h>
#include <torch/types.h>

#include <charconv>
#include <mutex>
#include <stdexcept>

#include "core/files.h"
#include "core/json.h"
#include "core/limits.h"
#include "core/refuse.h"
#include "longstride/error.h"
#include "nn/json_fields.h"

namespace longstride::train {
namespace {

namespace fs = std::filesystem;
using core::Json;

constexpr int kFormat = 1;

at::Tensor generator_state() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

std::map<std::string, at::Tensor> training_tensors(LongNetLM& model, torch::optim::AdamW& optimizer) {
  std::map<std::string, at::Tensor> tensors;
  tensors["generator"] = generator_state();
  for (const auto& item : model->named_parameters()) {
    const auto found = optimizer.state().find(item.value().unsafeGetTensorImpl());
    if (found == optimizer.state().end()) continue;  // it has had no gradient yet
    const auto& state = static_cast<const torch::optim::AdamWParamState&>(*found->second);
    tensors["exp_avg/" + item.key()] = state.exp_avg();
    tensors["exp_avg_sq/" + item.key()] = state.exp_avg_sq();
    tensors["step/" + item.key()] = torch::tensor({state.step()}, torch::kInt64);
  }
  return tensors;
}

Json position_json(const RunPosition& position) {
  return {{"step", position.step},
          {"seconds", position.seconds},
          {"threads", position.threads},
          {"fingerprint", fmt::format("{:016x}", position.fingerprint)},
          {"held_out_before", nn::written(position.held_out_before)},
          {"held_out_latest", nn::written(position.held_out_latest)}};
}

template <class T>
T value_of(const Json& json, const char* key) {
  if (!json.is_object() || !json.contains(key)) core::refuse(key, "must be given", "none");
  T value{};
  nn::read(key, json[key], value);
  return value;
}

int64_t count(const Json& json, const char* key, int64_t least, int64_t most) {
  const auto value = value_of<int64_t>(json, key);
  if (value < least || value > most) {
    core::refuse(key, fmt::format("must be an integer from {} to {}", least, most), value);
  }
  return value;
}

// As position_json() writes it: 16 digits.
uint64_t fingerprint(const Json& json) {
  const auto text = value_of<std::string>(json, "fingerprint");
  uint64_t result = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), result, 16);
  if (text.size() != 16 || error != std::errc() || end != text.data() + text.size()) {
    core::refuse("fingerprint", "must be 16 hexadecimal digits", text);
  }
  return result;
}

RunPosition position_from_json(const Json& json) {
  RunPosition position;
  position.step = count(json, "step", 0, core::kMostSteps);
  position.seconds = value_of<double>(json, "seconds");
  if (position.seconds < 0) core::refuse("seconds", "must be a number of at least 0", position.seconds);
  position.threads = count(json, "threads", 1, core::kMostThreads);
  position.fingerprint = fingerprint(json);
  position.held_out_before = value_of<std::optional<double>>(json, "held_out_before");
  position.held_out_latest = value_of<std::optional<double>>(json, "held_out_latest");
  return position;
}

// state.json is written last into the folder, so that its digests cover every other file.
void write_state(const fs::path& folder, const TrainSettings& settings, const RunPosition& position) {
  const Json state = {{"format", kFormat},
                      {"settings", json_of(settings)},
                      {"position", position_json(position)},
                      {"files", digests(folder)}};
  core::write_file(folder / kStateFile, core::json_text(state, 2) + "\n");
}

}  // namespace

fs::path save_run(const fs::path& run, LongNetLM& model, torch::optim::AdamW& optimizer, const TrainSettings& settings,
                  const RunPosition& position, int64_t keep) {
  const std::string name = checkpoint_name(position.step);
  const fs::path checkpoint = run / name;
  try {
    fs::create_directories(run);
    save_model(checkpoint, model, [&](const fs::path& folder) {
      save_tensors(folder / kTrainingFile, training_tensors(model, optimizer));
      write_state(folder, settings, position);
    });
    point_latest(run, name);
    remove_old_checkpoints(run, keep);
  } catch (const std::exception& error) {
    throw std::runtime_error(fmt::format("could not save '{}': {}; the checkpoints from before are intact",
                                         checkpoint.string(), error.what()));
  }
  return checkpoint;
}

LoadedRun load_run(const fs::path& checkpoint, at::Device device) {
  LoadedRun loaded;
  const Json state = verified_state(checkpoint);
  try {
    if (const int64_t format = count(state, "format", 0, core::kMostSteps); format != kFormat) {
      core::refuse("format", fmt::format("must be {}, which this program reads", kFormat), format);
    }
    loaded.settings = settings_of(state["settings"]);
    if (!state.contains("position")) core::refuse("position", "must be given", "none");
    loaded.position = position_from_json(state["position"]);
  } catch (const Error& error) {
    throw Error(fmt::format("the checkpoint '{}' is corrupt: {}: {}", checkpoint.string(), kStateFile, error.what()));
  }
  loaded.model = longstride::load_model<LongNetLM>(checkpoint);
  loaded.model->to(device);
  loaded.training = load_tensors(checkpoint / kTrainingFile).tensors;
  return loaded;
}

void restore_training(const LoadedRun& loaded, LongNetLM& model, torch::optim::AdamW& optimizer) {
  const auto tensor = [&](const std::string& name, const at::Tensor& like) {
    const auto found = loaded.training.find(name);
    if (found == loaded.training.end()) throw Error(fmt::format("the checkpoint's {} lacks '{}'", kTrainingFile, name));
    const at::Tensor& held = found->second;
    if (held.sizes() != like.sizes() || held.is_floating_point() != like.is_floating_point()) {
      throw Error(fmt::format("the checkpoint's {} holds '{}' of another shape or kind than it must have",
                              kTrainingFile, name));
    }
    return found->second;
  };
  const at::Tensor one_step = torch::zeros({1}, torch::kInt64);
  for (const auto& item : model->named_parameters()) {
    if (!loaded.training.contains("step/" + item.key())) continue;
    auto state = std::make_unique<torch::optim::AdamWParamState>();
    state->step(tensor("step/" + item.key(), one_step).item<int64_t>());
    const auto moment = [&](const char* name) {
      return tensor(name + item.key(), item.value()).to(item.value().device(), /*non_blocking=*/false, /*copy=*/true);
    };
    state->exp_avg(moment("exp_avg/"));
    state->exp_avg_sq(moment("exp_avg_sq/"));
    optimizer.state()[item.value().unsafeGetTensorImpl()] = std::move(state);
  }
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard<std::mutex> lock(generator.mutex());
  const at::Tensor saved = tensor("generator", generator.get_state()).clone();
  try {
    generator.set_state(saved);
  } catch (const c10::Error& error) {
    throw Error(fmt::format("the checkpoint's {} holds no state of torch's generator: {}", kTrainingFile,
                            error.what_without_backtrace()));
  }
}

LongNetLM load_model(const fs::path& checkpoint) {
  if (fs::exists(checkpoint / kStateFile)) verified_state(checkpoint);
  return longstride::load_model<LongNetLM>(checkpoint);
}

}  // namespace longstride::train
