// Compiles a pattern into tiles and runs: every group is a level of its own. Pure: values in, values out.
#include <algorithm>

#include "core/checked.h"
#include "core/refuse.h"
#include "longstride/pattern.h"
#include "longstride/plan.h"
#include "plan/classes.h"

namespace longstride {
namespace {

using plan::ClassSpec;
using plan::Documents;
using plan::Sampling;

struct Scope {
  int64_t row_begin, row_end;        // rows to plan
  int64_t column_begin, column_end;  // columns that exist
  bool causal, zero_keys, transposed;
};

class Writer {
 public:
  Writer(Plan& plan, const Scope& scope) : plan_(plan), scope_(scope), tile_rows_(plan.geometry.tile_rows) {}

  void add_class(const ClassSpec& spec) {
    const auto level_begin = static_cast<int32_t>(plan_.levels.size());
    int64_t slots = 0;
    for (const Sampling& s : spec.samplings) {
      const auto tile_begin = static_cast<int64_t>(plan_.tiles.size());
      add_sampling(*spec.documents, s);
      close_level(stride_of(s), tile_begin, true, slots);
      slots += (static_cast<int64_t>(plan_.tiles.size()) - tile_begin) * tile_rows_;
    }
    const auto partial_end = static_cast<int32_t>(plan_.levels.size());
    const auto tile_begin = static_cast<int64_t>(plan_.tiles.size());
    for (int64_t p = scope_.row_begin; p < scope_.row_end; p += tile_rows_) {
      Tile tile = open_tile(p, std::min<int64_t>(tile_rows_, scope_.row_end - p));
      for (int32_t l = level_begin; l < partial_end; ++l) add_merges(tile, plan_.levels[l]);
      plan_.tiles.push_back(tile);
    }
    close_level(1, tile_begin, false, 0);
    plan_.classes.push_back({level_begin, static_cast<int32_t>(plan_.levels.size()) - level_begin, slots});
  }

 private:
  // Of a rate beyond the segment at most one position is sampled: any stride will do.
  static int64_t stride_of(const Sampling& s) { return std::min(s.rate, s.segment); }

  Tile open_tile(int64_t row0, int64_t rows) const {
    return {.row0 = row0,
            .rows = static_cast<int32_t>(rows),
            .run_begin = static_cast<uint32_t>(plan_.runs.size()),
            .phantom_begin = static_cast<uint32_t>(plan_.phantoms.size()),
            .merge_begin = static_cast<uint32_t>(plan_.merges.size())};
  }

  void close_level(int64_t stride, int64_t tile_begin, bool partial, int64_t slot_begin) {
    plan_.sections.push_back({.tile_begin = tile_begin,
                              .tile_count = static_cast<int64_t>(plan_.tiles.size()) - tile_begin,
                              .slot_begin = slot_begin});
    plan_.levels.push_back({stride, static_cast<int32_t>(plan_.sections.size() - 1), 1, partial});
  }

  void add_sampling(const Documents& documents, const Sampling& s) {
    const int64_t stride = stride_of(s);
    for (size_t d = 1; d < documents.size(); ++d) {
      const int64_t begin = documents[d - 1], end = documents[d];
      const int64_t full = std::min(s.segment, end - begin);
      for (int64_t a = begin; a < end; a += s.segment) {
        const int64_t sampled =
            s.offset < std::min(s.segment, end - a) ? (std::min(s.segment, end - a) - s.offset - 1) / s.rate + 1 : 0;
        const int64_t first = a + s.offset;
        if (sampled == 0) continue;
        const int64_t phantoms =
            scope_.zero_keys && !scope_.causal && !scope_.transposed ? core::ceil_divide(full, s.rate) - sampled : 0;
        const auto from = [&](int64_t p) {
          return p <= first ? int64_t{0} : std::min(sampled, core::ceil_divide(p - first, stride));
        };
        const int64_t row_begin = from(scope_.row_begin), row_end = from(scope_.row_end);
        const int64_t column_begin = from(scope_.column_begin), column_end = from(scope_.column_end);
        for (int64_t r = row_begin; r < row_end; r += tile_rows_) {
          Tile tile = open_tile(first + r * stride, std::min<int64_t>(tile_rows_, row_end - r));
          add_run(tile, first + column_begin * stride, column_end - column_begin, stride);
          if (phantoms > 0) {
            plan_.phantoms.push_back({0, tile.rows, phantoms});
            tile.phantom_count = 1;
          }
          plan_.tiles.push_back(tile);
        }
      }
    }
  }

