// The constructors of dilated-attention-pytorch (fkodom's, and the larger fork of the same name): their positional
// orders, keyword names and defaults. What is built computes what that library says: heads partitioned among the
// groups, offsets by group, the mean over the groups.
//
// There causal is an argument of forward; here it is fixed by construction, so every function takes `is_causal` (or
// `causal`) as one keyword more. An argument without a counterpart here is accepted at its old default, where it
// changes nothing, and refused at any other value, with what to do instead. The tables are in docs/factory.md.
#pragma once

#include <string>
#include <vector>

#include "longstride/factory/options.h"
#include "longstride/nn/attention.h"
#include "longstride/nn/longnet.h"
#include "longstride/nn/transformer.h"

namespace longstride {

struct LegacyArguments {
  std::vector<OptionValue> positional;  // in the class's own order; mind that MultiheadDilatedAttention has
                                        // dilation_rates before segment_lengths
  NamedOptions keywords;
};

// The classes that the functions below know, sorted.
std::vector<std::string> legacy_class_names();

// A class of the known library that takes q, k, v: "DilatedAttention", "ImprovedDilatedAttention",
// "RingDilatedAttentionV2", ... Throws Error: a class that is unknown or of another kind, too many arguments, one given
// twice, one that is missing, unknown, or has no counterpart.
DilatedAttention from_legacy_attention(const std::string& class_name, const LegacyArguments& arguments);
// One that takes embed_dim and num_heads: "MultiheadDilatedAttention", "ImprovedMultiheadDilatedAttention", ...
MultiheadDilatedAttention from_legacy_multihead(const std::string& class_name, const LegacyArguments& arguments);
// DilatedTransformerEncoderLayer. One keyword more: is_causal.
TransformerLayer from_legacy_encoder_layer(const LegacyArguments& arguments);
// DilatedTransformerDecoderLayer. Keywords more: tgt_is_causal, memory_is_causal.
DilatedTransformerDecoderLayer from_legacy_decoder_layer(const LegacyArguments& arguments);
// LongNet, an encoder and a decoder. One keyword more: is_causal, of all attention, by default true as there.
LongNet from_legacy_longnet(const LegacyArguments& arguments);

}  // namespace longstride
