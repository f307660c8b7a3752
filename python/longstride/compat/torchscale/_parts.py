"""xPos and multiway parts with torchscale's names and keys."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..._refusal import dtype as dtype_name
from ..._refusal import refuse
from ...nn._positions import RANGE_LOG2, WIDE_RANGE_LOG2, XPOS_LOG2, rotate


class MultiwayNetwork(nn.Module):
    """Two modules of one kind, A for the tokens before split_position and B for those from it on; -1: A for all.

    Args:
        make: makes a module; called twice.
        dim: the dimension that is split.
    """

    def __init__(self, make: Callable[[], nn.Module], dim: int = 1):
        super().__init__()
        self.dim = dim
        self.A = make()
        self.B = make()
        self.split_position = -1  # torchscale's set_split_position sets it by this name

    def forward(self, x: Tensor) -> Tensor:
        if self.split_position == -1:
            return self.A(x)
        if self.split_position == 0:
            return self.B(x)
        first, rest = x.split([self.split_position, x.size(self.dim) - self.split_position], self.dim)
        return torch.cat([self.A(first), self.B(rest)], self.dim)


def halves(module: nn.Module) -> list[nn.Module]:
    return [module.A, module.B] if isinstance(module, MultiwayNetwork) else [module]


class XPOS(nn.Module):
    """The buffer of torchscale's xPos: what each pair of numbers is scaled by in scale_base tokens."""

    def __init__(self, head_dim: int, scale_base: float = 512):
        super().__init__()
        self.head_dim, self.scale_base = head_dim, scale_base
        pair = torch.arange(0, head_dim, 2)
        self.register_buffer("scale", (pair + 0.4 * head_dim) / (1.4 * head_dim))


def check_range(base: float, length: int, dtype: torch.dtype) -> None:
    limit = RANGE_LOG2.get(dtype, WIDE_RANGE_LOG2)
    if XPOS_LOG2 * length / (2 * base) > limit:
        refuse(
            "len",
            f"must satisfy 0.905 * len / args.xpos_scale_base <= {limit:g} in {dtype_name(dtype)}",
            f"len {length} with xpos_scale_base {base:g}",
            f"a model made with xpos_scale_base = {math.ceil(XPOS_LOG2 * length / (2 * limit))} can",
        )


def xpos_rotated(xpos: nn.Module, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """q and k [batch, len, heads, dim] at their positions, q being the last of k's.

    As in torchscale positions count from the middle of the keys, which halves the range of the scale and leaves q.k as
    it is. Angles are computed in float64, so that they are right at a million tokens.
    """
    length = k.size(1)
    check_range(xpos.scale_base, length, k.dtype)
    pairs = xpos.scale.numel()
    pair = torch.arange(pairs, dtype=torch.float64, device=k.device)
    n = (torch.arange(length, dtype=torch.float64, device=k.device) - length // 2).view(-1, 1, 1)
    angle = n * torch.pow(10000.0, pair / -pairs)
    exponent = n * (xpos.scale.to(torch.float64).log() / xpos.scale_base)
    dtype = torch.complex128 if k.dtype == torch.float64 else torch.complex64
    of_q = torch.polar(exponent.exp(), angle)[length - q.size(1) :].to(dtype)
    return rotate(q, of_q), rotate(k, torch.polar((-exponent).exp(), angle).to(dtype))
