// Reads torchrun's environment and makes the groups (rank_groups.h). Gloo's headers are the system's (libgloo-dev),
// since LibTorch brings none; Gloo itself is LibTorch's, and so is NCCL, whose header comes with torch's wheels.
#include "rank_groups.h"

#include <c10/util/Logging.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef LONGSTRIDE_GLOO
#ifndef USE_C10D_GLOO
#define USE_C10D_GLOO  // without it the header is empty
#endif
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#endif
#ifdef LONGSTRIDE_NCCL
#ifndef USE_C10D_NCCL
#define USE_C10D_NCCL  // likewise
#endif
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include "core/refuse.h"
#include "longstride/error.h"
#include "train/device.h"
#include "train/ranks.h"

namespace longstride::cli {
namespace {

constexpr int kFatal = 3;  // glog's
constexpr int kMostRanks = 1 << 20, kMostPort = 65535;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

int whole_variable(const char* name, int low, int high) {
  const std::string text = variable(name);
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
    core::refuse(fmt::format("{} of the environment", name),
                 fmt::format("must be a whole number from {} to {}", low, high), fmt::format("'{}'", text),
                 "let torchrun set it, or unset it to run one process");
  }
  return value;
}

#ifdef LONGSTRIDE_GLOO

// torchrun keeps a store for its ranks, anew each time that it starts them; without it the first rank does.
c10::intrusive_ptr<c10d::Store> meeting_place(const RankPlace& place, std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(place.port);
  options.isServer = place.rank == 0 && variable("TORCHELASTIC_USE_AGENT_STORE") != "True";
  options.numWorkers = place.ranks;
  options.timeout = timeout;
  const auto store = c10::make_intrusive<c10d::TCPStore>(place.host, options);
  store->setTimeout(timeout);
  const std::string attempt = variable("TORCHELASTIC_RESTART_COUNT");
  return c10::make_intrusive<c10d::PrefixStore>(fmt::format("longstride/{}", attempt), store);
}

// LibTorch logs each try to connect, with its stack; what we throw says it in a line. Ranks behind the first stay so,
// for what LibTorch has to say of a model need not be said by each of them. Its own variable goes before.
class QuietLog {
 public:
  explicit QuietLog(bool stays) : before_(FLAGS_caffe2_log_level), stays_(stays) {
    if (variable("TORCH_CPP_LOG_LEVEL").empty()) FLAGS_caffe2_log_level = kFatal;
  }
  ~QuietLog() {
    if (!stays_) FLAGS_caffe2_log_level = before_;
  }
  QuietLog(const QuietLog&) = delete;
  QuietLog& operator=(const QuietLog&) = delete;

 private:
  int before_;
  bool stays_;
};

// GLOO_SOCKET_IFNAME names the network interfaces to use, as it does for LibTorch in Python.
auto gloo_options(std::chrono::milliseconds timeout) {
  auto options = c10d::ProcessGroupGloo::Options::create(timeout);
  std::istringstream interfaces(variable("GLOO_SOCKET_IFNAME"));
  for (std::string name; std::getline(interfaces, name, ',');)
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForInterface(name));
  if (options->devices.empty()) options->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
  return options;
}

RankGroup make_group(const c10::intrusive_ptr<c10d::Store>& place, const std::string& name, int rank, int ranks,
                     std::chrono::milliseconds timeout) {
  const auto store = c10::make_intrusive<c10d::PrefixStore>(name, place);
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, rank, ranks);
  group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::GLOO,
                    c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, ranks, gloo_options(timeout)));
  group->setDefaultBackend(c10d::ProcessGroup::BackendType::GLOO);
  group->setGroupName(name);
  return group;
}

// Tensors of this process's GPU, the current one, travel by NCCL from now on.
void add_nccl(const RankGroup& group, [[maybe_unused]] const c10::intrusive_ptr<c10d::Store>& place,
              [[maybe_unused]] std::chrono::milliseconds timeout) {
#ifdef LONGSTRIDE_NCCL
  // LibTorch's own watchdog would end the process where a rank is lost, before it has been said which.
  setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", /*overwrite=*/0);
  const std::string name = group->getGroupName();
  const auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  const auto store = c10::make_intrusive<c10d::PrefixStore>("nccl/" + name, place);
  group->setBackend(c10::DeviceType::CUDA, c10d::ProcessGroup::BackendType::NCCL,
                    c10::make_intrusive<c10d::ProcessGroupNCCL>(store, group->getRank(), group->getSize(), options));
  group->setGroupName(name);  // the backend's too
#else
  core::refuse("--device", fmt::format("must be cpu on {} ranks: this build has no NCCL", group->getSize()), "cuda",
               "build it against a LibTorch that has CUDA and with nccl.h, or start one process");
#endif
}

