// Finds and loads what a device needs, and asks LibTorch and the kernel what it is (device.h).
#include "train/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <link.h>
#include <sys/resource.h>
#include <torch/types.h>
#include <torch/version.h>

#include <charconv>
#include <filesystem>
#include <limits>
#include <mutex>
#include <thread>

#include "core/refuse.h"
#include "longstride/attention/engines.h"
#include "longstride/attention/gpus.h"

namespace longstride::train {
namespace {

constexpr const char* kRemedy =
    "build with -DLONGSTRIDE_CUDA=ON against a LibTorch that has CUDA, or take --device cpu";

// LibTorch's CUDA half, from the folder of the half that is loaded: a program that computes on the CPU does not wait
// for it to be read. Before anything asks LibTorch for CUDA, since it keeps the first answer.
bool load_cuda() {
  void* const host = dlopen("libtorch_cpu.so", RTLD_NOLOAD | RTLD_LAZY);
  const link_map* found = nullptr;
  if (host == nullptr || dlinfo(host, RTLD_DI_LINKMAP, &found) != 0) return false;
  const std::filesystem::path half = std::filesystem::path(found->l_name).replace_filename("libtorch_cuda.so");
  return dlopen(half.c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr && c10::impl::hasDeviceGuardImpl(at::kCUDA);
}

// Why this build cannot compute on GPUs; "" if it can.
std::string lacks_engine() {
  for (const EngineReport& report : capabilities())
    if (report.engine == "cuda") return report.reason;
  return "";
}

}  // namespace

at::Device device_named(const std::string& words) {
  constexpr std::string_view kNumbered = "cuda:";
  if (words == "cpu") return at::kCPU;
  if (words == "cuda") return {at::kCUDA, 0};
  if (!words.starts_with(kNumbered)) {
    const std::string known[] = {"cpu", "cuda", "cuda:1"};
    core::refuse_unknown("--device", words, known);
  }
  int index = 0;
  const auto [end, error] = std::from_chars(words.data() + kNumbered.size(), words.data() + words.size(), index);
  if (error != std::errc() || end != words.data() + words.size() || index < 0 ||
      index > std::numeric_limits<at::DeviceIndex>::max())
    core::refuse("--device", "must have a GPU's number behind cuda:", fmt::format("'{}'", words),
                 "the first is cuda:0");
  return {at::kCUDA, static_cast<at::DeviceIndex>(index)};
}

at::Device use_device(const std::string& words) {
  const at::Device device = device_named(words);
  if (device.is_cpu()) return device;
  if (const std::string why = lacks_engine(); !why.empty())
    core::refuse("--device", fmt::format("must be cpu: {}", why), device.str(), kRemedy);
  if (!load_cuda()) core::refuse("--device", "must be cpu: this LibTorch has no CUDA", device.str(), kRemedy);
  const auto* const gpus = c10::impl::getDeviceGuardImpl(at::kCUDA);
  const int count = gpus->deviceCount();
  if (count == 0) core::refuse("--device", "must be cpu: LibTorch finds no GPU", device.str(), "see longstride doctor");
  if (device.index() >= count) {
    core::refuse("--device", fmt::format("must be one of the GPUs cuda:0 to cuda:{}", count - 1), device.str(),
                 "start no more ranks on a machine than it has GPUs");
  }
  gpus->setDevice(device);
  return device;
}

at::Device device_of(const LongNetLM& model) { return model->parameters().front().device(); }

void seed_gpu(at::Device device, uint64_t seed) {
  if (device.is_cpu()) return;
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_current_seed(seed);
}

int64_t peak_bytes_on(at::Device device) {
  if (device.is_cpu()) return 0;
  const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  return stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
}

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
