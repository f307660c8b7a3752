// How long compiling plans takes: a million tokens, packed documents, short calls, decoding steps. The work behind
// these times is bounded by test/plan/work. `us_a_run` beside the time of a call.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <string>

#include "longstride/pattern.h"
#include "longstride/plan.h"
#include "test/plan/patterns.h"

namespace longstride::test {
namespace {

void compile_plans(benchmark::State& state, const Pattern& pattern, const Extent& extent, Direction direction) {
  size_t runs = 0;
  for (auto _ : state) {
    const Plan plan = compile(pattern, extent, {}, direction);
    runs = plan.runs.size();
    benchmark::DoNotOptimize(plan.tiles.data());
  }
  state.counters["runs"] = static_cast<double>(runs);
  state.counters["a_run"] = benchmark::Counter(
      static_cast<double>(runs), benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

void add(const std::string& name, const Pattern& pattern, const Extent& extent,
         Direction direction = Direction::kForward) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
    compile_plans(state, pattern, extent, direction);
  })->Unit(benchmark::kMicrosecond);
}

Extent packed(int64_t len, int64_t documents) {
  Extent extent = square(16, len);
  for (int64_t d = 0; d <= documents; ++d) extent.cu_seqlens.push_back(len * d / documents);
  return extent;
}

void add_all() {
  for (const bool causal : {false, true}) {
    const std::string suffix = causal ? "/causal" : "";
    add("million/fixed" + suffix, Pattern::dilated(kFixed, kDoubling, {.causal = causal}), square(16, kMillion));
    const Pattern growing = Pattern::dilated(kGrowing, kDoubling, {.causal = causal});
    add("million/growing" + suffix, growing, square(16, kMillion));
    add("million/growing/transposed" + suffix, growing, square(16, kMillion), Direction::kTransposed);
  }
  const Pattern longnet = Pattern::dilated(kFixed, kDoubling, {.causal = true});
  for (const int64_t documents : {64, 512}) {
    add("documents/16k/" + std::to_string(documents), longnet, packed(16384, documents));
  }
  for (const int64_t len : {64, 256, 1024}) add("short/" + std::to_string(len), longnet, square(16, len));
  for (const int64_t len : {int64_t{4096}, kMillion, int64_t{1} << 40}) {
    add("step/" + std::to_string(len), Pattern::dilated(kGrowing, kLongNet, {.causal = true}), step(16, len));
  }
  for (const BlockPattern& block : block_patterns(64)) {
    add(std::string("blocks/16k/") + block.name(), Pattern::block_sparse({block}), square(2, 16 << 10));
  }
}

}  // namespace
}  // namespace longstride::test

int main(int argc, char** argv) {
  longstride::test::add_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
