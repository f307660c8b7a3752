// What every rank computes and receives, counted by arithmetic: what plans of the exchange are judged by. Called by the
// volumes, the cost model and the program's show.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "parallel/call.h"

namespace longstride::parallel {

// Of one source (a group, or the block patterns) on one rank, in all over the places. Pairs and queries count once for
// each KV head, however many query heads read it; they are doubles, since 2^30 tokens have 2^60 pairs.
struct SourceLoad {
  double queries = 0;  // that the source shows anything
  double pairs = 0;    // with its queries, wherever their keys lie
  int64_t alone = 0;   // rows of other ranks that it needs, whatever the other sources bring
  int64_t added = 0;   // rows that it adds to those of the sources before: these sum to what travels
  int64_t ranks = 1;   // from the holder of its first key to that of its last; 1: it needs none of others
};

struct RankLoad {
  std::vector<SourceLoad> sources;  // ShardedCall::sources()
  int64_t rows = 0;                 // received, each once
  int64_t peers = 0;                // from which it receives: at most so many, and even shards exactly but for rates
                                    // that are about as long as these
};

struct Survey {
  std::vector<RankLoad> ranks;
  // By u, for each u > 1 that divides ranks and KV heads: what u neighbouring ranks have as one, over all heads.
  std::map<int64_t, std::vector<RankLoad>> joined;
};

// Costs a few operations a rank, class and group; of block patterns a few for each row of blocks.
Survey survey(const ShardedCall&);

}  // namespace longstride::parallel
