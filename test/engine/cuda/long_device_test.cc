// Sequences of thousands of tokens on the device against the oracle, with the engine's own tiles: LongNet's shape,
// Prov-GigaPath's segments at a length that nothing divides, dense attention, documents, decoding.
#include <gtest/gtest.h>

#include "engine/cuda/sm90/sm90.h"
#include "test/engine/cuda/staging.h"

namespace longstride::test {
namespace {

using core::DType;

// A plain choice: modulo offsets, joint, masked, default scale, d_lse, TMA's layout; `set` has the last word.
Case long_case(DType dtype, int64_t dim, int64_t len, int64_t heads, int64_t kv_heads, bool causal,
               std::vector<int64_t> segments, std::vector<int64_t> rates,
               const std::function<void(oracle::Options&)>& set = {}) {
  Choice choice(kFactors, 0);
  choice[kDLse] = 1;
  choice[kLayout] = 3;
  return make_case(choice, static_cast<uint64_t>(len + dim), Poison::kNone, [&](DType& d, oracle::Options& o) {
    d = dtype;
    o.batch = 1;
    o.heads = heads;
    o.kv_heads = kv_heads;
    o.dim = dim;
    o.len_q = o.len_k = len;
    o.causal = causal;
    o.segments = segments;
    o.rates = rates;
    if (set) set(o);
  });
}

void check_long(const Case& c) { EXPECT_EQ(against_oracle(staged_sm90(), c, run_sm90(c)), ""); }

class CudaLong : public testing::TestWithParam<std::tuple<int64_t, bool>> {  // dim, causal
 protected:
  int64_t dim() const { return std::get<0>(GetParam()); }
  bool causal() const { return std::get<1>(GetParam()); }
};

TEST_P(CudaLong, LongNet) {
  check_long(long_case(DType::kBFloat16, dim(), 4096, 2, 1, causal(), {256, 512, 1024, 2048, 4096}, {1, 2, 4, 8, 16}));
}

TEST_P(CudaLong, LongNetOfFloats) {
  check_long(long_case(DType::kFloat32, dim(), 2048, 2, 1, causal(), {256, 512, 1024, 2048}, {1, 2, 4, 8}));
}

TEST_P(CudaLong, Dense) { check_long(long_case(DType::kBFloat16, dim(), 2003, 1, 1, causal(), {2003}, {1})); }

// More strides than one launch has tensor maps for: each KV head runs a group of its own.
TEST_P(CudaLong, ElevenStrides) {
  check_long(long_case(DType::kBFloat16, dim(), 1201, 22, 11, causal(), std::vector<int64_t>(11, 1201),
                       {1, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29}, [](oracle::Options& o) { o.head_partition = true; }));
}

TEST_P(CudaLong, Documents) {
  check_long(long_case(DType::kBFloat16, dim(), 2099, 4, 2, causal(), {256, 1024, 4096}, {1, 2, 4},
                       [](oracle::Options& o) { o.cu_seqlens = {0, 700, 700, 1311, 2000, 2099}; }));
}

TEST_P(CudaLong, BlocksBesideGroups) {
  check_long(long_case(DType::kBFloat16, dim(), 1999, 2, 1, causal(), {512, 2048}, {1, 4}, [](oracle::Options& o) {
    o.blocks = {{.kind = oracle::BlockKind::kGlobalLocal, .block_size = 64, .window = 200, .global_tokens = 64},
                {.kind = oracle::BlockKind::kStrided, .block_size = 32, .stride = 5}};
  }));
}

TEST_P(CudaLong, Decoding) {
  check_long(long_case(DType::kFloat16, dim(), 4099, 4, 1, causal(), {256, 1024, 4096}, {1, 2, 4},
                       [](oracle::Options& o) { o.query_start = 4001, o.len_q = 3; }));
}

INSTANTIATE_TEST_SUITE_P(Dims, CudaLong, testing::Combine(testing::Values(64, 128), testing::Bool()));

class CudaGigaPath : public testing::TestWithParam<bool> {};  // causal

// One head: the oracle takes half a minute for it.
TEST_P(CudaGigaPath, SegmentsAtALengthThatNothingDivides) {
  check_long(long_case(DType::kFloat16, 48, 10001, 1, 1, GetParam(), {1024, 5792, 32768, 185363, 1048576},
                       {1, 2, 4, 8, 16}, [](oracle::Options& o) {
                         o.offsets = {0, 1, 3, 5, 11};
                       }));
}

INSTANTIATE_TEST_SUITE_P(Causal, CudaGigaPath, testing::Bool());

}  // namespace
}  // namespace longstride::test
