"""Where the sequences of a module lie: a value that attention modules hold, so that none has a class of its own."""

import dataclasses
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .._refusal import refuse
from ._agreement import agree, check_validate
from ._attention import check_exchange, cp_attention
from ._blocks import block_sums
from ._exchange import gathered, of_first, turn
from ._ranks import Ranks, ranks_of
from ._shards import Boundaries, boundaries_tensor, pieces_of, positions

Module = TypeVar("Module", bound=nn.Module)
LAYOUTS = ("contiguous", "zigzag")


@dataclasses.dataclass(frozen=True)
class ContextParallel:
    """Every sequence lies with the ranks of a group: each holds a shard of it.

    Args:
        group, layout, exchange, validate: as in `cp_attention`. The group is kept by its name, so that modules can be
            copied and pickled; it is looked up in every call.
    Raises:
        ValueError: a name that none of them has.
    """

    group: Any = None
    layout: str = "contiguous"
    exchange: str = "auto"
    validate: str = "first"

    def __post_init__(self):
        if self.group is not None and not isinstance(self.group, str):
            ranks = ranks_of(self.group)
            object.__setattr__(self, "group", ranks.name if ranks.group is not None else "none")
        if self.layout not in LAYOUTS:
            refuse("layout", 'must be "contiguous" or "zigzag"', repr(self.layout))
        check_exchange(self.exchange)
        check_validate(self.validate)

    @property
    def ranks(self) -> Ranks:
        return ranks_of(self.group)

    def length(self, rows: int, boundaries: Boundaries) -> int:
        """Tokens of the whole sequence of which this rank has so many."""
        return rows * self.ranks.size if boundaries is None else int(boundaries_tensor(boundaries)[-1])

    def positions(self, rows: int, boundaries: Boundaries, device: torch.device) -> Tensor:
        """Where this rank's tokens stand in it."""
        whole = rows * self.ranks.size if boundaries is None else boundaries
        return positions(whole, self.group, layout=self.layout, device=device)

    def pieces(self, rows: int, boundaries: Boundaries) -> list[list[tuple[int, int]]]:
        """Of each rank [begin, end) of its tokens, in the order of its rows."""
        whole = rows * self.ranks.size if boundaries is None else boundaries
        return pieces_of(boundaries_tensor(whole), self.layout, self.ranks.size)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, pattern: Any, **call: Any) -> tuple[Tensor, Tensor]:
        """(out, lse) of `cp_attention`."""
        own: dict[str, Any] = {"layout": self.layout, "exchange": self.exchange, "validate": self.validate}
        out, lse = cp_attention(q, k, v, pattern, self.group, **own, **call, return_lse=True)
        return out, lse

    def agree(self, what: str, call: dict[str, Any], error: Exception | None) -> None:
        """Compares what ranks are about to do; an error of one is a ValueError on all."""
        agree(what, self.ranks, call, 0, error, self.validate)

    def block_sums(self, what: str, rows: Tensor, block_size: int, pieces: list[list[tuple[int, int]]]) -> Tensor:
        """rows [rows of the shard, n] -> [blocks, n]: the sum of each block's rows of the whole sequence."""
        with turn(what, self.ranks):
            return block_sums(what, self.ranks, rows, block_size, pieces)

    def of_first(self, what: str, t: Tensor) -> Tensor:
        """The first rank's values, in a tensor that every rank has."""
        with turn(what, self.ranks):
            return of_first(what, self.ranks, t)

    def sum(self, what: str, number: int) -> int:
        """Of all ranks."""
        ranks = self.ranks
        if ranks.size == 1:
            return number
        with turn(what, ranks):
            return int(gathered(what, ranks, torch.tensor([number])).sum())


def place(
    module: Module,
    group: Any = None,
    *,
    layout: str = "contiguous",
    exchange: str = "auto",
    validate: str = "first",
) -> Module:
    """Lets the attention of a module, and of all modules in it, run over sequences that lie with the ranks of a group.

    The module takes this rank's shard from then on ([batch, rows, ...], see `shard`), with `boundaries` where shards
    are not all of one length; positions are those of the whole sequence. Weights are the same on every rank, and their
    gradients are to be summed over the group (docs/parallel.md). A config does not say where a model runs: a model that
    is loaded is placed anew. On one rank ("none", or a group of one) everything is as it was.

    Args:
        module: of longstride.nn, or one that has such modules in it.
        group, layout, exchange, validate: as in `cp_attention`.
    Returns:
        The module.
    Raises:
        ValueError: there is no attention of this package in it; names that nothing has.
    """
    placed = ContextParallel(group, layout, exchange, validate)
    ranks_of(placed.group)  # refuses a name that no group has
    found = [part for part in module.modules() if hasattr(part, "context_parallel")]
    if not found:
        refuse("module", "must have attention of longstride.nn in it", type(module).__name__)
    for part in found:
        part.context_parallel = placed
    return module
