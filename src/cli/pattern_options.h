// The options that name a pattern and the lengths it meets, the same for show, bench and train. Torch-free.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "longstride/pattern.h"

namespace longstride::cli {

struct PatternOptions {
  std::vector<int64_t> segments;
  std::vector<int64_t> rates;
  std::string head_offset = "modulo";
  std::vector<int64_t> offsets;  // groups x kv_heads, in place of the rule
  std::string mixing = "joint";
  std::string padding = "masked";
  bool causal = false;
  bool average = false;
  std::vector<int64_t> window;  // LEFT, or LEFT and RIGHT: a sliding window in place of the groups
  int64_t sinks = 0;            // first tokens that all see, beside the window
  std::string json;             // a whole pattern (longstride/pattern/json.h) or its file, in place of all the others
  Pattern pattern() const;      // throws Error
};

struct LengthOptions {
  int64_t len = 0;
  int64_t heads = 1;
  std::optional<int64_t> kv_heads;     // unset: as heads
  std::vector<int64_t> documents;      // lengths of packed documents, which add up to len
  std::optional<int64_t> query_start;  // queries are the positions from here on
  Extent extent() const;               // throws Error; batch 1
};

// The pattern's JSON that an argument names: the text itself if it begins with '{', else what the file of that name
// holds. Throws Error, which names the argument, if there is no such file.
std::string pattern_text(const std::string& given, const char* argument = "--pattern");

// Adds --segments --rates --causal --offset --offsets --mixing --average --padding; defaults are what `into` holds.
void add_pattern_options(CLI::App& command, PatternOptions& into);
// Adds --pattern, which excludes them, and --window and --sinks, which exclude all but --causal. For commands that take
// block patterns too.
void add_json_option(CLI::App& command, PatternOptions& into);

// A block pattern with what it is of: "axial of 16", "sliding_window of 1024 before, 1024 after, 4 sinks".
std::string block_words(const BlockPattern& block);

// One line: segments, rates and whatever differs from the defaults.
std::string pattern_line(const Pattern& pattern);

// One line: tokens, documents and query start.
std::string extent_line(const Extent& extent);

}  // namespace longstride::cli
