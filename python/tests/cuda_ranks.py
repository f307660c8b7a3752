"""Ranks on GPUs: what they compute, what it costs, and what a rank's end does to the others. Run by hand.

Needs GPUs and a library built with CUDA (LONGSTRIDE_LIBRARY); pytest does not collect it. Prints a line of JSON for
everything that it measures, and ends with 1 if something is not as it must be.

usage: cuda_ranks.py values              all ranks one after another on one GPU, against float64 on the CPU
       cuda_ranks.py cost [LEN]          the same for LongNet's growing configuration: summed time and memory of ranks
       cuda_ranks.py pair FOLDER [part]  two processes over NCCL: values, bytes, link, scaling
       cuda_ranks.py killed FOLDER       one of two is killed
"""

import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time
from datetime import timedelta

import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from counters import Counted  # noqa: E402
from device_ranks import LARGE, NAMES, Ranks, compare, dist, expect, failures, names, reference, say  # noqa: E402
from parallel_ranks import LAYOUTS, boundaries_of, loss_of, positions_of  # noqa: E402

import longstride as ls  # noqa: E402
from longstride import parallel  # noqa: E402

TYPES = (torch.bfloat16, torch.float16, torch.float32)


def values():
    worst, runs = {}, 0
    for n, name in enumerate(names()):
        for dtype in TYPES:
            text, options, on_device, exact, alone = reference(name, dtype)
            length = on_device[0].size(1)
            for world in (2, 4, 8):
                for layout in LAYOUTS if world == 2 or name in LARGE else LAYOUTS[n % 3 :][:1]:
                    at = boundaries_of(length, world, layout)
                    kind = "zigzag" if layout == "zigzag" else "contiguous"
                    ranks = Ranks(on_device[:3], text, world, kind, at, **options)
                    for rank, got in enumerate(ranks.run(*on_device[3:])):
                        where = {"case": name, "ranks": world, "layout": layout, "type": str(dtype), "rank": rank}
                        share = compare(got, exact, alone, dtype, ranks.calls[rank][0], **where)
                        worst[str(dtype)] = max(worst.get(str(dtype), 0), share)
                    runs += 1
    say(test="values of ranks on one GPU", runs=runs, failures=len(failures), worst_share_of_bound=worst)


# LongNet's growing configuration.
def growing(length, causal):
    segments = [2048 << k for k in range(40) if 2048 << k <= length]
    return ls.Pattern.dilated(segments, [1 << k for k in range(len(segments))], causal=causal)


def tensors_of(length, heads=16, dim=128, dtype=torch.bfloat16, seed=1):
    generator = torch.Generator(device="cuda").manual_seed(seed)
    return [torch.randn(1, length, heads, dim, device="cuda", dtype=dtype, generator=generator) for _ in range(3)]


def median_ms(run, times=5, warm=2, before=lambda: None):
    found = []
    for n in range(times + warm):
        before()
        torch.cuda.synchronize()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        if n >= warm:
            found.append(begin.elapsed_time(end))
    return statistics.median(found)


def peak_of(run):
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def cost(length):
    whole = tensors_of(length)
    d_out = torch.randn_like(whole[0])
    d_lse = torch.zeros(1, 16, length, device="cuda")
    for causal in (False, True):
        pattern = growing(length, causal)
        leaves = [t.requires_grad_() for t in whole]

        def alone():
            out, lse = ls.attention(*leaves, pattern, return_lse=True)
            torch.autograd.grad((out, lse), leaves, (d_out, d_lse))

        t1, peak = median_ms(alone), peak_of(alone)
        leaves = [t.detach() for t in leaves]
        for world in (2, 4, 8):
            for layout in ("contiguous", "zigzag"):
                ranks = Ranks(leaves, pattern.call_arguments(None), world, layout, length)
                found = []
                for _ in range(5):
                    ranks.run(d_out, d_lse)
                    found.append(list(ranks.milliseconds))
                found = found[2:]
                middle = sorted(found, key=sum)[len(found) // 2]
                say(
                    test="summed time of ranks", length=length, heads=16, dim=128, dtype="bfloat16", causal=causal, ranks=world,
                    layout=layout, one_ms=round(t1, 3), sum_ms=round(sum(middle), 3), ratio=round(sum(middle) / t1, 4),
                    slowest_ms=round(max(middle), 3), by_rank=[round(x, 2) for x in middle], one_peak_gb=round(peak / 1e9, 2),
                )  # fmt: skip


# Two processes.


def joined(rank, folder, timeout_s):
    torch.cuda.set_device(rank)
    store = f"file://{folder}/store"
    dist.init_process_group(
        "nccl", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=timeout_s),
        device_id=torch.device("cuda", rank),
    )  # fmt: skip


