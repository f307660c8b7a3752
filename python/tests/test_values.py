"""What is computed, against the definition evaluated pair by pair and against torch's dense attention."""

import cases
import definition
import pytest
import torch
from support import close, inputs

import longstride as ls

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 3e-3}


def pattern_of(data):
    """The Pattern of a dictionary, by the constructors that a user calls."""
    parts = []
    if "dilated" in data:
        parts.append(ls.Pattern.dilated(**data["dilated"], causal=data["causal"]))
    for block in data.get("blocks", []):
        fields = {key: value for key, value in block.items() if key != "pattern"}
        if block["pattern"] == "sliding_window":
            parts.append(ls.Pattern.sliding_window(**fields, causal=data["causal"]))
        else:
            parts.append(ls.Pattern.block_sparse(block["pattern"], **fields, causal=data["causal"]))
    pattern = parts[0]
    for part in parts[1:]:
        pattern = pattern | part
    return pattern


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", cases.CASES)
def test_equals_the_definition(name, dtype):
    pattern, shape, options = cases.CASES[name]
    q, k, v = inputs(dtype=dtype, **shape)
    out, lse = ls.attention(q, k, v, pattern_of(pattern), **options, return_lse=True)
    wanted_out, wanted_lse = definition.attention(q, k, v, pattern, **options)
    assert out.dtype == dtype and out.shape == q.shape and out.is_contiguous()
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    close(out, wanted_out, TOLERANCES[dtype])
    close(lse, wanted_lse, min(TOLERANCES[dtype], 1e-4))


@pytest.mark.parametrize("name", cases.CASES)
def test_gradients_equal_the_definitions(name):
    pattern, shape, options = cases.CASES[name]
    mine, theirs = inputs(grad=True, **shape), inputs(dtype=torch.float64, grad=True, **shape)
    generator = torch.Generator().manual_seed(7)
    d_out = torch.randn(mine[0].shape, generator=generator)
    d_lse = torch.randn(mine[0].shape[:1] + (mine[0].shape[2], mine[0].shape[1]), generator=generator)

    def loss(out, lse):
        return (out * d_out).sum() + (lse * d_lse).masked_fill(lse == -torch.inf, 0).sum()

    loss(*ls.attention(*mine, pattern_of(pattern), **options, return_lse=True)).backward()
    loss(*definition.attention(*theirs, pattern, **options)).backward()
    for a, b in zip(mine, theirs):
        close(a.grad, b.grad, 1e-4)


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_one_wide_group_is_dense_attention(dtype, causal):
    q, k, v = inputs(length=150, dim=16, dtype=dtype)
    out = ls.dilated_attention(q, k, v, [1000], [1], causal=causal)
    dense = torch.nn.functional.scaled_dot_product_attention(
        *(t.to(torch.float64).transpose(1, 2) for t in (q, k, v)), is_causal=causal, enable_gqa=True
    ).transpose(1, 2)
    close(out, dense, TOLERANCES[dtype])


def test_functions_by_their_own_arguments_are_attention_of_their_pattern():
    q, k, v = inputs(length=40)
    options = {"lengths": torch.tensor([40, 9]), "scale": 0.7, "return_lse": True}
    for one, pattern in (
        (
            ls.dilated_attention(q, k, v, [8, 16], [2, 4], causal=True, head_offset="group", **options),
            ls.Pattern.dilated([8, 16], [2, 4], causal=True, head_offset="group"),
        ),
        (
            ls.block_sparse_attention(q, k, v, "local_window", 8, causal=True, window=16, **options),
            ls.Pattern.block_sparse("local_window", 8, causal=True, window=16),
        ),
    ):
        for a, b in zip(one, ls.attention(q, k, v, pattern, **options)):
            assert torch.equal(a, b)
        for a, b in zip(one, ls.attention(q, k, v, pattern.json(), **options)):
            assert torch.equal(a, b)


def test_lengths_of_any_make():
    q, k, v = inputs()
    pattern = ls.Pattern.dilated([4, 16], [1, 2])
    for name, numbers in (("cu_seqlens", [0, 7, 7, 24]), ("lengths", [24, 3])):
        wanted = ls.attention(q, k, v, pattern, **{name: torch.tensor(numbers)})
        assert not torch.equal(wanted, ls.attention(q, k, v, pattern))
        for same in (numbers, tuple(numbers), torch.tensor(numbers, dtype=torch.int32)):
            assert torch.equal(wanted, ls.attention(q, k, v, pattern, **{name: same}))


