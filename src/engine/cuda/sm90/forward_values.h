// The plain values of the forward kernel: what a launch is given, and what the producer tells the consumers.
#pragma once

#include <cstdint>

#include "engine/cuda/device_plan.h"
#include "engine/cuda/extras.h"

namespace longstride::engine::cuda::sm90 {

// One block of keys, as the producer tells the consumers.
struct BlockNote {
  int32_t column0;  // position of the first
  int32_t columns;  // valid ones
  Diagonals diagonals;
  int32_t rows;  // row_begin | row_end << 16
  float weight_log2;
  int32_t masked;  // any pair of the block may be unseen
  int32_t last;    // of the tile
};

// One tile, likewise.
struct ItemNote {
  int64_t index;  // of the item
  int64_t slot;   // partial levels: slot of row 0
  int32_t row0;   // tensor row of tile row 0; row j at row0 + j * stride
  int32_t stride;
  int32_t repeat;
  int32_t rows;
  int32_t batch;
  int32_t head;
  int32_t phantom_begin, phantom_count, merge_begin, merge_count;
  int32_t again;  // tiles of large scores: it stands in the list of those to be made again
  int32_t stop;   // no item left
};

struct ForwardParams : CallValues {
  PlanArrays plan;
  const Lane* lanes;
  int32_t lane_count;
  int32_t group;  // query heads per KV head
  int64_t items;
  unsigned long long* ticket;  // items taken beyond the first of every block; 0 at launch
  int64_t* again;              // of an item in a block's list of those to be made again: the next one, or -1
  int32_t partial;             // this launch writes slots
  int32_t query_start;         // of the plan
  int32_t plan_tokens;         // Problem::plan_tokens
  int32_t len_q, len_k;
  int32_t heads, dim;
  float scale, scale_log2;  // of |scale|
  int32_t negate;           // scale < 0
  float out_scale;
  void* out;
  int64_t out_batch_stride, out_len_stride, out_head_stride;
  float* lse;
  float* partial_out;       // [batch * heads][partial_rows][kDim]
  float2* partial_softmax;  // (greatest score, sum), likewise
  int64_t partial_rows;
  int32_t float32_results;  // Extras: whether out is float32
  // Of float32: its parts are batch rows of the tensors that are read, and these the tensors themselves.
  int32_t batch;
  ConstTensorRef float_q, float_k;
};

}  // namespace longstride::engine::cuda::sm90
