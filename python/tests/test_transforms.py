"""torch.func over attention: vmap and grad against loops and autograd, forward mode and second derivatives refused."""

import pytest
import torch
import torch._dynamo
from support import close, inputs
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacrev, jvp, vjp, vmap

import longstride as ls
from longstride import _direct
from longstride.nn import LongNetLM

GROUPS = ls.Pattern.dilated([4, 16], [1, 2], causal=True)
ROWS = [[-1, -1, 0, 0], [0, -1, 2, 1], [1, 1, 1, 1], [-1, 0, 1, 0]]
LISTED = ls.Pattern.block_sparse("list", 8, blocks=ROWS)
OPEN = ls.Pattern.block_sparse("list", 8)


def entries(size=3, dtype=torch.float64, **options):
    """q, k, v with a dimension of `size` in front."""
    return tuple(torch.stack(of) for of in zip(*(inputs(dtype=dtype, seed=i, **options) for i in range(size))))


def call(pattern=GROUPS, **options):
    return lambda q, k, v, *lengths: ls.attention(
        q, k, v, pattern, return_lse=True, **options, **({"lengths": lengths[0]} if lengths else {})
    )


CALLS = {
    "groups": (call(), ()),
    "rows of lists": (call(LISTED), ()),
    "rows with the call": (call(OPEN, blocks=torch.tensor(ROWS, dtype=torch.int32)), ()),
    "documents": (call(cu_seqlens=[0, 5, 24]), ()),
    "lengths": (call(lengths=[24, 5], scale=0.3), ()),
    "slopes": (call(alibi_slopes=torch.tensor([0.5, 0.25, 0.0, -0.1])), ()),
    "lengths of each": (call(), (torch.tensor([[24, 3], [5, 6], [24, 0]]),)),
}


@pytest.mark.parametrize("name", CALLS)
def test_vmap_is_a_loop_with_its_gradients(name):
    f, more = CALLS[name]
    results = []
    for run in (vmap(f), lambda *t: tuple(torch.stack(of) for of in zip(*(f(*entry) for entry in zip(*t))))):
        q, k, v = (t.requires_grad_() for t in entries())
        out, lse = run(q, k, v, *more)
        seen = lse.masked_fill(lse == -torch.inf, 0)
        gradients = torch.autograd.grad(out.square().sum() + seen.sin().sum(), (q, k, v))
        results.append((out, lse, *gradients))
    for a, b in zip(*results):
        close(a, b, 1e-12)
    # As vmap(grad), one entry's gradient each.
    one = grad(lambda *t: f(*t)[0].square().sum(), (0, 1, 2))
    for a, b in zip(vmap(one)(*entries(), *more), zip(*(one(*entry) for entry in zip(*entries(), *more)))):
        close(a, torch.stack(b), 1e-12)


def test_any_dimension_may_be_mapped_and_some_arguments_not():
    f = call()
    q, k, v = entries()
    got = vmap(f, (2, None, 0), (1, 0))(q.movedim(0, 2), k[0], v)
    for i in range(3):
        out, lse = f(q[i], k[0], v[i])
        close(got[0][:, i], out, 1e-12)
        close(got[1][i], lse, 1e-12)
    twice = vmap(vmap(f))(*(t[:, None].expand(-1, 2, *t.shape[1:]) for t in (q, k, v)))
    close(twice[0][:, 1], vmap(f)(q, k, v)[0], 1e-12)
    assert vmap(f)(q[:, :0], k[:, :0], v[:, :0])[0].shape == (3, 0, 24, 4, 8)


def test_gradients_and_jacobians_are_those_of_autograd():
    q, k, v = inputs(length=5, batch=1, dtype=torch.float64)
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]

    def loss(q, k, v):
        out, lse = call()(q, k, v)
        return out.sin().sum() + lse.square().sum()

    wanted = torch.autograd.grad(loss(*leaves), leaves)
    for a, b in zip(grad(loss, (0, 1, 2))(q, k, v), wanted):
        close(a, b, 1e-12)
    for a, b in zip(vjp(loss, q, k, v)[1](torch.tensor(2.0, dtype=torch.float64)), wanted):
        close(a, 2 * b, 1e-12)
    wanted = torch.autograd.functional.jacobian(lambda k: call()(q, k, v)[0], k)
    close(jacrev(lambda k: call()(q, k, v)[0])(k), wanted, 1e-12)


def test_gradients_of_single_examples_of_a_model():
    torch.manual_seed(0)
    model = LongNetLM(11, 16, 1, 2, [4, 16], [1, 2], dtype=torch.float64)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    tokens = torch.randint(11, (3, 12), generator=torch.Generator().manual_seed(1))

    def loss(weights, row):
        logits = functional_call(model, weights, (row[None],), strict=True)
        return torch.nn.functional.cross_entropy(logits[0, :-1], row[1:])

    each = vmap(grad(loss), (None, 0))(weights, tokens)
    for i, row in enumerate(tokens):
        for name, wanted in grad(loss)(weights, row).items():
            close(each[name][i], wanted, 1e-10)


