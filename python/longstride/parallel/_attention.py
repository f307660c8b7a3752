"""cp_attention: a shard's attention over the whole sequence. The library computes; rows travel by torch.distributed."""

import contextlib
import re
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .. import _registration, _transforms
from .._attention import ListOptions, Unpack, attention, call_of
from .._pattern import Pattern
from .._refusal import dtype as dtype_name
from .._refusal import refuse, shape
from . import _direct, _heads, _ring
from ._agreement import agree, check_validate, fingerprint
from ._call import Call
from ._ranks import Ranks, ranks_of
from ._shards import Boundaries, boundaries_tensor, check_device, check_rows, pieces_of

# Exchanges that run; the planner knows more (docs/parallel.md).
EXCHANGES = ("auto", "none", "direct", "ring")  # and "heads(u)"
# Of a call's tensors those that a rank reads on the host.
ON_HOST = ("blocks", "cu_seqlens", "lengths")


def cp_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern | str,
    group: Any = None,
    *,
    boundaries: Boundaries = None,
    layout: str = "contiguous",
    exchange: str = "auto",
    validate: str = "first",
    return_lse: bool = False,
    **options: "Unpack[ListOptions]",
) -> Tensor | tuple[Tensor, Tensor]:
    """`attention` over a sequence of which every rank of a process group holds a shard: its rows of out, exactly.

    Keys and values that a shard's queries see on other ranks come in one all-to-all, each row once, while the shard
    attends to its own; their gradients go back in another, in float32 (float64 of float64); other exchanges bring them
    otherwise (see exchange). Where no query sees a key of another rank nothing is sent. One rank is `attention`. On the CPU (Gloo) and on CUDA (NCCL). In a graph of
    torch.compile, on the CPU, it is one operator, of which one graph serves all lengths; the backward of the graph has
    the rows of keys sent once more.

    All ranks of the group call it alike, in one order, and so does their backward, whose gradients are those of the
    sum of the ranks' losses. On what they must agree they do before the first call of its kind (see validate).

    Args:
        q: [batch, rows, heads, dim], the rows of this rank's shard, as in `attention`. A shard may be empty.
        k, v: [batch, rows, kv_heads, dim].
        pattern: what attends to what in the whole sequence.
        group: a process group, its name, or a device mesh of one dimension; None: the default group if one is
            initialised, else this process by itself; "none": this process by itself.
        boundaries: the tokens of the whole sequence, which is cut evenly (the first shards one token longer), or a list
            of the positions at which contiguous shards begin and end, one more than there are ranks. None: all shards
            have as many rows as this one.
        layout: "contiguous": rank i holds the i-th interval of tokens; "zigzag": the intervals i and 2 ranks - 1 - i of
            2 ranks, which under a causal mask leaves all ranks as much to do.
        exchange: "direct": as above; "none": an error if a row would travel; "auto": whichever of the two it is
            (see options).
            "ring": the same rows from one rank at a time, the next ones travelling while what has come is attended to,
            so that a rank has room for those of two others at most; the backward has them sent once more.
            "heads(u)": u ranks that lie side by side divide the heads, u a divisor of both the ranks and kv_heads: each
            attends to the rows of all u for its heads, and results go back; of all ranks (Ulysses) no keys travel
            beside. One that cannot be had is an error that names those that can.
        validate: whether ranks compare their calls: "first": before the first one of its shapes and options;
            "always": before every one, at a wait for all ranks each.
        return_lse: whether to return (out, lse) in place of out.
        **options: those of `attention` (cu_seqlens, lengths, scale, blocks, deterministic, ...), of the whole sequence and
            the same on every rank; query_start must be None. alibi_slopes are those of all heads, which ranks
            compare (and wait for a device). Of their dropout_seeds, which may differ, the first rank's is taken: the
            pairs that are dropped are those of one process with that seed. gates are those of all blocks; of their
            gradient a rank gives what its heads have a part in, so that it is to be summed over the group, as those of
            weights are. With slopes, dropout or gates all ranks divide the heads, exchange "heads(ranks)", which "auto"
            is then: others give a rank rows of which its engine knows no distance.
    Returns:
        out [batch, rows, heads, dim], dtype of q; lse [batch, heads, rows], float32 (float64 for float64 inputs).
    Raises:
        ValueError: on every rank, before a row has travelled: what is wrong with a rank's call, or what differs.
        CommError: a rank has ended or is late.
    """
    ways = {"boundaries": boundaries, "layout": layout, "exchange": exchange, "validate": validate}
    run = in_graph if torch.compiler.is_compiling() else at_once
    out, lse = run(q, k, v, pattern, group, options, **ways)
    return (out, lse) if return_lse else out


