// The blocks of columns of a block of the grid, told by one thread to all, two ahead of the one in use.
#pragma once

#include "engine/cuda/tile/shape.cuh"

namespace longstride::engine::cuda::sm80 {

// A block of the grid's item and its blocks of columns, of one query head after the other, two ahead of the one in use.
// All of it is read from shared memory where it is used: registers are dear.
struct BlockQueue {
  TilePlace place;
  BlockWalk walk;
  ColumnBlock block[3];  // block n in place n % 3; no columns: the end
  int member[3], next_member;
};

__device__ __forceinline__ int query_head(const Values& p, const TilePlace& place) {
  return place.kv_head * p.group + place.member;
}
__device__ __forceinline__ int first_row(const TilePlace& place, const Tile& tile) {
  return int(tile.row0) + place.shift;
}

// Block n, each in turn; two barriers later all threads see it. The warps take turns.
template <class Shape>
__device__ __forceinline__ void take_block(const Values& p, Direction direction, int members, int n,
                                           BlockQueue& queue) {
  if (threadIdx.x != n % (Shape::kThreads / 32) * 32) return;
  if (queue.walk.done()) {
    queue.block[n % 3].columns = 0;
    return;
  }
  const Tile& tile = p.plan.tiles[queue.place.tile];
  queue.block[n % 3] = queue.walk.at(tile.rows, queue.place.stride, queue.place.shift);
  queue.member[n % 3] = queue.next_member;
  queue.walk.advance();
  if (queue.walk.done() && ++queue.next_member < members)
    queue.walk = BlockWalk(p.plan.runs + tile.run_begin, tile.run_count, direction, Shape::kColumns);
}

// Item and blocks 0 and 1, for all threads. `group`: query heads an item.
template <class Shape>
__device__ __forceinline__ void begin_blocks(const Values& p, int group, Direction direction, int members,
                                             BlockQueue& queue) {
  if (threadIdx.x == 0) {
    queue.place = locate(p.lanes, p.lane_count, group, blockIdx.x, p.plan);
    const Tile& tile = p.plan.tiles[queue.place.tile];
    queue.walk = BlockWalk(p.plan.runs + tile.run_begin, tile.run_count, direction, Shape::kColumns);
    queue.next_member = 0;
  }
  take_block<Shape>(p, direction, members, 0, queue);
  __syncthreads();
  take_block<Shape>(p, direction, members, 1, queue);
  __syncthreads();
}

}  // namespace longstride::engine::cuda::sm80
