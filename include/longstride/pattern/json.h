// Patterns as JSON text and back. Torch-free.
//
//   {"causal": true,
//    "dilated": {"segment_lengths": [2048, 4096], "dilation_rates": [1, 2], "head_offset": "modulo", "offsets": [...],
//                "mixing": "joint", "average": false, "padding": "masked"},
//    "blocks": [{"pattern": "local_window", "block_size": 64, "window": 512},
//               {"pattern": "random", "block_size": 64, "density": 0.05, "seed": 7},
//               {"pattern": "sliding_window", "left": 1023, "right": 0, "sink_tokens": 4}]}
//
// At least one of "dilated" and "blocks"; several block patterns are a union. The keys of a block pattern are the
// fields of its rule (blocks.h); in place of "density", "sparsity_ratio" = 1 - density. A level of "hierarchical" is
// {"stride": 64, "window": 256}, or {"stride": 1024, "global": true} for one that sees everything. A
// "sliding_window" is in tokens and has no block_size (or 1); a side that it leaves out is unbounded. A "list" has
// "blocks": [[batch row or -1, KV head or -1, query block, key block], ...], or leaves them out: then they are the
// `list` below.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "longstride/pattern.h"

namespace longstride {

// Throws Error: text that is no JSON; an unknown key or name (with the nearest one); a missing key; a value of the
// wrong type; what the constructors refuse. `list` is given iff one "list" leaves out its blocks.
Pattern pattern_from_json(const std::string& text, const std::optional<std::vector<Block>>& list = std::nullopt);

// One line; pattern_from_json() of it is the same pattern. Options that have their defaults are left out.
std::string to_json(const Pattern&);

// The same for a pattern of exactly one BlockList, without its blocks: they go beside the text, as `list`.
std::string to_json_beside_list(const Pattern&);

}  // namespace longstride
