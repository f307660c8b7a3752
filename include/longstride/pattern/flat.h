// A pattern as plain named fields, which is how options and their JSON have it: one flat object, where pattern/json.h
// has a nested one. Torch-free.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "longstride/pattern.h"

namespace longstride {

struct FlatPattern {
  std::vector<int64_t> segment_lengths;  // in tokens, one per group
  std::vector<int64_t> dilation_rates;   // one per group
  DilatedOptions options;                // of the groups; causal is for all
  std::vector<BlockPattern> blocks;

  FlatPattern() = default;
  explicit FlatPattern(const Pattern& pattern);
  // The pattern that shows nothing if there are neither groups nor blocks. Throws Error as Pattern::dilated does, and
  // if options of groups do not have their defaults where there are none.
  Pattern pattern() const;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("segment_lengths", self.segment_lengths);
    visit("dilation_rates", self.dilation_rates);
    visit("causal", self.options.causal);
    visit("head_offset", self.options.head_offset);
    visit("offsets", self.options.offsets);
    visit("mixing", self.options.mixing);
    visit("average", self.options.average);
    visit("padding", self.options.padding);
    visit("blocks", self.blocks);
  }
};

// The fields of a pattern. A pattern that is not const becomes what the visitor makes of them.
template <class AnyPattern, class Visit>
void visit_pattern(AnyPattern& pattern, Visit&& visit) {
  FlatPattern flat(pattern);
  FlatPattern::fields(flat, visit);
  if constexpr (!std::is_const_v<AnyPattern>) pattern = flat.pattern();
}

}  // namespace longstride
