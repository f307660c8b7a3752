// Backends of a group, and waiting for what they do (ranks.h, await_work of longstride/parallel/work.h).
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <stdexcept>
#include <thread>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "core/refuse.h"
#include "longstride/parallel/work.h"
#include "op/autograd/ranks.h"

namespace longstride {
namespace op::autograd {
namespace {

bool takes(const RankGroup& group, at::DeviceType type) {
  return std::ranges::any_of(group->getDeviceTypes(), [&](const at::Device& its) { return its.type() == type; });
}

// "cpu by gloo, cuda by nccl"
std::string backends(const RankGroup& group) {
  std::vector<std::string> names;
  for (const at::Device& its : group->getDeviceTypes()) {
    names.push_back(fmt::format("{} by {}", c10::DeviceTypeName(its.type(), true),
                                group->getBackend(its.type())->getBackendName()));
  }
  std::ranges::sort(names);
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

at::Device host_of(const RankGroup& group) {
  return !takes(group, at::kCPU) && takes(group, at::kCUDA) ? at::kCUDA : at::kCPU;
}

void check_device(const char* name, const at::Tensor& tensor, const RankGroup& group) {
  const at::Device device = tensor.device();
  if (!device.is_cpu() && !device.is_cuda())
    core::refuse(name, "must be on the CPU or a CUDA device where the sequence lies in shards", device.str());
  if (!group || group->getSize() == 1 || takes(group, device.type())) return;
  core::refuse(name, fmt::format("must be on a device whose tensors the group moves, which has {}", backends(group)),
               device.str(), "move the tensors, or take a group of another backend");
}

}  // namespace op::autograd

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// NCCL itself ends the process when the group's timeout has passed; what is said of the ranks must be said before.
constexpr milliseconds kMargin{5000};

}  // namespace

void await_work(c10d::Work& work, const RankGroup& group, at::Device device) {
  if (!device.is_cuda()) {
    work.wait();
    return;
  }
  const c10::intrusive_ptr<c10d::Backend> backend = group->getBackend(device.type());
  try {
    const milliseconds timeout = backend->getBackendOptions()->timeout;
    const milliseconds patience = std::max(timeout - kMargin, timeout / 2);
    const auto begin = Clock::now();
    while (!work.isCompleted()) {
      const auto waited = Clock::now() - begin;
      if (waited > patience)
        throw std::runtime_error(
            fmt::format("not over within {} s", std::chrono::duration_cast<std::chrono::seconds>(waited).count()));
      // Most exchanges are over sooner than a thread wakes up.
      std::this_thread::sleep_for(std::chrono::microseconds(waited < milliseconds(10) ? 0 : 100));
    }
    if (const std::exception_ptr error = work.exception()) std::rethrow_exception(error);
    work.wait();
  } catch (const std::exception&) {
    backend->abort();  // a kernel of NCCL waits for a rank that has ended as long as the process lives
    throw;
  }
}

}  // namespace longstride
