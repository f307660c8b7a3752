"""The rows of one distance between ranks at a time: those of the next step travel while what has come is computed with.

Step s brings what the rank s before this one has for it, in a message of its own, and no more than two messages are
there at once: of the sequence a rank holds its shard and as many rows as two others send it. Nothing of the forward is
kept but its results; the backward has the rows of keys sent once more, and each step's gradients go back while the next
step's rows are computed with.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ._call import Call
from ._direct import BACKWARD, FORWARD


def rows_by_step(what: str, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Iterator[tuple[Call, Tensor]]:
    """(the call of the step, rows received) of every step, posted one step ahead."""
    first, *steps = [call.of_step(step) for step in call.steps]
    post = lambda one: one.post(what, torch.ops.longstride.cp_pack(q, k, v, *one.arguments))  # noqa: E731
    posted = post(steps[0]) if steps else None
    yield first, q.new_empty(0, 2 * q.size(3))
    for n, step in enumerate(steps):
        assert posted is not None
        received = posted.wait()
        posted = None  # its message has gone
        if n + 1 < len(steps):
            posted = post(steps[n + 1])
        yield step, received
        del received


def forward(q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """(out, lse, what the backward wants: q, k, v, out and lse)."""
    operators, wide = torch.ops.longstride, call.wide(q, k, v)
    for step, received in rows_by_step(FORWARD, q, k, v, call):
        if step.arguments[-1] == 0:
            out, lse = operators.cp_forward_pieces(*wide, *step.arguments)
        operators.cp_forward_gathered(received.to(wide[0].dtype), out, lse, *wide, *step.arguments)
        del received
    out = out.to(q.dtype)
    return out, lse, (q, k, v, out, lse)


def again(q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: Call) -> tuple[Tensor, ...]:
    return q, k, v, out, lse


def backward(d_out: Tensor, d_lse: Tensor | None, saved: tuple[Tensor, ...], call: Call) -> tuple[Tensor, ...]:
    """(dq, dk, dv, d_gates), the last empty: a ring takes no gates."""
    q, k, v, out, lse = saved
    operators, dtype = torch.ops.longstride, q.dtype
    wide, (out, d_out) = call.wide(q, k, v), call.wide(out, d_out)
    results, returned = (d_out, d_lse, out, lse), None
    for step, received in rows_by_step(BACKWARD, q, k, v, call):
        shard = (*wide, *step.arguments)
        keys = operators.cp_keys(received.to(wide[0].dtype), *shard)
        del received
        d_queries, d_keys, message = operators.cp_backward_gathered(*results, keys, *shard)
        del keys
        if step.arguments[-1] == 0:
            dq, dk, dv, d_gates = operators.cp_backward_pieces(*results, d_queries, d_keys, *shard)
            continue
        operators.cp_add_gathered(d_queries, d_keys, dq, dk, dv, *shard)
        del d_queries, d_keys
        if returned is not None:
            add_returned(returned, dk, dv, wide)
        returned = step, step.post(BACKWARD, message, back=True)
        del message
    if returned is not None:
        add_returned(returned, dk, dv, wide)
    return dq.to(dtype), dk.to(dtype), dv.to(dtype), d_gates


def add_returned(returned, dk: Tensor, dv: Tensor, wide: tuple[Tensor, ...]) -> None:
    step, posted = returned
    torch.ops.longstride.cp_add_returned(posted.wait(), dk, dv, *wide, *step.arguments)
