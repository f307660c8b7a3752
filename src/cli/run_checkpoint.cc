// Saving and loading runs: see run_checkpoint.h. Names in training.safetensors: "exp_avg/<parameter>",
// "exp_avg_sq/<parameter>", "step/<parameter>" and "generator".
#include "run_checkpoint.h"

#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <torch/torch.h>

#include <fstream>
#include <mutex>
#include <stdexcept>

#include "longstride/error.h"

namespace longstride::cli {
namespace {

namespace fs = std::filesystem;

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

nlohmann::json position_json(const RunPosition& position) {
  nlohmann::json json = {{"step", position.step},
                         {"seconds", position.seconds},
                         {"threads", position.threads},
                         {"fingerprint", fmt::format("{:016x}", position.fingerprint)}};
  json["held_out_before"] =
      position.held_out_before ? nlohmann::json(*position.held_out_before) : nlohmann::json(nullptr);
  json["held_out_latest"] =
      position.held_out_latest ? nlohmann::json(*position.held_out_latest) : nlohmann::json(nullptr);
  return json;
}

std::optional<double> optional_number(const nlohmann::json& json) {
  return json.is_number() ? std::optional<double>(json.get<double>()) : std::nullopt;
}

RunPosition position_from_json(const nlohmann::json& json) {
  RunPosition position;
  position.step = json.at("step").get<int64_t>();
  position.seconds = json.at("seconds").get<double>();
  position.threads = json.at("threads").get<int64_t>();
  position.fingerprint = std::stoull(json.at("fingerprint").get<std::string>(), nullptr, 16);
  position.held_out_before = optional_number(json.at("held_out_before"));
  position.held_out_latest = optional_number(json.at("held_out_latest"));
  return position;
}

// state.json is written last into the folder, so that its digests cover every other file.
void write_state(const fs::path& folder, const TrainSettings& settings, const RunPosition& position) {
  const nlohmann::json state = {{"format", kFormat},
                                {"settings", to_json(settings)},
                                {"position", position_json(position)},
                                {"files", digests(folder)}};
  std::ofstream out(folder / kStateFile, std::ios::trunc);
  out << state.dump(2) << "\n";
  out.close();
  if (!out) throw std::runtime_error(fmt::format("cannot write {}", (folder / kStateFile).string()));
}

}  // namespace

fs::path save_run(const fs::path& run, LongNetLM& model, torch::optim::AdamW& optimizer, const TrainSettings& settings,
                  const RunPosition& position, int64_t keep) {
  const std::string name = checkpoint_name(position.step);
  const fs::path checkpoint = run / name;
  try {
    fs::create_directories(run);
    save_checkpoint(checkpoint, model, [&](const fs::path& folder) {
      save_tensors(folder / kTrainingFile, training_tensors(model, optimizer));
      write_state(folder, settings, position);
      for (const fs::directory_entry& entry : fs::directory_iterator(folder)) sync_to_disk(entry.path());
      sync_to_disk(folder);
    });
    sync_to_disk(run);
    point_latest(run, name);
    remove_old_checkpoints(run, keep);
  } catch (const std::exception& error) {
    throw std::runtime_error(fmt::format("could not save '{}': {}; the checkpoints from before are intact",
                                         checkpoint.string(), error.what()));
  }
  return checkpoint;
}

LoadedRun load_run(const fs::path& checkpoint) {
  LoadedRun loaded;
  const nlohmann::json state = verified_state(checkpoint);
  try {
    if (state.at("format").get<int>() != kFormat) {
      throw Error(fmt::format("the checkpoint '{}' is of format {}, this program reads {}", checkpoint.string(),
                              state.at("format").get<int>(), kFormat));
    }
    loaded.settings = settings_from_json(state.at("settings"));
    loaded.position = position_from_json(state.at("position"));
  } catch (const nlohmann::json::exception& error) {
    throw Error(fmt::format("the checkpoint '{}' is corrupt: {}: {}", checkpoint.string(), kStateFile, error.what()));
  }
  loaded.model = load_checkpoint(checkpoint);
  loaded.training = load_tensors(checkpoint / kTrainingFile).tensors;
  return loaded;
}

void restore_training(const LoadedRun& loaded, LongNetLM& model, torch::optim::AdamW& optimizer) {
  const auto tensor = [&](const std::string& name, const at::Tensor& like) {
    const auto found = loaded.training.find(name);
    if (found == loaded.training.end()) throw Error(fmt::format("the checkpoint's {} lacks '{}'", kTrainingFile, name));
    if (like.defined() && found->second.sizes() != like.sizes()) {
      throw Error(fmt::format("the checkpoint's {} holds '{}' of another shape than the model's", kTrainingFile, name));
    }
    return found->second;
  };
  for (const auto& item : model->named_parameters()) {
    if (!loaded.training.contains("step/" + item.key())) continue;
    auto state = std::make_unique<torch::optim::AdamWParamState>();
    state->step(tensor("step/" + item.key(), {}).item<int64_t>());
    state->exp_avg(tensor("exp_avg/" + item.key(), item.value()).clone());
    state->exp_avg_sq(tensor("exp_avg_sq/" + item.key(), item.value()).clone());
    optimizer.state()[item.value().unsafeGetTensorImpl()] = std::move(state);
  }
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(tensor("generator", {}).clone());
}

LongNetLM load_model(const fs::path& checkpoint) {
  if (fs::exists(checkpoint / kStateFile)) verified_state(checkpoint);
  return load_checkpoint(checkpoint);
}

}  // namespace longstride::cli
