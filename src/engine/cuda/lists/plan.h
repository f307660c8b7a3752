// Plans of a list of blocks, made on the device: nothing is read by the host, nothing waits, and all of it can be
// captured, so that a graph's replay goes by what the list says then. Called by src/op in place of the host's planner,
// which is what these plans are tested against.
#pragma once

#include "engine/contract.h"
#include "engine/cuda/upload.h"

namespace longstride::engine::cuda::lists {

// Whether this list is planned on the device for a problem with queries: blocks of a thirty-second of a tile or more,
// and 1 GiB holds the bits, and a run for each row.
bool takes(const Problem&, const BlocksOnDevice&, const Geometry&, Direction);

// The plan, in memory of the workspace, which gets it back with the plan. A row that names a block beyond the grid
// stops the device, as an index of torch's that is out of range does: an error of the next call that waits. So do
// more runs than 1 GiB holds, of rows that are for all heads. Tiles are
// not cut into parts: a launch of few, long tiles takes as long as its longest.
DevicePlan plan(const Problem&, const BlocksOnDevice&, const Geometry&, Direction, const Workspace&, Stream);

}  // namespace longstride::engine::cuda::lists
