"""Attention over shards, on 2 to 8 processes over Gloo, against the definition and against one process."""

import functools
import re

import definition
import parallel_ranks as work
import pytest
import torch
from processes import run_ranks
from support import inputs

from longstride import attention

NAMES = ("out", "lse", "dq", "dk", "dv", "d_gates")


@pytest.fixture(scope="session")  # a shuffled run would start it anew at every return to this file
def ranks(tmp_path_factory):
    """What each check came to, by rank. The processes run all checks: starting them costs most."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(work.__file__, work.PROCESSES, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(work.PROCESSES)]


def results_of(attend, name, dtype):
    """(out, lse, dq, dk, dv) of the whole sequence, and of a case with gates d_gates."""
    pattern, sizes, options = work.case_of(name)
    options = work.options_of(options, dtype)
    q, k, v = inputs(dtype=dtype, grad=True, **sizes)
    out, lse = attend(q, k, v, pattern, options)
    work.loss_of(out, lse, *work.gradients_given(q.shape, dtype)).backward()
    return [t.detach() for t in (out, lse, q.grad, k.grad, v.grad, *work.gates_gradient(options))]


@functools.cache
def by_definition(name, dtype=torch.float64):
    """In float64, of inputs that are of the dtype. Where pairs are dropped or have gates it is one process, whose draws
    C++ tests and whose gradient of gates test_gradients.py."""

    def attend(q, k, v, pattern, options):
        if "dropout_p" in options or "gates" in options:
            return attention(q, k, v, work.json.dumps(pattern), return_lse=True, **options)
        return definition.attention(q, k, v, pattern, **options)

    if dtype == torch.float64:
        return results_of(attend, name, dtype)
    pattern, sizes, options = work.case_of(name)
    options = work.options_of(options, torch.float64)
    q, k, v = (t.to(torch.float64).requires_grad_() for t in inputs(dtype=dtype, **sizes))
    out, lse = attend(q, k, v, pattern, options)
    d_out, d_lse = work.gradients_given(q.shape, dtype)
    work.loss_of(out, lse, d_out.to(torch.float64), d_lse.to(torch.float64)).backward()
    return [t.detach() for t in (out, lse, q.grad, k.grad, v.grad, *work.gates_gradient(options))]


@functools.cache
def of_one_process(name, dtype):
    return results_of(
        lambda q, k, v, pattern, options: attention(q, k, v, work.json.dumps(pattern), return_lse=True, **options),
        name, dtype,
    )  # fmt: skip


def whole(ranks, call, check="attentions"):
    """The results of all ranks put where their tokens are, and the sum of their gradients of gates."""
    name, world, layout, dtype = call
    wanted = by_definition(name, dtype)
    joined = [torch.full_like(t, 0 if what == "d_gates" else torch.nan) for what, t in zip(NAMES, wanted)]
    length = wanted[0].size(1)
    for rank in range(world):
        at = work.positions_of(rank, length, world, layout)
        for n, (to, part) in enumerate(zip(joined, ranks[rank][check][call])):
            as_lse = NAMES[n] in ("lse", "d_gates") and dtype != torch.float64
            assert part.dtype == (torch.float32 if as_lse else dtype)
            if NAMES[n] == "d_gates":
                to += part
            elif NAMES[n] == "lse":
                to[:, :, at] = part.to(torch.float64)
            else:
                to[:, at] = part.to(torch.float64)
    return joined


CALLS = work.attention_cases()


RINGS = work.ring_cases()
HEADS = work.heads_cases()
WHOLE = work.whole_cases()
CHECKS = {"attentions": CALLS, "rings": RINGS, "divided": HEADS}


@pytest.mark.parametrize("name", dict.fromkeys(call[0] for call in CALLS))
@pytest.mark.parametrize("check", CHECKS)
def test_shards_are_the_whole_in_float64(ranks, name, check):
    calls = [call for call in CHECKS[check] if call[0] == name and call[3] == torch.float64]
    assert {call[1] for call in calls} >= {2, 3} or check == "divided"
    for call in calls:
        for what, got, wanted in zip(NAMES, whole(ranks, call, check), by_definition(name)):
            say = functools.partial("{} of {}: {}".format, what, call)
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12, msg=say)


@pytest.mark.parametrize("name", work.LOW_PRECISION)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("check, world", (("attentions", 3), ("rings", 3), ("divided", 4)))
def test_shards_err_as_one_process_does(ranks, name, dtype, check, world):
    for layout in work.LAYOUTS:
        got = whole(ranks, (name, world, layout, dtype), check)
        check_errors(got, name, dtype, layout)


def check_errors(got, name, dtype, layout):
    """Those of shards are within twice the worst of one process, and a rounding."""
    for what, x, alone, wanted in zip(NAMES, got, of_one_process(name, dtype), by_definition(name, dtype)):
        unit = torch.finfo(torch.float32 if what in ("lse", "d_gates") else dtype).eps / 2
        finite = wanted.isfinite()
        assert torch.equal(x[~finite], wanted[~finite])
        x, alone, wanted = (t.to(torch.float64)[finite] for t in (x, alone, wanted))
        if finite.any():
            bound = 2 * (alone - wanted).abs().max() + 2 * unit * wanted.abs().clamp(min=1)
            assert ((x - wanted).abs() <= bound).all(), f"{what} of {layout}: {((x - wanted).abs() - bound).max()}"


def test_every_world_and_layout_runs():
    assert {call[1:3] for call in CALLS} == {(world, layout) for world in work.WORLDS for layout in work.LAYOUTS}


def test_heads_are_divided_among_all_ranks_and_among_some():
    assert {(work.heads_of(*call[:2]), call[1], call[2]) for call in HEADS} >= {
        (u, world, layout) for u, world in ((2, 2), (3, 3), (2, 4), (4, 4)) for layout in work.LAYOUTS
    }


def test_heads_of_all_ranks_are_those_of_one_process_bit_for_bit(ranks):
    """Nothing is joined: each head's rows are computed where it is, as one process computes them."""
    alike = [call for call in HEADS if call[1] == work.heads_of(*call[:2])]
    assert len(alike) > 100
    for call in alike:
        for x, wanted in zip(whole(ranks, call, "divided"), of_one_process(call[0], call[3])):
            assert torch.equal(x, wanted.to(torch.float64)), call


