"""Gradients: by differences in float64, those that are not there, second derivatives, gates."""

import types

import cases
import pytest
import torch
from support import close, inputs
from test_values import pattern_of

import longstride
import longstride as ls

PATTERN = ls.Pattern.dilated([4, 8], [1, 2], causal=True)


@pytest.mark.parametrize(
    "name", ("joint", "one KV head", "zero keys", "documents", "lengths", "decoding", "average", "groups and rules", "slopes",
     "slopes, zero keys", "slopes, decoding")
)
def test_gradcheck(name):
    pattern, shape, options = cases.CASES[name]
    shape = {**shape, "dim": 2, "heads": shape.get("heads", 2), "kv_heads": shape.get("kv_heads", 1)}
    if name == "average" or "alibi_slopes" in options:
        shape |= {"heads": 4, "kv_heads": 2}
    tensors = inputs(dtype=torch.float64, grad=True, **shape)

    def call(q, k, v):
        out, lse = ls.attention(q, k, v, pattern_of(pattern), **options, return_lse=True)
        return out, lse.masked_fill(lse == -torch.inf, 0)

    assert torch.autograd.gradcheck(call, tensors, fast_mode=True)


def test_gradcheck_with_dropout():
    tensors = inputs(dtype=torch.float64, grad=True, length=9, dim=2)
    seed = torch.tensor(11)
    assert torch.autograd.gradcheck(
        lambda *t: ls.attention(*t, PATTERN, dropout_p=0.4, dropout_seed=seed), tensors, fast_mode=True
    )


@pytest.mark.parametrize("wanted", ((0,), (1,), (2,), (0, 2), (1, 2)))
def test_only_the_gradients_that_are_asked_for(wanted):
    every = inputs(grad=True)
    ls.attention(*every, PATTERN).square().sum().backward()
    some = inputs()
    for i in wanted:
        some[i].requires_grad_()
    ls.attention(*some, PATTERN).square().sum().backward()
    for i in range(3):
        if i in wanted:
            assert torch.equal(some[i].grad, every[i].grad)
        else:
            assert some[i].grad is None


def test_both_ways_to_the_operator_give_the_same_gradients():
    text = PATTERN.json()
    for options in ({}, {"lengths": torch.tensor([24, 3])}, {"scale": 0.3, "query_start": 0}):
        first, again = inputs(grad=True), inputs(grad=True)
        ls.attention(*first, text, **options).square().sum().backward()
        torch.ops.longstride.attention(*again, text, **options)[0].square().sum().backward()
        for a, b in zip(first, again):
            assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("given", range(3, 11))
def test_the_backward_gives_none_where_nothing_is_required(given):
    # The dispatcher tells of the arguments that the caller gave alone.
    q, k, v = inputs()
    out, lse = ls.attention(q, k, v, PATTERN, return_lse=True)
    needed = (True, False, True, *[False] * (given - 3))
    ctx = types.SimpleNamespace(
        needs_input_grad=needed,
        saved_tensors=(q, k, v, out, lse, *[None] * 6),
        pattern=PATTERN.json(),
        settings={},
    )
    grads = longstride._registration.backward(ctx, torch.ones_like(out), None)
    assert [isinstance(grad, torch.Tensor) for grad in grads] == list(needed)
    assert longstride._registration.backward(ctx, None, None) == (None,) * given


def test_gradient_through_lse_alone_and_through_neither():
    q, k, v = inputs(grad=True)
    lse = ls.attention(q, k, v, PATTERN, return_lse=True)[1]
    dq, dk, dv = torch.autograd.grad(lse.sum(), (q, k, v))
    assert dq.abs().sum() > 0 and dk.abs().sum() > 0 and dv.abs().sum() == 0
    with torch.no_grad():
        assert not ls.attention(q, k, v, PATTERN).requires_grad
    with torch.inference_mode():
        assert ls.attention(q, k, v, PATTERN).is_inference()
    assert not ls.attention(*inputs(), PATTERN).requires_grad


def test_second_derivative_is_refused():
    q, k, v = inputs(grad=True)
    (dq,) = torch.autograd.grad(ls.attention(q, k, v, PATTERN).square().sum(), q, create_graph=True)
    (plain,) = torch.autograd.grad(ls.attention(q, k, v, PATTERN).square().sum(), q)
    assert torch.equal(dq, plain)
    with pytest.raises((ValueError, RuntimeError), match="attention can be differentiated once, got a second derivative"):
        dq.square().sum().backward()


def test_gradient_of_gates():
    q, k, v = inputs(dtype=torch.float64, kv_heads=4)
    rows = torch.tensor([[-1, -1, 0, 0], [-1, -1, 1, 1], [-1, -1, 2, 1], [0, -1, 2, 2]], dtype=torch.int32)
    gates = torch.ones(4, dtype=torch.float64, requires_grad=True)
    out = ls.block_sparse_attention(q, k, v, "list", 8, blocks=rows, gates=gates)
    (out.square().sum() / 2).backward()

    def loss(values):
        bias = torch.full((2, 4, 24, 24), -torch.inf, dtype=torch.float64)
        for (b, _, i, j), gate in zip(rows.tolist(), values):
            bias[slice(None) if b < 0 else b, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] = gate.log()
        dense = torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=bias
        )
        return dense.nan_to_num().square().sum() / 2

    for row in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[row] = 1e-6
        slope = (loss(1 + step) - loss(1 - step)) / 2e-6
        assert gates.grad[row].item() == pytest.approx(slope.item(), abs=1e-6)
    plain = torch.ones(4, dtype=torch.float64)
    q.requires_grad_()
    ls.block_sparse_attention(q, k, v, "list", 8, blocks=rows, gates=plain).sum().backward()
    assert plain.grad is None and q.grad is not None


def test_a_gradient_of_any_layout():
    q, k, v = inputs(grad=True)
    out = ls.attention(q, k, v, PATTERN)
    expanded = torch.autograd.grad(out.sum(), q, retain_graph=True)[0]
    transposed = torch.ones(2, 4, 24, 8).transpose(1, 2)
    close(torch.autograd.grad(out, q, transposed)[0], expanded)


def test_checkpointing_gives_the_same_gradients():
    first, again = inputs(grad=True), inputs(grad=True)
    ls.attention(*first, PATTERN).square().sum().backward()
    torch.utils.checkpoint.checkpoint(
        lambda *t: ls.attention(*t, PATTERN).square().sum(), *again, use_reentrant=False
    ).backward()
    for a, b in zip(first, again):
        assert torch.equal(a.grad, b.grad)
