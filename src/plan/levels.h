// Chooses which groups share a level. Called by compile(), once a class; classes alike share one search.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "plan/level.h"

namespace longstride::plan {

class LevelSearch {
 public:
  // `scope` must outlive the search.
  explicit LevelSearch(const Scope& scope) : scope_(scope) {}

  // Classes that differ in little share one search, that of the first. Here all classes are searched in an order of
  // their own, not of heads and batch rows, so that permuting these permutes results bit for bit.
  void prepare(const std::vector<ClassSpec>& classes);

  // The levels of a class, the base level last. Exactly one base; it may hold no groups.
  std::vector<LevelShape> choose(const ClassSpec& spec);

 private:
  // A decoding step.
  bool one_row() const { return scope_.row_end - scope_.row_begin == 1; }
  // The groups that block patterns, which make the base level, do not take in.
  ClassSpec beside_blocks(const ClassSpec& spec) const;
  std::vector<LevelShape> choose_groups(const ClassSpec& spec);
  // Which samplings share a level, and where its tiles are cut.
  struct Part {
    uint64_t members = 0;  // bit i: sampling i of the spec (those that sample anything)
    int32_t cut = 0;       // index into cut candidates
  };

  // The values of LevelShape::cut_segment that are tried, by their number.
  static constexpr int32_t kCutCandidates = 3;
  int64_t cut_segment(int32_t candidate, int64_t stride) const;
  static std::vector<Sampling> members_of(uint64_t members, const std::vector<Sampling>&);

  struct Option;
  using Options = std::map<uint64_t, Option>;  // by members: what has been priced
  struct Choice {
    std::vector<Part> parts;  // the base last
    double touched = 0;       // partial rows a row of the class
  };
  // What is paid beside the products.
  struct Prices {
    double merge_columns = 0;  // of a merged row
    double byte_columns = 0;   // of a byte of the plan, a row of the class
  };

  std::vector<Part> search(const std::vector<Sampling>&, const Documents&) const;
  // Every way to share levels: up to 3^groups sums over 2^groups priced levels.
  Choice combine_freely(const std::vector<Sampling>&, const Documents&, const Prices&, Options&) const;
  // Levels are ranges of the groups in order of rate: a shortest path.
  Choice combine_ranges(const std::vector<Sampling>&, const Documents&, const Prices&, Options&) const;
  Choice combine(const std::vector<Sampling>&, const Documents&, const Prices&, Options&) const;
  // Bytes a row of the class, and columns a row, of a choice.
  double stored_bytes(const Choice&, const std::vector<Sampling>&, const Documents&, Options&) const;
  double columns(const Choice&, const std::vector<Sampling>&, const Documents&, Options&) const;
  double partial_cost(const Option&, const Prices&, int64_t base_stride) const;
  double merge_bytes(double touched, int64_t stride, int64_t base_stride) const;
  const Option& option(uint64_t members, const std::vector<Sampling>&, const Documents&, Options&) const;
  Option evaluate(uint64_t members, const std::vector<Sampling>&, const Documents&) const;

  const Scope& scope_;
  std::map<std::vector<int64_t>, std::vector<Part>> found_;
};

}  // namespace longstride::plan
