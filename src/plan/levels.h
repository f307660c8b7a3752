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

  // The levels of a class, the base level last. Exactly one base; it may hold no groups.
  std::vector<LevelShape> choose(const ClassSpec& spec);

 private:
  // Which samplings share a level, and where its tiles are cut.
  struct Part {
    uint64_t members = 0;  // bit i: sampling i of the spec (those that sample anything)
    int32_t cut = 0;       // index into cut candidates
  };

  std::vector<Part> search(const std::vector<Sampling>& samplings, const Documents& documents) const;

  const Scope& scope_;
  std::map<std::vector<int64_t>, std::vector<Part>> found_;
};

}  // namespace longstride::plan
