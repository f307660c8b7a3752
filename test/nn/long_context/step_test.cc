// A training step at a context of 65,536 tokens within 4 GiB: in a process of its own, since it reads the process's
// peak.
#include <ATen/Functions.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <torch/optim/adamw.h>
#include <torch/utils.h>

#include <cmath>

#include "longstride/nn.h"

namespace longstride {
namespace {

TEST(LongContext, AStepAt65536FitsIn4GiB) {
  LongNetLMConfig config;
  ASSERT_EQ(config.layers, 4);
  ASSERT_EQ(config.layer.attention.embed_dim, 256);
  ASSERT_EQ(config.vocab, 256);
  config.activation_checkpointing = true;
  torch::manual_seed(1);
  LongNetLM model(config);
  torch::optim::AdamW optimizer(model->parameters(), torch::optim::AdamWOptions(1e-3));
  const at::Tensor text = at::randint(config.vocab, {1, 65537}, at::kLong);
  const at::Tensor loss = model->loss(text.slice(1, 0, -1), text.slice(1, 1));
  // Uniform tokens and logits of unit variance: ln 256 + 1/2.
  EXPECT_NEAR(loss.item<double>(), std::log(256.0) + 0.5, 0.2);
  loss.backward();
  optimizer.step();
  for (const auto& p : model->named_parameters()) {
    ASSERT_TRUE(p.value().grad().defined()) << p.key();
    EXPECT_TRUE(at::isfinite(p.value().grad()).all().item<bool>()) << p.key();
    EXPECT_GT(p.value().grad().abs().max().item<double>(), 0) << p.key();
  }
  rusage usage = {};
  ASSERT_EQ(getrusage(RUSAGE_SELF, &usage), 0);
  const double peak_gib = static_cast<double>(usage.ru_maxrss) / (1024 * 1024);
  RecordProperty("peak_gib", std::to_string(peak_gib));
  EXPECT_LT(peak_gib, 4.0);
  std::printf("peak %.2f GiB\n", peak_gib);
}

}  // namespace
}  // namespace longstride
