// Checks and JSON of the configs, and what a SparseAttentionConfig says.
#include "longstride/factory/configs.h"

#include <fmt/format.h>

#include <algorithm>
#include <type_traits>
#include <utility>

#include "core/refuse.h"
#include "factory/meanings.h"
#include "longstride/pattern/json.h"
#include "nn/json_fields.h"
#include "nn/require.h"

namespace longstride {
namespace {

using nn::Json;

constexpr const char* kHybrid = "hybrid";
constexpr const char* kLearned = "learned";

// A rule's "density" is also given as its complement.
constexpr std::string_view kDensity = "density";
constexpr const char* kComplement = "sparsity_ratio";
constexpr int64_t kUsualBlockSize = 128;

// visit(Rule()) of every rule that has a name here: those that say what they usually are.
template <class Visit>
constexpr void for_each_named_rule(const Visit& visit) {
  for_each_rule([&]<class Rule>(const Rule& rule) {
    if constexpr (requires { Rule::usual(int64_t{1}); }) visit(rule);
  });
}

struct PatternOptions {
  const char* pattern;
  std::vector<std::string> takes;
};

const std::vector<PatternOptions>& pattern_table() {
  static const auto table = [] {
    std::vector<PatternOptions> rows;
    for_each_named_rule([&](const auto& rule) {
      std::vector<std::string>& takes = rows.emplace_back(rule.kName).takes;
      rule.fields(rule, [&](const char* key, const auto&, const FieldNote&) {
        if (key == kDensity) takes.emplace_back(kComplement);
        takes.emplace_back(key);
      });
    });
    rows.push_back({kHybrid, {"blocks"}});
    rows.push_back(
        {kLearned, {kComplement, "density", "min_sparsity_ratio", "max_sparsity_ratio", "hidden", "temperature"}});
    return rows;
  }();
  return table;
}

template <class Field>
constexpr bool kIsOptional = false;
template <class Value>
constexpr bool kIsOptional<std::optional<Value>> = true;

// Whether a SparseAttentionConfig has every field of every rule, as an option of its type.
constexpr bool every_field_is_an_option() {
  bool all = true;
  for_each_named_rule([&](const auto& rule) {
    rule.fields(rule, [&]<class Field>(std::string_view name, const Field&, const FieldNote&) {
      using Wanted = std::conditional_t<kIsOptional<Field>, Field, std::optional<Field>>;
      bool found = false;
      SparseAttentionConfig config;
      SparseAttentionConfig::fields(config, [&]<class Option>(std::string_view key, const Option&) {
        found |= key == name && std::is_same_v<Option, Wanted>;
      });
      all &= found;
    });
  });
  return all;
}
static_assert(every_field_is_an_option());

}  // namespace

const std::vector<std::string>& factory::options_of_pattern(const std::string& pattern) {
  std::vector<std::string> names;
  for (const PatternOptions& row : pattern_table()) {
    if (pattern == row.pattern) return row.takes;
    names.emplace_back(row.pattern);
  }
  core::refuse_unknown("pattern", pattern, names);
}

std::vector<std::string> factory::patterns_that_take(const std::string& option) {
  std::vector<std::string> names;
  for (const auto& [pattern, takes] : pattern_table()) {
    if (std::find(takes.begin(), takes.end(), option) != takes.end()) names.emplace_back(pattern);
  }
  return names;
}

namespace {

// Adds what a rule usually has where nothing is given; an optional field that is given stands for all of them.
template <class Rule>
void add_usual(const Rule& usual, Json& given) {
  bool chosen = false;
  const auto is_given = [&](const char* key) {
    return given.contains(key) || (key == kDensity && given.contains(kComplement));
  };
  Rule::fields(usual, [&]<class Field>(const char* key, const Field&, const FieldNote&) {
    chosen |= kIsOptional<Field> && is_given(key);
  });
  Rule::fields(usual, [&]<class Field>(const char* key, const Field& field, const FieldNote&) {
    if (is_given(key) || (kIsOptional<Field> && chosen)) return;
    if (const Json value = nn::written(field); !value.is_null()) given[key] = value;
  });
}

// The options of one pattern that are set, with the defaults of those that it cannot do without.
Json given_options(const SparseAttentionConfig& c) {
  const std::vector<std::string>& takes = factory::options_of_pattern(c.pattern);
  Json given = Json::object();
  SparseAttentionConfig::fields(c, [&](const std::string& key, const auto& field) {
    const Json value = nn::written(field);
    if (value.is_null() || (key == "blocks" && value.empty())) return;
    const bool taken = key == "pattern" || key == "block_size";
    if (!taken && std::find(takes.begin(), takes.end(), key) == takes.end()) {
      core::refuse_unknown(fmt::format("option of pattern {}", c.pattern), key, takes);
    }
    given[key] = value;
  });
  for_each_named_rule([&]<class Rule>(const Rule& rule) {
    if (c.pattern != rule.kName) return;
    const int64_t usual = fixed_block_size<Rule>().value_or(kUsualBlockSize);
    if (!c.block_size) given["block_size"] = usual;
    add_usual(rule.usual(c.block_size.value_or(usual)), given);
  });
  return given;
}

}  // namespace

void RingAttentionConfig::validate() const {
  if (ring_size) nn::require_positive("ring_size", *ring_size);
}

void DistributedConfig::validate() const {
  ring().validate();
  if (world_size) nn::require_positive("world_size", *world_size);
  if (rank && *rank < 0) core::refuse("rank", "must not be negative", *rank);
  if (rank && world_size && *rank >= *world_size) {
    core::refuse("rank", fmt::format("must be below world_size {}", *world_size), *rank);
  }
  if (ring_size && world_size && *world_size % *ring_size != 0) {
    core::refuse("ring_size", fmt::format("must divide world_size {}", *world_size), *ring_size);
  }
  const std::vector<std::string> backends = {"gloo", "nccl", "mpi"};
  if (backend && std::find(backends.begin(), backends.end(), *backend) == backends.end()) {
    core::refuse_unknown("backend", *backend, backends);
  }
}

namespace {

// What holds for every pattern, and the options that are given.
Json checked_options(const SparseAttentionConfig& c) {
  if (c.block_size) nn::require_positive("block_size", *c.block_size);
  for (const auto& [key, ratio] : {std::pair{"sparsity_ratio", c.sparsity_ratio},
                                   {"density", c.density},
                                   {"min_sparsity_ratio", c.min_sparsity_ratio},
                                   {"max_sparsity_ratio", c.max_sparsity_ratio}}) {
    if (ratio && !(*ratio > 0 && *ratio < 1)) core::refuse(key, "must be in (0, 1)", *ratio);
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
    core::refuse("min_sparsity_ratio", fmt::format("must be below max_sparsity_ratio {}", most), least);
  }
  if (ratio < least || ratio > most) {
    core::refuse("sparsity_ratio",
                 fmt::format("must be from min_sparsity_ratio {} to max_sparsity_ratio {}", least, most), ratio);
  }
  LearnedBlocks learned;
  learned.block_size = block_size.value_or(kUsualBlockSize);
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
