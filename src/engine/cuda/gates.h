// The gradient of gates (contract.h), the same for every CUDA engine: no plan is read, since a gate's pairs are those
// of its range, or of its row of a list on the device. Called by the backwards of the engines, before their own work.
#pragma once

#include "engine/contract.h"

namespace longstride::engine::cuda {

// Writes gates->grad, which lies on the device; the other arrays of Gates are on the host and free to go on return.
// Tensors are read in place whatever their strides, sums are always made in one order. The list of ranges is copied to
// the device at every call: a long one may wait for work that stands before it on the stream, and a graph would repeat
// it, so that throws Error under capture, before any work.
void gate_gradients(const BackwardProblem&, const Workspace&, Stream);
// Writes list.gate_grad, row by row: rows that name the same pairs get the same. Nothing is read by the host.
void gate_gradients(const BackwardProblem&, const BlocksOnDevice&, const Workspace&, Stream);

}  // namespace longstride::engine::cuda