@torch.compiler.assume_constant_result
def group_in_graph(group: Any) -> str:
    """Its name, "none" of one process: a graph is of one group."""
    ranks = ranks_of(group)
    return "none" if ranks.size == 1 else ranks.name


def in_graph(q, k, v, pattern, group, options, *, boundaries, **ways) -> tuple[Tensor, Tensor]:
    """What can be traced of a call; all else, and every refusal, is the operator's (_graphs.py)."""
    name = group_in_graph(group)
    if name == "none":
        check_options(**options)
        return attention(q, k, v, pattern, **options, return_lse=True)
    check_tensors(**options)
    text, tensors, settings = call_of(pattern, **options)
    differentiated = is_differentiated(q, k, v, options.get("gates"))
    q, k, v = cast(q, k, v)
    cuts = boundaries if isinstance(boundaries, Tensor) else None
    if cuts is not None:
        boundaries = None
    elif isinstance(boundaries, int):
        boundaries = [0, boundaries]
    elif boundaries is not None:
        boundaries = list(boundaries)
    return torch.ops.longstride.cp_attention(
        q, k, v, text, *tensors, cuts, boundaries=boundaries, group=name, gradient=differentiated, **ways, **settings
    )


@torch.compiler.disable
def at_once(q, k, v, pattern, group, options, *, validate, **ways) -> tuple[Tensor, Tensor]:
    ranks = ranks_of(group)
    check_validate(validate)
    on_device = isinstance(q, Tensor) and q.is_cuda
    with torch.cuda.device(q.device) if on_device else contextlib.nullcontext():
        return attend(q, k, v, pattern, ranks, options, validate=validate, **ways)


