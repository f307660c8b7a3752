// A case in our words: its pattern, its lengths, and itself in one line (cases.h).
#include <optional>
#include <sstream>

#include "longstride/pattern/json.h"
#include "test/engine/cases.h"

namespace longstride::test {
namespace {

BlockPattern block_pattern(const oracle::BlockRule& r) {
  using oracle::BlockKind;
  const std::optional<double> density = r.density;
  const std::optional<int64_t> none;
  switch (r.kind) {
    case BlockKind::kLocalWindow:
      return BlockPattern(r.block_size, r.window > 0 ? LocalWindow{.window = r.window} : LocalWindow{none, density});
    case BlockKind::kDilatedSparse:
      return BlockPattern(r.block_size, r.reach >= 0 ? DilatedSparse{.rates = r.rates, .reach = r.reach}
                                                     : DilatedSparse{.rates = r.rates, .density = density});
    case BlockKind::kGlobalLocal:
      return BlockPattern(r.block_size, GlobalLocal{r.window, r.global_tokens});
    case BlockKind::kStrided:
      return BlockPattern(r.block_size, Strided{r.stride});
    case BlockKind::kAxial:
      return BlockPattern(r.block_size, Axial{r.columns > 0 ? std::optional(r.columns) : none});
    case BlockKind::kRandom:
      return BlockPattern(r.block_size, RandomBlocks{r.density, static_cast<int64_t>(r.seed)});
    case BlockKind::kHierarchical: {
      Hierarchical h;
      for (const auto& [stride, window] : r.levels)
        h.levels.push_back({stride, window > 0 ? std::optional(window) : none});
      return BlockPattern(r.block_size, h);
    }
    case BlockKind::kSlidingWindow: {
      const auto side = [&](int64_t tokens) { return tokens >= 0 ? std::optional(tokens) : none; };
      return BlockPattern(r.block_size, SlidingWindow{side(r.left), side(r.right), r.sink_tokens});
    }
    case BlockKind::kList:
      break;
  }
  BlockList list;
  for (const auto& [b, h, i, j] : r.list) {
    list.blocks.push_back(
        {static_cast<int32_t>(b), static_cast<int32_t>(h), static_cast<int32_t>(i), static_cast<int32_t>(j)});
  }
  return BlockPattern(r.block_size, list);
}

std::string list(const std::vector<int64_t>& values) {
  std::ostringstream text;
  text << "[";
  for (size_t i = 0; i < values.size(); ++i) text << (i ? "," : "") << values[i];
  text << "]";
  return text.str();
}

}  // namespace

Pattern Case::pattern() const {
  DilatedOptions d;
  d.causal = options.causal;
  d.head_offset = options.rule == oracle::OffsetRule::kModulo  ? HeadOffset::kModulo
                  : options.rule == oracle::OffsetRule::kBlock ? HeadOffset::kBlock
                                                               : HeadOffset::kGroup;
  if (!options.offsets.empty()) d.offsets = options.offsets;
  d.mixing = options.head_partition ? Mixing::kHeadPartition : Mixing::kJoint;
  d.average = options.average;
  d.padding = options.zero_keys ? Padding::kZeroKeys : Padding::kMasked;
  std::vector<BlockPattern> blocks;
  for (const oracle::BlockRule& rule : options.blocks) blocks.push_back(block_pattern(rule));
  if (options.segments.empty()) return Pattern::block_sparse(blocks, options.causal);
  return Pattern::dilated(options.segments, options.rates, d).with_blocks(blocks);
}

Extent Case::extent() const {
  Extent e;
  e.batch = options.batch;
  e.heads = options.heads;
  e.kv_heads = options.kv_heads;
  e.len_q = options.len_q;
  e.len_k = options.len_k;
  e.query_start = options.query_start;
  e.cu_seqlens = options.cu_seqlens;
  e.lengths = options.lengths;
  return e;
}

std::string Case::words() const {
  const oracle::Options& o = options;
  std::ostringstream text;
  text << "segments " << list(o.segments) << " rates " << list(o.rates) << " offsets "
       << (o.offsets.empty() ? std::vector<std::string>{"modulo", "block", "group"}[static_cast<int>(o.rule)]
                             : list(o.offsets))
       << (o.head_partition ? " head_partition" : "") << (o.average ? " average" : "") << (o.causal ? " causal" : "")
       << (o.zero_keys ? " zero_keys" : "") << "; batch " << o.batch << " heads " << o.heads << "/" << o.kv_heads
       << " len_q " << o.len_q << " len_k " << o.len_k << " query_start " << o.query_start << " dim " << o.dim;
  if (!o.blocks.empty()) text << " pattern " << to_json(pattern());
  if (!o.cu_seqlens.empty()) text << " cu_seqlens " << list(o.cu_seqlens);
  if (!o.lengths.empty()) text << " lengths " << list(o.lengths);
  if (!o.alibi_slopes.empty()) {
    text << " slopes";
    for (const double slope : o.alibi_slopes) text << ' ' << slope;
  }
  text << " dropout " << o.dropout_p << " scale " << o.scale_used() << " " << core::name(dtype) << " layout "
       << choice[kLayout] << (has_d_lse ? " d_lse" : "") << "; tile_rows " << geometry.tile_rows << " column_block "
       << geometry.column_block << " row_quantum " << geometry.row_quantum << " merge_columns "
       << geometry.merge_columns << " run_columns " << geometry.run_columns << "\n  rerun: LONGSTRIDE_CASE=" << seed
       << ":";
  for (size_t f = 0; f < choice.size(); ++f) text << (f ? "," : "") << choice[f];
  text << " and this test's --gtest_filter";
  return text.str();
}

}  // namespace longstride::test
