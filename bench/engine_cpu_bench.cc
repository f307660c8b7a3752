// Times the CPU engine by itself: LongNet's segments 2048..32768 at rates 1..16 (halved at len 16384), 8 heads of dim
// 64, and plain attention as one group. Counters, in GFLOP/s: `plan`, what the engine multiplies, masked pairs
// included; `useful`, each seen pair once; `nominal`, the sum over groups. A backward counts 2.5 forwards. `share` is
// plan over the rate of the micro-GEMM's own 64 x 64 x 64 tiles on as many threads, which `gemm/` shows.
#include <benchmark/benchmark.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/half.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/kernels.h"
#include "longstride/pattern.h"
#include "longstride/plan.h"
#ifdef LONGSTRIDE_BENCH_BRGEMM
#include "op/brgemm.h"
#endif

namespace longstride {
namespace {

using core::DType;

constexpr int64_t kHeads = 8;
constexpr int64_t kDim = 64;

const engine::MicroGemm* gemm() {
#ifdef LONGSTRIDE_BENCH_BRGEMM
  if (!std::getenv("LONGSTRIDE_BENCH_PORTABLE")) return op::brgemm();
#endif
  return nullptr;
}

int threads() { return static_cast<int>(std::max(1u, std::thread::hardware_concurrency())); }

void on_threads(int count, const std::function<void(int)>& body) {
  std::vector<std::thread> team;
  for (int t = 0; t < count; ++t) team.emplace_back(body, t);
  for (std::thread& member : team) member.join();
}

engine::Workspace workspace() {
  engine::Workspace w;
  w.threads = threads();
  w.gemm = gemm();
  w.parallel_for = [](int64_t n, const std::function<void(int64_t, int)>& body) {
    std::atomic<int64_t> next{0};
    on_threads(threads(), [&](int t) {
      for (int64_t i = next++; i < n; i = next++) body(i, t);
    });
  };
  return w;
}

// GFLOP/s of 64 x 64 x 64 products on all threads.
double tile_rate(DType dtype) {
  constexpr int64_t kSide = 64;
  const engine::MicroGemm* g = gemm();
  if (dtype == DType::kBFloat16 && !(g && g->takes(dtype))) dtype = DType::kFloat32;
  std::atomic<int64_t> products{0};
  const auto start = std::chrono::steady_clock::now();
  on_threads(threads(), [&](int) {
    std::vector<float> a(kSide * kSide, 0.01f), b(kSide * kSide, 0.01f), c(kSide * kSide, 0.0f);
    while (std::chrono::steady_clock::now() - start < std::chrono::milliseconds(100)) {
      for (int i = 0; i < 64; ++i) {
        if (g) {
          g->run(dtype, kSide, kSide, kSide, a.data(), kSide, b.data(), kSide, c.data(), kSide, false);
        } else {
          engine::cpu::multiply(kSide, kSide, kSide, a.data(), kSide, b.data(), kSide, c.data(), kSide, false);
        }
      }
      products += 64;
    }
    if (g) g->release();
  });
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
  return 2.0 * kSide * kSide * kSide * static_cast<double>(products) / wall.count() * 1e-9;
}

struct Shape {
  int64_t len;
  bool causal;
  bool plain;  // one group over everything
  DType dtype;
};

class Tensors {
 public:
  explicit Tensors(const Shape& s) {
    const size_t count = static_cast<size_t>(s.len * kHeads * kDim);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (auto* x : {&q, &k, &v, &d_out, &out, &dq, &dk, &dv}) {
      x->resize(count * core::size_bytes(s.dtype));
      for (size_t i = 0; i < count; ++i) {
        const float value = normal(random);
        if (s.dtype == DType::kFloat32) {
          reinterpret_cast<float*>(x->data())[i] = value;
        } else {
          reinterpret_cast<core::BFloat16*>(x->data())[i] = core::to_bfloat16(value);
        }
      }
    }
    lse.resize(static_cast<size_t>(s.len * kHeads));
    problem.dtype = s.dtype;
    problem.batch = 1;
    problem.heads = problem.kv_heads = kHeads;
    problem.len_q = problem.len_k = s.len;
    problem.dim = kDim;
    problem.scale = 0.125;
    problem.q = read(q, s.len);
    problem.k = read(k, s.len);
    problem.v = read(v, s.len);
    problem.out = write(out, s.len);
    problem.lse = lse.data();
    gradients = {problem};
    gradients.out = problem.out;
    gradients.lse = problem.lse;
    gradients.d_out = read(d_out, s.len);
    gradients.dq = write(dq, s.len);
    gradients.dk = write(dk, s.len);
    gradients.dv = write(dv, s.len);
  }
  engine::ForwardProblem problem;
  engine::BackwardProblem gradients;

