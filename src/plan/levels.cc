// Searches the ways to share levels among the groups of a class: sums of priced levels, the least of them.
#include "plan/levels.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>

#include "core/checked.h"
#include "plan/level.h"

namespace longstride::plan {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
// Up to so many groups every way to share levels is tried; beyond, levels are ranges of the groups in order of rate.
constexpr size_t kMostFreelyCombined = 6;
constexpr size_t kMostGroupsOfALevel = 6;

}  // namespace

// Three are tried: everything cuts; what spans a quantum of rows; what spans a tile.
int64_t LevelSearch::cut_segment(int32_t candidate, int64_t stride) const {
  const Geometry& geometry = scope_.geometry;
  return candidate == 0 ? 0 : candidate == 1 ? stride * geometry.row_quantum : stride * geometry.tile_rows;
}

std::vector<Sampling> LevelSearch::members_of(uint64_t members, const std::vector<Sampling>& samplings) {
  std::vector<Sampling> chosen;
  for (; members != 0; members &= members - 1) chosen.push_back(samplings[std::countr_zero(members)]);
  return chosen;
}

int64_t fused_stride(const std::vector<Sampling>& samplings) {
  int64_t stride = 1;
  for (const Sampling& s : samplings) {
    if (samples_once(s)) continue;
    if (s.rate > kMostFusedStride) return samplings.size() == 1 ? s.rate : 0;
    stride = std::lcm(stride, s.rate);
    if (stride > kMostFusedStride) return 0;
  }
  return stride;
}

// What a set of groups costs as one level, at the best cut for each use.
struct LevelSearch::Option {
  double as_partial = kNever;
  double as_base = kNever;
  double touched = 0;
  int32_t partial_cut = 0;
  int32_t base_cut = 0;
  double partial_bytes = 0;  // of tiles and runs, a row of the class
  double base_bytes = 0;
  int64_t stride = 1;
  double base(const Prices& prices) const { return as_base + prices.byte_columns * base_bytes; }
};

double LevelSearch::partial_cost(const Option& o, const Prices& prices, int64_t base_stride) const {
  const double cost = o.as_partial + prices.merge_columns * o.touched;
  if (prices.byte_columns == 0) return cost;
  return cost + prices.byte_columns * (o.partial_bytes + merge_bytes(o.touched, o.stride, base_stride));
}

LevelSearch::Option LevelSearch::evaluate(uint64_t members, const std::vector<Sampling>& samplings,
                                          const Documents& documents) const {
  Option best;
  LevelShape level{.samplings = members_of(members, samplings)};
  level.stride = fused_stride(level.samplings);
  if (level.stride == 0) return best;
  int64_t shortest =
      documents.size() > 2 ? documents.back() / (std::ssize(documents) - 1) : std::numeric_limits<int64_t>::max();
  for (const Sampling& s : level.samplings) shortest = std::min(shortest, s.segment);
  for (int32_t c = 0; c < kCutCandidates; ++c) {
    level.cut_segment = cut_segment(c, level.stride);
    if (c > 0 && shortest >= level.cut_segment) continue;  // cuts no less than the candidate before
    const LevelPrice p = price(level, scope_, documents);
    best.touched = p.touched;
    best.stride = level.stride;
    if (p.as_partial < best.as_partial) {
      best.as_partial = p.as_partial;
      best.partial_bytes = p.partial_bytes;
      best.partial_cut = c;
    }
    // The base tiles every row: a stride beyond the fused ones would leave it too many lines.
    if (level.stride <= kMostFusedStride && p.as_base < best.as_base) {
      best.as_base = p.as_base;
      best.base_bytes = p.base_bytes;
      best.base_cut = c;
    }
  }
  return best;
}

