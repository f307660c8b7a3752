// DilatedAttention: a pattern, a scale and dropout around an AttentionFn. Called by users and
// MultiheadDilatedAttention.
#include "longstride/nn/attention.h"

#include <ATen/Functions.h>

#include <algorithm>

#include "longstride/pattern/json.h"
#include "nn/placement.h"
#include "nn/require.h"

namespace longstride {

AttentionFn local_attention(Pattern pattern) {
  return [pattern = std::move(pattern)](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                        const AttentionOptions& call) { return attention(q, k, v, pattern, call); };
}

Pattern DilatedAttentionOptions::whole_pattern() const {
  return learned ? pattern.with_blocks({{learned->block_size, BlockList{}}}) : pattern;
}

void DilatedAttentionOptions::validate() const {
  if (learned) {
    learned->validate();
    if (!pattern.blocks().empty()) {
      core::refuse(
          "blocks", "must be empty with learned blocks", fmt::format("{} patterns", pattern.blocks().size()),
          "the scorer's gates tell of the blocks that it chose, not of what a rule shows beside them; give one of "
          "the two");
    }
  } else if (pattern.empty()) {
    core::refuse("segment_lengths", "cannot be empty", "[]", "give one length a group, or blocks");
  }
  nn::require_dropout("attention_dropout", attention_dropout);
  if (softmax_scale && !std::isfinite(*softmax_scale)) core::refuse("softmax_scale", "must be finite", *softmax_scale);
}

DilatedAttentionImpl::DilatedAttentionImpl(DilatedAttentionOptions given, AttentionFn attend)
    : options(std::move(given)), attend_(std::move(attend)) {
  options.validate();
  if (options.learned && attend_) {
    core::refuse("attend", "must be empty with learned blocks", "a function",
                 "they are computed in this process; leave it out");
  }
  reset();
}

void DilatedAttentionImpl::reset() {
  if (options.learned) scorer = register_module("scorer", BlockScorer(*options.learned, options.pattern.causal()));
}

void DilatedAttentionImpl::pretty_print(std::ostream& stream) const {
  stream << fmt::format("longstride::DilatedAttention({})", to_json_beside_list(options.whole_pattern()));
}

namespace {

// The pattern and these blocks, int32 [n, 4] on the CPU: {batch row, KV head, query block, key block}.
Pattern with_list(const DilatedAttentionOptions& options, const at::Tensor& rows) {
  BlockList list;
  const auto of = rows.accessor<int32_t, 2>();
  for (int64_t n = 0; n < rows.size(0); ++n) list.blocks.push_back({of[n][0], of[n][1], of[n][2], of[n][3]});
  return options.pattern.with_blocks({{options.learned->block_size, std::move(list)}});
}

}  // namespace

AttentionResult DilatedAttentionImpl::forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                              AttentionOptions call, BlockChoice* choice) const {
  if (call.scale) core::refuse("call.scale", "must be unset", *call.scale, "set softmax_scale in the module's options");
  if (call.dropout_p != 0 || call.dropout_seed) {
    core::refuse("call.dropout_p", "must be 0, and dropout_seed unset", call.dropout_p,
                 "set attention_dropout in the module's options");
  }
  if (q.defined() && q.dim() == 4 && (q.size(3) % 8 != 0 || q.size(3) > 128)) {
    TORCH_WARN_ONCE("longstride: a head dim that is not a multiple of 8 or above 128 takes a slower path; got ",
                    q.size(3));
  }
  if (choice != nullptr && !options.learned) {
    core::refuse("choice", "must be unset in a module without learned blocks", "a place for it",
                 "set learned in the module's options");
  }
  std::optional<BlockChoice> chosen;
  if (options.learned) chosen = choose_blocks(q, k, call);
  call.scale = options.softmax_scale;
  const bool drops = is_training() && options.attention_dropout > 0;
  if (drops && q.defined()) {
    call.dropout_p = options.attention_dropout;
    call.dropout_seed = draw_dropout_seed(q.device());
  }
  if (!chosen) {
    if (placement_) return placement_->attention(q, k, v, options.pattern, call);
    return attend_ ? attend_(q, k, v, call) : attention(q, k, v, options.pattern, call);
  }
  // Gates are there for their gradient.
  if (chosen->gates.requires_grad()) call.gates = chosen->gates;
  AttentionResult result = placement_
                               ? placement_->attention(q, k, v, with_list(options, chosen->blocks), call)
                               : attention(q, k, v, to_json_beside_list(options.whole_pattern()), chosen->blocks, call);
  if (choice != nullptr) *choice = *std::move(chosen);
  return result;
}

BlockChoice DilatedAttentionImpl::choose_blocks(const at::Tensor& q, const at::Tensor& k,
                                                const AttentionOptions& call) const {
  if (call.query_start) {
    core::refuse("query_start", "must be unset with learned blocks", *call.query_start,
                 "a block is chosen by all of its row; run whole sequences");
  }
  if (call.cu_seqlens) {
    core::refuse("cu_seqlens", "must be unset with learned blocks",
                 fmt::format("{} documents", std::max<size_t>(1, call.cu_seqlens->size()) - 1),
                 "give each document a batch row and lengths");
  }
  if (call.gates) core::refuse("gates", "must be unset with learned blocks", "a tensor", "the scorer gives them");
  if (!placement_) return scorer->forward(q, k, call.lengths);
  placement_->check_learning(*scorer);
  return scorer->over_ranks(*placement_, q, k, call.lengths, call.boundaries);
}

}  // namespace longstride
