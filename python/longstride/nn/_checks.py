"""Refusals that the modules share, in the words of src/nn/require.h and src/nn/layer_parts.h."""

import math
from typing import Any

import torch
from torch import Tensor

from .._refusal import dtype as dtype_name
from .._refusal import refuse, shape


def require_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(name, "must be an integer", value)
    if value <= 0:
        refuse(name, "must be positive", value)


def require_positive_finite(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        refuse(name, "must be positive and finite", value)


def require_dropout(name: str, value: float) -> None:
    if not 0 <= value < 1:
        refuse(name, "must be in [0, 1)", value)


def require_gain(name: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        refuse(name, "must be positive, or 0 for the default", value)


def autocasts(x: Tensor) -> bool:
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)  # "meta" is no type of device to autocast


def check_type(name: str, x: Tensor, weight: Tensor) -> None:
    """That x has the dtype and the device of a weight that it meets; under autocast any floating-point dtype."""
    if not x.is_floating_point() or (x.dtype != weight.dtype and not autocasts(x)):
        wanted = f"must have the module's dtype {dtype_name(weight.dtype)}"
        refuse(name, wanted, dtype_name(x.dtype), "convert one of them with to()")
    if x.device != weight.device:
        refuse(name, f"must be on the module's device {weight.device}", x.device, "move one of them with to()")


def check_input(name: str, x: Tensor, width: int, weight: Tensor) -> None:
    """That x is [batch, len, width] and fits `weight`."""
    if x.dim() != 3 or x.size(2) != width:
        refuse(name, f"must be [batch, len, {width}]", shape(x))
    check_type(name, x, weight)


def attention_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which attention of x will run."""
    if x.dtype == torch.float64 or not autocasts(x):
        return x.dtype
    return torch.get_autocast_dtype(x.device.type)
