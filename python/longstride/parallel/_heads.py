"""Shards of rows become shards of heads: among u ranks that lie side by side each takes the rows of all for 1/u of the heads.

What these heads see beyond those rows comes from the ranks of the same heads by a direct exchange, of which there is none
where u are all ranks of the group. Results go back to who holds their rows. As much travels whatever the pattern.
"""

import dataclasses

import torch
from torch import Tensor

from . import _direct
from ._call import Call
from ._exchange import Posted
from ._shards import pieces_of

FORWARD, BACKWARD = _direct.FORWARD, _direct.BACKWARD


class Turning:
    """Between [batch, rows of the shard, heads, dim] and [batch, rows of u shards, heads / u, dim]."""

    def __init__(self, call: Call):
        self.call, self.u = call, call.heads
        boundaries, layout, size, rank, *_ = call.arguments
        first = rank // self.u * self.u
        pieces = pieces_of(boundaries, layout, size)[first : first + self.u]
        self.rows = [sum(end - begin for begin, end in of_rank) for of_rank in pieces]
        self.own = self.rows[rank - first]
        self.counts = [0] * first + self.rows + [0] * (size - first - self.u)
        self.each = [0] * first + [self.own] * self.u + [0] * (size - first - self.u)
        # Rows of all, in the order of their positions: where they stand rank by rank.
        where, at = [], 0
        for begin, end in (piece for of_rank in pieces for piece in of_rank):
            where.append((begin, torch.arange(at, at + end - begin)))
            at += end - begin
        begins = [begin for begin, _ in where]
        ordered = [rows for _, rows in sorted(where, key=lambda of: of[0])]
        self.order = None if begins == sorted(begins) else torch.cat(ordered)

    def travel(self, what: str, message: Tensor, sent: list[int], received: list[int]) -> Tensor:
        if message.size(1) == 0:  # no batch
            return message.new_empty(sum(received), 0)
        return dataclasses.replace(self.call, sent=sent, received=received).post(what, message).wait()

    def to_heads(self, what: str, *tensors: Tensor) -> list[Tensor]:
        split = [t.unflatten(2, (self.u, t.size(2) // self.u)).permute(2, 1, 0, 3, 4).flatten(2).flatten(0, 1) for t in tensors]
        came = self.travel(what, torch.cat(split, 1), self.each, self.counts)
        if self.order is not None:
            came = came[self.order.to(came.device)]
        parts = came.split([s.size(1) for s in split], 1)
        return [
            c.unflatten(1, (t.size(0), t.size(2) // self.u, t.size(3))).transpose(0, 1) for c, t in zip(parts, tensors)
        ]

    def to_rows(self, what: str, *tensors: Tensor) -> list[Tensor]:
        rows = torch.cat([t.transpose(0, 1).flatten(1) for t in tensors], 1)
        if self.order is not None:
            rows = torch.empty_like(rows).index_copy_(0, self.order.to(rows.device), rows)
        came = self.travel(what, rows, self.counts, self.each).unflatten(0, (self.u, self.own))
        parts = came.split([t.size(0) * t.size(2) * t.size(3) for t in tensors], 2)
        return [
            c.unflatten(2, (t.size(0), t.size(2), t.size(3))).permute(2, 1, 0, 3, 4).flatten(2, 3)
            for c, t in zip(parts, tensors)
        ]


def of_heads(q: Tensor, k: Tensor, v: Tensor, call: Call) -> Call:
    """The direct exchange among the ranks of the same heads."""
    operators, u, ranks = torch.ops.longstride, call.heads, call.ranks
    arguments = (*call.arguments, -1, u)
    rows, joined = operators.cp_counts(q, k, v, *arguments)
    counts = torch.zeros(2, ranks.size, dtype=torch.int64)
    counts[:, ranks.rank % u :: u] = rows
    sent, received = counts.tolist()
    return dataclasses.replace(
        call, arguments=arguments, sent=sent, received=received, joined=joined, travels=u < ranks.size, heads=1
    )


def post_seed(what: str, call: Call) -> Posted | None:
    """The first rank's seed of dropout on its way to all, who drop the same pairs whatever seeds they have."""
    if call.seed is None:
        return None
    size = call.ranks.size
    to_each = 1 if call.ranks.rank == 0 else 0
    counts = {"sent": [to_each] * size, "received": [1] + [0] * (size - 1)}
    return dataclasses.replace(call, **counts).post(what, call.seed.reshape(1, 1).repeat(to_each * size, 1))


def seeded(call: Call, posted: Posted | None) -> Call:
    return call if posted is None else call.with_option("dropout_seed", posted.wait())


def as_tensor(lse: Tensor) -> Tensor:
    """[batch, heads, rows] as [batch, rows, heads, 1]; back by the same, but for the last dimension."""
    return lse.transpose(1, 2).unsqueeze(3)


def forward(q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """(out, lse, what the backward wants: q, k, v, out, lse and the gathered keys, of these heads, and the seed)."""
    turning, posted = Turning(call), post_seed(FORWARD, call)
    q, k, v = turning.to_heads(FORWARD, q, k, v)
    call = seeded(call, posted)
    out, lse, saved = _direct.forward(q, k, v, of_heads(q, k, v, call))
    (out,) = turning.to_rows(FORWARD, out)
    (lse,) = turning.to_rows(FORWARD, as_tensor(lse))
    return out, lse.squeeze(3).transpose(1, 2).contiguous(), (*saved, call.seed)


def again(q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: Call) -> tuple[Tensor, ...]:
    turning, posted = Turning(call), post_seed(BACKWARD, call)
    q, k, v, out = turning.to_heads(BACKWARD, q, k, v, out)
    (lse,) = turning.to_heads(BACKWARD, as_tensor(lse))
    call = seeded(call, posted)
    saved = _direct.again(q, k, v, out, lse.squeeze(3).transpose(1, 2).contiguous(), of_heads(q, k, v, call))
    return *saved, call.seed


def backward(d_out: Tensor, d_lse: Tensor | None, saved: tuple[Tensor, ...], call: Call) -> tuple[Tensor, ...]:
    """(dq, dk, dv, d_gates of this rank's heads)"""
    *saved, seed = saved
    turning, call = Turning(call), call.with_option("dropout_seed", seed)
    q, k, v, _, lse, _ = saved
    if d_lse is None:  # another rank may have one
        d_lse = lse.new_zeros(d_out.size(0), d_out.size(2), d_out.size(1))
    (d_out,) = turning.to_heads(BACKWARD, d_out)
    (d_lse,) = turning.to_heads(BACKWARD, as_tensor(d_lse))
    *grads, d_gates = _direct.backward(d_out, d_lse.squeeze(3).transpose(1, 2), saved, of_heads(q, k, v, call))
    return *turning.to_rows(BACKWARD, *grads), d_gates
