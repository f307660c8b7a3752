// Where the sequences of modules lie: with this process, or with the ranks of a group, each of which holds a shard of
// each. docs/parallel.md has a training step.
#pragma once

#include <string>

#include "longstride/parallel.h"

namespace torch::nn {
class Module;
}

namespace longstride {

// Lets every attention in `module`, itself among it, run over sequences that lie with the ranks of `group`, cut by
// `layout`, "contiguous" or "zigzag" as in Sharding. From then on its forward takes this rank's shard [batch, rows,
// ...] and `boundaries` where shards are not all of one length; lengths, documents, max_len and the positions of rope
// and xpos are those of the whole sequence. Weights are to be alike on all ranks, and the whole's gradient is the sum
// of theirs. All ranks make the same calls in one order, backward included.
//
// An empty group, or one of one rank: each sequence lies with this process. Configs and checkpoints say nothing of it;
// a clone stays where its source is. Not to be called between a forward and its backward.
//
// Positions "alibi", and attention dropout while training, take ranks that divide the KV heads; pairs are dropped by a
// seed that the first rank draws from its generator.
//
// So do learned blocks while the scorer learns; what is chosen is the first rank's choice, and each has its equal part
// of the density loss.
//
// Refused over several ranks: here an AttentionFn of the module's own; in a call a key_padding_mask and decoding.
// Throws Error, also if there is no attention in the module, before anything is changed.
void place(torch::nn::Module& module, const RankGroup& group, const std::string& layout = "contiguous");

}  // namespace longstride
