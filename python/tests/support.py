"""Inputs and comparisons that the tests share."""

import torch


def inputs(heads=4, kv_heads=2, length=24, dim=8, batch=2, dtype=torch.float32, grad=False, len_q=None, seed=1):
    """q, k, v drawn from a generator of their own: no test depends on another's numbers."""
    generator = torch.Generator().manual_seed(seed)

    def one(rows, count):
        return torch.randn(batch, rows, count, dim, generator=generator, dtype=torch.float64).to(dtype)

    tensors = one(len_q or length, heads), one(length, kv_heads), one(length, kv_heads)
    return tuple(t.requires_grad_(grad) for t in tensors)


def close(got, wanted, tolerance=1e-5):
    torch.testing.assert_close(got.to(torch.float64), wanted.to(torch.float64), rtol=tolerance, atol=tolerance)


def compiled(call):
    """`call` compiled for any shape, and the list of its graphs."""
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, example)

    torch.compiler.reset()
    return torch.compile(call, fullgraph=True, dynamic=True, backend=backend), graphs
