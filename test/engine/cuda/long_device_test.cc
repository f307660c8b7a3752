// Sequences of thousands of tokens on the device against the reference engine in float64 on the same plans: LongNet's
// shape, Prov-GigaPath's segments at a length that nothing divides, dense attention, decoding.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "engine/cuda/sm90/sm90.h"
#include "engine/reference/reference.h"
#include "test/engine/compare.h"
#include "test/engine/cuda/staging.h"

namespace longstride::test {
namespace {

using core::DType;

engine::Workspace threads() {
  engine::Workspace w;
  w.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  w.parallel_for = [count = w.threads](int64_t n, const std::function<void(int64_t, int)>& body) {
    std::vector<std::thread> team;
    std::atomic<int64_t> next{0};
    for (int t = 0; t < count; ++t) {
      team.emplace_back([&, t] {
        for (int64_t i = next++; i < n; i = next++) body(i, t);
      });
    }
    for (std::thread& member : team) member.join();
  };
  return w;
}

const Engine kReference{
    "reference", [](const auto& p, const auto& plan, const auto& w) { engine::reference::forward(p, plan, w); },
    [](const auto& p, const auto& g, const auto& plan, const auto& w) { engine::reference::backward(p, g, plan, w); }};

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

void check_long(const Case& c) {
  const auto plan = [&](Direction d) { return compile(c.pattern(), c.extent(), engine::cuda::sm90::geometry(d), d); };
  const Plan forward = plan(Direction::kForward), transposed = plan(Direction::kTransposed);
  const Results actual = run_case(staged_sm90(), c, forward, transposed);
  Case exact = c;
  exact.dtype = DType::kFloat64;
  const Results expected = run_case(kReference, exact, forward, transposed, threads());
  // No term of these sums is large beside 1, so the output's own roundoff is the whole allowance but for dk and dv, sums
  // over many queries whose shares were rounded to the dtype.
  const double unit = roundoff(c.dtype);
  EXPECT_EQ(difference("out", actual.out, expected.out, unit), "") << c.words();
  EXPECT_EQ(difference("lse", actual.lse, expected.lse, 0x1p-24, 1e-5), "") << c.words();
  EXPECT_EQ(difference("dq", actual.dq, expected.dq, unit), "") << c.words();
  EXPECT_EQ(difference("dk", actual.dk, expected.dk, unit), "") << c.words();
  EXPECT_EQ(difference("dv", actual.dv, expected.dv, unit), "") << c.words();
  EXPECT_FALSE(actual.strayed) << c.words();
}

class CudaLong : public testing::TestWithParam<int64_t> {};  // dim

TEST_P(CudaLong, LongNet) {
  for (const bool causal : {false, true})
    check_long(long_case(DType::kBFloat16, GetParam(), 8192, 4, 2, causal, {512, 1024, 2048, 4096, 8192},
                         {1, 2, 4, 8, 16}));
}

TEST_P(CudaLong, GigaPathSegments) {
  for (const bool causal : {false, true})
    check_long(long_case(DType::kFloat16, GetParam(), 10001, 4, 4, causal, {1024, 5792, 32768, 185363, 1048576},
                         {1, 2, 4, 8, 16}));
}

TEST_P(CudaLong, Dense) {
  for (const bool causal : {false, true})
    check_long(long_case(DType::kBFloat16, GetParam(), 2003, 2, 2, causal, {2003}, {1}));
}

TEST_P(CudaLong, DocumentsAndDecoding) {
  check_long(long_case(DType::kBFloat16, GetParam(), 4099, 4, 2, true, {256, 1024, 4096}, {1, 2, 4},
                       [](oracle::Options& o) { o.cu_seqlens = {0, 700, 700, 1911, 4000, 4099}; }));
  check_long(long_case(DType::kBFloat16, GetParam(), 4099, 4, 1, true, {256, 1024, 4096}, {1, 2, 4},
                       [](oracle::Options& o) { o.query_start = 4001, o.len_q = 3; }));
}

INSTANTIATE_TEST_SUITE_P(Dims, CudaLong, testing::Values(64, 128, 48));

}  // namespace
}  // namespace longstride::test