def test_autocast_and_compiled_graphs():
    q, k, v = entries(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = vmap(call())(q, k, v)[0]
        assert got.dtype == torch.bfloat16 and torch.equal(got[1], call()(q[1], k[1], v[1])[0])
        gradient = grad(lambda q: call()(q, k[0], v[0])[0].float().sum())(q[0])
        assert gradient.dtype == torch.float32 and gradient.abs().max() > 0
    torch._dynamo.reset()
    step = torch.compile(lambda *t: vmap(call())(*t)[0], fullgraph=True, dynamic=True, backend="aot_eager")
    close(step(q, k, v), vmap(call())(q, k, v)[0], 1e-6)


def test_dropout_differs_between_entries_and_its_gradient_is_of_the_same_pairs():
    q, k, v = (t[:1].expand(3, *t.shape[1:]) for t in entries())

    def dropped(q, k, v):
        return call(dropout_p=0.5, dropout_seed=ls.draw_dropout_seed("cpu"))(q, k, v)[0]

    torch.manual_seed(3)
    out = vmap(dropped, randomness="different")(q, k, v)
    assert not torch.equal(out[0], out[1]) and not torch.equal(out[1], out[2])
    # out is linear in v: the derivative along v is out itself.
    torch.manual_seed(3)
    along = vmap(grad(lambda v, q, k: dropped(q, k, v).sum()), randomness="different")(v, q, k)
    close((along * v).sum((1, 2, 3, 4)), out.sum((1, 2, 3, 4)), 1e-9)


def test_what_is_refused():
    q, k, v = entries()
    seed = torch.tensor(7)
    open_rows = torch.tensor(ROWS, dtype=torch.int32)
    mapped_rows, gates = open_rows.expand(3, 4, 4), torch.ones(4, dtype=torch.float64)
    scalar = lambda q: call()(q, k[0], v[0])[0].square().sum()  # noqa: E731
    kept = vjp(call(dropout_p=0.5, dropout_seed=seed), q[0], k[0], v[0])[1]

    def dual():
        with forward_ad.dual_level():
            call()(forward_ad.make_dual(q[0], q[0]), k[0], v[0])

    for wrong, words in (
        (lambda: vmap(call(), 0)(q[0], k[0], v[0]), r"^q must have the 4 dimensions .* got shape \[24, 4, 8\]; call q.unsq"),
        (
            lambda: vmap(lambda q, k, v, cu: call(cu_seqlens=cu)(q, k, v))(q, k, v, torch.tensor([[0, 24]] * 3)),
            "^cu_seqlens must be the same for every entry of vmap.*call attention in a loop",
        ),
        (lambda: vmap(lambda q, k, v, b: call(OPEN, blocks=b)(q, k, v))(q, k, v, mapped_rows), "^blocks must be the same"),
        (lambda: vmap(call('{"blocks": [{"pattern": "list"'))(q, k, v), "^pattern must be JSON, got parse error"),
        (lambda: vmap(call(OPEN, blocks=open_rows, gates=gates))(q, k, v), "^gates must be None under vmap.*into the bat"),
        (lambda: vmap(call(dropout_p=0.5, dropout_seed=seed))(q, k, v), "^dropout_p must be 0 .*randomness='different'"),
        (
            lambda: vmap(kept, randomness="different")((q, torch.zeros(3, 2, 4, 24, dtype=torch.float64))),
            "^dropout_p must be 0 where vmap is over the gradient alone",
        ),
        (lambda: grad(lambda q: grad(scalar)(q).sum())(q[0]), "^attention can be differentiated once, got a second"),
        (lambda: jvp(scalar, (q[0],), (q[0],)), "^attention can be differentiated in reverse mode only, got forward mode"),
        (lambda: hessian(scalar)(q[0]), "^attention can be differentiated in reverse mode only"),
        (dual, "^attention can be differentiated in reverse mode only"),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()


def test_what_goes_to_the_kernel_at_once():
    """Plain tensors on a device of ours; whatever else a tensor is goes the general way (_direct.py)."""
    q, k, v = inputs()

    class Marked(torch.Tensor):
        pass

    assert not _direct.general(q, torch.nn.Parameter(k), v)
    for place in range(3):
        others = [q, k, v]
        others[place] = others[place].as_subclass(Marked)
        assert _direct.general(*others)
    assert _direct.general(*(t.to("meta") for t in (q, k, v)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert _direct.general(q, k, v)