@pytest.mark.parametrize("name", dict.fromkeys(call[0] for call in WHOLE))
def test_options_of_whole_sequences_are_those_of_one_process(ranks, name):
    calls = [call for call in WHOLE if call[0] == name]
    assert {call[2] for call in calls} == set(work.LAYOUTS)
    for call in calls:
        got, dtype = whole(ranks, call, "of_whole"), call[3]
        if dtype != torch.float64:  # of fewer heads a plan may be another
            check_errors(got, name, dtype, call[2])
            continue
        for what, x, wanted in zip(NAMES, got, by_definition(name)):
            say = functools.partial("{} of {}: {}".format, what, call)
            torch.testing.assert_close(x, wanted, rtol=1e-12, atol=1e-12, msg=say)


def test_options_of_whole_sequences_run_on_two_to_four_ranks():
    assert {call[1] for call in WHOLE} == {2, 3, 4}


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16))
def test_slopes_add_no_bytes_to_those_of_divided_heads_and_dropout_a_seed(ranks, dtype):
    for n, rank in enumerate(ranks[:2]):
        of_slopes, of_dropout, without = (rank["counted"]["whole", what, dtype] for what in ("slopes", "dropout", "none"))
        assert of_slopes == without and len(without) == 6
        assert of_dropout == [("cp_attention", 8 * (n == 0), int(n == 0)), *without]


def test_what_is_dropped_follows_from_the_first_seed(ranks):
    for rank in ranks[:2]:
        first, again, other_seed, other_share = rank["dropped"]
        assert all(torch.equal(a, b) for a, b in zip(first, again))
        assert torch.equal(first[1], other_seed[1]) and torch.equal(first[1], other_share[1])  # lse knows of no dropout
        for n in (0, 2, 3, 4):
            assert (first[n] != other_seed[n]).any() and (first[n] != other_share[n]).any()


def test_repeats_are_bitwise_equal(ranks):
    assert [rank["repeated"] for rank in ranks[:3]] == [True] * 3


def test_ranks_of_a_group_are_not_those_of_the_processes(ranks):
    call = ("causal", 2, "even", torch.float64)
    for got, of_process in zip((ranks[3], ranks[6]), ranks[:2]):
        assert all(torch.equal(a, b) for a, b in zip(got["other_members"], of_process["attentions"][call]))


