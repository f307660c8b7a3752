// Block patterns cell by cell against the oracle's statement of them, their densities, and what is refused.
#include "oracle/blocks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "longstride/error.h"
#include "longstride/pattern.h"
#include "longstride/pattern/json.h"

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

struct Pair {
  BlockPattern ours;
  oracle::BlockRule theirs;
};

std::vector<Pair> pairs(int64_t b) {
  using oracle::BlockKind;
  const auto rule = [&](BlockKind kind, const std::function<void(oracle::BlockRule&)>& set) {
    oracle::BlockRule r;
    r.kind = kind;
    r.block_size = b;
    set(r);
    return r;
  };
  std::vector<Pair> all;
  for (const int64_t window : {int64_t{1}, b, b + 1, 2 * b, 3 * b, 5 * b + 1}) {
    all.push_back({BlockPattern(b, LocalWindow{.window = window}),
                   rule(BlockKind::kLocalWindow, [&](auto& r) { r.window = window; })});
    for (const int64_t global : {int64_t{0}, int64_t{1}, 2 * b}) {
      all.push_back({BlockPattern(b, GlobalLocal{window, global}), rule(BlockKind::kGlobalLocal, [&](auto& r) {
                       r.window = window;
                       r.global_tokens = global;
                     })});
    }
    all.push_back({BlockPattern(b, Hierarchical{{{b, window}, {3 * b, 4 * window}, {8 * b, std::nullopt}}}),
                   rule(BlockKind::kHierarchical, [&](auto& r) {
                     r.levels = {{b, window}, {3 * b, 4 * window}, {8 * b, 0}};
                   })});
    // Rows of no level have their diagonal.
    all.push_back({BlockPattern(b, Hierarchical{{{3 * b, window}}}), rule(BlockKind::kHierarchical, [&](auto& r) {
                     r.levels = {{3 * b, window}};
                   })});
  }
  for (const int64_t reach : {0, 1, 3, 100}) {
    all.push_back({BlockPattern(b, DilatedSparse{.rates = {1, 2, 5}, .reach = reach}),
                   rule(BlockKind::kDilatedSparse, [&](auto& r) {
                     r.rates = {1, 2, 5};
                     r.reach = reach;
                   })});
  }
  for (const int64_t stride : {1, 2, 4, 50}) {
    all.push_back({BlockPattern(b, Strided{stride}), rule(BlockKind::kStrided, [&](auto& r) { r.stride = stride; })});
    all.push_back({BlockPattern(b, Axial{stride}), rule(BlockKind::kAxial, [&](auto& r) { r.columns = stride; })});
  }
  all.push_back({BlockPattern(b, Axial{}), rule(BlockKind::kAxial, [](auto&) {})});
  all.push_back({BlockPattern(b, BlockList{{{-1, -1, 0, 0}, {0, -1, 1, 0}, {-1, 1, 1, 1}, {1, 1, 2, 1}, {1, 1, 2, 1}}}),
                 rule(BlockKind::kList, [](auto& r) {
                   r.list = {{-1, -1, 0, 0}, {0, -1, 1, 0}, {-1, 1, 1, 1}, {1, 1, 2, 1}};
                 })});
  return all;
}

using Active = std::vector<std::pair<int64_t, int64_t>>;

Active listed(const oracle::BlockMask& mask) {
  Active active;
  for (size_t i = 0; i < mask.size(); ++i) {
    for (size_t j = 0; j < mask.size(); ++j) {
      if (mask[i][j]) active.emplace_back(i, j);
    }
  }
  return active;
}

TEST(Blocks, EveryCellIsAsDefined) {
  for (const int64_t b : {1, 4, 16}) {
    for (const Pair& p : pairs(b)) {
      for (const int64_t len : {int64_t{0}, int64_t{1}, b, b + 1, 5 * b - 1, 12 * b, 17 * b + 1}) {
        for (const bool causal : {false, true}) {
          for (const int64_t head : {0, 1, 2}) {
            for (const int64_t row : {0, 1}) {
              ASSERT_EQ(p.ours.active_blocks(len, causal, head, row),
                        listed(oracle::block_mask(p.theirs, len, causal, head, row)))
                  << to_json(Pattern::block_sparse({p.ours}, causal)) << " len " << len << " head " << head;
            }
          }
        }
      }
    }
  }
}

