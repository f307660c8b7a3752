"""merge: parts give the whole, with its gradients; what sees nothing; refusals."""

import pytest
import torch
from support import close, inputs

import longstride as ls

WIDE = ls.Pattern.dilated([1 << 20], [1])


def halves(q, k, v, at=9):
    """Attention over the keys before and from `at` on, each of all queries."""
    dense = ls.Pattern.block_sparse("list", 1)
    rows = torch.cartesian_prod(torch.arange(q.shape[1]), torch.arange(k.shape[1]))
    parts = []
    for chosen in (rows[rows[:, 1] < at], rows[rows[:, 1] >= at]):
        blocks = torch.cat([torch.full_like(chosen, -1), chosen], 1).int()
        parts.append(ls.attention(q, k, v, dense, blocks=blocks, return_lse=True))
    return parts


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16), ids=str)
def test_parts_give_the_whole(dtype):
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    mine, theirs = inputs(dtype=dtype, grad=True), inputs(dtype=dtype, grad=True)
    out, lse = ls.merge(halves(*mine))
    whole, whole_lse = ls.attention(*theirs, WIDE, return_lse=True)
    assert out.dtype == dtype and lse.dtype == whole_lse.dtype
    close(out, whole, tolerance)
    close(lse, whole_lse, tolerance)
    (out.square().sum() + lse.sum()).backward()
    (whole.square().sum() + whole_lse.sum()).backward()
    for a, b in zip(mine, theirs):
        close(a.grad, b.grad, 20 * tolerance)


def test_gradcheck_and_a_second_derivative():
    generator = torch.Generator().manual_seed(3)
    outs = [torch.randn(1, 3, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    lses = [torch.randn(1, 2, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def call(*tensors):
        return ls.merge(list(zip(tensors[:3], tensors[3:])))

    assert torch.autograd.gradcheck(call, (*outs, *lses))
    assert torch.autograd.gradgradcheck(call, (*outs, *lses))


def test_what_sees_nothing_gives_and_gets_nothing():
    q, k, v = inputs()
    out, lse = (t.detach().clone() for t in ls.attention(q, k, v, WIDE, return_lse=True))
    nothing, never = torch.zeros_like(out), torch.full_like(lse, -torch.inf)
    same, same_lse = ls.merge([(out, lse), (nothing, never)])
    close(same, out)
    close(same_lse, lse)
    nothing.requires_grad_(), never.requires_grad_()
    none, none_lse = ls.merge([(nothing, never), (nothing, never)])
    assert none.eq(0).all() and none_lse.eq(-torch.inf).all()
    (none.sum() + none_lse.exp().sum()).backward()
    assert not nothing.grad.isnan().any() and not never.grad.isnan().any()


def test_denominators_far_apart():
    out = torch.ones(1, 1, 1, 2)
    low, high = torch.full((1, 1, 1), -1e30), torch.full((1, 1, 1), 1e30)
    got, lse = ls.merge([(out, low), (3 * out, high)])
    assert torch.equal(got, 3 * out) and torch.equal(lse, high)


@pytest.mark.parametrize(
    "change, words",
    (
        (lambda out, lse: [], "^parts must have at least one result, got none"),
        (lambda out, lse: [out], r"^parts\[0\] must have out and lse"),
        (lambda out, lse: [(out[0], lse)], r"^parts\[0\].out must have the 4 dimensions"),
        (lambda out, lse: [(out, lse[:1])], r"^parts\[0\].lse must be \[batch, heads, len_q\] of its out"),
        (lambda out, lse: [(out.long(), lse)], r"^parts\[0\].out must be float32, bfloat16.*got Long"),
        (lambda out, lse: [(out, lse.double())], r"^parts\[0\].lse must be Float, as attention\(\) gives it"),
        (lambda out, lse: [(out, lse), (out[:1], lse[:1])], r"^parts\[1\].out must have the shape of the first part"),
        (lambda out, lse: [(out, lse), (out.half(), lse)], r"^parts\[1\] must have the dtypes.*got Half and Float"),
        (lambda out, lse: [(out, lse), (out.to("meta"), lse.to("meta"))], r"^parts\[1\] must be on the device"),
    ),
)
def test_what_is_refused(change, words):
    out, lse = ls.attention(*inputs(), WIDE, return_lse=True)
    with pytest.raises(ValueError, match=words):
        ls.merge(change(out, lse))
