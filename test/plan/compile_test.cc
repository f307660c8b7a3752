// Compiled plans against the definition, pair by pair: the plan is expanded into a matrix of weights and compared with
// one written straight from the semantics, which knows nothing of tiles.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <sstream>
#include <vector>

#include "longstride/error.h"
#include "longstride/pattern.h"
#include "longstride/plan.h"
#include "longstride/plan/walk.h"

namespace longstride {
namespace {

// m(q, k) of one KV head and batch row, and phantoms of q, from docs/semantics.md. Rows are positions.
struct Definition {
  std::vector<int64_t> weights;  // len_k x len_k
  std::vector<int64_t> phantoms;

  Definition(const Pattern& pattern, const Extent& e, int64_t b, int64_t j) {
    weights.assign(e.len_k * e.len_k, 0);
    phantoms.assign(e.len_k, 0);
    std::vector<int64_t> cu = e.cu_seqlens;
    if (cu.empty()) cu = {0, e.lengths.empty() ? e.len_k : e.lengths[b]};
    for (size_t d = 0; d + 1 < cu.size(); ++d) {
      for (size_t g = 0; g < pattern.groups().size(); ++g) {
        if (!pattern.runs(g, j, e.kv_heads)) continue;
        const auto [w, r] = pattern.groups()[g];
        const int64_t offset = pattern.offset(g, j, e.kv_heads), n = cu[d + 1] - cu[d];
        const auto sampled = [&](int64_t p) { return p % w % r == offset; };
        for (int64_t q = 0; q < n; ++q) {
          if (!sampled(q)) continue;
          int64_t reals = 0;
          for (int64_t k = 0; k < n; ++k) {
            if (k / w != q / w || !sampled(k)) continue;
            ++reals;
            if (!pattern.causal() || k <= q) ++weights[(cu[d] + q) * e.len_k + cu[d] + k];
          }
          const int64_t clipped = std::min(w, n);
          if (pattern.options().padding == Padding::kZeroKeys && !pattern.causal()) {
            phantoms[cu[d] + q] += clipped / r + (clipped % r != 0) - reals;
          }
        }
      }
    }
  }
};

// "" or what is wrong with one class.
std::string compare(const PlanView& plan, const Definition& want, const Extent& e, int32_t class_id) {
  std::ostringstream wrong;
  const bool transposed = plan.direction == Direction::kTransposed;
  const int64_t n = e.len_k, rows_begin = transposed ? 0 : e.query_start,
                rows_end = transposed ? n : e.query_start + e.len_q;
  std::vector<int64_t> got(n * n), phantoms(n), covered(n), slots_open(n);
  std::map<int64_t, int64_t> row_of_slot;
  const PlanClass& c = plan.classes[class_id];
  for (int64_t l = c.level_begin; l < c.level_begin + c.level_count; ++l) {
    const Level& level = plan.levels[l];
    if (level.partial != (l + 1 < c.level_begin + c.level_count))
      wrong << "level " << l << " partial=" << level.partial << "; ";
    std::vector<int64_t> in_level(n);
    for_each_tile(plan, level, [&](const PlacedTile& placed) {
      const Tile& tile = *placed.tile;
      if (tile.rows < 1 || tile.rows > plan.tile_rows) wrong << "tile of " << tile.rows << " rows; ";
      for (const Run& run : plan.runs_of(tile)) {
        if (run.row_begin < 0 || run.row_begin >= run.row_end || run.row_end > tile.rows) wrong << "run rows; ";
        if (run.columns < 1 || run.residues < 1 || run.weight < 1) wrong << "empty run; ";
        if (run.residues > 1 && (run.residue_step <= 0 || run.residue_step * (run.residues - 1) >= level.stride)) {
          wrong << "residue_step " << run.residue_step << " x " << run.residues << " at stride " << level.stride
                << "; ";
        }
      }
      if (level.partial && tile.merge_count > 0) wrong << "merge in a partial level; ";
      for (const Merge& merge : plan.merges_of(tile)) {
        for (int64_t i = 0; i < merge.rows; ++i) {
          const int64_t row = merge.row_begin + i * merge.row_step, slot = merge.slot_at(i, placed.repeat);
          const auto found = row_of_slot.find(slot);
          const int64_t p = placed.row(row);
          if (row < 0 || row >= tile.rows || p >= n) {
            wrong << "merge row outside; ";
          } else if (found == row_of_slot.end() || found->second != p) {
            wrong << "slot " << slot << " does not hold row " << p << "; ";
          } else {
            row_of_slot.erase(found);
            --slots_open[p];
          }
        }
      }
      for (int64_t j = 0; j < tile.rows; ++j) {
        const int64_t p = placed.row(j);
        if (p < rows_begin || p >= rows_end) {
          wrong << "row outside: " << p << "; ";
          continue;
        }
        ++in_level[p];
        if (!level.partial) {
          ++covered[p];
          continue;
        }
        const int64_t slot = placed.slot + j;
        if (slot < 0 || slot >= c.partial_rows) wrong << "slot " << slot << " of " << c.partial_rows << "; ";
        if (!row_of_slot.emplace(slot, p).second) wrong << "slot " << slot << " twice; ";
        ++slots_open[p];
      }
    });
    for (int64_t p = 0; p < n; ++p) {
      if (in_level[p] > 1) wrong << "row " << p << " twice in level " << l << "; ";
    }
  }
  if (!wrong.str().empty()) return wrong.str();
  for_each_row(plan, c, [&](const PlacedRow& row) {
    phantoms[row.position] += phantom_count(plan, row);
    for_each_pair(plan, row, [&](int64_t column, int32_t weight) {
      if (column < 0 || column >= n) {
        wrong << "column outside: " << column << "; ";
      } else {
        got[transposed ? column * n + row.position : row.position * n + column] += weight;
      }
    });
  });
  if (!row_of_slot.empty()) wrong << row_of_slot.size() << " slots are never merged; ";
  for (int64_t p = rows_begin; p < rows_end; ++p) {
    if (covered[p] != 1) wrong << "row " << p << " covered " << covered[p] << " times; ";
    if (slots_open[p] != 0) wrong << "row " << p << " lacks merges; ";
  }
  for (int64_t q = 0; q < n; ++q) {
    const bool planned = q >= e.query_start && q < e.query_start + e.len_q;
    for (int64_t k = 0; k < n; ++k) {
      const int64_t expected = planned ? want.weights[q * n + k] : 0;
      if (got[q * n + k] != expected) {
        wrong << "m(" << q << ", " << k << ") = " << got[q * n + k] << ", must be " << expected << "; ";
        return wrong.str();
      }
    }
    const int64_t z = planned && !transposed ? want.phantoms[q] : 0;
    if (phantoms[q] != z) wrong << "row " << q << " has " << phantoms[q] << " phantoms, must have " << z << "; ";
  }
  return wrong.str();
}

std::string print(const Pattern& p, const Extent& e, const Geometry& geometry) {
  std::ostringstream text;
  text << "groups";
  for (const Group& g : p.groups()) text << " (" << g.segment << ", " << g.rate << ")";
  text << (p.causal() ? " causal" : "") << " offsets " << name(p.options().head_offset);
  if (p.options().offsets) {
    for (const int64_t o : *p.options().offsets) text << ' ' << o;
  }
  text << ' ' << name(p.options().mixing) << ' ' << name(p.options().padding) << " len_q " << e.len_q << " len_k "
       << e.len_k << " start " << e.query_start << " kv_heads " << e.kv_heads << " cu";
  for (const int64_t x : e.cu_seqlens) text << ' ' << x;
  text << " lengths";
  for (const int64_t x : e.lengths) text << ' ' << x;
  text << " tile " << geometry.tile_rows << " block " << geometry.column_block;
  return text.str();
}

void expect_exact(const Pattern& pattern, const Extent& e, const Geometry& geometry) {
  for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
    const Plan plan = compile(pattern, e, geometry, direction);
    ASSERT_EQ(static_cast<int64_t>(plan.class_of.size()), e.batch * e.kv_heads);
    std::map<int32_t, bool> seen;
    for (int64_t b = 0; b < e.batch; ++b) {
      for (int64_t j = 0; j < e.kv_heads; ++j) {
        const std::string wrong =
            compare(plan.view(), Definition(pattern, e, b, j), e, plan.class_of[b * e.kv_heads + j]);
        ASSERT_EQ(wrong, "") << (direction == Direction::kForward ? "forward " : "transposed ")
                             << print(pattern, e, geometry) << " class of row " << b << " head " << j;
      }
    }
  }
}

TEST(Compile, EverySmallSingleGroup) {
  for (int64_t len = 0; len <= 9; ++len) {
    for (int64_t w = 1; w <= len + 1; ++w) {
      for (int64_t r = 1; r <= w + 2; ++r) {
        for (const bool causal : {false, true}) {
          const Pattern p =
              Pattern::dilated({w}, {r}, {.causal = causal, .padding = causal ? Padding::kMasked : Padding::kZeroKeys});
          expect_exact(p, {.heads = 3, .kv_heads = 3, .len_q = len, .len_k = len},
                       {.tile_rows = 2, .column_block = 2, .row_quantum = 1});
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(Compile, EverySmallPairOfGroups) {
  for (int64_t len = 1; len <= 7; ++len) {
    for (int64_t code = 0; code < 4 * 4 * 5 * 5; ++code) {
      const int64_t w0 = code % 4 * 2 + 1, w1 = code / 4 % 4 + 2, r0 = code / 16 % 5 + 1, r1 = code / 80 + 1;
      for (const bool causal : {false, true}) {
        const Pattern p = Pattern::dilated({w0, w1}, {r0, r1}, {.causal = causal, .head_offset = HeadOffset::kModulo});
        expect_exact(p, {.heads = 2, .kv_heads = 2, .len_q = len, .len_k = len},
                     {.tile_rows = 3, .column_block = 2, .row_quantum = 1});
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Any pattern and lengths that a seed makes; `scale` bounds the lengths.
void expect_random_exact(uint64_t seed, int64_t scale) {
  std::mt19937_64 random(seed);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint64_t>(n)); };
  const auto one_of = [&](std::vector<int64_t> values) { return values[below(values.size())]; };
  const int64_t groups = 1 + below(6);
  std::vector<int64_t> segments, rates;
  const bool nested = below(3) == 0;
  for (int64_t g = 0; g < groups; ++g) {
    if (nested) {
      segments.push_back(int64_t{8} << g);
      rates.push_back(int64_t{1} << g);
    } else {
      segments.push_back(below(8) == 0 ? INT64_MAX - below(3) : 1 + below(below(2) ? scale : 12));
      rates.push_back(below(12) == 0 ? INT64_MAX - below(3) : one_of({1, 1, 2, 2, 3, 4, 4, 5, 6, 8, 12, 16, 70}));
    }
  }
  Extent e;
  e.kv_heads = 1 + below(4);
  e.heads = e.kv_heads * (1 + below(2));
  e.batch = 1 + below(2);
  e.len_k = below(scale + 1);
  e.len_q = below(2) ? e.len_k : below(e.len_k + 1);
  e.query_start = below(e.len_k - e.len_q + 1);
  const int64_t structure = below(4);
  if (structure == 0) {
    e.cu_seqlens = {0, e.len_k};
    for (int64_t d = below(12); d > 0; --d) e.cu_seqlens.push_back(below(e.len_k + 1));
    std::sort(e.cu_seqlens.begin(), e.cu_seqlens.end());
  } else if (structure == 1) {
    for (int64_t b = 0; b < e.batch; ++b) e.lengths.push_back(below(e.len_k + 1));
  }
  DilatedOptions options;
  options.causal = below(2);
  options.head_offset = static_cast<HeadOffset>(below(3));
  if (below(3) == 0) {
    options.offsets.emplace();
    for (int64_t i = 0; i < groups * e.kv_heads; ++i) options.offsets->push_back(below(20));
  }
  if (below(5) == 0 && e.kv_heads >= groups) options.mixing = Mixing::kHeadPartition;
  options.padding = static_cast<Padding>(below(2));
  Geometry geometry;
  geometry.tile_rows = static_cast<int32_t>(one_of({1, 4, 8, 16, 128}));
  geometry.column_block = static_cast<int32_t>(one_of({1, 4, 16, 128}));
  geometry.row_quantum = static_cast<int32_t>(one_of({1, 4, 16}));
  geometry.merge_columns = static_cast<double>(one_of({0, 1, 64}));
  geometry.run_columns = geometry.tile_columns = static_cast<double>(one_of({0, 1, 8}));
  SCOPED_TRACE("rerun: LONGSTRIDE_SEED=" + std::to_string(seed) + " plan_test --gtest_filter=Compile.Random*");
  expect_exact(Pattern::dilated(segments, rates, options), e, geometry);
}

void expect_random_exact(uint64_t first, int64_t cases, int64_t scale) {
  if (const char* seed = std::getenv("LONGSTRIDE_SEED")) {
    expect_random_exact(std::stoull(seed), scale);
    return;
  }
  for (int64_t i = 0; i < cases; ++i) {
    expect_random_exact(first + i, scale);
    if (testing::Test::HasFailure()) return;
  }
}

TEST(Compile, RandomSmall) { expect_random_exact(1, 3000, 40); }
TEST(Compile, RandomMiddle) { expect_random_exact(100'000, 300, 300); }
TEST(Compile, RandomLarge) { expect_random_exact(200'000, 10, 1500); }

// Classes share searches; which of them is searched must not depend on the order of heads and batch rows.
TEST(Compile, PermutedHeadsAndRowsHaveTheSameTiles) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint64_t>(n)); };
    constexpr int64_t kHeads = 4, kRows = 3, kGroups = 3;
    Extent e{.batch = kRows, .heads = kHeads, .kv_heads = kHeads};
    e.len_q = e.len_k = 60 + below(200);
    for (int64_t b = 0; b < kRows; ++b) e.lengths.push_back(below(e.len_k + 1));
    std::vector<int64_t> offsets;
    for (int64_t i = 0; i < kGroups * kHeads; ++i) offsets.push_back(below(4));
    std::vector<int64_t> heads = {0, 1, 2, 3}, rows = {0, 1, 2};
    std::shuffle(heads.begin(), heads.end(), random);
    std::shuffle(rows.begin(), rows.end(), random);
    Extent moved_extent = e;
    std::vector<int64_t> moved = offsets;
    for (int64_t b = 0; b < kRows; ++b) moved_extent.lengths[b] = e.lengths[rows[b]];
    for (int64_t g = 0; g < kGroups; ++g) {
      for (int64_t h = 0; h < kHeads; ++h) moved[g * kHeads + h] = offsets[g * kHeads + heads[h]];
    }
    const bool causal = below(2) == 0;
    const Geometry geometry{.tile_rows = 64, .column_block = 16, .run_row_quantum = 16, .diagonal_rows = 16};
    const auto plan_of = [&](const std::vector<int64_t>& table, const Extent& extent) {
      return compile(Pattern::dilated({16, 32, 64}, {1, 2, 4}, {.causal = causal, .offsets = table}), extent, geometry);
    };
    const Plan a = plan_of(offsets, e), b = plan_of(moved, moved_extent);
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t h = 0; h < kHeads; ++h) {
        const int32_t of_a = a.class_of[rows[row] * kHeads + heads[h]], of_b = b.class_of[row * kHeads + h];
        const PlanCounts x = count(a.view(), of_a), y = count(b.view(), of_b);
        EXPECT_EQ(std::tuple(a.classes[of_a].level_count, x.tiles, x.runs, x.computed_pairs, x.merged_rows),
                  std::tuple(b.classes[of_b].level_count, y.tiles, y.runs, y.computed_pairs, y.merged_rows));
      }
    }
    if (testing::Test::HasFailure()) return;
  }
}

// Where segments are shorter than a tile, one tile for several of them computes pairs in vain, which is cheaper than
// more tiles when a tile has a price of its own.
TEST(Compile, ATileHasAPrice) {
  const Pattern pattern = Pattern::dilated({128, 256, 512}, {1, 2, 4});
  const Extent e{.len_q = 512, .len_k = 512};
  const auto tiles = [&](double price) {
    const Plan plan = compile(pattern, e, {.row_quantum = 64, .tile_columns = price});
    int64_t sum = 0;
    for (const Section& s : plan.sections) sum += s.tile_count * s.repeats;
    return sum;
  };
  EXPECT_GT(tiles(0), tiles(256));
  expect_exact(pattern, e, {.row_quantum = 64, .tile_columns = 256});
  EXPECT_THROW(tiles(-1), Error);
}

TEST(Compile, APatternThatShowsNothingIsRefused) {
  const auto plan = [](const Pattern& pattern) { (void)compile(pattern, {.len_q = 8, .len_k = 8}, {}); };
  EXPECT_THROW(plan(Pattern()), Error);
  EXPECT_THROW(plan(Pattern().with_causal(true)), Error);
  EXPECT_NO_THROW(plan(Pattern().with_blocks({{4, BlockList{}}})));
}

TEST(Compile, EqualInputsGiveEqualPlans) {
  const Pattern p = Pattern::dilated({64, 128, 300}, {1, 2, 6}, {.causal = true});
  const Extent e{.heads = 4, .kv_heads = 4, .len_q = 1000, .len_k = 1000};
  const Plan a = compile(p, e, {}), b = compile(p, e, {});
  EXPECT_EQ(a.bytes(), b.bytes());
  EXPECT_EQ(a.class_of, b.class_of);
  ASSERT_EQ(a.runs.size(), b.runs.size());
  EXPECT_EQ(std::memcmp(a.runs.data(), b.runs.data(), a.runs.size() * sizeof(a.runs[0])), 0);
}

}  // namespace
}  // namespace longstride
