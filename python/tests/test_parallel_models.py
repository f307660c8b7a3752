"""Models whose sequences lie with 2, 3 and 4 processes over Gloo, against one process."""

import functools

import model_ranks as work
import pytest
import torch
from processes import run_ranks
from support import close

from longstride import parallel
from longstride.nn import DilatedAttention, LongNetLM, MultiheadDilatedAttention


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """What each check came to, by rank. The processes run all checks: starting them costs most."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(work.__file__, work.PROCESSES, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(work.PROCESSES)]


@functools.cache
def of_one_process(name):
    kind, options, more, run = work.MODELS[name]
    model = work.made(kind, options, **more)
    out, loss = run(slice(None), model)
    return out, loss, work.gradients(model)


@pytest.mark.parametrize("name", work.MODELS)
def test_shards_of_a_model_are_the_whole(ranks, name):
    out, loss, grads = of_one_process(name)
    for world in work.WORLDS:
        for layout in work.LAYOUTS:
            for rank in range(world):
                part, total, summed = ranks[rank]["models"][name, world, layout]
                close(part, out[:, work.positions_of(rank, work.LENGTH, world, layout)], 1e-10)
                close(total, loss, 1e-10)
                assert summed.keys() == grads.keys()
                for parameter, wanted in grads.items():
                    close(summed[parameter], wanted, 1e-9)
    assert sum(g.abs().max() > 1e-6 for g in grads.values()) > len(grads) / 2


def test_three_steps_of_training_give_the_weights_of_one_process(ranks):
    wanted = work.trained(work.made(LongNetLM, work.LM), slice(None))
    for world in (2, 4):
        for rank in ranks[:world]:
            for parameter, weight in rank["training"][world].items():
                close(weight, wanted[parameter], 1e-8)


def test_copies_compute_the_same(ranks):
    for rank in ranks[:2]:
        first, *others = rank["copies"]
        assert len(others) == 3 and all(torch.equal(first, other) for other in others)


SEVERAL = "where the sequence lies with several ranks"
REFUSALS = {
    "slopes": "alibi_slopes must go by exchange heads(2), for which 2 must divide kv_heads, got 1; take as many ranks as "
    "divide kv_heads, or leave alibi_slopes out",
    "slopes by a ring": "exchange must be auto or heads(2) with alibi_slopes, for which ranks have whole sequences, got ring",
    "mask": f"key_padding_mask must be None {SEVERAL}, got a mask; give lengths of the whole sequence",
    "dropout": "dropout_p must go by exchange heads(2), for which 2 must divide kv_heads, got 1; take as many ranks as "
    "divide kv_heads, or leave dropout_p out",
    "decoding": f"query_start must be None {SEVERAL}, got 0; decode in one process: "
    'longstride.parallel.place(module, "none")',
    "max_len": "source must not be longer than max_len 25, got 26; raise max_len in the config",
    "learned": "learned blocks must go by exchange heads(2), for which 2 must divide kv_heads, got 1; take as many ranks as "
    "divide kv_heads, or parameters of the scorer that require no gradient",
    "learned by a ring": "exchange must be auto or heads(2) with gates, for which ranks have whole sequences, got ring",
    "learned of documents": "cu_seqlens must be None with learned blocks, got documents; give each document a batch row and lengths",
    "learned of other lengths": "the choice of blocks: lengths must be the same on every rank, got [24, 5] on rank 0 and [24, 6] on rank 1",
    "no target": "targets must hold one that counts, got none",
}


def test_what_one_rank_refuses_of_a_choice_all_do(ranks):
    own = "q must have the 12 rows of the shard of rank 1, got shape [2, 11, 2, 8]; boundaries and layout say who holds which tokens"
    said = [rank["refusals"]["learned of other rows"] for rank in ranks[:2]]
    assert said == [f"the choice of blocks: rank 1 of 2 refuses its call: {own}", own]


@pytest.mark.parametrize("name", REFUSALS)
def test_every_rank_refuses_what_ranks_cannot_do(ranks, name):
    assert [rank["refusals"][name] for rank in ranks[:2]] == [REFUSALS[name]] * 2


def test_ranks_work_after_refusals(ranks):
    assert [rank["refusals"]["works"] for rank in ranks[:2]] == [(2, 12, 16)] * 2


@pytest.mark.parametrize("name", work.NAMES)
def test_what_a_name_builds_is_one_process_on_any_ranks(ranks, name):
    wanted = work.by_name(work.NAMES[name], slice(None))
    close(torch.cat([rank["named"][name] for rank in ranks], 1), wanted, 1e-10)
    assert wanted.abs().max() > 0.1


@pytest.mark.parametrize("name", ("ring", "distributed", "RingDilatedAttentionV2"))
def test_a_ring_of_some_ranks_has_its_own_sequence(ranks, name):
    for ring in range(2):
        wanted = work.by_name(work.NAMES[name], slice(None), seed=5 + ring)
        got = [rank["named"][name, "rings"] for rank in ranks[2 * ring : 2 * ring + 2]]
        close(torch.cat(got, 1), wanted, 1e-10)


# ---- one rank ----


def test_a_module_placed_on_one_rank_is_as_it_was():
    model = work.made(LongNetLM, work.LM).eval()
    ids, targets = work.tokens()
    logits, loss, text = model(ids), model.loss(ids, targets), model.generate(ids[:, :4], max_tokens=3, temperature=0)
    assert parallel.place(model) is model and model.over_ranks is None
    assert torch.equal(model(ids), logits) and torch.equal(model.loss(ids, targets), loss)
    assert torch.equal(model.generate(ids[:, :4], max_tokens=3, temperature=0), text)
    placed = [part.context_parallel for part in model.modules() if isinstance(part, DilatedAttention)]
    assert placed == [parallel.ContextParallel()] * work.LM["layers"]


@pytest.mark.parametrize(
    "refused, text",
    (
        (lambda: parallel.place(torch.nn.Linear(2, 2)), "module must have attention of longstride.nn in it, got Li"),
        (lambda: parallel.ContextParallel(layout="rows"), "layout must be \"contiguous\" or \"zigzag\", got 'rows'"),
        (lambda: parallel.ContextParallel(exchange="star"), r"exchange must be one of auto, .*, heads\(u\), got 'star'"),
        (lambda: parallel.ContextParallel(validate=1), 'validate must be "first" or "always", got 1'),
        (lambda: parallel.place(DilatedAttention([4], [1]), "g"), 'group must be "none" or the name of a process'),
        (
            lambda: work.made(MultiheadDilatedAttention, work.ATTENTION)(work.embeddings(1, 16), boundaries=25),
            "boundaries must be None where this process holds the whole sequence, got 25; call",
        ),
    ),
)
def test_refusals_of_one_rank(refused, text):
    with pytest.raises(ValueError, match=text):
        refused()
