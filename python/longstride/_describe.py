"""describe(): what a call of attention would do, without doing it. The C++ describe_attention(), from the same library."""

import dataclasses
import json

import torch
from torch import Tensor

from . import _registration
from ._attention import ListOptions, Unpack, call_of
from ._pattern import Pattern
from ._refusal import refuse


@dataclasses.dataclass(frozen=True)
class PlanReport:
    """A plan in numbers, over the batch and all query heads.

    Attributes:
        plan: the plan in words, several lines: classes of heads, their levels, tiles and runs (docs/plan.md).
        tiles: that the engine executes: the rows of one hold queries (backward: keys).
        runs: of keys (backward: queries) beside the tiles.
        pairs: (query, key) pairs that the pattern shows, each once.
        computed_pairs: pairs that the engine multiplies, masked ones included.
        bytes: that the plan takes, on the host.
    """

    plan: str
    tiles: int
    runs: int
    pairs: int
    computed_pairs: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Description:
    """What `describe` found. `str` of it is for people.

    Attributes:
        engine: that runs the call: "cpu", "reference", "cuda sm90" or "cuda sm80".
        forward, backward: their plans.
        useful_flops: of one forward, 4 x dim x pairs; a backward is 2.5 times that.
        nominal_flops: of one forward by the field's usual formula, each group on its own (include/longstride/plan.h).
    """

    engine: str
    forward: PlanReport
    backward: PlanReport
    useful_flops: float
    nominal_flops: float

    def __str__(self) -> str:
        flops = f"a forward: {self.useful_flops:.4g} useful FLOPs, {self.nominal_flops:.4g} nominal"
        return f"engine: {self.engine}\n{self.forward.plan}{self.backward.plan}{flops}"


def describe(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern | str,
    **options: "Unpack[ListOptions]",
) -> Description:
    """Which engine `attention` would take for these arguments, and its plans: tiles, runs, pairs, bytes. Nothing is run.

    Args:
        q, k, v: as in `attention`, on the CPU or a CUDA device. Their values are not read:
            `torch.empty(1, 1, 1, 64).expand(1, 1 << 20, 8, 64)` stands for a million tokens without their memory.
        pattern, **options: as in `attention`.
    Returns:
        A `Description`: print it, or read its numbers.
    Raises:
        ValueError: what `attention` raises; tensors on another device.
    """
    text, tensors, settings = call_of(pattern, **options)
    _registration.refuse_gradients(tensors)
    if q.device.type not in ("cpu", "cuda"):
        refuse("q", "must be on the CPU or a CUDA device", q.device, "a plan is made for an engine")
    with torch.no_grad():
        if torch.is_autocast_enabled(q.device.type):
            q, k, v = _registration.autocast(q, k, v)
        found = json.loads(torch.ops.longstride.describe(q, k, v, text, *tensors, **settings))
    return Description(
        found["engine"],
        PlanReport(**found["forward"]),
        PlanReport(**found["backward"]),
        found["useful_flops"],
        found["nominal_flops"],
    )
