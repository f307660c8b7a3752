// Modules by the name of their type. docs/factory.md lists every type with its options; `longstride doctor --types`
// prints them.
#pragma once

#include <memory>
#include <string>

#include "longstride/factory/configs.h"
#include "longstride/factory/registry.h"
#include "longstride/memory_pool.h"

namespace longstride {

// A module, and which type it is and why: what `auto` chose.
template <class Holder>
struct Created {
  Holder module{nullptr};
  std::string type;
  std::string reason;
  auto* operator->() const { return module.get(); }
};

struct Choice {
  std::string type;
  std::string reason;
};

// What `auto` is for these options: block-sparse if one of them describes a block pattern, dilated if not; sharded if
// the group that they name has more than one rank. The reason names the ranks, the device and the engine. Throws Error
// if the group cannot be found.
Choice choose_attention(const NamedOptions& options);

// A DilatedAttention of the given type. Options that are not given, or unset, have the type's defaults. Throws Error:
// an unknown type or option (with the nearest name), a value of the wrong kind, and all that the module refuses; before
// anything is built.
Created<DilatedAttention> create_dilated_attention(const std::string& type = "auto", const NamedOptions& options = {},
                                                   const Registry& registry = builtin_registry());

// The same around projections: embed_dim, num_heads and the other options of MultiheadDilatedAttentionOptions besides.
Created<MultiheadDilatedAttention> create_multihead_dilated_attention(const std::string& type = "auto",
                                                                      const NamedOptions& options = {},
                                                                      const Registry& registry = builtin_registry());

// create_multihead_dilated_attention() of type block_sparse, or of its sharded kind where the group has ranks.
Created<MultiheadDilatedAttention> create_block_sparse_attention(const NamedOptions& options = {},
                                                                 const Registry& registry = builtin_registry());

// create_multihead_dilated_attention() of type block_sparse_adaptive: learned blocks, sparsity_ratio of them left out,
// or as many as the scorer sees fit between min_sparsity_ratio and max_sparsity_ratio.
Created<MultiheadDilatedAttention> create_adaptive_sparse_attention(const NamedOptions& options = {},
                                                                    const Registry& registry = builtin_registry());

// A pool with these bounds; never null. Throws Error as MemoryPoolConfig::validate() does.
std::unique_ptr<UnifiedMemoryPool> create_memory_pool(const MemoryPoolConfig& config = {});

}  // namespace longstride
