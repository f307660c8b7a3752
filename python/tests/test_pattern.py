"""Pattern as a value: equality, text, repr, copies, unions, masks."""

import copy
import json
import pathlib
import pickle
import re

import cases
import definition
import pytest
import torch
from test_values import pattern_of

import longstride as ls
from longstride import Pattern

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "patterns"
RULES = ("local_window", "dilated_sparse", "global_local", "strided", "axial", "random", "hierarchical", "sliding_window", "list")


@pytest.mark.parametrize("name", cases.CASES)
def test_text_repr_and_copies_give_the_same_value(name):
    pattern = pattern_of(cases.CASES[name][0])
    for same in (
        Pattern.from_json(pattern.json()),
        Pattern.from_json(json.dumps(cases.CASES[name][0])),
        eval(repr(pattern)),
        pickle.loads(pickle.dumps(pattern)),
        copy.copy(pattern),
        copy.deepcopy(pattern),
    ):
        assert same == pattern and hash(same) == hash(pattern) and repr(same) == repr(pattern)
        assert same.json() == pattern.json()


def test_patterns_of_the_documentation():
    files = sorted(DOCS.glob("*.json"))
    assert len(files) >= 10
    values = {Pattern.from_json(file.read_text()) for file in files}
    assert len(values) == len(files)
    assert all(eval(repr(pattern)) == pattern for pattern in values)


def test_what_is_left_out_is_the_default():
    for one, same in (
        (
            Pattern.dilated([4], [1]),
            Pattern.from_json(
                '{"causal": false, "dilated": {"segment_lengths": [4], "dilation_rates": [1], "head_offset": "modulo",'
                ' "offsets": null, "mixing": "joint", "average": false, "padding": "masked"}, "blocks": []}'
            ),
        ),
        (
            Pattern.block_sparse("random", 8, density=0.25),
            Pattern.block_sparse("random", 8, sparsity_ratio=0.75, seed=0),
        ),
        (
            Pattern.block_sparse("dilated_sparse", 8, reach=1),
            Pattern.block_sparse("dilated_sparse", 8, rates=torch.tensor([1]), reach=1),
        ),
        (Pattern.block_sparse("local_window", 8, density=1), Pattern.block_sparse("local_window", 8, density=1.0)),
        (
            Pattern.block_sparse("hierarchical", 8, levels=[{"stride": 8, "window": 8}]),
            Pattern.block_sparse("hierarchical", 8, levels=[{"stride": 8, "window": 8, "global": False}]),
        ),
    ):
        assert one == same and hash(one) == hash(same)
    assert Pattern.dilated([4], [1]) != Pattern.dilated([4], [1], causal=True)
    assert Pattern.dilated([4], [1]) != Pattern.dilated([4], [1]).json()


def test_it_does_not_change():
    pattern = Pattern.dilated([4], [1])
    for change in (lambda: setattr(pattern, "_text", "{}"), lambda: setattr(pattern, "x", 1), lambda: delattr(pattern, "_text")):
        with pytest.raises(AttributeError, match="a Pattern does not change"):
            change()
    lists = [4, 8], [1, 2]
    pattern = Pattern.dilated(*lists)
    lists[0].append(16)
    assert pattern == Pattern.dilated([4, 8], [1, 2])


def test_causal():
    pattern = Pattern.dilated([4, 16], [1, 2]) | Pattern.block_sparse("strided", 4, stride_blocks=2)
    assert not pattern.causal and pattern.with_causal(True).causal
    assert pattern.with_causal(True).with_causal(False) == pattern
    assert torch.equal(pattern.with_causal(True).mask(19, heads=2), pattern.mask(19, heads=2).tril())


def test_unions():
    window, rows = Pattern.block_sparse("local_window", 4, window=8), Pattern.block_sparse("strided", 4, stride_blocks=3)
    groups = Pattern.dilated([4, 16], [1, 2])
    assert torch.equal((window | rows).mask(24), window.mask(24) | rows.mask(24))
    assert torch.equal((groups | rows).mask(24, heads=2), groups.mask(24, heads=2) | rows.mask(24, heads=2))
    assert (groups | window) | rows == groups | (window | rows)
    assert window | groups == groups | window
    with pytest.raises(ValueError, match="must have one causal"):
        groups | rows.with_causal(True)
    with pytest.raises(ValueError, match="must not both have dilated groups"):
        groups | Pattern.dilated([8], [1])
    with pytest.raises(TypeError):
        groups | "pattern"


@pytest.mark.parametrize(
    "name", [name for name, (_, _, options) in cases.CASES.items() if not {"lengths", "cu_seqlens"} & set(options)]
)
def test_masks_are_the_definitions(name):
    pattern, shape, _ = cases.CASES[name]
    heads, n = shape.get("kv_heads", 2), shape.get("length", 24)
    wanted = [definition.counts(pattern, n, j, heads, 0, None, None)[0] > 0 for j in range(heads)]
    assert torch.equal(pattern_of(pattern).mask(n, heads), torch.stack(wanted))


def test_masks_of_any_length():
    pattern = Pattern.dilated([64, 512], [1, 4], causal=True)
    assert pattern.mask(0).shape == (1, 0, 0)
    mask = pattern.mask(300)
    assert torch.equal(mask[:, :64, :64], torch.ones(1, 64, 64, dtype=torch.bool).tril())
    keys = torch.arange(300)
    assert torch.equal(mask[0, 296], (keys <= 296) & ((keys % 4 == 0) | (keys >= 256)))
    open_list = Pattern.block_sparse("list", 2)
    assert open_list.mask(4, blocks=torch.tensor([[-1, -1, 1, 0]], dtype=torch.int32)).sum() == 4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pattern.mask(300), mask)


