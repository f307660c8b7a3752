// The intermediate form: who attends to whom, as strided tiles and runs that an engine walks without knowing any
// pattern. Plain data first (all that engines may use), then the functions of the planner. Torch-free, deterministic.
//
// Words. A *level* is a list of *tiles* of one stride L. A tile is an arithmetic progression of rows; each of its
// *runs* is a family of column progressions of the same stride. In a forward plan rows are queries and columns are
// keys; in a transposed plan rows are keys and columns are queries. Positions are logical: 0..len_k, queries included
// (query i of the tensor stands at position query_start + i).
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace longstride {

class Pattern;
struct Extent;

enum class Direction { kForward, kTransposed };

// Column i of residue c stands at column0 + c * residue_step + i * L, 0 <= i < columns, 0 <= c < residues. Row j (of
// the rows [row_begin, row_end) that the run serves) and column i of any residue are a pair iff
//   forward:    j + low <= i < j + diagonal     (diagonal = kEverything: no bound)
//   transposed: j + diagonal <= i <= j - low    (diagonal = -kEverything: no bound)
// and every pair counts `weight` times. So `diagonal` keeps keys from queries that stand before them, and `low`, in
// both directions (key less query) >= low, keeps them from queries too far behind; low = -kEverything: no bound.
//
// diagonal = kGrows, in a causal forward plan of one query: no bound either, and the columns end with the query's
// reach, so that a query some levels' strides further on sees one more in every residue for each
// (src/plan/step_base.h).
struct Run {
  static constexpr int64_t kEverything = std::numeric_limits<int64_t>::max() / 4;
  static constexpr int64_t kGrows = kEverything + 1;
  int64_t column0 = 0;
  int64_t columns = 0;       // per residue
  int32_t residue_step = 0;  // in tokens; 0 < residue_step < L if residues > 1, which only levels of L <= 64 have
  int16_t residues = 1;
  int16_t buffer = 0;  // 0: the local tensor; n: rows received in exchange n (context parallelism)
  int64_t diagonal = kEverything;
  int64_t low = -kEverything;
  int32_t weight = 1;
  int16_t row_begin = 0;
  int16_t row_end = 0;

  // Row j sees the columns i of [0, columns) with j + begin_diagonal <= i < j + end_diagonal.
  constexpr int64_t begin_diagonal(Direction d) const { return d == Direction::kForward ? low : diagonal; }
  constexpr int64_t end_diagonal(Direction d) const { return d == Direction::kForward ? diagonal : 1 - low; }
  constexpr bool grows() const { return diagonal == kGrows; }
};
static_assert(sizeof(Run) == 48);

// Rows [row_begin, row_end) of a tile see `count` phantom keys each: logit 0, value 0. The counts of one row add, over
// the entries of a tile and over the tiles of all levels in which the row lies. Transposed plans have none.
struct Phantoms {
  int32_t row_begin = 0;
  int32_t row_end = 0;
  int64_t count = 0;
};

// Rows row_begin + n * row_step, 0 <= n < rows, of a base tile find a partial result in slots slot + n * slot_step
// (+ slot_shift * repeat) of the class's partial rows.
struct Merge {
  int64_t slot = 0;
  int64_t slot_shift = 0;
  int32_t slot_step = 1;
  int32_t row_begin = 0;
  int32_t row_step = 1;
  int32_t rows = 0;

  // The slot of row row_begin + n * row_step.
  constexpr int64_t slot_at(int64_t n, int64_t repeat) const { return slot + n * slot_step + slot_shift * repeat; }
  // The slot of row j of the tile; -1: it is none of the rows.
  constexpr int64_t slot_of_row(int32_t j, int64_t repeat) const {
    const int32_t past = j - row_begin, n = past / row_step;
    return past < 0 || n >= rows || n * row_step != past ? -1 : slot_at(n, repeat);
  }
};

// Row j stands at row0 + j * L. A tile may have no runs: it still writes its rows (out = 0, lse = -inf, zero
// gradients).
struct Tile {
  int64_t row0 = 0;
  int32_t rows = 0;
  uint32_t run_begin = 0;
  uint32_t run_count = 0;
  uint32_t phantom_begin = 0;
  uint32_t merge_begin = 0;
  uint16_t phantom_count = 0;
  uint16_t merge_count = 0;
};
static_assert(sizeof(Tile) == 32);

// Tiles [tile_begin, tile_begin + tile_count), stored once and executed `repeats` times; in repeat n every position
// (row0 and column0) is n * shift further. Tiles are stored in the order in which they should be started: longest
// first, those that share columns together.
struct Section {
  int64_t tile_begin = 0;
  int64_t tile_count = 0;
  int64_t repeats = 1;
  int64_t shift = 0;
  // Partial levels: tile t (counted from tile_begin) of repeat n keeps its rows in slots
  // slot_begin + (n * tile_count + t) * tile_rows + j of the class's partial rows.
  int64_t slot_begin = 0;
};

// Tiles so long that one worker would sit over them when the others are done are cut by their runs into parts, which
// have the tile's rows, or those that their runs serve, and no pair in common (Geometry::workers). Which tiles of a
// partial level are parts:
enum class Parts : uint8_t {
  kNone,    // none: the rows of the level are pairwise disjoint
  kSome,    // some: those of one tile stand next to each other, and the first has all its rows
  kOfBase,  // all, of tiles of the base level, whose stride the level has; it stands right before it
};

// A class's levels run in order: first the partial ones, which keep float32 (out, lse) in slots, last the one base
// level, which covers every row of the class exactly once, merges what the slots hold and writes the result. In a
// transposed plan the slots hold float32 (dk, dv), and merging is adding.
struct Level {
  int64_t stride = 1;  // L
  int32_t section_begin = 0;
  int32_t section_count = 0;
  bool partial = false;
  Parts parts = Parts::kNone;
  // Whether it is the base level, or holds parts of it.
  constexpr bool of_base() const { return !partial || parts == Parts::kOfBase; }
};

struct PlanClass {
  int32_t level_begin = 0;
  int32_t level_count = 0;
  int64_t partial_rows = 0;  // slots that the partial levels of this class need, per query head
};

// What the cost model is told of an engine, and the tile shapes that it gets.
struct Geometry {
  int32_t tile_rows = 128;     // most rows of a tile; <= 32767
  int32_t column_block = 128;  // columns of a run are computed in blocks of this many per residue; blocks in which no
                               // row of the tile sees a column are skipped
  int32_t column_quantum = 1;  // columns are multiplied in blocks of so many, however few of a block a run has
  int32_t row_quantum = 16;    // a tile of n rows costs as much as one of n rounded up to this
  int32_t run_row_quantum = 32767;  // a run costs the rows that it serves, out to multiples of this; more than
                                    // tile_rows: all rows of the tile
  int32_t diagonal_rows = 32767;    // forward: where the diagonal crosses a run, so many rows are multiplied at a time,
                                    // each with the blocks that they see; more than tile_rows: all rows at once
  double merge_columns = 64;        // price of one row of a partial level: as much as this many columns
  double run_columns =
      8;  // fixed price of one (run, residue, column block): as much as this many columns, times tile_rows
  double tile_columns = 8;                       // fixed price of a tile: as much as this many columns, times tile_rows
  static constexpr int32_t kMostWorkers = 1024;  // a level has four parts a worker, and Tile::merge_count 16 bits
  int32_t workers = 1;       // that share the tiles of one level of one class; 1: no tile is cut into parts
  double part_columns = 64;  // fixed price of a part of a tile, beside merging its rows: as much as this many columns,
                             // times tile_rows
  bool operator==(const Geometry&) const = default;
};

// Borrowed arrays: what crosses the engine contract.
struct PlanView {
  Direction direction = Direction::kForward;
  int32_t tile_rows = 0;              // Geometry::tile_rows
  int32_t column_block = 0;           // Geometry::column_block
  std::span<const int32_t> class_of;  // batch x kv_heads, row by row
  std::span<const PlanClass> classes;
  std::span<const Level> levels;
  std::span<const Section> sections;
  std::span<const Tile> tiles;
  std::span<const Run> runs;
  std::span<const Phantoms> phantoms;
  std::span<const Merge> merges;
  int32_t row_quantum = 1;          // Geometry::row_quantum; for count()
  int32_t run_row_quantum = 32767;  // Geometry::run_row_quantum; for count()
  int32_t diagonal_rows = 32767;    // Geometry::diagonal_rows; for count()

  auto levels_of(const PlanClass& c) const { return levels.subspan(c.level_begin, c.level_count); }
  auto sections_of(const Level& l) const { return sections.subspan(l.section_begin, l.section_count); }
  auto tiles_of(const Section& s) const { return tiles.subspan(s.tile_begin, s.tile_count); }
  auto runs_of(const Tile& t) const { return runs.subspan(t.run_begin, t.run_count); }
  auto phantoms_of(const Tile& t) const { return phantoms.subspan(t.phantom_begin, t.phantom_count); }
  auto merges_of(const Tile& t) const { return merges.subspan(t.merge_begin, t.merge_count); }
  int64_t bytes() const;  // of all arrays
};

struct Plan {
  Direction direction = Direction::kForward;
  Geometry geometry;
  std::vector<int32_t> class_of;
  std::vector<PlanClass> classes;
  std::vector<Level> levels;
  std::vector<Section> sections;
  std::vector<Tile> tiles;
  std::vector<Run> runs;
  std::vector<Phantoms> phantoms;
  std::vector<Merge> merges;

  PlanView view() const;
  int64_t bytes() const { return view().bytes(); }
};

// Compiles a pattern for one call's lengths. Rows are the len_q queries (forward), or the len_k keys (transposed).
// Throws Error if the pattern cannot be had on these lengths (validate() of both; head_partition with too few KV
// heads).
Plan compile(const Pattern&, const Extent&, const Geometry&, Direction = Direction::kForward);

// What a plan executes, counted from the plan itself, per class and in total over batch x query heads.
struct PlanCounts {
  int64_t tiles = 0;  // executed (repeats counted)
  int64_t runs = 0;   // executed
  // (query, key) pairs that some run shows, each counted once, whatever its weight and however many levels execute it.
  int64_t seen_pairs = 0;
  // What the engine multiplies, masked pairs included, over the tiles of all levels: rows of the tile's runs rounded as
  // Geometry says, times their columns and residues, less the column blocks that no row sees
  // (at a diagonal: no row of Geometry::diagonal_rows).
  int64_t computed_pairs = 0;
  int64_t rows = 0;         // rows of base levels
  int64_t merged_rows = 0;  // rows that a Merge names
  int64_t split_tiles = 0;  // tiles that were cut into parts
  int64_t parts = 0;        // of all of them, what the base level keeps of its own tiles included
  double computed_per_row() const { return rows ? static_cast<double>(computed_pairs) / static_cast<double>(rows) : 0; }
  double seen_per_row() const { return rows ? static_cast<double>(seen_pairs) / static_cast<double>(rows) : 0; }
};
PlanCounts count(const PlanView&, int64_t class_id);
PlanCounts count(const PlanView&, const Extent&);

// Useful FLOPs of one forward: 4 * dim * seen_pairs over batch and query heads. A backward is 2.5 times that.
double useful_flops(const PlanView&, const Extent&, int64_t dim);
// The sum over groups of 4 * dim * heads * len / rate * segment / rate, and over block patterns of 4 * dim * heads *
// len^2 * density, halved if causal (the field's usual figure).
double nominal_flops(const Pattern&, const Extent&, int64_t dim);

// Checks a plan pair by pair against the definition of the pattern: weights, phantoms, coverage, merges, parts. Returns
// an empty string, or the first thing that is wrong. Costs O(batch * kv_heads * len_q * len_k): for tests and
// `longstride show`.
std::string verify(const PlanView&, const Pattern&, const Extent&);

// The plan in words: levels, strides, tiles, columns a row, bytes, for a person.
std::string describe(const PlanView&, const Extent&);

}  // namespace longstride
