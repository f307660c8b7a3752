// A pattern from flat fields and back. Called by the options of modules, through their lists of fields.
#include "longstride/pattern/flat.h"

#include "core/refuse.h"

namespace longstride {

FlatPattern::FlatPattern(const Pattern& pattern) : options(pattern.options()), blocks(pattern.blocks()) {
  for (const Group& group : pattern.groups()) {
    segment_lengths.push_back(group.segment);
    dilation_rates.push_back(group.rate);
  }
}

Pattern FlatPattern::pattern() const {
  if (!segment_lengths.empty() || !dilation_rates.empty()) {
    return Pattern::dilated(segment_lengths, dilation_rates, options).with_blocks(blocks);
  }
  DilatedOptions untouched;
  untouched.causal = options.causal;
  if (options != untouched) {
    core::refuse("head_offset, offsets, mixing, average and padding", "must have their defaults without dilated groups",
                 "other values", "they are options of groups; give segment_lengths and dilation_rates");
  }
  return Pattern().with_causal(options.causal).with_blocks(blocks);
}

}  // namespace longstride
