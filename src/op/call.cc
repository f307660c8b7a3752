// Turns the C++ form of a call into the operators' form, and the operators' form into a Pattern.
#include "op/call.h"

namespace longstride::op {

Call make_call(const Pattern& pattern, const AttentionOptions& options) {
  Call call;
  for (const Group& group : pattern.groups()) {
    call.segment_lengths.push_back(group.segment);
    call.dilation_rates.push_back(group.rate);
  }
  const DilatedOptions& dilated = pattern.options();
  call.causal = dilated.causal;
  call.head_offset = name(dilated.head_offset);
  call.offsets = dilated.offsets;
  call.mixing = name(dilated.mixing);
  call.average = dilated.average;
  call.padding = name(dilated.padding);
  call.scale = options.scale;
  if (options.cu_seqlens) call.cu_seqlens.emplace(options.cu_seqlens->begin(), options.cu_seqlens->end());
  if (options.lengths) call.lengths.emplace(options.lengths->begin(), options.lengths->end());
  if (options.query_start) call.query_start = *options.query_start;
  call.dropout_p = options.dropout_p;
  call.dropout_seed = options.dropout_seed;
  call.deterministic = options.deterministic;
  return call;
}

Pattern pattern_of(const Call& call) {
  DilatedOptions options;
  options.causal = call.causal;
  options.head_offset = head_offset_from_name(call.head_offset);
  options.offsets = call.offsets;
  options.mixing = mixing_from_name(call.mixing);
  options.average = call.average;
  options.padding = padding_from_name(call.padding);
  return Pattern::dilated(call.segment_lengths, call.dilation_rates, options);
}

}  // namespace longstride::op
