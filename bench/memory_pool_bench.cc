// Does the memory pool beat plain aligned allocation as the CPU engine's scratch? The same call on both, forward and
// backward, small and large, one thread. Plain is posix_memalign, which is what LibTorch's CPU allocator does.
//
//   memory_pool_bench --benchmark_repetitions=9 --benchmark_enable_random_interleaving=true
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <new>
#include <vector>

#include "engine/cpu/cpu.h"
#include "longstride/memory_pool.h"
#include "longstride/pattern.h"
#include "longstride/plan.h"

namespace longstride {
namespace {

constexpr int64_t kHeads = 4, kDim = 64;

engine::Workspace plain() {
  engine::Workspace w;
  w.allocate = [](size_t bytes) -> void* {
    void* data = nullptr;
    if (posix_memalign(&data, UnifiedMemoryPool::kAlignmentBytes, bytes) != 0) throw std::bad_alloc();
    return data;
  };
  w.free = [](void* data) { std::free(data); };
  return w;
}

engine::Workspace pooled() {
  static UnifiedMemoryPool pool;
  engine::Workspace w;
  w.allocate = [](size_t bytes) { return pool.allocate(static_cast<int64_t>(bytes)); };
  w.free = [](void* data) { pool.free(data); };
  return w;
}

// One call after another, as in training: what the last one gave back is what the next one asks for.
void run(benchmark::State& state, bool backward, const engine::Workspace& workspace) {
  const int64_t len = state.range(0);
  const Pattern pattern = Pattern::dilated({len / 16, len / 4, len}, {1, 2, 4});
  const Extent extent{.heads = kHeads, .kv_heads = kHeads, .len_q = len, .len_k = len};
  const auto geometry = [&](Direction d) { return engine::cpu::geometry(core::DType::kFloat32, kDim, false, d); };
  const Plan forward = compile(pattern, extent, geometry(Direction::kForward));
  const Plan transposed = compile(pattern, extent, geometry(Direction::kTransposed), Direction::kTransposed);
  const int64_t row = kHeads * kDim;
  std::vector<float> q(len * row, 0.1f), k(q), v(q), out(q), dq(q), dk(q), dv(q), lse(kHeads * len);
  engine::ForwardProblem p;
  p.batch = 1;
  p.heads = p.kv_heads = kHeads;
  p.len_q = p.len_k = len;
  p.dim = kDim;
  p.scale = 0.125;
  p.q = {q.data(), len * row, row, kDim};
  p.k = {k.data(), len * row, row, kDim};
  p.v = {v.data(), len * row, row, kDim};
  p.out = {out.data(), len * row, row, kDim};
  p.lse = lse.data();
  engine::BackwardProblem g{p};
  g.out = p.out;
  g.lse = p.lse;
  g.d_out = p.q;
  g.dq = {dq.data(), len * row, row, kDim};
  g.dk = {dk.data(), len * row, row, kDim};
  g.dv = {dv.data(), len * row, row, kDim};
  engine::cpu::forward(p, forward.view(), workspace);
  for (auto _ : state) {
    if (backward) {
      engine::cpu::backward(g, transposed.view(), workspace);
    } else {
      engine::cpu::forward(p, forward.view(), workspace);
    }
  }
}

void forward_plain(benchmark::State& state) { run(state, false, plain()); }
void forward_pool(benchmark::State& state) { run(state, false, pooled()); }
void backward_plain(benchmark::State& state) { run(state, true, plain()); }
void backward_pool(benchmark::State& state) { run(state, true, pooled()); }
BENCHMARK(forward_plain)->Arg(128)->Arg(1024)->Arg(8192)->Arg(32768)->Unit(benchmark::kMicrosecond);
BENCHMARK(forward_pool)->Arg(128)->Arg(1024)->Arg(8192)->Arg(32768)->Unit(benchmark::kMicrosecond);
BENCHMARK(backward_plain)->Arg(128)->Arg(1024)->Arg(8192)->Arg(32768)->Unit(benchmark::kMicrosecond);
BENCHMARK(backward_pool)->Arg(128)->Arg(1024)->Arg(8192)->Arg(32768)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace longstride

BENCHMARK_MAIN();