TEST(Blocks, EveryTokenOfAWindowIsAsDefined) {
  const std::vector<int64_t> sides = {-1, 0, 1, 5, 1000};
  const auto given = [](int64_t side) { return side < 0 ? std::nullopt : std::optional(side); };
  int64_t sinks_alone = 0;
  for (const int64_t left : sides) {
    for (const int64_t right : sides) {
      for (const int64_t sinks : {0, 1, 4, 1000}) {
        oracle::BlockRule theirs{.kind = oracle::BlockKind::kSlidingWindow, .left = left, .right = right};
        theirs.sink_tokens = sinks;
        const BlockPattern ours(1, SlidingWindow{given(left), given(right), sinks});
        for (const int64_t len : {0, 1, 2, 9, 23}) {
          for (const bool causal : {false, true}) {
            const Active active = ours.active_blocks(len, causal);
            ASSERT_EQ(active, listed(oracle::block_mask(theirs, len, causal, 0, 0)))
                << to_json(Pattern::block_sparse({ours}, causal)) << " len " << len;
            for (const auto& [q, k] : active) sinks_alone += left >= 0 && k < q - left;
          }
        }
      }
    }
  }
  EXPECT_GT(sinks_alone, 1000);
}

TEST(Blocks, EveryRowKeepsItsDiagonal) {
  for (const Pair& p : pairs(4)) {
    if (std::holds_alternative<BlockList>(p.ours.rule())) continue;
    const Active active = p.ours.active_blocks(70, true);
    for (int64_t i = 0; i < 18; ++i) {
      EXPECT_NE(std::find(active.begin(), active.end(), std::pair(i, i)), active.end()) << p.ours.name() << ' ' << i;
    }
  }
}

double asked_pairs(double density, int64_t nb, bool causal) {
  return density * static_cast<double>(nb) * static_cast<double>(causal ? nb + 1 : 2 * nb) / 2;
}

TEST(Blocks, RandomMeetsItsDensityAndIsTheOraclesDraw) {
  for (const int64_t nb : {1, 2, 7, 40, 129}) {
    for (const bool causal : {false, true}) {
      for (const double density : {0.05, 0.1, 0.37, 0.5, 0.93, 1.0}) {
        if (nb > 1 && asked_pairs(density, nb, causal) < static_cast<double>(nb)) continue;
        const BlockPattern p(16, RandomBlocks{density, 77});
        oracle::BlockRule r;
        r.kind = oracle::BlockKind::kRandom;
        r.block_size = 16;
        r.density = density;
        r.seed = 77;
        for (const int64_t head : {0, 3}) {
          const Active active = p.active_blocks(16 * nb - 5, causal, head);
          ASSERT_EQ(active, listed(oracle::block_mask(r, 16 * nb - 5, causal, head, 0)));
          if (nb == 1) continue;
          EXPECT_NEAR(static_cast<double>(active.size()), asked_pairs(density, nb, causal), 0.5 + 1e-9)
              << nb << causal << density;
        }
      }
    }
  }
}

TEST(Blocks, RandomRowsHaveTheirShareAndHeadsDiffer) {
  const BlockPattern p(16, RandomBlocks{0.1, 1});
  std::vector<int64_t> of_row(100);
  for (const auto& [i, j] : p.active_blocks(1600, false, 0)) ++of_row[i];
  for (const int64_t n : of_row) EXPECT_EQ(n, 10);
  EXPECT_NE(p.active_blocks(1600, false, 0), p.active_blocks(1600, false, 1));
  EXPECT_NE(p.active_blocks(1600, false, 0), BlockPattern(16, RandomBlocks{0.1, 2}).active_blocks(1600, false, 0));
  // The same rows whatever follows: what was decoded stays decoded.
  const Active shorter = p.active_blocks(1600, true, 0), longer = p.active_blocks(3200, true, 0);
  EXPECT_TRUE(std::equal(shorter.begin(), shorter.end(), longer.begin()));
}

TEST(Blocks, WindowsAndDistancesComeNearestToADensity) {
  for (const int64_t nb : {2, 9, 64}) {
    for (const bool causal : {false, true}) {
      for (const double density : {0.02, 0.06, 0.12, 0.25, 0.4, 0.8, 1.0}) {
        if (asked_pairs(density, nb, causal) < static_cast<double>(nb)) continue;
        oracle::BlockRule r;
        r.kind = oracle::BlockKind::kLocalWindow;
        r.block_size = 8;
        r.density = density;
        EXPECT_EQ(BlockPattern(8, LocalWindow{.density = density}).active_blocks(8 * nb, causal),
                  listed(oracle::block_mask(r, 8 * nb, causal, 0, 0)));
        r.kind = oracle::BlockKind::kDilatedSparse;
        r.rates = {1};
        EXPECT_EQ(BlockPattern(8, DilatedSparse{.density = density}).active_blocks(8 * nb, causal),
                  listed(oracle::block_mask(r, 8 * nb, causal, 0, 0)));
        // One more block on each side is the step.
        EXPECT_NEAR(BlockPattern(8, LocalWindow{.density = density}).density(8 * nb, causal), density,
                    1.0 / static_cast<double>(nb));
      }
    }
  }
  const BlockPattern heads(8, DilatedSparse{.rates = {1, 3}, .density = 0.2});
  for (const int64_t head : {0, 1}) EXPECT_NEAR(heads.density(8 * 64, false, head), 0.2, 0.02);
}

