"""Times of calls, in turns: on a GPU by CUDA events, elsewhere by the clock."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Call = Callable[[], object]
WARM = 3
# Cycles for which the GPU is kept busy, so that what a call costs on the host ends before the GPU begins with it: about 12 ms.
SLEEP_CYCLES = 20_000_000


# What the GPU does when a call is issued.
CLEARS = "clears"  # its L2 cache, for about 0.1 ms: so triton.testing.do_bench times, and those who compare by it
SLEEPS = "sleeps"  # until the call's share of the host is over
IDLES = "idles"  # nothing: all of the call's share of the host counts
CLEARED_BYTES = 2**28


class Behind:
    """A call that is timed behind another, as a backward behind its forward in a step of training: the GPU has that to do
    while the host issues the call."""

    def __init__(self, before: Call, call: Call):
        self.before, self.call = before, call

    def __call__(self) -> object:
        self.before()
        return self.call()


class Clock:
    def __init__(self, device: str, repeats: int):
        self.cuda, self.repeats = device == "cuda", repeats
        self.cleared = torch.empty(CLEARED_BYTES if self.cuda else 0, dtype=torch.int8, device=device)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def once_ms(self, call: Call, gpu: str = CLEARS, cycles: int = SLEEP_CYCLES) -> float:
        """Milliseconds from when the GPU is done with what it did (CLEARS, SLEEPS or IDLES) until it is done with the call."""
        self.wait()
        if isinstance(call, Behind):
            call.before()
            call = call.call
            if gpu == IDLES:
                self.wait()
        if not self.cuda:
            began = time.perf_counter()
            call()
            return (time.perf_counter() - began) * 1e3
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if gpu == SLEEPS:
            torch.cuda._sleep(cycles)
        elif gpu == CLEARS:
            self.cleared.zero_()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    def in_turns(self, calls: Mapping[str, Call], gpu: str = CLEARS) -> dict[str, list[float]]:
        """Milliseconds of each, in rounds in which each runs once; what the first calls cost (plans, compilers, memory) is
        behind them."""
        for _ in range(WARM):
            for call in calls.values():
                call()
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(self.repeats):
            for name, call in calls.items():
                times[name].append(self.once_ms(call, gpu))
        return times

    def host_us(self, call: Call, calls: int) -> float:
        """Microseconds until a call returns, of `calls` issued back to back, too few to fill the GPU's queue, behind one more
        that does not count: where the host has waited for a tenth of a second, whoever is called first takes ten times as long
        (first_call_us)."""
        self.wait()
        call()
        began = time.perf_counter()
        for _ in range(calls):
            call()
        taken = time.perf_counter() - began
        self.wait()
        return taken / calls * 1e6

    def first_call_us(self, call: Call) -> float:
        """Until the first call behind a wait for the call before returns."""
        taken = []
        for _ in range(self.repeats):
            call()
            self.wait()
            began = time.perf_counter()
            call()
            taken.append(time.perf_counter() - began)
        self.wait()
        return statistics.median(taken) * 1e6

    def host_in_turns(self, calls: Mapping[str, tuple[Call, int]]) -> dict[str, float]:
        """Medians of host_us; by name the call and how many of it in a row."""
        for call, _ in calls.values():
            for _ in range(WARM):
                call()
        found: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(self.repeats):
            for name, (call, count) in calls.items():
                found[name].append(self.host_us(call, count))
        return {name: statistics.median(times) for name, times in found.items()}
