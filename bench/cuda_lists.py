#!/usr/bin/env python3
"""Times attention over a list of blocks on a GPU: the list there, planned in every call, and the same list on the host, whose
plan is kept; then a step of training of a module with learned blocks. 8 heads, bfloat16, as many blocks in every row, the
best of random scores. One line of JSON a case: [median, least, most] by CUDA events in ms, and what a forward costs on the
host in microseconds. Run by hand, with a library built for CUDA (LONGSTRIDE_LIBRARY).

usage: cuda_lists.py [REPEATS]
"""

import json
import statistics
import sys
import time

import torch

import longstride as ls

HEADS = 8
CASES = [  # len, dim, block size, blocks a row, causal
    (32768, 128, 128, 53, False),
    (32768, 128, 128, 53, True),
    (32768, 64, 64, 51, False),
    (131072, 128, 128, 64, False),
    (4096, 128, 128, 8, False),
]


def timed(call, repeats):
    for _ in range(3):
        call()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        torch.cuda._sleep(3_000_000)  # the host is ahead, unless it takes longer than the device
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return [round(number, 3) for number in (statistics.median(times), min(times), max(times))]


def on_the_host(call, repeats):
    """Microseconds until a call returns, the GPU idle before it."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1e6)
    return round(statistics.median(times), 1)


def chosen(blocks, of_row, causal):
    scores = torch.rand(HEADS, blocks, blocks, device="cuda")
    if causal:
        scores = scores.tril() + torch.eye(blocks, device="cuda")
    keys = scores.topk(of_row, dim=2).indices
    heads = torch.arange(HEADS, device="cuda")[:, None, None].expand_as(keys)
    queries = torch.arange(blocks, device="cuda")[None, :, None].expand_as(keys)
    return torch.stack((torch.zeros_like(keys), heads, queries, keys), 3).reshape(-1, 4).int()


def report(**fields):
    print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__, **fields}), flush=True)


def run(length, dim, size, of_row, causal, repeats):
    q, k, v = (torch.randn(1, length, HEADS, dim, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    pattern = ls.Pattern.block_sparse("list", size, causal=causal)
    rows = chosen(length // size, of_row, causal)
    gates = torch.ones(len(rows), device="cuda", requires_grad=True)

    def forward(blocks):
        with torch.no_grad():
            return ls.attention(q, k, v, pattern, blocks=blocks)

    def both(blocks, **gated):
        out = ls.attention(q, k, v, pattern, blocks=blocks, **gated)
        torch.autograd.grad(out, (q, k, v, *gated.values()), out)

    host = rows.cpu()
    forward(host)
    torch.cuda.synchronize()
    began = time.perf_counter()
    forward(chosen(length // size, of_row, causal).cpu())
    torch.cuda.synchronize()
    anew = (time.perf_counter() - began) * 1e3
    report(
        case=f"lists_n{length}_d{dim}_blocks{size}{'_causal' if causal else ''}",
        rows=len(rows),
        forward_ms=timed(lambda: forward(rows), repeats),
        forward_host_us=on_the_host(lambda: forward(rows), repeats),
        forward_kept_ms=timed(lambda: forward(host), repeats),
        forward_anew_ms=round(anew, 1),
        both_ms=timed(lambda: both(rows), repeats),
        both_kept_ms=timed(lambda: both(host), repeats),
        both_gates_ms=timed(lambda: both(rows, gates=gates), repeats),
    )


def run_learned(repeats):
    module = ls.nn.MultiheadDilatedAttention(1024, HEADS, learned={"block_size": 128, "density": 0.2}).cuda()
    x = torch.randn(1, 32768, 1024, device="cuda")

    def step():
        module.zero_grad()
        choices = []
        with torch.autocast("cuda", dtype=torch.bfloat16):
            out, _ = module(x, choices=choices)
        (out.float().square().mean() + choices[0].density_loss).backward()
        return len(choices[0].blocks)

    report(case="learned_n32768_d128_blocks128", rows=step(), step_ms=timed(step, repeats))


if __name__ == "__main__":
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    for case in CASES:
        run(*case, turns)
    run_learned(turns)