#endif

}  // namespace

RankPlace rank_place() {
  constexpr const char* kNames[] = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"};
  if (variable("RANK").empty() && variable("WORLD_SIZE").empty()) return {};
  for (const char* name : kNames) {
    if (!variable(name).empty()) continue;
    throw Error(
        fmt::format("the environment says that this is one of several ranks and lacks {}; start them by torchrun, "
                    "or set {}, or none of RANK and WORLD_SIZE",
                    name, fmt::join(kNames, ", ")));
  }
  RankPlace place;
  place.ranks = whole_variable("WORLD_SIZE", 1, kMostRanks);
  place.rank = whole_variable("RANK", 0, place.ranks - 1);
  place.host = variable("MASTER_ADDR");
  place.port = whole_variable("MASTER_PORT", 1, kMostPort);
  return place;
}

std::string rank_label() {
  try {
    const RankPlace place = rank_place();
    return place.ranks == 1 ? "" : fmt::format("rank {} of {}: ", place.rank, place.ranks);
  } catch (const Error&) {
    return "";
  }
}

std::string device_of_rank(const RankPlace& place, const std::string& device) {
  if (train::device_named(device).is_cpu() || place.ranks == 1) return device;
  if (device != "cuda") {
    core::refuse("--device", "must be cpu or cuda on several ranks", device,
                 "each takes the GPU of its LOCAL_RANK; CUDA_VISIBLE_DEVICES says which GPUs there are");
  }
  return fmt::format("cuda:{}", whole_variable("LOCAL_RANK", 0, kMostRanks));
}

NcclScope::~NcclScope() {
#ifdef LONGSTRIDE_NCCL
  for (const RankGroup& group : {ranks_.world, ranks_.context}) {
    if (!group || group->getDeviceTypes().size() < 2) continue;
    try {
      group->getBackend(c10::DeviceType::CUDA)->abort();
    } catch (const std::exception&) {
      // What has failed has been said.
    }
  }
#endif
}

TrainRanks join_ranks(const RankPlace& place, int64_t context_parallel, [[maybe_unused]] double timeout_seconds,
                      [[maybe_unused]] const std::string& device) {
  if (context_parallel < 1 || place.ranks % context_parallel != 0) {
    core::refuse("--context-parallel", fmt::format("must divide the number of ranks, {}", place.ranks),
                 context_parallel,
                 place.ranks == 1 ? "start ranks by torchrun --nproc-per-node N --no-python longstride train ..." : "");
  }
  if (place.ranks == 1) return {};
#ifdef LONGSTRIDE_GLOO
  const std::chrono::milliseconds timeout(static_cast<int64_t>(1000 * timeout_seconds));
  const int size = static_cast<int>(context_parallel);
  const QuietLog quiet(place.rank > 0);
  TrainRanks ranks;
  try {
    ranks.store = meeting_place(place, timeout);
    ranks.world = make_group(ranks.store, "all ranks", place.rank, place.ranks, timeout);
    if (size > 1) {
      const std::string name = fmt::format("sequence {}", place.rank / size);
      ranks.context = make_group(ranks.store, name, place.rank % size, size, timeout);
    }
  } catch (const std::exception& error) {
    const std::string words = error.what();
    throw std::runtime_error(fmt::format("the {} ranks did not come together at {}:{}: {}", place.ranks, place.host,
                                         place.port, words.substr(0, words.find('\n'))));
  }
  // Together: a rank without its GPU is told of on all, which would wait for it.
  train::Ranks(ranks).together([&] {
    if (train::use_device(device).is_cpu()) return;
    for (const RankGroup& group : {ranks.world, ranks.context})
      if (group) add_nccl(group, ranks.store, timeout);
  });
  return ranks;
#else
  throw Error(
      fmt::format("this build cannot train on {} ranks, since Gloo's headers were missing when it was compiled; "
                  "install libgloo-dev and build again, or start one process",
                  place.ranks));
#endif
}

}  // namespace longstride::cli
