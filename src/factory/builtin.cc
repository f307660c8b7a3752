// The types that come with the library: options to modules. All of them are one engine; what differs is the pattern,
// and over how many ranks it runs. Called by register_builtin().
#include <fmt/format.h>
#include <torch/torch.h>

#include "core/refuse.h"
#include "factory/config_fields.h"
#include "factory/meanings.h"
#include "factory/named_values.h"
#include "factory/tensor_options.h"
#include "longstride/factory/registry.h"
#include "nn/option_fields.h"

namespace longstride {
namespace {

enum class Placement { kHere, kRing, kDistributed };

// All that a type may be told.
struct Draft {
  MultiheadDilatedAttentionOptions multihead;  // of a plain type, its `attention` alone
  SparseAttentionConfig sparse;
  DistributedConfig placement;
  std::string device = "cpu";
  std::string dtype = "float32";
};

// Which of it one function of a type takes.
struct Fields {
  bool multihead;
  bool sparse;
  Placement placement;

  template <class D, class Visit>
  void operator()(D& draft, Visit&& visit) const {
    // Block patterns are said by the options of the sparse types.
    const auto dilated = [&](const char* key, auto& field) {
      if (std::string_view(key) != "blocks") visit(key, field);
    };
    if (multihead) {
      nn::multihead_fields(draft.multihead, dilated);
    } else {
      nn::dilated_attention_fields(draft.multihead.attention, dilated);
    }
    if (sparse) factory::sparse_fields(draft.sparse, visit);
    if (placement == Placement::kRing) factory::ring_fields(draft.placement, visit);
    if (placement == Placement::kDistributed) factory::distributed_fields(draft.placement, visit);
    if (multihead) {
      visit("device", draft.device);
      visit("dtype", draft.dtype);
    }
  }

  Draft defaults() const {
    Draft draft;
    if (!sparse) {
      draft.multihead.attention.segment_lengths = {2048, 4096, 8192};
      draft.multihead.attention.dilation_rates = {1, 2, 4};
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
    Draft draft = nn::config_of("option", given, defaults(), *this);
    if (sparse) draft.multihead.attention.blocks = draft.sparse.block_patterns();
    const int64_t ranks = placement == Placement::kHere ? 1 : ranks_of(draft.placement);
    if (ranks > 1) {
      core::refuse("group", "must have one rank, for this build runs each sequence in one process",
                   fmt::format("one of {} ranks", ranks),
                   "pass group \"none\" to let every rank run its own sequences");
    }
    return draft;
  }
};

AttentionBuilder builder(const char* summary, bool sparse, Placement placement) {
  const Fields plain{false, sparse, placement};
  const Fields multihead{true, sparse, placement};
  AttentionBuilder b;
  b.summary = summary;
  b.options = plain.described();
  b.build = [plain](const NamedOptions& options) {
    return DilatedAttention(plain.filled(options).multihead.attention);
  };
  b.multihead_options = multihead.described();
  b.build_multihead = [multihead](const NamedOptions& options) {
    const Draft draft = multihead.filled(options);
    const auto device = factory::device_of(draft.device);
    const auto dtype = factory::dtype_of(draft.dtype);
    MultiheadDilatedAttention module(draft.multihead);
    module->to(device, dtype);
    return module;
  };
  return b;
}

}  // namespace

void register_builtin(Registry& registry) {
  Registry filled = registry;
  filled.register_attention("standard", builder("dilated (LongNet) attention", false, Placement::kHere));
  filled.register_attention("improved", builder("another name of standard: the same engine", false, Placement::kHere));
  filled.register_attention("ring",
                            builder("standard, the sequence shared by a ring of ranks", false, Placement::kRing));
  filled.register_attention(
      "distributed", builder("ring, checked against the job that it is started in", false, Placement::kDistributed));
  filled.register_attention("block_sparse",
                            builder("block-sparse patterns, alone or with dilated groups", true, Placement::kHere));
  filled.register_attention("block_sparse_ring",
                            builder("block_sparse, the sequence shared by a ring of ranks", true, Placement::kRing));
  filled.register_attention(
      "block_sparse_ring_distributed",
      builder("block_sparse_ring, checked against the job that it is started in", true, Placement::kDistributed));
  registry = std::move(filled);
}

Registry builtin_registry() {
  Registry registry;
  register_builtin(registry);
  return registry;
}

}  // namespace longstride
