// ALiBi through the operator: what is refused, slopes of any layout, autocast, decoding, weights. The oracle's grid is
// in oracle_test.cc.
#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "longstride/attention/weights.h"
#include "test/op/support.h"

namespace longstride::test {
namespace {

using at::Tensor;
using testing::HasSubstr;

constexpr int64_t kLen = 90, kHeads = 4, kDim = 8;

struct Inputs {
  Tensor q = normal(1, {2, kLen, kHeads, kDim});
  Tensor k = normal(2, {2, kLen, kHeads / 2, kDim});
  Tensor v = normal(3, {2, kLen, kHeads / 2, kDim});
  Pattern pattern = Pattern::dilated({16, 128}, {1, 2}, {.causal = true});
  AttentionOptions options;
  Inputs() { options.alibi_slopes = torch::tensor({0.5, 0.25, 0.0, -0.1}, at::kFloat); }
  AttentionResult run() const { return attention(q, k, v, pattern, options); }
};

TEST(Alibi, RefusesSlopesThatAreNone) {
  const auto refused = [](const Tensor& slopes) {
    Inputs in;
    in.options.alibi_slopes = slopes;
    const std::string text = refusal([&] { in.run(); });
    EXPECT_EQ(refusal([&] { describe_attention(in.q, in.k, in.v, in.pattern, in.options); }).empty(),
              text.find("finite") != std::string::npos || text.find("gradient") != std::string::npos);
    EXPECT_EQ(refusal([&] { attention_weights(in.q, in.k, in.pattern, in.options); }).substr(0, 12), "alibi_slopes");
    return text;
  };
  const Tensor slopes = torch::tensor({0.5, 0.25, 0.0, -0.1}, at::kFloat);
  EXPECT_THAT(refused(slopes.to(at::kDouble)),
              HasSubstr("alibi_slopes must be Float with one entry a query head, 4, got Double of shape [4]"));
  EXPECT_THAT(refused(slopes.to(at::kBFloat16)), HasSubstr("cast it with .float()"));
  EXPECT_THAT(refused(slopes.narrow(0, 0, 2)), HasSubstr("got Float of shape [2]"));
  EXPECT_THAT(refused(slopes.reshape({4, 1})), HasSubstr("got Float of shape [4, 1]"));
  EXPECT_THAT(refused(slopes.to(at::kMeta)), HasSubstr("alibi_slopes must be on the device of q, cpu"));
}

TEST(Alibi, RefusesWhatIsNotFiniteAndGradients) {
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Inputs in;
    in.options.alibi_slopes = torch::tensor({0.5f, 0.25f, value, 1.0f});
    EXPECT_THAT(refusal([&] { in.run(); }), HasSubstr("alibi_slopes must be finite"));
    EXPECT_THAT(refusal([&] { attention_weights(in.q, in.k, in.pattern, in.options); }), HasSubstr("must be finite"));
  }
  Inputs in;
  in.options.alibi_slopes->requires_grad_();
  EXPECT_THAT(refusal([&] { in.run(); }), HasSubstr("alibi_slopes must not require a gradient"));
  EXPECT_THAT(refusal([&] { attention_weights(in.q, in.k, in.pattern, in.options); }),
              HasSubstr("alibi_slopes must not require a gradient"));
}

TEST(Alibi, SlopesOfAnyLayout) {
  Inputs in;
  const AttentionResult expected = in.run();
  in.options.alibi_slopes = at::stack({*in.options.alibi_slopes, at::full({kHeads}, 9.0f)}, 1).select(1, 0);
  ASSERT_FALSE(in.options.alibi_slopes->is_contiguous());
  EXPECT_TRUE(same_bits(in.run().out, expected.out));
  in.options.alibi_slopes = std::nullopt;
  EXPECT_FALSE(same_bits(in.run().out, expected.out));
}

TEST(Alibi, SlopesStayAsTheyAreUnderAutocast) {
  Inputs in;
  AttentionOptions options = in.options;
  const AttentionResult expected =
      attention(in.q.to(at::kBFloat16), in.k.to(at::kBFloat16), in.v.to(at::kBFloat16), in.pattern, options);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const AttentionResult r = in.run();
  at::autocast::set_autocast_enabled(at::kCPU, false);
  EXPECT_TRUE(same_bits(r.out, expected.out));
}

// Queries at query_start see what the same rows of the whole see.
TEST(Alibi, DecodingGivesTheRowsOfTheWhole) {
  Inputs in;
  const AttentionResult whole = in.run();
  for (const int64_t at : {int64_t{0}, int64_t{37}, kLen - 1}) {
    AttentionOptions options = in.options;
    options.query_start = at;
    const AttentionResult step = attention(in.q.narrow(1, at, 1), in.k, in.v, in.pattern, options);
    EXPECT_TRUE(at::allclose(step.out, whole.out.narrow(1, at, 1), 1e-5, 1e-5)) << at;
    EXPECT_TRUE(at::allclose(step.lse, whole.lse.narrow(2, at, 1), 1e-5, 1e-5)) << at;
  }
}

TEST(Alibi, WeightsAreThoseOfTheCall) {
  Inputs in;
  for (const bool causal : {false, true}) {
    for (const int64_t start : {int64_t{0}, int64_t{50}}) {
      in.pattern = Pattern::dilated({16, 128}, {1, 2}, {.causal = causal});
      AttentionOptions options = in.options;
      if (start > 0) options.query_start = start;
      const Tensor q = in.q.narrow(1, start, kLen - start);
      const Tensor weights = attention_weights(q, in.k, in.pattern, options);
      const Tensor values = in.v.repeat_interleave(2, 2).transpose(1, 2);
      const Tensor out = attention(q, in.k, in.v, in.pattern, options).out;
      EXPECT_TRUE(at::allclose(at::matmul(weights, values).transpose(1, 2), out, 1e-5, 1e-5)) << causal << start;
    }
  }
}

TEST(Alibi, BlockWeightsAreThoseOfTheCall) {
  Inputs in;
  constexpr int64_t kSize = 16;
  for (const bool causal : {false, true}) {
    in.pattern = Pattern::block_sparse({{kSize, LocalWindow{.window = 48}}}, causal);
    const Tensor dense = attention_weights(in.q, in.k, in.pattern, in.options);
    const BlockWeights some = block_attention_weights(in.q, in.k, in.pattern, in.options);
    ASSERT_GT(some.blocks.size(0), 0);
    Tensor rebuilt = torch::zeros({2, kHeads, 96, 96});
    for (int64_t n = 0; n < some.blocks.size(0); ++n) {
      const auto at = [&](int64_t i) { return some.blocks[n][i].item<int64_t>(); };
      rebuilt[at(0)][at(1)].narrow(0, at(2) * kSize, kSize).narrow(1, at(3) * kSize, kSize).copy_(some.weights[n]);
    }
    EXPECT_TRUE(at::allclose(rebuilt.narrow(2, 0, kLen).narrow(3, 0, kLen), dense, 1e-5, 1e-6));
  }
}

}  // namespace
}  // namespace longstride::test
