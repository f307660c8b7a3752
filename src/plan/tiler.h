// Makes the tiles of one level: where a line of rows is cut, and which runs a tile has. Called by the level search,
// which prices tiles, and by compile(), which keeps them.
#pragma once

#include <cstdint>
#include <vector>

#include "longstride/plan.h"
#include "plan/level.h"

namespace longstride::plan {

class Tiler {
 public:
  // `scope` and `documents` must outlive the tiler.
  Tiler(const Scope& scope, const Documents& documents) : scope_(scope), documents_(documents) {}

  // The level that the calls below are about; it must outlive them.
  void enter(const LevelShape& level);

  // The next position after `position` at which tiles end; not looked for beyond the rows of one whole tile or of the
  // scope, which are answered instead.
  int64_t next_cut(int64_t position) const;
  // The last position at or before `position` at which a tile begins, as far as the cuts within a tile's reach say.
  int64_t previous_cut(int64_t position) const;

  // Looks up what the rows row0 + j * stride, 0 <= j < rows, see in the level.
  void gather(int64_t row0, int64_t rows);
  // The first unbroken range of gathered rows that see something: [first, second), empty if there is none.
  std::pair<int64_t, int64_t> first_touched() const;
  // Appends the runs (and, if asked, phantoms) of the first `rows` of the gathered rows.
  void emit(int64_t rows, std::vector<Run>& runs, std::vector<Phantoms>* phantoms);

 private:
  // One group's segment as a tile meets it: rows [row_begin, row_end) of the tile see the columns of [low, high) that
  // are `phase` modulo `rate`.
  struct Piece {
    int64_t row_begin = 0;
    int64_t row_end = 0;
    int64_t low = 0;
    int64_t high = 0;
    int64_t rate = 1;
    int64_t phase = 0;
    int64_t phantoms = 0;
  };
  // Columns of one interval from which all runs of it are cut.
  struct Interval;

  size_t document_at(int64_t position) const;
  int64_t next_segment_cut(int64_t position) const;
  void gather_bands();
  void join_runs(size_t first, std::vector<Run>& runs);
  void gather_sampling(const Sampling&);
  // Of the pieces in covering_, which all contain the interval.
  void emit_interval(int64_t low, int64_t high, std::vector<Run>& runs);
  void emit_residues(const Interval&, const std::vector<std::pair<const Piece*, uint64_t>>&, std::vector<Run>& runs);
  void emit_set(const Interval&, uint64_t set, int64_t row_begin, int64_t row_end, int32_t weight,
                std::vector<Run>& runs) const;
  struct Places;
  Places places_at(const Rectangle&, int64_t place) const;
  void emit_rectangles(int64_t rows, std::vector<Run>& runs) const;
  void emit_places(const Rectangle&, const Places&, int64_t rows, std::vector<Run>& runs) const;
  void emit_phantoms(int64_t rows, std::vector<Phantoms>& phantoms);

  // tiler_stairs.cc: what a piece sees of one block of columns.
  struct Step {
    int64_t low = 0;
    int64_t high = 0;
    const Piece* piece = nullptr;
  };
  using RowRange = std::pair<int64_t, int64_t>;
  void add_block_ends(int64_t quantum);
  void gather_steps(int64_t low, int64_t high, size_t next);
  static void add_rows(const Piece&, std::vector<RowRange>& ranges);
  double ranges_cost(const std::vector<RowRange>& ranges, const std::vector<RowRange>& begun) const;
  bool follow_rows(size_t first, size_t last);
  bool emit_stairs(size_t first, size_t& end, size_t& next, std::vector<Run>& runs);

  const Scope& scope_;
  const Documents& documents_;
  mutable size_t last_document_ = 0;  // a hint
  const LevelShape* level_ = nullptr;
  int64_t stride_ = 1;
  std::vector<Sampling> cutting_;  // samplings of the level whose segments end tiles
  int64_t row0_ = 0;
  int64_t rows_ = 0;
  std::vector<Piece> pieces_;
  // Scratch, kept to save allocations.
  std::vector<int64_t> bounds_;
  std::vector<const Piece*> by_low_;
  std::vector<const Piece*> covering_;  // the pieces of the interval at hand
  std::vector<std::pair<const Piece*, uint64_t>> masks_;
  std::vector<int64_t> row_edges_;
  std::vector<uint64_t> sets_;
  std::vector<size_t> open_;  // runs that end where the interval at hand begins
  std::vector<Step> steps_;
  std::vector<RowRange> ranges_, begun_;
};

}  // namespace longstride::plan
