// The workspace that the op lends to engines: its threads are really there.
#include "op/engines.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace longstride::op {
namespace {

TEST(Workspace, RunsOnTwoThreadsAtOnce) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  const engine::Workspace w = lend(at::kCPU).workspace;
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

}  // namespace
}  // namespace longstride::op
