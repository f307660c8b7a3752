"""Times of calls, in turns: on a GPU by CUDA events, elsewhere by the clock. L2 is not flushed between calls."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Call = Callable[[], object]
WARM = 3
# Cycles for which the GPU is kept busy, so that what a call costs on the host ends before the GPU begins with it: about 12 ms.
SLEEP_CYCLES = 20_000_000


class Clock:
    def __init__(self, device: str, repeats: int):
        self.cuda, self.repeats = device == "cuda", repeats

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def once_ms(self, call: Call, host_hidden: bool = False, cycles: int = SLEEP_CYCLES) -> float:
        """From an idle GPU, so that the host's share counts; with host_hidden the GPU's time alone."""
        self.wait()
        if not self.cuda:
            began = time.perf_counter()
            call()
            return (time.perf_counter() - began) * 1e3
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if host_hidden:
            torch.cuda._sleep(cycles)
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    def in_turns(self, calls: Mapping[str, Call], host_hidden: bool = False) -> dict[str, list[float]]:
        """Milliseconds of each, in rounds in which each runs once; what the first calls cost (plans, compilers, memory) is
        behind them."""
        for _ in range(WARM):
            for call in calls.values():
                call()
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(self.repeats):
            for name, call in calls.items():
                times[name].append(self.once_ms(call, host_hidden))
        return times

    def host_us(self, call: Call, calls: int) -> float:
        """Microseconds until a call returns, of `calls` issued back to back behind an idle GPU: too few to fill its queue."""
        self.wait()
        began = time.perf_counter()
        for _ in range(calls):
            call()
        taken = time.perf_counter() - began
        self.wait()
        return taken / calls * 1e6

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
