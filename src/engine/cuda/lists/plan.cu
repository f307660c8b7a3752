// The kernels that plan a list of blocks, in the order of their launch: bits, tiles and runs, order, lanes. grid.h has
// what each thread does; here is who does it.
#include <cub/block/block_scan.cuh>
#include <memory>

#include "engine/cuda/device.h"
#include "engine/cuda/lists/grid.h"
#include "engine/cuda/lists/lengths.h"
#include "engine/cuda/lists/plan.h"
#include "engine/cuda/scratch.h"

namespace longstride::engine::cuda::lists {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
// Tiles of a place go by cost, the longest first, in so many steps: a warp for each.
constexpr int kSteps = 32;
// Tiles that take longer than a sixteenth of what a multiprocessor has to do come before the others, of all places
// (lanes.cc).
constexpr int kLongShare = 16;
constexpr int kBands = 2;

// Of all tiles.
struct Totals {
  unsigned long long cost, runs;
  int32_t longest;
};

// What the kernels hand on to each other, in the order in which they write it.
struct Work {
  const int32_t* lengths;  // [batch]; null: all are len_k
  int32_t len_k;
  Totals* totals;
  uint32_t* bits;
  Tile* tiles;      // [places, tiles], in the order of their rows
  int32_t* costs;   // likewise
  uint8_t* ragged;  // likewise; null: a forward plan
  Run* runs;
  unsigned long long run_count;  // for which there is memory
  Tile* ordered;                 // the plan's
  uint8_t* ordered_ragged;
  int32_t* of_bands;  // [kBands, places]: tiles
  Section* sections;  // [kBands, places]
  Lane* lanes;        // likewise

  __device__ int32_t length(int32_t batch) const { return lengths ? lengths[batch] : len_k; }
};

__global__ void __launch_bounds__(kThreads) mark_blocks(Grid g, const int32_t* rows, int64_t count, uint32_t* bits) {
  const int64_t n = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (n >= count) return;
  const int32_t row[4] = {rows[4 * n], rows[4 * n + 1], rows[4 * n + 2], rows[4 * n + 3]};
  if (is_beyond(g, row))  // of row 256 * block + thread
    __assert_fail("blocks[.] must name a batch row and a KV head of the call, or -1, and blocks that it has", __FILE__,
                  __LINE__, "longstride");
  mark(g, row, [&](int64_t word, uint32_t bit) { atomicOr(bits + word, bit); });
}

__device__ __forceinline__ int32_t sum_of_warp(int32_t n) { return __reduce_add_sync(~0u, n); }

// A warp a tile.
__global__ void __launch_bounds__(kThreads) make_tiles(Grid g, Work w) {
  const int lane = threadIdx.x % 32;
  const int64_t index = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (index >= g.places() * g.tiles) return;
  const auto place = static_cast<int32_t>(index / g.tiles);
  const TileRows rows(g, static_cast<int32_t>(index % g.tiles));
  const TileBits bits(g, w.bits + int64_t{place} * g.row_blocks * g.words, rows);
  const int32_t length = w.length(place / g.kv_heads);
  const auto each_run = [&](int32_t word, const auto& take) {
    bits.for_each_run(word, [&](int32_t first, int32_t last, int32_t column_begin, int32_t column_end) {
      const Run run = run_of(g, rows, first, last, column_begin, column_end, length);
      if (run.columns > 0) take(run);
    });
  };
  int32_t count = 0, cost = 0;
  for (int32_t word = lane; word < g.words; word += 32)
    each_run(word, [&](const Run& run) { ++count, cost += cost_of(g, run); });
  count = sum_of_warp(count);
  cost = sum_of_warp(cost) + kTileCost;
  unsigned long long run_begin = 0;
  if (lane == 0) {
    run_begin = atomicAdd(&w.totals->runs, static_cast<unsigned long long>(count));
    if (run_begin + count > w.run_count)
      __assert_fail("blocks must make fewer runs: keep a list that is nearly dense on the host", __FILE__, __LINE__,
                    "longstride");
    atomicAdd(&w.totals->cost, static_cast<unsigned long long>(cost));
    atomicMax(&w.totals->longest, cost);
  }
  run_begin = __shfl_sync(~0u, run_begin, 0);
  Run* to = w.runs + run_begin;
  for (int32_t word0 = 0; word0 < g.words; word0 += 32) {
    int32_t own = 0;
    const bool in = word0 + lane < g.words;
    if (in) each_run(word0 + lane, [&](const Run&) { ++own; });
    int32_t before = own;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int32_t other = __shfl_up_sync(~0u, before, step);
      if (lane >= step) before += other;
    }
    const int32_t of_all = __shfl_sync(~0u, before, 31);
    Run* own_to = to + before - own;
    if (in) each_run(word0 + lane, [&](const Run& run) { *own_to++ = run; });
    to += of_all;
  }
  if (w.ragged != nullptr) {
    const bool in = lane < rows.block_end - rows.block_begin;
    const bool whole = __all_sync(~0u, !in || all_seen(g, rows, bits, lane, length));
    if (lane == 0) w.ragged[index] = !whole;
  }
  if (lane != 0) return;
  Tile tile;
  tile.row0 = rows.row0;
  tile.rows = rows.end - rows.row0;
  tile.run_begin = static_cast<uint32_t>(run_begin);
  tile.run_count = static_cast<uint32_t>(count);
  w.tiles[index] = tile;
  w.costs[index] = cost;
}

