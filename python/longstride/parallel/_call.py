"""A call that the ranks of a group have agreed on, as the exchanges run it (_direct.py, _ring.py)."""

import contextlib
import dataclasses
import functools
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from .. import _registration
from ._exchange import Posted, turn
from ._ranks import Ranks
from ._shards import wide_dtype


@dataclasses.dataclass
class Call:
    """What follows q, k and v in the operators of a rank, and what the exchange is told."""

    arguments: tuple
    ranks: Ranks
    sent: list[int]  # rows that go to each rank
    received: list[int]  # and come from each
    joined: bool  # parts of a row are joined, for which 16 bits are too few
    travels: bool  # whether any rank sends any row
    steps: list[int]  # of a ring, 0 first; none: all rows travel at once
    heads: int  # so many neighbouring ranks divide the heads
    description: dict[str, Any]
    validate: str

    def turn(self, what: str) -> AbstractContextManager:
        return turn(what, self.ranks) if self.travels else contextlib.nullcontext()

    def post(self, what: str, message: Tensor, *, back: bool = False) -> Posted:
        """Rows that others need, or back to these what others give for them."""
        counts = (self.received, self.sent) if back else (self.sent, self.received)
        return Posted(what, self.ranks, message, *counts)

    def of_step(self, step: int) -> "Call":
        """The same as far as the ranks that lie so far apart go."""
        size, rank = self.ranks.size, self.ranks.rank
        after, before = (rank + step) % size, (rank - step) % size
        sent = [n if other == after else 0 for other, n in enumerate(self.sent)]
        received = [n if other == before else 0 for other, n in enumerate(self.received)]
        return dataclasses.replace(self, arguments=(*self.arguments, step), sent=sent, received=received)

    @property
    def seed(self) -> Tensor | None:
        """What dropped pairs follow from; None: none are dropped."""
        return self.option("dropout_seed") if self.option("dropout_p") > 0 else None

    def option(self, name: str) -> Any:
        return self.arguments[place_of(name)]

    def with_option(self, name: str, value: Any) -> "Call":
        at = place_of(name)
        before, after = self.arguments[:at], self.arguments[at + 1 :]
        return dataclasses.replace(self, arguments=(*before, value, *after))

    def wide(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """In the type that parts are computed in."""
        return tuple(t.to(wide_dtype(t.dtype)) if self.joined else t for t in tensors)


@functools.cache
def place_of(name: str) -> int:
    """Where an option of attention stands among the arguments of a call."""
    of_shards = ("boundaries", "layout", "ranks", "rank", "pattern")
    return (*of_shards, *_registration.TENSORS, *_registration.all_settings({})).index(name)
