"""One sequence over many ranks: attention in which every process holds a shard of it and gets the keys that it needs.

    from longstride import parallel

    x = parallel.shard(x, group, dim=1)                      # this rank's tokens
    at = parallel.positions(length, group)                   # where they stand in the sequence
    out = parallel.cp_attention(q, k, v, pattern, group)     # the shard's rows of attention over the whole sequence
    parallel.place(model, group)                             # a model's attention, of shards from now on

The ranks are those of a torch.distributed process group. docs/parallel.md says what travels, and when.
"""

from . import _graphs
from ._attention import cp_attention
from ._exchange import CommError
from ._placement import ContextParallel, place
from ._shards import positions, shard, unshard

_graphs.register()

__all__ = ["CommError", "ContextParallel", "cp_attention", "place", "positions", "shard", "unshard"]
