// Shards against their definition, and what they refuse.
#include "parallel/shards.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "longstride/error.h"
#include "test/parallel/held.h"

namespace longstride::parallel {
namespace {

using testing::HasSubstr;

void expect_right(const test::Held& held) {
  SCOPED_TRACE(held.words);
  const Shards& shards = held.shards;
  ASSERT_EQ(static_cast<int64_t>(held.positions.size()), shards.ranks());
  for (int64_t rank = 0; rank < shards.ranks(); ++rank) {
    const std::vector<int64_t>& expected = held.positions[rank];
    EXPECT_EQ(static_cast<int64_t>(expected.size()), shards.rows(rank));
    std::vector<int64_t> got;
    for (const Piece& p : shards.positions(rank)) {
      EXPECT_EQ(rank, p.rank);
      EXPECT_EQ(static_cast<int64_t>(got.size()), p.row);
      EXPECT_LT(p.begin, p.end);
      for (int64_t position = p.begin; position < p.end; ++position) got.push_back(position);
    }
    EXPECT_EQ(expected, got);
    for (const int64_t position : expected) EXPECT_EQ(rank, shards.chunk(shards.chunk_at(position)).rank);
  }
}

TEST(Shards, HoldWhatTheLayoutSays) {
  test::Draw draw(1);
  for (int n = 0; n < 500; ++n) expect_right(test::draw_shards(draw.below(draw.one_of({1, 8, 40, 200})), draw));
  for (const int64_t len : {0, 1, 5, 16, 17}) {
    for (const int64_t ranks : {1, 2, 3, 16, 40}) {
      expect_right(test::held_even(len, ranks));
      expect_right(test::held_zigzag(len, ranks));
    }
  }
}

TEST(Shards, ReachTheLargestSequences) {
  const int64_t len = int64_t{1} << 40;
  EXPECT_EQ(len / 1024, Shards::even(len, 1024).rows(1023));
  EXPECT_EQ((Piece{len - len / 2048, len, 0, len / 2048}), Shards::zigzag(len, 1024).positions(0)[1]);
}

void expect_refusal(const char* words, const std::function<void()>& make) {
  try {
    make();
    ADD_FAILURE() << "not refused: " << words;
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr(words));
  }
}

TEST(Shards, RefuseWhatIsNone) {
  expect_refusal("ranks must be in [1, 1048576], got 0", [] { Shards::even(10, 0); });
  expect_refusal("ranks must be in [1, 1048576], got 0", [] { Shards::of_lengths({}); });
  expect_refusal("len must be in [0, 1099511627776] tokens, got -1", [] { Shards::zigzag(-1, 2); });
  expect_refusal("lengths[1] must be in [0, 1099511627773], 1099511627776 tokens in all at most, got -4", [] {
    Shards::of_lengths({3, -4});
  });
  expect_refusal("rank must be in [0, 4), got 4", [] { Shards::even(10, 4).positions(4); });
  expect_refusal("rank must be in [0, 4), got -1", [] { Shards::zigzag(10, 4).rows(-1); });
  expect_refusal("lengths[1] must be", [] { Shards::of_lengths({int64_t{1} << 40, 1}); });
}

}  // namespace
}  // namespace longstride::parallel
