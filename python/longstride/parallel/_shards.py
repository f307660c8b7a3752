"""Which tokens a rank holds, and the way there and back. Where a sequence is cut the library says."""

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from .._refusal import dtype as dtype_name
from .._refusal import refuse, shape
from ._agreement import agree, check_validate
from ._exchange import Posted, turn
from ._ranks import Ranks, ranks_of

Boundaries = int | Sequence[int] | Tensor | None


def boundaries_tensor(boundaries: Boundaries) -> Tensor:
    """As the operators take them: [ranks + 1] positions, or [2] of a sequence that is cut evenly."""
    if isinstance(boundaries, Tensor):
        return boundaries
    try:
        if boundaries is None or isinstance(boundaries, bool):
            raise TypeError
        if isinstance(boundaries, SupportsIndex):
            return torch.tensor([0, operator.index(boundaries)], device="cpu")
        return torch.tensor([operator.index(b) for b in boundaries], dtype=torch.int64, device="cpu")
    except TypeError:
        wanted = "must be the tokens of the whole sequence, or a list of the positions at which shards begin and end"
        refuse("boundaries", wanted, repr(boundaries))


def pieces_of(boundaries: Tensor, layout: str, size: int) -> list[list[tuple[int, int]]]:
    """Of each rank [begin, end) of its tokens, in the order of its rows."""
    if not isinstance(layout, str):
        refuse("layout", 'must be "contiguous" or "zigzag"', repr(layout))
    pieces: list[list[tuple[int, int]]] = [[] for _ in range(size)]
    for begin, end, rank in torch.ops.longstride.cp_pieces(boundaries, layout, size).tolist():
        pieces[rank].append((begin, end))
    return pieces


def rows_in(pieces: list[tuple[int, int]]) -> int:
    return sum(end - begin for begin, end in pieces)


def positions(
    boundaries: int | Sequence[int] | Tensor,
    group: Any = None,
    *,
    layout: str = "contiguous",
    device: torch.device | str | None = None,
) -> Tensor:
    """Where this rank's tokens stand in the sequence: what rotary embeddings and labels go by.

    Args:
        boundaries: tokens of the whole sequence, which is cut evenly, or the positions at which contiguous shards begin
            and end, one more than there are ranks.
        group: as in `cp_attention`.
        layout: "contiguous" or "zigzag".
    Returns:
        int64 [rows of the shard].
    Raises:
        ValueError: boundaries or a layout that are none.
    """
    ranks = ranks_of(group)
    own = pieces_of(boundaries_tensor(boundaries), layout, ranks.size)[ranks.rank]
    parts = [torch.arange(begin, end, device=device) for begin, end in own]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device=device)


def checked_axis(x: Tensor, dim: int) -> int:
    if not isinstance(x, Tensor):
        refuse("x", "must be a tensor", type(x).__name__)
    if not -x.dim() <= dim < x.dim():
        refuse("dim", f"must be an axis of x, in [{-x.dim()}, {x.dim()})", dim)
    return dim % x.dim()


def shard(
    x: Tensor, group: Any = None, *, boundaries: Boundaries = None, layout: str = "contiguous", dim: int = 1
) -> Tensor:
    """This rank's tokens of a tensor of the whole sequence, differentiable: the gradient of the others' is zero.

    Args:
        x: [..., len, ...], the same on every rank; nothing is sent.
        boundaries: the positions at which contiguous shards begin and end, one more than there are ranks; None: cut
            evenly, the first len mod ranks shards one token longer.
        group, layout: as in `cp_attention`.
        dim: the axis of tokens.
    Returns:
        [..., rows of the shard, ...]; of contiguous shards a view.
    Raises:
        ValueError: boundaries that do not end with x, a layout that is none.
    """
    ranks = ranks_of(group)
    dim = checked_axis(x, dim)
    at = boundaries_tensor(x.size(dim) if boundaries is None else boundaries)
    own = pieces_of(at, layout, ranks.size)[ranks.rank]
    if int(at[-1]) != x.size(dim):
        refuse("boundaries", f"must end with the {x.size(dim)} tokens of x", int(at[-1]))
    parts = [x.narrow(dim, begin, end - begin) for begin, end in own]
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts, dim) if parts else x.narrow(dim, 0, 0)


