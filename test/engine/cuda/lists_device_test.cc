// Lists of blocks planned on the device: what attention over them gives, with its gradients and those of gates, against
// the oracle; the same bits as by the host's plan where tiles are alike; a graph replayed with other blocks in the same
// memory.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "engine/cuda/lists/plan.h"
#include "engine/cuda/sm80/sm80.h"
#include "engine/cuda/sm90/sm90.h"
#include "test/engine/cuda/staging.h"

namespace longstride::test {
namespace {

using core::DType;

struct Setting {
  int64_t block_size, len;
  bool causal = false;
  int64_t heads = 4, kv_heads = 2, batch = 2;
  int64_t query_start = 0, queries = 0;  // 0: all
  double dropout_p = 0;
  bool d_lse = false, lengths = false;
  int share = 3;  // one pair of blocks in so many is named; 0: none
};

constexpr Setting kSettings[] = {
    {.block_size = 64, .len = 257, .d_lse = true},
    {.block_size = 64, .len = 320, .causal = true, .heads = 4, .kv_heads = 4},
    {.block_size = 16, .len = 200, .causal = true, .heads = 3, .kv_heads = 1, .d_lse = true, .lengths = true},
    {.block_size = 5, .len = 101, .dropout_p = 0.3, .share = 6},
    {.block_size = 100, .len = 330, .causal = true, .dropout_p = 0.3, .lengths = true},
    {.block_size = 128, .len = 389, .query_start = 70, .queries = 311, .lengths = true},
    {.block_size = 300, .len = 700, .causal = true, .heads = 2, .kv_heads = 2, .query_start = 250, .queries = 277},
    {.block_size = 256, .len = 600, .causal = true, .heads = 2, .kv_heads = 1, .d_lse = true},
    {.block_size = 16, .len = 40, .heads = 2, .kv_heads = 2, .batch = 520, .lengths = true, .share = 2},
    {.block_size = 4, .len = 400, .heads = 1, .kv_heads = 1, .batch = 1, .share = 1},  // every pair: one run a tile
    {.block_size = 64, .len = 300, .share = 0},                                        // and nobody sees anything
};

Case list_case(const Setting& of, DType kind, int64_t dim, uint64_t seed) {
  Choice choice(kFactors, 0);
  choice[kDLse] = of.d_lse;
  choice[kLayout] = 3;
  return make_case(choice, seed, Poison::kUnread, [&](DType& dtype, oracle::Options& o) {
    dtype = kind;
    o.batch = of.batch;
    o.heads = of.heads;
    o.kv_heads = of.kv_heads;
    o.dim = dim;
    o.len_k = of.len;
    o.query_start = of.query_start;
    o.len_q = of.queries > 0 ? of.queries : of.len;
    o.causal = of.causal;
    o.dropout_p = of.dropout_p;
    o.lengths.clear();
    std::mt19937_64 random(seed);
    for (int64_t b = 0; of.lengths && b < of.batch; ++b)
      o.lengths.push_back(b == 0 ? of.len : static_cast<int64_t>(random() % (of.len + 1)));
    o.segments.clear();
    o.rates.clear();
    oracle::BlockRule list{.kind = oracle::BlockKind::kList, .block_size = of.block_size};
    const int64_t blocks = (of.len + of.block_size - 1) / of.block_size;
    for (int64_t i = 0; of.share > 0 && i < blocks; ++i) {
      for (int64_t j = 0; j < blocks; ++j) {
        if (random() % of.share != 0) continue;
        const int64_t batch = random() % 3 == 0 ? -1 : static_cast<int64_t>(random() % of.batch);
        const int64_t head = random() % 3 == 0 ? -1 : static_cast<int64_t>(random() % of.kv_heads);
        list.list.push_back({batch, head, i, j});
      }
    }
    o.blocks = {list};
  });
}

struct Kind {
  DType dtype;
  int64_t dim;
  bool portable = false;  // sm80
  bool deterministic = false;
};

void PrintTo(const Kind& kind, std::ostream* out) {
  *out << (kind.portable ? "sm80 " : "sm90 ") << core::name(kind.dtype) << " dim " << kind.dim;
}

std::string name_of(const testing::TestParamInfo<Kind>& info) {
  return std::string(info.param.portable ? "sm80_" : "sm90_") + core::name(info.param.dtype) + "_" +
         std::to_string(info.param.dim) + (info.param.deterministic ? "_deterministic" : "");
}

class CudaLists : public testing::TestWithParam<Kind> {};

TEST_P(CudaLists, AgreeWithTheOracle) {
  const Kind& kind = GetParam();
  uint64_t seed = 0;
  for (const Setting& of : kSettings) {
    const Case c = list_case(of, kind.dtype, kind.dim, ++seed);
    const Engine engine = staged_list(c, kind.portable, kind.deterministic);
    EXPECT_EQ(against_oracle(engine, c, run_case(engine, c)), "");
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, CudaLists,
                         testing::Values(Kind{DType::kBFloat16, 64}, Kind{DType::kBFloat16, 128},
                                         Kind{DType::kFloat16, 33}, Kind{DType::kFloat16, 64, false, true},
                                         Kind{DType::kBFloat16, 256}, Kind{DType::kFloat32, 64},
                                         Kind{DType::kFloat32, 64, true}, Kind{DType::kBFloat16, 96, true}),
                         name_of);

void require(cudaError_t error) { ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error); }

// Device memory of some values.
template <class T>
struct OnDevice {
  explicit OnDevice(const std::vector<T>& values) : count(values.size()) {
    require(cudaMalloc(&data, count * sizeof(T)));
    set(values);
  }
  ~OnDevice() { cudaFree(data); }
  void set(const std::vector<T>& values) {
    require(cudaMemcpy(data, values.data(), count * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> get() const {
    std::vector<T> values(count);
    require(cudaMemcpy(values.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }
  size_t count;
  T* data = nullptr;
};

// What is captured reads the list when it is replayed.
TEST(CudaListsInAGraph, GoByWhatTheListSaysThen) {
  constexpr int64_t kLen = 1024, kDim = 64, kHeads = 2, kBlock = 64, kRows = 100;
  std::mt19937_64 random(3);
  const auto drawn = [&] {
    std::vector<int32_t> rows;
    for (int64_t n = 0; n < kRows; ++n) {
      rows.insert(rows.end(), {0, static_cast<int32_t>(random() % kHeads)});
      for (int i = 0; i < 2; ++i) rows.push_back(static_cast<int32_t>(random() % (kLen / kBlock)));
    }
    return rows;
  };
  std::vector<uint16_t> values(kLen * kHeads * kDim);
  for (uint16_t& v : values) v = static_cast<uint16_t>(0x3c00 + random() % 0x400 + (random() % 2 << 15));  // bfloat16
  OnDevice<uint16_t> q(values), out(values);
  OnDevice<float> lse(std::vector<float>(kLen * kHeads));
  OnDevice<int32_t> rows(drawn());
  engine::ForwardProblem p{{.dtype = DType::kBFloat16,
                            .batch = 1,
                            .heads = kHeads,
                            .kv_heads = kHeads,
                            .len_q = kLen,
                            .len_k = kLen,
                            .dim = kDim,
                            .scale = 0.125}};
  const engine::ConstTensorRef tensor{q.data, 0, kHeads * kDim, kDim};
  p.q = p.k = p.v = tensor;
  p.out = {out.data, 0, kHeads * kDim, kDim};
  p.lse = lse.data;
  const engine::BlocksOnDevice list{.rows = rows.data, .count = kRows, .block_size = kBlock};
  cudaStream_t stream = nullptr;
  require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const engine::Workspace workspace;
  const auto run = [&] {
    namespace lists = engine::cuda::lists;
    const Geometry g = engine::cuda::sm90::geometry(Direction::kForward);
    engine::cuda::sm90::forward(p, lists::plan(p, list, g, Direction::kForward, workspace, stream), workspace, stream);
  };
  run();
  require(cudaStreamSynchronize(stream));
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  run();
  cudaGraph_t graph = nullptr;
  require(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t replayed = nullptr;
  require(cudaGraphInstantiate(&replayed, graph, 0));
  std::vector<std::vector<float>> seen;
  for (int turn = 0; turn < 3; ++turn) {
    rows.set(drawn());
    require(cudaGraphLaunch(replayed, stream));
    require(cudaStreamSynchronize(stream));
    const std::vector<uint16_t> by_graph = out.get();
    seen.push_back(lse.get());
    run();
    require(cudaStreamSynchronize(stream));
    EXPECT_EQ(by_graph, out.get());
    EXPECT_EQ(seen.back(), lse.get());
  }
  EXPECT_NE(seen[0], seen[1]);
  EXPECT_NE(seen[1], seen[2]);
  require(cudaGraphExecDestroy(replayed));
  require(cudaGraphDestroy(graph));
  require(cudaStreamDestroy(stream));
}

}  // namespace
}  // namespace longstride::test
