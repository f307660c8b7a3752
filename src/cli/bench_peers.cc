// Which peer can run which pattern, as groups with segments and rates (bench_peers.h).
#include "bench_peers.h"

#include <fmt/format.h>

#include "longstride/error.h"

namespace longstride::cli {
namespace {

peer::Groups groups_of(const Pattern& pattern, int64_t heads, int64_t kv_heads) {
  peer::Groups groups;
  groups.causal = pattern.causal();
  for (const Group& group : pattern.groups()) {
    const auto g = std::ssize(groups.rates);
    std::vector<int64_t>& offsets = groups.offsets.emplace_back();
    for (int64_t h = 0; h < heads; ++h) offsets.push_back(pattern.offset(g, h / (heads / kv_heads), kv_heads));
    groups.segments.push_back(group.segment);
    groups.rates.push_back(group.rate);
  }
  return groups;
}

}  // namespace

std::string peer_refusal(const std::string& who, const Pattern& pattern, int64_t len, int64_t heads, int64_t kv_heads) {
  if (who != "official" && who != "per_group") return "";
  if (!pattern.blocks().empty()) return "it has dilated groups and no block patterns";
  if (pattern.options().mixing != Mixing::kJoint) return "it mixes all groups of every head (joint mixing)";
  if (pattern.options().padding != Padding::kMasked) return "padding 'zero_keys' is outside what it computes exactly";
  if (std::string why = peer::refusal(groups_of(pattern, heads, kv_heads), len); !why.empty()) return why;
  if (who == "per_group") return "";
  if (kv_heads != heads) return fmt::format("it has as many KV heads as heads, got {} for {}", kv_heads, heads);
  if (pattern.options().offsets || pattern.options().head_offset == HeadOffset::kGroup)
    return "its heads sample by the rule 'block' or 'modulo'";
  return "";
}

peer::PeerResult run_peer(const std::string& who, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const Pattern& pattern) {
  if (who == "dense") return peer::dense_sdpa(q, k, v, pattern.causal());
  const int64_t heads = q.size(2), kv_heads = k.size(2);
  if (const std::string why = peer_refusal(who, pattern, q.size(1), heads, kv_heads); !why.empty())
    throw Error(fmt::format("{} cannot run this pattern: {}", who, why));
  const peer::Groups groups = groups_of(pattern, heads, kv_heads);
  if (who == "per_group") return peer::per_group(q, k, v, groups);
  const bool modulo = pattern.options().head_offset == HeadOffset::kModulo;
  return peer::official(q, k, v, groups, modulo ? peer::HeadRule::kModulo : peer::HeadRule::kBlock);
}

}  // namespace longstride::cli
