// Rows counted by sender against the messages of the lists.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "parallel/lists.h"
#include "test/parallel/sharded_cases.h"

namespace longstride::parallel {
namespace {

std::string check(const Pattern& pattern, const Extent& extent, const test::Held& held) {
  const ShardedCall call(pattern, extent, held.shards);
  for (int64_t rank = 0; rank < call.shards.ranks(); ++rank) {
    std::vector<int64_t> expected(call.shards.ranks());
    for (const Message& m : lists(call, rank).receives) expected[m.from] = m.rows();
    const std::vector<int64_t> got = rows_by_sender(call, rank);
    if (got != expected)
      return fmt::format("rank {} receives {}, expected {}", rank, fmt::join(got, " "), fmt::join(expected, " "));
  }
  return "";
}

TEST(Traffic, IsThatOfTheMessages) { test::for_each_sharded_case(1000, check); }

TEST(Traffic, IsThatOfTheMessagesForEveryRule) { test::for_each_sharded_rule(check); }

}  // namespace
}  // namespace longstride::parallel
