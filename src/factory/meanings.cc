// The words for every option (meanings.h).
#include "factory/meanings.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <vector>

#include "core/refuse.h"
#include "longstride/pattern/blocks.h"

namespace longstride::factory {
namespace {

// "" if no rule of blocks has such a field.
std::string meaning_of_rule_field(const std::string& option) {
  std::string meaning;
  for_each_rule([&](const auto& rule) {
    rule.fields(rule, [&](const char* name, const auto&, const FieldNote& note) {
      if (option == name) meaning = note.meaning;
    });
  });
  return meaning;
}

// Of the rules that are patterns by themselves.
std::string pattern_names() {
  std::vector<std::string> names;
  for_each_rule([&]<class Rule>(const Rule&) {
    if constexpr (requires { Rule::usual(int64_t{1}); }) names.emplace_back(Rule::kName);
  });
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

std::string meaning_of(const std::string& option) {
  static const std::map<std::string, std::string> meanings = {
      {"embed_dim", "width, a multiple of num_heads"},
      {"num_heads", "query heads"},
      {"kv_heads",
       "key and value heads; multihead: divide num_heads, 0: num_heads; else only with learned blocks, unset: 12"},
      {"segment_lengths", "tokens of a segment, one per group; given with dilation_rates"},
      {"dilation_rates", "every how many tokens of a segment are sampled, one per group"},
      {"causal", "whether a query sees no later key"},
      {"head_offset", "which residue a KV head samples: modulo (the paper), block (torchscale), group (fkodom)"},
      {"offsets", "explicit offsets, groups x kv_heads row by row, in place of head_offset"},
      {"mixing", "joint: every head runs every group; head_partition: the heads are shared out among the groups"},
      {"average", "divide the output by the number of groups; head_partition only"},
      {"padding", "masked, or zero_keys: torchscale's padding, for its pretrained models"},
      {"softmax_scale", "factor of q.k; unset: 1 / sqrt(head dim)"},
      {"attention_dropout", "of attention probabilities while training, in [0, 1)"},
      {"fused_qkv", "one q/k/v projection, or three; each loads the other's weights"},
      {"bias", "whether projections have one"},
      {"qk_norm", "LayerNorm over each head of q and k"},
      {"sinks", "a learned logit of each head, of one key more of value 0 that every query sees"},
      {"positions", "none, rope or xpos (on q and k), or alibi (off scores)"},
      {"alibi_slopes", "of positions alibi, one for each head; empty: 2^(-8 h / heads), h = 1, 2, ..."},
      {"rope_base", "base of the angles of rope and xpos, above 1"},
      {"xpos_scale_base", "tokens; 0: max(512, max_len / 32)"},
      {"max_len", "tokens; what xpos_scale_base is derived from"},
      {"sub_layer_norm", "LayerNorm before the output projection (MAGNETO)"},
      {"layer_norm_eps", "epsilon of every LayerNorm, above 0"},
      {"gamma_init", "Xavier gain of value and output projections (MAGNETO), above 0"},
      {"pattern", pattern_names() + "; hybrid: their union; or learned"},
      {"block_size", "tokens a side of a block; unset: 128, of sliding_window 1"},
      {"sparsity_ratio", "share of block pairs left out, in (0, 1)"},
      {"blocks", "list of block patterns {pattern, block_size, ...}"},
      {"min_sparsity_ratio", "least share that a row may leave out, in (0, 1); unset: sparsity_ratio"},
      {"max_sparsity_ratio", "most that it may, above min_sparsity_ratio; unset: sparsity_ratio"},
      {"hidden", "width of the scorer's perceptrons"},
      {"temperature", "of the Gumbel noise on scores while training, 0: none"},
      {"head_dim", "of q and k, only with learned blocks, unset: 64"},
      {"group", "name of a process group; none: this process by itself; unset: the default group, if there is one"},
      {"ring_size", "ranks that share a sequence; unset: all of the group"},
      {"world_size", "ranks that the group must have; unset: any"},
      {"rank", "that this process must have in the group; unset: any"},
      {"backend", "that the group must have: gloo, nccl or mpi; unset: any"},
      {"device", "of the weights: cpu, cuda, cuda:1"},
      {"dtype", "of the weights: float32, float64, bfloat16, float16"},
  };
  const auto found = meanings.find(option);
  std::string meaning = found == meanings.end() ? meaning_of_rule_field(option) : found->second;
  if (meaning.empty()) core::refuse("option", "must have a meaning", option);
  const std::vector<std::string> patterns = patterns_that_take(option);
  if (patterns.empty() || option == "density") return meaning;
  return fmt::format("{}; {}", meaning, fmt::join(patterns, ", "));
}

}  // namespace longstride::factory
