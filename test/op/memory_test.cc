// Large results and scratch come from the pool of the process, small ones do not, and nothing alive is handed out.
#include "op/memory.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "longstride/attention.h"
#include "longstride/memory_pool.h"
#include "op/engines.h"

namespace longstride::op {
namespace {

using at::Tensor;

constexpr int64_t kLarge = (int64_t{32} << 20) + 4;

class ProcessPool : public testing::Test {
 protected:
  void SetUp() override { process_memory_pool().trim(); }
  void TearDown() override { process_memory_pool().trim(); }
  int64_t live() const { return process_memory_pool().statistics().live_bytes - before_; }
  int64_t cached() const { return process_memory_pool().statistics().cached_bytes; }

 private:
  const int64_t before_ = process_memory_pool().statistics().live_bytes;
};

TEST_F(ProcessPool, ALargeResultReturnsWithItsLastReference) {
  void* data = nullptr;
  {
    Tensor view;
    {
      const Tensor large = empty_result({kLarge / 4, 1}, at::kFloat);
      EXPECT_EQ(large.sizes(), at::IntArrayRef({kLarge / 4, 1}));
      EXPECT_TRUE(large.is_contiguous());
      EXPECT_EQ(large.scalar_type(), at::kFloat);
      data = large.data_ptr();
      view = large.narrow(0, 5, 7);
    }
    EXPECT_GE(live(), kLarge);
    view.fill_(1);
    const Tensor another = empty_result({kLarge / 2}, at::kHalf);
    EXPECT_NE(another.data_ptr(), data);
    another.fill_(2);
    EXPECT_TRUE(view.eq(1).all().item<bool>());
  }
  EXPECT_EQ(live(), 0);
  EXPECT_GE(cached(), 2 * kLarge);
  const Tensor first = empty_result({kLarge}, at::kChar), second = empty_result({kLarge}, at::kChar);
  EXPECT_TRUE(first.data_ptr() == data || second.data_ptr() == data);
}

TEST_F(ProcessPool, SmallResultsStayWithLibTorch) {
  const Tensor small = empty_result({int64_t{32} << 20}, at::kChar);
  EXPECT_EQ(live(), 0);
  EXPECT_TRUE(small.storage().resizable());
}

TEST_F(ProcessPool, AttentionAndItsGradientsUseItAgain) {
  const int64_t len = kLarge / 4 / 128 + 1;
  const Tensor q = at::ones({1, len, 1, 128}).requires_grad_();
  const Pattern pattern = Pattern::dilated({16}, {1});
  const auto step = [&] {
    const AttentionResult r = attention(q, q, q, pattern);
    r.out.backward(at::ones({1}).expand_as(r.out));
    EXPECT_GE(live(), kLarge);
  };
  step();
  q.mutable_grad() = Tensor();
  EXPECT_EQ(live(), 0);
  const auto hits = process_memory_pool().statistics().hits;
  step();
  EXPECT_GT(process_memory_pool().statistics().hits, hits);
}

TEST_F(ProcessPool, LargeScratchOfAWorkspace) {
  const Loan loan = lend(at::kCPU);
  const engine::Workspace& w = loan.workspace;
  void* const small = w.allocate(1000);
  EXPECT_EQ(live(), 0);
  void* const large = w.allocate(static_cast<size_t>(kLarge));
  EXPECT_GE(live(), kLarge);
  w.free(large);
  w.free(small);
  EXPECT_EQ(live(), 0);
  EXPECT_GE(cached(), kLarge);
  EXPECT_EQ(w.allocate(static_cast<size_t>(kLarge)), large);
  w.free(large);
}

}  // namespace
}  // namespace longstride::op
