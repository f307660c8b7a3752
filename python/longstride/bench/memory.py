"""Memory that one call takes beside its inputs and results. Each is measured in a process of its own: what earlier calls
left in pools would hide what it needs."""

import ctypes
import dataclasses
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import torch

from .._engine import use_engine
from .cases import Case, Result, once, taking_part
from .flex import LeftOut
from .report import say

# Code, threads' stacks and what kernels make at their first call are there after a call of so many tokens.
WARM_TOKENS = 256


def status_bytes(name: str) -> int:
    """A line of /proc/self/status in bytes: "VmRSS", what is resident; "VmHWM", the most that was."""
    with open("/proc/self/status", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    raise OSError(f"no {name} in /proc/self/status")


class Peak:
    """The most memory in use since it was made, beside what was in use then. Raises OSError where nothing tells it."""

    def __init__(self, device: str):
        self.cuda = device == "cuda"
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return
        ctypes.CDLL(None).malloc_trim(0)  # freed memory goes back, and is not there to be used again unseen
        with open("/proc/self/clear_refs", "w", encoding="utf-8") as high_water:
            high_water.write("5")
        self.before = status_bytes("VmRSS")

    def bytes(self) -> int:
        peak = torch.cuda.max_memory_allocated() if self.cuda else status_bytes("VmHWM")
        return peak - self.before


def extra_bytes(case: Case, name: str, compiled: bool, threads: int) -> int | None:
    """Of one of PEERS or OURS, which takes part in the case; None where the system does not tell. FlexAttention's mask is not
    counted."""
    torch.set_num_threads(threads)
    with use_engine(case.engine):
        return extra_bytes_on_engine(case, name, compiled)


def extra_bytes_on_engine(case: Case, name: str, compiled: bool) -> int | None:
    def attend_of(one: Case, inputs: list[torch.Tensor]):
        return taking_part(name, one, inputs, case.length, compiled, say)[0]

    if name != "flex":  # which has run once when it takes part, in its own length: it is compiled for it
        warm = dataclasses.replace(case, length=min(case.length, WARM_TOKENS))
        try:
            once(warm, attend_of(warm, warm.inputs()), warm.inputs())
        except LeftOut:  # the official algorithm, of segments that do not divide so few tokens
            pass
    inputs = case.inputs()
    attend = attend_of(case, inputs)
    try:
        peak = Peak(case.device)
    except OSError:
        return None
    results = once(case, attend, inputs)
    return max(0, peak.bytes() - sum(t.nbytes for t in results))


def measure(result: Result, threads: int) -> None:
    """Sets extra_bytes of all that ran."""
    for run in result.runs:
        name, _, how = run.name.partition(", ")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            run.extra_bytes = process.submit(extra_bytes, result.case, name, how == "compiled", threads).result()
