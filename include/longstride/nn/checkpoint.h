// Checkpoints: safetensors files (8 bytes of header length, JSON header, data; the format of Hugging Face's library,
// which reads ours and writes what we read) and a config.json beside them. Everything is written beside and renamed, so
// that after any error the file or directory that was there before is intact.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <filesystem>
#include <functional>
#include <map>
#include <string>

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

// A model's directory: config.json and model.safetensors. `more` may write further files into the directory that it is
// given before it takes the place of `directory` (whatever was there is replaced as a whole, or stays on any error).
void save_checkpoint(const std::filesystem::path& directory, LongNetLM& model,
                     const std::function<void(const std::filesystem::path&)>& more = {});
// The model on the CPU, in training mode, of the dtype that the file holds.
LongNetLM load_checkpoint(const std::filesystem::path& directory);

}  // namespace longstride
