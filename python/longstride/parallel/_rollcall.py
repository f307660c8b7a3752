"""Who is there: what ranks leave word of in their group's store, for those that wait for them.

A backend says of a failed exchange that a connection was closed or a time has passed, and names no rank. The store, by
which the group was made, outlives the exchange: each rank that fails writes there what it was about, and reads who else
did. Those that did not are the ones to look for.
"""

import json
import time
from typing import Any

from ._ranks import Ranks, dist

# How long a rank that has failed waits for word of the others, which fail when it does or a little later.
ANSWER_S = 3.0
# How long a rank that refuses its own call waits for the others to come to compare theirs.
COMPANY_S = 10.0
POLL_S = 0.02


class Roll:
    """The words of a group's ranks; one of each kind is kept for each. KeyError: the group has been destroyed."""

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        self.store = dist.distributed_c10d._get_process_group_store(ranks.group)

    def write(self, kind: str, word: object) -> None:
        self.store.set(f"longstride/{kind}/{self.ranks.rank}", json.dumps(word))

    def read(self, kind: str, rank: int) -> object:
        """None: no word."""
        key = f"longstride/{kind}/{rank}"
        return json.loads(self.store.get(key)) if self.store.check([key]) else None

    def words(self, kind: str) -> dict[int, Any]:
        """Of the other ranks, those that there are."""
        others = [rank for rank in range(self.ranks.size) if rank != self.ranks.rank]
        return {rank: word for rank in others if (word := self.read(kind, rank)) is not None}


def enter(ranks: Ranks, number: int) -> None:
    """This rank is about to compare its call, the `number`th time on this group."""
    Roll(ranks).write("compares", number)


def others_compare(ranks: Ranks, number: int) -> bool:
    """Whether all others come to compare their calls as well, if this rank does."""
    end = time.monotonic() + COMPANY_S
    try:
        enter(ranks, number)
        roll = Roll(ranks)
        while time.monotonic() < end and not roll.words("failed"):
            if sum(entered >= number for entered in roll.words("compares").values()) == ranks.size - 1:
                return True
            time.sleep(POLL_S)
    except (RuntimeError, KeyError):
        pass
    return False


def leave(ranks: Ranks, error: BaseException) -> None:
    """Leaves word that this rank does not take part."""
    try:
        Roll(ranks).write("failed", f"refuses its call: {error}")
    except (RuntimeError, KeyError):
        pass  # who waits for this rank hears that it has not answered


def roll_call(ranks: Ranks, what: str) -> str:
    """After a failure: which ranks have failed too, and which have left no word."""
    try:
        roll = Roll(ranks)
        roll.write("failed", f"was at {what}")
        end = time.monotonic() + ANSWER_S
        late = False
        while not late:
            late = time.monotonic() >= end  # before the words are read: what came in time is heard
            words = roll.words("failed")
            if len(words) == ranks.size - 1:
                break
            time.sleep(POLL_S)
    except KeyError:
        return "this process has destroyed the group"
    except RuntimeError as error:
        return f"the group's store does not answer, the process that holds it may have ended ({error})"
    silent = [rank for rank in range(ranks.size) if rank != ranks.rank and rank not in words]
    parts = [f"rank {rank} {word}" for rank, word in sorted(words.items())]
    if silent:
        which = f"rank{'s' if len(silent) > 1 else ''} {', '.join(map(str, silent))}"
        parts.insert(0, f"no word from {which} within {ANSWER_S:g} s: ended, stopped, late or at something else")
    return "; ".join(parts)
