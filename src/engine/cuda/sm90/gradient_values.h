// The plain values of the kernel that makes one gradient a launch: what a launch is given, and what the producer tells
// the consumers.
#pragma once

#include <cstdint>

#include "engine/cuda/device_plan.h"
#include "engine/cuda/extras.h"
#include "engine/cuda/sm90/tensor_maps.h"

namespace longstride::engine::cuda::sm90 {

struct GradientBlockNote {
  int32_t column0;  // position of the first column
  int32_t columns;
  Diagonals diagonals;
  int32_t rows;  // row_begin | row_end << 16
  float weight_log2;
  int32_t masked;
  int32_t last;
  int32_t head;  // query head
};

struct GradientItemNote {
  int64_t slot;
  int32_t row0, stride, repeat;  // row0: tensor row of tile row 0
  int32_t rows, batch, head;     // head: of the row's tensor
  int32_t merge_begin, merge_count;
  int32_t blocks, stop;
};

// One gradient: where it goes, and what partial levels keep of it.
struct GradientResult {
  void* data;  // [batch, len_rows, row_heads, dim]
  int64_t batch_stride, len_stride, head_stride;
  float scale;
  float* partial;  // [batch * row_heads][partial_rows][kDim]
};

struct GradientParams : CallValues {
  PlanArrays plan;
  const Lane* lanes;
  int32_t lane_count;
  int32_t group;  // query heads per KV head
  int64_t items;
  unsigned long long* ticket;
  int32_t partial;
  int32_t query_start, len_q, len_k, len_rows;
  int32_t heads, row_heads, dim;
  float scale, scale_log2, gain;  // signed scale; out_scale / (1 - dropout_p)
  const float2* rows;             // [batch * heads][len_q]: lse (+inf where nothing is seen), delta
  const int32_t* exact;           // whether some lse is large (exponential.cuh)
  GradientResult result;
  int64_t partial_rows;
  int32_t float32_results;  // Extras: whether the result is float32
};

// Rows are queries (row: q, row_pair: d_out, column: k, column_pair: v) or keys (k, v, q, d_out).
struct GradientMaps {
  MapPair row, row_pair, column, column_pair;
};
struct GradientMapSet {
  GradientMaps of_stride[LaunchOrder::kMostStrides];
};

}  // namespace longstride::engine::cuda::sm90
