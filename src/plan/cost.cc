// Prices levels by the tiles at a few dozen positions, one for each set of groups that samples rows there.
#include <algorithm>
#include <vector>

#include "core/checked.h"
#include "plan/level.h"
#include "plan/run_cost.h"
#include "plan/tiler.h"

namespace longstride::plan {
namespace {

using core::ceil_divide;
using core::floor_modulo;

// Enough that the mean over causal tiles, whose costs rise along every segment, is within about 2 %.
constexpr int64_t kSamples = 32;
// Short calls are compiled often and cost little whatever the choice: at 64 rows a sample the search took two thirds of
// compiling 1024 tokens, at 256 it takes half, and chooses the same.
constexpr int64_t kRowsASample = 256;
constexpr int64_t kFewestSamples = 4;
// A tile over many documents is a mean by itself, and has as many pieces.
constexpr int64_t kDocumentsASample = 16;

// A row position and the share of all rows for which it stands.
struct Representative {
  int64_t position = 0;
  double share = 0;
};

class Pricer {
 public:
  Pricer(const LevelShape& level, const Scope& scope, const Documents& documents)
      : level_(level), scope_(scope), documents_(documents), tiler_(scope, documents) {
    tiler_.enter(level_);
  }

  LevelPrice run() {
    const int64_t begin = scope_.row_begin, end = std::min(scope_.row_end, documents_.back());
    LevelPrice total;
    if (begin >= end) return total;
    const int64_t rows = core::saturating_multiply(scope_.geometry.tile_rows, level_.stride);
    const int64_t mean_document = std::max<int64_t>(1, documents_.back() / (std::ssize(documents_) - 1));
    const int64_t documents = std::max<int64_t>(1, std::min(rows, end - begin) / mean_document / kDocumentsASample);
    const int64_t samples =
        std::min(end - begin, std::clamp((end - begin) / kRowsASample / documents, kFewestSamples, kSamples));
    double fraction = 0.5;
    for (int64_t i = 0; i < samples; ++i) {
      // Stratified; the place within a stratum follows the golden ratio, so that no segment length resonates.
      fraction += 0.6180339887498949;
      fraction -= static_cast<double>(static_cast<int64_t>(fraction));
      const double stratum = static_cast<double>(end - begin) / samples;
      const int64_t x = begin + static_cast<int64_t>((static_cast<double>(i) + fraction) * stratum);
      find_representatives(std::min(x, end - 1));
      for (const Representative& r : representatives_) {
        if (r.position < scope_.row_end) add(r, total);
      }
    }
    total.as_base /= samples;
    total.as_partial /= samples;
    total.touched /= samples;
    total.partial_bytes /= samples;
    total.base_bytes /= samples;
    return total;
  }

 private:
  // Rows of one stride differ in which groups sample them: one representative for each set of groups.
  void find_representatives(int64_t x) {
    representatives_.clear();
    const auto d =
        documents_.size() == 2 ? documents_.begin() + 1 : std::upper_bound(documents_.begin(), documents_.end(), x);
    const int64_t document = *(d - 1);
    if (level_.stride > kMostFusedStride ||
        std::all_of(level_.samplings.begin(), level_.samplings.end(), samples_once)) {
      if (level_.samplings.empty()) {
        representatives_.push_back({x, 1});
        return;
      }
      const Sampling& s = level_.samplings.front();
      const int64_t segment = document + (x - document) / s.segment * s.segment;
      if (samples_once(s)) {
        const double share = 1.0 / s.segment;
        if (segment + s.offset < *d) representatives_.push_back({segment + s.offset, share});
        representatives_.push_back({x, 1 - share});
      } else {
        const double share = 1.0 / s.rate;
        representatives_.push_back({x + floor_modulo(segment + s.offset - x, s.rate), share});
        representatives_.push_back({x + floor_modulo(segment + s.offset + 1 - x, s.rate), 1 - share});
      }
      return;
    }
    signatures_.assign(level_.stride, 0);
    for (size_t g = 0; g < level_.samplings.size(); ++g) {
      const Sampling& s = level_.samplings[g];
      if (samples_once(s)) continue;
      const int64_t segment = document + (x - document) / s.segment * s.segment;
      for (int64_t i = floor_modulo(segment + s.offset - x, s.rate); i < level_.stride; i += s.rate) {
        signatures_[i] |= uint64_t{1} << g;
      }
    }
    seen_.clear();
    const double share = 1.0 / level_.stride;
    for (int64_t i = 0; i < level_.stride; ++i) {
      const auto found = std::find(seen_.begin(), seen_.end(), signatures_[i]);
      if (found != seen_.end()) {
        representatives_[found - seen_.begin()].share += share;
      } else {
        seen_.push_back(signatures_[i]);
        representatives_.push_back({x + i, share});
      }
    }
  }

  void add(const Representative& r, LevelPrice& total) {
    const Geometry& geometry = scope_.geometry;
    const int64_t whole = core::saturating_multiply(geometry.tile_rows, level_.stride);
    const int64_t cut = tiler_.previous_cut(r.position);
    const int64_t first = cut + (r.position - cut) % level_.stride;
    const int64_t row0 = first + (r.position - first) / whole * whole;
    const int64_t rows = std::clamp<int64_t>(
        ceil_divide(std::min(tiler_.next_cut(row0), scope_.row_end) - row0, level_.stride), 1, geometry.tile_rows);
    tiler_.gather(row0, rows);
    runs_.clear();
    tiler_.emit(rows, runs_, nullptr);
    const int64_t padded_rows = rounded_rows(rows, geometry);
    int64_t pairs = 0, blocks = 0;
    for (const Run& run : runs_) {
      pairs += computed_pairs(run, padded_rows, scope_.transposed, geometry) * run.residues;
      blocks += begun_blocks(run, scope_.transposed, geometry);
    }
    const double cost = static_cast<double>(pairs) + fixed_price(blocks, geometry);
    const double a_row = cost / rows * r.share;
    const double bytes = static_cast<double>(sizeof(Tile) + runs_.size() * sizeof(Run)) / rows * r.share;
    total.as_base += a_row;
    total.base_bytes += bytes;
    if (runs_.empty()) return;
    total.as_partial += a_row;
    total.partial_bytes += bytes;
    total.touched += r.share;
  }

  const LevelShape& level_;
  const Scope& scope_;
  const Documents& documents_;
  Tiler tiler_;
  std::vector<Representative> representatives_;
  std::vector<uint64_t> signatures_, seen_;
  std::vector<Run> runs_;
};

}  // namespace

LevelPrice price(const LevelShape& level, const Scope& scope, const Documents& documents) {
  return Pricer(level, scope, documents).run();
}

}  // namespace longstride::plan
