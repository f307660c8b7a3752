"""Attention over shards in compiled graphs, on two processes over Gloo, against the same calls outside of graphs."""

import re

import compiled_ranks as work
import pytest
import torch
from processes import run_ranks
from support import close, compiled, inputs

from longstride import parallel


@pytest.fixture(scope="session")  # a shuffled run would start it anew at every return to this file
def ranks(tmp_path_factory):
    """What each check came to, by rank. Both processes run all checks: starting them costs most."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(work.__file__, work.RANKS, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(work.RANKS)]


@pytest.mark.parametrize("name", (*work.CALLS, "autocast"))
def test_one_graph_serves_five_lengths(ranks, name):
    for rank in ranks:
        found, graphs = rank[name]
        assert graphs == 1 and len(found) == len(work.LENGTHS)
        for got, wanted in found:
            for x, y in zip(got, wanted):
                assert x.dtype == y.dtype
                close(x, y, 1e-12)
    assert ranks[0][name][0][0][0][0].dtype == (torch.bfloat16 if name == "autocast" else torch.float64)


def test_a_rank_without_a_gradient_takes_part(ranks):
    for rank in ranks:
        for got, wanted in zip(*rank["out alone"]):
            close(got, wanted, 1e-12)
    assert ranks[1]["out alone"][0][1].abs().max() == 0 or ranks[0]["out alone"][0][1].abs().max() > 0


def test_a_placed_model_compiles(ranks):
    for rank in ranks:
        got, wanted = rank["placed"]
        assert got.keys() == wanted.keys()
        for name in wanted:
            assert wanted[name].abs().max() > 0
            close(got[name], wanted[name], 1e-12)


def test_refusals_are_those_of_the_call(ranks):
    for rank in ranks:
        found = rank["refusals"]
        assert "dropout_seed must be given when dropout_p > 0, got none" in found["dropout"]
        assert re.search(r"compiled must be the same on every rank, got true on rank 0 and null on rank 1", found["one rank compiles"])
        assert "must have the 12 rows of the shard of rank 1, got" in found["rows"]
        assert found["works"] == (2, 12, 4, 8)


def test_one_rank_is_attention_in_a_graph():
    q, k, v = inputs()
    step, graphs = compiled(lambda q, k, v: parallel.cp_attention(q, k, v, work.UNION))
    close(step(q, k, v), parallel.cp_attention(q, k, v, work.UNION), 1e-6)
    assert len(graphs) == 1
