// The blocks of columns of a block of the grid, told by one thread to all.
#pragma once

#include "engine/cuda/tile/shape.cuh"

namespace longstride::engine::cuda::sm80 {

// A block of columns among those of a block of the grid: the entry of the queue that it is of, how many of the entry's
// stand before it, and how many in all.
struct Cursor {
  int entry = 0, within = 0, before = 0;
};

// A block of the grid's item and its blocks of columns, of one query head after the other. An entry is a block and
// those that follow it and differ in their place alone: whole ones, of which a run may have many, and to work out where
// a block stands makes a warp wait, and at the next barrier all of them. All of it is read from shared memory where it
// is used: registers are dear.
template <class Walk>
struct BlockQueueOf {
  TilePlace place;
  Walk walk;
  ColumnBlock first[3];  // of entry n in place n % 3; no columns: the end
  int more[3];           // blocks after the first
  int member[3], next_member;
  int step;  // from a block's first column to the next one's

  __device__ __forceinline__ bool done(const Cursor& c) const { return first[c.entry % 3].columns == 0; }
  __device__ __forceinline__ ColumnBlock block(const Cursor& c) const {
    ColumnBlock b = first[c.entry % 3];
    b.column0 += c.within * step;
    return b;
  }
  __device__ __forceinline__ Cursor after(const Cursor& c) const {
    if (c.within < more[c.entry % 3]) return {c.entry, c.within + 1, c.before + 1};
    return {c.entry + 1, 0, c.before + 1};
  }
  // The walk of a query head.
  template <class Shape>
  __device__ __forceinline__ void begin_walk(const Values& p, const Tile& tile, Direction direction) {
    walk = Walk(p.plan.runs + tile.run_begin, tile.run_count, direction, Shape::kColumns,
                steps_of(p.plan_tokens, place.stride));
  }
};
using BlockQueue = BlockQueueOf<BlockWalk>;
using ForwardQueue = BlockQueueOf<ForwardWalk>;

__device__ __forceinline__ int query_head(const Values& p, const TilePlace& place) {
  return place.kv_head * p.group + place.member;
}
__device__ __forceinline__ int first_row(const TilePlace& place, const Tile& tile) {
  return int(tile.row0) + place.shift;
}

// Entry n, each in turn; a barrier later all threads see it. The warps take turns.
template <class Shape, class Walk>
__device__ __forceinline__ void take_entry(const Values& p, Direction direction, int members, int n,
                                           BlockQueueOf<Walk>& queue) {
  if (threadIdx.x != n % (Shape::kThreads / 32) * 32) return;
  if (queue.walk.done()) {
    queue.first[n % 3].columns = 0;
    return;
  }
  const Tile& tile = p.plan.tiles[queue.place.tile];
  const ColumnBlock block = queue.walk.at(tile.rows, queue.place.stride, queue.place.shift);
  const int more = block.masked ? 0 : queue.walk.whole_after();
  queue.first[n % 3] = block;
  queue.more[n % 3] = more;
  queue.member[n % 3] = queue.next_member;
  queue.walk.advance(more + 1);
  if (queue.walk.done() && ++queue.next_member < members) queue.template begin_walk<Shape>(p, tile, direction);
}
// At the first block of an entry, all warps being through with the entry before: the entry after the next one.
template <class Shape, class Walk>
__device__ __forceinline__ void take_ahead(const Values& p, Direction direction, int members, const Cursor& c,
                                           BlockQueueOf<Walk>& queue) {
  if (c.within == 0) take_entry<Shape>(p, direction, members, c.entry + 2, queue);
}

// Item and entries 0 and 1, for all threads. `group`: query heads an item.
template <class Shape, class Walk>
__device__ __forceinline__ void begin_blocks(const Values& p, int group, Direction direction, int members,
                                             BlockQueueOf<Walk>& queue) {
  if (threadIdx.x == 0) {
    queue.place = locate(p.lanes, p.lane_count, group, blockIdx.x, p.plan);
    const Tile& tile = p.plan.tiles[queue.place.tile];
    queue.template begin_walk<Shape>(p, tile, direction);
    queue.next_member = 0;
    queue.step = (direction == Direction::kForward ? 1 : -1) * Shape::kColumns * queue.place.stride;
  }
  take_entry<Shape>(p, direction, members, 0, queue);
  __syncthreads();
  take_entry<Shape>(p, direction, members, 1, queue);
  __syncthreads();
}

}  // namespace longstride::engine::cuda::sm80
