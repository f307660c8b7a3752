// Counting pairs of the definition in cells (show_cells.h).
#include "show_cells.h"

#include <algorithm>

#include "longstride/pattern/sight.h"

namespace longstride::cli {
namespace {

// What a group samples in [begin, end), segment by segment, in order.
std::vector<Sight::Segment> sampled_in(const Sight& sight, int64_t group, int64_t begin, int64_t end) {
  std::vector<Sight::Segment> result;
  for (int64_t position = begin; position < end;) {
    Sight::Segment segment = sight.segment(group, position);
    segment.sampled = segment.sampled.within(begin, end - 1);
    if (segment.sampled.count > 0) result.push_back(segment);
    position = segment.end;
  }
  return result;
}

// Pairs of two progressions of one residue class, with k <= q if causal.
int64_t pairs(const Progression& q, const Progression& k, bool causal) {
  if (!causal) return q.count * k.count;
  // Query i sees ahead + 1 + i of the keys, none below 0 and no more than there are.
  const int64_t ahead = (q.first - k.first) / q.step;
  const int64_t none = std::clamp<int64_t>(-ahead, 0, q.count);
  const int64_t some = std::clamp<int64_t>(k.count - 1 - ahead, none, q.count) - none;
  return some * (ahead + 1 + none) + some * (some - 1) / 2 + (q.count - none - some) * k.count;
}

// Adds the pairs that the union of the block patterns shows, row of tokens by row.
void count_blocks(const Sight& sight, const Extent& extent, Cells& cells) {
  double* const share = &cells.share[static_cast<size_t>((cells.layers - 1) * cells.rows * cells.columns)];
  std::vector<Progression> keys;
  for (int64_t i = 0; i < extent.len_q; ++i) {
    double* const row = share + i / cells.query_tokens * cells.columns;
    keys.clear();
    sight.block_keys(extent.query_start + i, keys);
    for (const Progression& range : keys) {
      const int64_t end = range.first + range.count;
      for (int64_t k = range.first; k < end;) {
        const int64_t cell = k / cells.key_tokens;
        const int64_t stop = std::min(end, (cell + 1) * cells.key_tokens);
        row[cell] += static_cast<double>(stop - k);
        k = stop;
      }
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
  const int64_t groups = std::ssize(pattern.groups());
  cells.layers = groups + (pattern.blocks().empty() ? 0 : 1);
  cells.share.assign(static_cast<size_t>(cells.layers * cells.rows * cells.columns), 0.0);
  const Sight sight(pattern, extent, 0, head / (extent.heads / extent.kv_heads));
  for (int64_t g = 0; g < groups; ++g) {
    std::vector<std::vector<Sight::Segment>> keys;
    for (int64_t c = 0; c < cells.columns; ++c) {
      const int64_t begin = c * cells.key_tokens, end = std::min(extent.len_k, begin + cells.key_tokens);
      keys.push_back(sampled_in(sight, g, begin, end));
    }
    for (int64_t r = 0; r < cells.rows; ++r) {
      const int64_t begin = extent.query_start + r * cells.query_tokens;
      const int64_t end = std::min(extent.query_start + extent.len_q, begin + cells.query_tokens);
      const std::vector<Sight::Segment> queries = sampled_in(sight, g, begin, end);
      for (int64_t c = 0; c < cells.columns; ++c) {
        int64_t sum = 0;
        auto k = keys[static_cast<size_t>(c)].begin();
        const auto last = keys[static_cast<size_t>(c)].end();
        for (const Sight::Segment& q : queries) {
          while (k != last && k->begin < q.begin) ++k;
          if (k != last && k->begin == q.begin) sum += pairs(q.sampled, k->sampled, pattern.causal());
        }
        cells.share[static_cast<size_t>((g * cells.rows + r) * cells.columns + c)] = static_cast<double>(sum);
      }
    }
  }
  if (!pattern.blocks().empty()) count_blocks(sight, extent, cells);
  for (size_t n = 0; n < cells.share.size(); ++n) {
    const int64_t cell = static_cast<int64_t>(n), row = cell / cells.columns % cells.rows,
                  column = cell % cells.columns;
    const int64_t height = std::min(extent.len_q - row * cells.query_tokens, cells.query_tokens);
    const int64_t width = std::min(extent.len_k - column * cells.key_tokens, cells.key_tokens);
    cells.share[n] /= static_cast<double>(height * width);
  }
  return cells;
}

}  // namespace longstride::cli
