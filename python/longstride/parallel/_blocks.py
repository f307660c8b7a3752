"""Sums over blocks of a sequence that lies with several ranks: what a choice of blocks is told by."""

import torch
from torch import Tensor

from ._exchange import Posted
from ._ranks import Ranks

Pieces = list[list[tuple[int, int]]]


def blocks_in(pieces: list[tuple[int, int]], block_size: int) -> Tensor:
    """Those that a rank has tokens of, ascending."""
    parts = [torch.arange(begin // block_size, -(-end // block_size)) for begin, end in pieces if begin < end]
    return torch.cat(parts).unique() if parts else torch.empty(0, dtype=torch.int64)


def block_sums(what: str, ranks: Ranks, rows: Tensor, block_size: int, pieces: Pieces) -> Tensor:
    """rows [rows of the shard, n] -> [blocks, n]: the sum of each block's rows, on every rank.

    Each rank sends all others the sums of the blocks that it has rows of. A block that lies with several ranks is their
    sum in ascending order, which is the same everywhere.
    """
    end = max((end for part in pieces for _, end in part), default=0)
    found = rows.new_zeros(-(-end // block_size), rows.size(1))
    if found.numel() == 0:  # no token or no batch
        return found
    of_ranks = [blocks_in(part, block_size) for part in pieces]
    own = of_ranks[ranks.rank]
    at = [torch.arange(begin, end) for begin, end in pieces[ranks.rank]]
    place = torch.searchsorted(own, torch.cat(at) // block_size) if at else own
    sums = rows.new_zeros(len(own), rows.size(1)).index_add_(0, place.to(rows.device), rows)
    counts = [len(blocks) for blocks in of_ranks]
    came = Posted(what, ranks, sums.repeat(ranks.size, 1), [len(own)] * ranks.size, counts).wait()
    for blocks, part in zip(of_ranks, came.split(counts)):
        found[blocks.to(rows.device)] += part
    return found