TEST(BlocksRefuse, DensitiesOutOfReach) {
  const auto ask = [](const BlockRule& rule, int64_t len, bool causal) {
    return refusal([&] { BlockPattern(16, rule).active_blocks(len, causal); });
  };
  EXPECT_THAT(ask(RandomBlocks{0.1, 0}, 16 * 5, false),
              HasSubstr("density must be in [0.2, 1] on 5 x 5 blocks, got 0.1"));
  EXPECT_THAT(ask(RandomBlocks{0.1, 0}, 16 * 5, false), HasSubstr("nearest that can be reached is 0.2"));
  EXPECT_THAT(ask(LocalWindow{.density = 0.1}, 16 * 4, true), HasSubstr("nearest that can be reached is 0.4"));
  EXPECT_THAT(ask(DilatedSparse{.rates = {4}, .density = 0.6}, 16 * 16, false),
              HasSubstr("nearest that can be reached is 0.25 (sparsity_ratio 0.75)"));
  EXPECT_EQ(ask(RandomBlocks{0.01, 0}, 16, false), "");  // one block: there is nothing to leave out
  EXPECT_EQ(ask(RandomBlocks{0.01, 0}, 0, false), "");
}

// The rows of causal random blocks are those of every longer document, so no length is too short for a density.
TEST(Blocks, CausalRandomIsAPrefixOfWhatItGrowsInto) {
  for (const double density : {0.01, 0.05, 0.2, 0.5, 1.0}) {
    const BlockPattern p(16, RandomBlocks{density, 3});
    const auto longest = p.active_blocks(1000, true);
    for (int64_t len = 0; len <= 200; ++len) {
      const auto active = p.active_blocks(len, true);
      ASSERT_LE(active.size(), longest.size());
      EXPECT_TRUE(std::equal(active.begin(), active.end(), longest.begin())) << density << " " << len;
      // All rows below the end, and no row beyond it.
      EXPECT_EQ(active.empty() ? 0 : active.back().first + 1, (len + 15) / 16) << density << " " << len;
    }
  }
}

TEST(BlocksRefuse, BadValues) {
  const auto make = [](int64_t size, const BlockRule& rule) { return refusal([&] { BlockPattern(size, rule); }); };
  EXPECT_THAT(make(0, Strided{2}), HasSubstr("block_size must be positive, got 0"));
  EXPECT_THAT(make(16, Strided{0}), HasSubstr("stride_blocks must be positive, got 0"));
  EXPECT_THAT(make(16, LocalWindow{}),
              HasSubstr("window and density must be given one without the other, got neither"));
  EXPECT_THAT(make(16, LocalWindow{8, 0.5}), HasSubstr("got both"));
  EXPECT_THAT(make(16, LocalWindow{.window = -4}), HasSubstr("window must be positive, got -4"));
  EXPECT_THAT(make(16, LocalWindow{.density = 1.5}), HasSubstr("density must be in (0, 1], got 1.5"));
  EXPECT_THAT(make(16, LocalWindow{.density = std::nan("")}), HasSubstr("density must be in (0, 1]"));
  EXPECT_THAT(make(16, DilatedSparse{.rates = {}, .reach = 1}), HasSubstr("rates cannot be empty"));
  EXPECT_THAT(make(16, DilatedSparse{.rates = {1, 0}, .reach = 1}), HasSubstr("rates[1] must be positive, got 0"));
  EXPECT_THAT(make(16, DilatedSparse{.reach = -1}), HasSubstr("reach must not be negative, got -1"));
  EXPECT_THAT(make(16, GlobalLocal{0, 4}), HasSubstr("window must be positive, got 0"));
  EXPECT_THAT(make(16, GlobalLocal{4, -1}), HasSubstr("global_tokens must not be negative, got -1"));
  EXPECT_THAT(make(16, Axial{0}), HasSubstr("grid_columns must be positive, got 0"));
  EXPECT_THAT(make(16, RandomBlocks{0, 1}), HasSubstr("density must be in (0, 1], got 0"));
  EXPECT_THAT(make(16, Hierarchical{}), HasSubstr("levels cannot be empty"));
  EXPECT_THAT(make(16, Hierarchical{{{24, 8}}}),
              HasSubstr("levels[0].stride must be a multiple of block_size (16), got 24; the next is 32"));
  EXPECT_THAT(make(1, SlidingWindow{.left = -1}), HasSubstr("left must not be negative, got -1"));
  EXPECT_THAT(make(1, SlidingWindow{.right = -2}), HasSubstr("right must not be negative, got -2"));
  EXPECT_THAT(make(1, SlidingWindow{.sink_tokens = -3}), HasSubstr("sink_tokens must not be negative, got -3"));
  EXPECT_THAT(make(16, SlidingWindow{.left = 4}),
              HasSubstr("block_size must be 1 under sliding_window, which is in tokens, got 16"));
  EXPECT_THAT(make(16, BlockList{{{-2, 0, 0, 0}}}), HasSubstr("blocks[0].batch_row must be -1"));
  EXPECT_THAT(make(16, BlockList{{{0, 0, 0, -1}}}), HasSubstr("blocks[0].key_block must not be negative, got -1"));
  EXPECT_THAT(refusal([] { Pattern::block_sparse({}); }), HasSubstr("blocks cannot be empty"));
}

