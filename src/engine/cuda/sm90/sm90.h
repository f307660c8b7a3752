// The Hopper engine: TMA and WGMMA.
#pragma once

#include "engine/contract.h"
#include "engine/cuda/upload.h"

namespace longstride::engine::cuda::sm90 {

// Tile shapes that the kernels want. Forward: 128 queries against blocks of 128 keys. Transposed: 128 keys against
// blocks of 64 queries.
inline Geometry geometry(Direction direction) {
  Geometry g;
  g.tile_rows = 128;
  const bool forward = direction == Direction::kForward;
  g.column_block = forward ? 128 : 64;
  g.row_quantum = g.tile_rows;  // both warpgroups go through a tile, whatever its rows
  // A tile of one block takes about 7 us of a processor, each block more 1.2, however few of its columns are there.
  // Where segments are short that is what counts: 64 sequences of 512 tokens at segments of 128, 256 and 512 went from
  // nine half-empty tiles a head to seven (0.29 to 0.20 ms). LongNet's plans of 4,096 to 131,072 tokens are as they
  // were when tiles were free and a merged row cost 256 columns.
  g.tile_columns = g.part_columns = 384;
  g.run_columns = 100;
  g.merge_columns = forward ? 32 : 64;  // out; dK and dV
  return g;
}

// Calls that have a forward kernel for tiles of few columns.
inline bool has_short_tiles(const Problem& p) {
  const bool of_16_bits = p.dtype == core::DType::kBFloat16 || p.dtype == core::DType::kFloat16;
  return of_16_bits && p.dim > 32 && p.dim <= 64 && !p.alibi && !p.drops() && !p.float32_results;
}

// Of a forward's plans. Short sequences have such tiles: it costs little to begin one, and what a warpgroup's 64 rows
// do not see is not computed, so that 64 sequences of 512 tokens at segments of 128, 256 and 512 have five tiles a head
// in place of seven (0.10 ms; with seven 0.12). Not where all can begin at once: then the longest counts, and that
// kernel is not asked (lanes.cc).
inline Geometry forward_geometry(const Problem& p) {
  constexpr int64_t kShortLength = 1024, kProcessors = 132;
  Geometry g = geometry(Direction::kForward);
  const int64_t tiles = p.batch * p.heads * ((p.len_q + g.tile_rows - 1) / g.tile_rows);
  if (!has_short_tiles(p) || p.len_k > kShortLength || tiles <= kProcessors) return g;
  g.column_block = 64;
  g.tile_columns = g.part_columns = 200;
  g.run_columns = 20;
  return g;
}

constexpr int64_t kMostDim = 256;
constexpr int64_t kMostFloat32Dim = 128;

// Of a backward's plans. Of float32: 64 keys against blocks of 64 queries.
inline Geometry backward_geometry(core::DType dtype, Direction direction) {
  if (dtype != core::DType::kFloat32) return geometry(direction);
  Geometry g;
  g.tile_rows = g.column_block = g.row_quantum = 64;
  return g;
}

// float32's deterministic backward is none of this engine's. Scores come out of the forward bit for bit as out of the
// portable engine's kernels, whose backward serves, with plans of this engine's too.
inline bool has_backward(const Problem& p) { return p.dtype != core::DType::kFloat32 || !p.deterministic; }

// What the kernels take; forward and backward throw Error with the reason for the rest. Memory beyond the workspace is
// never taken, and nothing waits for the device, but for gates (gates.h). Tensors whose address or strides are no
// multiples of 16 bytes, and odd dims, cost one copy of that tensor.
Capability capability(const Problem&);
void forward(const ForwardProblem&, const DevicePlan&, const Workspace&, Stream);
// dQ is added in no fixed order, unless p.deterministic asks for one: then the forward plan is needed too, as for dims
// over 128, and the products are 8 instead of 5.
void backward(const BackwardProblem&, const BackwardPlans&, const Workspace&, Stream);
bool backward_wants_forward_plan(const Problem&);

}  // namespace longstride::engine::cuda::sm90
