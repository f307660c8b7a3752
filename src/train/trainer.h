// What the trainer has beside longstride/train.h. Called by `longstride train`.
#pragma once

#include "core/json.h"
#include "longstride/train.h"

namespace longstride::train {

// The summary as the log and `longstride train --json` have it.
core::Json json_of(const TrainSummary& summary);

}  // namespace longstride::train