std::vector<LevelSearch::Part> LevelSearch::search(const std::vector<Sampling>& samplings,
                                                   const Documents& documents) const {
  // Partial results cost memory too: when more than a quarter of the rows would have them, merging is priced up.
  constexpr double kMostMerged = 0.25 + 1e-3;
  constexpr double kMergeSteps[] = {1, 2, 4, 8, 16};
  // So do plans: those of a million tokens that take more than 4 bytes a token are given up for smaller ones that cost
  // little more. Up to a megabyte a class nobody minds.
  constexpr double kMostBytes = 4;
  constexpr double kSampled = 0.95;  // the figures are samples' and may be a few per cent too low
  constexpr double kUnmindedBytes = 1 << 20;
  constexpr double kByteColumns[] = {8, 32, 128, 512};
  constexpr double kMostMore = 1.03;
  Options options;
  Choice choice;
  Prices prices;
  for (const double step : kMergeSteps) {
    prices.merge_columns = step * scope_.geometry.merge_columns;
    choice = combine(samplings, documents, prices, options);
    if (choice.touched <= kMostMerged) break;
  }
  const double bytes = stored_bytes(choice, samplings, documents, options);
  if (bytes <= kSampled * kMostBytes || bytes * (scope_.row_end - scope_.row_begin) <= kUnmindedBytes) {
    return choice.parts;
  }
  prices.merge_columns = scope_.geometry.merge_columns;
  const double most_columns = kMostMore * columns(choice, samplings, documents, options);
  for (const double byte_columns : kByteColumns) {
    prices.byte_columns = byte_columns;
    const Choice smaller = combine(samplings, documents, prices, options);
    const double its_bytes = stored_bytes(smaller, samplings, documents, options);
    if (its_bytes > kMostBytes || its_bytes > kSampled * bytes) continue;
    if (columns(smaller, samplings, documents, options) <= most_columns) return smaller.parts;
  }
  return choice.parts;
}

LevelSearch::Choice LevelSearch::combine(const std::vector<Sampling>& samplings, const Documents& documents,
                                         const Prices& prices, Options& options) const {
  return samplings.size() <= kMostFreelyCombined ? combine_freely(samplings, documents, prices, options)
                                                 : combine_ranges(samplings, documents, prices, options);
}

double LevelSearch::stored_bytes(const Choice& choice, const std::vector<Sampling>& samplings,
                                 const Documents& documents, Options& options) const {
  const Option& of_base = option(choice.parts.back().members, samplings, documents, options);
  double bytes = of_base.base_bytes;
  for (size_t i = 0; i + 1 < choice.parts.size(); ++i) {
    const Option& o = option(choice.parts[i].members, samplings, documents, options);
    bytes += o.partial_bytes + merge_bytes(o.touched, o.stride, of_base.stride);
  }
  // Of a pattern that repeats one period is stored.
  if (documents.size() != 2) return bytes;
  int64_t period = 1;
  for (const Sampling& s : samplings) {
    for (const int64_t of : {s.segment, s.rate}) {
      period = core::saturating_multiply(period / std::gcd(period, of), of);
    }
  }
  const int64_t rows = std::min(scope_.row_end, documents.back()) - scope_.row_begin;
  return period <= rows / 2 ? bytes * static_cast<double>(period) / static_cast<double>(rows) : bytes;
}

double LevelSearch::columns(const Choice& choice, const std::vector<Sampling>& samplings, const Documents& documents,
                            Options& options) const {
  const Prices prices{.merge_columns = scope_.geometry.merge_columns};
  double sum = option(choice.parts.back().members, samplings, documents, options).base(prices);
  for (size_t i = 0; i + 1 < choice.parts.size(); ++i) {
    sum += partial_cost(option(choice.parts[i].members, samplings, documents, options), prices, 1);
  }
  return sum;
}

// What the merges of a partial level take, a row of the class: one is a progression of rows in one tile of each side.
double LevelSearch::merge_bytes(double touched, int64_t stride, int64_t base_stride) const {
  const double step = std::max(stride, base_stride) / std::gcd(stride, base_stride);
  const double rows = scope_.geometry.tile_rows;
  return touched * sizeof(Merge) * std::min(1.0, step / rows);
}

const LevelSearch::Option& LevelSearch::option(uint64_t members, const std::vector<Sampling>& samplings,
                                               const Documents& documents, Options& options) const {
  const auto [found, inserted] = options.try_emplace(members);
  if (inserted) found->second = evaluate(members, samplings, documents);
  return found->second;
}