def test_every_rule_is_documented():
    with pytest.raises(ValueError, match="unknown pattern 'none of these'") as error:
        Pattern.block_sparse("none of these", 8)
    known = re.search(r"one of \[(.*?)\]", str(error.value))[1].split(", ")
    assert tuple(known) == RULES
    assert all(f'"{name}"' in Pattern.block_sparse.__doc__ for name in known)


@pytest.mark.parametrize(
    "make, words",
    (
        (lambda: Pattern.dilated([4, 8], [1]), "must have the same length: 2 != 1"),
        (lambda: Pattern.dilated([], [1]), r"^segment_lengths cannot be empty, got \[\]; give one length a group"),
        (lambda: Pattern.dilated([4], []), "^dilation_rates cannot be empty"),
        (lambda: Pattern.dilated([4, 0], [1, 1]), r"^segment_lengths\[1\] must be positive, got 0"),
        (lambda: Pattern.dilated([4], [-1]), r"^dilation_rates\[0\] must be positive, got -1"),
        (lambda: Pattern.dilated([4.5], [1]), r"segment_lengths\[0\] must be an integer, got 4.5"),
        (lambda: Pattern.dilated([4.0], [1]), r"segment_lengths\[0\] must be an integer"),
        (lambda: Pattern.dilated([True], [1]), r"segment_lengths\[0\] must be an integer, got true"),
        (lambda: Pattern.dilated([2**70], [1]), "must fit 64 bits"),
        (lambda: Pattern.dilated("4", [1]), "segment_lengths must be a list of integers"),
        (lambda: Pattern.dilated(None, [1]), "segment_lengths must be given, got none"),
        (lambda: Pattern.dilated([4], [1], head_offset="modul"), "unknown head_offset.*did you mean 'modulo'"),
        (lambda: Pattern.dilated([4], [1], mixing="jiont"), "did you mean 'joint'"),
        (lambda: Pattern.dilated([4], [1], padding="zeros"), r"one of \[masked, zero_keys\]"),
        (lambda: Pattern.dilated([4], [1], average=True), "^average divides out by the number of groups"),
        (lambda: Pattern.dilated([4], [1], causal=1), "^causal must be true or false, got 1"),
        (lambda: Pattern.dilated([4], [1], offsets=[-1]), r"^offsets\[0\] must not be negative"),
        (lambda: Pattern.dilated([4, 4], [1, 2], offsets=[1, 2, 3]), "^offsets must have groups x kv_heads entries"),
        (lambda: Pattern.block_sparse("local_windw", 4, window=4), "did you mean 'local_window'"),
        (lambda: Pattern.block_sparse("local_window", 4, windw=4), r"unknown key of blocks\[0\] 'windw'.*'window'"),
        (lambda: Pattern.block_sparse("local_window", 4), "window and density must be given one without the other"),
        (lambda: Pattern.block_sparse("local_window", 0, window=4), "^block_size must be positive, got 0"),
        (lambda: Pattern.block_sparse("local_window", 4, density=1.5), r"^density must be in \(0, 1\], got 1.5"),
        (lambda: Pattern.block_sparse("random", 4, density=float("nan")), "must be finite"),
        (lambda: Pattern.block_sparse("random", 4), "density must be given"),
        (lambda: Pattern.block_sparse("strided", 4, stride_blocks=object()), "^stride_blocks must be a number"),
        (lambda: Pattern.block_sparse("hierarchical", 4, levels=[]), "^levels cannot be empty"),
        (lambda: Pattern.block_sparse("hierarchical", 4, levels=[{"stride": 6, "window": 4}]), "the next is 8"),
        (lambda: Pattern.block_sparse("list", 4, blocks=[[0, 0, 0]]), r"blocks\[0\] must be \[batch row or -1"),
        (lambda: Pattern.block_sparse("list", 4, blocks=[[0, 0, -1, 0]]), "query_block must not be negative"),
        (lambda: Pattern.from_json("{"), "^pattern must be JSON, got parse error at line 1"),
        (lambda: Pattern.from_json("[]"), r"^pattern must be an object, got \[\]"),
        (lambda: Pattern.from_json("{}"), 'must have "dilated" groups or "blocks"'),
        (lambda: Pattern.from_json('{"dilatd": {}}'), "did you mean 'dilated'"),
        (lambda: Pattern.from_json("[" * 100000), "^pattern must be nested at most 64 levels deep"),
        (lambda: Pattern.from_json(4), "^pattern must be a text in JSON, got int"),
        (lambda: Pattern.dilated([4], [1]).mask(-1), "^n must be an integer >= 0, got -1"),
        (lambda: Pattern.dilated([4, 8], [1, 1], mixing="head_partition").mask(8), "at least the number of groups, 2"),
    ),
)  # fmt: skip
def test_what_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_refused_pattern_is_refused_by_the_function_too():
    q = torch.zeros(1, 8, 1, 8)
    for segments in ([4.0], [True], [0], []):
        with pytest.raises(ValueError):
            ls.dilated_attention(q, q, q, segments, [1])
    ls.dilated_attention(q, q, q, [4], [1])
    with pytest.raises(ValueError):
        ls.dilated_attention(q, q, q, [4.0], [1])
