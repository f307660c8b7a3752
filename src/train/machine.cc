// Asks LibTorch and the kernel what a run computes on (machine.h).
#include "train/machine.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <torch/types.h>
#include <torch/version.h>

#include <thread>

#include "longstride/attention/gpus.h"

namespace longstride::train {

std::string machine_line(const LongNetLMConfig& config, int64_t context, bool bf16, at::Device device) {
  // One short row of zeros is enough to learn which engine takes this shape and type.
  const int64_t len = std::min<int64_t>(context, 16);
  const MultiheadDilatedAttentionOptions& o = config.layer.attention;
  const auto type = torch::TensorOptions().dtype(bf16 ? torch::kBFloat16 : torch::kFloat32).device(device);
  const at::Tensor q = torch::zeros({1, len, o.num_heads, o.head_dim()}, type);
  const at::Tensor kv = torch::zeros({1, len, o.key_value_heads(), o.head_dim()}, type);
  const Pattern& pattern = o.attention.pattern;
  const std::string where = device.is_cpu() ? fmt::format("{} threads on {} processors, {}", at::get_num_threads(),
                                                          std::thread::hardware_concurrency(), at::get_cpu_capability())
                                            : fmt::format("{} ({})", device.str(), gpu_name(device.index()));
  return fmt::format("{}, LibTorch {}.{}.{}, {}, engine {}", where, TORCH_VERSION_MAJOR, TORCH_VERSION_MINOR,
                     TORCH_VERSION_PATCH, bf16 ? "bf16 autocast" : "fp32",
                     describe_attention(q, kv, kv, pattern).engine);
}

int64_t use_threads(int64_t threads) {
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
  return at::get_num_threads();
}

int64_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

}  // namespace longstride::train
