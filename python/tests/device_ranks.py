"""Ranks of one sequence in one process on a GPU, what they must compute, and the rule that compares. For cuda_ranks.py."""

import json
import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import conftest  # noqa: E402, F401: where the package is
import definition  # noqa: E402
from parallel_ranks import CASES, MORE_CASES, case_of, gradients_given, groups, loss_of, positions_of  # noqa: E402
from support import inputs  # noqa: E402

import longstride as ls  # noqa: E402
from longstride.parallel._shards import boundaries_tensor  # noqa: E402

dist = torch.distributed
operators = torch.ops.longstride
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
