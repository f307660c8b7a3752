"""What each of the processes of test_parallel.py does: attention over shards, in process groups of 2 to 8 of them.

python parallel_ranks.py RANK FOLDER: writes FOLDER/RANK.pt, what each check came to by its name.
"""

import json
import math
import pathlib
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import conftest  # noqa: E402, F401: where the package is
from cases import CASES, groups, rule, union, window  # noqa: E402
from counters import Counted, Held  # noqa: E402
from support import inputs  # noqa: E402

from longstride import Pattern, parallel  # noqa: E402
from longstride.parallel import _rollcall  # noqa: E402

_rollcall.COMPANY_S = 500  # on a busy machine a rank may come late

PROCESSES = 8
WORLDS = (2, 3, 4, 5, 8)
LAYOUTS = ("even", "uneven", "zigzag")
F64, F32, BF16 = torch.float64, torch.float32, torch.bfloat16


def attention_cases():
    """(name, world, layout, dtype) of every call. Two and three ranks run all patterns, more ranks every third."""
    refused = {"query_start", "alibi_slopes"}
    names = [name for name, (_, _, options) in CASES.items() if not refused & options.keys()] + list(MORE_CASES)
    calls = []
    for world in WORLDS:
        for n, name in enumerate(names):
            for layout in LAYOUTS if world <= 3 else LAYOUTS[(n // 3) % 3 :][:1]:
                if world <= 3 or n % 3 == world % 3 or name in MORE_CASES:
                    calls.append((name, world, layout, F64))
    calls += [(name, 3, layout, dtype) for name in LOW_PRECISION for layout in LAYOUTS for dtype in (F32, BF16)]
    return calls


def ring_cases():
    """The same of a ring: every pattern in one layout at least of two and of three ranks."""
    calls = []
    for n, (name, world, layout, dtype) in enumerate(attention_cases()):
        if world == 5 or dtype == F64 and world <= 3 and LAYOUTS[(n // 3 + world) % 3] != layout and name not in MORE_CASES:
            continue
        calls.append((name, world, layout, dtype))
    return calls


def heads_of(name, world):
    """Among as many ranks as can divide the heads of a case."""
    return math.gcd(world, case_of(name)[1].get("kv_heads", 2))


def heads_cases():
    """Those whose heads can be divided; where all ranks divide them no keys travel beside."""
    more = [(name, 4, layout, dtype) for name in LOW_PRECISION for layout in LAYOUTS for dtype in (F32, BF16)]
    more += [(name, 4, layout, F64) for name in ("head partition", "offsets table") for layout in LAYOUTS]
    calls = [call for call in attention_cases() if call[1] not in (5, 8)] + more
    return [call for call in dict.fromkeys(calls) if heads_of(*call[:2]) > 1]


def whole_cases():
    """Those with an option that takes whole sequences, which ranks have of their share of the heads."""
    calls = []
    for name in [*WHOLE_CASES, *(name for name, (_, _, given) in CASES.items() if "alibi_slopes" in given)]:
        _, sizes, given = case_of(name)
        if "query_start" not in given:
            world = sizes.get("kv_heads", 2)
            calls += [(name, world, layout, dtype) for layout in LAYOUTS for dtype in (F64, F32, BF16)]
    return calls


def slopes_of(heads):
    return torch.linspace(3, -0.1, heads)


def dropping(p, seed=5):
    return {"dropout_p": p, "dropout_seed": torch.tensor(seed)}


def gated(blocks, dtype=F64):
    """A list of blocks, one twice, with a gate each."""
    return {"blocks": torch.tensor([*blocks, blocks[-1]], dtype=torch.int32), "gates": torch.ones(len(blocks) + 1, dtype=dtype)}


# As many KV heads as ranks.
WHOLE_CASES = {
    "slopes, 3 ranks": (groups([4, 16], [1, 2], True), {"heads": 6, "kv_heads": 3}, {"alibi_slopes": slopes_of(6)}),
    "slopes, 4 ranks": (
        groups([5, 16], [1, 3], mixing="head_partition", padding="zero_keys"),
        {"heads": 8, "kv_heads": 4, "length": 33},
        {"alibi_slopes": slopes_of(16)[::2], "lengths": [33, 4]},
    ),
    "slopes, local segments": (groups([4], [1]), {"kv_heads": 4}, {"alibi_slopes": slopes_of(4)}),
    "dropout, 2 ranks": (
        groups([4, 16], [1, 2]), {}, {**dropping(0.3), "cu_seqlens": [0, 9, 24], "alibi_slopes": slopes_of(4)},
    ),
    "dropout, 3 ranks": (groups([4, 16], [1, 2], True), {"heads": 6, "kv_heads": 3}, dropping(0.5)),
    "dropout, 4 ranks": (
        groups([5, 16], [1, 3], mixing="head_partition", padding="zero_keys"),
        {"heads": 8, "kv_heads": 4, "length": 33},
        {**dropping(0.1), "lengths": [33, 4]},
    ),
    "gates, 2 ranks": (
        union(groups([4], [1], True), rule("list", 4, True)),
        {},
        {**gated([[-1, -1, 2, 0], [0, 1, 5, 1], [1, 0, 3, 3], [-1, 0, 5, 2]]), "lengths": [24, 13]},
    ),
    "gates, 3 ranks": (  # the last head is in no row: its rank has no gradient for any
        rule("list", 4), {"heads": 6, "kv_heads": 3, "length": 22},
        gated([[-1, 0, 0, 5], [0, 1, 2, 1], [1, 1, 5, 3], [-1, 0, 4, 2]]),
    ),
    "gates, 4 ranks": (
        union(groups([5, 16], [1, 3], padding="zero_keys", average=True, mixing="head_partition"), rule("list", 8)),
        {"heads": 8, "kv_heads": 4, "length": 33},
        {**gated([[-1, -1, n, (3 * n) % 5] for n in range(5)]), "alibi_slopes": slopes_of(8), **dropping(0.2)},
    ),
    "slopes, one token": (groups([4], [1]), {"kv_heads": 3, "heads": 3, "length": 1}, {"alibi_slopes": slopes_of(3)}),
}


# Beside those of one process: fewer tokens than ranks, and segments that end on even shards.
MORE_CASES = {
    "fewer tokens than ranks": (groups([2, 8], [1, 2], True), {"length": 1}, {}),
    "no token": (groups([2, 8], [1, 2], True), {"length": 0}, {}),
    "local segments": (groups([4, 8], [1, 2], True), {"length": 240}, {}),
    "doubling": (groups([4, 8, 16, 32], [1, 2, 4, 8]), {"length": 32}, {}),
    "window over ranks": (window(19, 0, True), {"length": 40}, {}),
    "causal window": (window(None, 0, True), {"length": 40}, {}),
}
LOW_PRECISION = ("causal", "zero keys", "documents", "sliding_window", "local segments")


def case_of(name):
    return CASES.get(name) or MORE_CASES.get(name) or WHOLE_CASES[name]


def cuts(length, chunks):
    return [n * (length // chunks) + min(n, length % chunks) for n in range(chunks + 1)]


def boundaries_of(length, world, layout):
    """What the call is given."""
    if layout != "uneven":
        return length
    # Shards of many, of few and of no tokens.
    lengths = [(length * (5, 0, 2, 9)[n % 4]) // 40 for n in range(world - 1)]
    lengths.append(length - sum(lengths))
    return [sum(lengths[:n]) for n in range(world + 1)]


def positions_of(rank, length, world, layout):
    """The tokens of a rank by the definition of its layout."""
    if layout == "zigzag":
        at = cuts(length, 2 * world)
        chunks = (rank, 2 * world - 1 - rank)
    else:
        at = cuts(length, world) if layout == "even" else boundaries_of(length, world, layout)
        chunks = (rank,)
    return [p for n in chunks for p in range(at[n], at[n + 1])]


def gradients_given(shape, dtype, seed=7):
    """d_out and d_lse of the whole sequence."""
    batch, length, heads, dim = shape
    generator = torch.Generator().manual_seed(seed)
    d_out = torch.randn(shape, generator=generator, dtype=F64).to(dtype)
    d_lse = torch.randn(batch, heads, length, generator=generator, dtype=F64)
    return d_out, d_lse.to(F64 if dtype == F64 else F32)


def options_of(options, dtype):
    """Those of a case for one call: gates are leaves."""
    if "gates" not in options:
        return options
    return {**options, "gates": torch.ones_like(options["gates"], dtype=F64 if dtype == F64 else F32, requires_grad=True)}


def gates_gradient(options):
    return (options["gates"].grad,) if "gates" in options else ()


def loss_of(out, lse, d_out, d_lse):
    return (out * d_out).sum() + (torch.where(lse.isfinite(), lse, 0) * d_lse).sum()


def attend(group, rank, name, world, layout, dtype, **more):
    """Out, lse, dq, dk and dv of this rank's shard, and of a case with gates its part of their gradient."""
    pattern, sizes, options = case_of(name)
    whole = inputs(dtype=dtype, **sizes)
    d_out, d_lse = gradients_given(whole[0].shape, dtype)
    length = whole[0].size(1)
    at = torch.tensor(positions_of(rank, length, world, layout), dtype=torch.int64)
    q, k, v = (t[:, at].requires_grad_() for t in whole)
    options = {**options_of(options, dtype), **more}
    if "dropout_seed" in options:  # the first rank's counts
        options["dropout_seed"] = options["dropout_seed"] + 7 * rank
    out, lse = parallel.cp_attention(
        q, k, v, json.dumps(pattern), group, boundaries=boundaries_of(length, world, layout),
        layout="zigzag" if layout == "zigzag" else "contiguous", return_lse=True, **options,
    )  # fmt: skip
    loss_of(out, lse, d_out[:, at], d_lse[..., at]).backward()
    return [t.detach() for t in (out, lse, q.grad, k.grad, v.grad, *gates_gradient(options))]


def attentions(rank, of_size):
    return {
        call: attend(of_size[call[1]], rank, *call) for call in attention_cases() if rank < call[1]
    }


def rings(rank, of_size):
    calls = [call for call in ring_cases() if rank < call[1]]
    return {call: attend(of_size[call[1]], rank, *call, exchange="ring") for call in calls}


def divided(rank, of_size):
    calls = [call for call in heads_cases() if rank < call[1]]
    return {call: attend(of_size[call[1]], rank, *call, exchange=f"heads({heads_of(*call[:2])})") for call in calls}


def of_whole(rank, of_size):
    return {call: attend(of_size[call[1]], rank, *call) for call in whole_cases() if rank < call[1]}


def counted(rank, of_size):
    """Bytes that this rank sends in forward and backward."""
    found = {}
    for exchange in ("auto", "ring", "heads(2)"):
        for name, world in (("doubling", 4), ("local segments", 3), ("window over ranks", 4), ("causal window", 4)):
            for dtype in (F64, F32, BF16):
                if rank < world and (exchange, world) != ("heads(2)", 3):
                    with Counted() as calls:
                        attend(of_size[world], rank, name, world, "even", dtype, exchange=exchange)
                    found[exchange, name, dtype] = calls
        # Of whole sequences: with slopes or dropout, and by name without.
    for dtype in (F64, F32, BF16):
        of_whole = {"slopes": {"alibi_slopes": slopes_of(4)}, "dropout": dropping(0.5), "none": {"exchange": "heads(2)"}}
        for what, more in of_whole.items():
            if rank < 2:
                with Counted() as calls:
                    attend(of_size[2], rank, "local segments", 2, "even", dtype, **more)
                found["whole", what, dtype] = calls
    return found


def dropped(rank, of_size):
    """Out and gradients of one seed, of the same again, of another one, and of another share that is dropped."""
    if rank >= 2:
        return None
    call = (of_size[2], rank, "local segments", 2, "zigzag", F64)
    return [attend(*call, **given) for given in (dropping(0.3), dropping(0.3), dropping(0.3, 6), dropping(0.4))]


def held(rank, of_size):
    """Of shards that all have as many rows, and whose queries see every key of every rank.

    The least of ten calls: Gloo's threads may let go of a message later than the call does.
    """
    found = {}
    for exchange in ("direct", "ring"):
        for world in (4, 8):
            if rank < world:
                q, k, v = (torch.randn(1, 64, 2, 16, dtype=F64, requires_grad=True) for _ in range(3))
                pattern, most = Pattern.dilated([64 * world], [1]), []
                for _ in range(10):
                    with Held() as once:
                        parallel.cp_attention(q, k, v, pattern, of_size[world], exchange=exchange).sum().backward()
                    most.append(once.most)
                found[exchange, world] = min(most)
    return found


def repeated(rank, of_size):
    """Whether a second run gives the same bits, and one that compares calls every time."""
    if rank >= 3:
        return None
    same = True
    for exchange, name in (("direct", "groups and rules"), ("ring", "groups and rules"), ("heads(3)", "offsets block")):
        call = (of_size[3], rank, name, 3, "zigzag", F32)
        first = attend(*call, exchange=exchange)
        runs = [attend(*call, exchange=exchange, validate=v) for v in ("first", "always")]
        same = same and all(torch.equal(a, b) for run in runs for a, b in zip(first, run))
    return same


def sharded(rank, of_size):
    """shard, unshard and positions: what comes of them, and the gradient of a loss on every rank."""
    found = {}
    for world in (3, 8):
        for layout in LAYOUTS:
            if rank >= world:
                continue
            length = 29
            options = {"layout": "zigzag" if layout == "zigzag" else "contiguous"}
            at = boundaries_of(length, world, layout)
            whole = torch.arange(2 * length * 3, dtype=F64).view(2, length, 3).requires_grad_()
            part = parallel.shard(whole, of_size[world], boundaries=at, **options)
            leaf = part.detach().requires_grad_()
            back = parallel.unshard(leaf, of_size[world], boundaries=at, **options)
            (back * (rank + 1) * whole.detach()).sum().backward()
            part.sum().backward()
            positions = parallel.positions(at, of_size[world], **options)
            found[world, layout] = part.detach(), back.detach(), leaf.grad, whole.grad, positions
    return found


ROWS = [[-1, -1, 2, 0], [0, 1, 5, 1]]
LISTED = json.dumps(rule("list", 4))


def said(make):
    """What comes of a call, or the text of its ValueError."""
    try:
        return make()
    except ValueError as error:
        return str(error)


def refusals(rank, of_size):
    """What each rank raises where one of three differs, or is wrong; afterwards the group works."""
    if rank >= 3:
        return None
    causal, other = Pattern.dilated([4, 16], [1, 2], causal=True), Pattern.dilated([4, 16], [1, 2])

    def call(pattern=causal, length=24, dim=8, dtype=F32, heads=4, kv_heads=2, rows=8, **options):
        q, k, v = (torch.zeros(2, rows, h, dim, dtype=dtype) for h in (heads, kv_heads, kv_heads))
        return parallel.cp_attention(q, k, v, pattern, of_size[3], boundaries=length, **options)

    last = rank == 2
    calls = {
        "pattern": lambda: call(other if last else causal),
        "dim": lambda: call(dim=16 if last else 8),
        "dtype": lambda: call(dtype=F64 if rank == 1 else F32),
        "heads": lambda: call(heads=2 if last else 4),
        "length": lambda: call(length=25 if last else 24),
        "rows": lambda: call(length=None, rows=7 if last else 8),
        "scale": lambda: call(scale=0.5 if last else None),
        "deterministic": lambda: call(deterministic=last),
        "documents": lambda: call(cu_seqlens=[0, 9 if last else 8, 24]),
        "layout": lambda: call(layout="zigzag" if last else "contiguous"),
        "own call": lambda: call(heads=3 if last else 4),
        "dropout": lambda: call(**dropping(0.5)),
        "dropout round a ring": lambda: call(kv_heads=3, heads=3, **dropping(0.5), exchange="ring"),
        "dropout without a seed": lambda: call(kv_heads=3, heads=3, dropout_p=0.5),
        "dropout of all": lambda: call(kv_heads=3, heads=3, **dropping(1.0)),
        "another dropout": lambda: call(kv_heads=3, heads=3, **dropping(0.25 if last else 0.5)),
        "two seeds": lambda: call(kv_heads=3, heads=3, dropout_p=0.5, dropout_seed=torch.tensor([5, 6])),
        "a seed that is a number": lambda: call(kv_heads=3, heads=3, dropout_p=0.5, dropout_seed=5),
        "gates of few": lambda: call(LISTED, **gated(ROWS, F32)),
        "gates round a ring": lambda: call(LISTED, kv_heads=3, heads=3, **gated(ROWS, F32), exchange="ring"),
        "gates without blocks": lambda: call(kv_heads=3, heads=3, gates=torch.ones(1)),
        "gates of one rank": lambda: call(LISTED, kv_heads=3, heads=3, **{**gated(ROWS, F32), **({"gates": None} if last else {})}),
        "other gates": lambda: call(
            LISTED, kv_heads=3, heads=3, **{**gated(ROWS, F32), "gates": torch.tensor([1, 1, 1.5 if last else 1.0])}
        ),
        "gates in a list": lambda: call(LISTED, kv_heads=3, heads=3, **{**gated(ROWS), "gates": [1.0, 1.0, 1.0]}),
        "exchange": lambda: call(exchange="rign"),
        "exchange of one rank": lambda: call(exchange="ring" if last else "direct"),
        "ladder": lambda: call(exchange="ladder"),
        "slopes": lambda: call(kv_heads=3, heads=3, alibi_slopes=slopes_of(3) + 0.01 * last),
        "slopes of few": lambda: call(alibi_slopes=slopes_of(4)),
        "slopes of local segments": lambda: call(Pattern.dilated([4], [1]), alibi_slopes=slopes_of(4)),
        "slopes round a ring": lambda: call(kv_heads=3, heads=3, alibi_slopes=slopes_of(3), exchange="ring"),
        "slopes without rows": lambda: call(kv_heads=3, heads=3, alibi_slopes=slopes_of(3), exchange="none"),
        "slopes of a share": lambda: call(kv_heads=3, heads=3, alibi_slopes=slopes_of(1)),
        "slopes in float64": lambda: call(kv_heads=3, heads=3, alibi_slopes=slopes_of(3).double()),
        "slopes with a gradient": lambda: call(kv_heads=3, heads=3, alibi_slopes=slopes_of(3).requires_grad_()),
        "infinite slopes": lambda: call(kv_heads=3, heads=3, alibi_slopes=slopes_of(3) / 0),
        "slopes in a list": lambda: call(kv_heads=3, heads=3, alibi_slopes=[1.0, 1.0, 1.0]),
        "heads among ranks": lambda: call(exchange="heads(2)"),
        "heads of few": lambda: call(exchange="heads(3)"),
        "none": lambda: call(exchange="none"),
        "none of local segments": lambda: call(Pattern.dilated([4], [1]), exchange="none").shape,
        "boundaries": lambda: call(length=[0, 8, 16, 24], layout="zigzag"),
        "too few boundaries": lambda: call(length=[0, 8, 24]),
        "descending boundaries": lambda: call(length=[0, 16, 8, 24]),
        "unshard": lambda: parallel.unshard(torch.zeros(2, 3, 5 if last else 4), of_size[3]),
        "another call": lambda: parallel.unshard(torch.zeros(2, 8, 4), of_size[3]) if last else call(dim=4),
        "works": lambda: call().shape,
    }
    return {name: said(make) for name, make in calls.items()}


def other_members(rank, pair):
    """A group whose ranks are not those of the processes."""
    if rank not in (3, 6):
        return None
    return attend(pair, (3, 6).index(rank), "causal", 2, "even", F64)


def main(rank, folder):
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES, timeout=timedelta(minutes=9))
    of_size = {world: dist.new_group(range(world)) for world in WORLDS}
    pair = dist.new_group([3, 6])
    found = {check.__name__: check(rank, of_size) for check in (attentions, rings, divided, of_whole, counted, dropped, held, repeated, sharded, refusals)}
    found["other_members"] = other_members(rank, pair)
    torch.save(found, pathlib.Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
