"""Pattern.reach(), and `python -m longstride compare`."""

import json
import pathlib

import pytest
import torch

from longstride import Pattern, __main__

PATTERNS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "patterns"
# What the C++ program's `compare` prints for these at 1,024 tokens and 4 KV heads.
OF_CPP = {
    "axial": "34.4 % never: 67.2 %",
    "dense": "100.0 % 1",
    "dilated": "34.4 % never: 99.9 %",
    "dilated_sparse": "31.7 % 2",
    "global_local": "39.1 % 7",
    "hierarchical": "39.9 % 4",
    "hybrid": "30.1 % 12",
    "local_window": "39.1 % 5",
    "random": "19.6 % never: 62.5 %",
    "strided": "33.7 % 8",
}


def by_walking(mask):
    """For every query the keys that it holds something of after each layer, by walking edges until nothing is added."""
    n = mask.size(1)
    step = [{q, *mask[:, q].any(0).nonzero().flatten().tolist()} for q in range(n)]
    held, shares = [set(keys) for keys in step], []
    while True:
        shares.append(sum(map(len, held)))
        further = [set().union(*(held[k] for k in step[q])) for q in range(n)]
        if further == held:
            return shares
        held = further


@pytest.mark.parametrize(
    "pattern",
    (
        Pattern.sliding_window(3, causal=True),
        Pattern.dilated([8, 16], [1, 4]),
        Pattern.dilated([8, 64], [2, 4], causal=True, head_offset="block"),
        Pattern.block_sparse("axial", 4),
        Pattern.block_sparse("strided", 4, stride_blocks=3, causal=True) | Pattern.dilated([8], [1], causal=True),
    ),
)
def test_it_is_what_walking_finds(pattern):
    found, mask = pattern.reach(50, 2), pattern.mask(50, 2)
    pairs = 50 * 51 / 2 if json.loads(pattern.json())["causal"] else 2500
    shares = by_walking(mask)
    assert found.reached == tuple(share / pairs for share in shares)
    assert found.density == mask.sum().item() / (2 * pairs)
    assert found.all == (shares[-1] == pairs)


def test_one_token():
    assert Pattern.dilated([4], [1]).reach(1) == (1.0, (1.0,))


def test_the_table_is_that_of_the_program(capsys):
    assert __main__.main(["compare", *(str(PATTERNS / f"{name}.json") for name in OF_CPP), "--len", "1k"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0]: " ".join(line.split()[1:]) for line in lines[1:-1]} == OF_CPP
    assert lines[-1] == "1024 tokens, 4 KV heads"


def test_json(capsys):
    text = Pattern.sliding_window(4, causal=True).json()
    assert __main__.main(["compare", text, "--len", "9", "--heads", "1", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["patterns"]
    # 9 queries see 1, 2, 3, 4 and then 5 keys each: 35 of 45 pairs; two steps of 4 reach all.
    assert found["density"] == pytest.approx(35 / 45) and found["reached"] == [pytest.approx(35 / 45), 1.0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    (
        (["nowhere.json"], "PATTERN must be JSON, which begins with {, or a file of it, got 'nowhere.json'"),
        ([Pattern.dilated([4], [1]).json(), "--len", "16k"], "n must be in [1, 8192], got 16384"),
        (["{"], "must be JSON"),
        ([], "required: PATTERN"),
    ),
)
def test_what_is_refused(capsys, arguments, words):
    with pytest.raises(SystemExit) as end:
        __main__.main(["compare", *arguments])
    said = capsys.readouterr()
    assert end.value.code == 2 and words in said.err and said.out == ""


def test_lengths_are_checked_before_any_mask():
    with pytest.raises(ValueError, match=r"n must be in \[1, 8192\], got 0"):
        Pattern.dilated([4], [1]).reach(0)
    assert torch.is_tensor(Pattern.dilated([4], [1]).mask(0))
