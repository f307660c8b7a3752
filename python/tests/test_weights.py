"""attention_weights, against the definition evaluated pair by pair."""

import json

import cases
import definition
import pytest
import torch
from support import close, inputs

import longstride as ls


def wanted_weights(q, k, pattern, **options):
    """The definition's results over values that are rows of the identity."""
    len_k, dim = k.shape[1], k.shape[3]
    options = {"scale": dim**-0.5, **options}
    q, k = (torch.nn.functional.pad(t.double(), (0, len_k - dim)) for t in (q, k))
    v = torch.eye(len_k, dtype=torch.float64).view(1, len_k, 1, len_k).expand(k.shape)
    if "dilated" in pattern:
        pattern = {**pattern, "dilated": {**pattern["dilated"], "average": False}}
    return definition.attention(q, k, v, pattern, **options)[0].transpose(1, 2)


@pytest.mark.parametrize(
    "dtype, tolerance", ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-5)), ids=str
)
@pytest.mark.parametrize("name", cases.CASES)
def test_equal_the_definition(name, dtype, tolerance):
    pattern, shape, options = cases.CASES[name]
    q, k, v = inputs(dtype=dtype, grad=True, **shape)
    text = json.dumps(pattern)
    if pattern.get("dilated", {}).get("padding") == "zero_keys":
        with pytest.raises(ValueError, match="^padding must be 'masked' for weights"):
            ls.attention_weights(q, k, text, **options)
        return
    weights = ls.attention_weights(q, k, ls.Pattern.from_json(text), **options)
    assert weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and not weights.requires_grad
    close(weights, wanted_weights(q.detach(), k.detach(), pattern, **options), tolerance)
    sums = weights.sum(-1)
    close(sums, (sums > 0.5).to(torch.float64))
    assert torch.equal(weights, ls.attention_weights(q, k, text, **options))


@pytest.mark.parametrize("length", (0, 1, 127, 128, 129, 300))
def test_lengths_around_a_call(length):
    q, k, v = inputs(length=length, dim=16)
    pattern = cases.groups([64, 512], [1, 3], True)
    weights = ls.attention_weights(q, k, json.dumps(pattern))
    assert weights.shape == (2, 4, length, length)
    out = torch.einsum("bhqk,bkhd->bqhd", weights, v.repeat_interleave(2, 2))
    close(out, ls.attention(q, k, v, json.dumps(pattern)))


def test_a_head_wider_than_a_call():
    q, k, _ = inputs(length=150, dim=136)
    weights = ls.attention_weights(q, k, ls.Pattern.dilated([256], [1]))
    dense = torch.einsum("bqhd,bkhd->bhqk", q, k.repeat_interleave(2, 2)) * 136**-0.5
    close(weights, dense.softmax(-1))


def test_refusals():
    q, k, _ = inputs()
    pattern = ls.Pattern.dilated([8], [1])
    with pytest.raises(ValueError, match="^heads of q"):
        ls.attention_weights(q[:, :, :3], k, pattern)
    with pytest.raises(ValueError, match=r"^len must give at most 67108864 weights, got 2 x 4 x 4096 x 4096; take fewer"):
        ls.attention_weights(*inputs(length=4096)[:2], pattern)
    with pytest.raises(ValueError, match="^query_start"):
        ls.attention_weights(q, k, pattern, query_start=5)
