// Checks block patterns when they are made, and answers which blocks are active. Called by whoever builds a pattern.
#include "longstride/pattern/blocks.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/checked.h"
#include "core/refuse.h"
#include "pattern/block_rows.h"

namespace longstride {
namespace {

// Windows and offsets are added to positions: below this nothing wraps.
constexpr int64_t kMostTokens = int64_t{1} << 60;

void require_between(const std::string& argument, int64_t value, int64_t least) {
  if (value < least || value > kMostTokens) {
    core::refuse(argument, least == 1 ? "must be positive" : "must not be negative", fmt::format("{}", value));
  }
}

void require_density(double density) {
  if (!(density > 0 && density <= 1)) {
    core::refuse("density", "must be in (0, 1]", fmt::format("{}", density),
                 "it is the share of blocks that is computed, 1 - sparsity_ratio");
  }
}

void require_one_of(const char* a, bool has_a, const char* b, bool has_b) {
  if (has_a == has_b) {
    core::refuse(fmt::format("{} and {}", a, b), "must be given one without the other", has_a ? "both" : "neither");
  }
}

void check(const LocalWindow& r, int64_t) {
  require_one_of("window", r.window.has_value(), "density", r.density.has_value());
  if (r.window) require_between("window", *r.window, 1);
  if (r.density) require_density(*r.density);
}

void check(const DilatedSparse& r, int64_t) {
  if (r.rates.empty()) core::refuse("rates", "cannot be empty", "[]", "give one distance in blocks, or one a head");
  for (size_t i = 0; i < r.rates.size(); ++i) require_between(fmt::format("rates[{}]", i), r.rates[i], 1);
  require_one_of("reach", r.reach.has_value(), "density", r.density.has_value());
  if (r.reach) require_between("reach", *r.reach, 0);
  if (r.density) require_density(*r.density);
}

void check(const GlobalLocal& r, int64_t) {
  require_between("window", r.window, 1);
  require_between("global_tokens", r.global_tokens, 0);
}

void check(const Strided& r, int64_t) { require_between("stride_blocks", r.stride_blocks, 1); }

void check(const Axial& r, int64_t) {
  if (r.grid_columns) require_between("grid_columns", *r.grid_columns, 1);
}

void check(const RandomBlocks& r, int64_t) { require_density(r.density); }

void check(const Hierarchical& r, int64_t block_size) {
  if (r.levels.empty()) core::refuse("levels", "cannot be empty", "[]", "give one {stride, window} a level");
  for (size_t i = 0; i < r.levels.size(); ++i) {
    const auto& [stride, window] = r.levels[i];
    require_between(fmt::format("levels[{}].stride", i), stride, 1);
    if (stride % block_size != 0) {
      core::refuse(fmt::format("levels[{}].stride", i),
                   fmt::format("must be a multiple of block_size ({})", block_size), fmt::format("{}", stride),
                   fmt::format("the next is {}", core::ceil_divide(stride, block_size) * block_size));
    }
    if (window) require_between(fmt::format("levels[{}].window", i), *window, 1);
  }
}

void check(const SlidingWindow& r, int64_t) {
  if (r.left) require_between("left", *r.left, 0);
  if (r.right) require_between("right", *r.right, 0);
  require_between("sink_tokens", r.sink_tokens, 0);
}

void check(const BlockList& r, int64_t) {
  for (size_t i = 0; i < r.blocks.size(); ++i) {
    const Block& b = r.blocks[i];
    const auto refuse = [&](const char* what, const char* expected, int64_t got) {
      core::refuse(fmt::format("blocks[{}].{}", i, what), expected, fmt::format("{}", got));
    };
    if (b.batch_row < -1) refuse("batch_row", "must be -1 (every row) or at least 0", b.batch_row);
    if (b.kv_head < -1) refuse("kv_head", "must be -1 (every KV head) or at least 0", b.kv_head);
    if (b.query_block < 0) refuse("query_block", "must not be negative", b.query_block);
    if (b.key_block < 0) refuse("key_block", "must not be negative", b.key_block);
  }
}

// Counts the members of a rule by how many values it can be made of.
struct AnyValue {
  template <class T>
  operator T() const;
};
template <class Rule, class... Values>
consteval size_t members() {
  if constexpr (requires { Rule{Values()..., AnyValue()}; }) return members<Rule, Values..., AnyValue>();
  return sizeof...(Values);
}

// A member that is not listed would be lost in JSON, and so to whoever gets the pattern as text.
consteval bool every_member_is_listed() {
  bool all = true;
  for_each_rule([&]<class Rule>(const Rule& rule) {
    size_t listed = 0;
    Rule::fields(rule, [&](const char*, const auto&, const FieldNote&) { ++listed; });
    all &= listed == members<Rule>();
  });
  return all;
}
static_assert(every_member_is_listed());

}  // namespace

BlockPattern::BlockPattern(int64_t block_size, BlockRule rule) : block_size_(block_size), rule_(std::move(rule)) {
  require_between("block_size", block_size_, 1);
  const auto check_all = [&]<class Rule>(const Rule& r) {
    constexpr std::optional<int64_t> only = fixed_block_size<Rule>();
    if (only && block_size_ != *only) {
      core::refuse("block_size", fmt::format("must be {} under {}, which is in tokens", *only, r.kName),
                   fmt::format("{}", block_size_), "local_window has windows of blocks");
    }
    check(r, block_size_);
  };
  std::visit(check_all, rule_);
}

const std::vector<std::string>& block_pattern_names() {
  static const auto names = [] {
    std::vector<std::string> all;
    for_each_rule([&](const auto& rule) { all.emplace_back(rule.kName); });
    return all;
  }();
  return names;
}

const char* BlockPattern::name() const {
  return std::visit([](const auto& rule) { return rule.kName; }, rule_);
}

std::vector<std::pair<int64_t, int64_t>> BlockPattern::active_blocks(int64_t len, bool causal, int64_t kv_head,
                                                                     int64_t batch_row) const {
  if (len < 0) core::refuse("len", "must not be negative", fmt::format("{}", len));
  const int64_t blocks = core::ceil_divide(len, block_size_);
  const pattern::BlockRows rows = pattern::active_rows(
      *this, {.blocks = blocks, .causal = causal, .kv_head = kv_head, .batch_row = batch_row}, 0, blocks);
  std::vector<std::pair<int64_t, int64_t>> active;
  for (int64_t i = 0; i < blocks; ++i) {
    for (int64_t n = rows.row_begin[i]; n < rows.row_begin[i + 1]; ++n) {
      for (int64_t j = rows.intervals[n].begin; j < rows.intervals[n].end; ++j) active.emplace_back(i, j);
    }
  }
  return active;
}

double BlockPattern::density(int64_t len, bool causal, int64_t kv_head, int64_t batch_row) const {
  if (len < 0) core::refuse("len", "must not be negative", fmt::format("{}", len));
  const int64_t blocks = core::ceil_divide(len, block_size_);
  if (blocks == 0) return 0;
  const pattern::BlockRows rows = pattern::active_rows(
      *this, {.blocks = blocks, .causal = causal, .kv_head = kv_head, .batch_row = batch_row}, 0, blocks);
  int64_t active = 0;
  for (const pattern::Interval& x : rows.intervals) active += x.end - x.begin;
  const auto nb = static_cast<double>(blocks);
  return static_cast<double>(active) / (causal ? nb * (nb + 1) / 2 : nb * nb);
}

}  // namespace longstride
