// Counting pairs of the definition in cells (show_cells.h).
#include "show_cells.h"

#include <algorithm>

namespace longstride::cli {
namespace {

// The positions first, first + rate, ... of one segment that lie in one cell.
struct Sampled {
  int64_t segment_start;  // names the segment: no two segments start at one position and hold tokens
  int64_t first;
  int64_t count;
};

struct Span {
  int64_t begin, end;
};

std::vector<Span> documents_of(const Extent& extent) {
  if (!extent.lengths.empty()) return {{0, extent.lengths.front()}};
  if (extent.cu_seqlens.empty()) return {{0, extent.len_k}};
  std::vector<Span> spans;
  for (size_t i = 0; i + 1 < extent.cu_seqlens.size(); ++i)
    spans.push_back({extent.cu_seqlens[i], extent.cu_seqlens[i + 1]});
  return spans;
}

// What a group samples in [begin, end), segment by segment, in order.
std::vector<Sampled> sampled_in(const std::vector<Span>& documents, const Group& group, int64_t offset, int64_t begin,
                                int64_t end) {
  std::vector<Sampled> result;
  for (const Span& document : documents) {
    const int64_t low = std::max(begin, document.begin), high = std::min(end, document.end);
    if (low >= high) continue;
    int64_t start = document.begin + (low - document.begin) / group.segment * group.segment;
    while (start < high) {
      const int64_t stop = group.segment > high - start ? high : start + group.segment;
      const int64_t from = std::max(low, start);
      const int64_t steps = std::max<int64_t>(0, (from - start - offset + group.rate - 1) / group.rate);
      const int64_t first = start + offset + (from - start > offset ? steps : 0) * group.rate;
      if (first < stop) result.push_back({start, first, (stop - first + group.rate - 1) / group.rate});
      start = stop;
    }
  }
  return result;
}

// Pairs of two progressions of one residue class, with k <= q if causal.
int64_t pairs(const Sampled& q, const Sampled& k, int64_t rate, bool causal) {
  if (!causal) return q.count * k.count;
  // Query i sees ahead + 1 + i of the keys, none below 0 and no more than there are.
  const int64_t ahead = (q.first - k.first) / rate;
  const int64_t none = std::clamp<int64_t>(-ahead, 0, q.count);
  const int64_t some = std::clamp<int64_t>(k.count - 1 - ahead, none, q.count) - none;
  return some * (ahead + 1 + none) + some * (some - 1) / 2 + (q.count - none - some) * k.count;
}

// Adds what the union of the block patterns shows, row of tokens by row.
void count_blocks(const Pattern& pattern, const Extent& extent, int64_t kv_head, const std::vector<Span>& documents,
                  Cells& cells) {
  double* const share = &cells.share[static_cast<size_t>((cells.layers - 1) * cells.rows * cells.columns)];
  for (const Span& document : documents) {
    std::vector<std::vector<std::vector<int64_t>>> keys;  // [block pattern][query block]: key blocks
    for (const BlockPattern& block : pattern.blocks()) {
      const int64_t len = document.end - document.begin;
      keys.emplace_back(static_cast<size_t>((len + block.block_size() - 1) / block.block_size()));
      for (const auto& [i, j] : block.active_blocks(len, pattern.causal(), kv_head))
        keys.back()[static_cast<size_t>(i)].push_back(j);
    }
    const int64_t last_query = std::min(document.end, extent.query_start + extent.len_q);
    for (int64_t q = std::max(document.begin, extent.query_start); q < last_query; ++q) {
      std::vector<Span> seen;
      for (size_t p = 0; p < keys.size(); ++p) {
        const int64_t size = pattern.blocks()[p].block_size();
        for (const int64_t j : keys[p][static_cast<size_t>((q - document.begin) / size)]) {
          const int64_t begin = document.begin + j * size;
          seen.push_back({begin, std::min({begin + size, document.end, pattern.causal() ? q + 1 : document.end})});
        }
      }
      std::sort(seen.begin(), seen.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
      double* const row = share + (q - extent.query_start) / cells.query_tokens * cells.columns;
      int64_t covered = 0;  // keys below are counted
      for (const Span& span : seen) {
        for (int64_t k = std::max(covered, span.begin); k < span.end;) {
          const int64_t cell = k / cells.key_tokens;
          const int64_t stop = std::min(span.end, (cell + 1) * cells.key_tokens);
          row[cell] += static_cast<double>(stop - k);
          k = stop;
        }
        covered = std::max(covered, span.end);
      }
    }
  }
  for (int64_t r = 0; r < cells.rows; ++r) {
    const int64_t height = std::min(extent.len_q - r * cells.query_tokens, cells.query_tokens);
    for (int64_t c = 0; c < cells.columns; ++c) {
      const int64_t width = std::min(extent.len_k - c * cells.key_tokens, cells.key_tokens);
      share[r * cells.columns + c] /= static_cast<double>(height * width);
    }
  }
}

}  // namespace

Cells count_cells(const Pattern& pattern, const Extent& extent, int64_t head, int64_t limit) {
  Cells cells;
  while (cells.query_tokens * limit < extent.len_q) cells.query_tokens *= 2;
  while (cells.key_tokens * limit < extent.len_k) cells.key_tokens *= 2;
  cells.rows = (extent.len_q + cells.query_tokens - 1) / cells.query_tokens;
  cells.columns = (extent.len_k + cells.key_tokens - 1) / cells.key_tokens;
  const int64_t groups = static_cast<int64_t>(pattern.groups().size());
  cells.layers = groups + (pattern.blocks().empty() ? 0 : 1);
  cells.share.assign(static_cast<size_t>(cells.layers * cells.rows * cells.columns), 0.0);
  const std::vector<Span> documents = documents_of(extent);
  const int64_t kv_head = head / (extent.heads / extent.kv_heads);
  for (int64_t g = 0; g < groups; ++g) {
    if (!pattern.runs(g, kv_head, extent.kv_heads)) continue;
    const Group& group = pattern.groups()[static_cast<size_t>(g)];
    const int64_t offset = pattern.offset(g, kv_head, extent.kv_heads);
    std::vector<std::vector<Sampled>> keys;
    for (int64_t c = 0; c < cells.columns; ++c) {
      const int64_t begin = c * cells.key_tokens, end = std::min(extent.len_k, begin + cells.key_tokens);
      keys.push_back(sampled_in(documents, group, offset, begin, end));
    }
    for (int64_t r = 0; r < cells.rows; ++r) {
      const int64_t begin = extent.query_start + r * cells.query_tokens;
      const int64_t end = std::min(extent.query_start + extent.len_q, begin + cells.query_tokens);
      const std::vector<Sampled> queries = sampled_in(documents, group, offset, begin, end);
      for (int64_t c = 0; c < cells.columns; ++c) {
        int64_t sum = 0;
        auto k = keys[static_cast<size_t>(c)].begin();
        const auto last = keys[static_cast<size_t>(c)].end();
        for (const Sampled& q : queries) {
          while (k != last && k->segment_start < q.segment_start) ++k;
          if (k != last && k->segment_start == q.segment_start) sum += pairs(q, *k, group.rate, pattern.causal());
        }
        const int64_t width = std::min(extent.len_k - c * cells.key_tokens, cells.key_tokens);
        cells.share[static_cast<size_t>((g * cells.rows + r) * cells.columns + c)] =
            static_cast<double>(sum) / static_cast<double>((end - begin) * width);
      }
    }
  }
  if (!pattern.blocks().empty()) count_blocks(pattern, extent, kv_head, documents, cells);
  return cells;
}

}  // namespace longstride::cli
