// The fields of this room's configs, under the names that JSON has them. Called by configs.cc and the builders.
#pragma once

#include "longstride/factory/configs.h"
#include "nn/json_fields.h"

namespace longstride::factory {

inline constexpr auto ring_fields = [](auto& c, auto&& visit) {
  visit("group", c.group);
  visit("ring_size", c.ring_size);
};

inline constexpr auto distributed_fields = [](auto& c, auto&& visit) {
  ring_fields(c, visit);
  visit("world_size", c.world_size);
  visit("rank", c.rank);
  visit("backend", c.backend);
};

inline constexpr auto memory_pool_fields = [](auto& c, auto&& visit) {
  visit("most_cached_bytes", c.most_cached_bytes);
  visit("most_live_bytes", c.most_live_bytes);
};

inline constexpr auto sparse_fields = [](auto& c, auto&& visit) {
  visit("pattern", c.pattern);
  visit("block_size", c.block_size);
  visit("sparsity_ratio", c.sparsity_ratio);
  visit("density", c.density);
  visit("window", c.window);
  visit("rates", c.rates);
  visit("reach", c.reach);
  visit("global_tokens", c.global_tokens);
  visit("stride_blocks", c.stride_blocks);
  visit("grid_columns", c.grid_columns);
  visit("seed", c.seed);
  visit("levels", c.levels);
  visit("blocks", c.blocks);
  visit("min_sparsity_ratio", c.min_sparsity_ratio);
  visit("max_sparsity_ratio", c.max_sparsity_ratio);
  visit("hidden", c.hidden);
  visit("temperature", c.temperature);
};

// What the pattern "learned" takes.
inline constexpr auto learned_fields = [](auto& c, auto&& visit) {
  visit("block_size", c.block_size);
  visit("sparsity_ratio", c.sparsity_ratio);
  visit("density", c.density);
  visit("min_sparsity_ratio", c.min_sparsity_ratio);
  visit("max_sparsity_ratio", c.max_sparsity_ratio);
  visit("hidden", c.hidden);
  visit("temperature", c.temperature);
};

}  // namespace longstride::factory
