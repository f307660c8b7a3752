// Learned block patterns: what a scorer chooses. That it comes to choose well is in learned_task_test.cc.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/optim/adam.h>

#include <set>

#include "test/nn/learned_blocks.h"

namespace longstride::nn_test {
namespace {

using at::Tensor;
using testing::AllOf;
using testing::HasSubstr;

TEST(LearnedBlocks, RefusesBadOptions) {
  const auto with = [](const std::function<void(LearnedBlocks&)>& change) {
    LearnedBlocks l = small_blocks();
    change(l);
    return refusal([&] { l.validate(); });
  };
  EXPECT_NO_THROW(small_blocks().validate());
  EXPECT_THAT(with([](auto& l) { l.head_dim = 0; }), HasSubstr("head_dim must be positive, got 0"));
  EXPECT_THAT(with([](auto& l) { l.kv_heads = -1; }), HasSubstr("kv_heads must be positive"));
  EXPECT_THAT(with([](auto& l) { l.block_size = 0; }), HasSubstr("block_size must be positive"));
  EXPECT_THAT(with([](auto& l) { l.hidden = 0; }), HasSubstr("hidden must be positive"));
  for (const double wrong : {0.0, 1.0, -0.1, std::nan("")}) {
    EXPECT_THAT(with([&](auto& l) { l.density = wrong; }), HasSubstr("density must be in (0, 1)"));
    EXPECT_THAT(with([&](auto& l) { l.min_density = wrong; }), HasSubstr("min_density must be in (0, 1)"));
    EXPECT_THAT(with([&](auto& l) { l.max_density = wrong; }), HasSubstr("max_density must be in (0, 1)"));
  }
  EXPECT_THAT(with([](auto& l) { l.min_density = l.max_density = 0.25; }),
              HasSubstr("min_density must be below max_density 0.25, got 0.25"));
  EXPECT_THAT(with([](auto& l) { l.min_density = 0.3; }),
              HasSubstr("density must be from min_density to max_density, got 0.25 outside [0.3, 0.25]"));
  EXPECT_THAT(with([](auto& l) { l.max_density = 0.2; }), HasSubstr("density must be from min_density"));
  for (const double wrong : {-0.5, std::nan("")}) {
    EXPECT_THAT(with([&](auto& l) { l.temperature = wrong; }), HasSubstr("temperature must be finite"));
    BlockScorer scorer(small_blocks(), false);
    EXPECT_THAT(refusal([&] { scorer->set_temperature(wrong); }), HasSubstr("temperature must be finite"));
  }
}

TEST(BlockScorer, TakesItsDensityToTheBlockWithTheDiagonal) {
  torch::manual_seed(2);
  for (const bool causal : {false, true}) {
    for (const bool training : {false, true}) {
      BlockScorer scorer(small_blocks(), causal);
      scorer->train(training);
      for (const int64_t len : {0, 1, 7, 64, 160, 157}) {
        const Input in(3, len);
        const BlockChoice choice = scorer->forward(in.q, in.k);
        const int64_t nb = (len + 7) / 8, pairs = causal ? nb * (nb + 1) / 2 : nb * nb;
        const Tensor mask = mask_of(choice);
        EXPECT_EQ(mask.sum().item<int64_t>(), choice.blocks.size(0)) << "no block twice";
        EXPECT_TRUE(mask.diagonal(0, 2, 3).all().item<bool>());
        if (nb > 1) {
          EXPECT_TRUE((mask.sum({2, 3}) - 0.25 * double(pairs)).abs().le(0.5).all().item<bool>()) << len << causal;
        }
        if (causal) {
          EXPECT_FALSE(mask.triu(1).any().item<bool>());
        }
        EXPECT_TRUE(choice.gates.eq(1).all().item<bool>());
        EXPECT_EQ(choice.blocks.scalar_type(), at::kInt);
        EXPECT_EQ(choice.gates.size(0), choice.blocks.size(0));
      }
    }
  }
}

TEST(BlockScorer, RefusesADensityBelowTheDiagonals) {
  BlockScorer scorer(small_blocks(), false);
  const Input two(1, 16);
  EXPECT_THAT(refusal([&] { scorer->forward(two.q, two.k); }),
              AllOf(HasSubstr("density must be at least 0.5 on 2 x 2 blocks"), HasSubstr("got 0.25"),
                    HasSubstr("nearest that can be reached is 0.5 (sparsity_ratio 0.5)")));
  // Causal rows are those of every longer sequence, and come to the density as it grows.
  LearnedBlocks sparse = small_blocks();
  sparse.density = 0.01;
  BlockScorer causal(sparse, true);
  EXPECT_EQ(causal->forward(two.q, two.k).blocks.size(0), 2 * sparse.kv_heads);  // the diagonal of each KV head
}

// The best blocks of a row by the scores, as many as the definition says; no noise.
TEST(BlockScorer, TakesTheBestOfEveryRowWithinItsBounds) {
  torch::manual_seed(3);
  LearnedBlocks l = small_blocks();
  l.min_density = 0.125;
  l.max_density = 0.5;
  BlockScorer scorer(l, false);
  scorer->eval();
  const Input in(3, 128);
  std::set<int64_t> counts;
  for (const double shift : {-0.7, 0.0, 0.7}) {
    torch::NoGradGuard no_grad;
    scorer->bias.fill_(shift);
    const BlockChoice choice = scorer->forward(in.q, in.k);
    const Tensor mask = mask_of(choice);
    for (int64_t n = 0; n < 3 * 2 * 16; ++n) {
      const int64_t i = n % 16;
      const Tensor row = choice.scores.view({-1, 16})[n].clone();
      row[i] = HUGE_VAL;
      const auto order = std::get<1>(row.sort(/*dim=*/0, /*descending=*/true));
      Tensor expected = at::zeros({16}, at::kBool);
      // 16 blocks: an eighth are 2 a row, a half are 8.
      for (int64_t place = 0; place < 8; ++place) {
        const Tensor j = order[place];
        if (place < 2 || row[j].item<double>() > 0) expected[j] = true;
      }
      EXPECT_TRUE(at::equal(mask.view({-1, 16})[n], expected)) << n;
      counts.insert(expected.sum().item<int64_t>());
    }
  }
  EXPECT_GE(counts.size(), 5u) << "rows must differ here, or the case shows nothing";
}

TEST(BlockScorer, SamplesAndHeadsChooseForThemselves) {
  torch::manual_seed(4);
  BlockScorer scorer(small_blocks(), false);
  scorer->eval();
  const Input in(2, 128);
  const BlockChoice both = scorer->forward(in.q, in.k);
  const Tensor mask = mask_of(both);
  EXPECT_FALSE(at::equal(mask[0], mask[1]));
  EXPECT_FALSE(at::equal(mask.select(1, 0), mask.select(1, 1)));
  for (int64_t b = 0; b < 2; ++b) {
    const BlockChoice alone = scorer->forward(in.q.narrow(0, b, 1), in.k.narrow(0, b, 1));
    EXPECT_TRUE(at::equal(mask_of(alone)[0], mask[b]));
  }
  // A shorter row chooses as it would alone, whatever lies behind it; its last block is ragged.
  Input padded = in;
  for (Tensor* t : {&padded.q, &padded.k}) {
    *t = t->clone();
    (*t)[1].slice(0, 100).fill_(std::nan(""));
  }
  const BlockChoice shorter = scorer->forward(padded.q, padded.k, std::vector<int64_t>{128, 100});
  const BlockChoice alone = scorer->forward(in.q.slice(0, 1).slice(1, 0, 100), in.k.slice(0, 1).slice(1, 0, 100));
  EXPECT_TRUE(at::equal(mask_of(shorter)[0], mask[0]));
  EXPECT_TRUE(at::equal(mask_of(shorter)[1].slice(1, 0, 13).slice(2, 0, 13), mask_of(alone)[0]));
  EXPECT_EQ(mask_of(shorter)[1].sum().item<int64_t>(), mask_of(alone).sum().item<int64_t>());
  EXPECT_LT(distance(shorter.scores[1].slice(1, 0, 13).slice(2, 0, 13), alone.scores[0]), 1e-5);
  EXPECT_TRUE(shorter.density_loss.isfinite().item<bool>());
  // Neither the scale of q nor that of k matters.
  EXPECT_TRUE(at::equal(mask_of(scorer->forward(in.q * 64, in.k / 64)), mask));
}

TEST(BlockScorer, NoiseIsForTrainingAndCools) {
  torch::manual_seed(5);
  BlockScorer scorer(small_blocks(), false);
  const Input in(2, 128);
  const auto choose = [&] { return mask_of(scorer->forward(in.q, in.k)); };
  scorer->eval();
  const Tensor best = choose();
  EXPECT_TRUE(at::equal(choose(), best));
  scorer->train();
  const Tensor hot = choose();
  EXPECT_FALSE(at::equal(hot, best));
  EXPECT_FALSE(at::equal(choose(), hot));
  torch::manual_seed(6);
  const Tensor one = choose();
  torch::manual_seed(6);
  EXPECT_TRUE(at::equal(choose(), one)) << "it draws from torch's generator";
  // Colder is nearer to the best, and 0 is there.
  int64_t before = 0;
  for (const double temperature : {4.0, 0.5, 0.05}) {
    scorer->set_temperature(temperature);
    int64_t agree = 0;
    for (int repeat = 0; repeat < 8; ++repeat) agree += (choose() & best).sum().item<int64_t>();
    EXPECT_GT(agree, before) << temperature;
    before = agree;
  }
  scorer->set_temperature(0);
  EXPECT_TRUE(at::equal(choose(), best));
}

// Its value from the scores, the sign of its pull on both sides of the density, and where it comes to rest.
TEST(BlockScorer, DensityLossPullsTheScoresToTheDensity) {
  torch::manual_seed(7);
  const OneThread one_thread;
  for (const bool causal : {false, true}) {
    BlockScorer scorer(small_blocks(), causal);
    const Input in(2, 61);
    const std::vector<int64_t> lengths = {61, 33};  // 8 and 5 blocks
    const auto share = [&](const BlockChoice& choice) {
      double sum = 0, pairs = 0;
      for (int64_t b = 0; b < 2; ++b) {
        const int64_t nb = b == 0 ? 8 : 5;
        for (int64_t i = 0; i < nb; ++i) {
          for (int64_t j = 0; j < (causal ? i + 1 : nb); ++j) {
            pairs += 2;
            for (int64_t h = 0; h < 2; ++h) {
              sum += i == j ? 1 : 1 / (1 + std::exp(-choice.scores[b][h][i][j].item<double>()));
            }
          }
        }
      }
      return sum / pairs;
    };
    for (const double shift : {-6.0, 3.0}) {
      {
        const torch::NoGradGuard no_grad;
        scorer->bias.fill_(shift);
      }
      const double density = small_blocks().density;
      const BlockChoice choice = scorer->forward(in.q, in.k, lengths);
      EXPECT_NEAR(choice.density_loss.item<double>(), std::pow(share(choice) - density, 2), 1e-6);
      const auto grads =
          torch::autograd::grad({choice.density_loss}, {scorer->bias, scorer->query_in, scorer->key_out});
      // Causal grids of 8 and 5 blocks have 13 of their 51 blocks on the diagonal: that alone is more than a quarter.
      const bool above = share(choice) > density;
      EXPECT_EQ(above, shift > 0 || causal);
      EXPECT_TRUE((above ? grads[0] > 0 : grads[0] < 0).all().item<bool>()) << shift;
      EXPECT_GT(grads[1].abs().max().item<double>(), 0);
      EXPECT_GT(grads[2].abs().max().item<double>(), 0);
    }
    torch::optim::Adam optimizer(scorer->parameters(), torch::optim::AdamOptions(0.05));
    for (int step = 0; step < 400; ++step) {
      optimizer.zero_grad();
      scorer->forward(in.q, in.k, lengths).density_loss.backward();
      optimizer.step();
    }
    EXPECT_NEAR(share(scorer->forward(in.q, in.k, lengths)), small_blocks().density, 0.03);
  }
}

}  // namespace
}  // namespace longstride::nn_test
