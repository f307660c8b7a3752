// The levels of a class: which of its groups are searched, which stand beside block patterns, which share a search that
// was made before.
#include <algorithm>
#include <bit>
#include <numeric>

#include "plan/levels.h"

namespace longstride::plan {
namespace {

// Groups are bits of a word; those beyond get levels of their own.
constexpr size_t kMostSearched = 64;

int64_t log2_floor(int64_t x) { return x <= 0 ? -1 : 63 - std::countl_zero(static_cast<uint64_t>(x)); }

// What the partition depends on; equal keys share one search.
std::vector<int64_t> key_of(const std::vector<Sampling>& samplings, const Documents& documents) {
  std::vector<int64_t> key;
  for (const Sampling& s : samplings) {
    key.push_back(log2_floor(s.segment));
    key.push_back(samples_once(s) ? 0 : s.rate);
  }
  uint64_t meet = 0;  // which pairs of groups sample the same rows
  int64_t pairs = 0;
  for (size_t a = 0; a < samplings.size(); ++a) {
    for (size_t b = 0; b < a; ++b) {
      const int64_t divisor = std::gcd(samplings[a].rate, samplings[b].rate);
      meet = meet * 2 + ((samplings[a].offset - samplings[b].offset) % divisor == 0);
      if (++pairs % 64 == 0) key.push_back(static_cast<int64_t>(meet));
    }
  }
  key.push_back(static_cast<int64_t>(meet));
  const int64_t count = std::ssize(documents) - 1;
  key.push_back(log2_floor(count));
  key.push_back(count > 0 ? log2_floor(documents.back() / count) : -1);
  return key;
}

}  // namespace

void LevelSearch::prepare(const std::vector<ClassSpec>& classes) {
  if (classes.size() < 2 || one_row()) return;
  std::vector<const ClassSpec*> sorted;
  for (const ClassSpec& spec : classes) sorted.push_back(&spec);
  std::sort(sorted.begin(), sorted.end(), [](const ClassSpec* a, const ClassSpec* b) {
    if (a->samplings != b->samplings) return a->samplings < b->samplings;
    return a->documents != b->documents && *a->documents < *b->documents;
  });
  for (const ClassSpec* spec : sorted) {
    const ClassSpec searched = spec->cells.empty() ? *spec : beside_blocks(*spec);
    if (!searched.samplings.empty()) choose_groups(searched);
  }
}

ClassSpec LevelSearch::beside_blocks(const ClassSpec& spec) const {
  ClassSpec others{.documents = spec.documents};
  for (const Sampling& s : spec.samplings) {
    if (scope_.sliding_unit > 0 || fused_stride({s}) != 1) others.samplings.push_back(s);
  }
  return others;
}

// Block patterns make the base level: bands at stride 1, with the groups that have this stride too, rectangles by
// themselves, at the stride of their blocks. The levels of the others are all partial.
std::vector<LevelShape> LevelSearch::choose(const ClassSpec& spec) {
  if (!spec.bands && !spec.rectangles) return choose_groups(spec);
  LevelShape base{.rectangles = spec.rectangles};
  if (spec.rectangles) base.stride = spec.rectangles->unit;
  base.cut_segment = cut_segment(kCutCandidates - 1, base.stride);
  if (spec.bands) {
    base.bands = spec.bands;
    base.cuts = band_cuts(*spec.bands, scope_);
    for (const Sampling& s : spec.samplings) {
      if (fused_stride({s}) == 1) base.samplings.push_back(s);
    }
  }
  const ClassSpec others = beside_blocks(spec);
  std::vector<LevelShape> levels;
  if (!others.samplings.empty()) levels = choose_groups(others);
  std::erase_if(levels, [](const LevelShape& level) { return level.samplings.empty(); });
  levels.push_back(std::move(base));
  return levels;
}

std::vector<LevelShape> LevelSearch::choose_groups(const ClassSpec& spec) {
  std::vector<Sampling> samplings, beyond;
  for (const Sampling& s : spec.samplings) {
    if (s.offset >= s.segment) continue;  // samples nothing
    if (one_row() && scope_.row_begin < spec.documents->back()) {
      // A decoding step: only the groups that sample the row matter.
      const auto d = std::upper_bound(spec.documents->begin(), spec.documents->end(), scope_.row_begin);
      if ((scope_.row_begin - *(d - 1)) % s.segment % s.rate != s.offset) continue;
    }
    (samplings.size() < kMostSearched ? samplings : beyond).push_back(s);
  }
  std::vector<Part> parts;
  if (one_row()) {
    // Not worth a search: what fits is fused.
    std::vector<Sampling> fused;
    Part base;
    for (size_t i = 0; i < samplings.size(); ++i) {
      fused.push_back(samplings[i]);
      const int64_t stride = fused_stride(fused);
      if (stride > 0 && stride <= kMostFusedStride) {
        base.members |= uint64_t{1} << i;
      } else {
        fused.pop_back();
        parts.push_back({uint64_t{1} << i, 0});
      }
    }
    parts.push_back(base);
  } else {
    const auto [found, inserted] = found_.try_emplace(key_of(samplings, *spec.documents));
    if (inserted) found->second = search(samplings, *spec.documents);
    parts = found->second;
  }
  std::vector<LevelShape> levels;
  for (const Sampling& s : beyond) {
    levels.push_back({{s}, fused_stride({s}), 0});
  }
  for (const Part& part : parts) {
    LevelShape level{.samplings = members_of(part.members, samplings)};
    level.stride = fused_stride(level.samplings);
    level.cut_segment = cut_segment(part.cut, level.stride);
    levels.push_back(std::move(level));
  }
  return levels;
}

}  // namespace longstride::plan
