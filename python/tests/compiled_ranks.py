"""What each of two processes of test_parallel_compiled.py does: attention over shards in compiled graphs, over Gloo.

python compiled_ranks.py RANK FOLDER: writes FOLDER/RANK.pt, what each check came to by its name.
"""

import pathlib
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import conftest  # noqa: E402, F401: where the package is
from support import compiled, inputs  # noqa: E402

from longstride import Pattern, parallel  # noqa: E402
from longstride.nn import LongNetLM  # noqa: E402
from longstride.parallel import _rollcall  # noqa: E402

_rollcall.COMPANY_S = 500  # on a busy machine a rank may come late

RANKS = 2
LENGTHS = (24, 37, 50, 64, 101)  # of the whole sequence
UNION = Pattern.dilated([4, 32], [1, 2], causal=True) | Pattern.block_sparse("local_window", 4, window=8, causal=True)
LISTED = UNION | Pattern.block_sparse("list", 4, causal=True)
LOCAL = Pattern.dilated([2], [1])
OWN_SEED = 5 + int(sys.argv[1]) if len(sys.argv) == 3 and __name__ == "__main__" else 5


def by_number(q, k, v, length, _):
    return parallel.cp_attention(q, k, v, UNION, boundaries=length, return_lse=True)


def by_list(q, k, v, length, _):
    return parallel.cp_attention(q, k, v, UNION, boundaries=[0, (length + 1) // 2, length], return_lse=True)


def by_tensor(q, k, v, length, cuts):
    return parallel.cp_attention(q, k, v, UNION, boundaries=cuts, return_lse=True, validate="always")


def zigzag(q, k, v, length, _):
    scale = 0.3
    return parallel.cp_attention(q, k, v, UNION, "0", boundaries=length, layout="zigzag", scale=scale, return_lse=True)


def documents(q, k, v, length, cuts):
    return parallel.cp_attention(q, k, v, UNION, boundaries=cuts, cu_seqlens=cuts, return_lse=True)


def of_local_segments(q, k, v, length, _):
    return parallel.cp_attention(q, k, v, LOCAL, boundaries=[0, 2 * (length // 4), length], return_lse=True)


def ring(q, k, v, length, cuts):
    return parallel.cp_attention(q, k, v, UNION, boundaries=cuts, exchange="ring", return_lse=True)


def heads(q, k, v, length, cuts):
    return parallel.cp_attention(q, k, v, UNION, boundaries=cuts, exchange="heads(2)", return_lse=True)


def slopes(q, k, v, length, cuts):
    its = torch.tensor([0.5, 0.0, -0.1, 3.0])
    return parallel.cp_attention(q, k, v, UNION, boundaries=cuts, alibi_slopes=its, return_lse=True)


def dropout(q, k, v, length, cuts):
    seed = torch.tensor(OWN_SEED)  # the first rank's counts
    return parallel.cp_attention(q, k, v, UNION, boundaries=cuts, dropout_p=0.3, dropout_seed=seed, return_lse=True)


def gates(q, k, v, length, cuts):
    through = q[0, :5, 0, 0] - q[0, :5, 0, 0].detach()  # their gradient is a part of dq
    blocks = torch.tensor([[-1, -1, 2, 0], [0, 1, 4, 1], [1, 0, 3, 3], [-1, 0, 5, 2], [-1, 0, 5, 2]], dtype=torch.int32)
    return parallel.cp_attention(q, k, v, LISTED, boundaries=cuts, blocks=blocks, gates=1 + through, return_lse=True)


CALLS = {
    call.__name__: call
    for call in (by_number, by_list, by_tensor, zigzag, documents, of_local_segments, ring, heads, slopes, dropout, gates)
}


def shard_of(call, length, **options):
    """q, k and v of this rank, leaves."""
    layout = "zigzag" if call is zigzag else "contiguous"
    boundaries = [0, 2 * (length // 4), length] if call is of_local_segments else None
    parts = [parallel.shard(t, boundaries=boundaries, layout=layout) for t in inputs(length=length, **options)]
    return [t.detach().clone().requires_grad_() for t in parts]


def results(step, call, length, **options):
    """(out, lse, dq, dk, dv)"""
    q, k, v = shard_of(call, length, **options)
    out, lse = step(q, k, v, length, torch.tensor([0, (length + 1) // 2, length]))
    (out.double().square().sum() + lse.double().cos().sum()).backward()
    return [t.detach() for t in (out, lse, q.grad, k.grad, v.grad)]


def graphs_of(call, **options):
    """Of every length what the graph and the call itself came to; and how many graphs there are."""
    step, graphs = compiled(call)
    found = [(results(step, call, n, **options), results(call, call, n, **options)) for n in LENGTHS]
    return found, len(graphs)


def under_autocast():
    def call(q, k, v, length, _):
        with torch.autocast("cpu", torch.bfloat16):
            return parallel.cp_attention(q, k, v, UNION, boundaries=length, return_lse=True)

    return graphs_of(call)


def out_alone():
    """lse gets no gradient, and on rank 1 out gets none either."""
    def call(q, k, v, length, _):
        return parallel.cp_attention(q, k, v, UNION, boundaries=length)

    def gradients(step):
        q, k, v = shard_of(call, 24, dtype=torch.float64)
        loss = step(q, k, v, 24, None).square().sum()
        (loss if dist.get_rank() == 0 else 0 * loss).backward()
        return [t.grad for t in (q, k, v)]

    return gradients(compiled(call)[0]), gradients(call)


def placed():
    """A model on shards: whatever of it is not traced runs between its graphs."""
    torch.manual_seed(3)
    options = {"vocab": 11, "dim": 16, "layers": 2, "heads": 2, "segment_lengths": [4, 32], "dilation_rates": [1, 2]}
    model = parallel.place(LongNetLM(**options, dtype=torch.float64))
    ids = torch.randint(11, (2, 25), generator=torch.Generator().manual_seed(1))
    own, targets = parallel.shard(ids[:, :-1]), parallel.shard(ids[:, 1:])
    found = []
    torch.compiler.reset()
    for step in (torch.compile(model, dynamic=True, backend="aot_eager"), model):
        model.zero_grad()
        logits = step(own, boundaries=24)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").backward()
        found.append({"logits": logits.detach(), **{name: p.grad.clone() for name, p in model.named_parameters()}})
    return found


def refused(step):
    try:
        step()
    except ValueError as error:
        return str(error)
    return None


def refusals(rank):
    def call(q, p):
        return parallel.cp_attention(q, q, q, UNION, boundaries=24, dropout_p=p)

    q = inputs(kv_heads=4, length=12)[0]
    found = {"dropout": refused(lambda: compiled(call)[0](q, 0.5))}
    step = compiled(call)[0] if rank == 0 else call
    found["one rank compiles"] = refused(lambda: step(q, 0.0))
    found["rows"] = refused(lambda: compiled(call)[0](q[:, rank:], 0.0))
    found["works"] = tuple(compiled(call)[0](q, 0.0).shape)
    return found


def main(rank, folder):
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS, timeout=timedelta(minutes=14))
    found = {name: graphs_of(call, dtype=torch.float64) for name, call in CALLS.items()}
    found["autocast"] = under_autocast()
    found["out alone"] = out_alone()
    found["placed"] = placed()
    found["refusals"] = refusals(rank)
    torch.save(found, pathlib.Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
