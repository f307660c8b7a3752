// A pattern as flat fields and back, and the pattern that shows nothing.
#include "longstride/pattern/flat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "longstride/error.h"

namespace longstride {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<BlockPattern> kBlocks = {{4, LocalWindow{.window = 8}}, {8, Strided{2}}};
const DilatedOptions kOptions = {.causal = true,
                                 .head_offset = HeadOffset::kGroup,
                                 .offsets = {{0, 1, 2, 0}},
                                 .mixing = Mixing::kHeadPartition,
                                 .average = true,
                                 .padding = Padding::kZeroKeys};

TEST(FlatPattern, HasEveryFieldOfAPattern) {
  for (const Pattern& pattern :
       {Pattern(), Pattern().with_causal(true), Pattern::dilated({8, 24}, {1, 3}, kOptions),
        Pattern::dilated({8, 24}, {1, 3}, kOptions).with_blocks(kBlocks), Pattern::block_sparse(kBlocks, true)}) {
    EXPECT_EQ(FlatPattern(pattern).pattern(), pattern);
  }
  const FlatPattern flat(Pattern::dilated({8, 24}, {1, 3}, kOptions));
  EXPECT_THAT(flat.segment_lengths, ElementsAre(8, 24));
  EXPECT_THAT(flat.dilation_rates, ElementsAre(1, 3));
}

TEST(FlatPattern, IsVisitedFieldByField) {
  Pattern pattern = Pattern::dilated({8, 24}, {1, 3}, kOptions);
  std::vector<std::string> names;
  visit_pattern(pattern, [&](const std::string& name, auto& field) {
    names.push_back(name);
    if constexpr (std::is_same_v<decltype(field), bool&>) field = name == "average";
  });
  EXPECT_THAT(names, ElementsAre("segment_lengths", "dilation_rates", "causal", "head_offset", "offsets", "mixing",
                                 "average", "padding", "blocks"));
  EXPECT_EQ(pattern, Pattern::dilated({8, 24}, {1, 3}, kOptions).with_causal(false));
}

TEST(FlatPattern, RefusesWhatNoPatternIs) {
  const auto refusal = [](const FlatPattern& flat) -> std::string {
    try {
      (void)flat.pattern();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  FlatPattern flat;
  flat.segment_lengths = {8};
  EXPECT_THAT(refusal(flat), HasSubstr("dilation_rates cannot be empty"));
  flat.segment_lengths = {};
  flat.options.padding = Padding::kZeroKeys;
  EXPECT_THAT(refusal(flat), HasSubstr("must have their defaults without dilated groups"));
}

TEST(Pattern, WithCausalChangesNothingElse) {
  const Pattern pattern = Pattern::dilated({8, 24}, {1, 3}, kOptions).with_blocks(kBlocks);
  const Pattern open = pattern.with_causal(false);
  EXPECT_FALSE(open.causal());
  EXPECT_NE(open, pattern);
  EXPECT_EQ(open.with_causal(true), pattern);
  EXPECT_EQ(open.blocks(), kBlocks);
}

}  // namespace
}  // namespace longstride
