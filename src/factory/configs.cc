// Checks and JSON of the configs, and what a SparseAttentionConfig says. See configs.h.
#include "longstride/factory/configs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <type_traits>
#include <utility>

#include "core/refuse.h"
#include "factory/sparse_options.h"
#include "longstride/pattern/json.h"
#include "nn/json_fields.h"
#include "nn/require.h"

namespace longstride {
namespace {

using nn::Json;

constexpr const char* kHybrid = "hybrid";
constexpr const char* kLearned = "learned";

struct PatternOptions {
  const char* pattern;
  std::vector<std::string> takes;
};

const std::vector<PatternOptions>& pattern_table() {
  static const std::vector<PatternOptions> table = {
      {"local_window", {"window", "sparsity_ratio", "density"}},
      {"dilated_sparse", {"rates", "reach", "sparsity_ratio", "density"}},
      {"global_local", {"window", "global_tokens"}},
      {"strided", {"stride_blocks"}},
      {"axial", {"grid_columns"}},
      {"random", {"sparsity_ratio", "density", "seed"}},
      {"hierarchical", {"levels"}},
      {kHybrid, {"blocks"}},
      {kLearned, {"sparsity_ratio", "density", "min_sparsity_ratio", "max_sparsity_ratio", "hidden", "temperature"}},
  };
  return table;
}

}  // namespace

const std::vector<std::string>& factory::options_of_pattern(const std::string& pattern) {
  std::vector<std::string> names;
  for (const PatternOptions& row : pattern_table()) {
    if (pattern == row.pattern) return row.takes;
    names.emplace_back(row.pattern);
  }
  core::refuse_unknown("pattern", pattern, names);
}

namespace {

template <class T>
bool is_set(const std::optional<T>& field) {
  return field.has_value();
}
bool is_set(const std::vector<BlockPattern>& field) { return !field.empty(); }

// The options of one pattern that are set, with the defaults of those that it cannot do without.
Json given_options(const SparseAttentionConfig& c) {
  const std::vector<std::string>& takes = factory::options_of_pattern(c.pattern);
  Json given = Json::object();
  SparseAttentionConfig::fields(c, [&](const std::string& key, const auto& field) {
    if (key == "pattern" || key == "block_size") {
      given[key] = nn::written(field);
    } else if constexpr (!std::is_arithmetic_v<std::decay_t<decltype(field)>> &&
                         !std::is_same_v<std::decay_t<decltype(field)>, std::string>) {
      if (!is_set(field)) return;
      if (std::find(takes.begin(), takes.end(), key) == takes.end()) {
        core::refuse_unknown(fmt::format("option of pattern {}", c.pattern), key, takes);
      }
      given[key] = nn::written(field);
    }
  });
  const auto lacks = [&](std::initializer_list<const char*> keys) {
    return std::none_of(keys.begin(), keys.end(), [&](const char* key) { return given.contains(key); });
  };
  if (c.pattern == "local_window" && lacks({"window", "sparsity_ratio", "density"})) given["sparsity_ratio"] = 0.9;
  if (c.pattern == "dilated_sparse" && lacks({"reach", "sparsity_ratio", "density"})) given["sparsity_ratio"] = 0.9;
  if (c.pattern == "random" && lacks({"sparsity_ratio", "density"})) given["sparsity_ratio"] = 0.9;
  if (c.pattern == "global_local") {
    if (lacks({"window"})) given["window"] = 512;
    if (lacks({"global_tokens"})) given["global_tokens"] = 64;
  }
  if (c.pattern == "strided" && lacks({"stride_blocks"})) given["stride_blocks"] = 4;
  if (c.pattern == "hierarchical" && lacks({"levels"})) {
    const int64_t b = c.block_size;
    const std::vector<HierarchyLevel> levels = {{b, 4 * b}, {4 * b, 16 * b}, {16 * b, std::nullopt}};
    given["levels"] = nn::written(levels);
  }
  return given;
}

}  // namespace

void RingAttentionConfig::validate() const {
  if (ring_size) nn::require_positive("ring_size", *ring_size);
}

void DistributedConfig::validate() const {
  ring().validate();
  if (world_size) nn::require_positive("world_size", *world_size);
  if (rank && *rank < 0) core::refuse("rank", "must not be negative", std::to_string(*rank));
  if (rank && world_size && *rank >= *world_size) {
    core::refuse("rank", fmt::format("must be below world_size {}", *world_size), std::to_string(*rank));
  }
  if (ring_size && world_size && *world_size % *ring_size != 0) {
    core::refuse("ring_size", fmt::format("must divide world_size {}", *world_size), std::to_string(*ring_size));
  }
  const std::vector<std::string> backends = {"gloo", "nccl", "mpi"};
  if (backend && std::find(backends.begin(), backends.end(), *backend) == backends.end()) {
    core::refuse_unknown("backend", *backend, backends);
  }
}

namespace {

// What holds for every pattern, and the options that are given.
Json checked_options(const SparseAttentionConfig& c) {
  nn::require_positive("block_size", c.block_size);
  for (const auto& [key, ratio] : {std::pair{"sparsity_ratio", c.sparsity_ratio},
                                   {"density", c.density},
                                   {"min_sparsity_ratio", c.min_sparsity_ratio},
                                   {"max_sparsity_ratio", c.max_sparsity_ratio}}) {
    if (ratio && !(*ratio > 0 && *ratio < 1)) core::refuse(key, "must be in (0, 1)", fmt::format("{}", *ratio));
  }
  return given_options(c);
}

}  // namespace

std::optional<LearnedBlocks> SparseAttentionConfig::learned_blocks() const {
  (void)checked_options(*this);
  if (pattern != kLearned) return std::nullopt;
  if (sparsity_ratio && density) {
    core::refuse("density", "cannot be given together with sparsity_ratio", "both", "give one of them");
  }
  const double ratio = density ? 1 - *density : sparsity_ratio.value_or(0.9);
  const double least = min_sparsity_ratio.value_or(ratio), most = max_sparsity_ratio.value_or(ratio);
  if (min_sparsity_ratio && max_sparsity_ratio && least >= most) {
    core::refuse("min_sparsity_ratio", fmt::format("must be below max_sparsity_ratio {}", most),
                 fmt::format("{}", least));
  }
  if (ratio < least || ratio > most) {
    core::refuse("sparsity_ratio",
                 fmt::format("must be from min_sparsity_ratio {} to max_sparsity_ratio {}", least, most),
                 fmt::format("{}", ratio));
  }
  LearnedBlocks learned;
  learned.block_size = block_size;
  learned.density = density.value_or(1 - ratio);
  if (max_sparsity_ratio) learned.min_density = std::min(1 - most, learned.density);
  if (min_sparsity_ratio) learned.max_density = std::max(1 - least, learned.density);
  learned.hidden = hidden.value_or(learned.hidden);
  learned.temperature = temperature.value_or(learned.temperature);
  LearnedBlocks sized = learned;
  sized.head_dim = sized.kv_heads = 1;
  sized.validate();
  return learned;
}

std::vector<BlockPattern> SparseAttentionConfig::block_patterns() const {
  const Json given = checked_options(*this);
  if (pattern == kLearned) return {};
  if (pattern == kHybrid) {
    if (blocks.empty()) {
      core::refuse("blocks", "must hold the block patterns that hybrid unites", "none",
                   R"(as in [{"pattern": "local_window", "block_size": 64, "window": 256}])");
    }
    return blocks;
  }
  const Json json = {{"blocks", Json::array({given})}};
  return pattern_from_json(nn::text_of(json, -1)).blocks();
}

void SparseAttentionConfig::validate() const {
  (void)block_patterns();
  (void)learned_blocks();
}

std::string RingAttentionConfig::to_json() const { return nn::to_json(*this); }
RingAttentionConfig RingAttentionConfig::from_json(std::string_view text) {
  return nn::from_json<RingAttentionConfig>(text);
}

std::string DistributedConfig::to_json() const { return nn::to_json(*this); }
DistributedConfig DistributedConfig::from_json(std::string_view text) { return nn::from_json<DistributedConfig>(text); }

void MemoryPoolConfig::validate() const {
  nn::require_positive("most_cached_bytes", most_cached_bytes);
  nn::require_positive("most_live_bytes", most_live_bytes);
}

std::string MemoryPoolConfig::to_json() const { return nn::to_json(*this); }
MemoryPoolConfig MemoryPoolConfig::from_json(std::string_view text) { return nn::from_json<MemoryPoolConfig>(text); }

std::string SparseAttentionConfig::to_json() const { return nn::to_json(*this); }
SparseAttentionConfig SparseAttentionConfig::from_json(std::string_view text) {
  return nn::from_json<SparseAttentionConfig>(text);
}

}  // namespace longstride
