// Runs are dealt to the parts of a tile one after another, those that serve the most rows first; the one that would
// make a part too long is cut between two blocks of its columns, or between two of its residues.
#include "plan/parts.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>

#include "core/checked.h"
#include "plan/division.h"
#include "plan/run_cost.h"

namespace longstride::plan {
namespace {

// The columns [begin, end) of a run, of each residue, and the rows that see any of them, if there are any. Only what
// has the last column goes on growing.
std::optional<Run> columns_of(Run run, int64_t begin, int64_t end, int64_t stride, Direction direction) {
  if (run.grows() && end < run.columns) run.diagonal = Run::kEverything;
  run.column0 += begin * stride;
  run.columns = end - begin;
  if (std::abs(run.diagonal) < Run::kEverything) run.diagonal -= begin;
  if (run.low > -Run::kEverything) run.low += direction == Direction::kForward ? -begin : begin;
  const int64_t row_begin = std::max<int64_t>(run.row_begin, 1 - run.end_diagonal(direction));
  const int64_t row_end = std::min<int64_t>(run.row_end, run.columns - run.begin_diagonal(direction));
  if (row_begin >= row_end) return std::nullopt;
  run.row_begin = static_cast<int16_t>(row_begin);
  run.row_end = static_cast<int16_t>(row_end);
  return run;
}

Run residues_of(Run run, int64_t begin, int64_t end) {
  run.column0 += begin * run.residue_step;
  run.residues = static_cast<int16_t>(end - begin);
  if (run.residues == 1) run.residue_step = 0;
  return run;
}

// Runs of the parts of one tile, part after part.
struct CutTile {
  std::vector<Run> runs;
  std::vector<size_t> ends;  // of each part among them
  size_t size() const { return ends.size(); }
  std::span<Run> part(size_t n) {
    const size_t begin = n == 0 ? 0 : ends[n - 1];
    return std::span(runs).subspan(begin, ends[n] - begin);
  }
};

class Cutter {
 public:
  Cutter(int64_t stride, const Scope& scope) : stride_(stride), scope_(scope) {}

  TileCost cost_of(const Tile& tile, std::span<const Run> runs, int64_t repeats) const {
    TileCost sum{.cost = fixed_price(0, scope_.geometry), .repeats = repeats};
    double by_cost = 0, rows = 0;
    for (const Run& run : runs) {
      const double cost = cost_of(run, rounded_rows(tile.rows, scope_.geometry));
      by_cost += cost;
      rows += cost * (run.row_end - run.row_begin);
    }
    sum.cost += by_cost;
    sum.rows = by_cost > 0 ? rows / by_cost : 0;
    return sum;
  }

  // At most `count` parts of about equal cost.
  CutTile cut(const Tile& tile, std::span<const Run> runs, int64_t count) const {
    const int64_t rows = rounded_rows(tile.rows, scope_.geometry);
    std::vector<Priced> waiting;
    waiting.reserve(runs.size() + 1);
    double left = 0;
    for (auto run = runs.rbegin(); run != runs.rend(); ++run) {
      waiting.push_back({*run, cost_of(*run, rows)});
      left += waiting.back().cost;
    }
    const auto fewer_rows = [](const Priced& a, const Priced& b) { return a.rows() < b.rows(); };
    if (!std::is_sorted(waiting.begin(), waiting.end(), fewer_rows)) {
      std::stable_sort(waiting.begin(), waiting.end(), fewer_rows);
    }
    CutTile parts;
    parts.ends.reserve(count);
    parts.runs.reserve(runs.size() + count);
    size_t begin = 0;  // of the part at hand
    double room = left / count;
    while (!waiting.empty()) {
      const Priced next = waiting.back();
      const bool last = std::ssize(parts.ends) + 1 == count;
      if (last || next.cost <= room) {
        waiting.pop_back();
        parts.runs.push_back(next.run);
        room -= next.cost;
        left -= next.cost;
        continue;
      }
      const auto [now, later] = halves(next, rows, room, parts.runs.size() == begin);
      if (now || later || parts.runs.size() == begin) waiting.pop_back();
      if (now) {
        parts.runs.push_back(now->run);
        left -= now->cost;
      }
      if (later) waiting.push_back(*later);
      if (parts.runs.size() == begin) continue;  // nobody sees the columns that were cut off
      parts.ends.push_back(begin = parts.runs.size());
      room = left / (count - std::ssize(parts.ends));
    }
    if (parts.ends.empty() || parts.runs.size() > begin) parts.ends.push_back(parts.runs.size());
    return parts;
  }

 private:
  struct Priced {
    Run run;
    double cost = 0;
    int32_t rows() const { return run.row_end - run.row_begin; }
  };
  using Half = std::optional<Priced>;

  double cost_of(const Run& run, int64_t rows) const {
    const Geometry& g = scope_.geometry;
    const int64_t pairs = computed_pairs(run, rows, scope_.transposed, g) * run.residues;
    const int64_t blocks = begun_blocks(run, scope_.transposed, g);
    return static_cast<double>(pairs) + g.run_columns * g.tile_rows * blocks;
  }

