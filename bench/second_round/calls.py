"""What a call costs beside its kernels: on the host, at a position or with documents not planned before, with a list of blocks
chosen anew."""

import itertools
import statistics
import time

import longstride as ls
import torch
import torch.nn.functional as F
from torch import Tensor

from .bench import RATES
from .measures import Measured, beside, call_of, ours
from .peers import dense, nested
from .timing import IDLES, SLEEP_CYCLES, SLEEPS

CALLS = 16  # in a row: a GPU's queue holds far more
STEPS = 192  # of a decoding step: 3 tokens apart they leave the 512 that share plans, so that some of each row are planned
DENSE_MULTIPLIES = 2**34  # pairs that a row of dense calls may compute, so that its measurement ends


def longnet(bench, causal: bool = True) -> ls.Pattern:
    return ls.Pattern.dilated(bench.segments(), RATES, causal=causal)


def warm_call(bench, n: int) -> Measured:
    """Host microseconds of a warm forward, H16 D64 bfloat16 causal. SDPA has one head at long lengths, and fewer calls in a row, so
    that it ends: its cost on the host does not depend on its heads. `first_us`: of a call behind one that was waited for."""
    n = bench.tokens(n)
    pattern = longnet(bench)
    mine = call_of(bench, ours(bench, pattern, bench.tensors(1, n, 16, 64, torch.bfloat16)), "forward")
    heads = 16 if n <= 8192 else 1
    count = max(1, min(CALLS, DENSE_MULTIPLIES // (heads * n * n)))
    theirs = call_of(bench, dense(bench, "sdpa", 1, n, heads, 64, torch.bfloat16, True), "forward")
    medians = bench.clock.host_in_turns({"ours": (mine, CALLS), "sdpa": (theirs, count)})
    extra = {"peer_heads": heads, "peer_calls": count, "ours_calls": CALLS}
    extra |= {f"{name}_first_us": round(bench.clock.first_call_us(call), 1) for name, call in (("ours", mine), ("peer", theirs))}
    return Measured(medians["ours"], "SDPA", medians["sdpa"], extra)


def back_to_back(bench) -> Measured:
    """2,048-token forwards one behind the other, times what the GPU takes for them when they wait in its queue."""
    n, count = bench.tokens(2048), 50
    pattern = longnet(bench)
    call = call_of(bench, ours(bench, pattern, bench.tensors(1, n, 16, 64, torch.bfloat16)), "forward")

    def many():
        for _ in range(count):
            call()

    times = bench.clock.in_turns({"ours": many}, IDLES)["ours"]
    hidden = [bench.clock.once_ms(many, gpu=SLEEPS, cycles=4 * SLEEP_CYCLES) for _ in times]
    issued, kernels = statistics.median(times) / count, statistics.median(hidden) / count
    return Measured(issued / kernels, extra={"ours_ms": round(issued, 4), "kernels_ms": round(kernels, 4)})


def decoding(bench, keys: int) -> Measured:
    """One query at the end, LongNet causal, D128, the GPU's time alone; dense: all keys."""
    n = bench.tokens(keys)
    q, k, v = bench.tensors(1, n, 16, 128, torch.bfloat16)
    one = q[:, -1:]
    pattern = longnet(bench)

    def sdpa():
        side = dense(bench, "sdpa", 1, 16, 16, 128, torch.bfloat16, False)
        side.tensors = [x.transpose(1, 2) for x in (one, k, v)]
        return side

    mine = lambda: ours(bench, pattern, [one, k, v], query_start=n - 1)  # noqa: E731
    return beside(bench, mine, {"SDPA": sdpa}, "forward", "us", gpu=SLEEPS)


def unplanned_position(bench) -> Measured:
    """Host microseconds of a query whose position was not planned before, 131,072 keys: of positions 3 apart, of which most are
    served by a plan of one before. `planned_us`: of positions so far apart that every one is planned."""
    n = bench.tokens(131072)
    q, k, v = bench.tensors(1, n, 16, 128, torch.bfloat16)
    pattern = longnet(bench)

    def steps(apart):
        positions = itertools.cycle(range(n - 1, 0, -apart))
        return lambda: ls.attention(q[:, -1:], k, v, pattern, query_start=next(positions))

    dense_step = lambda: F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q[:, -1:], k, v)))  # noqa: E731
    with torch.no_grad():
        far = bench.clock.host_in_turns({"planned": (steps(bench.part(512) + 1), CALLS)})["planned"]
        medians = bench.clock.host_in_turns({"ours": (steps(3), STEPS), "sdpa": (dense_step, CALLS)})
    return Measured(medians["ours"], "SDPA", medians["sdpa"], {"planned_us": round(far, 1)})


