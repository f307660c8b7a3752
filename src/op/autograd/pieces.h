// Which tokens each rank of a group holds. Called by shard() and unshard() (shards.cc) and by who moves rows between
// heads (exchanges.cc).
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "longstride/parallel.h"

namespace longstride::op::autograd {

// [begin, end) of the tokens of each rank, piece by piece and rank by rank.
struct Pieces {
  // `len`: of the sequence, if the sharding has no boundaries. Throws Error.
  Pieces(const Sharding&, int64_t ranks, int64_t len);

  int64_t rows(int64_t rank) const;
  std::vector<int64_t> rows() const;

  std::vector<std::vector<std::pair<int64_t, int64_t>>> of;
  int64_t end = 0;
};

inline int64_t size_of(const RankGroup& group) { return group ? group->getSize() : 1; }
inline int64_t rank_of(const RankGroup& group) { return group ? group->getRank() : 0; }

}  // namespace longstride::op::autograd
