// The gradient of gates on the device against the oracle: blocks from one position to more than a tile, ragged ones,
// blocks without a pair, beside groups and alone.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include "engine/cuda/gates.h"
#include "engine/cuda/sm80/sm80.h"
#include "engine/cuda/sm90/sm90.h"
#include "longstride/error.h"
#include "test/engine/cuda/staging.h"

namespace longstride::test {
namespace {

using core::DType;

struct Setting {
  int64_t block_size, len;
  bool causal = false;
  int64_t heads = 6, kv_heads = 3;
  int64_t query_start = 0, queries = 0;  // 0: all
  int scale = 0;                         // a level of kScale
  double dropout_p = 0;
  bool d_lse = false, lengths = false, groups = false;
  int layout = 3;  // a level of kLayout, or one of rows that are read in pieces of 16 bytes
};

constexpr Setting kSettings[] = {
    {.block_size = 64, .len = 257, .d_lse = true},
    {.block_size = 64, .len = 256, .causal = true, .heads = 4, .kv_heads = 4, .layout = 4},
    {.block_size = 1, .len = 40, .causal = true, .heads = 3, .kv_heads = 1, .d_lse = true, .layout = 1},
    {.block_size = 7, .len = 100, .dropout_p = 0.3, .groups = true, .layout = 2},
    {.block_size = 16, .len = 200, .causal = true, .query_start = 37, .queries = 90, .scale = 2, .d_lse = true},
    {.block_size = 100, .len = 330, .causal = true, .dropout_p = 0.3, .lengths = true, .groups = true},
    {.block_size = 128, .len = 389, .query_start = 200, .queries = 189, .scale = 2, .lengths = true},
    {.block_size = 512, .len = 600, .causal = true, .heads = 2, .kv_heads = 1, .dropout_p = 0.3, .d_lse = true},
    {.block_size = 64, .len = 130, .scale = 1, .dropout_p = 0.3, .d_lse = true, .lengths = true, .layout = 0},
};

Case gate_case(const Setting& of, DType kind, int64_t dim, uint64_t seed) {
  Choice choice(kFactors, 0);
  choice[kDLse] = of.d_lse;
  choice[kScale] = of.scale;
  choice[kLayout] = of.layout;
  return make_case(choice, seed, Poison::kUnread, [&](DType& dtype, oracle::Options& o) {
    dtype = kind;
    o.batch = 2;
    o.heads = of.heads;
    o.kv_heads = of.kv_heads;
    o.dim = dim;
    o.len_k = of.len;
    o.query_start = of.query_start;
    o.len_q = of.queries > 0 ? of.queries : of.len;
    o.causal = of.causal;
    o.dropout_p = of.dropout_p;
    if (of.lengths) o.lengths = {of.len, of.len * 3 / 5};
    o.segments = {64, 128};
    o.rates = {1, 2};
    if (!of.groups) {
      o.segments.clear();
      o.rates.clear();
    }
    oracle::BlockRule list{.kind = oracle::BlockKind::kList, .block_size = of.block_size};
    const int64_t blocks = (of.len + of.block_size - 1) / of.block_size;
    for (int64_t i = 0; i < blocks; ++i) {
      list.list.push_back({-1, -1, i, i});
      list.list.push_back({-1, -1, i, i / 2});
      list.list.push_back({0, -1, i, (7 * i + 1) % blocks});  // also above the diagonal
      list.list.push_back({1, of.kv_heads - 1, i, (5 * i + 3) % blocks});
    }
    o.blocks = {list};
  });
}

struct Kind {
  DType dtype;
  int64_t dim;
  bool portable = false;  // sm80