 private:
  using Bytes = std::vector<unsigned char>;
  static engine::ConstTensorRef read(const Bytes& x, int64_t len) {
    return {x.data(), len * kHeads * kDim, kHeads * kDim, kDim};
  }
  static engine::TensorRef write(Bytes& x, int64_t len) { return {x.data(), len * kHeads * kDim, kHeads * kDim, kDim}; }
  Bytes q, k, v, d_out, out, dq, dk, dv;
  std::vector<float> lse;
};

Pattern pattern(const Shape& s) {
  DilatedOptions options;
  options.causal = s.causal;
  if (s.plain) return Pattern::dilated({s.len}, {1}, options);
  std::vector<int64_t> segments;
  for (int64_t w = s.len / 16; w <= s.len; w *= 2) segments.push_back(w);
  return Pattern::dilated(segments, {1, 2, 4, 8, 16}, options);
}

void time_engine(benchmark::State& state, const Shape& s, Direction direction) {
  Tensors tensors(s);
  Extent extent;
  extent.heads = extent.kv_heads = kHeads;
  extent.len_q = extent.len_k = s.len;
  const auto planned = [&](Direction d) {
    return compile(pattern(s), extent, engine::cpu::geometry(s.dtype, kDim, s.causal, d), d);
  };
  const Plan forward = planned(Direction::kForward);
  const Plan transposed = planned(Direction::kTransposed);
  const engine::Workspace w = workspace();
  engine::cpu::forward(tensors.problem, forward.view(), w);
  double seconds = 1e30;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    if (direction == Direction::kForward) {
      engine::cpu::forward(tensors.problem, forward.view(), w);
    } else {
      engine::cpu::backward(tensors.gradients, transposed.view(), w);
    }
    seconds = std::min(seconds, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  const Plan& plan = direction == Direction::kForward ? forward : transposed;
  const PlanCounts counts = count(plan.view(), extent);
  const double products = (direction == Direction::kForward ? 4.0 : 10.0) * kDim * 1e-9;
  const double computed = products * static_cast<double>(counts.computed_pairs) / seconds;
  const double times = direction == Direction::kForward ? 1.0 : 2.5;
  state.counters["plan"] = computed;
  state.counters["useful"] = products * static_cast<double>(counts.seen_pairs) / seconds;
  state.counters["nominal"] = times * 1e-9 * nominal_flops(pattern(s), extent, kDim) / seconds;
  state.counters["keys_a_row"] = counts.computed_per_row();
  state.counters["share"] = computed / tile_rate(s.dtype);
  state.counters["best_ms"] = seconds * 1e3;
}

}  // namespace
}  // namespace longstride

int main(int argc, char** argv) {
  using namespace longstride;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    benchmark::RegisterBenchmark((std::string("gemm/") + core::name(dtype)).c_str(),
                                 [dtype](benchmark::State& state) {
                                   double best = 0;
                                   for (auto _ : state) best = std::max(best, tile_rate(dtype));
                                   state.counters["rate"] = best;
                                 })
        ->Iterations(3)
        ->UseRealTime();
    for (const int64_t len : {16384, 32768}) {
      for (const bool plain : {false, true}) {
        if (plain && len > 16384) continue;
        for (const bool causal : {false, true}) {
          for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
            const std::string title = std::string(plain ? "plain/" : "longnet/") + core::name(dtype) + "/" +
                                      std::to_string(len) + (causal ? "/causal" : "/full") +
                                      (direction == Direction::kForward ? "/forward" : "/backward");
            const Shape shape{len, causal, plain, dtype};
            benchmark::RegisterBenchmark(
                title.c_str(), [shape, direction](benchmark::State& state) { time_engine(state, shape, direction); })
                ->Iterations(3)
                ->UseRealTime()
                ->Unit(benchmark::kMillisecond);
          }
        }
      }
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
