"""Rows on their way between ranks: one all-to-all, posted before and waited for after what needs none of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._ranks import Ranks, dist


class CommError(RuntimeError):
    """An exchange between ranks has failed: a rank has ended, is late or has called something else.

    The group cannot be used again: end the process, or make another group.
    """


def gathered(what: str, ranks: Ranks, own: Tensor) -> Tensor:
    """[ranks * n] of every rank's [n], on every rank."""
    collectives = torch.ops._c10d_functional
    try:
        return collectives.wait_tensor(collectives.all_gather_into_tensor(own, ranks.size, ranks.name))
    except RuntimeError as error:
        raise failed(what, ranks, error) from error


def gathered_objects(what: str, ranks: Ranks, own: Any) -> list[Any]:
    every: list[Any] = [None] * ranks.size
    try:
        dist.all_gather_object(every, own, group=ranks.group)
    except RuntimeError as error:
        raise failed(what, ranks, error) from error
    return every


def failed(what: str, ranks: Ranks, error: BaseException) -> CommError:
    return CommError(f"{what} failed on {ranks.text()} of group '{ranks.name}': {error}")


class Posted:
    """Rows that are under way. `message` is kept until they have come."""

    def __init__(self, what: str, ranks: Ranks, message: Tensor, sent: Sequence[int], received: Sequence[int]):
        """`message` [rows, ...]: sent[i] rows go to rank i, received[i] come from it."""
        self.what, self.ranks, self.message = what, ranks, message
        try:
            self.rows = torch.ops._c10d_functional.all_to_all_single(message, received, sent, ranks.name)
        except RuntimeError as error:
            raise failed(what, ranks, error) from error

    def wait(self) -> Tensor:
        """What came, rank by rank."""
        try:
            return torch.ops._c10d_functional.wait_tensor(self.rows)
        except RuntimeError as error:
            raise failed(self.what, self.ranks, error) from error