def test_segments_within_shards_send_nothing(ranks):
    for rank in ranks[:3]:
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            for exchange in ("auto", "ring"):
                assert rank["counted"][exchange, "local segments", dtype] == []


def sent(rank, name, dtype):
    (_, forward, to_itself), (_, backward, back_to_itself) = rank["counted"]["auto", name, dtype]
    assert to_itself == back_to_itself == 0
    return forward, backward


@pytest.mark.parametrize("name", ("doubling", "window over ranks", "causal window"))
@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16))
def test_bytes_of_a_ring(ranks, name, dtype):
    """The rows of the direct exchange, and in the backward those of keys once more, in as many messages as steps."""
    for rank in ranks[:4]:
        forward, backward = sent(rank, name, dtype)
        calls = rank["counted"]["ring", name, dtype]
        first = [size for what, size, _ in calls if what == "cp_attention"]
        second = [size for what, size, _ in calls if what == "cp_attention backward"]
        assert len(first) == (2 if name == "window over ranks" else 3) and len(second) == 2 * len(first)
        assert (sum(first), sum(second)) == (forward, forward + backward)
        assert all(to_itself == 0 for *_, to_itself in calls)


@pytest.mark.parametrize("name", ("doubling", "window over ranks"))
@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16))
def test_bytes_of_two_ranks_that_divide_heads(ranks, name, dtype):
    """Of a shard's rows the other rank's half: q, k and v for its heads, out and lse of its rows, and gradients of
    these. Then keys of one KV head among pairs of ranks, as direct has them of shards twice as long."""
    rows = {"doubling": 8, "window over ranks": 10}[name]
    wide = 8 if dtype == torch.float64 else 4
    inputs, results, lse = 2 * (2 + 1 + 1) * 8 * dtype.itemsize, 2 * 2 * 8 * dtype.itemsize, 2 * 2 * wide
    # Segments of 32 alone are longer than 16, at rate 8; a window of 19 back sees 19 of the 20 rows before.
    beyond = {"doubling": (2, 2, 2, 2), "window over ranks": (19, 19, 0, 0)}[name]
    back = {"doubling": (2, 2, 2, 2), "window over ranks": (0, 0, 19, 19)}[name]
    for n, rank in enumerate(ranks[:4]):
        calls = rank["counted"]["heads(2)", name, dtype]
        half = [size for what, size, _ in calls if what == "cp_attention"]
        assert half == [rows * inputs, beyond[n] * 2 * 2 * 8 * dtype.itemsize, rows * results, rows * lse]
        half = [size for what, size, _ in calls if what == "cp_attention backward"]
        assert half == [rows * results, rows * lse, back[n] * 2 * 2 * 8 * wide, rows * inputs]


def test_a_causal_ring_is_a_line(ranks):
    """Rank i feeds those after it alone: of a shard's 10 rows of 2 x 2 KV heads, 3 - i times."""
    for n, rank in enumerate(ranks[:4]):
        calls = rank["counted"]["ring", "causal window", torch.float64]
        first = [size for what, size, _ in calls if what == "cp_attention"]
        assert first == [10 * 2 * 2 * 2 * 8 * 8 if n + step < 4 else 0 for step in (1, 2, 3)]


def test_a_ring_holds_no_more_on_more_ranks(ranks):
    """Bytes of one direction or the other at a time, of shards of 64 rows: what a rank holds of the rows of all others."""
    rows = 64 * 2 * 2 * 16 * 8  # keys and values of a shard
    for rank in ranks[:4]:
        held = rank["held"]
        assert held["direct", 8] - held["direct", 4] >= 2 * 4 * rows
        assert abs(held["ring", 8] - held["ring", 4]) < rows / 16
        assert held["ring", 8] < held["direct", 4] < held["direct", 8]


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16))
def test_bytes_of_doubling_segments(ranks, dtype):
    """Of each segment w beyond a shard of 8 the samples that no shorter one has: (16 - 8) / 4 + (32 - 16) / 8 rows a
    head; K and V of a row in the dtype, their gradients in float32 or float64."""
    rows = 2 * 2 * ((16 - 8) // 4 + (32 - 16) // 8)
    of_gradients = 8 if dtype == torch.float64 else 4
    for rank in ranks[:4]:
        assert sent(rank, "doubling", dtype) == (rows * 2 * 8 * dtype.itemsize, rows * 2 * 8 * of_gradients)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16))
