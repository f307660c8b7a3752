// What the host asks of a GPU before an engine runs on it. Called by src/op.
#pragma once

#include <string>

#include "engine/contract.h"

namespace longstride::engine::cuda {

// Compute capability, 10 * major + minor: 90 is Hopper. Throws Error if there is no such device.
int architecture(int device);
// Devices that the driver lists; if none, `why` says why not.
int device_count(std::string* why);
std::string device_name(int device);
// Of the current device.
int32_t multiprocessors();
// That a block of the grid can ask for, on the current device.
int32_t shared_bytes_of_block();
// Geometry::workers on the current device: its multiprocessors, shared by the heads, each of which has a tile of its
// own (forward), or the KV heads (transposed).
int32_t workers(const Problem&, Direction);
// Whether work on the stream is being recorded into a graph. What is used then must stay as long as the graph.
bool capturing(Stream);

}  // namespace longstride::engine::cuda
