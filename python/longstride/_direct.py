"""The operator for calls outside of compiled graphs, at less host time than through torch.library's Python kernels.

Those cost about 10 us of a call without a gradient and 100 us of one with it. From here the operator's kernel is reached
below autograd at once, or through a Function of our own. The results are the same; whatever else stands between caller
and kernel (compilers, transforms, autocast, tensors of other classes) goes the general way.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _registration, _transforms

PLAIN = (Tensor, torch.nn.Parameter)
# Looked up once: by its names it costs each call a fifth of a microsecond.
FORWARD = torch.ops.longstride.attention.default


class Attention(torch.autograd.Function):
    """The gradient of _registration.py, whose save() and backward() it calls."""

    # With the context as an argument: a separate setup_context costs 40 us of inspecting signatures.
    @staticmethod
    def forward(ctx, q, k, v, pattern, *tensors_and_settings):
        *tensors, settings = tensors_and_settings
        with torch._C._AutoDispatchBelowAutograd():
            output = FORWARD(q, k, v, pattern, *tensors, **settings)
        _registration.save(ctx, (q, k, v, pattern, *tensors), settings, output)
        return output

    @staticmethod
    def backward(ctx, d_out: Tensor | None, d_lse: Tensor | None):
        if torch.is_grad_enabled():  # with create_graph: the operator says that it cannot be differentiated again
            return *_registration.backward(ctx, d_out, d_lse), None
        with torch._C._AutoDispatchBelowAutograd():
            operator = torch.ops.longstride.attention_backward.default
            return *_registration.gradients(ctx, d_out, d_lse, operator), None


def device_type(t: Tensor) -> str:
    """That of the devices that have kernels of ours, or "". Each attribute that is asked of a tensor is a tenth of a
    microsecond, a device's own three."""
    return "cuda" if t.is_cuda else "cpu" if t.is_cpu else ""


def general(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether more than a kernel and its gradient is asked for, outside of compiled graphs."""
    device = device_type(q)
    return (
        not (type(q) in PLAIN and type(k) in PLAIN and type(v) in PLAIN)
        or not device
        or torch.is_autocast_enabled(device)
        or torch._C._len_torch_dispatch_stack() > 0
        or not _registration.gradients_are_ours
    )


def attention(q: Tensor, k: Tensor, v: Tensor, pattern: str, tensors: tuple, settings: dict[str, Any]):
    """(out, lse); `tensors` in the order of _registration.TENSORS, settings those that are not at their defaults."""
    _registration.refuse_gradients(tensors)
    compiling = torch.compiler.is_compiling()
    if not compiling:
        if torch._C._are_functorch_transforms_active():
            return _transforms.call(q, k, v, pattern, *tensors, **settings)
        if forward_ad._current_level >= 0:
            _transforms.refuse_tangents(q, k, v, tensors[1])
    if compiling or general(q, k, v):
        given = {name: t for name, t in zip(_registration.TENSORS, tensors) if t is not None}
        return torch.ops.longstride.attention(q, k, v, pattern, **given, **settings)
    gates = tensors[1]
    needs_gradient = q.requires_grad or k.requires_grad or v.requires_grad or (gates is not None and gates.requires_grad)
    if needs_gradient and torch.is_grad_enabled():
        return Attention.apply(q, k, v, pattern, *tensors, settings)
    with torch._C._AutoDispatchBelowAutograd():
        return FORWARD(q, k, v, pattern, *tensors, **settings)
