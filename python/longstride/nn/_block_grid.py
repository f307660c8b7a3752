"""The blocks of one call of a scorer: which there are, how many each row of them takes, and sums over their positions.
That of C++ is src/nn/block_grid.h. Called by _learned.py.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .._refusal import refuse


class Grid:
    """The blocks of one call: batch row b has nb[b] of its own, fewer than the widest has if it is shorter."""

    def __init__(self, block_size: int, n: int, causal: bool, lengths: Sequence[int], least: float, most: float):
        self.block_size, self.n, self.causal, self.lengths = block_size, n, causal, lengths
        self.least, self.most = least, most  # densities
        self.nb = [-(-length // block_size) for length in lengths]
        self.width = -(-n // block_size)

    def pairs(self) -> int:
        return sum(nb * (nb + 1) // 2 if self.causal else nb * nb for nb in self.nb)

    def counts(self, density: float) -> list[list[int]]:
        """[rows, width]: how many blocks each row of blocks takes. What a row has too much of, for it keeps its diagonal,
        the next ones make up for."""
        rows = []
        for nb in self.nb:
            seen = taken = 0
            row = [0] * self.width
            for i in range(nb):
                most = i + 1 if self.causal else nb
                seen += most
                row[i] = min(max(math.floor(density * seen + 0.5) - taken, 1), most)
                taken += row[i]
            rows.append(row)
        return rows

    def tables(self, device: torch.device) -> "Tables":
        """Kept from call to call, but where tensors are other than they seem (a mode that traces them)."""
        make = tables_of.__wrapped__ if torch._C._len_torch_dispatch_stack() > 0 else tables_of
        return make(device, self.block_size, self.n, self.causal, tuple(self.lengths), self.least, self.most)

    def check(self, density: float) -> None:
        """Refuses a density that the diagonals alone exceed; half a block is rounding, and one block is dense."""
        nb = max(self.nb, default=0)
        if self.causal or nb < 2 or density * nb * nb >= nb - 0.5:
            return
        least = nb / (nb * nb)
        refuse(
            "density", f"must be at least {least:.4g} on {nb} x {nb} blocks: every row keeps its diagonal", f"{density:.4g}",
            f"the nearest that can be reached is {least:.6g} (sparsity_ratio {1 - least:.6g}); smaller blocks reach lower "
            "densities",
        )  # fmt: skip

    def sums(self, t: Tensor) -> Tensor:
        """t [batch, len, kv_heads, dim] -> the sum of each block's positions [batch, nb, kv_heads, dim]."""
        return pad(t, (0, 0, 0, 0, 0, self.width * self.block_size - self.n)).unflatten(1, (self.width, self.block_size)).sum(2)

    def means(self, sums: Tensor) -> Tensor:
        """Sums -> the mean of each block's positions below the length [batch, kv_heads, nb, dim]."""
        return (sums / self.tables(sums.device).filled.to(sums.dtype)[:, :, None, None]).transpose(1, 2)

    def beyond(self, positions: Tensor) -> Tensor | None:
        """bool [rows, len, 1, 1]: what lies beyond a row's length, which may be anything; None where nothing does."""
        if all(length == self.n for length in self.lengths):
            return None
        return (positions >= self.tables(positions.device).lengths[:, None])[:, :, None, None]


class Tables(NamedTuple):
    """What depends on the lengths of a call alone, on its device.

    Attributes:
        lengths: [rows].
        filled: [rows, width]: positions of each block, at least 1.
        there: bool [rows, 1, width, width]: which pairs of blocks there are.
        diagonal: bool [width, width].
        least, most: [rows, 1, width, 1]: blocks that each row of blocks takes at least, and at most.
        taken_at_most: of all rows, a KV head.
    """

    lengths: Tensor
    filled: Tensor
    there: Tensor
    diagonal: Tensor
    least: Tensor
    most: Tensor
    taken_at_most: int


# To copy them to a GPU waits for it, so a step of training does without from the second one on.
@lru_cache(maxsize=8)
def tables_of(device: torch.device, block_size: int, n: int, causal: bool, lengths: tuple[int, ...], *bounds: float) -> Tables:
    grid = Grid(block_size, n, causal, lengths, *bounds)
    with torch.inference_mode(False):
        of_rows = torch.tensor(lengths, dtype=torch.int64, device=device)
        blocks = torch.arange(grid.width, device=device)
        filled = (of_rows[:, None] - blocks * block_size).clamp(1, block_size)
        inside = blocks < torch.tensor(grid.nb, dtype=torch.int64, device=device)[:, None]
        pairs = inside[:, :, None] & inside[:, None, :]
        there = (pairs.tril() if causal else pairs)[:, None]
        counts = [grid.counts(density) for density in bounds]
        columns = [torch.tensor(rows, dtype=torch.int64, device=device).view(len(rows), 1, grid.width, 1) for rows in counts]
        diagonal = torch.eye(grid.width, dtype=torch.bool, device=device)
        return Tables(of_rows, filled, there, diagonal, *columns, sum(map(sum, counts[1])))
