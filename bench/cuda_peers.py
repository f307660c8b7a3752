#!/usr/bin/env python3
"""Times what longstride's CUDA engine stands beside, with PyTorch on the same GPU: dense scaled_dot_product_attention
(cuDNN's kernels and flash's); per_group, the official LongNet algorithm on torch operations (for each group gather,
dense attention, scatter; mix by lse); and flex_attention, compiled, with LongNet's mask and weights. Forward and
backward, bfloat16, 16 heads, medians by CUDA events, one line of JSON a case. Run by hand after cuda_bench, on the same
machine.

usage: cuda_peers.py [REPEATS]
"""

import json
import statistics
import sys

import torch

HEADS = 16
SEGMENTS = (2048, 4096, 8192, 16384, 32768)
RATES = (1, 2, 4, 8, 16)
KERNELS = {
    "cudnn": torch.ops.aten._scaled_dot_product_cudnn_attention,
    "flash": torch.ops.aten._scaled_dot_product_flash_attention,
    "efficient": torch.ops.aten._scaled_dot_product_efficient_attention,  # the one of float32
}


def attend(kernel, q, k, v, causal):
    """Dense attention of [batch, heads, len, dim] -> (out, lse [batch, heads, len])."""
    if kernel == "flash":
        out = KERNELS[kernel](q, k, v, 0.0, causal)
    else:
        out = KERNELS[kernel](q, k, v, None, True, 0.0, causal)
    # The efficient kernel pads lse to a multiple of 32 rows.
    return out[0], out[1].reshape(*out[0].shape[:2], -1)[:, :, : q.size(2)]


def per_group(kernel, q, k, v, causal, segments=SEGMENTS):
    """q, k, v [heads, len, dim], modulo offsets. Heads of one offset are sampled together."""
    heads, length, dim = q.shape
    outs, lses = [], []
    for segment, rate in zip(segments, RATES):
        segment = min(segment, length)
        out = q.new_zeros(heads, length // segment, segment // rate, rate, dim)
        lse = torch.full(out.shape[:-1], -torch.inf, device=q.device)
        cut = [x.reshape(heads, -1, segment // rate, rate, dim) for x in (q, k, v)]
        for offset in range(rate):
            some = [x[offset::rate, :, :, offset].transpose(0, 1) for x in cut]  # [segments, heads, rows, dim]
            o, l = attend(kernel, *(x.contiguous() for x in some), causal)
            out[offset::rate, :, :, offset] = o.transpose(0, 1)
            lse[offset::rate, :, :, offset] = l.transpose(0, 1)
        outs.append(out.reshape(q.shape))
        lses.append(lse.reshape(heads, length))
    share = torch.softmax(torch.stack(lses), 0).to(q.dtype)
    return sum(o * s[..., None] for o, s in zip(outs, share))


def multiplicity(head, q, k):
    """How many groups let q see k, modulo offsets: the weight of the pair."""
    count = 0
    for segment, rate in zip(SEGMENTS, RATES):
        near = q // segment == k // segment
        count = count + (near & (q % segment % rate == head % rate) & (k % segment % rate == head % rate)).int()
    return count


def flex(length, causal):
    """flex_attention for tensors [1, heads, len, dim]. Its blocks of 128 x 128 are left out where no pair is seen; with
    rates that is where segments or causality say so, since every block of a segment holds some sampled pair."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def mask(batch, head, q, k):
        seen = multiplicity(head, q, k) > 0
        return seen & (q >= k) if causal else seen

    def weigh(score, batch, head, q, k):
        return score + torch.log(multiplicity(head, q, k).float())

    blocks = torch.compile(create_block_mask)(mask, None, HEADS, length, length, device="cuda")
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: compiled(q, k, v, score_mod=weigh, block_mask=blocks)


def median_ms(run, repeats):
    for _ in range(2):
        run()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def measure(name, forward, tensors, repeats):
    torch.cuda.empty_cache()
    try:
        with torch.no_grad():
            ms = median_ms(lambda: forward(*tensors), repeats)
        leaves = [t.detach().requires_grad_() for t in tensors]
        out = forward(*leaves)
        d_out = torch.randn_like(out)
        back = median_ms(lambda: torch.autograd.grad(out, leaves, d_out, retain_graph=True), repeats)
    except Exception as error:  # a kernel that this build of PyTorch lacks
        print(json.dumps({"case": name, "error": str(error)[:200]}), flush=True)
        return
    print(json.dumps({"case": name, "device": torch.cuda.get_device_name(), "torch": torch.__version__,
                      "forward_ms": round(ms, 3), "backward_ms": round(back, 3)}), flush=True)


def main():
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    torch.manual_seed(0)

    def tensors(*shape):
        return [torch.randn(*shape, device="cuda", dtype=torch.bfloat16) for _ in range(3)]

    for dim in (128, 64):
        for causal in (False, True):
            mark = f"_d{dim}{'_causal' if causal else ''}"
            for kernel in ("cudnn", "flash"):
                measure(f"dense_{kernel}_n16384{mark}", lambda q, k, v: attend(kernel, q, k, v, causal)[0],
                        tensors(1, HEADS, 16384, dim), repeats)
            measure(f"per_group_cudnn_n131072{mark}", lambda q, k, v: per_group("cudnn", q, k, v, causal),
                    tensors(HEADS, 131072, dim), max(3, repeats // 2))
    for dim, causal in ((128, False), (128, True), (64, False)):
        mark = f"_d{dim}{'_causal' if causal else ''}"
        grouped, compiled = (lambda q, k, v: per_group("cudnn", q, k, v, causal)), flex(32768, causal)
        measure(f"per_group_cudnn_n32768{mark}", grouped, tensors(HEADS, 32768, dim), max(3, repeats // 2))
        measure(f"flex_n32768{mark}", compiled, tensors(1, HEADS, 32768, dim), max(3, repeats // 2))
        some = tensors(1, HEADS, 32768, dim)
        with torch.no_grad():
            apart = (compiled(*some)[0] - grouped(*(x[0] for x in some))).abs().max().item()
        print(json.dumps({"case": f"flex_beside_per_group_n32768{mark}", "largest_difference": round(apart, 5)}), flush=True)
    for length in (2048, 4096, 8192, 32768):
        measure(f"dense_cudnn_n{length}_d128", lambda q, k, v: attend("cudnn", q, k, v, False)[0],
                tensors(1, HEADS, length, 128), repeats)


if __name__ == "__main__":
    main()
