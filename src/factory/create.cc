// From a type's name to a module: what auto is, and the check of options that every type shares.
#include "longstride/factory/create.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/refuse.h"
#include "factory/named_values.h"
#include "longstride/attention.h"

namespace longstride {
namespace {

constexpr const char* kAuto = "auto";

// What this build has for a device.
std::string engine_for(at::Device device) {
  const std::vector<std::string> wanted =
      device.is_cpu() ? std::vector<std::string>{"cpu", "reference"} : std::vector<std::string>{"cuda"};
  const auto engines = capabilities();
  for (const std::string& name : wanted) {
    for (const EngineReport& report : engines) {
      if (report.engine.starts_with(name) && report.yes) return "engine " + report.engine;
    }
  }
  return "no engine of this build";
}

// The keys of block patterns among the options.
std::vector<std::string> sparse_keys(const NamedOptions& options) {
  std::vector<std::string> keys;
  const SparseAttentionConfig config;
  SparseAttentionConfig::fields(config, [&](const char* key, const auto&) {
    const auto found = options.find(key);
    if (found != options.end() && !found->second.is_unset()) keys.emplace_back(key);
  });
  return keys;
}

std::optional<std::string> group_in(const NamedOptions& options) {
  const nn::Json given = factory::json_of(options);
  std::optional<std::string> group;
  if (given.contains("group")) nn::read("group", given["group"], group);
  return group;
}

void refuse_unlisted(const std::string& type, const NamedOptions& options, const std::vector<OptionInfo>& listed) {
  std::vector<std::string> known;
  for (const OptionInfo& option : listed) known.push_back(option.name);
  for (const auto& [name, value] : options) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      core::refuse_unknown(fmt::format("option of type {}", type), name, known);
    }
  }
}

template <class Holder>
Created<Holder> create(const std::string& asked, const NamedOptions& options, const Registry& registry,
                       std::vector<OptionInfo> AttentionBuilder::*listed,
                       std::function<Holder(const NamedOptions&)> AttentionBuilder::*build) {
  const Choice choice = asked == kAuto ? choose_attention(options) : Choice{asked, "asked for by name"};
  if (asked != kAuto && !registry.has(asked)) {
    std::vector<std::string> names = registry.names();
    names.insert(names.begin(), kAuto);
    core::refuse_unknown("attention type", asked, names);
  }
  const AttentionBuilder& builder = registry.at(choice.type);
  refuse_unlisted(choice.type, options, builder.*listed);
  return {(builder.*build)(options), choice.type, choice.reason};
}

}  // namespace

Choice choose_attention(const NamedOptions& options) {
  const std::vector<std::string> keys = sparse_keys(options);
  const std::optional<std::string> group = group_in(options);
  const int64_t ranks = ranks_of(RingAttentionConfig{group, std::nullopt});
  const nn::Json given = factory::json_of(options);
  std::string device = "cpu";
  if (given.contains("device")) nn::read("device", given["device"], device);
  const bool sparse = !keys.empty();
  // Options of a placement ask for a type that takes them, even where one rank is all there is.
  const auto names_any = [&](std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* name) { return given.contains(name); });
  };
  const bool job = names_any({"world_size", "rank", "backend"});
  const bool sharded = ranks > 1 || job || names_any({"group", "ring_size"});
  Choice choice;
  if (sparse) {
    choice.type = job ? "block_sparse_ring_distributed" : sharded ? "block_sparse_ring" : "block_sparse";
  } else {
    choice.type = job ? "distributed" : sharded ? "ring" : "standard";
  }
  choice.reason =
      fmt::format("{}; {}; device {}: {}",
                  sparse ? fmt::format("a block pattern is asked for ({})", keys.front()) : "dilated groups",
                  ranks > 1 ? fmt::format("{} ranks share the sequence", ranks) : "one rank holds the whole sequence",
                  device, engine_for(factory::device_of(device)));
  return choice;
}

Created<DilatedAttention> create_dilated_attention(const std::string& type, const NamedOptions& options,
                                                   const Registry& registry) {
  return create(type, options, registry, &AttentionBuilder::options, &AttentionBuilder::build);
}

Created<MultiheadDilatedAttention> create_multihead_dilated_attention(const std::string& type,
                                                                      const NamedOptions& options,
                                                                      const Registry& registry) {
  return create(type, options, registry, &AttentionBuilder::multihead_options, &AttentionBuilder::build_multihead);
}

Created<MultiheadDilatedAttention> create_block_sparse_attention(const NamedOptions& options,
                                                                 const Registry& registry) {
  NamedOptions with_pattern = options;
  with_pattern.try_emplace("pattern", SparseAttentionConfig().pattern);
  return create_multihead_dilated_attention(kAuto, with_pattern, registry);
}

Created<MultiheadDilatedAttention> create_adaptive_sparse_attention(const NamedOptions& options,
                                                                    const Registry& registry) {
  return create_multihead_dilated_attention("block_sparse_adaptive", options, registry);
}

std::unique_ptr<UnifiedMemoryPool> create_memory_pool(const MemoryPoolConfig& config) {
  config.validate();
  return std::make_unique<UnifiedMemoryPool>(UnifiedMemoryPool::Options{.most_cached_bytes = config.most_cached_bytes,
                                                                        .most_live_bytes = config.most_live_bytes});
}

}  // namespace longstride
