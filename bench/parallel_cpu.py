#!/usr/bin/env python3
"""How attention over one sequence scales over processes of one machine: Gloo, one thread a rank.

    python bench/parallel_cpu.py [--ranks 2] [--len 16k,64k] [--heads 4] [--dim 64] [--ways direct,direct:zigzag,heads(2)]

LongNet's growing configuration (segments 2048, 4096, ... to the length at rates 1, 2, ...), causal, float32, batch 1. One rank is
`attention` of the whole sequence. A way is an exchange, and behind a colon a layout. Prints a line of JSON for each case, then a
table: medians of the slowest rank's time, P T(P) / T(1), and what a rank waited for rows, where the exchange's share is seen. Give
each rank a core of its own.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]


def tokens(text: str) -> int:
    return int(text[:-1]) * 1024 if text.endswith("k") else int(text)


def work(rank: int, ranks: int, store: str, length: int, heads: int, dim: int, way: str, rounds: int) -> None:
    """One rank; the first prints what all have found."""
    sys.path.insert(0, str(ROOT / "python"))
    import torch
    import torch.distributed as dist

    import longstride as ls
    from longstride import parallel
    from longstride.parallel import _exchange

    torch.set_num_threads(1)
    exchange, _, layout = way.partition(":")
    layout = layout or "contiguous"
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    waited = 0.0
    real_wait = _exchange.Posted.wait

    def wait(posted):
        nonlocal waited
        begin = time.perf_counter()
        rows = real_wait(posted)
        waited += time.perf_counter() - begin
        return rows

    _exchange.Posted.wait = wait
    segments = [2048]
    while segments[-1] < length:
        segments.append(min(2 * segments[-1], length))
    pattern = ls.Pattern.dilated(segments, [2**n for n in range(len(segments))], causal=True)
    torch.manual_seed(rank)
    rows = length if ranks == 1 else parallel.positions(length, layout=layout).numel()
    q, k, v, d_out = (torch.randn(1, rows, heads, dim, requires_grad=n < 3) for n in range(4))

    def call():
        if ranks == 1:
            return ls.attention(q, k, v, pattern)
        return parallel.cp_attention(q, k, v, pattern, boundaries=length, layout=layout, exchange=exchange)

    found: dict[str, list[float]] = {"forward": [], "both": [], "waited": []}
    for _ in range(rounds + 1):  # the first makes the plans
        waited = 0.0
        if ranks > 1:
            dist.barrier()
        begin = time.perf_counter()
        out = call()
        forward = time.perf_counter() - begin
        out.backward(d_out)
        found["forward"].append(forward)
        found["both"].append(time.perf_counter() - begin)
        found["waited"].append(waited)
    every = [found]
    if ranks > 1:
        every = [None] * ranks
        dist.all_gather_object(every, found)
    if rank > 0:
        return
    ms = {
        key: round(statistics.median(max(one[key][n] for one in every) for n in range(1, rounds + 1)) * 1e3, 1)
        for key in found
    }
    case = {"ranks": ranks, "len": length, "heads": heads, "dim": dim, "way": way if ranks > 1 else "", "rounds": rounds}
    print(json.dumps(case | {f"{key}_ms": value for key, value in ms.items()}), flush=True)


def run(ranks: int, length: int, way: str, options: argparse.Namespace) -> dict:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryDirectory() as folder:
        command = [ranks, f"{folder}/store", length, options.heads, options.dim, way, options.rounds]
        lines = [[sys.executable, __file__, "--rank", *map(str, [rank, *command])] for rank in range(ranks)]
        processes = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) for line in lines]
        texts = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit("a rank has failed")
    print(texts[0], end="", flush=True)
    return json.loads(texts[0])


def main() -> None:
    if sys.argv[1:2] == ["--rank"]:
        rank, ranks, store, length, heads, dim, way, rounds = sys.argv[2:]
        return work(int(rank), int(ranks), store, int(length), int(heads), int(dim), way, int(rounds))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ranks", default="2", help="how many, beside one: 2,4")
    parser.add_argument("--len", default="16k,64k", help="tokens of the sequence: 16k,64k")
    parser.add_argument("--ways", default="direct,direct:zigzag", help="exchanges, each with a layout behind a colon if any")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    table = ["| N | ranks | exchange | forward, ms | forward + backward, ms | P T(P) / T(1) | waited for rows, ms |"]
    table.append("|---|---|---|---|---|---|---|")
    for length in map(tokens, options.len.split(",")):
        one = run(1, length, "none", options)
        cases = [one]
        for ranks in map(int, options.ranks.split(",")):
            cases += [run(ranks, length, way, options) for way in options.ways.split(",")]
        for case in cases:
            share = case["ranks"] * case["both_ms"] / one["both_ms"]
            table.append(
                f"| {length // 1024}k | {case['ranks']} | {case['way']} | {case['forward_ms']:.0f} | {case['both_ms']:.0f} | "
                f"{share:.3f} | {case['waited_ms']:.1f} |"
            )
    print("\n".join(table))


if __name__ == "__main__":
    main()
