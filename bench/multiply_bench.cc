// The portable product by width: 64 rows, depth 64, one thread, GFLOP/s of useful products. Widths that are no multiple
// of two vectors must not fall behind.
//
//   multiply_bench --benchmark_repetitions=9 --benchmark_report_aggregates_only=true
#include <benchmark/benchmark.h>

#include <vector>

#include "engine/cpu/kernels.h"

namespace {

constexpr int64_t kRows = 64, kDepth = 64;

void product(benchmark::State& state) {
  const int64_t width = state.range(0);
  const std::vector<float> a(kRows * kDepth, 0.01f), b(static_cast<size_t>(kDepth * width), 0.02f);
  std::vector<float> c(static_cast<size_t>(kRows * width));
  for (auto _ : state) {
    longstride::engine::cpu::multiply(kRows, width, kDepth, a.data(), kDepth, b.data(), width, c.data(), width, false);
    benchmark::ClobberMemory();
  }
  state.counters["GFLOP/s"] = benchmark::Counter(2e-9 * static_cast<double>(kRows * width * kDepth),
                                                 benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(product)->Arg(16)->Arg(24)->Arg(32)->Arg(40)->Arg(48)->Arg(56)->Arg(64)->Arg(72)->Arg(80)->Arg(96)->Arg(128);

}  // namespace

BENCHMARK_MAIN();
