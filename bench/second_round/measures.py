"""How a case is measured: ours and its peers in turns, and what is made of the times."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import longstride as ls
import torch
from torch import Tensor

from .peers import Missing, Side, dense, flash_dropped
from .timing import CLEARS, IDLES, SLEEPS, Behind

# What a value is; of all but the last, less is better.
UNITS = ("ms", "us", "times the peer", "times without", "times the peer's error", "TFLOP/s")
PASSES = ("forward", "backward", "both")
HOST_SHOWS_BELOW_MS = 8  # where the host's share may show, the times without it and with all of it are measured too


@dataclasses.dataclass
class Measured:
    """value is in the case's unit, as are accept and goal; peer_value is the quickest peer's in the same unit."""

    value: float | None
    peer: str = ""
    peer_value: float | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)  # peers: why


def reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = lines[0][:200] if lines else "no words"
    return words if isinstance(error, Missing) else f"{type(error).__name__}: {words}"


def ours(bench, pattern: ls.Pattern, tensors: list[Tensor], engine: str = "", **options) -> Side:
    """Our call through the package."""
    return Side(lambda q, k, v: ls.attention(q, k, v, pattern, **options), tensors, engine)


def call_of(bench, side: Side, passes: str) -> Callable[[], object]:
    """What is timed: forward without gradients, backward behind its forward, or both."""

    def on_engine(call):
        if not side.engine:
            return call

        def run():
            with ls.use_engine(side.engine):
                return call()

        return run

    if passes == "forward":

        def run():
            with torch.no_grad():
                return side.forward(*side.tensors)

        return on_engine(run)
    leaves = [x.detach().requires_grad_() for x in side.tensors]
    outs = []

    def forward():
        outs.append(side.forward(*leaves))

    on_engine(forward)()
    out = outs.pop()
    d_out = bench.numbers(out.shape, out.dtype)
    del out

    def backward():
        return torch.autograd.grad(outs.pop(), leaves, d_out)

    behind = Behind(on_engine(forward), on_engine(backward))
    return behind if passes == "backward" else behind.__call__


def ready(bench, peers: Mapping[str, Callable[[], Side]], passes: str, left_out: dict[str, str]) -> dict[str, Callable]:
    """Calls of the peers that ran once; of the others the reason."""
    calls = {}
    for name, make in peers.items():
        try:
            call = call_of(bench, make(), passes)
            call()
            bench.clock.wait()
            calls[name] = call
        except Exception as error:  # of any kind: a kernel that this torch lacks, no memory, a compiler
            left_out[name] = reason(error)
    return calls


def beside(bench, side: Callable[[], Side], peers: Mapping[str, Callable[[], Side]], passes: str, unit: str,
           flops: float = 0, extra: dict[str, Any] | None = None, gpu: str = CLEARS) -> Measured:
    """Ours in turns with all peers; the quickest of them is the peer."""
    result = Measured(None, extra=extra if extra is not None else {})
    calls = {"ours": call_of(bench, side(), passes)}
    calls["ours"]()
    calls |= ready(bench, peers, passes, result.left_out)
    try:
        times = bench.clock.in_turns(calls, gpu)
    except Exception as error:  # ours by itself has the memory that all together may not have
        result.left_out |= {name: reason(error) for name in calls if name != "ours"}
        calls = {"ours": calls["ours"]}
        times = bench.clock.in_turns(calls, gpu)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    mine = medians.pop("ours")
    quartiles = statistics.quantiles(times["ours"], n=4) if len(times["ours"]) > 1 else [mine] * 3
    result.extra |= {"ours_ms": round(mine, 4), "ours_quartiles_ms": [round(quartiles[0], 4), round(quartiles[2], 4)]}
    result.extra["peers_ms"] = {name: round(ms, 4) for name, ms in medians.items()}
    in_unit: Callable[[float], float] = lambda ms: ms  # noqa: E731
    if unit == "us":
        in_unit = lambda ms: ms * 1e3  # noqa: E731
    elif unit == "TFLOP/s":
        in_unit = lambda ms: flops / (ms * 1e9)  # noqa: E731
    if medians:
        result.peer = min(medians, key=medians.__getitem__)
        quickest = medians[result.peer]
        result.extra["peer_ms"] = round(quickest, 4)
        result.peer_value = 1.0 if unit == "times the peer" else in_unit(quickest)
        if unit == "times the peer":
            result.value = mine / quickest
    if unit != "times the peer":
        result.value = in_unit(mine)
    if gpu == CLEARS and bench.clock.cuda and mine < HOST_SHOWS_BELOW_MS:
        for state, key in ((SLEEPS, "gpu_alone_ms"), (IDLES, "from_idle_ms")):
            others = bench.clock.in_turns(calls, state)
            result.extra[key] = {name: round(statistics.median(taken), 4) for name, taken in others.items()}
    return result


def dropped(bench, passes: str) -> Measured:
    """Dropout 0.1 times the same without, of ours and of flash-attention 2 on the same segments."""
    n, p = bench.tokens(32768), 0.1
    pattern = ls.Pattern.dilated([n // 2], [1])
    tensors = bench.tensors(1, n, 16, 64, torch.bfloat16)
    seed = ls.draw_dropout_seed(torch.device(bench.device))
    calls = {
        "ours": call_of(bench, ours(bench, pattern, tensors, dropout_p=p, dropout_seed=seed), passes),
        "ours without": call_of(bench, ours(bench, pattern, tensors), passes),
    }
    name = "flash-attention 2"
    result = Measured(None)
    shape = (bench, 2, n // 2, 16, 64)
    theirs = {name: lambda: flash_dropped(*shape, p), f"{name} without": lambda: flash_dropped(*shape, 0.0)}
    calls |= ready(bench, theirs, passes, result.left_out)
    medians = {key: statistics.median(taken) for key, taken in bench.clock.in_turns(calls).items()}
    result.value = medians["ours"] / medians["ours without"]
    result.extra = {"ours_ms": round(medians["ours"], 4), "without_ms": round(medians["ours without"], 4)}
    if f"{name} without" in medians and name in medians:
        result.peer, result.peer_value = name, medians[name] / medians[f"{name} without"]
        result.extra |= {"peer_ms": round(medians[name], 4), "peer_without_ms": round(medians[f"{name} without"], 4)}
    return result


def largest_error(bench, dim: int) -> Measured:
    """Of out against the formula in float64, 16 heads one after another, beside the efficient kernel's."""
    n = bench.tokens(4096)
    tensors = bench.tensors(1, n, 16, dim, torch.float32)
    out = ls.attention(*tensors, ls.Pattern.dilated([n], [1]))
    q, k, v = (x.transpose(1, 2) for x in tensors)
    wanted = torch.empty_like(q, dtype=torch.float64)
    for h in range(q.size(1)):
        a, b, c = (x[:, h].double() for x in (q, k, v))
        wanted[:, h] = torch.softmax(a @ b.mT / dim**0.5, -1) @ c
    mine = (out.transpose(1, 2).double() - wanted).abs().max().item()
    result = Measured(None, extra={"largest_error": mine, "largest_out": wanted.abs().max().item()})
    try:
        side = dense(bench, "efficient", 1, n, 16, dim, torch.float32, False)
        theirs = (side.forward(q, k, v).double() - wanted).abs().max().item()
        result.value, result.peer, result.peer_value = mine / theirs, "efficient", 1.0
        result.extra["peer_error"] = theirs
    except Exception as error:
        result.left_out["efficient"] = reason(error)
    return result
