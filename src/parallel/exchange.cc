// Names, conditions and volumes of the exchange plans.
#include "parallel/exchange.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <charconv>

#include "core/refuse.h"

namespace longstride::parallel {
namespace {

bool anyone_receives(const Survey& all) {
  return std::any_of(all.ranks.begin(), all.ranks.end(), [](const RankLoad& r) { return r.rows > 0; });
}

// Whether the samples of the longer segments lie among those of the next shorter ones.
std::string not_nested_because(const ShardedCall& call, const std::vector<SharedGroup>& shared) {
  const std::vector<Group>& groups = call.pattern.groups();
  for (size_t n = 0; n + 1 < shared.size(); ++n) {
    const int32_t near = shared[n].group, far = shared[n + 1].group;
    if (shared[n + 1].ranks != 2 * shared[n].ranks || groups[far].rate != 2 * groups[near].rate) {
      return fmt::format("segment {} at rate {} does not double segment {} at rate {}", groups[far].segment,
                         groups[far].rate, groups[near].segment, groups[near].rate);
    }
    for (int64_t j = 0; j < call.extent.kv_heads; ++j) {
      const int64_t offset = call.pattern.offset(far, j, call.extent.kv_heads);
      if (offset % groups[near].rate != call.pattern.offset(near, j, call.extent.kv_heads)) {
        return fmt::format("KV head {} samples at rate {} what it does not sample at rate {}", j, groups[far].rate,
                           groups[near].rate);
      }
    }
  }
  for (const SharedGroup& one : shared) {
    if (!std::has_single_bit(static_cast<uint64_t>(one.ranks))) {
      return fmt::format("{} ranks share a segment, no power of two", one.ranks);
    }
  }
  return "";
}

std::string heads_infeasible_because(const ShardedCall& call, int64_t u) {
  if (u < 2) return "it divides heads among at least 2 ranks";
  if (call.extent.kv_heads % u != 0) return fmt::format("{} does not divide kv_heads ({})", u, call.extent.kv_heads);
  if (call.shards.ranks() % u != 0) return fmt::format("{} does not divide the {} ranks", u, call.shards.ranks());
  return "";
}

// q, k and v of the other ranks' rows for the heads of this one, and out and lse of its own rows for theirs; in the
// backward gradients in their places.
Volume turned(const ShardedCall& call, int64_t rank, int64_t u, const RowShape& shape) {
  const int64_t own = call.shards.rows(rank), others = call.shards.joined(u).rows(rank / u) - own;
  const int64_t heads = call.extent.heads / u, kv_heads = call.extent.kv_heads / u, element = shape.element_bytes();
  const int64_t inputs = (heads + 2 * kv_heads) * shape.dim * element;
  const int64_t results = heads * (shape.dim * element + shape.wide_bytes());
  return {call.extent.batch * (others * inputs + own * (u - 1) * results),
          call.extent.batch * (others * results + own * (u - 1) * inputs)};
}

// All ranks divide the heads, so that each has whole sequences.
ExchangePlan whole_sequences(const std::string& given, const ShardedCall& call, const std::string& option) {
  const ExchangePlan plan{Exchange::kHeads, call.shards.ranks()};
  if (given != "auto" && exchange_from_name(given) != plan) {
    core::refuse("exchange",
                 fmt::format("must be auto or {} with {}, for which ranks have whole sequences", name(plan), option),
                 given);
  }
  if (call.extent.kv_heads % plan.heads != 0) {
    core::refuse(option,
                 fmt::format("must go by exchange {}, for which {} must divide kv_heads", name(plan), plan.heads),
                 call.extent.kv_heads, fmt::format("take as many ranks as divide kv_heads, or leave {} out", option));
  }
  return plan;
}

}  // namespace

std::string name(const ExchangePlan& plan) {
  if (plan.kind == Exchange::kHeads) return fmt::format("heads({})", plan.heads);
  constexpr const char* kNames[] = {"none", "direct", "ladder", "heads", "ring"};  // in the order of Exchange
  return kNames[static_cast<size_t>(plan.kind)];
}

ExchangePlan exchange_from_name(const std::string& given) {
  for (const Exchange kind : {Exchange::kNone, Exchange::kDirect, Exchange::kLadder, Exchange::kRing}) {
    if (given == name({kind})) return {kind};
  }
  ExchangePlan plan{Exchange::kHeads};
  if (given.starts_with("heads(") && given.ends_with(")")) {
    const char* const end = given.data() + given.size() - 1;
    const auto [stop, error] = std::from_chars(given.data() + 6, end, plan.heads);
    if (stop == end && error == std::errc()) return plan;
  }
  core::refuse_unknown("exchange", given, std::vector<std::string>{"none", "direct", "ladder", "heads(2)", "ring"});
}

std::string uneven_because(const ShardedCall& call) {
  const Extent& e = call.extent;
  const int64_t ranks = call.shards.ranks(), shard = e.len_k / ranks;
  if (call.shards.layout() != Layout::kContiguous) return "the layout is not contiguous";
  for (int64_t rank = 0; rank < ranks; ++rank) {
    if (call.shards.rows(rank) != shard) return fmt::format("{} ranks have no equal shards", ranks);
  }
  if (shard == 0) return "there are no tokens";
  if (!call.pattern.blocks().empty()) return "it is for dilated groups alone, and there are block patterns";
  if (call.pattern.options().mixing != Mixing::kJoint) return "not every head runs every group";
  // Documents that are empty say nothing.
  const auto inside = [&](int64_t cut) { return cut != 0 && cut != e.len_k; };
  if (std::any_of(e.cu_seqlens.begin(), e.cu_seqlens.end(), inside)) return "there are packed documents";
  if (std::any_of(e.lengths.begin(), e.lengths.end(), [&](int64_t n) { return n != e.len_k; })) {
    return "batch rows have lengths of their own";
  }
  for (const auto& [w, r] : call.pattern.groups()) {
    const int64_t segment = std::min(w, e.len_k);
    const bool local = segment <= shard;
    if (local ? shard % segment != 0 : segment % shard != 0 || e.len_k % segment != 0) {
      return fmt::format("segment {} and shards of {} do not lie on each other's ends", segment, shard);
    }
    if (!local && shard % r != 0) return fmt::format("rate {} does not divide the shards of {}", r, shard);
  }
  return "";
}

std::vector<SharedGroup> shared_groups(const ShardedCall& call) {
  const int64_t shard = call.extent.len_k / call.shards.ranks();
  std::vector<SharedGroup> shared;
  for (int32_t g = 0; g < call.groups(); ++g) {
    const auto [w, r] = call.pattern.groups()[g];
    const int64_t segment = std::min(w, call.extent.len_k);
    if (segment > shard) shared.push_back({g, segment / shard, shard / r});
  }
  std::stable_sort(shared.begin(), shared.end(),
                   [](const SharedGroup& a, const SharedGroup& b) { return a.ranks < b.ranks; });
  return shared;
}

std::string infeasible_because(const ExchangePlan& plan, const ShardedCall& call, const Survey& all) {
  if (plan.kind == Exchange::kDirect || plan.kind == Exchange::kRing) return "";
  if (plan.kind == Exchange::kNone) {
    for (size_t rank = 0; rank < all.ranks.size(); ++rank) {
      if (all.ranks[rank].rows > 0) {
        return fmt::format("rank {} needs {} rows of other ranks", rank, all.ranks[rank].rows);
      }
    }
    return "";
  }
  if (plan.kind == Exchange::kHeads) return heads_infeasible_because(call, plan.heads);
  if (!anyone_receives(all)) return "nothing travels";
  const std::string uneven = uneven_because(call);
  if (!uneven.empty()) return uneven;
  return not_nested_because(call, shared_groups(call));
}

std::vector<ExchangePlan> feasible_plans(const ShardedCall& call, const Survey& all) {
  std::vector<ExchangePlan> plans = {{Exchange::kNone}, {Exchange::kDirect}, {Exchange::kLadder}};
  for (int64_t u = 2; u <= std::min(call.extent.kv_heads, call.shards.ranks()); ++u) {
    if (call.extent.kv_heads % u == 0) plans.push_back({Exchange::kHeads, u});
  }
  plans.push_back({Exchange::kRing});
  std::erase_if(plans, [&](const ExchangePlan& plan) { return !infeasible_because(plan, call, all).empty(); });
  return plans;
}

std::vector<Volume> volumes(const ExchangePlan& plan, const ShardedCall& call, const Survey& survey, int64_t rank,
                            const RowShape& shape) {
  std::vector<Volume> all(call.sources() + 1);
  const RankLoad& load =
      plan.kind == Exchange::kHeads ? survey.joined.at(plan.heads)[rank / plan.heads] : survey.ranks[rank];
  const auto rows = [&](int64_t source, int64_t count) {
    all[source] = {count * shape.forward_bytes(), count * shape.backward_bytes()};
  };
  switch (plan.kind) {
    case Exchange::kNone:
      break;
    case Exchange::kDirect:
      for (int64_t s = 0; s < call.sources(); ++s) rows(s, load.sources[s].added);
      break;
    case Exchange::kLadder: {
      int64_t before = 1;
      for (const SharedGroup& one : shared_groups(call)) {
        rows(one.group, call.extent.batch * call.extent.kv_heads * (one.ranks - before) * one.rows);
        before = one.ranks;
      }
      break;
    }
    case Exchange::kHeads:
      for (int64_t s = 0; s < call.sources(); ++s) rows(s, load.sources[s].added / plan.heads);
      all.back() = turned(call, rank, plan.heads, shape);
      break;
    case Exchange::kRing:
      for (int64_t s = 0; s < call.sources(); ++s) {
        rows(s, load.sources[s].added);
        all[s].backward_bytes += all[s].forward_bytes;  // the keys once more, which the forward has not kept
      }
      break;
  }
  return all;
}

bool runs(Exchange kind) { return kind != Exchange::kLadder; }

ExchangePlan plan_to_run(const std::string& given, const ShardedCall& call, const std::string& of_whole) {
  if (!of_whole.empty() && call.shards.ranks() > 1) return whole_sequences(given, call, of_whole);
  if (given == "auto") return {Exchange::kDirect};
  const ExchangePlan plan = exchange_from_name(given);
  if (plan.kind == Exchange::kNone || plan.kind == Exchange::kDirect || plan.kind == Exchange::kRing) return plan;
  if (plan.kind == Exchange::kHeads && heads_infeasible_because(call, plan.heads).empty()) return plan;
  const Survey all = survey(call);
  const std::string because =
      runs(plan.kind) ? infeasible_because(plan, call, all) : "it is in the model of costs alone";
  if (because.empty()) return plan;
  std::vector<std::string> names;
  for (const ExchangePlan& one : feasible_plans(call, all)) {
    if (runs(one.kind)) names.push_back(name(one));
  }
  core::refuse("exchange", fmt::format("must be auto or one of [{}] here", fmt::join(names, ", ")), given, because);
}

Volume total(const std::vector<Volume>& all) {
  Volume sum;
  for (const Volume& v : all) {
    sum.forward_bytes += v.forward_bytes;
    sum.backward_bytes += v.backward_bytes;
  }
  return sum;
}

Volume worst_volume(const ExchangePlan& plan, const ShardedCall& call, const Survey& all, const RowShape& shape) {
  Volume worst;
  for (int64_t rank = 0; rank < call.shards.ranks(); ++rank) {
    const Volume volume = total(volumes(plan, call, all, rank, shape));
    if (volume.forward_bytes > worst.forward_bytes) worst = volume;
  }
  return worst;
}

}  // namespace longstride::parallel
