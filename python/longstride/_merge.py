"""Merges results over disjoint parts of the keys, adds sinks to them, and draws dropout seeds."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._refusal import dtype as dtype_name
from ._refusal import refuse, shape
from ._registration import DTYPES, lse_dtype


def check(parts: Sequence[tuple[Tensor, Tensor]]) -> None:
    if len(parts) == 0:
        refuse("parts", "must have at least one result", "none")
    for i, part in enumerate(parts):
        name = f"parts[{i}]"
        if not (isinstance(part, (tuple, list)) and len(part) == 2 and all(isinstance(t, Tensor) for t in part)):
            refuse(name, "must have out and lse", type(part).__name__, "attention gives them with return_lse=True")
        out, lse = part
        first_out, first_lse = parts[0]
        if out.dim() != 4:
            refuse(f"{name}.out", "must have the 4 dimensions [batch, len_q, heads, dim]", shape(out))
        rows = [out.size(0), out.size(2), out.size(1)]
        if list(lse.shape) != rows:
            refuse(f"{name}.lse", f"must be [batch, heads, len_q] of its out, shape {rows}", shape(lse))
        if i == 0 and out.dtype not in DTYPES:
            refuse(f"{name}.out", "must be float32, bfloat16, float16 or float64", dtype_name(out.dtype))
        if i == 0 and lse.dtype != lse_dtype(out):
            wanted = f"must be {dtype_name(lse_dtype(out))}, as attention() gives it with this out"
            refuse(f"{name}.lse", wanted, dtype_name(lse.dtype))
        if out.shape != first_out.shape:
            refuse(f"{name}.out", f"must have the shape of the first part, {shape(first_out)}", shape(out))
        if (out.dtype, lse.dtype) != (first_out.dtype, first_lse.dtype):
            refuse(
                name,
                f"must have the dtypes of the first part, {dtype_name(first_out.dtype)} and "
                f"{dtype_name(first_lse.dtype)}",
                f"{dtype_name(out.dtype)} and {dtype_name(lse.dtype)}",
            )
        if not (out.device == lse.device == first_out.device):
            refuse(
                name, f"must be on the device of the first part, {first_out.device}", f"{out.device} and {lse.device}"
            )


def merge(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Attention over the union of disjoint sets of keys, from the results over each.

    lse = ln sum_i e^lse_i, out = sum_i e^(lse_i - lse) out_i (docs/semantics.md, 6), in float32 (float64 for float64
    parts): as if computed at once. Written in torch's operators, so differentiable any number of times in every out and
    lse. A row that sees nothing in any part has out = 0, lse = -inf and no gradient.

    Args:
        parts: at least one (out, lse), as `attention` gives them with return_lse=True: out [batch, len_q, heads, dim],
            lse [batch, heads, len_q]; equal shapes, dtypes and devices.
    Returns:
        (out, lse), of the same shapes and dtypes.
    Raises:
        ValueError: no parts, or parts that do not fit together.
    """
    check(parts)
    lses = torch.stack([lse for _, lse in parts])  # [parts, batch, heads, len_q]
    largest = lses.detach().amax(0)  # a shift that cancels: no gradient goes through it
    nothing = largest == -torch.inf  # rows that see nothing anywhere
    shift = largest.masked_fill(nothing, 0)  # -inf - -inf would be NaN
    shares = (lses - shift).exp()  # in [0, 1], the largest 1
    # ln 0 and 1 / 0 are kept out of the gradient too: these rows get the constant in their place.
    total = shares.sum(0).masked_fill(nothing, 1)
    weights = (shares / total).transpose(2, 3).unsqueeze(-1)  # [parts, batch, len_q, heads, 1]
    out = sum(part.to(lses.dtype) * weight for (part, _), weight in zip(parts, weights))
    return out.to(parts[0][0].dtype), (total.log() + shift).masked_fill(nothing, -torch.inf)


def check_sink(out: Tensor, lse: Tensor, sink: Tensor) -> None:
    if not isinstance(sink, Tensor) or not sink.is_floating_point():
        got = dtype_name(sink.dtype) if isinstance(sink, Tensor) else type(sink).__name__
        refuse("sink", "must be a floating-point tensor", got)
    wanted = [lse.shape[1:2], lse.shape[:2], lse.shape]
    if sink.shape not in wanted:
        shapes = ", ".join(str(list(one)) for one in wanted)
        refuse("sink", f"must be [heads], [batch, heads] or [batch, heads, len_q], one of {shapes}", shape(sink))
    if sink.device != out.device:
        refuse("sink", f"must be on the device of out, {out.device}", sink.device, "move it with to()")


def with_sink(out: Tensor, lse: Tensor, sink: Tensor) -> tuple[Tensor, Tensor]:
    """A result as if every query saw one key more, of value 0 and logit `sink`: attention sinks as GPT-OSS has them.

    out * sigmoid(lse - sink), ln(e^lse + e^sink): `merge` with out = 0, lse = sink (docs/semantics.md, 6), in float32
    (float64 for float64 results). Differentiable any number of times in out, lse and sink.

    Args:
        out, lse: as `attention` gives them with return_lse=True: [batch, len_q, heads, dim] and [batch, heads, len_q].
        sink: natural logarithm of the weight, like q.k times the scale: [heads], [batch, heads] or [batch, heads, len_q],
            of any floating-point dtype. -inf: no sink.
    Returns:
        (out, lse), of the same shapes and dtypes. A query that sees no key has out = 0, lse = sink.
    Raises:
        ValueError: a result or a sink whose shapes, dtypes or devices do not fit.
    """
    check([(out, lse)])
    check_sink(out, lse, sink)
    logit = sink.to(lse.dtype)
    logit = logit[..., None] if sink.dim() < 3 else logit  # [(batch,) heads, 1 or len_q]
    nothing = (lse == -torch.inf) & (logit == -torch.inf)
    # Rows without a key and a sink are kept out of the gradient, which is NaN there.
    total = torch.logaddexp(lse.masked_fill(nothing, 0), logit.masked_fill(nothing, 0))
    share = (lse - total).exp().transpose(1, 2).unsqueeze(-1)  # [batch, len_q, heads, 1]
    return (out.to(lse.dtype) * share).to(out.dtype), total.masked_fill(nothing, -torch.inf)


def draw_dropout_seed(device: torch.device | str | int) -> Tensor:
    """One int64 on `device`, drawn from torch's default generator of that device: what `dropout_seed` wants."""
    return torch.randint(2**63 - 1, (), dtype=torch.int64, device=device)
