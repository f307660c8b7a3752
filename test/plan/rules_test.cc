// Every rule of blocks in the planner: what heads share, and what tells the keys of plans apart.
#include <gtest/gtest.h>

#include <set>

#include "longstride/pattern/json.h"
#include "longstride/plan.h"
#include "plan/cache.h"
#include "test/pattern/every_rule.h"

namespace longstride::plan {
namespace {

constexpr Extent kExtent = {.batch = 2, .heads = 5, .kv_heads = 5, .len_q = 96, .len_k = 96};

TEST(RulesInPlans, EveryHeadHasItsOwnBlocks) {
  for (const BlockPattern& one : test::values_of_every_rule()) {
    const Pattern pattern = Pattern::block_sparse({one});
    const Plan plan = compile(pattern, kExtent, {}, Direction::kForward);
    EXPECT_EQ("", verify(plan.view(), pattern, kExtent)) << to_json(pattern);
  }
}

TEST(RulesInPlans, EveryFieldIsInTheHash) {
  std::set<size_t> hashes;
  size_t patterns = 0;
  for (const BlockPattern& one : test::values_of_every_rule()) {
    for (const bool causal : {false, true}) {
      const PlanKey key{Pattern::block_sparse({one}, causal), kExtent, {}, Direction::kForward};
      EXPECT_EQ(PlanKeyHash()(key), PlanKeyHash()(PlanKey(key)));
      EXPECT_TRUE(hashes.insert(PlanKeyHash()(key)).second) << to_json(key.pattern);
      ++patterns;
    }
  }
  EXPECT_GE(patterns, 2 * 2 * std::variant_size_v<BlockRule>);
}

}  // namespace
}  // namespace longstride::plan
