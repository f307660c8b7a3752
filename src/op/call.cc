// Turns the C++ form of a call into the operators' form, and the operators' form into a Pattern.
#include "op/call.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <sstream>

#include "core/refuse.h"
#include "longstride/pattern/json.h"
#include "op/gates.h"

namespace longstride::op {
namespace {

bool is_list(const BlockPattern& block) { return std::holds_alternative<BlockList>(block.rule()); }

// A long list goes as a tensor, as text it would cost more than the attention.
void name_pattern(const Pattern& pattern, Call& call) {
  const std::vector<BlockPattern>& blocks = pattern.blocks();
  if (std::count_if(blocks.begin(), blocks.end(), is_list) != 1) {
    call.pattern_json = to_json(pattern);
    return;
  }
  call.pattern_json = to_json_beside_list(pattern);
  const auto& list = std::get<BlockList>(std::find_if(blocks.begin(), blocks.end(), is_list)->rule()).blocks;
  const at::Tensor rows = at::empty({static_cast<int64_t>(list.size()), 4}, at::TensorOptions().dtype(at::kInt));
  std::copy(list.begin(), list.end(), reinterpret_cast<Block*>(rows.mutable_data_ptr<int32_t>()));
  call.blocks = rows;
}

void set_options(Call& call, const AttentionOptions& options) {
  call.scale = options.scale;
  if (options.cu_seqlens) call.cu_seqlens.emplace(options.cu_seqlens->begin(), options.cu_seqlens->end());
  if (options.lengths) call.lengths.emplace(options.lengths->begin(), options.lengths->end());
  if (options.query_start) call.query_start = *options.query_start;
  call.dropout_p = options.dropout_p;
  call.dropout_seed = options.dropout_seed;
  call.deterministic = options.deterministic;
  call.gates = options.gates;
}

}  // namespace

Call make_call(const Pattern& pattern, const AttentionOptions& options) {
  Call call;
  if (!pattern.blocks().empty()) name_pattern(pattern, call);
  for (const Group& group : pattern.groups()) {
    call.segment_lengths.push_back(group.segment);
    call.dilation_rates.push_back(group.rate);
  }
  const DilatedOptions& dilated = pattern.options();
  call.causal = dilated.causal;
  call.head_offset = name(dilated.head_offset);
  call.offsets = dilated.offsets;
  call.mixing = name(dilated.mixing);
  call.average = dilated.average;
  call.padding = name(dilated.padding);
  set_options(call, options);
  return call;
}

Call make_call(const std::string& pattern_json, const std::optional<at::Tensor>& blocks,
               const AttentionOptions& options) {
  Call call;
  call.pattern_json = pattern_json;
  call.blocks = blocks;
  set_options(call, options);
  return call;
}

Pattern pattern_of(const Call& call) {
  if (call.pattern_json) {
    if (!call.blocks || !call.blocks->defined()) return pattern_from_json(*call.pattern_json);
    const at::Tensor& blocks = *call.blocks;
    if (blocks.scalar_type() != at::kInt || blocks.dim() != 2 || blocks.sym_size(1) != 4) {
      std::ostringstream shape;
      shape << at::toString(blocks.scalar_type()) << " of shape " << blocks.sym_sizes();
      core::refuse("blocks", "must be int32 [rows, 4]: batch row or -1, KV head or -1, query block, key block",
                   shape.str());
    }
    if (blocks.is_meta()) return pattern_from_json(*call.pattern_json, std::vector<Block>());
    return pattern_from_json(*call.pattern_json, read_blocks(blocks));
  }
  DilatedOptions options;
  options.causal = call.causal;
  options.head_offset = head_offset_from_name(call.head_offset);
  options.offsets = call.offsets;
  options.mixing = mixing_from_name(call.mixing);
  options.average = call.average;
  options.padding = padding_from_name(call.padding);
  return Pattern::dilated(call.segment_lengths, call.dilation_rates, options);
}

}  // namespace longstride::op