  // All columns are of the rows' own progression.
  void add_run(Tile& tile, int64_t column0, int64_t columns, int64_t stride) {
    Run run{.column0 = column0, .columns = columns, .row_end = static_cast<int16_t>(tile.rows)};
    const int64_t ahead = (tile.row0 - column0) / stride;  // exact
    if (scope_.transposed) {
      run.diagonal = -Run::kEverything;
      if (scope_.causal) {
        run.diagonal = ahead;
        if (tile.rows - 1 + run.diagonal <= 0) run.diagonal = -Run::kEverything;
      }
      if (columns > 0 && (run.diagonal < 0 || columns > run.diagonal)) push(tile, run);
    } else {
      if (scope_.causal) {
        run.diagonal = ahead + 1;
        run.columns = std::min(columns, tile.rows - 1 + run.diagonal);
        if (run.columns <= run.diagonal) run.diagonal = Run::kEverything;
      }
      if (run.columns > 0) push(tile, run);
    }
  }

  void push(Tile& tile, const Run& run) {
    plan_.runs.push_back(run);
    ++tile.run_count;
  }

  // `tile` is of stride 1.
  void add_merges(Tile& tile, const Level& level) {
    const Section& section = plan_.sections[level.section_begin];
    for (int64_t t = 0; t < section.tile_count; ++t) {
      const Tile& other = plan_.tiles[section.tile_begin + t];
      const int64_t last = other.row0 + (other.rows - 1) * level.stride;
      if (last < tile.row0 || other.row0 >= tile.row0 + tile.rows) continue;
      const int64_t skipped = other.row0 >= tile.row0 ? 0 : core::ceil_divide(tile.row0 - other.row0, level.stride);
      const int64_t row = other.row0 + skipped * level.stride - tile.row0;
      if (row >= tile.rows) continue;
      const int64_t rows = std::min(other.rows - skipped, (tile.rows - 1 - row) / level.stride + 1);
      plan_.merges.push_back({.slot = section.slot_begin + t * tile_rows_ + skipped,
                              .row_begin = static_cast<int32_t>(row),
                              .row_step = static_cast<int32_t>(std::min<int64_t>(level.stride, tile_rows_)),
                              .rows = static_cast<int32_t>(rows)});
      ++tile.merge_count;
    }
  }

  Plan& plan_;
  const Scope scope_;
  const int64_t tile_rows_;
};

}  // namespace

Plan compile(const Pattern& pattern, const Extent& extent, const Geometry& geometry, Direction direction) {
  extent.validate();
  const bool transposed = direction == Direction::kTransposed;
  const int64_t query_end = extent.query_start + extent.len_q;
  const Scope scope{.row_begin = transposed ? 0 : extent.query_start,
                    .row_end = transposed ? extent.len_k : query_end,
                    .column_begin = transposed ? extent.query_start : 0,
                    .column_end = transposed ? query_end : extent.len_k,
                    .causal = pattern.causal(),
                    .zero_keys = pattern.options().padding == Padding::kZeroKeys,
                    .transposed = transposed};
  plan::Classes classes = plan::classify(pattern, extent);
  Plan result;
  result.direction = direction;
  result.geometry = geometry;
  result.class_of = std::move(classes.class_of);
  Writer writer(result, scope);
  for (const ClassSpec& spec : classes.specs) writer.add_class(spec);
  return result;
}

PlanView Plan::view() const {
  return {
      direction, geometry.tile_rows,  geometry.column_block, class_of, classes, levels, sections, tiles, runs, phantoms,
      merges,    geometry.row_quantum};
}

int64_t Plan::bytes() const {
  const auto size = [](const auto& array) { return static_cast<int64_t>(array.size() * sizeof(array[0])); };
  return size(class_of) + size(classes) + size(levels) + size(sections) + size(tiles) + size(runs) + size(phantoms) +
         size(merges);
}

}  // namespace longstride
