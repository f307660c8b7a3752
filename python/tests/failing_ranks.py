"""What each process of test_parallel_failures.py does: exchanges in which a rank ends, stops or errs.

python failing_ranks.py RANK FOLDER SCENARIO RANKS: writes FOLDER/RANK.pt, what was raised, step by step.
"""

import math
import os
import pathlib
import signal
import sys
import threading
import time
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import conftest  # noqa: E402, F401: where the package is
from support import inputs  # noqa: E402

from longstride import Pattern, parallel  # noqa: E402
from longstride.parallel import _exchange, _rollcall  # noqa: E402
from longstride.parallel._ranks import ranks_of  # noqa: E402

PATTERN = Pattern.dilated([4, 64], [1, 2], causal=True)


def call(group=None, length=8, **options):
    q, k, v = inputs(length=length, grad=True)
    return parallel.cp_attention(q, k, v, PATTERN, group, **options)


def raised(step):
    """What a step raises: its type, its text and the seconds that it took."""
    began = time.monotonic()
    try:
        step()
    except Exception as error:
        return type(error).__name__, str(error), time.monotonic() - began
    return None, "", time.monotonic() - began


def at_exchange(do):
    """Calls `do` in place of the next exchange."""
    real = _exchange.Posted.__init__

    def instead(*arguments):
        _exchange.Posted.__init__ = real
        do()
        real(*arguments)

    _exchange.Posted.__init__ = instead


class Clock:
    """Time as a rank that has failed keeps it while it waits for word of others: it stands still until the event, and then
    all of it has passed."""

    def __init__(self, event=lambda: True):
        self.event = event

    def monotonic(self):
        return math.inf if self.event() else 0.0

    sleep = staticmethod(time.sleep)


def words_of(*ranks):
    """Until these ranks have left word that they have failed."""
    group = ranks_of(None)
    return Clock(lambda: set(ranks) <= set(_rollcall.Roll(group).words("failed")))


def killed(rank, ranks):
    """Rank 1 ends at the exchange of its second call."""
    call()
    _rollcall.time = words_of(2 - rank)
    if rank == 1:
        at_exchange(lambda: os.kill(os.getpid(), signal.SIGKILL))
    return [raised(call), raised(call), raised(lambda: parallel.unshard(torch.zeros(1, 2)))]


def killed_in_backward(rank, ranks):
    out = call()
    _rollcall.time = Clock()
    if rank == 1:
        at_exchange(lambda: os.kill(os.getpid(), signal.SIGKILL))
    return [raised(lambda: out.sum().backward())]


def stopped(rank, ranks):
    """Rank 1 stops at an exchange until the test lets it go on, when the group's timeout has ended rank 0."""
    call()
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=3), dist.group.WORLD)
    _rollcall.time = Clock()
    if rank == 1:
        at_exchange(lambda: os.kill(os.getpid(), signal.SIGSTOP))
    return [raised(call)]


def ended(rank, ranks):
    """Rank 1 refuses a call that the others know, and ends with its own error."""
    call()
    if rank == 1:
        _rollcall.time = Clock()  # rank 0 knows the call, and never comes to compare it
        call(lengths=[3, 4, 5])
    return [raised(call)]


def together(rank, ranks):
    """What two ranks raise without losing each other: each on a group of its own."""
    found = {}
    # Two threads at one group: the second is refused while the first is at its exchange.
    group = dist.new_group()
    call(group)
    others = []
    if rank == 0:
        def from_another_thread():
            thread = threading.Thread(target=lambda: others.append(raised(lambda: call(group))))
            thread.start()
            thread.join()

        at_exchange(from_another_thread)
    found["threads"] = [raised(lambda: call(group)), *others]

    # One rank is at the backward, the other at the next forward.
    group = dist.new_group()
    out = call(group, validate="always")
    step = out.sum().backward if rank == 0 else lambda: call(group, validate="always")
    found["order"] = [raised(step)]

    # The group has gone before the backward.
    group = dist.new_group()
    out = call(group)
    dist.barrier()
    dist.destroy_process_group(group)
    found["destroyed"] = [raised(out.sum().backward), raised(lambda: call(group))]

    # A rank that is late by more than the group's timeout: it comes when the other has failed.
    group = dist.new_group()
    dist.barrier()  # who fails closes its connections, also those that the other is still about to make
    dist.distributed_c10d._set_pg_timeout(timedelta(milliseconds=1), group)
    _rollcall.time = Clock()
    store = dist.distributed_c10d._get_default_store()
    if rank == 1:
        store.wait(["rank 0 has failed"], timedelta(minutes=9))
    found["timeout"] = [raised(lambda: call(group))]
    if rank == 0:
        store.set("rank 0 has failed", "")

    _rollcall.time = Clock(lambda: False)  # who refuses a call waits for the other, however late it is
    q = torch.zeros(1, 4, 2, 8, device="meta")
    found["device"] = [raised(lambda: parallel.cp_attention(q, q, q, PATTERN))]
    found["values"] = not_a_number(rank, ranks)
    return found


def not_a_number(rank, ranks):
    """Rows of out that a key of NaN on rank 1 reaches, in the pattern's own sequence of 16."""
    q, k, v = inputs(length=8)
    if rank == 0:
        k[0, 5, 1] = torch.nan
    out = parallel.cp_attention(q, k, v, PATTERN)
    return out.isnan().any(-1)


def main(rank, folder, scenario, ranks):
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks, timeout=timedelta(minutes=9))
    found = globals()[scenario](rank, ranks)
    torch.save(found, pathlib.Path(folder) / f"{rank}.pt")


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # torch's threads of a broken group may abort an orderly end