def attend(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern | str, ranks: Ranks, options: ListOptions, *,
    boundaries: Boundaries, layout: str, exchange: str, validate: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(out, lse), the device of q being the current one."""
    if ranks.size == 1:
        check_exchange(exchange)
        if exchange not in EXCHANGES:
            refuse("exchange", f"must be one of {', '.join(EXCHANGES)} on one rank", repr(exchange))
        check_options(**options)
        check_alone(q, boundaries, layout)
        return attention(q, k, v, pattern, **options, return_lse=True)
    gates = options.get("gates")
    differentiated = is_differentiated(q, k, v, gates)
    q, k, v, call = agreed(
        "cp_attention", q, k, v, pattern, ranks, options, boundaries=boundaries, layout=layout, exchange=exchange,
        validate=validate, also={"gradient": differentiated},
    )  # fmt: skip
    return RankAttention.apply(q, k, v, gates, call)


def agreed(
    what: str, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern | str, ranks: Ranks, options: ListOptions, *,
    boundaries: Boundaries, layout: str, exchange: str, validate: str, also: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor, Call]:  # fmt: skip
    """q, k and v as they are computed with, and the call that all ranks are about to make, `also` included."""
    error: Exception | None = None
    arguments: tuple[Any, ...] = ()
    described: dict[str, Any] = {}
    try:
        check_options(**options)
        if not isinstance(exchange, str):
            refuse("exchange", "must be a name", exchange)
        check_shard(q, k, v, ranks)
        check_tensors(**options)
        _transforms.refuse_tangents(options.get("gates"))
        q, k, v = cast(q, k, v)
        text, tensors, settings = call_of(pattern, **options)
        at = boundaries_tensor(q.size(1) * ranks.size if boundaries is None else boundaries)
        # Kept for the backward as they are now.
        tensors = tuple(
            None if t is None else t.cpu() if name in ON_HOST else t.detach().clone()
            for name, t in zip(_registration.TENSORS, tensors)
        )
        all_settings = _registration.all_settings(settings)
        arguments = (at, layout, ranks.size, ranks.rank, text, *tensors, *all_settings.values())
        described = {
            "pattern": text,
            **{n: said_of(n, t) for n, t in zip(_registration.TENSORS, tensors) if n != "dropout_seed"},
            **all_settings,
            "boundaries": at.tolist(),
            "layout": layout,
        }
        rows, joined = torch.ops.longstride.cp_counts(q, k, v, *arguments)
        steps, heads = torch.ops.longstride.cp_exchange(exchange, q, k, v, *arguments)
    except (ValueError, TypeError) as refused:
        error = refused
    if error is not None:
        agree(what, ranks, {}, 0, error, validate)
    sent, received = rows.tolist()
    description = {**described, **shapes(q, k), "exchange": exchange, "validate": validate, **also}
    total = agree(what, ranks, description, sum(sent), None, validate)
    if exchange == "none" and total > 0:
        refuse("exchange", f"must not be none where queries see keys of other ranks, {total} rows in all", "none",
               "take direct or auto, or shards that segments end on")  # fmt: skip
    return q, k, v, Call(
        arguments, ranks, sent, received, joined, total > 0 or heads > 1, steps.tolist(), heads, description, validate
    )  # fmt: skip


def check_exchange(exchange: str) -> None:
    of_heads = isinstance(exchange, str) and re.fullmatch(r"heads\(\d+\)", exchange)
    if not of_heads and exchange not in EXCHANGES:
        refuse("exchange", f"must be one of {', '.join(EXCHANGES)}, heads(u)", repr(exchange))


def way_of(call: Call) -> ModuleType:
    return _heads if call.heads > 1 else _ring if call.steps else _direct


def check_alone(q: Tensor, boundaries: Boundaries, layout: str) -> None:
    pieces = pieces_of(boundaries_tensor(q.size(1) if boundaries is None else boundaries), layout, 1)
    check_rows("q", q, q.size(1), pieces, ranks_of("none"))


def check_options(query_start: int | None = None, **others: Any) -> None:
    if query_start is not None:
        refuse("query_start", "must be None in cp_attention", query_start, "decode with attention(), on one rank")


def check_tensors(
    alibi_slopes: Tensor | None = None, dropout_seed: Tensor | None = None, gates: Tensor | None = None, **others: Any
) -> None:
    for name, t in (("alibi_slopes", alibi_slopes), ("dropout_seed", dropout_seed), ("gates", gates)):
        if t is not None and not isinstance(t, Tensor):
            refuse(name, "must be a tensor", type(t).__name__)
    _registration.refuse_gradients([alibi_slopes if name == "alibi_slopes" else None for name in _registration.TENSORS])


def check_shard(q: Tensor, k: Tensor, v: Tensor, ranks: Ranks) -> None:
    """What the operators of a rank do not say: they know plain tensors alone."""
    for name, t in (("q", q), ("k", k), ("v", v)):
        if not isinstance(t, Tensor):
            refuse(name, "must be a tensor", type(t).__name__)
        if t.is_nested or t.layout != torch.strided:
            got = "a nested one" if t.is_nested else f"one of layout {t.layout}"
            refuse(name, "must be a dense tensor", got)
        check_device(name, t, ranks)
        if t.dim() != 4:
            refuse(name, "must have the 4 dimensions [batch, rows, heads, dim]", shape(t))
    if torch._C._are_functorch_transforms_active():
        refuse("cp_attention", "must be called outside of torch.func's transforms", "a call within one")
    _transforms.refuse_tangents(q, k, v)


def cast(q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
    return _registration.autocast(q, k, v) if torch.is_autocast_enabled(q.device.type) else [q, k, v]


def said_of(name: str, t: Tensor | None) -> Any:
    """What ranks compare of a tensor: its numbers, as integers; gates are all 1."""
    if name == "gates":
        return t is not None
    return fingerprint(t.view(torch.int32) if t is not None and t.dtype == torch.float32 else t)


def is_differentiated(*tensors: Any) -> bool:
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in tensors)


def shapes(q: Tensor, k: Tensor) -> dict[str, Any]:
    """What of tensors ranks must have alike."""
    return {
        "batch": q.size(0),
        "heads of q": q.size(2),
        "heads of k": k.size(2),
        "dim": q.size(3),
        "dtype": dtype_name(q.dtype),
        "device": q.device.type,
    }


class RankAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, gates: Tensor | None, call: Call):
        with call.turn("cp_attention"):
            out, lse, saved = way_of(call).forward(q, k, v, call)
        ctx.save_for_backward(*saved)
        ctx.call, ctx.out = call, {"size": out.shape, "dtype": out.dtype, "device": out.device}
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_out: Tensor | None, d_lse: Tensor | None):
        call, saved = ctx.call, ctx.saved_tensors
        # Without a gradient too: other ranks may have one, and wait for this one's part.
        d_out = torch.zeros(**ctx.out) if d_out is None else d_out
        if call.validate == "always":
            agree("cp_attention backward", call.ranks, call.description, 0, None, "always")
        needed = ctx.needs_input_grad[3]
        with call.turn("cp_attention backward"):
            wanted = call if needed else call.with_option("gates", None)
            *grads, d_gates = way_of(call).backward(d_out, d_lse, saved, wanted)
        return *grads, d_gates if needed else None, None
