// One plan for many decoding steps. The plans of two queries in the same segments, a multiple of all rates apart,
// differ in where the row stands and in how far the runs go that end with it (Run::kGrows). So a step may be planned at
// an earlier position, its base, and whoever runs the plan adds what came since: an engine by Problem::plan_tokens,
// anybody on the host by advanced(). Called by src/op, before the plan cache is asked.
#pragma once

#include <cstdint>

#include "longstride/pattern.h"
#include "longstride/plan.h"

namespace longstride::plan {

// Positions share bases within windows of so many tokens. A plan's parts are of about equal cost at its base, and of
// the part with the run that grows the window bounds the growth: four blocks of 128 keys, some 5 us of one of an H200's
// multiprocessors. Longer windows would save little: at rates up to 16 one step in 32 is planned as it is.
inline constexpr int64_t kStepWindow = 512;

// The extent that the step's plan is compiled for: with query_start moved back to its base and no keys behind that.
// The extent itself where a plan serves no other position: not one causal query of whole sequences of `len_k` tokens,
// blocks, phantom keys, rates that do not divide each other or are over 64, or within the first tokens of a segment.
// Both arguments must be valid.
Extent step_base(const Pattern&, const Extent&);

// The plan of the query `tokens` behind that of a forward plan compiled for a step_base(): pair by pair the one that
// compile() gives there, but for the cut into parts. Throws Error unless tokens >= 0 is a multiple of every level's
// stride.
Plan advanced(Plan plan, int64_t tokens);

}  // namespace longstride::plan
