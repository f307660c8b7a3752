#!/usr/bin/env python3
"""Times torch.ops.longstride.attention on a GPU as a Python user calls it: LongNet's segments 2048 to 32768 at
rates 1 to 16, 16 heads. One line of JSON a case: medians by CUDA events in ms, forward and backward apart, and what a
warm forward costs on the host in microseconds (the time until the call returns, the GPU idle before it). Run by hand.

usage: cuda_op.py PATH/TO/liblongstride.so [REPEATS]
"""

import json
import statistics
import sys
import time

import torch

SEGMENTS = [2048, 4096, 8192, 16384, 32768]
RATES = [1, 2, 4, 8, 16]
CASES = [  # dtype, len, dim, causal
    (torch.bfloat16, 2048, 64, True),
    (torch.bfloat16, 131072, 128, False),
    (torch.bfloat16, 131072, 128, True),
    (torch.float32, 32768, 64, False),
    (torch.float32, 32768, 64, True),
    (torch.float32, 131072, 128, False),
]


def median_ms(call, repeats):
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def run(dtype, length, dim, causal, repeats):
    q, k, v = (torch.randn(1, length, 16, dim, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3))

    text = json.dumps({"causal": causal, "dilated": {"segment_lengths": SEGMENTS, "dilation_rates": RATES}})

    def forward():
        return torch.ops.longstride.attention(q, k, v, text)[0]

    out = forward()
    d_out = torch.randn_like(out)

    def backward():
        torch.autograd.grad(out, (q, k, v), d_out, retain_graph=True)

    for _ in range(2):
        forward()
        backward()
    host = []
    for _ in range(20):
        torch.cuda.synchronize()
        began = time.perf_counter()
        forward()
        host.append((time.perf_counter() - began) * 1e6)
    print(
        json.dumps(
            {
                "case": f"op_{str(dtype).removeprefix('torch.')}_n{length}_d{dim}{'_causal' if causal else ''}",
                "device": torch.cuda.get_device_name(),
                "torch": torch.__version__,
                "forward_ms": round(median_ms(forward, repeats), 3),
                "backward_ms": round(median_ms(backward, repeats), 3),
                "host_us": round(statistics.median(host), 1),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    torch.ops.load_library(sys.argv[1])
    for case in CASES:
        run(*case, int(sys.argv[2]) if len(sys.argv) > 2 else 10)
