// Large results and scratch come from the pool of the process, small ones do not, and nothing alive is handed out.
#include <ATen/ATen.h>
#include <ATen/MapAllocator.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/serialize.h>

#include <algorithm>
#include <cstring>

#include "longstride/attention.h"
#include "longstride/memory_pool.h"
#include "op/autograd/results.h"
#include "op/engines.h"

namespace longstride::op {
namespace {

using at::Tensor;
using autograd::empty_result;

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

// Below and above the limit a result is resized as every tensor of torch is, and keeps its values.
TEST_F(ProcessPool, ResultsOfEverySizeAreResized) {
  for (const int64_t from : {int64_t{1000}, kLarge / 4}) {
    for (const int64_t to : {int64_t{0}, int64_t{7}, kLarge / 4 - 1, kLarge / 4 + 1, kLarge / 2}) {
      SCOPED_TRACE(testing::Message() << from << " to " << to);
      Tensor result = empty_result({from}, at::kFloat);
      result.fill_(3);
      result.resize_({to});
      EXPECT_EQ(result.size(0), to);
      const int64_t kept = std::min(from, to);
      EXPECT_TRUE(result.narrow(0, 0, kept).eq(3).all().item<bool>());
      result.fill_(4);
      result.resize_({2, from});
      EXPECT_TRUE(result.flatten().narrow(0, 0, std::min(to, 2 * from)).eq(4).all().item<bool>());
      result.fill_(5);
    }
  }
  EXPECT_EQ(live(), 0);
}

TEST_F(ProcessPool, WhatAResultIsResizedToIsThePoolsToo) {
  {
    Tensor result = empty_result({kLarge}, at::kChar);
    result.resize_({3 * kLarge});
    EXPECT_GE(live(), 3 * kLarge);
    EXPECT_LT(live(), 4 * kLarge);  // the old memory is back
  }
  EXPECT_EQ(live(), 0);
}

TEST_F(ProcessPool, ALargeResultServesAsOut) {
  Tensor result = empty_result({kLarge / 4}, at::kFloat);
  const Tensor a = at::ones({kLarge / 4 + 100});
  result.resize_({0});
  at::add_out(result, a, a);
  EXPECT_EQ(result.size(0), kLarge / 4 + 100);
  EXPECT_TRUE(result.eq(2).all().item<bool>());
}

// set_() beyond the end of a storage enlarges it, and other tensors on it see the new memory.
TEST_F(ProcessPool, AStorageIsSetAndEnlarged) {
  const Tensor result = empty_result({kLarge / 4}, at::kFloat).fill_(1);
  Tensor other = at::empty({0});
  other.set_(result.storage(), 8, {4}, {2});
  EXPECT_TRUE(other.eq(1).all().item<bool>());
  EXPECT_EQ(other.data_ptr<float>(), result.data_ptr<float>() + 8);
  other.set_(result.storage(), 0, {kLarge / 2}, {1});
  EXPECT_TRUE(other.narrow(0, 0, kLarge / 4).eq(1).all().item<bool>());
  EXPECT_EQ(other.data_ptr(), result.data_ptr());
  Tensor moved = empty_result({kLarge / 4}, at::kFloat);
  moved.set_(other);
  EXPECT_EQ(moved.data_ptr(), other.data_ptr());
}

// What Python's share_memory_() does: another storage takes this one's place under every tensor on it.
TEST_F(ProcessPool, AStorageIsMovedToSharedMemory) {
  const Tensor result = empty_result({kLarge / 4}, at::kFloat).fill_(6);
  const Tensor view = result.narrow(0, 1, 3);
  const size_t bytes = result.storage().nbytes();
  size_t mapped = 0;
  at::DataPtr shared = at::MapAllocator::makeDataPtr(
      at::NewProcessWideShmHandle(),
      at::ALLOCATOR_MAPPED_SHAREDMEM | at::ALLOCATOR_MAPPED_EXCLUSIVE | at::ALLOCATOR_MAPPED_UNLINK, bytes, &mapped);
  std::memcpy(shared.get(), result.storage().data(), bytes);
  (void)result.storage().set_data_ptr(std::move(shared));
  EXPECT_EQ(live(), 0);
  EXPECT_TRUE(view.eq(6).all().item<bool>());
}

TEST_F(ProcessPool, ALargeResultIsPickledAndComesBack) {
  const Tensor result = empty_result({kLarge / 4}, at::kFloat).fill_(7);
  const std::vector<char> bytes = torch::pickle_save(result);
  const Tensor back = torch::pickle_load(bytes).toTensor();
  EXPECT_TRUE(at::equal(back, result));
  EXPECT_TRUE(at::equal(result.clone(), result));
}

TEST_F(ProcessPool, InferenceTensorsAreSo) {
  const c10::InferenceMode guard;
  EXPECT_EQ(empty_result({kLarge}, at::kChar).is_inference(), at::empty({1}).is_inference());
}

TEST_F(ProcessPool, SizesThatNoMemoryHasAreRefused) {
  for (const int64_t rows : {int64_t{1} << 60, int64_t{1} << 58, int64_t{1} << 50}) {
    try {
      (void)empty_result({rows, 4}, at::kFloat);
      FAIL() << rows << " x 4 floats were given";
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), testing::HasSubstr("must be"));
    }
  }
  EXPECT_EQ(live(), 0);
}

TEST_F(ProcessPool, LargeScratchOfAWorkspace) {
  const Loan loan = lend(Place{});
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
