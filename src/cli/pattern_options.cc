// Options for patterns and lengths (pattern_options.h).
#include "pattern_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <numeric>

#include "core/files.h"
#include "longstride/error.h"
#include "longstride/pattern/json.h"
#include "options.h"

namespace longstride::cli {

Pattern PatternOptions::pattern() const {
  if (!json.empty()) return pattern_from_json(pattern_text(json));
  if (!window.empty()) {
    if (window.size() > 2)
      throw Error(fmt::format("--window: got {} numbers, expected LEFT or LEFT,RIGHT", window.size()));
    const SlidingWindow rule{.left = window.front(), .right = window.back(), .sink_tokens = sinks};
    return Pattern::block_sparse({{*fixed_block_size<SlidingWindow>(), rule}}, causal);
  }
  DilatedOptions options;
  options.causal = causal;
  options.head_offset = head_offset_from_name(head_offset);
  if (!offsets.empty()) options.offsets = offsets;
  options.mixing = mixing_from_name(mixing);
  options.average = average;
  options.padding = padding_from_name(padding);
  return Pattern::dilated(segments, rates, options);
}

Extent LengthOptions::extent() const {
  Extent extent;
  extent.heads = heads;
  extent.kv_heads = kv_heads.value_or(heads);
  extent.len_k = len;
  if (!documents.empty()) {
    const int64_t sum = std::accumulate(documents.begin(), documents.end(), int64_t{0});
    if (sum != len)
      throw Error(fmt::format("--documents: the lengths add up to {}, expected --len, which is {}", sum, len));
    extent.cu_seqlens.push_back(0);
    for (const int64_t document : documents) extent.cu_seqlens.push_back(extent.cu_seqlens.back() + document);
  }
  extent.query_start = query_start.value_or(0);
  extent.len_q = len - extent.query_start;
  if (extent.query_start < 0 || extent.len_q < 0)
    throw Error(fmt::format("--query-start: got {}, expected 0 to --len, which is {}", extent.query_start, len));
  extent.validate();
  return extent;
}

std::string pattern_text(const std::string& given, const char* argument) {
  const size_t first = given.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && given[first] == '{') return given;
  // Whoever meant JSON and forgot its '{' names no file.
  std::error_code ignored;
  std::string text;
  if (std::filesystem::exists(given, ignored)) text = core::read_input(argument, given);
  if (text.empty()) {
    throw Error(
        fmt::format("{}: no file '{}' with a pattern in it, and no JSON: that begins with '{{'", argument, given));
  }
  return text;
}

void add_pattern_options(CLI::App& command, PatternOptions& into) {
  command.option_defaults()->group("Pattern");
  add(command, "--segments", into.segments, "Segment length of each group, in tokens (32k = 32768)",
      token_count(1, kMostWhole))
      ->delimiter(',')
      ->capture_default_str();
  add(command, "--rates", into.rates, "Dilation rate of each group: every rate-th token of a segment is sampled",
      whole_number(1, kMostWhole))
      ->delimiter(',')
      ->capture_default_str();
  command.add_flag("--causal", into.causal, "A query sees no later key");
  command
      .add_option("--offset", into.head_offset,
                  "Rule for the residue that a head samples: modulo (LongNet's paper), block (torchscale), group")
      ->capture_default_str();
  add(command, "--offsets", into.offsets, "Residues given one by one, groups x KV heads, in place of the rule",
      whole_number(0, kMostWhole))
      ->delimiter(',');
  command.add_option("--mixing", into.mixing, "joint: every head runs every group; head_partition: one group a head")
      ->capture_default_str();
  command.add_flag("--average", into.average, "head_partition only: divide by the number of groups");
  command.add_option("--padding", into.padding, "masked, or zero_keys as in torchscale's pretrained models")
      ->capture_default_str();
}

void add_json_option(CLI::App& command, PatternOptions& into) {
  command.option_defaults()->group("Pattern");
  CLI::Option* json =
      command
          .add_option(
              "--pattern", into.json,
              "A whole pattern as JSON or a file of it, block patterns among it, in place of the options above: "
              R"('{"causal": true, "blocks": [{"pattern": "local_window", "block_size": 64, "window": 512}]}')")
          ->check(not_empty());
  CLI::Option* window = add(command, "--window", into.window,
                            "A sliding window in place of the groups: tokens seen before a query, and after it (LEFT "
                            "or LEFT,RIGHT; default: as many after)",
                            token_count(0))
                            ->delimiter(',')
                            ->excludes(json);
  json->excludes(command.get_option("--causal"));
  for (const char* other : {"--segments", "--rates", "--offset", "--offsets", "--mixing", "--average", "--padding"}) {
    for (CLI::Option* one : {json, window}) one->excludes(command.get_option(other));
  }
  add(command, "--sinks", into.sinks, "With --window: first tokens that every query sees beside it", token_count(0))
      ->capture_default_str()
      ->needs(window);
}

std::string block_words(const BlockPattern& block) {
  const SlidingWindow* window = block.window();
  if (window == nullptr) return fmt::format("{} of {}", block.name(), block.block_size());
  const auto side = [](std::optional<int64_t> tokens) { return tokens ? fmt::format("{}", *tokens) : "all"; };
  return fmt::format("{} of {} before, {} after{}", block.name(), side(window->left), side(window->right),
                     window->sink_tokens > 0 ? fmt::format(", {} sinks", window->sink_tokens) : "");
}

std::string pattern_line(const Pattern& pattern) {
  std::string line;
  if (!pattern.groups().empty()) {
    std::vector<int64_t> segments, rates;
    for (const Group& group : pattern.groups()) {
      segments.push_back(group.segment);
      rates.push_back(group.rate);
    }
    line = fmt::format("segments {}; rates {}; ", fmt::join(segments, ", "), fmt::join(rates, ", "));
  }
  const DilatedOptions& options = pattern.options();
  line += options.causal ? "causal" : "not causal";
  if (!pattern.groups().empty()) {
    line += options.offsets ? "; offsets given" : fmt::format("; offsets {}", name(options.head_offset));
    if (options.mixing != Mixing::kJoint) line += fmt::format("; {}", name(options.mixing));
    if (options.average) line += ", averaged";
    if (options.padding != Padding::kMasked) line += fmt::format("; padding {}", name(options.padding));
  }
  std::string blocks;
  for (const BlockPattern& block : pattern.blocks()) {
    blocks += (blocks.empty() ? "; blocks " : "; ") + block_words(block);
  }
  return line + blocks;
}

std::string extent_line(const Extent& extent) {
  std::string line = fmt::format("{} tokens", extent.len_k);
  if (!extent.cu_seqlens.empty()) line += fmt::format(" in {} documents", extent.cu_seqlens.size() - 1);
  if (extent.len_q != extent.len_k) line += fmt::format(", {} queries from {} on", extent.len_q, extent.query_start);
  return line;
}

}  // namespace longstride::cli
