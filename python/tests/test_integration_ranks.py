"""DDP and FSDP2 on two processes over Gloo against one process with the whole batch."""

import gloo_ranks
import pytest
import torch
from processes import run_ranks
from support import close


@pytest.fixture(scope="session")  # a shuffled run would start it anew at every return to this file
def ranks(tmp_path_factory):
    """What each check came to, by rank. Both processes run all checks: starting them costs most."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(gloo_ranks.__file__, gloo_ranks.RANKS, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(gloo_ranks.RANKS)]


@pytest.fixture(scope="session")
def alone():
    """The gradients of one process, and its weights after a step."""
    model, ids = gloo_ranks.model_of(), gloo_ranks.tokens()
    gloo_ranks.loss_of(model(ids), ids).backward()
    found = gloo_ranks.gradients(model)
    torch.optim.AdamW(model.parameters(), 1e-2).step()
    return {name: g.clone() for name, g in found.items()}, model.state_dict()


@pytest.mark.parametrize("name", ("DDP", "DDP with checkpointing", "FSDP2", "FSDP2, the model's loss"))
def test_gradients_are_those_of_one_process(ranks, alone, name):
    for rank in ranks:
        assert rank[name].keys() == alone[0].keys()
        for parameter, wanted in alone[0].items():
            assert wanted.abs().max() > 1e-6
            close(rank[name][parameter], wanted, 1e-10)


@pytest.mark.parametrize("name", ("DDP under autocast", "FSDP2 in bfloat16"))
def test_lower_precision_is_near(ranks, alone, name):
    for parameter, wanted in alone[0].items():
        got = ranks[0][name][parameter]
        assert got.dtype == torch.float32 and torch.equal(got, ranks[1][name][parameter])
        assert (got - wanted).norm() < 0.1 * wanted.norm()


def test_checkpointing_drops_the_same_pairs_again(ranks, alone):
    for parameter, wanted in ranks[0]["dropout"].items():
        assert torch.equal(ranks[0]["dropout with checkpointing"][parameter], wanted)
    assert not torch.equal(ranks[0]["dropout"]["embedding.weight"], alone[0]["embedding.weight"])


def test_a_model_sharded_on_meta_learns_as_one_process_does(ranks, alone):
    for parameter, wanted in alone[1].items():
        close(ranks[0]["FSDP2 from meta, after a step"][parameter], wanted, 1e-8)
