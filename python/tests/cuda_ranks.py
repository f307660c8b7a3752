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
import conftest  # noqa: E402, F401: where the package is
import definition  # noqa: E402
from parallel_ranks import (  # noqa: E402
    CASES,
    LAYOUTS,
    MORE_CASES,
    Counted,
    boundaries_of,
    case_of,
    gradients_given,
    groups,
    loss_of,
    positions_of,
)
from support import inputs  # noqa: E402

import longstride as ls  # noqa: E402
from longstride import parallel  # noqa: E402
from longstride.parallel._shards import boundaries_tensor  # noqa: E402

dist = torch.distributed
operators = torch.ops.longstride
TYPES = (torch.bfloat16, torch.float16, torch.float32)
NAMES = ("out", "lse", "dq", "dk", "dv")
LARGE = {
    "growing": (groups([256, 512, 1024, 2048], [1, 2, 4, 8], True), {"length": 2048, "dim": 128}, {}),
    "growing, all see all": (groups([256, 512, 1024, 2048], [1, 2, 4, 8]), {"length": 2048, "dim": 64}, {}),
    "odd dim": (groups([64, 300], [1, 3], True), {"length": 600, "dim": 33}, {}),
    "wide dim": (groups([64, 512], [1, 4]), {"length": 512, "dim": 256}, {}),
}
failures = []


def say(**what):
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(json.dumps(what), flush=True)


def expect(holds, **what):
    if not holds:
        failures.append(what)
        print(json.dumps({"WRONG": what}), flush=True)


def case(name):
    return LARGE.get(name) or case_of(name)


def names():
    refused = {"query_start", "alibi_slopes"}
    return [n for n, (_, _, options) in CASES.items() if not refused & options.keys()] + list(MORE_CASES) + list(LARGE)


class Ranks:
    """Ranks of one sequence in one process, which hand their messages over as tensors."""

    def __init__(self, whole, pattern, ranks, layout, boundaries, cu_seqlens=None, lengths=None, scale=None):
        as_tensor = [None if x is None else torch.tensor(x) for x in (cu_seqlens, lengths)]
        text, blocks = ls.Pattern.from_json(pattern).call_arguments(None) if isinstance(pattern, str) else pattern
        at = boundaries_tensor(boundaries)
        shards, call = (at, layout, ranks), (text, blocks, None, None, *as_tensor, None, scale)
        self.calls = []
        length = whole[0].size(1)
        for rank in range(ranks):
            own = positions_of(rank, length, ranks, "zigzag" if layout == "zigzag" else "even" if at.numel() == 2 else "uneven")
            self.calls.append((own, (*shards, rank, *call)))
        self.whole, self.ranks = whole, ranks
        self.milliseconds = [0.0] * ranks

    def rows_of(self, t, rank, axis=1):
        own = self.calls[rank][0]
        if own and own[-1] - own[0] == len(own) - 1:
            return t.narrow(axis, own[0], len(own))
        return t.index_select(axis, torch.tensor(own, dtype=torch.int64, device=t.device))

    def timed(self, rank, run):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        result = run()
        end.record()
        self.events.append((rank, begin, end))
        return result

    def exchange(self, sent, counts):
        """What every rank gets: counts[i][j] rows go from i to j."""
        parts = [message.split(of_rank) for message, of_rank in zip(sent, counts)]
        return [torch.cat([parts[i][j] for i in range(self.ranks)]) for j in range(self.ranks)]

    def run(self, d_out, d_lse):
        """(out, lse, dq, dk, dv) of each rank."""
        self.events = []
        shards = [tuple(self.rows_of(t, r) for t in self.whole) for r in range(self.ranks)]
        each = [shards[r] + self.calls[r][1] for r in range(self.ranks)]
        counts = [operators.cp_counts(*e)[0][0].tolist() for e in each]
        back = [list(of_rank) for of_rank in zip(*counts)]
        sent = [self.timed(r, lambda: operators.cp_pack(*each[r])) for r in range(self.ranks)]
        received = self.exchange(sent, counts)
        results, keys, returned = [], [], []
        for r in range(self.ranks):
            out, lse = self.timed(r, lambda: operators.cp_forward_pieces(*each[r]))
            keys.append(self.timed(r, lambda: operators.cp_forward_gathered(received[r], out, lse, *each[r])))
            results.append((self.rows_of(d_out, r), self.rows_of(d_lse, r, 2).contiguous(), out, lse))
        gathered = []
        for r in range(self.ranks):
            part = self.timed(r, lambda: operators.cp_backward_gathered(*results[r], keys[r], *each[r]))
            gathered.append(part[:2])
            returned.append(part[2])
        home = self.exchange(returned, back)
        gradients = []
        for r in range(self.ranks):
            grads = self.timed(r, lambda: operators.cp_backward_pieces(*results[r], *gathered[r], *each[r]))
            self.timed(r, lambda: operators.cp_add_returned(home[r], *grads[1:], *each[r]))
            gradients.append(grads)
        torch.cuda.synchronize()
        self.milliseconds = [0.0] * self.ranks
        for rank, begin, end in self.events:
            self.milliseconds[rank] += begin.elapsed_time(end)
        return [(results[r][2], results[r][3], *gradients[r]) for r in range(self.ranks)]


