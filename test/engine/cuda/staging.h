// Runs a CUDA engine on host tensors: copies what a Problem names to the device with its strides and whatever lies in
// its gaps, runs, copies results back. So the tests of every engine serve this one. Called by cuda_test.
#pragma once

#include "engine/cuda/upload.h"
#include "test/engine/run.h"

namespace longstride::test {

// The engines as run_case() wants them. Throw Error on any CUDA error, one of a kernel too. A backward belongs to the
// forward before it.
Engine staged_sm90(bool deterministic = false);
// sm90's forward by its kernel for tiles of few columns, or by the other, whatever the plan.
Engine staged_sm90_tiles(bool are_short);
Engine staged_sm80(bool deterministic = false);

// The same for a case of one list of blocks, whose rows lie on the device: plans are made there, and those that the
// test brings are not looked at. The list has the rows of gate_cells() first, whose gates are asked for, then the
// case's.
Engine staged_list(const Case&, bool portable, bool deterministic = false);

// The case with the plans that the sm90 engine asks for. Where a backward wants another forward plan than the forward
// (float32), its gradients are those of a forward with that plan, and out and lse of one with its own. `change`: of
// every geometry.
Results run_sm90(const Case&, bool deterministic = false, const std::function<void(Geometry&)>& change = {});

// A workspace of plain device memory, filled with NaN before it is handed out.
engine::Workspace poisoned_workspace();

}  // namespace longstride::test
