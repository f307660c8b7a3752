"""What torch asks of an operator: its own checks, compilers, meta tensors, autocast."""

import json

import cases
import pytest
import torch
from support import close, compiled, inputs

import longstride as ls

GROUPS = json.dumps(cases.groups([4, 16], [1, 2]))
CAUSAL = json.dumps(cases.groups([4, 16], [1, 2], True))
BLOCKS = '{"blocks": [{"pattern": "list", "block_size": 8}]}'
ROWS = torch.tensor([[-1, -1, 0, 0], [0, -1, 2, 1], [1, 1, 1, 1]], dtype=torch.int32)


@pytest.mark.parametrize(
    "text, options",
    (
        (GROUPS, {}),
        (CAUSAL, {"cu_seqlens": torch.tensor([0, 7, 24], dtype=torch.int32)}),
        (GROUPS, {"lengths": torch.tensor([24, 3])}),
        (GROUPS, {"dropout_p": 0.25, "dropout_seed": torch.tensor([7])}),
        (CAUSAL, {"query_start": 0, "scale": 0.3, "deterministic": True}),
        (BLOCKS, {"blocks": ROWS, "gates": torch.ones(3)}),
        (CAUSAL, {"alibi_slopes": torch.tensor([0.5, 0.25, 0.0, -0.1])}),
    ),
    ids=("plain", "documents", "lengths", "dropout", "settings", "gates", "slopes"),
)
def test_opcheck(text, options):
    # All four: schema, autograd registration, fake tensors, and aot_autograd with dynamic shapes.
    if "gates" in options:
        options = {**options, "gates": options["gates"].clone().requires_grad_()}
    torch.library.opcheck(torch.ops.longstride.attention.default, (*inputs(grad=True), text), options)
    q, k, v = inputs()
    options = {name: t.detach() if isinstance(t, torch.Tensor) else t for name, t in options.items()}
    out, lse = torch.ops.longstride.attention(q, k, v, text, **options)
    for d_lse in (None, torch.ones_like(lse)):
        torch.library.opcheck(
            torch.ops.longstride.attention_backward.default,
            (torch.ones_like(out), d_lse, q, k, v, out, lse, text),
            options,
        )


LENGTHS = (24, 37, 50, 64, 101)
CU_SEQLENS = ([0, 7, 24], [0, 37, 37], [0, 1, 50], [0, 30, 64], [0, 100, 101])
ROWS_OF = ([24, 3], [0, 37], [50, 50], [1, 63], [99, 7])
CALLS = {
    "pattern": (lambda q, k, v: ls.attention(q, k, v, UNION), ()),
    "documents": (lambda q, k, v, cu: ls.attention(q, k, v, UNION, cu_seqlens=cu), CU_SEQLENS),
    "lengths": (lambda q, k, v, lengths: ls.attention(q, k, v, UNION, lengths=lengths), ROWS_OF),
    "dilated": (lambda q, k, v: ls.dilated_attention(q, k, v, [4, 16], [1, 2], causal=True), ()),
    "blocks": (lambda q, k, v: ls.block_sparse_attention(q, k, v, "local_window", 4, window=8), ()),
    "lse": (lambda q, k, v: ls.attention(q, k, v, UNION, return_lse=True)[1], ()),
    "merge": (
        lambda q, k, v: ls.merge([ls.attention(q, x, y, UNION, return_lse=True) for x, y in ((k, v), (v, k))])[0],
        (),
    ),
    "decoding": (
        lambda q, k, v: ls.attention(q[:, 20:], k, v, UNION, query_start=20),
        (),
    ),
}
UNION = ls.Pattern.dilated([4, 16], [1, 2], causal=True) | ls.Pattern.block_sparse(
    "local_window", 4, window=8, causal=True
)


@pytest.mark.parametrize("name", CALLS)
def test_one_graph_serves_five_lengths(name):
    call, numbers = CALLS[name]
    step, graphs = compiled(call)
    for i, length in enumerate(LENGTHS):
        x, y = inputs(length=length, grad=True), inputs(length=length, grad=True)
        more = [torch.tensor(numbers[i], dtype=torch.int32)] if numbers else []
        got, wanted = step(*x, *more), call(*y, *more)
        close(got, wanted, 1e-6)
        got.square().sum().backward()
        wanted.square().sum().backward()
        for a, b in zip(x, y):
            close(a.grad, b.grad, 1e-5)
    assert len(graphs) == 1


def test_segments_that_are_inputs_of_a_graph_are_compiled_for():
    step, graphs = compiled(lambda q, k, v, lengths: ls.dilated_attention(q, k, v, lengths, [1, 2]))
    for lengths in ([4, 16], [4, 8], [4, 16]):
        q, k, v = inputs()
        assert torch.equal(step(q, k, v, lengths), ls.dilated_attention(q, k, v, lengths, [1, 2]))
    assert len(graphs) == 2


def test_export_with_a_dynamic_length():
    class Call(torch.nn.Module):
        def forward(self, q, k, v):
            return ls.attention(q, k, v, UNION)

    length = torch.export.Dim("length", min=2, max=4096)
    shapes = {name: {1: length} for name in "qkv"}
    program = torch.export.export(Call(), inputs(), dynamic_shapes=shapes)
    for n in (24, 61):
        q, k, v = inputs(length=n)
        assert torch.equal(program.module()(q, k, v), ls.attention(q, k, v, UNION))


def test_meta_tensors_have_shapes():
    for dtype in (torch.float64, torch.bfloat16):
        q, k, v = (t.to("meta") for t in inputs(dtype=dtype, len_q=3))
        out, lse = ls.attention(q, k, v, UNION, query_start=4, return_lse=True)
        assert out.is_meta and out.shape == q.shape and out.dtype == dtype
        assert lse.shape == (2, 4, 3)
        assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("lower", (torch.bfloat16, torch.float16), ids=str)
def test_autocast_casts_as_for_dense_attention(lower):
    def dense(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    for mixed in (
        (torch.float32, torch.float32, torch.float32),
        (torch.float32, lower, torch.float32),
        (torch.float64, torch.float64, torch.float64),
    ):
        q, k, v = (t.to(dtype) for t, dtype in zip(inputs(kv_heads=4, dtype=torch.float64), mixed))
        for t in (q, k, v):
            t.requires_grad_()
        with torch.autocast("cpu", dtype=lower):
            out, lse = ls.dilated_attention(q, k, v, [4, 16], [1, 2], return_lse=True)
            assert out.dtype == dense(q, k, v).dtype
        kept = out.dtype
        plain = ls.dilated_attention(q.to(kept), k.to(kept), v.to(kept), [4, 16], [1, 2])
        assert torch.equal(out, plain)
        assert lse.dtype == (torch.float64 if kept == torch.float64 else torch.float32)
        out.sum().backward()
        assert q.grad.dtype == q.dtype and k.grad.dtype == k.dtype


def test_autocast_in_a_compiled_graph():
    def call(q, k, v):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return ls.attention(q, k, v, UNION)

    step, graphs = compiled(call)
    q, k, v = inputs()
    got = step(q, k, v)
    assert got.dtype == torch.bfloat16 and torch.equal(got, call(q, k, v)) and len(graphs) == 1


def test_threads_give_the_serial_results():
    import concurrent.futures

    tensors = [inputs(length=64 + i, seed=i) for i in range(8)]
    serial = [ls.attention(*t, UNION) for t in tensors]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for a, b in zip(pool.map(lambda t: ls.attention(*t, UNION), tensors), serial):
            assert torch.equal(a, b)
