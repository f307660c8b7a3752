// What the kernels that are built of this folder's pieces are given: those of sm80/ and of gates.cu.
#pragma once

#include <cstdint>

#include "engine/cuda/device_plan.h"
#include "engine/cuda/extras.h"

namespace longstride::engine::cuda {

// Rows and columns of a tile: four arrays of rows lie in shared memory, 163 KiB of which Ampere gives a block.
constexpr int tile_rows(int64_t element_bytes, int64_t dim) { return element_bytes == 4 && dim > 128 ? 32 : 64; }
constexpr int tile_columns(int64_t element_bytes) { return element_bytes == 4 ? 32 : 64; }

// A [batch, len, heads, dim] tensor that is read (Data is const void) or written (void).
template <class Data>
struct Strided {
  Data* data = nullptr;
  int64_t batch_stride = 0, len_stride = 0, head_stride = 0;
  bool wide = false;  // rows begin at multiples of 16 bytes and hold whole pieces of 16 bytes

  template <class Element>
  LONGSTRIDE_DEVICE Element* head(int64_t batch, int64_t head) const {
    return static_cast<Element*>(data) + batch * batch_stride + head * head_stride;
  }
};
using Input = Strided<const void>;
using Output = Strided<void>;

struct Values : CallValues {
  PlanArrays plan;
  const Lane* lanes = nullptr;
  int32_t lane_count = 0;
  int32_t group = 1;  // query heads a KV head
  bool partial = false;
  int32_t query_start = 0;  // of the plan
  int32_t plan_tokens = 0;  // Problem::plan_tokens
  int32_t len_q = 0;
  int32_t heads = 0, kv_heads = 0, dim = 0;
  float scale = 1;
  float result_scale = 1;  // of dQ and dK
  float scale_log2 = 1;    // forward: of |scale|, for scores that are negated if scale < 0
  float out_scale = 1;
  Input q, k, v;
  bool float32_results = false;    // of 16-bit tensors
  Output out;                      // forward, as lse
  float* lse = nullptr;            // [batch, heads, len_q]
  const float2* rows = nullptr;    // backward: (lse, +inf where nothing is seen; delta) [batch, heads, len_q]
  const int32_t* exact = nullptr;  // backward: not 0 if some lse is large
  Input d_out;
  Output dq, dk, dv;
  float* query_sums = nullptr;        // dQ while it is added to: [batch, heads, len_q, kDim]
  int64_t partial_rows = 0;           // slots a head
  float* partial_a = nullptr;         // forward: out; else dQ, or dK: [heads of all batch rows][partial_rows][kDim]
  float* partial_b = nullptr;         // dV like dK
  float2* partial_softmax = nullptr;  // forward: (greatest score, sum), one a slot
};

}  // namespace longstride::engine::cuda
