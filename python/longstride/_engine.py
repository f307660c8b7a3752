"""use_engine(): calls on an engine of one's choice, to compare engines. The C++ use_engine(), from the same library."""

import contextlib
from collections.abc import Iterator

import torch

from ._refusal import refuse


@contextlib.contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Inside, calls of an engine's device run on it, in every thread of the process; behind, on what they did before.

        with ls.use_engine("cuda sm80"):  # the portable one, on a Hopper GPU
            out = ls.dilated_attention(q, k, v, [2048, 4096], [1, 2])

    For comparing engines: left to itself, a call takes the first of its device that can run it. A backward runs on the
    engine in use when it runs.

    Args:
        name: "cpu", "reference" (plain loops, of every dtype), "cuda sm90" or "cuda sm80"; "" for the call's own choice.
    Raises:
        ValueError: this build has no such engine. A call that the engine cannot run is a ValueError that says why.
    """
    if not isinstance(name, str):
        refuse("engine", "must be a name", name)
    before = torch.ops.longstride.use_engine(name)
    try:
        yield
    finally:
        torch.ops.longstride.use_engine(before)
