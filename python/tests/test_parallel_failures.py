"""Ranks that end, stop or err: what the others raise. Processes over Gloo.

What a rank waits for is an event: word of another rank, the end of a process, a signal. Seconds of a machine that is busy
make these tests late, and nothing else.
"""

import re
import signal

import definition
import failing_ranks as work
import pytest
import torch
from processes import run_ranks
from support import inputs


def results(folder, ranks):
    return [torch.load(file) if (file := folder / f"{rank}.pt").exists() else None for rank in range(ranks)]


def run(folder, scenario, ranks, **more):
    """What was raised, by rank, and what they wrote."""
    texts = run_ranks(work.__file__, ranks, folder, scenario, str(ranks), **more)
    return results(folder, ranks), texts


def failure(what, rank, ranks, group="0"):
    return re.escape(f"{what} failed on rank {rank} of {ranks} of group '{group}': ")


def no_word_from(rank):
    return re.escape(f"no word from rank {rank} within 3 s: ended, stopped, late or at something else")


def assert_raised(step, kind, pattern):
    assert step[0] == kind and re.match(pattern, step[1]), step


def test_a_rank_that_is_killed_is_named_by_all_others(tmp_path):
    found, _ = run(tmp_path, "killed", 3, expected=[0, -signal.SIGKILL, 0])
    for rank, other in ((0, 2), (2, 0)):
        first, again, another = found[rank]
        says = f"{no_word_from(1)}; rank {other} was at cp_attention; the backend says: .*"
        assert_raised(first, "CommError", failure("cp_attention", rank, 3) + says)
        broken = f"on rank {rank} of 3 of group '0': the group is broken since cp_attention failed"
        assert again[:2] == ("CommError", f"cp_attention {broken}")
        assert another[:2] == ("CommError", f"unshard {broken}")


def test_a_rank_that_is_killed_in_the_backward(tmp_path):
    found, _ = run(tmp_path, "killed_in_backward", 2, expected=[0, -signal.SIGKILL])
    assert_raised(found[0][0], "CommError", failure("cp_attention backward", 0, 2) + no_word_from(1))


def test_a_rank_that_stops_is_named_and_errs_too_when_it_goes_on(tmp_path):
    def wake(processes, codes):
        if codes[0] is not None:
            processes[1].send_signal(signal.SIGCONT)

    found, _ = run(tmp_path, "stopped", 2, meanwhile=wake)
    says = no_word_from(1) + "; the backend says: .*Timed out waiting 3000ms"
    assert_raised(found[0][0], "CommError", failure("cp_attention", 0, 2) + says)
    assert_raised(found[1][0], "CommError", failure("cp_attention", 1, 2) + "rank 0 was at cp_attention; ")


def test_a_rank_that_refuses_a_call_which_the_others_know(tmp_path):
    found, texts = run(tmp_path, "ended", 2, expected=[0, 1])
    refusal = "lengths must have one entry per batch row, 2, got 3 entries"
    assert f"ValueError: {refusal}" in texts[1]
    assert_raised(found[0][0], "CommError", failure("cp_attention", 0, 2) + f"rank 1 refuses its call: {refusal}; ")


@pytest.fixture(scope="session")
def together(tmp_path_factory):
    return run(tmp_path_factory.mktemp("together"), "together", 2)[0]


def test_two_threads_at_one_group(together):
    """The first goes on undisturbed."""
    first, second = together[0]["threads"]
    assert first[0] is None and together[1]["threads"][0][0] is None
    text = "another thread is at an exchange of this group; let one thread call, or give each a group of its own"
    assert second[:2] == ("CommError", f"cp_attention on rank 0 of 2 of group '1': {text}")


def test_calls_in_another_order_where_all_are_compared(together):
    differs = "call must be the same on every rank, got cp_attention backward on rank 0 and cp_attention on rank 1"
    assert together[0]["order"][0][:2] == ("ValueError", f"cp_attention backward: {differs}")
    assert together[1]["order"][0][:2] == ("ValueError", f"cp_attention: {differs}")


def test_a_group_that_is_destroyed_before_the_backward(together):
    for rank, found in enumerate(together):
        backward, forward = found["destroyed"]
        says = "this process has destroyed the group; the backend says: Could not resolve the process group registered"
        assert_raised(backward, "CommError", failure("cp_attention backward", rank, 2, "3") + says)
        assert forward[1].endswith("the group is broken since cp_attention backward failed")


def test_a_timeout_that_nobody_keeps(together):
    """Both end by themselves afterwards, with code 0."""
    for rank, found in enumerate(together):
        other = 1 - rank
        says = no_word_from(other) if rank == 0 else "rank 0 was at the agreement before cp_attention"
        place = failure("the agreement before cp_attention", rank, 2, "4")
        if rank == 1:  # what rank 0 has sent may have come, and the rank be at its rows
            place = place.replace("the\\ agreement\\ before\\ ", "(the agreement before )?")
        assert_raised(found["timeout"][0], "CommError", place + says + "; the backend says: ")


def test_tensors_elsewhere(together):
    for found in together:
        text = "q must be on the CPU or a CUDA device where the sequence lies in shards, got meta"
        assert found["device"][0][:2] == ("ValueError", text)


def test_a_key_that_is_no_number_reaches_the_rows_that_see_it(together):
    """On both ranks, and no other row."""
    pattern = {"causal": True, "dilated": {"segment_lengths": [4, 64], "dilation_rates": [1, 2]}}
    wanted = torch.zeros(2, 16, 4, dtype=torch.bool)
    seen = definition.counts(pattern, 16, 1, 2, 0, None, None)[0][:, 5] > 0
    wanted[0, :, 2:] = seen[:, None]
    got = torch.cat([found["values"] for found in together], 1)
    assert got.shape == (*inputs(length=16)[0].shape[:2], 4) and seen[8:].any() and torch.equal(got, wanted)
