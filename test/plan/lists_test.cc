// Explicit lists of blocks meet the sizes of a call: what does not fit is refused by name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "longstride/error.h"
#include "longstride/pattern.h"
#include "longstride/plan.h"

namespace longstride {
namespace {

using testing::HasSubstr;

std::string refusal(const Block& block, const std::vector<int64_t>& cu_seqlens = {}) {
  Extent extent;
  extent.batch = 2;
  extent.heads = 6;
  extent.kv_heads = 3;
  extent.len_q = extent.len_k = 33;  // 5 blocks of 8, the last one of 1
  extent.cu_seqlens = cu_seqlens;
  try {
    compile(Pattern::block_sparse({BlockPattern(8, BlockList{{{-1, -1, 0, 0}, block}})}), extent, {},
            Direction::kForward);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Lists, AreRefusedWhereTheyDoNotFit) {
  EXPECT_EQ(refusal({1, 2, 4, 4}), "");
  EXPECT_THAT(refusal({2, 2, 4, 4}), HasSubstr("blocks[1].batch_row must be below 2, got 2"));
  EXPECT_THAT(refusal({1, 3, 4, 4}), HasSubstr("blocks[1].kv_head must be below 3, got 3"));
  EXPECT_THAT(refusal({1, 2, 5, 4}), HasSubstr("blocks[1].query_block must be below 5, got 5"));
  EXPECT_THAT(refusal({1, 2, 4, 5}), HasSubstr("blocks[1].key_block must be below 5, got 5"));
  EXPECT_THAT(refusal({1, 2, 4, 4}, {0, 10, 33}),
              HasSubstr("cu_seqlens cannot be given with an explicit list of blocks, which counts from position 0, got "
                        "2 documents; give one document a batch row (lengths)"));
}

}  // namespace
}  // namespace longstride