  Results run(const Engine& engine, const Case& c) const {
    const auto plan = [&](Direction d) {
      const Geometry g =
          portable ? engine::cuda::sm80::geometry(dtype, dim, d) : engine::cuda::sm90::backward_geometry(dtype, d);
      return compile(c.pattern(), c.extent(), g, d);
    };
    return run_case(engine, c, plan(Direction::kForward), plan(Direction::kTransposed));
  }
};

void PrintTo(const Kind& kind, std::ostream* out) {
  *out << (kind.portable ? "sm80 " : "sm90 ") << core::name(kind.dtype) << " dim " << kind.dim;
}

std::string name_of(const testing::TestParamInfo<Kind>& info) {
  return std::string(info.param.portable ? "sm80_" : "sm90_") + core::name(info.param.dtype) + "_" +
         std::to_string(info.param.dim);
}

class CudaGates : public testing::TestWithParam<Kind> {};

TEST_P(CudaGates, AgreeWithTheOracle) {
  const Kind& kind = GetParam();
  uint64_t seed = 0;
  for (const Setting& of : kSettings) {
    const bool deterministic = ++seed % 2 == 0;
    const Engine engine = kind.portable ? staged_sm80(deterministic) : staged_sm90(deterministic);
    const Case c = gate_case(of, kind.dtype, kind.dim, seed);
    const Results r = kind.run(engine, c);
    EXPECT_EQ(against_oracle(engine, c, r), "");
    int64_t alive = 0;
    for (const double gate : r.gates.value()) alive += gate != 0;
    EXPECT_GT(alive, 0) << c.words();
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, CudaGates,
                         testing::Values(Kind{DType::kBFloat16, 64}, Kind{DType::kBFloat16, 128},
                                         Kind{DType::kFloat16, 33}, Kind{DType::kFloat16, 256},
                                         Kind{DType::kFloat32, 64}, Kind{DType::kFloat32, 1, true},
                                         Kind{DType::kFloat32, 33, true}, Kind{DType::kFloat32, 64, true},
                                         Kind{DType::kFloat32, 200, true}, Kind{DType::kFloat32, 256, true},
                                         Kind{DType::kBFloat16, 96, true}, Kind{DType::kFloat16, 64, true}),
                         name_of);

// Above the diagonal, beyond a row's length, before the first query: 0 exactly, whatever lies there.
TEST(CudaGatesOfNothing, AreZero) {
  const Setting of{.block_size = 16, .len = 200, .causal = true, .query_start = 60, .queries = 140, .lengths = true};
  const Kind kind{DType::kBFloat16, 64};
  const Case c = gate_case(of, kind.dtype, kind.dim, 5);
  const std::vector<double> gates = kind.run(staged_sm90(), c).gates.value();
  const auto cells = gate_cells(c);
  ASSERT_EQ(gates.size(), cells.size());
  int64_t without = 0;
  for (size_t n = 0; n < cells.size(); ++n) {
    const auto [b, j, query_block, key_block] = cells[n];
    const int64_t last_query = std::min((query_block + 1) * of.block_size, c.options.lengths[b]) - 1;
    const bool empty = last_query < of.query_start || last_query < query_block * of.block_size ||
                       key_block * of.block_size > last_query;
    without += empty;
    EXPECT_EQ(gates[n] == 0, empty) << query_block << ", " << key_block << " of batch row " << b;
  }
  EXPECT_GT(without, 20);
}

TEST(CudaGatesRepeated, AreBitwiseEqual) {
  for (const bool portable : {false, true}) {
    const Kind kind{DType::kBFloat16, 64, portable};
    const Engine engine = portable ? staged_sm80() : staged_sm90();
    const Case c = gate_case(kSettings[5], kind.dtype, kind.dim, 6);
    const std::vector<double> first = kind.run(engine, c).gates.value();
    for (int repeat = 1; repeat < 20; ++repeat) ASSERT_EQ(first, kind.run(engine, c).gates);
  }
}

// Their list comes from the host, which a graph would not read again.
TEST(CudaGatesUnderCapture, AreRefused) {
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  const int64_t begin[] = {0, 1};
  const engine::GateRange range{.query_end = 8, .key_end = 8};
  const engine::Gates gates{.begin = begin, .ranges = &range};
  engine::BackwardProblem p{{.batch = 1, .heads = 1, .kv_heads = 1, .len_q = 8, .len_k = 8, .dim = 8}};
  p.gates = &gates;
  try {
    engine::cuda::gate_gradients(p, engine::Workspace{}, stream);
    ADD_FAILURE() << "taken";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("must be null while the stream is being captured"), std::string::npos)
        << error.what();
  }
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

}  // namespace
}  // namespace longstride::test