def test_bytes_of_a_window(ranks, dtype):
    """Of 19 keys back at shards of 10: rank i needs all of the shard before its own and 9 of the one before that."""
    received = [0, 10, 19, 19]
    back = [10 + 9, 10 + 9, 10, 0]  # what others need of each
    of_gradients = 8 if dtype == torch.float64 else 4
    for n, rank in enumerate(ranks[:4]):
        forward, backward = sent(rank, "window over ranks", dtype)
        assert forward == back[n] * 2 * 2 * 2 * 8 * dtype.itemsize
        assert backward == received[n] * 2 * 2 * 2 * 8 * of_gradients


@pytest.mark.parametrize("world", (3, 8))
@pytest.mark.parametrize("layout", work.LAYOUTS)
def test_shard_unshard_and_positions(ranks, world, layout):
    length = 29
    sequence = torch.arange(2 * length * 3, dtype=torch.float64).view(2, length, 3)
    for n in range(world):
        part, back, leaf_grad, whole_grad, positions = ranks[n]["sharded"][world, layout]
        at = work.positions_of(n, length, world, layout)
        assert positions.tolist() == at and positions.dtype == torch.int64
        assert torch.equal(part, sequence[:, at]) and torch.equal(back, sequence)
        # Of the sum over ranks of (rank + 1) * sum(x * x's values).
        assert torch.equal(leaf_grad, sequence[:, at] * sum(range(1, world + 1)))
        assert torch.equal(whole_grad, torch.zeros_like(sequence).index_fill(1, torch.tensor(at, dtype=torch.int64), 1))


