// Walks the lines of every level into tiles, a period once, and puts the tiles into their order.
#include "plan/class_writer.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/checked.h"
#include "plan/one_row.h"
#include "plan/run_cost.h"

namespace longstride::plan {
namespace {

using core::ceil_divide;
using core::floor_modulo;

int64_t saturating_lcm(int64_t a, int64_t b) { return core::saturating_multiply(a / std::gcd(a, b), b); }

// Whether a group samples the same residues of the document in all its segments.
bool keeps_phase(const Sampling& s, int64_t document_length) {
  return s.segment >= document_length || s.segment % s.rate == 0;
}

}  // namespace

// A period is stored once if it fits at least twice into the rows that see and are seen by a whole document.
std::vector<ClassWriter::Span> ClassWriter::spans(const ClassSpec& spec, const std::vector<LevelShape>& levels) const {
  const std::vector<Span> one = {{scope_.row_begin, scope_.row_end, 1}};
  if (spec.documents->size() != 2 || spec.bands || spec.rectangles) return one;
  const int64_t begin = std::max(scope_.row_begin, scope_.column_begin);
  const int64_t end = std::min({scope_.row_end, scope_.column_end, spec.documents->back()});
  int64_t period = 1, widest = 1;
  for (const LevelShape& level : levels) {
    period = saturating_lcm(period, level.stride);
    widest = std::max(widest, level.stride);
    for (const Sampling& s : level.samplings) {
      if (s.segment >= spec.documents->back()) return one;
      period = saturating_lcm(period, s.segment);
    }
  }
  // A period much shorter than a tile spans would cut the tiles short.
  const int64_t least = core::saturating_multiply(core::saturating_multiply(scope_.geometry.tile_rows, widest), 4);
  period = core::saturating_multiply(period, std::max<int64_t>(1, least / period));
  if (period > std::max<int64_t>(0, end - begin) / 2) return one;
  const int64_t first = ceil_divide(begin, period) * period;
  const int64_t repeats = (end - first) / period;
  if (repeats < 2) return one;
  return {
      {scope_.row_begin, first, 1}, {first, first + period, repeats}, {first + repeats * period, scope_.row_end, 1}};
}

void ClassWriter::add(const ClassSpec& spec, const std::vector<LevelShape>& levels) {
  PlanClass written{.level_begin = static_cast<int32_t>(plan_.levels.size())};
  const std::vector<Span> all = spans(spec, levels);
  if (!tiler_ || tiled_ != spec.documents) tiler_.emplace(scope_, *spec.documents);  // its scratch is used again
  tiled_ = spec.documents;
  Tiler& tiler = *tiler_;
  partials_.assign(all.size(), {});
  for (size_t l = 0; l < levels.size(); ++l) {
    const LevelShape& shape = levels[l];
    tiler.enter(shape);
    WrittenLevel level{.stride = shape.stride, .partial = l + 1 < levels.size(), .run_begin = plan_.runs.size()};
    std::vector<size_t> span_of;  // of each section
    for (size_t i = 0; i < all.size(); ++i) {
      const Section section = add_tiles(tiler, *spec.documents, shape, all[i], level.partial);
      if (section.tile_count == 0) continue;
      level.longest = std::max(level.longest, longest_);
      level.total += total_ * section.repeats;
      level.sections.push_back(section);
      span_of.push_back(i);
    }
    finish_level(level, span_of, written);
  }
  written.level_count = static_cast<int32_t>(plan_.levels.size()) - written.level_begin;
  plan_.classes.push_back(written);
}

bool ClassWriter::add_one_row(const ClassSpec& spec) {
  const size_t run_begin = plan_.runs.size();
  const int64_t stride = runs_of_one_row(spec, scope_, plan_.runs);
  if (stride == 0) return false;
  PlanClass written{.level_begin = static_cast<int32_t>(plan_.levels.size())};
  longest_ = total_ = 0;
  finish_tile(begun_tile(scope_.row_begin, 1, run_begin));
  WrittenLevel level{.stride = stride, .run_begin = run_begin, .longest = longest_, .total = total_};
  level.sections.push_back({.tile_begin = std::ssize(plan_.tiles) - 1, .tile_count = 1});
  partials_.assign(1, {});
  finish_level(level, {0}, written);
  written.level_count = static_cast<int32_t>(plan_.levels.size()) - written.level_begin;
  plan_.classes.push_back(written);
  return true;
}

// Cuts what is too long of the level that was written last, and gives its sections slots or merges. `span_of`: of each
// of its sections.
void ClassWriter::finish_level(WrittenLevel& level, const std::vector<size_t>& span_of, PlanClass& written) {
  std::vector<Section> of_base;
  const bool cut = cut_long_tiles(level, scope_, plan_, of_base);
  const auto add_level = [&](const std::vector<Section>& sections, bool partial, Parts parts) {
    Level added{level.stride, static_cast<int32_t>(plan_.sections.size()), 0, partial, parts};
    for (size_t n = 0; n < sections.size(); ++n) {
      Section section = sections[n];
      if (section.tile_count == 0) continue;
      if (partial) {
        section.slot_begin = written.partial_rows;
        written.partial_rows += section.repeats * section.tile_count * scope_.geometry.tile_rows;
        partials_[span_of[n]].push_back({section, level.stride});
      } else {
        link_merges({section, level.stride}, partials_[span_of[n]], plan_);
      }
      plan_.sections.push_back(section);
      ++added.section_count;
    }
    plan_.levels.push_back(added);
  };
  if (cut && !level.partial) add_level(of_base, true, Parts::kOfBase);
  add_level(level.sections, level.partial, cut && level.partial ? Parts::kSome : Parts::kNone);
}

Section ClassWriter::add_tiles(Tiler& tiler, const Documents& documents, const LevelShape& level, const Span& span,
                               bool partial) {
  const int64_t tile_begin = std::ssize(plan_.tiles);
  costs_.clear();
  longest_ = total_ = 0;
  if (level.stride > kMostFusedStride && partial) {
    // A wide level holds one group, and few of its lines are touched: go segment by segment.
    const Sampling& s = level.samplings.front();
    for (size_t d = 1; d < documents.size(); ++d) {
      const int64_t end = std::min(documents[d], span.end);
      const int64_t passed = std::max<int64_t>(0, span.begin - documents[d - 1]) / s.segment;
      for (int64_t low = documents[d - 1] + passed * s.segment; low < end; low += s.segment) {
        const int64_t sample = low + s.offset;
        const int64_t first =
            sample >= span.begin ? sample : sample + ceil_divide(span.begin - sample, level.stride) * level.stride;
        add_line(tiler, level.stride, first, std::min(low + s.segment, end), partial);
      }
    }
  } else {
    const bool few_lines = partial && documents.size() == 2 &&
                           std::all_of(level.samplings.begin(), level.samplings.end(), [&](const Sampling& s) {
                             return !samples_once(s) && keeps_phase(s, documents.back());
                           });
    const int64_t lines = std::min(level.stride, span.end - span.begin);
    for (int64_t first = span.begin; first < span.begin + lines; ++first) {
      if (few_lines && std::none_of(level.samplings.begin(), level.samplings.end(),
                                    [&](const Sampling& s) { return floor_modulo(first - s.offset, s.rate) == 0; })) {
        continue;
      }
      add_line(tiler, level.stride, first, span.end, partial);
    }
  }
  order_tiles(level, span, tile_begin);
  return {.tile_begin = tile_begin,
          .tile_count = std::ssize(plan_.tiles) - tile_begin,
          .repeats = span.repeats,
          .shift = span.repeats > 1 ? span.end - span.begin : 0};
}

void ClassWriter::add_line(Tiler& tiler, int64_t stride, int64_t begin, int64_t end, bool partial) {
  // How far a partial level is looked at in one step: it grows while nothing breaks off, so that many short documents
  // are not looked up again for each of their tiles.
  constexpr int64_t kFirstLook = 8;
  int64_t look = kFirstLook;
  for (int64_t row0 = begin; row0 < end;) {
    const int64_t cut = std::min(tiler.next_cut(row0), end);
    int64_t rows = std::min<int64_t>(scope_.geometry.tile_rows, ceil_divide(cut - row0, stride));
    if (partial) {
      // Only touched rows are tiled: begin at the first, end where they break off.
      const int64_t most = rows;
      rows = std::min(look, most);
      tiler.gather(row0, rows);
      auto [touched_begin, touched_end] = tiler.first_touched();
      if (touched_begin > 0) {
        row0 += touched_begin * stride;
        look = touched_begin == rows ? std::min<int64_t>(look * 2, scope_.geometry.tile_rows) : kFirstLook;
        continue;
      }
      while (touched_end == rows && rows < most) {
        rows = std::min(rows * 4, most);
        tiler.gather(row0, rows);
        touched_end = tiler.first_touched().second;
      }
      look = rows;
      rows = touched_end;
    } else {
      tiler.gather(row0, rows);
    }
    Tile tile = begun_tile(row0, rows, plan_.runs.size());
    tiler.emit(rows, plan_.runs, scope_.zero_keys ? &plan_.phantoms : nullptr);
    finish_tile(tile);
    row0 += rows * stride;
  }
}

Tile ClassWriter::begun_tile(int64_t row0, int64_t rows, size_t run_begin) const {
  return {.row0 = row0,
          .rows = static_cast<int32_t>(rows),
          .run_begin = static_cast<uint32_t>(run_begin),
          .phantom_begin = static_cast<uint32_t>(plan_.phantoms.size()),
          .merge_begin = static_cast<uint32_t>(plan_.merges.size())};
}

// Its runs and phantoms are the plan's last ones.
void ClassWriter::finish_tile(Tile tile) {
  tile.run_count = static_cast<uint32_t>(plan_.runs.size()) - tile.run_begin;
  tile.phantom_count = static_cast<uint16_t>(plan_.phantoms.size() - tile.phantom_begin);
  const int64_t padded_rows = rounded_rows(tile.rows, scope_.geometry);
  int64_t pairs = 0, blocks = 0;
  for (size_t r = tile.run_begin; r < plan_.runs.size(); ++r) {
    const Run& run = plan_.runs[r];
    pairs += computed_pairs(run, padded_rows, scope_.transposed, scope_.geometry) * run.residues;
    if (scope_.geometry.workers > 1) blocks += begun_blocks(run, scope_.transposed, scope_.geometry);
  }
  costs_.push_back(pairs);
  const double cost = static_cast<double>(pairs) + fixed_price(blocks, scope_.geometry);
  longest_ = std::max(longest_, cost);
  total_ += cost;
  plan_.tiles.push_back(tile);
}

// Tiles that share columns stay together: those of one stretch as long as the level's shortest segment (at least a
// tile). Stretches with the longest tiles come first, so that the last ones to run are short.
void ClassWriter::order_tiles(const LevelShape& level, const Span& span, int64_t tile_begin) {
  const int64_t count = std::ssize(plan_.tiles) - tile_begin;
  if (count < 2) return;
  int64_t stretch = std::numeric_limits<int64_t>::max();
  for (const Sampling& s : level.samplings) stretch = std::min(stretch, s.segment);
  stretch = std::max(stretch, core::saturating_multiply(scope_.geometry.tile_rows, level.stride));
  Tile* const tiles = plan_.tiles.data() + tile_begin;
  struct Place {
    int64_t longest, stretch, cost, row0;
    int64_t tile;
  };
  std::vector<Place> places(count);
  std::vector<int64_t> longest((span.end - 1 - span.begin) / stretch + 1, 0);
  for (int64_t t = 0; t < count; ++t) {
    places[t] = {0, (tiles[t].row0 - span.begin) / stretch, costs_[t], tiles[t].row0, t};
    longest[places[t].stretch] = std::max(longest[places[t].stretch], costs_[t]);
  }
  for (Place& p : places) p.longest = longest[p.stretch];
  std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
    if (a.longest != b.longest) return a.longest > b.longest;
    if (a.stretch != b.stretch) return a.stretch < b.stretch;
    if (a.cost != b.cost) return a.cost > b.cost;
    return a.row0 < b.row0;
  });
  std::vector<Tile> ordered(count);
  for (int64_t i = 0; i < count; ++i) ordered[i] = tiles[places[i].tile];
  std::copy(ordered.begin(), ordered.end(), tiles);
}

}  // namespace longstride::plan
