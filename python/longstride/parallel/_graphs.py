"""cp_attention in compiled graphs: an operator that does there what a call outside does, comparison and exchange included.

What the forward has gathered is not kept for the backward, since its size does not follow from shapes, as that of a graph's
tensors has to: the rows of keys travel once more. So ranks have to compile alike, and compare whether they do.
"""

from typing import cast

import torch
from torch import Tensor

from .._attention import ListOptions
from .._registration import TENSORS, lse_dtype
from ._attention import agreed, way_of
from ._call import Call
from ._ranks import ranks_of

LIBRARY = torch.library.Library("longstride", "FRAGMENT")


def call_schema() -> str:
    """The arguments behind q, k and v: those of attention, and where its rows lie."""
    text = str(torch.ops.longstride.attention.default._schema)
    tensors, settings = text[text.index("str pattern") : text.rindex(") -> ")].split(", *, ")
    ways = "SymInt[]? boundaries, str group, str layout, str exchange, str validate, bool gradient"
    return f"{tensors}, Tensor? cuts=None, *, {ways}, {settings}"


def call_of(
    what: str, q, k, v, pattern, *tensors, boundaries, group, layout, exchange, validate, gradient, **settings
) -> tuple[Tensor, Tensor, Tensor, Call]:
    """(q, k, v, Call), on every rank or none."""
    *given, cuts = [*tensors, *[None] * (len(TENSORS) + 1 - len(tensors))]
    options = cast(ListOptions, {**dict(zip(TENSORS, given)), **settings})
    return agreed(
        what, q, k, v, pattern, ranks_of(group), options, boundaries=boundaries if cuts is None else cuts, layout=layout, exchange=exchange, validate=validate,
        also={"gradient": gradient, "compiled": True},
    )  # fmt: skip


def forward_kernel(q: Tensor, k: Tensor, v: Tensor, *arguments, **named):
    with torch.autocast("cpu", enabled=False):
        q, k, v, call = call_of("cp_attention", q, k, v, *arguments, **named)
        with call.turn("cp_attention"):
            out, lse, _ = way_of(call).forward(q, k, v, call)
    return out, lse


def backward_kernel(d_out: Tensor, d_lse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out, lse, *arguments, **named):
    what = "cp_attention backward"
    with torch.autocast("cpu", enabled=False):
        q, k, v, call = call_of(what, q, k, v, *arguments, **named)
        with call.turn(what):
            return way_of(call).backward(d_out, d_lse, way_of(call).again(q, k, v, out, lse, call), call)


def forward_fake(q, k, v, *arguments, **named):
    return q.new_empty(q.shape), q.new_empty((q.size(0), q.size(2), q.size(1)), dtype=lse_dtype(q))


def backward_fake(d_out, d_lse, q, k, v, out, lse, *arguments, **named):
    given = dict(zip(("pattern", *TENSORS), arguments))
    gates = given.get("gates")
    d_gates = lse.new_empty(0) if gates is None else gates.new_empty(gates.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), d_gates


def save(ctx, inputs, keyword_only_inputs, output) -> None:
    q, k, v, pattern, *tensors = inputs
    ctx.save_for_backward(q, k, v, *output, *tensors)
    ctx.pattern, ctx.named = pattern, keyword_only_inputs
    ctx.set_materialize_grads(False)


def gradients(ctx, d_out: Tensor | None, d_lse: Tensor | None):
    q, k, v, out, lse, *tensors = ctx.saved_tensors
    # Without a gradient too: other ranks may have one, and wait for this one's part.
    d_out = torch.zeros_like(out) if d_out is None else d_out
    *found, d_gates = torch.ops.longstride.cp_attention_backward(
        d_out, d_lse, q, k, v, out, lse, ctx.pattern, *tensors, **ctx.named
    )  # fmt: skip
    of_tensors = [d_gates if n == TENSORS.index("gates") and t is not None else None for n, t in enumerate(tensors)]
    return *found, None, *of_tensors


def register() -> None:
    call = call_schema()
    tags = (torch.Tag.pt2_compliant_tag,)
    results = "Tensor d_out, Tensor? d_lse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse"
    LIBRARY.define(f"cp_attention(Tensor q, Tensor k, Tensor v, {call}) -> (Tensor out, Tensor lse)", tags=tags)
    LIBRARY.define(f"cp_attention_backward({results}, {call}) -> (Tensor dq, Tensor dk, Tensor dv, Tensor d_gates)", tags=tags)
    for name, kernel, fake in (
        ("cp_attention", forward_kernel, forward_fake),
        ("cp_attention_backward", backward_kernel, backward_fake),
    ):
        LIBRARY.impl(name, kernel, "CPU")
        torch.library.register_fake(f"longstride::{name}", fake, lib=LIBRARY)
    torch.library.register_autograd("longstride::cp_attention", gradients, setup_context=save, lib=LIBRARY)