// Which step a cost is of: 0 has the longest.
__device__ __forceinline__ int32_t step_of(int32_t cost, int32_t longest) {
  const auto step = static_cast<int32_t>(int64_t{longest - cost} * kSteps / longest);
  return min(max(step, 0), kSteps - 1);
}

// A block a place, a warp a step: tiles in steps of cost, those of a step in the order of their rows.
__global__ void __launch_bounds__(32 * kSteps) order_tiles(Grid g, Work w, int32_t processors) {
  const int lane = threadIdx.x % 32, step = threadIdx.x / 32;
  const int64_t first = int64_t{blockIdx.x} * g.tiles;
  const int32_t longest = w.totals->longest;
  __shared__ int32_t of_steps[kSteps];
  const auto each = [&](const auto& take) {
    for (int32_t n0 = 0; n0 < g.tiles; n0 += 32) {
      const int32_t n = n0 + lane;
      const bool mine = n < g.tiles && step_of(w.costs[first + n], longest) == step;
      take(n, mine, __ballot_sync(~0u, mine));
    }
  };
  int32_t count = 0;
  each([&](int32_t, bool, uint32_t of_warp) { count += __popc(of_warp); });
  if (lane == 0) of_steps[step] = count;
  __syncthreads();
  int64_t to = first;
  for (int s = 0; s < step; ++s) to += of_steps[s];
  each([&](int32_t n, bool mine, uint32_t of_warp) {
    const int64_t at = to + __popc(of_warp & ((1u << lane) - 1));
    if (mine) {
      w.ordered[at] = w.tiles[first + n];
      if (w.ragged != nullptr) w.ordered_ragged[at] = w.ragged[first + n];
    }
    to += __popc(of_warp);
  });
  if (threadIdx.x != 0) return;
  const unsigned long long above = w.totals->cost / (static_cast<unsigned long long>(processors) * kLongShare);
  const int32_t long_steps = above >= static_cast<unsigned long long>(longest)
                                 ? 0
                                 : step_of(static_cast<int32_t>(above), longest);  // the last of them is not long alone
  int32_t long_tiles = 0;
  for (int s = 0; s < long_steps; ++s) long_tiles += of_steps[s];
  w.of_bands[blockIdx.x] = long_tiles;
  w.of_bands[gridDim.x + blockIdx.x] = g.tiles - long_tiles;
}

// One block: a lane and a section for each band of each place.
__global__ void __launch_bounds__(kThreads) make_lanes(Grid g, Work w, int32_t group) {
  using Scan = cub::BlockScan<int64_t, kThreads>;
  __shared__ typename Scan::TempStorage storage;
  const auto places = static_cast<int32_t>(g.places());
  int64_t before = 0;
  for (int32_t n0 = 0; n0 < kBands * places; n0 += kThreads) {
    const int32_t n = n0 + static_cast<int32_t>(threadIdx.x);
    const int64_t tiles = n < kBands * places ? w.of_bands[n] : 0;
    int64_t end = 0, of_all = 0;
    Scan(storage).InclusiveSum(tiles, end, of_all);
    __syncthreads();
    if (n < kBands * places) {
      const int32_t place = n % places;
      Section section;
      section.tile_begin = int64_t{place} * g.tiles + (n < places ? 0 : w.of_bands[place]);
      section.tile_count = tiles;
      w.sections[n] = section;
      Lane lane;
      lane.item_end = (before + end) * group;
      lane.section_begin = n;
      lane.section_count = 1;
      lane.batch = place / g.kv_heads;
      lane.kv_head = place % g.kv_heads;
      w.lanes[n] = lane;
    }
    before += of_all;
  }
}

