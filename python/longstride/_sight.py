"""Who sees whom, and how often: the operator itself is asked. Used by Pattern.mask, Pattern.show."""

import dataclasses
import json
from collections.abc import Iterator

import torch
from torch import Tensor

# Keys that one call asks for: each is a number of a head.
KEYS_A_CALL = 128


def named_rows(text: str, blocks: Tensor | None) -> list[int]:
    """The batch rows that a list of blocks names."""
    named = [] if blocks is None else blocks[:, 0].tolist()
    for block in json.loads(text).get("blocks", []):
        if block["pattern"] == "list":
            named += [row[0] for row in block.get("blocks") or []]
    return named


def counted_columns(text: str, rows: Tensor | None, n: int, heads: int, batch_row: int) -> Iterator[tuple[int, Tensor]]:
    """(first, [heads, n, columns]) for keys first, first + 1, ...: how often each query sees them, as whole float32s.

    With equal scores a query's result is the mean of the values that it sees, and e^lse is how many those are; values
    that are rows of the identity say which.
    """
    batch = 1 + max([batch_row, *named_rows(text, rows)])
    dilated = json.loads(text).get("dilated") or {}
    divided = len(dilated["segment_lengths"]) if dilated.get("average") else 1
    for first in range(0, n, KEYS_A_CALL):
        columns = min(KEYS_A_CALL, n - first)
        q = torch.zeros(1, n, heads, columns, device="cpu").expand(batch, -1, -1, -1)
        v = torch.zeros(n, columns, device="cpu")
        v[first : first + columns] = torch.eye(columns, device="cpu")
        v = v.view(1, n, 1, columns).expand(batch, n, heads, columns)
        # Consumers of this generator run between the calls, so what is set here must not outlive one.
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            out, lse = torch.ops.longstride.attention(q, q, v, text, rows)
            seen = out[batch_row].transpose(0, 1) * lse[batch_row].exp()[..., None]
        yield first, (divided * seen).round()


@dataclasses.dataclass(frozen=True)
class Cells:
    """Pairs of a sequence counted on a grid of square cells."""

    sums: Tensor  # [heads, cells, cells]: what all pairs of a cell count
    side: int  # of a cell, in tokens; the last one may hold fewer
    n: int  # tokens
    pairs: int  # that are seen, each once

    def mean(self) -> Tensor:
        """[heads, cells, cells]: how often a query of the cell sees a key of it, on average."""
        lengths = (self.n - self.side * torch.arange(self.sums.size(1), device="cpu")).clamp(max=self.side)
        return self.sums / (lengths[:, None] * lengths)

    def joined(self, limit: int) -> "Cells":
        """The same on a grid of at most `limit` cells a side."""
        sums, side = self.sums, self.side
        while sums.size(1) > limit:
            odd = sums.size(1) % 2
            sums = torch.nn.functional.pad(sums, (0, odd, 0, odd))
            half = sums.size(1) // 2
            sums = sums.view(-1, half, 2, half, 2).sum((2, 4))
            side *= 2
        return Cells(sums, side, self.n, self.pairs)


def counted_cells(text: str, rows: Tensor | None, n: int, heads: int, batch_row: int, limit: int) -> Cells:
    """At most `limit` cells a side, each of a power of two of tokens: otherwise the strides of a pattern would beat
    against the grid."""
    side = 1
    while side * limit < n:
        side *= 2
    cells = -(-n // side)
    sums = torch.zeros(heads, cells, cells, device="cpu")
    pairs = 0
    for first, seen in counted_columns(text, rows, n, heads, batch_row):
        filled = torch.nn.functional.pad(seen, (0, 0, 0, cells * side - n))
        by_row = filled.view(heads, cells, side, -1).sum(2)
        sums.index_add_(2, (first + torch.arange(seen.size(2), device="cpu")) // side, by_row)
        pairs += int((seen > 0).sum())
    return Cells(sums, side, n, pairs)
