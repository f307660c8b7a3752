"""describe(): what a call would do, counted beside what the pattern shows, and what it refuses."""

import pytest
import torch

import longstride as ls
from support import inputs

PATTERNS = {
    "dilated": ls.Pattern.dilated([64, 128], [1, 2], causal=True),
    "blocks": ls.Pattern.block_sparse("local_window", 16, window=64),
    "window": ls.Pattern.sliding_window(7, 0, causal=True),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_pairs_are_those_of_the_mask(name):
    pattern = PATTERNS[name]
    q, k, v = inputs(heads=4, kv_heads=2, length=200, dim=16, batch=3)
    found = ls.describe(q, k, v, pattern)
    shown = 3 * 2 * int(pattern.mask(200, heads=2).sum())  # of 3 batch rows, 2 query heads a KV head
    assert found.forward.pairs == found.backward.pairs == shown
    assert found.useful_flops == 4 * 16 * shown
    for plan in (found.forward, found.backward):
        assert plan.computed_pairs >= plan.pairs and plan.bytes > 0
        assert plan.runs >= plan.tiles >= 3 * 4  # a batch row and head have one of their own
    assert str(found).startswith("engine: cpu\nforward plan: 200 queries on 200 keys, 3 batch rows, 4 heads on 2 KV heads")
    assert "\ntransposed plan: " in str(found)


def test_nothing_is_run_and_nothing_read():
    q = torch.empty(1, 1, 1, 64).expand(1, 1 << 20, 8, 64)  # a million tokens in 64 numbers
    found = ls.describe(q, q, q, ls.Pattern.dilated([2048, 32768], [1, 16]))
    assert found.nominal_flops == 4 * 64 * 8 * (1 << 20) * (2048 + 32768 // 256)
    assert found.forward.bytes < 1 << 20


def test_the_options_of_the_call_count():
    q, k, v = inputs(length=100, len_q=1, batch=2)
    pattern = ls.Pattern.dilated([1000], [1], causal=True)
    assert ls.describe(q, k, v, pattern, query_start=39).forward.pairs == 2 * 4 * 40
    q, k, v = inputs(length=100, batch=2)
    assert ls.describe(q, k, v, pattern, lengths=[3, 0]).forward.pairs == 4 * 6
    assert ls.describe(q, k, v, pattern.json(), cu_seqlens=[0, 2, 2, 100]).forward.pairs == 2 * 4 * (3 + 98 * 99 // 2)
    blocks = torch.tensor([[-1, -1, 0, 0], [1, 0, 1, 0]], dtype=torch.int32)
    some = ls.Pattern.from_json('{"blocks": [{"pattern": "list", "block_size": 10}]}')
    assert ls.describe(q, k, v, some, blocks=blocks).forward.pairs == 100 * (2 * 4 + 2)


def test_the_engine_is_that_of_the_dtype():
    pattern = PATTERNS["dilated"]
    for dtype, engine in ((torch.float32, "cpu"), (torch.bfloat16, "cpu"), (torch.float64, "reference")):
        assert ls.describe(*inputs(length=128, dtype=dtype), pattern).engine == engine
    one, narrow = inputs(length=128), inputs(length=128, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the plan of what attention would be given
        assert ls.describe(one[0], *narrow[1:], pattern) == ls.describe(*narrow, pattern)


def test_what_attention_refuses_is_refused():
    q, k, v = inputs()
    pattern = PATTERNS["dilated"]
    for arguments, options in (
        ((q[0], k, v), {}),
        ((q, k[:, 1:], v), {}),
        ((q.to_sparse(), k, v), {}),
        ((q, k, v), {"cu_seqlens": [0, 25]}),
        ((q, k, v), {"dropout_p": 0.5}),
        ((q, k, v), {"alibi_slopes": torch.ones(4, requires_grad=True)}),
    ):
        with pytest.raises(ValueError) as wanted:
            ls.attention(*arguments, pattern, **options)
        with pytest.raises(ValueError) as got:
            ls.describe(*arguments, pattern, **options)
        assert str(got.value) == str(wanted.value)
    with pytest.raises(ValueError, match="pattern must be a Pattern or its JSON text, got int"):
        ls.describe(q, k, v, 3)
    with pytest.raises(ValueError, match="q must be on the CPU or a CUDA device, got meta; a plan is made for an engine"):
        ls.describe(*(t.to("meta") for t in (q, k, v)), pattern)


def test_gradients_and_inference_change_nothing():
    plain = ls.describe(*inputs(length=50), PATTERNS["window"])
    assert ls.describe(*inputs(length=50, grad=True), PATTERNS["window"]) == plain
    with torch.inference_mode():
        assert ls.describe(*inputs(length=50), PATTERNS["window"]) == plain
