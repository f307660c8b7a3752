// Sight against the oracle's, pair by pair, over the case grid and seeded random cases; then the ranges against the
// pairs.
#include "longstride/pattern/sight.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <limits>
#include <vector>

#include "longstride/error.h"
#include "oracle/attention.h"
#include "test/engine/cases.h"

namespace longstride {
namespace {

// Calls check(case, batch row, KV head, ours, the oracle's).
template <class Check>
void for_each_sight(int64_t random_count, const Check& check) {
  test::for_each_case(random_count, test::Poison::kNone, [&](const test::Case& c) {
    if (testing::Test::HasFailure()) return;
    for (int64_t b = 0; b < c.options.batch; ++b) {
      for (int64_t j = 0; j < c.options.kv_heads; ++j) {
        SCOPED_TRACE(testing::Message() << c.words() << " batch row " << b << " KV head " << j);
        check(c, Sight(c.pattern(), c.extent(), b, j), oracle::Sight(c.options, b, j));
      }
    }
  });
}

TEST(Sight, IsTheOracles) {
  int64_t seen = 0, several = 0, phantoms = 0;
  for_each_sight(1000, [&](const test::Case& c, const Sight& ours, const oracle::Sight& theirs) {
    for (int64_t q = 0; q < c.options.len_k; ++q) {
      ASSERT_EQ(ours.phantoms(q), theirs.phantoms(q)) << q;
      phantoms += theirs.phantoms(q) > 0;
      for (int64_t k = 0; k < c.options.len_k; ++k) {
        const int64_t m = theirs.multiplicity(q, k);
        ASSERT_EQ(ours.multiplicity(q, k), m) << q << ", " << k;
        seen += m > 0;
        several += m > 1;
      }
    }
  });
  if (std::getenv("LONGSTRIDE_CASE") != nullptr) return;  // one case need not have all
  EXPECT_GT(seen, test::share(1'000'000));
  EXPECT_GT(several, test::share(100'000));
  EXPECT_GT(phantoms, test::share(1000));
}

std::vector<int64_t> counted(const std::vector<Progression>& progressions, int64_t len) {
  std::vector<int64_t> counts(len);
  for (const Progression& p : progressions) {
    for (int64_t n = 0; n < p.count; ++n) ++counts.at(p.first + n * p.step);
  }
  return counts;
}

TEST(Sight, RangesAreThePairs) {
  for_each_sight(300, [&](const test::Case& c, const Sight& ours, const oracle::Sight& theirs) {
    const int64_t len = c.options.len_k, first = c.options.query_start, last = first + c.options.len_q - 1;
    std::vector<Progression> ranges;
    for (int64_t position = 0; position < len; ++position) {
      std::vector<int64_t> keys(len), queries(len);
      for (int64_t other = 0; other < len; ++other) {
        keys[other] = theirs.multiplicity(position, other);
        if (other >= first && other <= last) queries[other] = theirs.multiplicity(other, position);
      }
      ranges.clear();
      ours.keys(position, ranges);
      ASSERT_EQ(counted(ranges, len), keys) << "keys of query " << position;
      ranges.clear();
      ours.queries(position, ranges);
      ASSERT_EQ(counted(ranges, len), queries) << "queries of key " << position;
      ranges.clear();
      ours.block_keys(position, ranges);
      for (size_t n = 1; n < ranges.size(); ++n) ASSERT_GT(ranges[n].first, ranges[n - 1].last());
    }
  });
}

// Segments follow one another without a gap, whatever lies outside documents, and hold what their group samples.
TEST(Sight, SegmentsTileThePositions) {
  for_each_sight(300, [&](const test::Case& c, const Sight& ours, const oracle::Sight& theirs) {
    for (int64_t g = 0; g < c.options.groups(); ++g) {
      int64_t end = 0;
      while (end < c.options.len_k) {
        const Sight::Segment s = ours.segment(g, end);
        ASSERT_EQ(s.begin, end);
        ASSERT_GT(s.end, end);
        end = s.end;
        for (int64_t n = 0; n < s.sampled.count; ++n) {
          const int64_t p = s.sampled.first + n * s.sampled.step;
          ASSERT_TRUE(s.begin <= p && p < s.end);
          ASSERT_GT(theirs.multiplicity(p, p), 0);
        }
      }
      ASSERT_EQ(end, c.options.len_k);
    }
  });
}

TEST(Sight, ProgressionsAreCutToWhatLiesWithin) {
  for (const int64_t step : {1, 3, 7}) {
    const Progression p{5, step, 4};
    for (int64_t low = 0; low < 40; ++low) {
      for (int64_t high = 0; high < 40; ++high) {
        const Progression cut = p.within(low, high);
        for (int64_t x = 0; x < 40; ++x) {
          ASSERT_EQ(cut.contains(x), p.contains(x) && x >= low && x <= high) << x << " of " << low << ".." << high;
        }
      }
    }
    EXPECT_TRUE(p.contains(5 + 3 * step));
    EXPECT_FALSE(p.contains(5 + 4 * step));
    EXPECT_FALSE(p.contains(4));
  }
}

TEST(Sight, HugeNumbersDoNotOverflow) {
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  const int64_t far = int64_t{1} << 60;
  const Pattern pattern = Pattern::dilated({kHuge, kHuge - 1, 4, 4}, {1, kHuge, 2, kHuge},
                                           {.offsets = std::vector<int64_t>{0, kHuge - 2, 1, 0}});
  const Extent extent{.len_q = 1, .len_k = far, .query_start = far - 1};
  const Sight sight(pattern, extent, 0, 0);
  EXPECT_EQ(sight.multiplicity(far - 1, 0), 1);
  EXPECT_EQ(sight.multiplicity(far - 1, far - 3), 2);
  EXPECT_EQ(sight.multiplicity(far - 1, far - 2), 1);
  EXPECT_EQ(sight.multiplicity(far - 4, far - 4), 2);
}

TEST(Sight, RefusesWhatThereIsNot) {
  const Pattern pattern = Pattern::dilated({4}, {2});
  const Extent extent{.batch = 2, .heads = 6, .kv_heads = 3, .len_q = 8, .len_k = 8};
  EXPECT_NO_THROW(Sight(pattern, extent, 1, 2));
  for (const int64_t outside : {-1, 3}) EXPECT_THROW(Sight(pattern, extent, 0, outside), Error) << outside;
  for (const int64_t outside : {-1, 2}) EXPECT_THROW(Sight(pattern, extent, outside, 0), Error) << outside;
  EXPECT_THROW(Sight(pattern, {.len_q = 3, .len_k = 2}, 0, 0), Error);
}

}  // namespace
}  // namespace longstride