CAUSAL = '{"causal":true,"dilated":{"dilation_rates":[1,2],"segment_lengths":[4,16]}}'
SAME = "cp_attention: {} must be the same on every rank, got {} on ranks 0, 1 and {} on rank 2"
FEW = (
    "alibi_slopes must go by exchange heads(3), for which 3 must divide kv_heads, got 2; take as many ranks as divide kv_heads, "
    "or leave alibi_slopes out"
)
DIFFERENCES = {
    "pattern": SAME.format("pattern", CAUSAL, CAUSAL.replace("true", "false")),
    "dim": SAME.format("dim", 8, 16),
    "dtype": "cp_attention: dtype must be the same on every rank, got Float on ranks 0, 2 and Double on rank 1",
    "heads": SAME.format("heads of q", 4, 2),
    "length": SAME.format("boundaries", "[0, 24]", "[0, 25]"),
    "rows": SAME.format("boundaries", "[0, 24]", "[0, 21]"),
    "scale": SAME.format("scale", "null", 0.5),
    "deterministic": SAME.format("deterministic", "false", "true"),
    "layout": SAME.format("layout", "contiguous", "zigzag"),
    "unshard": SAME.replace("cp_attention", "unshard").format("other sizes of x", "[2, 4]", "[2, 5]"),
    "dropout": FEW.replace("alibi_slopes", "dropout_p"),
    "dropout round a ring": "exchange must be auto or heads(3) with dropout_p, for which ranks have whole sequences, got ring",
    "dropout without a seed": "dropout_seed must be given when dropout_p > 0, got none; draw one with "
    "draw_dropout_seed(device), or torch.randint(2**63 - 1, (), dtype=torch.int64)",
    "dropout of all": "dropout_p must be in [0, 1), got 1",
    "another dropout": SAME.format("dropout_p", 0.5, 0.25),
    "two seeds": "dropout_seed must be one int64, got Long of shape [2]",
    "a seed that is a number": "dropout_seed must be a tensor, got int",
    "gates of few": FEW.replace("alibi_slopes", "gates"),
    "gates round a ring": "exchange must be auto or heads(3) with gates, for which ranks have whole sequences, got ring",
    "gates without blocks": "gates must belong to the rows of blocks, got no blocks; give the list of blocks beside the pattern",
    "gates of one rank": SAME.format("gates", "true", "false"),
    "gates in a list": "gates must be a tensor, got list",
    "exchange": "unknown exchange 'rign'; one of [none, direct, ladder, heads(2), ring]; did you mean 'ring'?",
    "exchange of one rank": SAME.format("exchange", "direct", "ring"),
    "heads among ranks": "exchange must be auto or one of [direct, ring] here, got heads(2); 2 does not divide the 3 ranks",
    "heads of few": "exchange must be auto or one of [direct, ring] here, got heads(3); 3 does not divide kv_heads (2)",
    "ladder": "exchange must be auto or one of [direct, ring] here, got ladder; it is in the model of costs alone",
    "slopes of few": FEW,
    "slopes of local segments": FEW,
    "slopes round a ring": "exchange must be auto or heads(3) with alibi_slopes, for which ranks have whole sequences, got ring",
    "slopes without rows": "exchange must be auto or heads(3) with alibi_slopes, for which ranks have whole sequences, got none",
    "slopes of a share": "alibi_slopes must be Float with one entry a query head, 3, got Float of shape [1]; cast it "
    "with .float(), repeat or cut it to the heads of q",
    "slopes in float64": "alibi_slopes must be Float with one entry a query head, 3, got Double of shape [3]; cast it "
    "with .float(), repeat or cut it to the heads of q",
    "slopes with a gradient": "alibi_slopes must not require a gradient: they get none, got slopes that require one; "
    "pass slopes.detach()",
    "infinite slopes": "alibi_slopes must be finite, got inf for head 0; a slope of 0 leaves a head as it is",
    "slopes in a list": "alibi_slopes must be a tensor, got list",
    "none": "exchange must not be none where queries see keys of other ranks, 16 rows in all, got none; take direct or "
    "auto, or shards that segments end on",
    "boundaries": "boundaries must be 0 and the length of the sequence where the layout is zigzag, whose shards are "
    "even, got 4 positions",
    "too few boundaries": "boundaries must have 4 positions for 3 ranks, got 3; rank i holds the tokens from "
    "boundaries[i] to boundaries[i + 1]",
    "descending boundaries": "boundaries[2] must be at least boundaries[1], 16, got 8",
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_every_rank_refuses_what_differs_or_is_wrong(ranks, name):
    assert [rank["refusals"][name] for rank in ranks[:3]] == [DIFFERENCES[name]] * 3


def test_documents_that_differ(ranks):
    wanted = re.escape(SAME.format("cu_seqlens", "LIST", "LIST")).replace("LIST", r"\[3\] \w{16}")
    for rank in ranks[:3]:
        assert re.fullmatch(wanted, rank["refusals"]["documents"])


def test_gates_of_one_rank_that_are_not_1(ranks):
    said = [rank["refusals"]["other gates"] for rank in ranks[:3]]
    own = "gates must all be 1: they are there for their gradient, got other values; pass 1 + score - score.detach()"
    assert said == [f"cp_attention: rank 2 of 3 refuses its call: {own}"] * 2 + [own]


def test_a_rank_gives_gates_the_gradient_of_its_heads(ranks):
    """Rows of one KV head have theirs from the rank that has it."""
    call = ("gates, 3 ranks", 3, "zigzag", torch.float64)
    first, second, third = (rank["of_whole"][call][5] for rank in ranks[:3])
    of_first, of_second = torch.tensor([0, 3, 4]), torch.tensor([1, 2])
    assert (first[of_first] != 0).all() and (second[of_second] != 0).all()
    assert (first[of_second] == 0).all() and (second[of_first] == 0).all() and (third == 0).all()


def test_slopes_that_differ(ranks):
    wanted = re.escape(SAME.format("alibi_slopes", "LIST", "LIST")).replace("LIST", r"\[3\] \w{16}")
    for rank in ranks[:3]:
        assert re.fullmatch(wanted, rank["refusals"]["slopes"])


def test_what_one_rank_refuses_all_do(ranks):
    own = (
        "heads of q must be a multiple of the heads of k and v, 2, got 3; every KV head serves heads / kv_heads query "
        "heads"
    )
    said = [rank["refusals"]["own call"] for rank in ranks[:3]]
    assert said == [f"cp_attention: rank 2 of 3 refuses its call: {own}"] * 2 + [own]


def test_another_call_on_one_rank(ranks):
    said = [rank["refusals"]["another call"] for rank in ranks[:3]]
    differs = "call must be the same on every rank, got cp_attention on ranks 0, 1 and unshard on rank 2"
    assert said == [f"cp_attention: {differs}"] * 2 + [f"unshard: {differs}"]


def test_a_group_works_after_refusals(ranks):
    for rank in ranks[:3]:
        assert rank["refusals"]["works"] == rank["refusals"]["none of local segments"] == (2, 8, 4, 8)
