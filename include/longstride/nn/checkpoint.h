// Checkpoints: safetensors files (8 bytes of header length, JSON header, data; the format of Hugging Face's library,
// which reads ours and writes what we read) and a config.json beside them. Everything is written beside and renamed, so
// that after any error the file or directory that was there before is intact.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "longstride/nn/longnet.h"
#include "longstride/nn/longnet_lm.h"

namespace longstride {

struct TensorFile {
  std::map<std::string, at::Tensor> tensors;    // on the CPU
  std::map<std::string, std::string> metadata;  // the header's "__metadata__"
};

// Writes tensors (any device, any strides; bool, integers, float16, bfloat16, float32, float64) as safetensors. Throws
// Error, with the system's reason, if a file cannot be written wholly.
void save_tensors(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& tensors,
                  const std::map<std::string, std::string>& metadata = {});
// Throws Error if the file is missing, truncated, or not safetensors.
TensorFile load_tensors(const std::filesystem::path& path);

// The parameters and buffers of a module by name, and back. load_weights wants exactly these names and shapes (a fused
// q/k/v projection also from three, and three from a fused one); otherwise it throws Error with every name that is
// missing, unknown or of a wrong shape, and the module is as it was. Dtype and device follow the module.
std::map<std::string, at::Tensor> weights(const torch::nn::Module& module);
void load_weights(torch::nn::Module& module, const std::map<std::string, at::Tensor>& tensors);

// A model's directory: config.json and model.safetensors. `model` is a holder of any class with weights or options
// here: LongNetLM, LongNet, TransformerLayer, DilatedTransformerDecoderLayer, FeedForward, MultiheadDilatedAttention,
// DilatedAttention. `more` may write further files into the directory that it is given before it takes the place of
// `directory` (whatever was there is replaced as a whole, or stays on any error). What computes attention is not saved:
// it is where the model runs, not what it is.
template <class Holder>
void save_model(const std::filesystem::path& directory, const Holder& model,
                const std::function<void(const std::filesystem::path&)>& more = {});

// The model on the CPU, in training mode, of the dtype that the file holds. `attend` are the AttentionFns that the
// class is built with; without them attention is that of this process. Throws Error if the directory is missing, is
// damaged, or holds a model of another class.
template <class Holder, class... AttentionFns>
Holder load_model(const std::filesystem::path& directory, AttentionFns... attend);

// The class that a directory holds: "LongNet". Throws Error if it holds none.
std::string saved_model_name(const std::filesystem::path& directory);

namespace nn {

// What the templates below are made of.
void save_module(const std::filesystem::path& directory, const torch::nn::Module& module, const char* model,
                 const std::string& config, const std::function<void(const std::filesystem::path&)>& more);
void with_saved_config(const std::filesystem::path& directory, const char* model,
                       const std::function<void(const std::string&)>& use);
void load_saved_weights(const std::filesystem::path& directory, torch::nn::Module& module);

// What a module was built from: its `config`, or its `options`.
template <class Module>
const auto& made_from(const Module& module) {
  if constexpr (requires { module.config.to_json(); }) {
    return module.config;
  } else {
    return module.options;
  }
}

}  // namespace nn

template <class Holder>
void save_model(const std::filesystem::path& directory, const Holder& model,
                const std::function<void(const std::filesystem::path&)>& more) {
  if (model.is_empty()) throw Error("model must hold a module, got an empty holder");
  nn::save_module(directory, *model, Holder::ContainedType::kModelName, nn::made_from(*model).to_json(), more);
}

template <class Holder, class... AttentionFns>
Holder load_model(const std::filesystem::path& directory, AttentionFns... attend) {
  using Module = typename Holder::ContainedType;
  using Config = std::decay_t<decltype(nn::made_from(std::declval<const Module&>()))>;
  Holder model{nullptr};
  nn::with_saved_config(directory, Module::kModelName, [&](const std::string& config) {
    model = Holder(std::make_shared<Module>(Config::from_json(config), std::move(attend)...));
  });
  nn::load_saved_weights(directory, *model);
  return model;
}

}  // namespace longstride
