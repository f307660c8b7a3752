"""Rows on their way between ranks: one all-to-all, posted before and waited for after what needs none of them."""

import contextlib
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ._ranks import Ranks, dist
from ._rollcall import roll_call


class CommError(RuntimeError):
    """An exchange between ranks has failed: a rank has ended, is late or has called something else.

    Its text names the ranks that left no word. The group cannot be used again: end the process, or make another group.
    """


# Of each group what failed first, and the lock of whoever is at it.
broken: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
locks: weakref.WeakKeyDictionary[Any, threading.Lock] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def turn(what: str, ranks: Ranks) -> Iterator[None]:
    """Around all of a call that exchanges: nothing else may use the group meanwhile, nor may a broken one be used."""
    place = f"{what} on {ranks.text()} of group '{ranks.name}'"
    if ranks.group in broken:
        raise CommError(f"{place}: the group is broken since {broken[ranks.group]}")
    lock = locks.setdefault(ranks.group, threading.Lock())
    if not lock.acquire(blocking=False):
        remedy = "let one thread call, or give each a group of its own"
        raise CommError(f"{place}: another thread is at an exchange of this group; {remedy}")
    try:
        yield
    finally:
        lock.release()


def failed(what: str, ranks: Ranks, error: BaseException) -> CommError:
    """Marks the group as broken."""
    broken.setdefault(ranks.group, f"{what} failed")
    says = roll_call(ranks, what)
    return CommError(f"{what} failed on {ranks.text()} of group '{ranks.name}': {says}; the backend says: {error}")


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
