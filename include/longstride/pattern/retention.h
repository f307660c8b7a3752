// Which keys decoding is done with: those that no later query sees. A cache may drop them, since the pattern is the
// same without them: windows and segments move, what all see stays in front. Torch-free.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "longstride/pattern.h"

namespace longstride {

// Of the heads together, whatever their number, and one document.
class Retention {
 public:
  // None if there is nothing to drop however long a sequence becomes: a rule looks back without end, or depends on the
  // length, as padding by zero_keys does.
  static std::optional<Retention> of(const Pattern& pattern);

  // Keys [0, sinks()) stay.
  int64_t sinks() const { return sinks_; }
  // How many keys from sinks() on are seen by no query at or behind `query` (>= 0). Without them, what stands behind
  // them moved as many places to the front, those queries see the same keys as often.
  int64_t outlived(int64_t query) const;
  // The most keys that stay, whatever the query: it and those before it without the outlived ones.
  int64_t most_kept() const;

 private:
  int64_t sinks_ = 0;
  int64_t step_ = 1;  // of what is dropped: the least common multiple of the grains
  std::vector<Lookback> parts_;
};

}  // namespace longstride