def chosen_blocks(bench, blocks: int, rows: int, heads: int) -> Tensor:
    """int32 [rows, 4] on the device: as many key blocks for each head and query block, drawn at random."""
    ranks = torch.rand(heads, blocks, blocks, device=bench.device).argsort(-1).argsort(-1)
    each, more = divmod(rows, heads * blocks)
    limit = torch.full((heads * blocks,), each, device=bench.device)
    limit[:more] += 1
    head, query, key = (ranks < limit.view(heads, blocks, 1)).nonzero(as_tuple=True)
    return torch.stack([torch.full_like(head, -1), head, query, key], 1).int()


def lists_chosen_anew(bench) -> Measured:
    """108,000 blocks of 128 at 32k: a call with a list that no call had before, less the kernel, whose plan is there.
    `returned_us`: when the call returned while the GPU was busy for `busy_us`; behind that, it waited."""
    n, size = bench.tokens(32768), max(4, bench.part(128))
    count = n // size
    rows = min(108_000, 16 * count * count // 2)
    tensors = bench.tensors(1, n, 16, 128, torch.bfloat16)
    pattern = ls.Pattern.block_sparse("list", size)
    clock = bench.clock

    def with_list(chosen):
        with torch.no_grad():
            return ls.attention(*tensors, pattern, blocks=chosen)

    lists = [chosen_blocks(bench, count, rows, 16) for _ in range(clock.repeats + 3)]
    for chosen in lists[:3]:
        with_list(chosen)
    anew = [clock.once_ms(lambda chosen=chosen: with_list(chosen), IDLES) for chosen in lists[3:]]
    of_host = lists[0].cpu()  # a plan that is kept by its list; behind the sleep its host's share is hidden
    with_list(of_host)
    busy = 20 * SLEEP_CYCLES
    kernel = [clock.once_ms(lambda: with_list(of_host), gpu=SLEEPS, cycles=busy) for _ in range(clock.repeats)]
    added = statistics.median(anew) - statistics.median(kernel)
    extra = {"ours_ms": round(statistics.median(anew), 4), "kernel_ms": round(statistics.median(kernel), 4), "rows": rows}
    if clock.cuda:
        busy_ms = clock.once_ms(lambda: torch.cuda._sleep(busy), IDLES)
        fresh = chosen_blocks(bench, count, rows, 16)
        clock.wait()
        torch.cuda._sleep(busy)
        returned = clock_us(lambda: with_list(fresh))
        clock.wait()
        extra |= {"returned_us": round(returned, 1), "busy_us": round(busy_ms * 1e3, 1), "waits": returned > busy_ms * 500}
    return Measured(added, extra=extra)


def clock_us(call) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e6


def document_starts(bench, seed: int | None) -> list[int]:
    """64 documents in 65,536 tokens; of lengths that differ, or, without a seed, of 1,024 each."""
    n = bench.tokens(65536)
    if seed is None:
        return list(range(0, n + 1, max(1, n // 64)))
    generator = torch.Generator().manual_seed(seed)
    cuts = torch.randperm(n - 1, generator=generator)[: min(63, n // 2)] + 1
    return [0, *sorted(cuts.tolist()), n]


def packed(bench, seed: int | None) -> Measured:
    """Packed documents, causal forward, H16 D128, the plan warm."""
    starts = document_starts(bench, seed)
    n = starts[-1]
    pattern = ls.Pattern.dilated([n], [1], causal=True)
    tensors = bench.tensors(1, n, 16, 128, torch.bfloat16)
    peers = {"nested SDPA": lambda: nested(bench, starts, 16, 128)}
    pairs = sum((end - begin) ** 2 for begin, end in itertools.pairwise(starts)) / 2
    mine = lambda: ours(bench, pattern, tensors, cu_seqlens=starts)  # noqa: E731
    return beside(bench, mine, peers, "forward", "ms", extra={"million_pairs": round(pairs / 1e6, 2)})


def packed_anew(bench) -> Measured:
    """Host microseconds of a forward whose documents were not planned before."""
    lists = itertools.cycle([document_starts(bench, seed) for seed in range(2, 2 + 4 * (bench.clock.repeats + 3))])
    n = bench.tokens(65536)
    pattern = ls.Pattern.dilated([n], [1], causal=True)
    q, k, v = bench.tensors(1, n, 16, 128, torch.bfloat16)
    with torch.no_grad():
        call = lambda: ls.attention(q, k, v, pattern, cu_seqlens=next(lists))  # noqa: E731
        medians = bench.clock.host_in_turns({"ours": (call, 4)})
    return Measured(medians["ours"])
