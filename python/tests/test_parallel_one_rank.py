"""cp_attention of one rank, what it refuses there, and operators of a rank that are called by themselves."""

import parallel_ranks as work
import pytest
import torch
from support import inputs

from longstride import Pattern, attention, parallel

PATTERN = Pattern.dilated([4, 16], [1, 2], causal=True)


@pytest.mark.parametrize("layout", ("contiguous", "zigzag"))
def test_one_rank_is_attention(layout):
    q, k, v = inputs(grad=True)
    out, lse = parallel.cp_attention(q, k, v, PATTERN, layout=layout, return_lse=True, scale=0.3, deterministic=True)
    wanted = attention(q, k, v, PATTERN, return_lse=True, scale=0.3)
    assert torch.equal(out, wanted[0]) and torch.equal(lse, wanted[1]) and out.requires_grad
    assert torch.equal(parallel.cp_attention(q, k, v, PATTERN, "none", boundaries=[0, 24], scale=0.3), out)
    slopes = work.slopes_of(4)
    out = parallel.cp_attention(q, k, v, PATTERN, layout=layout, alibi_slopes=slopes)
    assert torch.equal(out, attention(q, k, v, PATTERN, alibi_slopes=slopes))
    dropping = work.dropping(0.5)
    out = parallel.cp_attention(q, k, v, PATTERN, layout=layout, **dropping)
    assert torch.equal(out, attention(q, k, v, PATTERN, **dropping))


def test_one_rank_holds_all_tokens():
    x = torch.randn(2, 5, 3)
    assert torch.equal(parallel.shard(x), x) and torch.equal(parallel.unshard(x), x)
    assert torch.equal(parallel.shard(x, layout="zigzag", dim=-2), x)
    assert parallel.positions(5).tolist() == parallel.positions([0, 5]).tolist() == [0, 1, 2, 3, 4]
    assert parallel.positions(0).tolist() == []


def call(q, *arguments, **options):
    return parallel.cp_attention(q, q, q, PATTERN, *arguments, **options)


@pytest.mark.parametrize(
    "refused, text",
    (
        (lambda q: call(q, boundaries=25), "q must have the 25 rows of the shard of rank 0"),
        (lambda q: call(q, dropout_p=0.1), "dropout_seed must be given when dropout_p > 0, got none"),
        (lambda q: call(q, gates=q), "gates must belong to the rows of blocks, got no blocks"),
        (lambda q: call(q, query_start=0), "query_start must be None in cp_attention, got 0; decode with attention"),
        (lambda q: call(q, exchange="rign"), "exchange must be one of auto, none, direct, ring, heads.u., got 'rign'"),
        (lambda q: call(q, exchange="heads(2)"), "exchange must be one of auto, none, direct, ring on one rank, got 'he"),
        (lambda q: call(q, validate=True), 'validate must be "first" or "always", got True'),
        (lambda q: call(q, layout="striped"), 'layout must be "contiguous" or "zigzag"'),
        (lambda q: call(q, "ring"), 'group must be "none" or the name of a process group'),
        (lambda q: call(q, 3), "group must be a process group, its name or None, got int"),
        (lambda q: parallel.shard(q, boundaries=23), "boundaries must end with the 24 tokens of x, got 23"),
        (lambda q: parallel.shard(q, dim=4), r"dim must be an axis of x, in \[-4, 4\), got 4"),
        (lambda q: parallel.shard([1.0]), "x must be a tensor, got list"),
        (lambda q: parallel.unshard(q, boundaries=[0, 23]), "x must have the 23 rows of the shard of rank 0"),
        (lambda q: parallel.positions("many"), "boundaries must be the tokens of the whole sequence, or a list"),
        (lambda q: parallel.positions([1, 24]), "boundaries must begin with 0, got 1"),
        (lambda q: parallel.positions(-1), "len must be in"),
        (lambda q: parallel.positions(24, layout=None), 'layout must be "contiguous" or "zigzag", got None'),
    ),
)
def test_refusals_of_one_rank(refused, text):
    with pytest.raises(ValueError, match=text):
        refused(inputs(kv_heads=4)[0])


def test_an_operator_refuses_gates_of_a_part_of_the_sequence():
    q, k, v = inputs(length=8)
    rank = (q, k, v, torch.tensor([0, 24]), "contiguous", 3, 1, work.LISTED)
    gated, operators = work.gated(work.ROWS, torch.float32), torch.ops.longstride
    out, lse = operators.cp_forward_pieces(*rank, **gated)
    received = torch.zeros(int(operators.cp_counts(*rank, **gated)[0][1].sum()), 16)
    keys = operators.cp_forward_gathered(received, out, lse, *rank, **gated)
    given = operators.cp_backward_gathered(out, None, out, lse, keys, *rank, **gated)[:2]
    with pytest.raises(ValueError, match="gates must be none where a rank has no whole sequence, got some; divide the heads"):
        operators.cp_backward_pieces(out, None, out, lse, *given, *rank, **gated)


def test_an_operator_checks_its_tensors():
    """Whoever calls a rank's operators by themselves: sizes are checked before memory is read."""
    q, k, v = inputs(length=8)
    rank = (q, k, v, torch.tensor([0, 24]), "contiguous", 3, 1, PATTERN.json())
    operators = torch.ops.longstride
    out, lse = operators.cp_forward_pieces(*rank)
    rows, joined = operators.cp_counts(*rank)
    assert joined and rows.shape == (2, 3)
    received = torch.zeros(int(rows[1].sum()), 16)
    keys = operators.cp_forward_gathered(received, out, lse, *rank)
    for call, text in (
        (lambda: operators.cp_forward_gathered(received[1:], out, lse, *rank), "received must have the shape"),
        (lambda: operators.cp_forward_gathered(received.double(), out, lse, *rank), "received must be Float, got Do"),
        (lambda: operators.cp_forward_gathered(received, out[:, 1:], lse, *rank), "out must have the shape"),
        (lambda: operators.cp_backward_gathered(out, None, out, lse, keys[:1], *rank), "keys must have the shape"),
        (lambda: operators.cp_backward_gathered(out, lse[:1], out, lse, keys, *rank), "d_lse must have the shape"),
        (lambda: operators.cp_backward_pieces(out, None, out, lse, keys, keys, *rank), "d_queries must have the shape"),
        (lambda: operators.cp_add_returned(received, k, v, *rank), "returned must have the shape"),
        (lambda: operators.cp_counts(*rank[:-2], 3, rank[-1]), r"rank must be in \[0, 3\), got 3"),
        (lambda: operators.cp_counts(*rank[:-3], 0, 0, rank[-1]), "ranks must be in"),
        (lambda: operators.cp_counts(*rank, dropout_p=0.5), "dropout_seed must be given when dropout_p > 0"),
        (lambda: operators.cp_counts(*rank, gates=out), "gates must belong to the rows of blocks, got no blocks"),
        (lambda: operators.cp_counts(*rank, query_start=1), "query_start must be unset where the sequence lies in shards"),
        (lambda: operators.cp_pack(q[:, 1:], k[:, 1:], v[:, 1:], *rank[3:]), "q must have the 8 rows of the shard of"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