TEST(Json, ComesBackTheSame) {
  std::vector<BlockPattern> all;
  for (const Pair& p : pairs(16)) all.push_back(p.ours);
  all.push_back(BlockPattern(8, RandomBlocks{0.3, 5}));
  all.push_back(BlockPattern(8, LocalWindow{.density = 0.25}));
  all.push_back(BlockPattern(8, DilatedSparse{.density = 0.1}));
  for (const bool causal : {false, true}) {
    for (const BlockPattern& one : all) {
      const Pattern p = Pattern::block_sparse({one}, causal);
      EXPECT_EQ(pattern_from_json(to_json(p)), p) << to_json(p);
    }
    const Pattern dilated = Pattern::dilated({8, 16}, {1, 2},
                                             {.causal = causal,
                                              .head_offset = HeadOffset::kBlock,
                                              .mixing = Mixing::kHeadPartition,
                                              .average = true,
                                              .padding = Padding::kZeroKeys});
    EXPECT_EQ(pattern_from_json(to_json(dilated)), dilated);
    const Pattern hybrid = Pattern::dilated({8, 16}, {1, 2}, {.offsets = {{0, 1, 1, 0}}}).with_blocks(all);
    EXPECT_EQ(pattern_from_json(to_json(hybrid)), hybrid);
    EXPECT_EQ(to_json(pattern_from_json(to_json(hybrid))), to_json(hybrid));
  }
}

TEST(Json, AWindowOfTokensNeedsNoBlockSize) {
  const Pattern window = Pattern::block_sparse({{1, SlidingWindow{.left = 7, .sink_tokens = 2}}});
  EXPECT_EQ(to_json(window), R"({"causal":false,"blocks":[{"pattern":"sliding_window","left":7,"sink_tokens":2}]})");
  EXPECT_EQ(pattern_from_json(R"({"blocks": [{"pattern": "sliding_window", "left": 7, "sink_tokens": 2}]})"), window);
  EXPECT_EQ(
      pattern_from_json(R"({"blocks": [{"pattern": "sliding_window", "block_size": 1, "left": 7, "sink_tokens": 2}]})"),
      window);
  EXPECT_THAT(refusal([] { pattern_from_json(R"({"blocks": [{"pattern": "sliding_window", "block_size": 2}]})"); }),
              HasSubstr("block_size must be 1 under sliding_window"));
  EXPECT_THAT(refusal([] { pattern_from_json(R"({"blocks": [{"pattern": "strided", "stride_blocks": 2}]})"); }),
              HasSubstr("block_size must be given"));
}

TEST(Json, SparsityIsWhatIsLeftOut) {
  EXPECT_EQ(pattern_from_json(R"({"blocks": [{"pattern": "random", "block_size": 8, "sparsity_ratio": 0.75}]})"),
            Pattern::block_sparse({BlockPattern(8, RandomBlocks{0.25, 0})}));
}

