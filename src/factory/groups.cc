// Which process group a config names, and whether it is what the config says.
#include <fmt/format.h>

#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "core/refuse.h"
#include "longstride/factory/configs.h"

namespace longstride {
namespace {

using GroupHandle = c10::intrusive_ptr<c10d::ProcessGroup>;

// The name under which torch.distributed registers its default group.
constexpr const char* kDefaultGroup = "0";
constexpr const char* kNoGroup = "none";

GroupHandle find(const std::string& name) {
  try {
    return c10d::resolve_process_group(name);
  } catch (const c10::Error&) {
    return {};
  }
}

GroupHandle group_of(const std::optional<std::string>& name) {
  if (name == kNoGroup) return {};
  GroupHandle group = find(name.value_or(kDefaultGroup));
  if (name && !group) {
    core::refuse("group", "must be \"none\" or the name of a process group of this process", fmt::format("'{}'", *name),
                 "initialise it first, or leave group unset for the default one");
  }
  return group;
}

int64_t checked_ranks(const GroupHandle& group, const std::optional<int64_t>& ring_size) {
  const int64_t ranks = group ? group->getSize() : 1;
  if (ring_size && (*ring_size > ranks || ranks % *ring_size != 0)) {
    core::refuse("ring_size", fmt::format("must divide the {} ranks of the group", ranks), std::to_string(*ring_size),
                 group ? "leave it unset for one ring of all ranks" : "there is no process group; leave it unset");
  }
  return ranks;
}

void require_equal(const char* argument, const std::optional<int64_t>& said, int64_t is) {
  if (!said || *said == is) return;
  core::refuse(argument, fmt::format("must be that of the group, {}", is), std::to_string(*said),
               "leave it unset to take the group's");
}

}  // namespace

int64_t ranks_of(const RingAttentionConfig& config) {
  config.validate();
  return checked_ranks(group_of(config.group), config.ring_size);
}

int64_t ranks_of(const DistributedConfig& config) {
  config.validate();
  const GroupHandle group = group_of(config.group);
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
