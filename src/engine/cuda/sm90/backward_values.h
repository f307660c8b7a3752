// The plain values of the backward kernel: what a launch is given, and what the producer tells the consumers.
#pragma once

#include <cstdint>

#include "engine/cuda/device_plan.h"
#include "engine/cuda/extras.h"
#include "engine/cuda/sm90/tensor_maps.h"

namespace longstride::engine::cuda::sm90 {

struct KeyBlockNote {
  int32_t column0;  // position of the first query
  int32_t columns;
  Diagonals diagonals;
  int32_t rows;  // row_begin | row_end << 16
  float weight_log2;
  int32_t masked;
  int32_t last;
  int32_t head, row, residue;  // where dQ goes
};

struct KeyItemNote {
  int64_t slot;
  int32_t row0, stride, repeat;
  int32_t rows, batch, kv_head;
  int32_t merge_begin, merge_count;
  int32_t blocks, map, stop;
};

struct BackwardParams : CallValues {
  PlanArrays plan;
  const Lane* lanes;
  int32_t lane_count;
  int32_t group;
  int64_t items;
  unsigned long long* ticket;
  int32_t partial;
  int32_t query_start, len_q, len_k;
  int32_t heads, kv_heads, dim;
  float scale_log2;  // signed here: no maximum is taken
  float scale, out_scale;
  float result_scale;    // of dK and dQ
  const float2* rows;    // [batch * heads][len_q]: lse (+inf where nothing is seen), delta
  const int32_t* exact;  // whether some lse is large (exponential.cuh)
  float* dq;             // [batch * heads][len_q][kWidth], columns in the order of backward_queries.cuh
  void *dk, *dv;
  int64_t dk_batch_stride, dk_len_stride, dk_head_stride, dv_batch_stride, dv_len_stride, dv_head_stride;
  float* partial_dk;  // [batch * kv_heads][partial_rows][kDim]
  float* partial_dv;
  int64_t partial_rows;
  int32_t float32_results;  // Extras: whether dk and dv are float32
};

struct BackwardMaps {
  MapPair q, d_out, k, v, dq;
};
struct BackwardMapSet {
  BackwardMaps of_stride[LaunchOrder::kMostStrides];
};

}  // namespace longstride::engine::cuda::sm90