TEST(Json, AListMayStandBesideTheText) {
  const std::string text = R"({"blocks": [{"pattern": "list", "block_size": 8}]})";
  const std::vector<Block> list = {{-1, 0, 1, 1}};
  EXPECT_EQ(pattern_from_json(text, list), Pattern::block_sparse({BlockPattern(8, BlockList{list})}));
  EXPECT_THAT(refusal([&] { pattern_from_json(text); }), HasSubstr("blocks[0].blocks must be given"));
  EXPECT_THAT(refusal([&] { pattern_from_json(R"({"blocks": [{"pattern": "axial", "block_size": 8}]})", list); }),
              HasSubstr("must have a \"list\""));
}

TEST(JsonRefuses, WhatItDoesNotKnow) {
  const auto read = [](const std::string& text) { return refusal([&] { pattern_from_json(text); }); };
  EXPECT_THAT(read("{"), HasSubstr("must be JSON"));
  EXPECT_THAT(read("[]"), HasSubstr("must be an object"));
  EXPECT_THAT(read("{}"), HasSubstr("must have \"dilated\" groups or \"blocks\""));
  EXPECT_THAT(read(R"({"causal": true, "causal": true})"), HasSubstr("pattern: causal must be given once"));
  EXPECT_THAT(read(R"({"blocks": [{"pattern": "random", "block_size": 8, "density": 1e999}]})"),
              HasSubstr("pattern: blocks[0].density must be a number below 1.8e308, got 1e999"));
  EXPECT_THAT(read(R"({"dilated": {"segment_lengths": [99999999999999999999], "dilation_rates": [1]}})"),
              HasSubstr("pattern: dilated.segment_lengths[0] must fit 64 bits, got 99999999999999999999"));
  EXPECT_THAT(read(std::string("{\"blocks\": ") + std::string(70'000, '[') + std::string(70'000, ']') + "}"),
              HasSubstr("pattern must be nested at most 64 levels deep"));
  EXPECT_THAT(read("{\"blocks\": [{\"pattern\": \"\xff\"}]}"), HasSubstr("ill-formed UTF-8"));
  EXPECT_THAT(read(R"({"casual": true})"),
              HasSubstr("unknown key 'casual'; one of [causal, dilated, blocks]; did you mean 'causal'"));
  EXPECT_THAT(read(R"({"causal": 1, "blocks": []})"), HasSubstr("causal must be true or false, got 1"));
  EXPECT_THAT(read(R"({"blocks": [{"pattern": "stride", "block_size": 8}]})"), HasSubstr("did you mean 'strided'?"));
  EXPECT_THAT(read(R"({"blocks": [{"pattern": "strided", "block_size": 8}]})"),
              HasSubstr("blocks[0].stride_blocks must be given"));
  EXPECT_THAT(read(R"({"blocks": [{"pattern": "strided", "block_size": 8, "stride_blocks": 2, "windw": 3}]})"),
              HasSubstr("unknown key of blocks[0] 'windw'"));
  EXPECT_THAT(read(R"({"blocks": [{"pattern": "local_window", "block_size": 8.5, "window": 2}]})"),
              HasSubstr("blocks[0].block_size must be an integer, got 8.5"));
  EXPECT_THAT(read(R"({"blocks": [{"pattern": "random", "block_size": 8, "density": 0.5, "sparsity_ratio": 0.5}]})"),
              HasSubstr("cannot be given together with sparsity_ratio"));
  EXPECT_THAT(read(R"({"blocks": [{"pattern": "hierarchical", "block_size": 8, "levels": [{"stride": 8}]}]})"),
              HasSubstr("blocks[0].levels[0].window must be given"));
  EXPECT_THAT(
      read(
          R"({"blocks": [{"pattern": "hierarchical", "block_size": 8, "levels": [{"stride": 8, "global": true, "windw": 8}]}]})"),
      HasSubstr("unknown key of blocks[0].levels[0] 'windw'"));
  EXPECT_THAT(read(R"({"blocks": [{"pattern": "list", "block_size": 8, "blocks": [[0, 0, 1]]}]})"),
              HasSubstr("blocks[0].blocks[0] must be [batch row or -1"));
  EXPECT_THAT(read(R"({"blocks": [{"pattern": "list", "block_size": 8, "blocks": [[0, 0, 4294967296, 1]]}]})"),
              HasSubstr("blocks[0].blocks[0] must fit 32 bits, got 4294967296"));
  EXPECT_THAT(read(R"({"blocks": [{"pattern": "random", "block_size": 8, "sparsity_ratio": 1}]})"),
              HasSubstr("blocks[0].sparsity_ratio must be in (0, 1), got 1"));
  EXPECT_THAT(read(R"({"dilated": {"segment_lengths": [4], "dilation_rates": [1], "mixin": "joint"}})"),
              HasSubstr("did you mean 'mixing'?"));
}

}  // namespace
}  // namespace longstride
