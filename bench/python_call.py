#!/usr/bin/env python3
"""What the Python route costs on the host: calls of 256 tokens beside the C++ route's, and decoding steps beside SDPA's.

    python bench/python_call.py [--cpp build/bench/op_call_bench] [--rounds 4]

Calls: op_call_bench (bench/op_call_bench.cc) and the same calls from Python, one thread, as two processes in turns, so that a busy
machine disturbs both alike; the least time of all rounds counts. Decoding: a step of a language model of 12 layers at batch 1,
and of the same model with scaled_dot_product_attention over its caches in place of longstride's attention; in turns, step by
step, in microseconds a layer.
"""

import argparse
import pathlib
import re
import statistics
import subprocess
import sys
import time

import torch

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "python"))
import longstride as ls  # noqa: E402

CALLS = 20
LAYERS = 12


def least_us(call, rounds: int) -> float:
    """Microseconds a call, of the least of the rounds, as op_call_bench counts."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(CALLS):
            call()
        times.append((time.perf_counter() - begin) / CALLS)
    return min(times) * 1e6


def of_python(rounds: int) -> dict[str, float]:
    q, k, v = (torch.randn(1, 256, 1, 8) for _ in range(3))
    a, b, c = (t.clone().requires_grad_() for t in (q, k, v))
    d_out = torch.ones_like(q)
    pattern = ls.Pattern.dilated([64, 256], [1, 4], causal=True)
    found = {}
    for words, options in (("", {}), (", documents", {"cu_seqlens": [0, 100, 100, 256]})):

        def without_grad():
            with torch.no_grad():
                ls.attention(q, k, v, pattern, **options)

        def both():
            torch.autograd.grad([ls.attention(a, b, c, pattern, **options)], [a, b, c], [d_out])

        found[f"forward without grad{words}"] = least_us(without_grad, rounds)
        found[f"forward with grad{words}"] = least_us(lambda: ls.attention(a, b, c, pattern, **options), rounds)
        found[f"forward and backward{words}"] = least_us(both, rounds)
    return found


def of_cpp(program: str, rounds: int) -> dict[str, float]:
    done = subprocess.run([program, str(rounds), str(CALLS)], capture_output=True, text=True, check=True)
    return {name.strip(): float(us) for name, us in re.findall(r"^(forward.*?) +([\d.]+) +[\d.]+$", done.stdout, re.M)}


def calls(program: str, turns: int) -> None:
    ours: dict[str, float] = {}
    theirs: dict[str, float] = {}
    for _ in range(turns):
        for kept, found in ((theirs, of_cpp(program, 100)), (ours, of_python(100))):
            for name, us in found.items():
                kept[name] = min(us, kept.get(name, us))
    print(f"us a call of 256 tokens, 1 head, dim 8, least of {turns} turns of 100 rounds    C++  Python  ratio")
    for name, us in theirs.items():
        print(f"  {name:66} {us:6.1f}  {ours[name]:6.1f}  {ours[name] / us:5.2f}")


def with_sdpa(module) -> None:
    """Attention over the cache by torch's own, of one query: what this module computes where a segment holds everything."""

    def forward(q, k, v, **call):
        out = torch.nn.functional.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
        return out.transpose(1, 2), None

    module.forward = forward


@torch.no_grad()
def decoding(tokens: int, steps: int) -> None:
    options = {"dim": 256, "layers": LAYERS, "heads": 8, "segment_lengths": [1 << 20], "dilation_rates": [1]}
    torch.manual_seed(1)
    models = [ls.nn.LongNetLM(**options).eval() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for layer in models[1].layers:
        with_sdpa(layer.attention.attention)
    states = [model.start_decoding(1, tokens + steps + 1) for model in models]
    models[0].decode(torch.randint(256, (1, tokens)), states[0])
    for cache, filled in zip(states[1].layers, states[0].layers):  # with_sdpa() is right for one query at a time
        cache.k.copy_(filled.k)
        cache.v.copy_(filled.v)
    states[1].length = tokens
    # Of this thread alone, which does everything: what others do on the machine does not count.
    whole: list[list[float]] = [[], []]
    attention: list[list[float]] = [[], []]
    for _ in range(steps):
        token, logits = torch.randint(256, (1, 1)), []
        for model, state, all_of_it, of_attention in zip(models, states, whole, attention):
            begin = time.thread_time()
            logits.append(model.decode(token, state))
            all_of_it.append((time.thread_time() - begin) / LAYERS * 1e6)
            q = torch.randn(1, 1, 8, 32)
            begin = time.thread_time()
            for layer, cache in zip(model.layers, state.layers):
                k, v = cache.k[:, : cache.length], cache.v[:, : cache.length]
                layer.attention.attention(q, k, v, query_start=cache.length - 1)
            of_attention.append((time.thread_time() - begin) / LAYERS * 1e6)
        torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)
    columns = [f"{min(taken):6.0f} {statistics.median(taken):6.0f}" for taken in (*attention, *whole)]
    print(f"  {tokens:6}   " + "    ".join(columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cpp", default=str(ROOT / "build/bench/op_call_bench"), help="op_call_bench")
    parser.add_argument("--rounds", type=int, default=4, help="turns of the two processes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, longstride {ls.__version__}, 1 thread")
    calls(given.cpp, given.rounds)
    print(f"us a layer of a decoding step, {LAYERS} layers of dim 256, 8 heads, batch 1, by the tokens before it; least and median of")
    print("           attention, SDPA             the whole layer, with SDPA")
    for tokens in (256, 2048):
        decoding(tokens, 100)


if __name__ == "__main__":
    main()