# (exchange, deterministic): where it is not, dq is added in no fixed order, and a repeat may have other bits in it.
WAYS = (("auto", False), ("auto", True), ("ring", True), ("heads(2)", True))


def pair_values(rank):
    worst, runs = {}, {}
    for name in names():
        begin = time.monotonic()
        for dtype in TYPES:
            text, options, on_device, exact, alone = reference(name, dtype)
            length, heads = on_device[0].size(1), on_device[1].size(2)
            for layout in LAYOUTS:
                own = positions_of(rank, length, 2, layout)
                at = torch.tensor(own, dtype=torch.int64, device="cuda")
                q, k, v = (t[:, at].detach().requires_grad_() for t in on_device[:3])
                kind = "zigzag" if layout == "zigzag" else "contiguous"
                shards = {"boundaries": boundaries_of(length, 2, layout), "layout": kind}
                for exchange, deterministic in WAYS:
                    if exchange == "heads(2)" and heads % 2:
                        continue  # refused
                    found = []
                    for _ in range(2):
                        out, lse = parallel.cp_attention(
                            q, k, v, text, exchange=exchange, deterministic=deterministic, return_lse=True, **shards, **options
                        )
                        loss = loss_of(out, lse, on_device[3][:, at], on_device[4][..., at])
                        found.append([out, lse, *torch.autograd.grad(loss, (q, k, v))])
                    where = {
                        "case": name, "ranks": 2, "layout": layout, "type": str(dtype), "rank": rank, "exchange": exchange,
                        "deterministic": deterministic,
                    }  # fmt: skip
                    share = compare([t.detach() for t in found[0]], exact, alone, dtype, own, **where)
                    worst[exchange] = max(worst.get(exchange, 0.0), share)
                    for n, a, b in zip(NAMES, *found):
                        same = torch.equal(a, b)
                        expect(same or n == "dq" and not deterministic, **where, what=n, text="a repeat has other bits")
                    runs[exchange] = runs.get(exchange, 0) + 1
        say(case=name, seconds=round(time.monotonic() - begin, 1))
    say(test="values of two processes", runs=runs, failures=len(failures), worst_share_of_bound=worst)


def link(rank):
    found = []
    for log2 in range(12, 29, 2):
        size = 1 << log2
        message = torch.zeros(size, dtype=torch.uint8, device="cuda")
        into = torch.empty_like(message)
        own = [0, size] if rank == 0 else [size, 0]

        def both():
            for _ in range(10):
                dist.all_to_all_single(into, message, own, own)

        ms = median_ms(both, before=dist.barrier) / 10
        found.append((size, ms))
        say(test="link", bytes=size, us=round(1000 * ms, 2), gb_s=round(size / ms / 1e6, 2))
    (small, low), (large, high) = found[-2:]
    say(test="link", alpha_us=round(1000 * found[0][1], 2), beta_gb_s=round((large - small) / (high - low) / 1e6, 1))


