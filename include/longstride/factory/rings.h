// The ranks that share the sequences of a ring or distributed type: what its shards are cut for.
#pragma once

#include "longstride/factory/configs.h"
#include "longstride/parallel.h"

namespace longstride {

// The group that a config names, or this rank's ring of it: ring_size consecutive ranks, made once of a group and a
// size, by c10d's splitGroup. Empty: this process by itself. All ranks of the ring must ask for it. Throws what
// ranks_of() throws, and Error if the group's backend cannot be split (Gloo and NCCL can, Gloo over a TCPStore).
RankGroup ring_of(const RingAttentionConfig&);

}  // namespace longstride
