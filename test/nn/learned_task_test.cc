// A scorer comes to choose the blocks that a task needs, from the gradient of its gates, and from nothing else.
#include <gtest/gtest.h>
#include <torch/optim/adam.h>

#include "test/nn/support.h"

namespace longstride::nn_test {
namespace {

using at::Tensor;

// Row i needs block target(i), and its queries say which: they carry the code of the target's keys. Logits are 0, so
// that nothing but the choice of blocks brings the loss down, and only the scorer learns. Every row may take one block
// beside its diagonal, of seven.
struct Task {
  static constexpr int64_t kBlocks = 8, kSize = 4, kDim = 16, kHeads = 2;
  Tensor q, k, v, wanted;
  Tensor target;  // [batch, heads, blocks]

  explicit Task(int64_t batch) {
    const int64_t rows = batch * kHeads;
    const Tensor codes = at::eye(kDim);
    const Tensor order =
        at::rand({rows, kDim}).argsort(int64_t{1}).slice(1, 0, kBlocks);  // each block's code, a sample and head
    const Tensor aim = (at::arange(kBlocks) + at::randint(1, kBlocks, {rows, kBlocks})).remainder(kBlocks);
    const Tensor values = at::randn({rows, kBlocks, kDim});
    const auto tokens = [&](const Tensor& t) {  // [rows, blocks, dim] -> [batch, len, heads, dim]
      return t.repeat_interleave(kSize, 1).view({batch, kHeads, kBlocks * kSize, kDim}).transpose(1, 2);
    };
    q = tokens(codes.index({order.gather(1, aim)}));
    k = tokens(codes.index({order}));
    v = tokens(values);
    wanted = tokens(values.gather(1, aim.unsqueeze(2).expand({-1, -1, kDim})));
    target = aim.view({batch, kHeads, kBlocks});
  }

  // The share of rows whose target was chosen.
  double recall(const BlockChoice& choice) const {
    return mask_of(choice).gather(3, target.unsqueeze(3)).to(at::kDouble).mean().item<double>();
  }
};

struct Learned {
  double recall = 0;   // on unseen samples
  double density = 0;  // there
  Tensor counts;       // blocks a row, there
};

// sign: of the gates' gradient on its way to the scores.
Learned learn(uint64_t seed, double sign, const LearnedBlocks& blocks, double density_weight) {
  constexpr int kSteps = 250;
  const OneThread one_thread;
  torch::manual_seed(seed);
  DilatedAttentionOptions o;
  o.learned = blocks;
  o.softmax_scale = 0;
  DilatedAttention module(o);
  torch::optim::Adam optimizer(module->parameters(), torch::optim::AdamOptions(0.01));
  for (int step = 0; step < kSteps; ++step) {
    module->scorer->set_temperature(2.0 * (1 - double(step) / kSteps));
    const Task task(16);
    BlockChoice choice;
    const Tensor out = module(task.q, task.k, task.v, AttentionOptions{}, &choice).out;
    choice.gates.register_hook([sign](const Tensor& d) { return d * sign; });
    optimizer.zero_grad();
    ((out - task.wanted).square().mean() + density_weight * choice.density_loss).backward();
    optimizer.step();
  }
  module->eval();
  const at::NoGradGuard no_grad;
  const Task unseen(32);
  BlockChoice choice;
  module(unseen.q, unseen.k, unseen.v, AttentionOptions{}, &choice);
  const Tensor mask = mask_of(choice);
  return {unseen.recall(choice), mask.to(at::kDouble).mean().item<double>(), mask.sum(3)};
}

LearnedBlocks task_blocks() {
  LearnedBlocks l;
  l.block_size = Task::kSize;
  l.density = 2.0 / Task::kBlocks;
  l.head_dim = Task::kDim;
  l.kv_heads = Task::kHeads;
  return l;
}

class LearnedBlockAttentionTask : public testing::TestWithParam<int> {};

TEST_P(LearnedBlockAttentionTask, IsLearnt) {
  const Learned learned = learn(uint64_t(GetParam()), 1, task_blocks(), 0.1);
  RecordProperty("recall", std::to_string(learned.recall));
  EXPECT_GE(learned.recall, 0.95);  // by chance 1 in 7; measured 1.00
  EXPECT_TRUE(learned.counts.eq(2).all().item<bool>()) << "density on target, in every row";
}

INSTANTIATE_TEST_SUITE_P(Seeds, LearnedBlockAttentionTask, testing::Values(1, 2, 3));

TEST(LearnedBlockAttention, LearnsNothingFromAWrongSign) {
  const Learned learned = learn(1, -1, task_blocks(), 0.1);
  RecordProperty("recall", std::to_string(learned.recall));
  EXPECT_LE(learned.recall, 0.05) << "it avoids what it should keep";
  EXPECT_TRUE(learned.counts.eq(2).all().item<bool>());
}

// With bounds the rows take what is worth it, and the density loss says what that is.
TEST(LearnedBlockAttention, DensityLossDecidesHowManyBlocksAreTakenWithinBounds) {
  LearnedBlocks bounded = task_blocks();
  bounded.min_density = 1.0 / Task::kBlocks;
  bounded.max_density = 4.0 / Task::kBlocks;
  const Learned free = learn(1, 1, bounded, 0), held = learn(1, 1, bounded, 3);
  EXPECT_GE(free.recall, 0.95);
  EXPECT_GE(held.recall, 0.95);
  EXPECT_GT(free.density, 0.45);
  EXPECT_LT(held.density, 0.38);
  EXPECT_GE(held.density, 0.25);
  EXPECT_GE(held.counts.min().item<int64_t>(), 1);
  EXPECT_LE(held.counts.max().item<int64_t>(), 4);
}

}  // namespace
}  // namespace longstride::nn_test