def unshard(
    x: Tensor,
    group: Any = None,
    *,
    boundaries: Boundaries = None,
    layout: str = "contiguous",
    dim: int = 1,
    validate: str = "first",
) -> Tensor:
    """The whole sequence of all ranks' shards, on every rank. All ranks of the group must call it, and its backward.

    The gradient of a shard is the sum of what all ranks give for it, in float32 (float64 of float64) and in the order
    of ranks: that of the sum of the ranks' losses, as with `cp_attention`.

    Args:
        x: [..., rows of the shard, ...].
        boundaries, group, layout, validate: as in `cp_attention`.
        dim: the axis of tokens.
    Returns:
        [..., len, ...].
    Raises:
        ValueError: on every rank: x that is no shard, shapes, types or options that differ.
        CommError: a rank has ended or is late.
    """
    ranks = ranks_of(group)
    dim = checked_axis(x, dim)
    check_validate(validate)
    at = boundaries_tensor(x.size(dim) * ranks.size if boundaries is None else boundaries)
    error, pieces = None, []
    try:
        if ranks.size > 1:
            check_device("x", x, ranks)
        pieces = pieces_of(at, layout, ranks.size)
        check_rows("x", x, x.size(dim), pieces, ranks)
    except ValueError as refused:
        error = refused
    if ranks.size == 1:
        if error is not None:
            raise error
        return x
    call = {
        "dim": dim,
        "other sizes of x": [size for axis, size in enumerate(x.shape) if axis != dim],
        "dtype": dtype_name(x.dtype),
        "device": x.device.type,
        "boundaries": at.tolist(),
        "layout": layout,
    }
    agree("unshard", ranks, call, 0, error, validate)
    return Unshard.apply(x, ranks, pieces, dim)


def check_device(name: str, x: Tensor, ranks: Ranks) -> None:
    if x.device.type not in ("cpu", "cuda"):
        refuse(name, "must be on the CPU or a CUDA device where the sequence lies in shards", x.device)
    if not ranks.takes(x.device):
        wanted = f"must be on a device whose tensors the group moves, which has {ranks.backends()}"
        refuse(name, wanted, x.device, "move the tensors, or take a group of another backend")


def check_rows(name: str, x: Tensor, rows: int, pieces: list[list[tuple[int, int]]], ranks: Ranks) -> None:
    wanted = rows_in(pieces[ranks.rank])
    if rows != wanted:
        remedy = "boundaries and layout say who holds which tokens"
        refuse(name, f"must have the {wanted} rows of the shard of rank {ranks.rank}", shape(x), remedy)


class Unshard(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, ranks: Ranks, pieces: list[list[tuple[int, int]]], dim: int):
        ctx.ranks, ctx.pieces, ctx.dim = ranks, pieces, dim
        rows = x.movedim(dim, 0)
        sent = torch.cat([rows] * ranks.size)  # every rank gets all of them
        counts = [rows_in(of_rank) for of_rank in pieces]
        with turn("unshard", ranks):
            received = Posted("unshard", ranks, sent, [rows.size(0)] * ranks.size, counts).wait()
        whole = torch.empty_like(received)
        for (begin, end), part in zip([p for of_rank in pieces for p in of_rank], parted(received, pieces)):
            whole[begin:end] = part
        return whole.movedim(0, dim)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        ranks, pieces = ctx.ranks, ctx.pieces
        whole = grad.movedim(ctx.dim, 0)
        sent = torch.cat([whole[begin:end] for of_rank in pieces for begin, end in of_rank])
        counts = [rows_in(of_rank) for of_rank in pieces]
        own = counts[ranks.rank]
        with turn("unshard backward", ranks):
            received = Posted("unshard backward", ranks, sent, counts, [own] * ranks.size).wait()
        total, *others = [part.to(wide_dtype(grad.dtype)) for part in received.split(own)] if own else [received]
        for other in others:
            total = total + other
        return total.to(grad.dtype).movedim(0, ctx.dim), None, None, None


def wide_dtype(of: torch.dtype) -> torch.dtype:
    """What sums and parts are held in."""
    return torch.float64 if of == torch.float64 else torch.float32


def parted(rows: Tensor, pieces: list[list[tuple[int, int]]]) -> list[Tensor]:
    """Shards end to end, piece by piece."""
    return list(rows.split([end - begin for of_rank in pieces for begin, end in of_rank]))
