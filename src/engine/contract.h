// What an engine is given and what it must do: the one line between the planner's data and the hardware. No torch type,
// no pattern, no CUDA type crosses it. Called by src/op (tensors) and by the torch-free tests.
//
// An engine is two functions, forward(Problem, PlanView, Workspace, Stream) and backward(...), in its own namespace,
// and capability(Problem), which says whether it takes a problem and why not. out, lse and the gradients are wholly
// written. A refused or failed launch throws; nothing falls back in silence.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "core/dtype.h"
#include "longstride/plan.h"

namespace longstride::engine {

// A [batch, len, heads, dim] tensor: 64-bit strides in elements, dim contiguous.
struct TensorRef {
  void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t len_stride = 0;
  int64_t head_stride = 0;
};
struct ConstTensorRef {
  const void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t len_stride = 0;
  int64_t head_stride = 0;
};

struct Problem {
  core::DType dtype = core::DType::kFloat32;  // of q, k, v, out and the gradients
  int64_t batch = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;  // divides heads
  int64_t len_q = 0;
  int64_t len_k = 0;
  int64_t dim = 0;
  int64_t query_start = 0;  // tensor row i of q, out, lse stands at plan position query_start + i
  double scale = 1;
  double out_scale = 1;                   // out is multiplied with it after the softmax; lse is not
  double dropout_p = 0;                   // in [0, 1)
  const int64_t* dropout_seed = nullptr;  // one element on the engine's device; required iff it drops
  bool drops() const { return dropout_p > 0; }
  bool deterministic = false;

  ConstTensorRef q;     // [batch, len_q, heads, dim]
  ConstTensorRef k;     // [batch, len_k, kv_heads, dim]
  ConstTensorRef v;     // [batch, len_k, kv_heads, dim]
  TensorRef out;        // [batch, len_q, heads, dim]; written by forward, read by backward
  void* lse = nullptr;  // [batch, heads, len_q] contiguous, natural log; float32, or float64 if dtype is float64.
                        // Written by forward, read by backward
};

// Blocks whose gates get a gradient. A gate g (1 in the forward) multiplies e^score of the pairs of one block of one
// (batch row, KV head) in every query head: its gradient is the sum over these pairs of P (D gain d_out.v - delta +
// d_lse), P being e^(score - lse) without the weights of other groups that show the pair. Blocks count positions from
// 0. The base level of such a plan has stride 1 and executes every pair of the blocks in one of its runs.
struct GateBlocks {
  int64_t block_size = 0;                // tokens
  int64_t key_blocks = 0;                // of len_k
  const int64_t* begin = nullptr;        // [batch x kv_heads x key_blocks + 1]: the entries of a key block
  const int32_t* query_block = nullptr;  // [entries], ascending and distinct within a key block
  void* grad = nullptr;                  // [entries], dtype of lse, on the engine's device; wholly written
  // Which pairs of a block there are, for engines that do not find them by the plan.
  bool causal = false;               // those with key <= query
  const int64_t* lengths = nullptr;  // [batch]: those below the batch row's length; null: all of len_k
};

struct Gradients {
  ConstTensorRef d_out;               // [batch, len_q, heads, dim], dtype of the problem
  const void* d_lse = nullptr;        // [batch, heads, len_q] contiguous, dtype of lse; null: zero
  TensorRef dq;                       // as q; wholly written
  TensorRef dk;                       // as k; wholly written
  TensorRef dv;                       // as v; wholly written
  const GateBlocks* gates = nullptr;  // null: none are wanted
};

// Calls body(index, thread) once for every index in [0, count), 0 <= thread < Workspace::threads, in any order, and
// returns when all are done. Two calls that run at one time have different `thread`.
using ParallelFor = std::function<void(int64_t count, const std::function<void(int64_t index, int thread)>& body)>;

// C[m x n] (+)= A[m x k] * B[k x n], float32 accumulation, row-major, leading dimensions in elements. Implementations
// are stateless from the caller's side and may be called from every thread.
class MicroGemm {
 public:
  virtual ~MicroGemm() = default;
  virtual const char* name() const = 0;
  // Whether this dtype (float32, bfloat16 or float16) can be multiplied at all. If not, the caller converts to float32.
  virtual bool takes(core::DType) const = 0;
  // Whether B must be packed in pairs of k ("VNNI": element (k, n) at [(k / 2) * 2 * ldb + 2 * n + k % 2], k even).
  virtual bool wants_pairs(core::DType) const = 0;
  virtual void run(core::DType, int64_t m, int64_t n, int64_t k, const void* a, int64_t lda, const void* b, int64_t ldb,
                   float* c, int64_t ldc, bool accumulate) const = 0;
  // Called by a thread that is done with a series of products (hardware tile state is released).
  virtual void release() const {}
};

struct Workspace {
  ParallelFor parallel_for;  // empty: one thread
  int threads = 1;
  const MicroGemm* gemm = nullptr;  // null: the engine's own portable one
  // Scratch memory, 64-byte aligned, given back by free. Empty: plain aligned allocation.
  std::function<void*(size_t bytes)> allocate;
  std::function<void(void*)> free;
};

using Stream = void*;  // cudaStream_t, or null on the CPU

// "yes: <engine>" or "no: <because>".
struct Capability {
  bool yes = false;
  std::string reason;  // the engine's name, or why not
};

}  // namespace longstride::engine
