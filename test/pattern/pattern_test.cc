// Patterns: what is refused and with which words, the offset rules, the ranges of head_partition.
#include "longstride/pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "longstride/error.h"

namespace longstride {
namespace {

using ::testing::HasSubstr;

std::string refusal(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string refusal(const std::vector<int64_t>& segments, const std::vector<int64_t>& rates,
                    const DilatedOptions& options = {}) {
  return refusal([&] { Pattern::dilated(segments, rates, options); });
}

TEST(PatternRefuses, BadGroups) {
  EXPECT_THAT(refusal({}, {1}), HasSubstr("segment_lengths cannot be empty"));
  EXPECT_THAT(refusal({1}, {}), HasSubstr("dilation_rates cannot be empty"));
  EXPECT_THAT(refusal({1, 2}, {1}), HasSubstr("must have the same length: 2 != 1"));
  EXPECT_THAT(refusal({4, 0}, {1, 1}), HasSubstr("segment_lengths[1] must be positive, got 0"));
  EXPECT_THAT(refusal({4, 4}, {-2, 1}), HasSubstr("dilation_rates[0] must be positive, got -2"));
  EXPECT_EQ(refusal({std::numeric_limits<int64_t>::max()}, {std::numeric_limits<int64_t>::max()}), "");
}

TEST(PatternRefuses, BadOptions) {
  EXPECT_THAT(refusal({4}, {2}, {.offsets = {{0, -1}}}), HasSubstr("offsets[1] must not be negative, got -1"));
  EXPECT_THAT(refusal({4, 4}, {2, 2}, {.offsets = {{0, 1, 0}}}), HasSubstr("offsets must have groups x kv_heads"));
  EXPECT_THAT(refusal({4}, {2}, {.offsets = {std::vector<int64_t>{}}}), HasSubstr("offsets must have"));
  EXPECT_THAT(refusal({4}, {2}, {.average = true}), HasSubstr("average divides out"));
  const Pattern table = Pattern::dilated({4}, {2}, {.offsets = {{0, 3}}});
  EXPECT_EQ(table.offset(0, 1, 2), 1);
  EXPECT_THAT(refusal([&] { table.offset(0, 0, 3); }), HasSubstr("1 x 3"));
}

TEST(PatternRefuses, UnknownNames) {
  EXPECT_THAT(refusal([] { head_offset_from_name("modulus"); }), HasSubstr("did you mean 'modulo'"));
  EXPECT_THAT(refusal([] { mixing_from_name("joined"); }), HasSubstr("one of [joint, head_partition]"));
  EXPECT_THAT(refusal([] { padding_from_name("zero_key"); }), HasSubstr("did you mean 'zero_keys'"));
  for (const HeadOffset h : {HeadOffset::kModulo, HeadOffset::kBlock, HeadOffset::kGroup}) {
    EXPECT_EQ(head_offset_from_name(name(h)), h);
  }
  for (const Mixing m : {Mixing::kJoint, Mixing::kHeadPartition}) EXPECT_EQ(mixing_from_name(name(m)), m);
  for (const Padding p : {Padding::kMasked, Padding::kZeroKeys}) EXPECT_EQ(padding_from_name(name(p)), p);
  EXPECT_THAT(refusal([] { name(static_cast<HeadOffset>(3)); }), HasSubstr("head_offset must be one of its 3 values"));
  EXPECT_THAT(refusal([] { name(static_cast<Mixing>(-1)); }), HasSubstr("mixing must be one of its 2 values"));
  EXPECT_THAT(refusal([] { name(static_cast<Padding>(2)); }), HasSubstr("padding must be one of its 2 values, got 2"));
}

TEST(PatternRefuses, GroupsAndHeadsThatAreNone) {
  const Pattern p = Pattern::dilated({4, 8}, {1, 2}, {.offsets = {{0, 0, 0, 1}}});
  EXPECT_THAT(refusal([&] { p.offset(2, 0, 2); }), HasSubstr("group must be in [0, 2), got 2"));
  EXPECT_THAT(refusal([&] { p.offset(-1, 0, 2); }), HasSubstr("group must be in [0, 2), got -1"));
  EXPECT_THAT(refusal([&] { p.offset(0, 2, 2); }), HasSubstr("kv_head must be in [0, 2), got 2"));
  EXPECT_THAT(refusal([&] { p.runs(2, 0, 2); }), HasSubstr("group must be in [0, 2), got 2"));
  EXPECT_THAT(refusal([&] { p.runs(0, 0, 0); }), HasSubstr("kv_head must be in [0, 0), got 0"));
}

TEST(Pattern, OffsetRules) {
  const auto offsets = [](HeadOffset rule, int64_t g, int64_t kv_heads) {
    const Pattern p = Pattern::dilated({8, 8, 8}, {1, 3, 4}, {.head_offset = rule});
    std::vector<int64_t> all;
    for (int64_t j = 0; j < kv_heads; ++j) all.push_back(p.offset(g, j, kv_heads));
    return all;
  };
  using Offsets = std::vector<int64_t>;
  EXPECT_EQ(offsets(HeadOffset::kModulo, 1, 5), (Offsets{0, 1, 2, 0, 1}));
  EXPECT_EQ(offsets(HeadOffset::kBlock, 1, 5), (Offsets{0, 0, 1, 1, 2}));
  EXPECT_EQ(offsets(HeadOffset::kBlock, 2, 2), (Offsets{0, 1}));
  EXPECT_EQ(offsets(HeadOffset::kGroup, 2, 3), (Offsets{2, 2, 2}));
  EXPECT_EQ(offsets(HeadOffset::kGroup, 0, 2), (Offsets{0, 0}));
}

TEST(Pattern, HeadPartitionCutsContiguousRanges) {
  const Pattern p = Pattern::dilated({8, 8, 8}, {1, 2, 4}, {.mixing = Mixing::kHeadPartition, .average = true});
  const std::vector<int64_t> group_of = {0, 0, 0, 1, 1, 1, 2, 2};
  for (int64_t j = 0; j < 8; ++j) {
    for (int64_t g = 0; g < 3; ++g) EXPECT_EQ(p.runs(g, j, 8), g == group_of[j]) << g << ' ' << j;
  }
  EXPECT_DOUBLE_EQ(p.out_scale(), 1.0 / 3);
  EXPECT_THAT(refusal([&] { p.runs(0, 0, 2); }), HasSubstr("2 KV heads for 3 groups"));
  EXPECT_DOUBLE_EQ(Pattern::dilated({8}, {2}).out_scale(), 1);
}

TEST(ExtentRefuses, BadLengths) {
  const Extent good{.batch = 2, .heads = 4, .kv_heads = 2, .len_q = 3, .len_k = 8, .query_start = 5};
  EXPECT_NO_THROW(good.validate());
  const auto refused = [&](const std::function<void(Extent&)>& spoil) {
    Extent extent = good;
    spoil(extent);
    return refusal([&] { extent.validate(); });
  };
  EXPECT_THAT(refused([](Extent& e) { e.batch = -1; }), HasSubstr("batch must not be negative"));
  EXPECT_THAT(refused([](Extent& e) { e.heads = 0; }), HasSubstr("heads must be positive"));
  EXPECT_THAT(refused([](Extent& e) { e.kv_heads = 0; }), HasSubstr("kv_heads must be positive"));
  EXPECT_THAT(refused([](Extent& e) { e.kv_heads = 3; }), HasSubstr("heads must be a multiple of kv_heads (3), got 4"));
  EXPECT_THAT(refused([](Extent& e) { e.heads = e.kv_heads = std::numeric_limits<int64_t>::max(); }),
              HasSubstr("batch x kv_heads must be at most 2147483647, got 2 x 9223372036854775807"));
  EXPECT_THAT(refused([](Extent& e) { e.batch = std::numeric_limits<int64_t>::max(); }), HasSubstr("batch x kv_heads"));
  EXPECT_THAT(refused([](Extent& e) { e.len_k = -1; }), HasSubstr("len_k must not be negative"));
  EXPECT_THAT(refused([](Extent& e) { e.len_q = 9; }), HasSubstr("len_q must be at most len_k (8), got 9"));
  EXPECT_THAT(refused([](Extent& e) { e.query_start = 6; }), HasSubstr("query_start must be in [0, len_k - len_q]"));
  EXPECT_THAT(refused([](Extent& e) { e.query_start = -1; }), HasSubstr("query_start"));
  EXPECT_THAT(refused([](Extent& e) { e.cu_seqlens = {1, 8}; }), HasSubstr("cu_seqlens[0] must be 0"));
  EXPECT_THAT(refused([](Extent& e) { e.cu_seqlens = {0, 5, 4, 8}; }), HasSubstr("cu_seqlens[2] must be at least"));
  EXPECT_THAT(refused([](Extent& e) { e.cu_seqlens = {0, 5}; }), HasSubstr("cu_seqlens[1] must be len_k (8), got 5"));
  EXPECT_THAT(refused([](Extent& e) { e.lengths = {1}; }), HasSubstr("lengths must have one entry a batch row (2)"));
  EXPECT_THAT(refused([](Extent& e) { e.lengths = {1, 9}; }), HasSubstr("lengths[1] must be in [0, len_k]"));
  EXPECT_THAT(refused([](Extent& e) {
                e.lengths = {1, 2};
                e.cu_seqlens = {0, 8};
              }),
              HasSubstr("cannot be given together"));
  EXPECT_EQ(refused([](Extent& e) { e.cu_seqlens = {0, 0, 5, 5, 8}; }), "");
  EXPECT_EQ(refused([](Extent& e) { e.lengths = {0, 8}; }), "");
}

}  // namespace
}  // namespace longstride