def test_blocks_beside_the_pattern_are_those_within():
    q, k, v = inputs()
    rows = torch.tensor(cases.LIST, dtype=torch.int32)
    wanted = ls.block_sparse_attention(q, k, v, "list", 4, blocks=rows)
    assert torch.equal(wanted, ls.attention(q, k, v, ls.Pattern.block_sparse("list", 4, blocks=cases.LIST)))
    # A long list takes the other way to the operator.
    every = [[-1, -1, i, j] for i in range(24) for j in range(24)]
    dense = ls.attention(q, k, v, ls.Pattern.block_sparse("list", 1, blocks=every))
    close(dense, ls.dilated_attention(q, k, v, [24], [1]))


def test_random_blocks_keep_their_share():
    pattern = ls.Pattern.block_sparse("random", 4, density=0.25, seed=3)
    mask = pattern.mask(64, heads=3)
    blocks = mask[:, ::4, ::4]
    assert torch.equal(mask, blocks.repeat_interleave(4, 1).repeat_interleave(4, 2))
    assert blocks.diagonal(dim1=1, dim2=2).all()
    assert blocks.float().mean().item() == pytest.approx(0.25)
    assert not torch.equal(blocks[0], blocks[1])
    assert not torch.equal(mask, ls.Pattern.block_sparse("random", 4, density=0.25, seed=4).mask(64, heads=3))


def test_dropout_follows_its_seed():
    q, k, v = inputs(length=64)
    pattern = ls.Pattern.dilated([16, 64], [1, 2])

    def dropped(seed):
        return ls.attention(q, k, v, pattern, dropout_p=0.5, dropout_seed=torch.tensor(seed), return_lse=True)

    out, lse = dropped(7)
    assert torch.equal(out, dropped(7)[0]) and not torch.equal(out, dropped(8)[0])
    whole, whole_lse = ls.attention(q, k, v, pattern, return_lse=True)
    close(lse, whole_lse)
    mean = torch.stack([dropped(seed)[0] for seed in range(400)]).mean(0)
    assert (mean - whole).abs().max() < 0.35  # of values about 1, each the mean of 400 draws
    torch.manual_seed(5)
    seed = ls.draw_dropout_seed("cpu")
    torch.manual_seed(5)
    assert torch.equal(seed, ls.draw_dropout_seed(torch.device("cpu"))) and seed.dtype == torch.int64


def test_nothing_to_do():
    for shape in ({"length": 0}, {"batch": 0}):
        q, k, v = inputs(grad=True, **shape)
        out, lse = ls.dilated_attention(q, k, v, [4], [1], return_lse=True)
        assert out.shape == q.shape and lse.shape == (q.shape[0], 4, q.shape[1])
        out.sum().backward()
        assert k.grad.shape == k.shape


def test_any_strides_with_dim_contiguous():
    q, k, v = inputs()
    wanted = ls.dilated_attention(q, k, v, [4, 16], [1, 2])
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    assert torch.equal(wanted, ls.dilated_attention(*strided, [4, 16], [1, 2]))
    one = k[:, :, :1]
    shared = ls.dilated_attention(q, one.expand(-1, -1, 4, -1), one.expand(-1, -1, 4, -1), [24], [1])
    close(shared, ls.dilated_attention(q, one, one, [24], [1]))


def test_a_sliding_window_by_its_own_arguments():
    tensors = inputs()
    for arguments in ({"left": 3, "right": 2}, {"left": 5, "sink_tokens": 2, "causal": True}, {"right": 1}):
        pattern = ls.Pattern.sliding_window(**arguments)
        out, lse = ls.sliding_window_attention(*tensors, **arguments, scale=0.3, return_lse=True)
        wanted = ls.attention(*tensors, pattern, scale=0.3, return_lse=True)
        assert torch.equal(out, wanted[0]) and torch.equal(lse, wanted[1])
    assert eval(f"ls.{pattern!r}") == pattern and repr(pattern) == "Pattern.sliding_window(right=1)"
    with pytest.raises(ValueError, match="^left must not be negative, got -1"):
        ls.sliding_window_attention(*tensors, -1)
