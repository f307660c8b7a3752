"""Before ranks exchange rows they make sure that they mean the same call.

Messages of other sizes than the receiver's would end a process or leave memory unwritten, by backend; so every call is
described, and descriptions that this group has not seen are compared on all ranks. Where they differ every rank raises
the same ValueError, before a row has travelled.
"""

import dataclasses
import hashlib
import json
import weakref
from typing import Any

import torch
from torch import Tensor

from .._refusal import refuse, sentence
from ._exchange import broken, failed, gathered, gathered_objects, turn
from ._ranks import Ranks
from ._rollcall import enter, leave, others_compare

# How many descriptions of a group are kept; all are forgotten when there are more. Every rank counts alike, or one
# would ask the others what they are not about to answer.
MOST_KEPT = 4096
# Characters of a value that an error shows.
SHOWN = 100



@dataclasses.dataclass
class Agreed:
    """Of a group the calls that were agreed upon, with what came of it, and how often calls were compared."""

    calls: dict[bytes, int] = dataclasses.field(default_factory=dict)
    comparisons: int = 0


of_group: weakref.WeakKeyDictionary[Any, Agreed] = weakref.WeakKeyDictionary()


def fingerprint(t: Tensor | None) -> str | None:
    """Of a list of numbers: equal lists have equal ones."""
    if t is None:
        return None
    flat = t.detach().to("cpu", torch.int64).contiguous()
    return f"{list(t.shape)} {hashlib.sha256(flat.numpy().tobytes()).hexdigest()[:16]}"


def check_validate(validate: str) -> None:
    if validate not in ("first", "always"):
        refuse("validate", 'must be "first" or "always"', repr(validate))


def agree(what: str, ranks: Ranks, call: dict[str, Any], rows: int, error: Exception | None, validate: str) -> int:
    """The sum of `rows` over the ranks, all of which describe the call alike.

    Args:
        call: names and values of what must not differ.
        error: what this rank has found wrong with its own call: raised here, and elsewhere an error that says so. If
            the others do not come to compare their calls, as they know the description of theirs, it is raised alone,
            and this rank is done with the group.
        validate: "first": calls of one description are compared once; "always": every time.
    Raises:
        ValueError: on every rank.
    """
    call = {"call": what, **call}
    if error is not None:
        call["error"] = str(error)
    digest = hashlib.sha256(json.dumps(call, sort_keys=True).encode()).digest()
    kept = of_group.setdefault(ranks.group, Agreed())
    if validate == "first" and digest in kept.calls:
        return kept.calls[digest]
    if error is not None and (ranks.group in broken or not others_compare(ranks, kept.comparisons + 1)):
        leave(ranks, error)
        broken.setdefault(ranks.group, f"rank {ranks.rank} refused a call that the others did not compare")
        raise error
    with turn(what, ranks):
        return compare(what, ranks, call, rows, error, kept, digest)


def compare(
    what: str, ranks: Ranks, call: dict[str, Any], rows: int, error: Exception | None, kept: Agreed, digest: bytes
) -> int:
    kept.comparisons += 1
    place = f"the agreement before {what}"
    try:
        enter(ranks, kept.comparisons)
    except (RuntimeError, KeyError) as lost:
        raise failed(place, ranks, lost) from lost
    own = torch.frombuffer(bytearray(digest + rows.to_bytes(8, "little")), dtype=torch.int64)
    all_ranks = gathered(place, ranks, own).view(ranks.size, -1)
    if not bool((all_ranks[:, :4] == own[:4]).all()):
        calls = gathered_objects(place, ranks, call)
        raise error or difference(what, calls)
    if error is not None:
        raise error
    if len(kept.calls) >= MOST_KEPT:
        kept.calls.clear()
    kept.calls[digest] = int(all_ranks[:, 4].sum())
    return kept.calls[digest]


def difference(what: str, calls: list[dict[str, Any]]) -> ValueError:
    """What is wrong with the calls of the ranks: one that a rank refuses, or else all that differs."""
    for rank, call in enumerate(calls):
        if "error" in call:
            return ValueError(f"{what}: rank {rank} of {len(calls)} refuses its call: {call['error']}")
    texts = []
    for name in calls[0]:
        values = [call.get(name) for call in calls]
        if any(value != values[0] for value in values):
            texts.append(sentence(name, "must be the same on every rank", by_rank(values)))
        if name == "call" and texts:  # another one's options say nothing
            break
    return ValueError(f"{what}: " + "; ".join(texts))


def by_rank(values: list[Any]) -> str:
    """"64 on ranks 0, 1 and 128 on rank 2"."""
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value if isinstance(value, str) else json.dumps(value), []).append(rank)
    shown = shortened(list(ranks))
    parts = []
    for text, those in zip(shown, ranks.values()):
        parts.append(f"{text} on rank{'s' if len(those) > 1 else ''} {', '.join(map(str, those))}")
    return " and ".join(parts)


def shortened(texts: list[str]) -> list[str]:
    """Long texts from shortly before the place where they begin to differ."""
    if max(map(len, texts)) <= SHOWN:
        return texts
    same = 0
    while all(len(t) > same and t[same] == texts[0][same] for t in texts):
        same += 1
    begin = max(0, same - SHOWN // 2)
    end = begin + SHOWN
    return [("..." if begin else "") + t[begin:end] + ("..." if len(t) > end else "") for t in texts]