unsigned blocks_for(int64_t count, int64_t a_block) { return static_cast<unsigned>((count + a_block - 1) / a_block); }

}  // namespace

bool takes(const Problem& p, const BlocksOnDevice& list, const Geometry& geometry, Direction direction) {
  if (!fits(p, list.block_size, geometry)) return false;
  const Grid g = make_grid(p, list.block_size, list.causal, geometry, direction);
  const int64_t bits = core::saturating_multiply(core::saturating_multiply(g.places(), g.row_blocks), 4 * g.words);
  return bits <= Grid::kMostBytes && core::saturating_multiply(list.count, g.tile_parts) <= Grid::kMostRuns;
}

DevicePlan plan(const Problem& p, const BlocksOnDevice& list, const Geometry& geometry, Direction direction,
                const Workspace& workspace, Stream stream) {
  const int64_t group = direction == Direction::kForward ? p.heads / p.kv_heads : 1;
  const auto scratch = std::make_shared<Scratch>(workspace, stream);
  const Grid g = make_grid(p, list.block_size, list.causal, geometry, direction);
  PlanArrays arrays;
  arrays.tile_rows = geometry.tile_rows;
  const int64_t tiles = g.places() * g.tiles, lanes = kBands * g.places();
  if (tiles == 0) return {direction, p.batch, p.kv_heads, group, arrays, {}, scratch};

  const cudaStream_t on = scratch->stream();
  Work w;
  w.len_k = static_cast<int32_t>(p.len_k);
  w.lengths = lengths_on_device(p, list, *scratch);
  // Cleared together.
  const int64_t bits_bytes = g.bit_words() * static_cast<int64_t>(sizeof(uint32_t));
  auto* cleared = scratch->take<char>(sizeof(Totals) + bits_bytes);
  w.totals = reinterpret_cast<Totals*>(cleared);
  w.bits = reinterpret_cast<uint32_t*>(cleared + sizeof(Totals));
  w.tiles = scratch->take<Tile>(2 * tiles);
  w.ordered = w.tiles + tiles;
  w.costs = scratch->take<int32_t>(tiles);
  const bool transposed = direction == Direction::kTransposed;
  w.ragged = transposed ? scratch->take<uint8_t>(2 * tiles) : nullptr;
  w.ordered_ragged = transposed ? w.ragged + tiles : nullptr;
  w.run_count = g.most_runs(list.count);
  w.runs = scratch->take<Run>(w.run_count);
  w.of_bands = scratch->take<int32_t>(lanes);
  w.sections = scratch->take<Section>(lanes);
  w.lanes = scratch->take<Lane>(lanes);

  check(cudaMemsetAsync(cleared, 0, sizeof(Totals) + bits_bytes, on), "clearing the bits of a list of blocks");
  if (list.count > 0)
    mark_blocks<<<blocks_for(list.count, kThreads), kThreads, 0, on>>>(g, list.rows, list.count, w.bits);
  make_tiles<<<blocks_for(tiles, kWarps), kThreads, 0, on>>>(g, w);
  order_tiles<<<static_cast<unsigned>(g.places()), 32 * kSteps, 0, on>>>(g, w, multiprocessors());
  make_lanes<<<1, kThreads, 0, on>>>(g, w, static_cast<int32_t>(group));
  check(cudaGetLastError(), "launch of the planner of lists");

  arrays.sections = w.sections;
  arrays.tiles = w.ordered;
  arrays.runs = w.runs;
  arrays.ragged = w.ordered_ragged;
  LaunchLanes launch;
  launch.lanes = w.lanes;
  launch.count = static_cast<int32_t>(lanes);
  launch.items = tiles * group;
  launch.strides = {1};
  return {direction, p.batch, p.kv_heads, group, arrays, {launch}, scratch};
}

}  // namespace longstride::engine::cuda::lists
