// The workspace that the op lends to engines: its threads are really there, and what they throw arrives.
#include "op/engines.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "longstride/error.h"
#include "longstride/pattern.h"

namespace longstride::op {
namespace {

TEST(UseEngine, CallsOfItsDeviceRunOnIt) {
  const auto chosen = [](core::DType dtype) {
    const engine::Problem problem{
        .dtype = dtype, .batch = 1, .heads = 1, .kv_heads = 1, .len_q = 1, .len_k = 1, .dim = 8};
    return std::string(choose_engine(Place{}, problem).name);
  };
  EXPECT_EQ(chosen(core::DType::kFloat32), "cpu");
  EXPECT_EQ(use_engine("reference"), "");
  EXPECT_EQ(chosen(core::DType::kFloat32), "reference");
  EXPECT_EQ(use_engine("cpu"), "reference");
  EXPECT_EQ(chosen(core::DType::kFloat32), "cpu");
  EXPECT_THROW(chosen(core::DType::kFloat64), Error);
  EXPECT_THROW(use_engine("cqu"), Error);
  EXPECT_EQ(use_engine(""), "cpu");
  EXPECT_EQ(chosen(core::DType::kFloat64), "reference");
}

// The plans that an engine gets which takes those of earlier positions, and one that does not.
TEST(ForwardPlan, OfADecodingStepServesLaterOnes) {
  engine::Problem problem{.batch = 1, .heads = 2, .kv_heads = 2, .len_q = 1, .dim = 8};
  const Pattern pattern = Pattern::dilated({1024, 4096}, {1, 4}, {.causal = true});
  Engine engine = choose_engine(Place{}, problem);
  const auto plan = [&](int64_t position) {
    problem.len_k = position + 1;
    problem.query_start = position;
    problem.plan_tokens = 0;
    const Extent extent{.heads = 2, .kv_heads = 2, .len_q = 1, .len_k = position + 1, .query_start = position};
    return forward_plan(engine, problem, pattern, extent, false);
  };
  const PlanPointer own = plan(1600);
  EXPECT_EQ(problem.plan_tokens, 0);
  EXPECT_NE(plan(1604), own);
  EXPECT_EQ(problem.plan_tokens, 0);
  engine.takes_plan_tokens = true;
  const PlanPointer base = plan(1600);
  EXPECT_EQ(problem.plan_tokens, 1600 - 1536);
  EXPECT_EQ(plan(1604), base);
  EXPECT_EQ(problem.plan_tokens, 1604 - 1536);
  EXPECT_NE(plan(1605), base) << "another place modulo the rates";
  EXPECT_NE(plan(2048), base) << "another segment";
  problem.alibi = true;
  EXPECT_NE(plan(1604), base);
  EXPECT_EQ(problem.plan_tokens, 0);
  problem.alibi = false;
  problem.dropout_p = 0.5;
  EXPECT_NE(plan(1604), base);
  EXPECT_EQ(problem.plan_tokens, 0);
}

TEST(Workspace, RunsOnTwoThreadsAtOnce) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  const engine::Workspace w = lend(Place{}).workspace;
  ASSERT_EQ(w.threads, 2);
  // Each index waits for the other: one thread alone would wait for ever, so it gives up in the end.
  std::atomic<int> here{0};
  std::atomic<int> met{0};
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(20);
  w.parallel_for(2, [&](int64_t, int) {
    ++here;
    while (here < 2 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    if (here == 2) ++met;
  });
  at::set_num_threads(before);
  EXPECT_EQ(met, 2);
}

// Between the threads and the caller stands LibTorch's C interface, which knows texts only.
TEST(Workspace, WhatABodyThrowsArrivesAsItIs) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  const engine::Workspace w = lend(Place{}).workspace;
  EXPECT_THROW(w.parallel_for(8,
                              [](int64_t i, int) {
                                if (i == 3) throw Error("the fourth");
                              }),
               Error);
  EXPECT_THROW(w.parallel_for(1, [](int64_t, int) { throw std::bad_alloc(); }), std::bad_alloc);
  std::atomic<int> sum{0};
  w.parallel_for(8, [&](int64_t i, int) { sum += static_cast<int>(i); });
  at::set_num_threads(before);
  EXPECT_EQ(sum, 28);
}

TEST(Workspace, HasOneThreadInsideAParallelRegion) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  std::atomic<int> most{0};
  lend(Place{}).workspace.parallel_for(2, [&](int64_t, int) {
    const engine::Workspace inner = lend(Place{}).workspace;
    inner.parallel_for(3,
                       [&](int64_t, int thread) { most = std::max(most.load(), std::max(inner.threads, thread + 1)); });
  });
  at::set_num_threads(before);
  EXPECT_EQ(most, 1);
}

}  // namespace
}  // namespace longstride::op
