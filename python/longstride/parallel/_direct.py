"""All rows that a rank needs at once, while it attends to its own; and their gradients back."""

import torch
from torch import Tensor

from ._call import Call

FORWARD, BACKWARD = "cp_attention", "cp_attention backward"


def forward(q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """(out, lse, what the backward wants: q, k, v, out, lse and the buffer of gathered keys)."""
    operators, given, posted = torch.ops.longstride, (q, k, v), None
    if call.travels:
        posted = call.post(FORWARD, operators.cp_pack(q, k, v, *call.arguments))
    q, k, v = call.wide(q, k, v)
    out, lse = operators.cp_forward_pieces(q, k, v, *call.arguments)
    received = q.new_empty(0, 2 * q.size(3)) if posted is None else posted.wait()
    keys = operators.cp_forward_gathered(received.to(q.dtype), out, lse, q, k, v, *call.arguments)
    out = out.to(given[0].dtype)
    return out, lse, (*given, out, lse, keys)


def again(q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: Call) -> tuple[Tensor, ...]:
    """What forward() gives the backward, of results that were kept without it: the rows of keys travel once more."""
    operators, received = torch.ops.longstride, q.new_empty(0, 2 * q.size(3))
    if call.travels:
        received = call.post(BACKWARD, operators.cp_pack(q, k, v, *call.arguments)).wait()
    return q, k, v, out, lse, operators.cp_keys(*call.wide(received, q, k, v), *call.arguments)


def backward(d_out: Tensor, d_lse: Tensor | None, saved: tuple[Tensor, ...], call: Call) -> tuple[Tensor, ...]:
    """(dq, dk, dv, d_gates), the last empty where the call has no gates."""
    q, k, v, out, lse, keys = saved
    operators, dtype, posted = torch.ops.longstride, q.dtype, None
    q, k, v, out, d_out = call.wide(q, k, v, out, d_out)
    results, shard = (d_out, d_lse, out, lse), (q, k, v, *call.arguments)
    d_queries, d_keys, message = operators.cp_backward_gathered(*results, keys, *shard)
    if call.travels:
        posted = call.post(BACKWARD, message, back=True)
    dq, dk, dv, d_gates = operators.cp_backward_pieces(*results, d_queries, d_keys, *shard)
    if posted is not None:
        operators.cp_add_returned(posted.wait(), dk, dv, *shard)
    return dq.to(dtype), dk.to(dtype), dv.to(dtype), d_gates