  // As much of a run as there is room for, which is less than it costs, and the rest. Neither: nothing fits, and
  // nothing `must`.
  std::pair<Half, Half> halves(const Priced& whole, int64_t rows, double room, bool must) const {
    const Run& run = whole.run;
    const int64_t block = scope_.geometry.column_block, blocks = core::ceil_divide(run.columns, block);
    const bool by_columns = blocks >= run.residues;
    const int64_t units = by_columns ? blocks : run.residues;
    const auto between = [&](int64_t begin, int64_t end) -> Half {
      if (begin >= end) return std::nullopt;
      if (!by_columns) {
        return Priced{residues_of(run, begin, end), whole.cost * static_cast<double>(end - begin) / run.residues};
      }
      const auto columns =
          columns_of(run, begin * block, std::min(run.columns, end * block), stride_, direction(scope_.transposed));
      return columns ? Half({*columns, cost_of(*columns, rows)}) : std::nullopt;
    };
    int64_t fits = 0, beyond = units;  // so many fit; so many do not
    const auto try_units = [&](int64_t n) {
      const Half tried = between(0, n);
      (!tried || tried->cost <= room ? fits : beyond) = n;
    };
    // Without a diagonal all units cost alike.
    const auto about = static_cast<int64_t>(room / whole.cost * units);
    for (const int64_t near : {about, about + 1}) {
      if (near > fits && near < beyond) try_units(near);
    }
    while (beyond - fits > 1) try_units(fits + (beyond - fits) / 2);
    if (fits == 0 && must) fits = 1;
    if (fits == 0) return {};
    return {between(0, fits), between(fits, units)};
  }

  const int64_t stride_;
  const Scope& scope_;
};

// Appends a tile with these runs. Unless it keeps all rows of `whole`, it has those that the runs serve.
Tile with_runs(const Tile& whole, std::span<Run> runs, bool all_rows, int64_t stride, Plan& plan) {
  Tile tile = whole;
  if (!all_rows) {
    int16_t begin = INT16_MAX, end = 0;
    for (const Run& run : runs) {
      begin = std::min(begin, run.row_begin);
      end = std::max(end, run.row_end);
    }
    for (Run& run : runs) {
      run.row_begin = static_cast<int16_t>(run.row_begin - begin);
      run.row_end = static_cast<int16_t>(run.row_end - begin);
      if (std::abs(run.diagonal) < Run::kEverything) run.diagonal += begin;
      if (run.low > -Run::kEverything) run.low += plan.direction == Direction::kForward ? begin : -begin;
    }
    tile.row0 += begin * stride;
    tile.rows = end - begin;
    tile.phantom_begin = static_cast<uint32_t>(plan.phantoms.size());
    tile.phantom_count = 0;
  }
  tile.run_begin = static_cast<uint32_t>(plan.runs.size());
  tile.run_count = static_cast<uint32_t>(runs.size());
  plan.runs.insert(plan.runs.end(), runs.begin(), runs.end());
  return tile;
}

}  // namespace

bool cut_long_tiles(WrittenLevel& level, const Scope& scope, Plan& plan, std::vector<Section>& of_base) {
  if (!may_divide(level.longest, level.total, scope.geometry)) return false;
  const Cutter cutter(level.stride, scope);
  std::vector<TileCost> costs;
  for (const Section& section : level.sections) {
    for (int64_t t = 0; t < section.tile_count; ++t) {
      const Tile& tile = plan.tiles[section.tile_begin + t];
      costs.push_back(cutter.cost_of(tile, plan.view().runs_of(tile), section.repeats));
    }
  }
  const Division division = divide(costs, level.partial, scope.geometry);
  if (division.part_cost == 0) return false;

  const int64_t tile_begin = level.sections.front().tile_begin;
  const std::vector<Tile> tiles(plan.tiles.begin() + tile_begin, plan.tiles.end());
  const std::vector<Run> runs(plan.runs.begin() + level.run_begin, plan.runs.end());
  plan.tiles.resize(tile_begin);
  plan.runs.resize(level.run_begin);
  std::vector<Tile> apart;  // parts of base tiles, section by section
  size_t n = 0;
  for (Section& section : level.sections) {
    Section beside = section;
    beside.tile_begin = std::ssize(apart);
    const int64_t begin = std::ssize(plan.tiles), end = n + section.tile_count;
    for (; n < static_cast<size_t>(end); ++n) {
      const Tile& tile = tiles[n];
      const std::span<const Run> of_tile = std::span(runs).subspan(tile.run_begin - level.run_begin, tile.run_count);
      const int64_t count = division.parts(costs[n].cost);
      CutTile parts =
          count > 1 ? cutter.cut(tile, of_tile, count) : CutTile{{of_tile.begin(), of_tile.end()}, {of_tile.size()}};
      const bool keeps = level.partial || division.base_keeps || parts.size() == 1;
      plan.tiles.push_back(with_runs(tile, keeps ? parts.part(0) : std::span<Run>(), true, level.stride, plan));
      for (size_t part = keeps ? 1 : 0; part < parts.size(); ++part) {
        (level.partial ? plan.tiles : apart).push_back(with_runs(tile, parts.part(part), false, level.stride, plan));
      }
    }
    section.tile_begin = begin;
    section.tile_count = std::ssize(plan.tiles) - begin;
    beside.tile_count = std::ssize(apart) - beside.tile_begin;
    of_base.push_back(beside);
  }
  for (Section& beside : of_base) beside.tile_begin += std::ssize(plan.tiles);
  plan.tiles.insert(plan.tiles.end(), apart.begin(), apart.end());
  return true;
}

}  // namespace longstride::plan
