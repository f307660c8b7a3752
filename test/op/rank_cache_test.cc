// The bounded store of ranks: what it keeps, what it drops, and that a key is all that a value depends on.
#include "op/parallel/rank_cache.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace longstride::op {
namespace {

struct Weighed {
  int64_t number = 0;
  int64_t weight = 0;
  int64_t bytes() const { return weight; }
};

RankKey key_of(int64_t rank, int64_t len = 64, int64_t ranks = 4) {
  RankKey key;
  key.call.pattern = Pattern::dilated({8}, {1});
  key.call.extent.len_q = key.call.extent.len_k = len;
  key.shards = parallel::Shards::even(len, ranks);
  key.rank = rank;
  return key;
}

TEST(RankCache, KeepsWhatFitsAndDropsTheLeastRecentlyUsed) {
  const int64_t each = 1000 + key_of(0).bytes();
  KeptByRank<Weighed> kept(2 * each);
  int made = 0;
  const auto get = [&](int64_t rank) {
    return kept
        .get(key_of(rank),
             [&] {
               ++made;
               return Weighed{rank, 1000};
             })
        ->number;
  };
  EXPECT_EQ(get(0), 0);
  EXPECT_EQ(get(1), 1);
  EXPECT_EQ(kept.bytes(), 2 * each);
  EXPECT_EQ(get(0), 0);
  EXPECT_EQ(made, 2);
  EXPECT_EQ(get(2), 2);  // drops 1
  EXPECT_EQ(kept.size(), 2U);
  EXPECT_EQ(get(0), 0);
  EXPECT_EQ(made, 3);
  EXPECT_EQ(get(1), 1);
  EXPECT_EQ(made, 4);
}

TEST(RankCache, GivesWhatIsLargerThanItsCapacityAndKeepsItNot) {
  KeptByRank<Weighed> kept(1000);
  EXPECT_EQ(kept.get(key_of(0), [] { return Weighed{7, 2000}; })->number, 7);
  EXPECT_EQ(kept.size(), 0U);
  EXPECT_EQ(kept.bytes(), 0);
}

TEST(RankCache, KeepsNothingOfWhatThrows) {
  KeptByRank<Weighed> kept(1 << 20);
  EXPECT_THROW(kept.get(key_of(0), []() -> Weighed { throw std::runtime_error("no"); }), std::runtime_error);
  EXPECT_EQ(kept.size(), 0U);
}

TEST(RankCache, TellsKeysApart) {
  RankKey zigzag = key_of(0);
  zigzag.shards = parallel::Shards::zigzag(64, 4);
  RankKey uneven = key_of(0);
  uneven.shards = parallel::Shards::of_lengths({16, 16, 15, 17});
  RankKey documents = key_of(0);
  documents.call.extent.cu_seqlens = {0, 3, 64};
  RankKey transposed = key_of(0);
  transposed.call.direction = Direction::kTransposed;
  const std::vector<RankKey> keys = {key_of(0), key_of(1), key_of(0, 65), key_of(0, 64, 5),
                                     zigzag,    uneven,    documents,     transposed};
  for (size_t a = 0; a < keys.size(); ++a) {
    for (size_t b = 0; b < keys.size(); ++b) {
      EXPECT_EQ(keys[a] == keys[b], a == b) << a << " " << b;
      EXPECT_EQ(RankKeyHash{}(keys[a]) == RankKeyHash{}(keys[b]), a == b) << a << " " << b;
    }
  }
}

TEST(RankCache, OfTheProcessGivesOneValueAKey) {
  const RankKey key = key_of(2);
  const auto rank = rank_of(key);
  EXPECT_EQ(rank->rank, 2);
  EXPECT_EQ(rank_of(key_of(2)), rank);
  EXPECT_NE(rank_of(key_of(3)), rank);
  EXPECT_EQ(plans_of(key, *rank), plans_of(key, *rank));
  EXPECT_GT(rank->bytes(), static_cast<int64_t>(sizeof(parallel::Rank)));
  EXPECT_GT(plans_of(key, *rank)->bytes(), 0);
}

}  // namespace
}  // namespace longstride::op
