// The host side of the CUDA engine, without a GPU: what it takes and refuses, its tile shapes, plans at those shapes.
#include <gtest/gtest.h>

#include <vector>

#include "engine/cuda/sm80/sm80.h"
#include "engine/cuda/sm90/dropout_words.h"
#include "engine/cuda/sm90/padding.h"
#include "engine/cuda/sm90/sm90.h"
#include "engine/cuda/sm90/tensor_maps.h"
#include "engine/cuda/upload.h"
#include "longstride/error.h"
#include "longstride/pattern.h"
#include "test/engine/run.h"

namespace longstride::test {
namespace {

using namespace engine::cuda;
using core::DType;

engine::Problem problem() {
  engine::Problem p;
  p.dtype = DType::kBFloat16;
  p.batch = 1;
  p.heads = 4;
  p.kv_heads = 2;
  p.len_q = p.len_k = 100;
  p.dim = 64;
  return p;
}

// Every thread finds the words of its columns in its 16 bytes, and no two words share a place.
template <class Words>
void check_places() {
  std::vector<int> column_at(Words::kSize, -1);
  for (int column = 0; column < Words::kColumns; ++column) {
    for (int word = 0; word < Words::kWords; ++word) {
      int& at = column_at.at(static_cast<size_t>(Words::place(column) + 2 * word));
      EXPECT_EQ(at, -1) << column;
      at = column;
    }
  }
  for (int column0 = 0; column0 < 8; column0 += 2) {
    for (int n = 0; n < Words::kColumns / 8; ++n) {
      for (int word = 0; word < Words::kWords; ++word) {
        for (int i = 0; i < 2; ++i) {
          const int word_of_n = 2 * (n * Words::kWords + word) + i;
          const int at = Words::fours(column0, word_of_n / 4) + word_of_n % 4;
          EXPECT_EQ(column_at.at(static_cast<size_t>(at)), 8 * n + column0 + i);
        }
      }
    }
    EXPECT_EQ(Words::fours(column0, 0) % 4, 0);
  }
}

TEST(CudaHost, WordsOfDropoutLieWhereTheirThreadsRead) {
  check_places<sm90::ColumnWords<128, 1>>();
  check_places<sm90::ColumnWords<64, 1>>();
  check_places<sm90::ColumnWords<64, 2>>();
}

TEST(CudaHost, CapabilityNamesWhatItRefuses) {
  EXPECT_TRUE(sm90::capability(problem()).yes);
  EXPECT_EQ(sm90::capability(problem()).reason, "cuda sm90");
  const auto reason = [](auto&& change) {
    engine::Problem p = problem();
    change(p);
    const engine::Capability can = sm90::capability(p);
    return can.yes ? "taken" : can.reason;
  };
  EXPECT_EQ(reason([](auto& p) { p.dtype = DType::kFloat32; }), "taken");
  EXPECT_EQ(reason([](auto& p) { p.dtype = DType::kFloat64; }),
            "dtype must be float32, bfloat16 or float16, got float64");
  EXPECT_EQ(reason([](auto& p) { p.dtype = DType::kFloat32, p.dim = 129; }),
            "dim must be 1 to 128 of float32, got 129");
  EXPECT_EQ(reason([](auto& p) { p.dim = 257; }), "dim must be 1 to 256, got 257");
  EXPECT_EQ(reason([](auto& p) { p.dim = 0; }), "dim must be 1 to 256, got 0");
  EXPECT_EQ(reason([](auto& p) { p.kv_heads = 3; }), "kv_heads must divide heads, got 3 and 4");
  EXPECT_EQ(reason([](auto& p) { p.dropout_p = 1; }), "dropout_p must lie in [0, 1), got 1");
  EXPECT_EQ(reason([](auto& p) { p.alibi = true; }), "taken");
  const auto step = [&](auto&& change) {
    return reason([&](auto& p) { p.len_q = 1, p.query_start = 99, p.plan_tokens = 8, change(p); });
  };
  EXPECT_EQ(step([](auto&) {}), "taken");
  EXPECT_EQ(step([](auto& p) { p.plan_tokens = 100; }), "plan_tokens must lie in [0, query_start = 99], got 100");
  EXPECT_EQ(step([](auto& p) { p.len_q = 2; }),
            "plan_tokens must be 0 with 2 queries, got 8; compile a plan for this position");
  EXPECT_EQ(step([](auto& p) { p.alibi = true; }),
            "plan_tokens must be 0 with ALiBi, got 8; compile a plan for this position");
  EXPECT_EQ(step([](auto& p) { p.dropout_p = 0.5; }),
            "plan_tokens must be 0 with dropout, got 8; compile a plan for this position");
  EXPECT_EQ(reason([](auto& p) { p.len_k = int64_t{1} << 31; }), "len_k must be below 2^31, got 2147483648");
  for (const int64_t dim : {1, 33, 48, 96, 128, 256}) EXPECT_EQ(reason([&](auto& p) { p.dim = dim; }), "taken") << dim;
}

// Above dim 64 it is a question to the device as well.
TEST(CudaHost, PortableBackwardWantsTheForwardPlanWhereDqIsMadeByItself) {
  engine::Problem p = problem();
  p.dim = 64;
  EXPECT_FALSE(sm80::backward_wants_forward_plan(p));
  p.deterministic = true;
  EXPECT_TRUE(sm80::backward_wants_forward_plan(p));
  p.deterministic = false;
  p.dtype = DType::kFloat32;
  EXPECT_TRUE(sm80::backward_wants_forward_plan(p));
  p.dtype = DType::kFloat16;
  p.dim = 129;
  EXPECT_TRUE(sm80::backward_wants_forward_plan(p));
}

TEST(CudaHost, HopperBackwardWantsTheForwardPlanWhereDqIsMadeByItself) {
  engine::Problem p = problem();
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    p.dtype = dtype;
    p.dim = 128;
    p.deterministic = false;
    EXPECT_FALSE(sm90::backward_wants_forward_plan(p));
    p.deterministic = true;
    EXPECT_TRUE(sm90::backward_wants_forward_plan(p));
  }
  p.deterministic = false;
  p.dim = 129;
  EXPECT_TRUE(sm90::backward_wants_forward_plan(p));
}

// Deterministic gradients of float32 are the portable engine's, by plans of the Hopper engine's shape.
TEST(CudaHost, HopperLeavesDeterministicFloat32ToThePortableEngine) {
  engine::Problem p = problem();
  p.dtype = DType::kFloat32;
  EXPECT_TRUE(sm90::has_backward(p));
  p.deterministic = true;
  EXPECT_FALSE(sm90::has_backward(p));
  EXPECT_TRUE(sm80::backward_wants_forward_plan(p));
  for (const Direction d : {Direction::kForward, Direction::kTransposed})
    for (const int64_t dim : {16, 64, 128})
      EXPECT_LE(sm90::backward_geometry(p.dtype, d).tile_rows, sm80::geometry(p.dtype, dim, d).tile_rows);
  p.dtype = DType::kBFloat16;
  EXPECT_TRUE(sm90::has_backward(p));
}

TEST(CudaHost, PortableEngineTakesFloat32Too) {
  engine::Problem p = problem();
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    p.dtype = dtype;
    EXPECT_EQ(sm80::capability(p).reason, "cuda sm80");
  }
  p.dtype = DType::kFloat64;
  EXPECT_EQ(sm80::capability(p).reason, "dtype must be float32, bfloat16 or float16, got float64");
  p = problem();
  p.alibi = true;
  EXPECT_TRUE(sm80::capability(p).yes);
  p = problem();
  p.dim = 257;
  EXPECT_EQ(sm80::capability(p).reason, "dim must be 1 to 256, got 257");
  // Four arrays of rows and a tile of scores fit in what Ampere gives a block.
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const int64_t dim : {32, 64, 128, 256}) {
      const Geometry g = sm80::geometry(dtype, dim, Direction::kForward);
      const int64_t bytes = core::size_bytes(dtype);
      EXPECT_LE(2 * (g.tile_rows + g.column_block) * (dim * bytes + 16) + g.tile_rows * (g.column_block * bytes + 16),
                163 * 1024 - 1024);
    }
  }
}

