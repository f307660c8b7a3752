"""ALiBi (Press et al. 2022), RoPE (Su et al. 2021) and xPos (Sun et al. 2022), as src/nn/positions.cc has them: the same
numbers."""

import math

import torch
from torch import Tensor

from .._refusal import dtype as dtype_name
from .._refusal import refuse
from ._checks import require_positive

KINDS = ("none", "rope", "xpos", "alibi")
ROTARY = ("rope", "xpos")  # those that turn queries and keys, pair by pair
# log2(1.4 / 0.4): what xPos scales the first pair by in scale_base tokens; and how far that may go in a dtype, with room
# for the data.
XPOS_LOG2 = 1.81
RANGE_LOG2 = {torch.float16: 12.0}
WIDE_RANGE_LOG2 = 60.0


def alibi_slopes(heads: int, device: torch.device | str | None = None) -> Tensor:
    """The slopes of ALiBi for so many heads, float32 [heads], for `alibi_slopes` of `attention`.

    The paper's rule (arXiv 2108.12409): 2^(-8 h / heads) for head h = 1, 2, ... where heads is a power of 2; else those of
    the next lower power of 2, and of the next higher one every other, from the first, until there are enough.
    """
    require_positive("heads", heads)
    lower = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * (h + 1) / lower) for h in range(lower)]
    slopes += [2 ** (-8 * (2 * h + 1) / (2 * lower)) for h in range(heads - lower)]
    return torch.tensor(slopes, dtype=torch.float32, device=device)


def scale_base(xpos_scale_base: float, max_len: int) -> float:
    return xpos_scale_base if xpos_scale_base > 0 else max(512.0, max_len / 32)


def check_range(base: float, end: int, dtype: torch.dtype) -> None:
    limit = RANGE_LOG2.get(dtype, WIDE_RANGE_LOG2)
    if XPOS_LOG2 * end / base > limit:
        refuse(
            "len",
            f"must satisfy 1.81 * len / xpos_scale_base <= {limit:g} in {dtype_name(dtype)}",
            f"len {end} with xpos_scale_base {base:g}",
            f"xpos_scale_base = {math.ceil(XPOS_LOG2 * end / limit)} works",
        )


def rotary_factors(
    kind: str,
    position0: int,
    length: int,
    dim: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    rope_base: float,
    xpos_base: float,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Factors of q and k, of type `dtype`, for positions [position0, position0 + length): complex [length, 1, dim / 2].

    Of these only position0 + `rows`, int64 on the device, where they are given. Angles are computed in float64, so that
    they are right at a million tokens.
    """
    if kind == "xpos":
        check_range(xpos_base, position0 + length, dtype)
    pair = torch.arange(dim // 2, dtype=torch.float64, device=device)
    if rows is None:
        rows = torch.arange(length, device=device)
    n = (rows + position0).to(torch.float64).view(-1, 1, 1)
    angle = n * torch.pow(rope_base, pair * (-2.0 / dim))
    wide = torch.complex128 if dtype == torch.float64 else torch.complex64
    if kind == "rope":
        factors = torch.polar(torch.ones_like(angle), angle).to(wide)
        return factors, factors
    exponent = n * (torch.log((pair * (2.0 / dim) + 0.4) / 1.4) / xpos_base)
    return torch.polar(exponent.exp(), angle).to(wide), torch.polar((-exponent).exp(), angle).to(wide)


def rotate(x: Tensor, factors: Tensor) -> Tensor:
    """x [batch, len, heads, dim] times factors, pair by pair, in float32 at least; dtype of x."""
    wide = x if x.dtype == torch.float64 else x.float()
    pairs = torch.view_as_complex(wide.unflatten(3, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * factors).flatten(3).to(x.dtype)
