// Which process group a config names, whether it is what the config says, and its rings.
#include <fmt/format.h>

#include <map>
#include <mutex>
#include <numeric>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>

#include "core/refuse.h"
#include "longstride/factory/rings.h"

namespace longstride {
namespace {

// The name under which torch.distributed registers its default group.
constexpr const char* kDefaultGroup = "0";
constexpr const char* kNoGroup = "none";

RankGroup find(const std::string& name) {
  try {
    return c10d::resolve_process_group(name);
  } catch (const c10::Error&) {
    return {};
  }
}

RankGroup group_of(const std::optional<std::string>& name) {
  if (name == kNoGroup) return {};
  RankGroup group = find(name.value_or(kDefaultGroup));
  if (name && !group) {
    core::refuse("group", "must be \"none\" or the name of a process group of this process", fmt::format("'{}'", *name),
                 "initialise it first, or leave group unset for the default one");
  }
  return group;
}

int64_t checked_ranks(const RankGroup& group, const std::optional<int64_t>& ring_size) {
  const int64_t ranks = group ? group->getSize() : 1;
  if (ring_size && (*ring_size > ranks || ranks % *ring_size != 0)) {
    core::refuse("ring_size", fmt::format("must divide the {} ranks of the group", ranks), *ring_size,
                 group ? "leave it unset for one ring of all ranks" : "there is no process group; leave it unset");
  }
  return ranks;
}

void require_equal(const char* argument, const std::optional<int64_t>& said, int64_t is) {
  if (!said || *said == is) return;
  core::refuse(argument, fmt::format("must be that of the group, {}", is), *said, "leave it unset to take the group's");
}

// This rank's ring of `size` ranks.
RankGroup split(const RankGroup& group, int64_t size) {
  std::vector<int> members(static_cast<size_t>(size));
  std::iota(members.begin(), members.end(), static_cast<int>(group->getRank() / size * size));
  std::string why = "it gave none";
  try {
    // The store's keys have this prefix, so rings differ in it.
    const std::string name = fmt::format("{}:ring of {} from {}", group->getGroupName(), size, members.front());
    if (RankGroup ring = group->splitGroup(members, std::nullopt, std::nullopt, name, std::nullopt)) return ring;
  } catch (const c10::Error& error) {
    why = error.what_without_backtrace();
  }
  core::refuse("ring_size",
               fmt::format("must be unset or {} where the group cannot be split ({})", group->getSize(), why), size,
               "make the ring's own group and name it");
}

// One for each size that a group is cut into.
struct Rings {
  c10::weak_intrusive_ptr<c10d::ProcessGroup> group;
  std::map<int64_t, RankGroup> by_size;
};

}  // namespace

RankGroup ring_of(const RingAttentionConfig& config) {
  const int64_t ranks = ranks_of(config);
  const int64_t size = config.ring_size.value_or(ranks);
  RankGroup group = group_of(config.group);
  if (size == 1) return {};
  if (size == ranks) return group;
  // Kept until the process ends: at exit backends are past being taken down.
  static std::mutex mutex;
  static auto& all = *new std::map<c10d::ProcessGroup*, Rings>;
  const std::lock_guard lock(mutex);
  std::erase_if(all, [](const auto& one) { return one.second.group.expired(); });
  Rings& rings = all.try_emplace(group.get(), Rings{c10::weak_intrusive_ptr(group), {}}).first->second;
  RankGroup& ring = rings.by_size[size];
  if (!ring) ring = split(group, size);
  return ring;
}

int64_t ranks_of(const RingAttentionConfig& config) {
  config.validate();
  return checked_ranks(group_of(config.group), config.ring_size);
}

int64_t ranks_of(const DistributedConfig& config) {
  config.validate();
  const RankGroup group = group_of(config.group);
  const int64_t ranks = checked_ranks(group, config.ring_size);
  require_equal("world_size", config.world_size, ranks);
  require_equal("rank", config.rank, group ? group->getRank() : 0);
  if (config.backend && !group) {
    core::refuse("backend", "must be unset without a process group", fmt::format("'{}'", *config.backend),
                 "initialise a group, or leave it unset");
  }
  if (config.backend && group->getBackendName() != *config.backend) {
    core::refuse("backend", fmt::format("must be that of the group, '{}'", group->getBackendName()),
                 fmt::format("'{}'", *config.backend));
  }
  return ranks;
}

}  // namespace longstride
