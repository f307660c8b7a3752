// The ways in which ranks can come by the keys that they need, as values: what each is called, when it can be had, and
// how many bytes it moves. No exchange runs here. Called by who runs one (op/parallel), the cost model, the choice and
// the program's show.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "parallel/call.h"
#include "parallel/survey.h"

namespace longstride::parallel {

enum class Exchange {
  kNone,    // nothing travels: every query sees keys of its own rank alone
  kDirect,  // one all-to-all of the rows that are needed, each once
  kLadder,  // recursive doubling: as many rows as direct, from log2 peers
  kHeads,   // neighbouring ranks divide the heads and have the rows of all of them; then direct among the same heads
  kRing,    // the rows of direct, one distance between ranks at a time, each computed with while the next travels
};
// Whether cp_attention has it; the others are in the model of costs alone.
bool runs(Exchange);

struct ExchangePlan {
  Exchange kind = Exchange::kDirect;
  int64_t heads = 1;  // kHeads: ranks among which the KV heads are divided, u
  bool operator==(const ExchangePlan&) const = default;
};

std::string name(const ExchangePlan&);                     // "none" | "direct" | "ladder" | "heads(8)" | "ring"
ExchangePlan exchange_from_name(const std::string& name);  // throws Error with the nearest

// A group whose segments are longer than a shard, where shards are even and segments and shards lie on each other's
// ends: what the ladder is made for.
struct SharedGroup {
  int32_t group = 0;
  int64_t ranks = 1;  // that share a segment, c
  int64_t rows = 0;   // sampled ones of each rank and KV head, b
};

// Why shards and segments do not lie so; "" if they do.
std::string uneven_because(const ShardedCall&);
// Where they do: by ascending segments.
std::vector<SharedGroup> shared_groups(const ShardedCall&);

// Why a plan cannot be had; "" if it can.
std::string infeasible_because(const ExchangePlan&, const ShardedCall&, const Survey&);
// Those that can, in the order in which equal ones are preferred.
std::vector<ExchangePlan> feasible_plans(const ShardedCall&, const Survey&);

// The plan that runs by that name; "auto": direct, as far as any row travels. Throws Error: an unknown name, a plan
// that cannot be had or does not run, with the reason and those that can. Of `none` the rows of all ranks decide, which
// each counts for itself: it is taken as it is.
//
// `of_whole` names an option of the call that engines honour on whole sequences alone, as it goes by positions that
// gathered rows have not; "": none does. With one all ranks divide the heads, and "auto" is that.
ExchangePlan plan_to_run(const std::string& name, const ShardedCall&, const std::string& of_whole = "");

// Bytes that a rank receives.
struct Volume {
  int64_t forward_bytes = 0;
  int64_t backward_bytes = 0;
};

// For each source, of a plan that can be had, to one rank; and last what is of no source: q, k, v and results that
// change hands for heads. Of the keys that its heads need a rank is taken to receive as many as those of other ranks.
std::vector<Volume> volumes(const ExchangePlan&, const ShardedCall&, const Survey&, int64_t rank, const RowShape&);
Volume total(const std::vector<Volume>&);
// Of the rank that receives most.
Volume worst_volume(const ExchangePlan&, const ShardedCall&, const Survey&, const RowShape&);

}  // namespace longstride::parallel
