"""The operators under torch.func's transforms: vmap, grad, and what is built of them.

Under vmap the mapped dimension becomes part of the batch, and one kernel runs over all of it. For grad torch wants a
Function with a separate setup_context, which torch.library does not make. Forward mode is refused.
"""

import json
import operator
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _registration
from ._refusal import refuse

REMEDY = "put the mapped dimension into the batch and call attention once"


def check_entries(dims: dict[str, int | None], **arrays: Tensor) -> None:
    """Before they are folded, so that a refusal speaks of what an entry has."""
    for name, t in arrays.items():
        sizes = [n for axis, n in enumerate(t.shape) if axis != dims[name]]
        if len(sizes) != 4:
            wanted = "must have the 4 dimensions [batch, len, heads, dim] in every entry of vmap"
            refuse(name, wanted, f"shape {sizes}", f"call {name}.unsqueeze(0) for a batch of 1")


def folded(t: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """[batch, ...] with a mapped dimension -> [size * batch, ...], entry by entry; what is not mapped is repeated."""
    if t is None:
        return None
    t = t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
    return t.flatten(0, 1)


def unfolded(t: Tensor, size: int) -> Tensor:
    return t.unflatten(0, (size, -1)) if t.size(0) else t.view(size, 0, *t.shape[1:])


def widened_text(pattern: str, size: int, batch: int) -> str:
    """A pattern whose lists of blocks name the same rows in every entry of the folded batch."""
    try:
        data = json.loads(pattern) if '"list"' in pattern else {}
    except ValueError:
        data = {}  # the library says what is wrong with it
    named = False
    for block in data.get("blocks") or ():
        rows = block.get("blocks") if block.get("pattern") == "list" else None
        if rows and any(row[0] >= 0 for row in rows):
            named = True
            entries = range(operator.index(size))
            moved = [[row[0] + entry * operator.index(batch), *row[1:]] for entry in entries for row in rows if row[0] >= 0]
            block["blocks"] = [row for row in rows if row[0] < 0] + moved
    return json.dumps(data) if named else pattern


# Tensors behind the pattern that may differ from entry to entry; gates are refused whatever they are.
FOLDED = ("gates", "lengths", "dropout_seed")


def widened_rows(blocks: Tensor | None, size: int, batch: int) -> Tensor | None:
    if blocks is None:
        return None
    rows, others = blocks[:, :1], blocks[:, 1:]
    first = torch.arange(size, dtype=rows.dtype, device=rows.device)[:, None, None] * batch
    named = torch.where(rows < 0, rows, rows + first)  # [size, rows, 1]; a block named again counts once
    return torch.cat((named, others.expand(size, *others.shape)), 2).flatten(0, 1)


def folded_call(
    info: Any, dims: dict[str, Any], pattern: str, tensors: dict[str, Tensor | None], settings: dict, batch: int
) -> tuple:
    """The pattern and the tensors behind it for the folded batch."""
    size = info.batch_size
    for name, dim in dims.items():
        if name not in FOLDED and dim is not None:
            refuse(name, "must be the same for every entry of vmap", "a mapped tensor", "call attention in a loop")
    if tensors["gates"] is not None:
        refuse("gates", "must be None under vmap", "a tensor", REMEDY)
    seed = tensors["dropout_seed"]
    if settings.get("dropout_p", 0) > 0:
        if info.randomness != "different":
            wanted = "must be 0 under vmap, whose entries drop different pairs, unless it is told so"
            refuse("dropout_p", wanted, settings["dropout_p"], "call vmap(..., randomness='different')")
        if seed is not None and dims["dropout_seed"] is not None:
            seed = seed.sum()  # modulo 2^64: of all the entries' seeds; the pairs follow from it and the batch row
    own = {
        "blocks": widened_rows(tensors["blocks"], size, batch),
        "lengths": folded(tensors["lengths"], dims["lengths"], size),
        "dropout_seed": seed,
    }
    return widened_text(pattern, size, batch), *({**tensors, **own}[name] for name in _registration.TENSORS)


def batch_of(t: Tensor, dim: int | None) -> int:
    return t.size(0) if dim is None else t.movedim(dim, 0).size(1)


def forward_mapped(
    run: Callable, info: Any, dims: tuple, q: Tensor, k: Tensor, v: Tensor, pattern: str, *given: Any, **settings: Any
):
    """What vmap gives (results and the dimensions that are mapped in them); `run` is what it calls for the whole."""
    check_entries(dict(zip("qkv", dims)), q=q, k=k, v=v)
    tensors, _ = _registration.named(given, {})
    dims_of, _ = _registration.named(dims[4:], {})
    more = folded_call(info, dims_of, pattern, tensors, settings, batch_of(q, dims[0]))
    qkv = [folded(t, dim, info.batch_size) for t, dim in zip((q, k, v), dims)]
    results = run(*qkv, *more, **settings)
    return tuple(unfolded(t, info.batch_size) for t in results), (0, 0)


def backward_mapped(
    run: Callable, info: Any, dims: tuple, d_out, d_lse, q, k, v, out, lse, pattern: str, *given: Any, **settings: Any
):
    if settings.get("dropout_p", 0) > 0 and dims[5] is None:
        remedy = "call grad or vjp within vmap(..., randomness='different')"
        refuse("dropout_p", "must be 0 where vmap is over the gradient alone", settings["dropout_p"], remedy)
    tensors, _ = _registration.named(given, {})
    dims_of, _ = _registration.named(dims[8:], {})
    more = folded_call(info, dims_of, pattern, tensors, settings, batch_of(q, dims[2]))
    arrays = [folded(t, dim, info.batch_size) for t, dim in zip((d_out, d_lse, q, k, v, out, lse), dims)]
    *grads, d_gates = run(*arrays, *more, **settings)
    return (*(unfolded(t, info.batch_size) for t in grads), d_gates), (0, 0, 0, None)


def refuse_forward_mode(*_: Any) -> NoReturn:
    remedy = "use grad, vjp or jacrev, or compute the attention with torch's own operators"
    refuse("attention", "can be differentiated in reverse mode only", "forward mode", remedy)


def refuse_tangents(*tensors: Tensor | None) -> None:
    """torch would take the derivative for zero in silence, as of any operator without a rule for forward mode."""
    if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        refuse_forward_mode()


class Attention(torch.autograd.Function):
    @staticmethod
    def forward(q, k, v, pattern, *tensors_and_settings):
        *tensors, settings = tensors_and_settings
        return torch.ops.longstride.attention(q, k, v, pattern, *tensors, **settings)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _registration.save(ctx, inputs[:-1], inputs[-1], output)

    @staticmethod
    def backward(ctx, d_out, d_lse):
        return *_registration.gradients(ctx, d_out, d_lse, attention_backward), None

    @staticmethod
    def vmap(info, dims, *call):
        return forward_mapped(attention, info, dims[:-1], *call[:-1], **call[-1])

    jvp = staticmethod(refuse_forward_mode)


class Gradient(torch.autograd.Function):
    """The backward of `Attention`, which torch differentiates when asked for a second derivative."""

    @staticmethod
    def forward(*call):
        return torch.ops.longstride.attention_backward(*call[:-1], **call[-1])

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    backward = staticmethod(_registration.refuse_second_derivative)

    @staticmethod
    def vmap(info, dims, *call):
        return backward_mapped(attention_backward, info, dims[:-1], *call[:-1], **call[-1])

    jvp = staticmethod(refuse_forward_mode)


def attention(*tensors: Any, **settings: Any):
    """(out, lse) under the transforms that are left; the arguments are the operator's."""
    if torch._C._are_functorch_transforms_active():
        return Attention.apply(*tensors, settings)
    return torch.ops.longstride.attention(*tensors, **settings)


def call(q: Tensor, k: Tensor, v: Tensor, *others: Any, **settings: Any):
    """`attention`, with autocast done first: the dispatcher, whose part it is otherwise, comes within the Function."""
    if q.device.type not in ("cpu", "cuda") or not torch.is_autocast_enabled(q.device.type):
        return attention(q, k, v, *others, **settings)
    with torch.autocast(q.device.type, enabled=False):
        return attention(*_registration.autocast(q, k, v), *others, **settings)


def attention_backward(*tensors: Any, **settings: Any):
    if torch._C._are_functorch_transforms_active():
        return Gradient.apply(*tensors, settings)
    return torch.ops.longstride.attention_backward(*tensors, **settings)
