// What every rule of blocks says of itself, against its rows.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "longstride/pattern/json.h"
#include "test/pattern/every_rule.h"

namespace longstride {
namespace {

using Active = std::vector<std::pair<int64_t, int64_t>>;

std::string text_of(const BlockPattern& pattern) { return to_json(Pattern::block_sparse({pattern})); }

// The fields in which two values of one rule differ.
template <class Rule>
std::vector<std::string> differences(const BlockPattern& a, const BlockPattern& b) {
  const Rule& first = std::get<Rule>(a.rule());
  const Rule& second = std::get<Rule>(b.rule());
  std::vector<std::string> names;
  Rule::fields(first, [&]<class Field>(const std::string& name, const Field& field, const FieldNote&) {
    Rule::fields(second, [&]<class Other>(const std::string& other_name, const Other& other, const FieldNote&) {
      if constexpr (std::is_same_v<Field, Other>) {
        if (name == other_name && !(field == other)) names.push_back(name);
      }
    });
  });
  return names;
}

TEST(Rules, EveryFieldIsTriedByItself) {
  for_each_rule([]<class Rule>(const Rule& rule) {
    const auto values = test::valid_values<Rule>();
    std::vector<std::string> tried;
    for (const BlockPattern& a : values) {
      for (const BlockPattern& b : values) {
        const auto names = differences<Rule>(a, b);
        if (names.size() == 1) tried.push_back(names[0]);
        EXPECT_EQ(names.empty(), a == b) << text_of(a) << text_of(b);
      }
    }
    Rule::fields(rule, [&](const std::string& name, const auto&, const FieldNote& note) {
      EXPECT_NE(std::find(tried.begin(), tried.end(), name), tried.end()) << rule.kName << ": " << name;
      EXPECT_GT(std::string(note.meaning).size(), 0U) << rule.kName << ": " << name;
    });
  });
}

TEST(Rules, ComeBackFromJson) {
  const auto values = test::values_of_every_rule();
  for (const BlockPattern& one : values) {
    const Pattern pattern = Pattern::block_sparse({one}, true);
    EXPECT_EQ(pattern_from_json(to_json(pattern)), pattern) << to_json(pattern);
  }
  EXPECT_EQ(pattern_from_json(to_json(Pattern::block_sparse(values))), Pattern::block_sparse(values));
  for (const BlockPattern& a : values) {
    for (const BlockPattern& b : values) EXPECT_EQ(a == b, text_of(a) == text_of(b)) << text_of(a) << text_of(b);
  }
}

TEST(Rules, HaveNamesOfTheirOwn) {
  auto names = block_pattern_names();
  EXPECT_EQ(names.size(), std::variant_size_v<BlockRule>);
  for (const BlockPattern& one : test::values_of_every_rule()) EXPECT_EQ(one.name(), names[one.rule().index()]);
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::unique(names.begin(), names.end()), names.end());
}

// The blocks of one document; none where a density is out of reach.
std::optional<Active> active(const BlockPattern& pattern, int64_t blocks, int64_t kv_head, int64_t batch_row) {
  try {
    return pattern.active_blocks(blocks * pattern.block_size(), true, kv_head, batch_row);
  } catch (const Error&) {
    return std::nullopt;
  }
}

TEST(Rules, OneVariantSeesTheSameBlocks) {
  constexpr int64_t kHeads = 5, kRows = 3, kBlocks = 24;
  for (const BlockPattern& one : test::values_of_every_rule()) {
    std::vector<std::pair<int64_t, std::optional<Active>>> seen;
    for (int64_t b = 0; b < kRows; ++b) {
      for (int64_t j = 0; j < kHeads; ++j) {
        const auto variant = [&](const auto& rule) { return rule.variant(b, j); };
        seen.emplace_back(std::visit(variant, one.rule()), active(one, kBlocks, j, b));
      }
    }
    for (const auto& [variant, blocks] : seen) {
      for (const auto& [other_variant, other_blocks] : seen) {
        EXPECT_TRUE(variant != other_variant || blocks == other_blocks) << text_of(one) << ' ' << variant;
      }
    }
  }
}

TEST(Rules, WhatStaysHasTheRowsOfEveryLongerSequence) {
  constexpr int64_t kLongest = 40;
  for_each_rule([]<class Rule>(const Rule& rule) {
    bool may_change = false, changed = false;
    for (const BlockPattern& one : test::valid_values<Rule>()) {
      const std::string needed = std::get<Rule>(one.rule()).needed_to_stay();
      const std::optional<Active> whole = active(one, kLongest, 0, 0);
      bool same = whole.has_value();
      for (int64_t blocks = 1; same && blocks < kLongest; ++blocks) {
        Active prefix = *whole;
        std::erase_if(prefix, [&](const auto& block) { return block.first >= blocks; });
        same = active(one, blocks, 0, 0) == prefix;
      }
      EXPECT_TRUE(same || !needed.empty()) << text_of(one);
      may_change |= !needed.empty();
      changed |= !same;
    }
    // A list has the same rows in every sequence into which it fits; a shorter one refuses it.
    EXPECT_EQ(may_change, changed || (std::is_same_v<Rule, BlockList>)) << rule.kName;
  });
}

}  // namespace
}  // namespace longstride
