// Turns the C++ form of a call into the operator's form.
#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/refuse.h"
#include "longstride/pattern/json.h"
#include "op/autograd/tensor.h"
#include "op/pattern_text.h"

namespace longstride::op::autograd {
namespace {

using at::Tensor;

bool is_list(const BlockPattern& block) { return block.list() != nullptr; }

// A long list goes as a tensor, as text it would cost more than the attention.
void name_pattern(const Pattern& pattern, Call& call) {
  const std::vector<BlockPattern>& blocks = pattern.blocks();
  if (std::count_if(blocks.begin(), blocks.end(), is_list) != 1) {
    call.pattern = text_of(pattern);
    return;
  }
  call.pattern = to_json_beside_list(pattern);
  const auto& list = std::find_if(blocks.begin(), blocks.end(), is_list)->list()->blocks;
  const Tensor rows = at::empty({std::ssize(list), 4}, at::TensorOptions().dtype(at::kInt));
  std::copy(list.begin(), list.end(), reinterpret_cast<Block*>(rows.mutable_data_ptr<int32_t>()));
  call.blocks = rows;
}

std::optional<Tensor> tensor_of(const std::optional<std::vector<int64_t>>& list) {
  if (!list) return std::nullopt;
  const Tensor tensor = at::empty({std::ssize(*list)}, at::TensorOptions().dtype(at::kLong));
  std::copy(list->begin(), list->end(), tensor.mutable_data_ptr<int64_t>());
  return tensor;
}

void set_options(Call& call, const AttentionOptions& options) {
  if (!options.boundaries.empty())
    core::refuse("boundaries", "must be empty where this process holds the whole sequence",
                 fmt::format("[{}]", fmt::join(options.boundaries, ", ")),
                 "place() the module on a group of several ranks; cp_attention() has them in its sharding");
  call.scale = options.scale;
  call.cu_seqlens = tensor_of(options.cu_seqlens);
  call.lengths = tensor_of(options.lengths);
  if (options.query_start) call.query_start = *options.query_start;
  call.dropout_p = options.dropout_p;
  call.dropout_seed = options.dropout_seed;
  call.deterministic = options.deterministic || at::globalContext().deterministicAlgorithms();
  call.gates = options.gates;
  call.alibi_slopes = options.alibi_slopes;
}

}  // namespace

Call make_call(const Pattern& pattern, const AttentionOptions& options) {
  Call call;
  name_pattern(pattern, call);
  set_options(call, options);
  return call;
}

Call make_call(const std::string& pattern_json, const std::optional<Tensor>& blocks, const AttentionOptions& options) {
  Call call;
  call.pattern = pattern_json;
  call.blocks = blocks;
  set_options(call, options);
  return call;
}

}  // namespace longstride::op::autograd
