// Makes block patterns, and answers which blocks are active; what single rules require and show is in block_rows.cc.
// Called by whoever builds a pattern.
#include "longstride/pattern/blocks.h"

#include "core/checked.h"
#include "core/refuse.h"
#include "pattern/block_rows.h"

namespace longstride {
namespace {

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
  pattern::check(block_size_, rule_);
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
  if (len < 0) core::refuse("len", "must not be negative", len);
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
  if (len < 0) core::refuse("len", "must not be negative", len);
  const int64_t blocks = core::ceil_divide(len, block_size_);
  if (blocks == 0) return 0;
  const pattern::Place place = {.blocks = blocks, .causal = causal, .kv_head = kv_head, .batch_row = batch_row};
  int64_t active = 0;
  for (const pattern::Interval& x : pattern::active_rows(*this, place, 0, blocks).intervals) active += x.end - x.begin;
  return active / pattern::pairs_in_all(place);
}

}  // namespace longstride