LevelSearch::Choice LevelSearch::combine_freely(const std::vector<Sampling>& samplings, const Documents& documents,
                                                const Prices& prices, Options& options) const {
  const uint64_t all = (uint64_t{1} << samplings.size()) - 1;
  std::vector<const Option*> of(all + 1);
  for (uint64_t m = 0; m <= all; ++m) of[m] = &option(m, samplings, documents, options);
  // partial[m]: the cheapest way to have the groups of m in partial levels; first[m]: one of these levels. What merging
  // takes depends on the base's stride, if bytes have a price.
  std::vector<double> partial(all + 1);
  std::vector<uint64_t> first(all + 1);
  const auto partition = [&](int64_t base_stride) {
    std::fill(partial.begin(), partial.end(), kNever);
    partial[0] = 0;
    for (uint64_t m = 1; m <= all; ++m) {
      const uint64_t lowest = m & -m;
      for (uint64_t sub = m; sub != 0; sub = (sub - 1) & m) {
        if ((sub & lowest) == 0) continue;
        const double cost = partial_cost(*of[sub], prices, base_stride) + partial[m ^ sub];
        if (cost < partial[m]) {
          partial[m] = cost;
          first[m] = sub;
        }
      }
    }
  };
  std::vector<int64_t> base_strides = {1};
  if (prices.byte_columns > 0) {
    for (const Option* o : of) base_strides.push_back(o->stride);
    std::sort(base_strides.begin(), base_strides.end());
    base_strides.erase(std::unique(base_strides.begin(), base_strides.end()), base_strides.end());
  }
  uint64_t base = 0;
  int64_t stride_of_base = 1;
  double best = kNever;
  for (const int64_t stride : base_strides) {
    partition(stride);
    for (uint64_t m = 0; m <= all; ++m) {
      if (prices.byte_columns > 0 && of[m]->stride != stride) continue;
      const double cost = of[m]->base(prices) + partial[all ^ m];
      if (cost < best) {
        best = cost;
        base = m;
        stride_of_base = stride;
      }
    }
  }
  if (stride_of_base != base_strides.back()) partition(stride_of_base);
  Choice choice;
  for (uint64_t rest = all ^ base; rest != 0; rest ^= first[rest]) {
    choice.parts.push_back({first[rest], of[first[rest]]->partial_cut});
    choice.touched += of[first[rest]]->touched;
  }
  choice.parts.push_back({base, of[base]->base_cut});
  return choice;
}

LevelSearch::Choice LevelSearch::combine_ranges(const std::vector<Sampling>& samplings, const Documents& documents,
                                                const Prices& prices, Options& options) const {
  const size_t groups = samplings.size();
  std::vector<size_t> order(groups);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return samplings[a].rate < samplings[b].rate; });
  struct Step {
    double cost = kNever;
    Part part;
    double touched = 0;
    size_t from = 0;
    bool is_base = false;
  };
  // reached[based][i]: the first i groups are placed, the base level among them or not.
  std::vector<Step> reached[2] = {std::vector<Step>(groups + 1), std::vector<Step>(groups + 1)};
  reached[0][0].cost = 0;
  for (size_t end = 1; end <= groups; ++end) {
    uint64_t members = 0;
    for (size_t begin = end; begin-- > 0 && end - begin <= kMostGroupsOfALevel;) {
      members |= uint64_t{1} << order[begin];
      const Option& o = option(members, samplings, documents, options);
      const auto relax = [&](int from, int to, double cost, int32_t cut, bool is_base) {
        if (reached[from][begin].cost + cost < reached[to][end].cost) {
          reached[to][end] = {
              reached[from][begin].cost + cost, {members, cut}, is_base ? 0 : o.touched, begin, is_base};
        }
      };
      relax(0, 0, partial_cost(o, prices, 1), o.partial_cut, false);
      relax(1, 1, partial_cost(o, prices, 1), o.partial_cut, false);
      relax(0, 1, o.base(prices), o.base_cut, true);
    }
  }
  const Option& bare = option(0, samplings, documents, options);
  Part base{0, bare.base_cut};
  int based = reached[1][groups].cost < reached[0][groups].cost + bare.base(prices) ? 1 : 0;
  Choice choice;
  for (size_t end = groups; end > 0;) {
    const Step& step = reached[based][end];
    choice.touched += step.touched;
    if (step.is_base) {
      base = step.part;
      based = 0;
    } else {
      choice.parts.push_back(step.part);
    }
    end = step.from;
  }
  choice.parts.push_back(base);
  return choice;
}

}  // namespace longstride::plan
