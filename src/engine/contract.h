// What an engine is given and what it must do: the one line between the planner's data and the hardware. No torch type,
// no pattern, no CUDA type crosses it. Called by src/op (tensors) and by the torch-free tests. docs/contract.md
// explains it.
//
// An engine is two functions, forward(ForwardProblem, plan, Workspace, Stream) and backward(BackwardProblem, plan or
// plans, Workspace, Stream), in its own namespace, and capability(Problem), which says whether it takes a problem and
// why not. What is read is a pointer to const; what is not const is written, wholly, and not read before. A refused or
// failed launch throws; nothing falls back in silence.
#pragma once

#include <cstdint>
#include <functional>
#include <new>
#include <string>

#include "core/dropout.h"
#include "core/dtype.h"
#include "longstride/plan.h"

namespace longstride::engine {

// A [batch, len, heads, dim] tensor: 64-bit strides in elements, dim contiguous.
struct ConstTensorRef {
  const void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t len_stride = 0;
  int64_t head_stride = 0;
};
struct TensorRef {
  void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t len_stride = 0;
  int64_t head_stride = 0;
  operator ConstTensorRef() const { return {data, batch_stride, len_stride, head_stride}; }
};

// What both directions read.
struct Problem {
  core::DType dtype = core::DType::kFloat32;  // of q, k, v, d_out, and of results unless float32_results
  int64_t batch = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;  // divides heads
  int64_t len_q = 0;
  int64_t len_k = 0;
  int64_t dim = 0;
  int64_t query_start = 0;  // tensor row i of q, out, lse stands at plan position query_start + i
  // A forward of one query may come with the plan of an earlier position, so many tokens before query_start: its runs
  // that grow have so many more tokens' columns, and the keys of these are read too (plan/step_base.h says for which
  // positions a plan serves). Engines of the CPU refuse it; those of CUDA refuse it with dropout and ALiBi, which go by
  // positions.
  int64_t plan_tokens = 0;
  double scale = 1;
  double out_scale = 1;                   // out is multiplied with it after the softmax; lse is not
  double dropout_p = 0;                   // in [0, 1)
  const int64_t* dropout_seed = nullptr;  // one element on the engine's device; required iff it drops
  bool drops() const { return dropout_p > 0; }
  // Dropout goes by a head's number among all heads, of which the problem's may be a share: 0: they are all of them.
  int64_t all_heads = 0;
  int64_t first_head = 0;  // the number among all of the first one here
  int64_t heads_of_all() const { return all_heads == 0 ? heads : all_heads; }
  // The score of a pair is scale * q.k - slope * |query - key|, positions as the plan counts them. Phantoms stand
  // nowhere: their score stays 0.
  bool alibi = false;
  const float* alibi_slopes = nullptr;  // [heads], finite, on the engine's device; required iff `alibi`
  bool deterministic = false;
  // Of 16-bit tensors: out, or dq, dk and dv, are float32, for who joins them with other parts and rounds once. Engines
  // of the CPU refuse it.
  bool float32_results = false;

  ConstTensorRef q;  // [batch, len_q, heads, dim]
  ConstTensorRef k;  // [batch, len_k, kv_heads, dim]
  ConstTensorRef v;  // [batch, len_k, kv_heads, dim]
};

// A list of blocks that lies on the engine's device, for an engine that plans it there: pair (q, k) of a (batch row, KV
// head) is seen iff a row of the list names both, floor(q / block_size) and floor(k / block_size), and (causal) k <= q.
// Who gives an engine such a list knows of its rows how many there are, not what they say.
struct BlocksOnDevice {
  const int32_t* rows = nullptr;  // [count, 4]: batch row or -1, KV head or -1, query block, key block
  int64_t count = 0;
  int64_t block_size = 0;
  bool causal = false;
  const int64_t* lengths = nullptr;  // [batch], on the host: positions beyond are none; null: all are
  void* gate_grad = nullptr;  // [count], dtype of lse: a backward writes the gradient of each row's gate; null: none
};

struct ForwardProblem : Problem {
  TensorRef out;        // as q, but for float32_results
  void* lse = nullptr;  // [batch, heads, len_q] contiguous, natural log; float32, or float64 if dtype is float64
};

// The pairs that share a gate: these queries with these keys, positions counted from 0, of one (batch row, KV head).
struct GateRange {
  int64_t query_begin = 0;
  int64_t query_end = 0;
  int64_t key_begin = 0;
  int64_t key_end = 0;
};

// Ranges whose gates get a gradient. A gate g (1 in the forward) multiplies e^score of the pairs of one range in every
// query head: its gradient is the sum over these pairs of P (D gain d_out.v - delta + d_lse), P being e^(score - lse)
// without the weights of other groups that show the pair. The base level of such a plan has stride 1 and executes, with
// the parts of its tiles, every pair of the ranges in one of its runs.
struct Gates {
  const int64_t* begin = nullptr;  // [batch x kv_heads + 1]: the ranges of each; on the host, as these
  // By key_begin, then by query_begin and query_end. Of one (batch row, KV head) those with one key_begin share no
  // query, the others no key. None goes beyond the tensors or the batch row's length; some may be empty.
  const GateRange* ranges = nullptr;
  bool causal = false;   // of a range only the pairs with key <= query
  void* grad = nullptr;  // one a range, dtype of lse, on the engine's device
};

struct BackwardProblem : Problem {
  ConstTensorRef out;            // what the forward wrote, in the dtype, as lse
  const void* lse = nullptr;     // [batch, heads, len_q] contiguous
  ConstTensorRef d_out;          // as q
  const void* d_lse = nullptr;   // as lse; null: zero
  TensorRef dq;                  // as q
  TensorRef dk;                  // as k
  TensorRef dv;                  // as v
  const Gates* gates = nullptr;  // null: none are wanted
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

// What an engine of the host drops in a problem: nothing, if it does not drop.
inline core::Dropout dropout_of(const Problem& p) {
  if (!p.drops()) return {};
  return {p.dropout_p, *p.dropout_seed, p.heads_of_all(), p.first_head};
}

// Calls body(index, thread) for every index in [0, count): as the workspace's parallel_for does, or one after another.
template <class Body>
void for_each_index(const Workspace& w, int64_t count, const Body& body) {
  if (w.parallel_for) return w.parallel_for(count, body);
  for (int64_t index = 0; index < count; ++index) body(index, 0);
}

// One allocation of a workspace, given back at the end of its scope.
class Scratch {
 public:
  Scratch(const Workspace& workspace, int64_t size_bytes) : workspace_(workspace) {
    if (size_bytes <= 0) return;
    data_ = workspace.allocate ? workspace.allocate(static_cast<size_t>(size_bytes))
                               : ::operator new (static_cast<size_t>(size_bytes), std::align_val_t{64});
  }
  ~Scratch() {
    if (!data_) return;
    if (workspace_.free) {
      workspace_.free(data_);
    } else if (!workspace_.allocate) {
      ::operator delete (data_, std::align_val_t{64});
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  char* data() const { return static_cast<char*>(data_); }

 private:
  const Workspace& workspace_;
  void* data_ = nullptr;
};

using Stream = void*;  // cudaStream_t, or null on the CPU

// "yes: <engine>" or "no: <because>".
struct Capability {
  bool yes = false;
  std::string reason;  // the engine's name, or why not
};

}  // namespace longstride::engine
