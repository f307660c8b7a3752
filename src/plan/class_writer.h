// Writes one class of a plan: its levels as sections of ordered tiles, linked by merges. Called by compile().
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "longstride/plan.h"
#include "plan/level.h"
#include "plan/merges.h"
#include "plan/parts.h"
#include "plan/tiler.h"

namespace longstride::plan {

class ClassWriter {
 public:
  // Both must outlive the writer; scope's geometry is the plan's.
  ClassWriter(const Scope& scope, Plan& plan) : scope_(scope), plan_(plan) {}

  // `levels`: the base level last.
  void add(const ClassSpec& spec, const std::vector<LevelShape>& levels);
  // The same of a class of one row, without levels. False: nothing was added, since it wants them.
  bool add_one_row(const ClassSpec& spec);

 private:
  // Rows [begin, end), planned once and executed `repeats` times, each `end - begin` further than the last.
  struct Span {
    int64_t begin = 0;
    int64_t end = 0;
    int64_t repeats = 1;
  };

  std::vector<Span> spans(const ClassSpec&, const std::vector<LevelShape>&) const;
  Section add_tiles(Tiler&, const Documents&, const LevelShape&, const Span&, bool partial);
  void add_line(Tiler&, int64_t stride, int64_t begin, int64_t end, bool partial);
  Tile begun_tile(int64_t row0, int64_t rows, size_t run_begin) const;
  void finish_tile(Tile tile);
  void finish_level(WrittenLevel&, const std::vector<size_t>& span_of, PlanClass& written);
  void order_tiles(const LevelShape&, const Span&, int64_t tile_begin);

  const Scope& scope_;
  Plan& plan_;
  std::optional<Tiler> tiler_;
  std::shared_ptr<const Documents> tiled_;             // those of the tiler
  std::vector<std::vector<SectionOfLevel>> partials_;  // of the class being written: its partial levels, span by span
  // Of the section being written: the pairs of its tiles; what the longest tile takes, and all (WrittenLevel).
  std::vector<int64_t> costs_;
  double longest_ = 0;
  double total_ = 0;
};

}  // namespace longstride::plan
