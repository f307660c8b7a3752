"""Rows on their way between ranks: one all-to-all, posted before and waited for after what needs none of them."""

import contextlib
import threading
import time
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
    abort(ranks)
    return CommError(f"{what} failed on {ranks.text()} of group '{ranks.name}': {says}; the backend says: {error}")


def abort(ranks: Ranks) -> None:
    """Ends what a device waits for: a kernel of NCCL waits for a rank that has ended as long as the process lives."""
    try:
        backend = ranks.group._get_backend(torch.device("cuda"))
        if backend.name() == "nccl":
            backend.abort()
    except (RuntimeError, AttributeError):
        pass


# NCCL itself ends the process when the group's timeout has passed; what is said of the ranks must be said before.
MARGIN_S = 5.0


def patience_s(ranks: Ranks) -> float:
    """How long this process waits for work of a device before it calls the exchange failed."""
    timeout = ranks.group._get_backend(torch.device("cuda")).options._timeout.total_seconds()
    return max(timeout - MARGIN_S, timeout / 2)


def wait_on_device(work: Any, ranks: Ranks) -> None:
    """Until the exchange is over, then makes the current stream wait for it.

    The stream alone could wait as well, but nothing would be heard of a rank that has ended. What was launched before
    keeps the device busy meanwhile.
    """
    begin = time.monotonic()
    while not work.is_completed():
        waited = time.monotonic() - begin
        if waited > patience_s(ranks):
            raise RuntimeError(f"not over within {waited:.0f} s")
        time.sleep(0 if waited < 0.01 else 1e-4)
    work.wait()


def gathered(what: str, ranks: Ranks, own: Tensor) -> Tensor:
    """[ranks * n] of every rank's [n], on every rank, on the CPU."""
    collectives = torch.ops._c10d_functional
    try:
        if ranks.host.type == "cpu":
            return collectives.wait_tensor(collectives.all_gather_into_tensor(own, ranks.size, ranks.name))
        own = own.to(ranks.host)
        every = own.new_empty(ranks.size * own.numel())
        wait_on_device(dist.all_gather_into_tensor(every, own, group=ranks.group, async_op=True), ranks)
        return every.cpu()
    except RuntimeError as error:
        raise failed(what, ranks, error) from error


def of_first(what: str, ranks: Ranks, t: Tensor) -> Tensor:
    """The first rank's values, on every rank, in its own tensor of that shape and dtype."""
    try:
        work = dist.broadcast(t, group=ranks.group, group_src=0, async_op=True)
        if t.is_cuda:
            wait_on_device(work, ranks)
        else:
            work.wait()
        return t
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
    """Rows that are under way. `message` is kept until they have come.

    Rows of a device travel on a stream of the backend's own, which waits for what has been launched so far.
    """

    def __init__(self, what: str, ranks: Ranks, message: Tensor, sent: Sequence[int], received: Sequence[int]):
        """`message` [rows, ...]: sent[i] rows go to rank i, received[i] come from it."""
        self.what, self.ranks, self.message, self.work = what, ranks, message, None
        received, sent = list(received), list(sent)
        try:
            if message.is_cuda:
                self.rows = message.new_empty(sum(received), *message.shape[1:])
                parts = (received, sent, ranks.group)
                self.work = dist.all_to_all_single(self.rows, message, *parts, async_op=True)
            else:
                self.rows = torch.ops._c10d_functional.all_to_all_single(message, received, sent, ranks.name)
        except RuntimeError as error:
            raise failed(what, ranks, error) from error

    def wait(self) -> Tensor:
        """What came, rank by rank."""
        try:
            if self.work is None:
                return torch.ops._c10d_functional.wait_tensor(self.rows)
            wait_on_device(self.work, self.ranks)
            return self.rows
        except RuntimeError as error:
            raise failed(self.what, self.ranks, error) from error