def overlapped(run):
    """Microseconds of NCCL's kernels, and how many of them run beside others."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        run()
        torch.cuda.synchronize()
    spans = {True: [], False: []}
    for event in seen.profiler.kineto_results.events():
        if event.device_type() == torch.autograd.DeviceType.CUDA and event.duration_ns() > 0:
            text = event.name()
            if "record_param" in text or text.startswith("cp_") or text.startswith("nccl:"):
                continue
            spans["nccl" in text.lower()].append((event.start_ns(), event.start_ns() + event.duration_ns()))
    total = sum(e - b for b, e in spans[True])
    hidden, merged = 0, []
    for b, e in sorted(spans[False]):
        if merged and b <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], e)
        else:
            merged.append([b, e])
    for b, e in spans[True]:
        hidden += sum(max(0, min(e, y) - max(b, x)) for x, y in merged)
    return len(spans[True]), total / 1e3, hidden / 1e3


def scaling(rank):
    for length in (1 << 17, 1 << 18, 1 << 19, 1 << 20):
        for causal in (False, True):
            pattern = growing(length, causal)
            whole = [t.requires_grad_() for t in tensors_of(length)]
            d_out = torch.randn_like(whole[0])

            def alone():
                torch.autograd.grad(ls.attention(*whole, pattern), whole, d_out)

            t1, peak1 = median_ms(alone), peak_of(alone)
            for layout in ("contiguous", "zigzag"):
                # Drawn anew: what matters is how much there is.
                own = [t.requires_grad_() for t in tensors_of(length // 2, seed=2 + rank)]
                d_own = torch.randn_like(own[0])

                def shared():
                    out = parallel.cp_attention(*own, pattern, boundaries=length, layout=layout)
                    torch.autograd.grad(out, own, d_own)

                with Counted() as calls:
                    shared()
                bytes_sent = {what: n for what, n, _ in calls}
                t2 = torch.tensor([median_ms(shared, before=dist.barrier)], device="cuda")
                dist.all_reduce(t2, op=dist.ReduceOp.MAX)
                t2, peak2 = float(t2), peak_of(shared)
                nccl = overlapped(shared)
                sent = torch.tensor([bytes_sent.get("cp_attention", 0), bytes_sent.get("cp_attention backward", 0)], device="cuda")
                every = torch.empty(4, dtype=sent.dtype, device="cuda")
                dist.all_gather_into_tensor(every, sent)
                shape = (16, 128)
                tensors1, tensors2 = 4 * length * 16 * 128 * 2, 2 * length * 16 * 128 * 2  # q, k, v and d_out
                say(
                    test="scaling", length=length, heads=shape[0], dim=shape[1], dtype="bfloat16", causal=causal, layout=layout,
                    t1_ms=round(t1, 3), t2_ms=round(t2, 3), over_half=round(2 * t2 / t1, 4), peak1_gb=round((peak1 + tensors1) / 1e9, 3),
                    peak2_gb=round((peak2 + tensors2) / 1e9, 3), peak_share=round((peak2 + tensors2) / (peak1 + tensors1), 4),
                    bytes_forward_backward_by_rank=every.tolist(), nccl_kernels=nccl[0], nccl_us=round(nccl[1], 1),
                    hidden_us=round(nccl[2], 1),
                )  # fmt: skip
                rows = 1024 * 16 * 2 * 128 * 2  # bytes of the 1,024 rows a head that a rank lacks
                if layout == "contiguous":
                    expect(every.tolist() == [rows, 0 if causal else 2 * rows, 0 if causal else rows, 2 * rows],
                           test="bytes", length=length, causal=causal, got=every.tolist(), rows=rows)  # fmt: skip
                del own, d_own
            del whole, d_out
            torch.cuda.empty_cache()


def killed(rank):
    q = torch.randn(1, 512, 4, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    pattern = ls.Pattern.dilated([64, 1024], [1, 4])
    parallel.cp_attention(q, q, q, pattern)
    torch.cuda.synchronize()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    begin = time.monotonic()
    try:
        parallel.cp_attention(q, q, q, pattern)
        expect(False, test="killed", text="nothing was raised")
    except parallel.CommError as error:
        print(json.dumps({"test": "killed", "seconds": round(time.monotonic() - begin, 1), "raised": str(error)}), flush=True)
        expect("no word from rank 1" in str(error), test="killed", text=str(error))
    os._exit(1 if failures else 0)


PARTS = {"values": pair_values, "link": link, "scaling": scaling}


def as_rank(rank, folder, parts):
    joined(rank, folder, 20 if parts == ["killed"] else 120)
    if parts == ["killed"]:
        return killed(rank)
    for part in parts or PARTS:
        PARTS[part](rank)
    dist.barrier()
    dist.destroy_process_group()


def both(what, folder, parts, expected):
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    (pathlib.Path(folder) / "store").unlink(missing_ok=True)
    arguments = [sys.executable, __file__, what, folder, *parts]
    processes = [subprocess.Popen([*arguments, str(rank)]) for rank in range(2)]
    codes = [process.wait() for process in processes]
    expect(codes == expected, text="ended otherwise", codes=codes)


if __name__ == "__main__":
    what, *more = sys.argv[1:]
    if what == "values":
        values()
    elif what == "cost":
        cost(int(more[0]) if more else 1 << 20)
    elif what == "pair":
        both("rank", more[0], more[1:], [0, 0])
    elif what == "killed":
        both("rank", more[0], ["killed"], [0, -signal.SIGKILL])
    else:
        as_rank(int(more[-1]), more[0], more[1:-1])
    if failures:
        print(json.dumps({"failures": len(failures)}), flush=True)
    sys.exit(1 if failures else 0)
