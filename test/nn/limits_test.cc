// What must work and not be refused: every length, one token, one head, a rate above its segment; and head dims that
// are slower, which are warned about.
#include <ATen/Functions.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include "test/nn/support.h"

namespace longstride {
namespace {

using at::Tensor;
using nn_test::distance;

Tensor finite(const Tensor& lse) { return lse.masked_fill(lse.isinf(), -1e9); }

TEST(Limits, EveryLengthWorksWithOneHeadToo) {
  const at::NoGradGuard no_grad;
  std::vector<DilatedAttentionOptions> all(3);
  all[0].pattern = Pattern::dilated({4, 16}, {1, 3});
  all[1].pattern = Pattern::dilated({2, 3}, {5, 1});
  all[2].pattern = Pattern::dilated({1 << 20}, {1});
  for (size_t n = 0; n < all.size(); ++n) {
    for (const bool causal : {false, true}) {
      for (const int64_t heads : {1, 3}) {
        for (const int64_t len : {0, 1, 2, 3, 4, 5, 17}) {
          SCOPED_TRACE(testing::Message()
                       << "options " << n << ", causal " << causal << ", " << heads << " heads, len " << len);
          DilatedAttentionOptions options = all[n];
          options.pattern = options.pattern.with_causal(causal);
          const DilatedAttention module(options);
          const auto normal = [&] { return at::randn({2, len, heads, 8}, at::kDouble); };
          const Tensor q = normal(), k = normal(), v = normal();
          const AttentionResult ours = module->forward(q, k, v);
          EXPECT_EQ(ours.out.sizes(), q.sizes());
          if (len == 0) continue;
          const AttentionResult theirs = nn_test::dense_attention(q, k, v, options.pattern);
          EXPECT_LT(distance(ours.out, theirs.out), 1e-12);
          EXPECT_LT(distance(finite(ours.lse), finite(theirs.lse)), 1e-12);
        }
      }
    }
  }
}

// A sequence shorter than a block, an empty one, a single head: one block is dense.
TEST(Limits, BlocksOfShortSequencesAreDense) {
  const at::NoGradGuard no_grad;
  const Pattern dense = Pattern::dilated({64}, {1});
  for (const BlockRule& rule : std::vector<BlockRule>{LocalWindow{.window = 16}, Strided{2}, Axial{},
                                                      RandomBlocks{.density = 0.1}, DilatedSparse{.density = 0.1}}) {
    DilatedAttentionOptions options;
    options.pattern = Pattern::block_sparse({{16, rule}});
    const DilatedAttention module(options);
    for (const int64_t len : {0, 1, 15, 16}) {
      SCOPED_TRACE(testing::Message() << options.pattern.blocks()[0].name() << ", len " << len);
      const auto normal = [&] { return at::randn({1, len, 1, 8}, at::kDouble); };
      const Tensor q = normal(), k = normal(), v = normal();
      const Tensor out = module->forward(q, k, v).out;
      EXPECT_EQ(out.sizes(), q.sizes());
      if (len == 0) continue;
      EXPECT_LT(distance(out, nn_test::dense_attention(q, k, v, dense).out), 1e-12);
    }
  }
}

class Counter : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override { count += warning.msg().find("head dim") != std::string::npos; }
  int count = 0;
};

// Once a process otherwise (Multihead.OddHeadDimWarnsOnce).
TEST(Limits, SlowHeadDimsAreWarnedAboutAndRun) {
  const at::NoGradGuard no_grad;
  DilatedAttentionOptions options;
  options.pattern = Pattern::dilated({8}, {1});
  const DilatedAttention module(options);
  for (const auto& [dim, warnings] : {std::pair<int64_t, int>{128, 0}, {136, 1}, {160, 1}, {12, 1}, {8, 0}}) {
    Counter counter;
    const c10::WarningUtils::WarningHandlerGuard guard(&counter);
    const c10::WarningUtils::WarnAlways always(true);
    const Tensor x = at::randn({1, 9, 2, dim}, at::kDouble);
    const AttentionResult result = module->forward(x, x, x);
    EXPECT_EQ(counter.count, warnings) << dim;
    EXPECT_LT(distance(result.out, nn_test::dense_attention(x, x, x, options.pattern).out), 1e-12) << dim;
  }
}

}  // namespace
}  // namespace longstride
