// Saving and loading runs: see run_checkpoint.h. Names in training.safetensors: "exp_avg/<parameter>",
// "exp_avg_sq/<parameter>", "step/<parameter>" and "generator".
#include "run_checkpoint.h"

#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <torch/torch.h>

#include <charconv>
#include <mutex>
#include <stdexcept>

#include "core/json.h"
#include "core/refuse.h"
#include "json_text.h"
#include "longstride/error.h"
#include "nn/files.h"
#include "number_options.h"

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

// json[key], which `is` must say yes to.
const nlohmann::json& field(const nlohmann::json& json, const char* key, bool is(const nlohmann::json&),
                            const char* expected) {
  if (!json.is_object() || !json.contains(key)) core::refuse(key, "must be given", "none");
  if (!is(json[key])) core::refuse(key, fmt::format("must be {}", expected), core::shown(json[key]));
  return json[key];
}

int64_t count(const nlohmann::json& json, const char* key, int64_t least, int64_t most) {
  const auto is_count = [](const nlohmann::json& value) { return value.is_number_unsigned(); };
  const std::string expected = fmt::format("an integer from {} to {}", least, most);
  const nlohmann::json& value = field(json, key, is_count, expected.c_str());
  const auto number = value.get<uint64_t>();
  if (number < static_cast<uint64_t>(least) || number > static_cast<uint64_t>(most))
    core::refuse(key, "must be " + expected, core::shown(value));
  return value.get<int64_t>();
}

std::optional<double> optional_number(const nlohmann::json& json, const char* key) {
  const auto is = [](const nlohmann::json& value) { return value.is_number() || value.is_null(); };
  const nlohmann::json& value = field(json, key, is, "a number or null");
  return value.is_number() ? std::optional<double>(value.get<double>()) : std::nullopt;
}

// As position_json() writes it: 16 digits.
uint64_t fingerprint(const nlohmann::json& json) {
  const auto is = [](const nlohmann::json& value) { return value.is_string(); };
  const std::string text = field(json, "fingerprint", is, "a string").get<std::string>();
  uint64_t result = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), result, 16);
  if (text.size() != 16 || error != std::errc() || end != text.data() + text.size()) {
    core::refuse("fingerprint", "must be 16 hexadecimal digits", text);
  }
  return result;
}

RunPosition position_from_json(const nlohmann::json& json) {
  RunPosition position;
  position.step = count(json, "step", 0, kMostSteps);
  const auto is_time = [](const nlohmann::json& value) { return value.is_number() && value.get<double>() >= 0; };
  position.seconds = field(json, "seconds", is_time, "a number of at least 0").get<double>();
  position.threads = count(json, "threads", 1, kMostThreads);
  position.fingerprint = fingerprint(json);
  position.held_out_before = optional_number(json, "held_out_before");
  position.held_out_latest = optional_number(json, "held_out_latest");
  return position;
}

// state.json is written last into the folder, so that its digests cover every other file.
void write_state(const fs::path& folder, const TrainSettings& settings, const RunPosition& position) {
  const nlohmann::json state = {{"format", kFormat},
                                {"settings", to_json(settings)},
                                {"position", position_json(position)},
                                {"files", digests(folder)}};
  const std::string text = json_text(state, 2) + "\n";
  nn::OutputFile file(folder / kStateFile);
  file.write(text.data(), text.size());
  file.commit();
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
    });
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
    if (const int64_t format = count(state, "format", 0, kMostSteps); format != kFormat) {
      core::refuse("format", fmt::format("must be {}, which this program reads", kFormat), std::to_string(format));
    }
    loaded.settings = settings_from_json(state["settings"]);
    const auto is_object = [](const nlohmann::json& value) { return value.is_object(); };
    loaded.position = position_from_json(field(state, "position", is_object, "an object"));
  } catch (const Error& error) {
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
    state->exp_avg(tensor("exp_avg/" + item.key(), item.value()).clone());
    state->exp_avg_sq(tensor("exp_avg_sq/" + item.key(), item.value()).clone());
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
  return load_checkpoint(checkpoint);
}

}  // namespace longstride::cli