TEST(CudaHost, WhatTheCopyEngineReadsInPlace) {
  alignas(16) static unsigned char memory[64];
  EXPECT_EQ(sm90::why_not({memory, 4096, 512, 64}, DType::kBFloat16), "");
  EXPECT_EQ(sm90::why_not({memory + 2, 4096, 512, 64}, DType::kBFloat16), "data is not 16-byte aligned");
  EXPECT_EQ(sm90::why_not({memory, 4096, 515, 64}, DType::kBFloat16), "len stride 515 is not a multiple of 16 bytes");
  EXPECT_EQ(sm90::why_not({memory, 4096, 512, 67}, DType::kBFloat16), "head stride 67 is not a multiple of 16 bytes");
  EXPECT_EQ(sm90::why_not({memory, 4097, 512, 64}, DType::kBFloat16),
            "batch stride 4097 is not a multiple of 16 bytes");
  EXPECT_TRUE(sm90::takes_pairs({memory, 4096, 514, 66}, 66));
  EXPECT_FALSE(sm90::takes_pairs({memory, 4096, 514, 67}, 66));
  EXPECT_FALSE(sm90::takes_pairs({memory, 4096, 514, 66}, 65));
}

// A level of stride 3 over 100 positions: residue 0 has 34 rows, residues 1 and 2 have 33.
TEST(CudaHost, MapsAreTheLevelsOfATensor) {
  const engine::ConstTensorRef t{nullptr, 100 * 4 * 64, 4 * 64, 64};
  const auto list = [](const auto& values) { return std::vector<uint64_t>(std::begin(values), std::end(values)); };
  const sm90::MapShape all = sm90::map_shape(t, DType::kBFloat16, 2, 33, 3, 4, 64, 3, 128, 64);
  EXPECT_EQ(list(all.extents), (std::vector<uint64_t>{64, 3, 33, 4, 2}));
  EXPECT_EQ(list(all.strides_bytes), (std::vector<uint64_t>{512, 1536, 128, 51200}));
  EXPECT_EQ(list(all.boxes), (std::vector<uint64_t>{64, 1, 128, 1, 1}));
  EXPECT_EQ(all.swizzle_bytes, 128);
  // One residue, one head: their strides are of no account, and must not be 0.
  const engine::ConstTensorRef lone{nullptr, 0, 64, 0};
  const sm90::MapShape front = sm90::map_shape(lone, DType::kBFloat16, 1, 34, 1, 1, 48, 3, 128, 32);
  EXPECT_EQ(list(front.extents), (std::vector<uint64_t>{48, 1, 34, 1, 1}));
  EXPECT_EQ(list(front.strides_bytes), (std::vector<uint64_t>{16, 384, 16, 16}));
  EXPECT_EQ(front.swizzle_bytes, 64);
  EXPECT_EQ(sm90::map_shape(t, DType::kFloat32, 1, 33, 3, 4, 64, 3, 64, 32).swizzle_bytes, 128);
}

TEST(CudaHost, GeometryIsWhatTheKernelsTile) {
  for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
    const Geometry g = sm90::geometry(direction);
    EXPECT_EQ(g.tile_rows, 128);
    EXPECT_EQ(g.column_block, direction == Direction::kForward ? 128 : 64);
    EXPECT_EQ(g.row_quantum, 128);
  }
}

// What an engine of 128 rows pays for LongNet's 128k: the figures of docs/ladder.md.
TEST(CudaHost, PlansOfLongNet) {
  Extent extent;
  extent.heads = extent.kv_heads = 16;
  extent.len_q = extent.len_k = 131072;
  for (const bool causal : {false, true}) {
    DilatedOptions options;
    options.causal = causal;
    const Pattern pattern = Pattern::dilated({2048, 4096, 8192, 16384, 32768}, {1, 2, 4, 8, 16}, options);
    for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
      const Plan plan = compile(pattern, extent, sm90::geometry(direction), direction);
      const PlanCounts counts = count(plan.view(), extent);
      EXPECT_NEAR(counts.computed_per_row(), causal ? 1838 : 3008, 1);
      EXPECT_EQ(counts.merged_rows, causal ? counts.rows / 8 : 0);
    }
  }
}

}  // namespace
}  // namespace longstride::test