def plain(q, k, v, pattern, *, cu_seqlens=None, lengths=None, scale=None):
    """(out, lse) by dense operations of torch in the dtype."""
    batch, length, heads, dim = q.shape
    kv_heads = k.size(2)
    outs, lses = [], []
    for b in range(batch):
        for h in range(heads):
            j = h // (heads // kv_heads)
            m, z = (t.to(q.dtype) for t in definition.counts(pattern, length, j, kv_heads, b, cu_seqlens, lengths))
            scores = (dim**-0.5 if scale is None else scale) * (q[b, :, h] @ k[b, :, j].T)
            high = scores.masked_fill(m == 0, -torch.inf).amax(1).clamp(min=0).detach()
            terms = m * (scores.masked_fill(m == 0, 0) - high[:, None]).exp()
            total = z * (-high).exp() + terms.sum(1)
            nothing = total == 0
            safe = total.masked_fill(nothing, 1)
            outs.append(terms / safe[:, None] @ v[b, :, j])
            lses.append((safe.log() + high).masked_fill(nothing, -torch.inf))
    out = torch.stack(outs).view(batch, heads, length, dim).transpose(1, 2)
    if (pattern.get("dilated") or {}).get("average"):
        out = out / len(pattern["dilated"]["segment_lengths"])
    return out, torch.stack(lses).view(batch, heads, length)


def differentiated(attend, whole, d_out, d_lse):
    tensors = [t.detach().requires_grad_() for t in whole]
    out, lse = attend(*tensors)
    loss_of(out, lse, d_out, d_lse).backward()
    return [out.detach(), lse.detach(), *(t.grad for t in tensors)]


def reference(name, dtype):
    """Inputs in the dtype on the GPU, what they come to in float64 on the CPU, and what honest arithmetic in the dtype
    makes of them: plain() where that is quick, one process on the GPU elsewhere."""
    pattern, sizes, options = case(name)
    whole = inputs(dtype=dtype, **sizes)
    d_out, d_lse = gradients_given(whole[0].shape, dtype)
    text = json.dumps(pattern)
    on_device = [t.cuda() for t in (*whole, d_out, d_lse)]
    here = [t.double() for t in (*whole, d_out, d_lse)]
    exact = differentiated(lambda *t: ls.attention(*t, text, return_lse=True, **options), here[:3], *here[3:])
    if name in LARGE or whole[0].size(1) == 0:
        one = differentiated(lambda *t: ls.attention(*t, text, return_lse=True, **options), on_device[:3], *on_device[3:])
    else:
        one = differentiated(lambda *t: plain(*t, pattern, **options), whole, d_out, d_lse)
    return text, options, on_device, exact, one


def compare(got, exact, alone, dtype, rows, **where):
    """The rule of docs/numerics.md: as wrong as honest arithmetic in the dtype is, twice, and two roundings more."""
    worst = 0.0
    for name, x, e, one in zip(NAMES, got, exact, alone):
        axis = 2 if name == "lse" else 1
        at = torch.tensor(rows, dtype=torch.int64)
        e, one = e.index_select(axis, at), one.double().cpu().index_select(axis, at)
        x = x.double().cpu()
        finite = e.isfinite()
        expect(bool((x.isfinite() == finite).all()), **where, what=name, text="infinities")
        roundoff = torch.finfo(torch.float32 if name == "lse" else dtype).eps / 2
        e, one, x = (t[finite] for t in (e, one, x))
        if e.numel() == 0:
            continue
        least = 12 * 2**-24 * e.abs().max().clamp(min=1)  # it may be right by luck
        bound = 2 * (one - e).abs().max().clamp(min=least) + 2 * roundoff * e.abs().clamp(min=1)
        share = float(((x - e).abs() / bound).max())
        worst = max(worst, share)
        expect(share <= 1, **where, what=name, share_of_bound=share)
    return worst


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


def pair_values(rank):
    worst, runs = 0.0, 0
    for name in names():
        for dtype in TYPES:
            text, options, on_device, exact, alone = reference(name, dtype)
            length = on_device[0].size(1)
            for layout in LAYOUTS:
                own = positions_of(rank, length, 2, layout)
                at = torch.tensor(own, dtype=torch.int64, device="cuda")
                q, k, v = (t[:, at].detach().requires_grad_() for t in on_device[:3])
                kind = "zigzag" if layout == "zigzag" else "contiguous"
                found = []
                for _ in range(2):
                    out, lse = parallel.cp_attention(
                        q, k, v, text, boundaries=boundaries_of(length, 2, layout), layout=kind, return_lse=True, **options
                    )
                    loss = loss_of(out, lse, on_device[3][:, at], on_device[4][..., at])
                    found.append([out, lse, *torch.autograd.grad(loss, (q, k, v))])
                where = {"case": name, "ranks": 2, "layout": layout, "type": str(dtype), "rank": rank}
                worst = max(worst, compare([t.detach() for t in found[0]], exact, alone, dtype, own, **where))
                for n, a, b in zip(NAMES, *found):
                    same = torch.equal(a, b)
                    expect(same or n == "dq", **where, what=n, text="a repeat has other bits")
                runs += 1
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
