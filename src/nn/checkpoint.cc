// Weights by name, and the directory of a model. Called by users, the factory and the program.
#include "longstride/nn/checkpoint.h"

#include <ATen/Functions.h>
#include <torch/nn/module.h>

#include <set>

#include "core/files.h"
#include "core/json.h"
#include "core/text_stream.h"
#include "nn/require.h"

namespace longstride {
namespace {

namespace fs = std::filesystem;
using core::Json;
using Tensors = std::map<std::string, at::Tensor>;

constexpr const char* kConfigFile = "config.json";
constexpr const char* kWeightsFile = "model.safetensors";
constexpr int kFormatVersion = 1;
constexpr uint64_t kMostConfigBytes = 1 << 20;
const std::array<std::string, 3> kParts = {"q_proj", "k_proj", "v_proj"};

// `given`, with projections fused or split where `wanted` has them the other way. What does not fit stays, and is
// reported by the comparison that follows.
Tensors adapt_projections(Tensors given, const Tensors& wanted) {
  for (const char* leaf : {"weight", "bias"}) {
    const std::string fused_end = std::string("qkv_proj.") + leaf;
    const std::string split_end = std::string("q_proj.") + leaf;
    const auto part_names = [&](const std::string& prefix) {
      std::vector<std::string> names;
      for (const auto& part : kParts) names.push_back(prefix + part + "." + leaf);
      return names;
    };
    for (const auto& [key, parameter] : wanted) {
      if (key.ends_with(fused_end) && !given.contains(key)) {
        std::vector<at::Tensor> parts;
        const auto names = part_names(key.substr(0, key.size() - fused_end.size()));
        for (const auto& n : names) {
          const auto found = given.find(n);
          if (found != given.end() && found->second.dim() == parameter.dim()) parts.push_back(found->second);
        }
        const bool same_width =
            parts.size() == 3 &&
            (parameter.dim() < 2 || (parts[0].size(1) == parts[1].size(1) && parts[1].size(1) == parts[2].size(1)));
        if (!same_width) continue;
        given[key] = at::cat(parts);
        for (const auto& n : names) given.erase(n);
      } else if (key.ends_with(split_end) && !given.contains(key)) {
        const std::string prefix = key.substr(0, key.size() - split_end.size());
        const auto fused = given.find(prefix + fused_end);
        const auto names = part_names(prefix);
        if (fused == given.end() || fused->second.dim() < 1) continue;
        std::vector<int64_t> rows;
        for (const auto& n : names) rows.push_back(wanted.contains(n) ? wanted.at(n).size(0) : 0);
        if (rows[0] + rows[1] + rows[2] != fused->second.size(0)) continue;
        const auto parts = fused->second.split_with_sizes(rows);
        for (size_t i = 0; i < 3; ++i) given[names[i]] = parts[i];
        given.erase(prefix + fused_end);
      }
    }
  }
  return given;
}

// The object in a config.json, which names its model and holds a config; anything else is refused.
Json read_description(const fs::path& path) {
  const core::InputFile file(path);
  if (file.bytes() > kMostConfigBytes) core::refuse_file(path, "it is too long for a config");
  std::string text(file.bytes(), '\0');
  file.read(0, text.data(), text.size());
  const Json json = [&] {
    try {
      return core::parse_json("its text", text);
    } catch (const Error& error) {
      core::refuse_file(path, fmt::format("it is not the config of a longstride checkpoint: {}", error.what()));
    }
  }();
  if (!json.is_object() || !json.contains("config") || !json.value("model", Json()).is_string()) {
    core::refuse_file(path, "it is not the config of a longstride checkpoint");
  }
  return json;
}

}  // namespace

Tensors weights(const torch::nn::Module& module) {
  Tensors all;
  for (const auto& item : module.named_parameters()) all.emplace(item.key(), item.value().detach());
  for (const auto& item : module.named_buffers()) all.emplace(item.key(), item.value().detach());
  return all;
}

void load_weights(torch::nn::Module& module, const Tensors& tensors) {
  const auto refuse_wrong = [](const std::vector<std::string>& wrong) {
    if (wrong.empty()) return;
    throw Error(fmt::format("the weights do not fit the module: {}; nothing was loaded", fmt::join(wrong, ", ")));
  };
  const Tensors wanted = weights(module);
  std::vector<std::string> wrong;
  for (const auto& [key, tensor] : tensors) {
    if (const auto odd = nn::not_readable(tensor); !odd.empty()) wrong.push_back(fmt::format("{} is {}", key, odd));
  }
  for (const auto& [key, parameter] : wanted) {
    if (const auto odd = nn::not_readable(parameter); !odd.empty()) {
      wrong.push_back(fmt::format("the module's {} is {}", key, odd));
    }
  }
  refuse_wrong(wrong);
  const Tensors given = adapt_projections(tensors, wanted);
  for (const auto& [key, parameter] : wanted) {
    const auto found = given.find(key);
    if (found == given.end()) {
      wrong.push_back("missing " + key);
    } else if (found->second.sizes() != parameter.sizes()) {
      wrong.push_back(
          fmt::format("{} is {} and must be {}", key, nn::shape_text(found->second), nn::shape_text(parameter)));
    } else if (found->second.is_floating_point() != parameter.is_floating_point()) {
      wrong.push_back(fmt::format("{} is {} and must be {}", key, c10::toString(found->second.scalar_type()),
                                  c10::toString(parameter.scalar_type())));
    }
  }
  for (const auto& [key, tensor] : given) {
    if (!wanted.contains(key)) wrong.push_back("unknown " + key);
  }
  refuse_wrong(wrong);
  const at::NoGradGuard no_grad;
  for (const auto& [key, parameter] : wanted) at::Tensor(parameter).copy_(given.at(key));
}

std::string saved_model_name(const fs::path& directory) {
  const Json json = read_description(directory / kConfigFile);
  return json["model"].get<std::string>();
}

namespace nn {

void save_module(const fs::path& directory, const torch::nn::Module& module, const char* model,
                 const std::string& config, const std::function<void(const fs::path&)>& more) {
  std::error_code error;
  if (fs::is_directory(directory, error) && !fs::is_empty(directory, error) &&
      !fs::exists(directory / kConfigFile, error)) {
    core::refuse_file(directory, "it holds files but no checkpoint; choose an empty or a new directory");
  }
  Json json;
  json["model"] = model;
  json["format_version"] = kFormatVersion;
  json["config"] = core::parse_json("config", config);
  const std::string text = json.dump(2) + "\n";
  core::replace_directory(directory, [&](const fs::path& folder) {
    core::OutputFile file(folder / kConfigFile);
    file.write(text.data(), text.size());
    file.commit();
    // "format": "pt" is what readers of other libraries look for.
    save_tensors(folder / kWeightsFile, weights(module), {{"format", "pt"}, {"model", model}});
    if (more) more(folder);
  });
}

void with_saved_config(const fs::path& directory, const char* model,
                       const std::function<void(const std::string&)>& use) {
  const fs::path path = directory / kConfigFile;
  const Json json = read_description(path);
  if (json["model"] != model) {
    core::refuse_file(path, fmt::format("it is not the config of a {} checkpoint, but of a {}", model,
                                        core::printable(json["model"].get<std::string>())));
  }
  if (json.value("format_version", Json()) != kFormatVersion) {
    core::refuse_file(path, fmt::format("its format_version is {}; this build reads {}",
                                        core::shown(json.value("format_version", Json())), kFormatVersion));
  }
  try {
    use(json["config"].dump());
  } catch (const Error& e) {
    core::refuse_file(path, e.what());
  } catch (const c10::Error& e) {  // sizes that memory does not hold
    core::refuse_file(path, fmt::format("no {} can be made of it: {}", model, e.what_without_backtrace()));
  }
}

void load_saved_weights(const fs::path& directory, torch::nn::Module& module) {
  const TensorFile file = load_tensors(directory / kWeightsFile);
  std::set<at::ScalarType> types;
  for (const auto& [key, tensor] : file.tensors) types.insert(tensor.scalar_type());
  if (types.size() == 1 && at::isFloatingType(*types.begin())) module.to(*types.begin());
  try {
    load_weights(module, file.tensors);
  } catch (const Error& e) {
    core::refuse_file(directory / kWeightsFile, e.what());
  }
}

}  // namespace nn

}  // namespace longstride
