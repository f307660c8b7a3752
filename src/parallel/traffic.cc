// Keys of a need are counted chunk by chunk where they are denser than the chunks, else one by one.
#include "parallel/traffic.h"

#include "parallel/needs.h"

namespace longstride::parallel {
namespace {

void add_keys(const Shards& shards, const Progression& keys, int64_t places, std::vector<int64_t>& to) {
  const int64_t first = shards.chunk_at(keys.first), last = shards.chunk_at(keys.last());
  if (keys.count <= last - first) {
    for (int64_t i = 0; i < keys.count; ++i) {
      to[shards.chunk(shards.chunk_at(keys.first + i * keys.step)).rank] += places;
    }
    return;
  }
  for (int64_t n = first; n <= last; ++n) {
    const Piece chunk = shards.chunk(n);
    to[chunk.rank] += places * keys.within(chunk.begin, chunk.end - 1).count;
  }
}

}  // namespace

std::vector<int64_t> rows_by_sender(const ShardedCall& call, int64_t rank) {
  std::vector<int64_t> rows(call.shards.ranks());
  for (int64_t c = 0; c < call.class_count(); ++c) {
    for (const Rows& one : need(call, rank, c).rows) add_keys(call.shards, one.keys, call.places_of[c], rows);
  }
  return rows;
}

}  // namespace longstride::parallel
