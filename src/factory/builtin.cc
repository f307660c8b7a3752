// The types that come with the library: options to modules. All of them are one engine; what differs is the pattern,
// and over how many ranks it runs. Called by register_builtin().

#include <algorithm>

#include "core/refuse.h"
#include "factory/meanings.h"
#include "factory/named_values.h"
#include "longstride/factory/registry.h"
#include "longstride/factory/rings.h"
#include "longstride/nn/placement.h"
#include "nn/json_fields.h"

namespace longstride {
namespace {

constexpr const char* kLearned = "learned";

enum class Placement { kHere, kRing, kDistributed };

enum class Blocks { kNone, kByName, kLearned };

// All that a type may be told.
struct Draft {
  MultiheadDilatedAttentionOptions multihead;  // of a plain type, its `attention` alone
  SparseAttentionConfig sparse;
  DistributedConfig placement;
  std::string device = "cpu";
  std::string dtype = "float32";
  // Of a plain type's learned blocks. A multihead one knows them.
  std::optional<int64_t> head_dim, kv_heads;
};

// Which of it one function of a type takes.
struct Fields {
  bool multihead;
  Blocks blocks;
  Placement placement;

  template <class D, class Visit>
  void operator()(D& draft, Visit&& visit) const {
    // Block patterns are said by the options of the sparse types.
    const auto dilated = [&](const char* key, auto& field) {
      if (std::string_view(key) != "blocks" && std::string_view(key) != "learned") visit(key, field);
    };
    if (multihead) {
      MultiheadDilatedAttentionOptions::fields(draft.multihead, dilated);
    } else {
      DilatedAttentionOptions::fields(draft.multihead.attention, dilated);
    }
    if (blocks == Blocks::kByName) SparseAttentionConfig::fields(draft.sparse, visit);
    if (blocks == Blocks::kLearned) {
      const std::vector<std::string>& takes = factory::options_of_pattern(kLearned);
      SparseAttentionConfig::fields(draft.sparse, [&](const std::string& key, auto& field) {
        const bool taken = key == "block_size" || std::find(takes.begin(), takes.end(), key) != takes.end();
        if (taken) visit(key.c_str(), field);
      });
    }
    if (blocks != Blocks::kNone && !multihead) {
      visit("head_dim", draft.head_dim);
      visit("kv_heads", draft.kv_heads);
    }
    if (placement == Placement::kRing) RingAttentionConfig::fields(draft.placement, visit);
    if (placement == Placement::kDistributed) DistributedConfig::fields(draft.placement, visit);
    if (multihead) {
      visit("device", draft.device);
      visit("dtype", draft.dtype);
    }
  }

  Draft defaults() const {
    Draft draft;
    if (blocks == Blocks::kLearned) draft.sparse.pattern = kLearned;
    if (blocks == Blocks::kNone) {
      draft.multihead.attention.pattern = Pattern::dilated({2048, 4096, 8192}, {1, 2, 4});
    }
    draft.multihead.embed_dim = 768;
    draft.multihead.num_heads = 12;
    return draft;
  }

  std::vector<OptionInfo> described() const {
    std::vector<OptionInfo> all;
    const Draft draft = defaults();
    (*this)(draft, [&](const char* key, const auto& field) {
      all.push_back({key, nn::text_of(nn::written(field), -1), factory::meaning_of(key)});
    });
    return all;
  }

  Draft filled(const NamedOptions& options) const {
    const nn::Json given = factory::json_of(options);
    if (given.contains("segment_lengths") != given.contains("dilation_rates")) {
      core::refuse("segment_lengths and dilation_rates", "must be given together",
                   given.contains("segment_lengths") ? "segment_lengths alone" : "dilation_rates alone");
    }
    Draft draft = nn::options_of("option", given, defaults(), *this);
    if (blocks != Blocks::kNone) set_blocks(draft);
    if (placement != Placement::kHere) ranks_of(draft.placement);
    return draft;
  }

  // The module, on the ranks that share its sequences.
  template <class Holder>
  Holder placed(Holder module, const Draft& draft) const {
    if (placement != Placement::kHere) place(*module, ring_of(draft.placement.ring()));
    return module;
  }

  void set_blocks(Draft& draft) const {
    DilatedAttentionOptions& attention = draft.multihead.attention;
    attention.pattern = attention.pattern.with_blocks(draft.sparse.block_patterns());
    attention.learned = draft.sparse.learned_blocks();
    if (multihead) return;
    if (attention.learned) {
      attention.learned->head_dim = draft.head_dim.value_or(64);
      attention.learned->kv_heads = draft.kv_heads.value_or(12);
    } else if (draft.head_dim || draft.kv_heads) {
      core::refuse("head_dim and kv_heads", "must be unset without learned blocks", "a number",
                   "tensors bring their own; or set pattern to \"learned\"");
    }
  }
};

AttentionBuilder builder(const char* summary, Blocks blocks, Placement placement) {
  const Fields plain{false, blocks, placement};
  const Fields multihead{true, blocks, placement};
  AttentionBuilder b;
  b.summary = summary;
  b.options = plain.described();
  b.build = [plain](const NamedOptions& options) {
    const Draft draft = plain.filled(options);
    return plain.placed(DilatedAttention(draft.multihead.attention), draft);
  };
  b.multihead_options = multihead.described();
  b.build_multihead = [multihead](const NamedOptions& options) {
    const Draft draft = multihead.filled(options);
    const auto device = factory::place_of(draft.device);
    const auto dtype = factory::dtype_of(draft.dtype);
    MultiheadDilatedAttention module(draft.multihead);
    module->to(device, dtype);
    return multihead.placed(module, draft);
  };
  return b;
}

}  // namespace

void register_builtin(Registry& registry) {
  Registry filled = registry;
  filled.register_attention("standard", builder("dilated (LongNet) attention", Blocks::kNone, Placement::kHere));
  filled.register_attention("improved",
                            builder("another name of standard: the same engine", Blocks::kNone, Placement::kHere));
  filled.register_attention(
      "ring", builder("standard, the sequence shared by a ring of ranks", Blocks::kNone, Placement::kRing));
  filled.register_attention("distributed", builder("ring, checked against the job that it is started in", Blocks::kNone,
                                                   Placement::kDistributed));
  filled.register_attention("block_sparse", builder("block-sparse patterns, alone or with dilated groups",
                                                    Blocks::kByName, Placement::kHere));
  filled.register_attention("block_sparse_ring", builder("block_sparse, the sequence shared by a ring of ranks",
                                                         Blocks::kByName, Placement::kRing));
  filled.register_attention("block_sparse_ring_distributed",
                            builder("block_sparse_ring, checked against the job that it is started in", Blocks::kByName,
                                    Placement::kDistributed));
  filled.register_attention("block_sparse_adaptive",
                            builder("blocks that a scorer learns to choose", Blocks::kLearned, Placement::kHere));
  registry = std::move(filled);
}

Registry builtin_registry() {
  Registry registry;
  register_builtin(registry);
  return registry;
}

}  // namespace longstride
