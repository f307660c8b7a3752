"""Loads liblongstride as a Python user would and calls the operators: errors, gradients, tracing, torch's own checks.

usage: load_test.py PATH/TO/liblongstride.so
"""

import sys
import unittest

import torch
from torch.fx.experimental.proxy_tensor import make_fx

LIBRARY = sys.argv.pop()


def inputs(dtype=torch.float32, kv_heads=2, length=24, grad=True):
    generator = torch.Generator().manual_seed(1)

    def one(heads):
        return torch.randn(2, length, heads, 8, generator=generator).to(dtype).requires_grad_(grad)

    return one(4), one(kv_heads), one(kv_heads)


class LoadTest(unittest.TestCase):
    def test_plain_attention(self):
        q, k, v = inputs(kv_heads=4)
        out, lse = torch.ops.longstride.dilated_attention(q, k, v, [100], [1], causal=True)
        dense = torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), is_causal=True
        ).transpose(1, 2)
        torch.testing.assert_close(out, dense)
        self.assertEqual(tuple(lse.shape), (2, 4, 24))
        got = torch.autograd.grad(out.square().sum(), (q, k, v))
        expected = torch.autograd.grad(dense.square().sum(), (q, k, v))
        for a, b in zip(got, expected):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    def test_bad_input_is_a_value_error(self):
        q, k, v = inputs()
        with self.assertRaisesRegex(ValueError, "must have the same length: 2 != 1"):
            torch.ops.longstride.dilated_attention(q, k, v, [4, 8], [1])
        with self.assertRaisesRegex(ValueError, "did you mean 'modulo'"):
            torch.ops.longstride.dilated_attention(q, k, v, [4], [1], head_offset="modul")

    def test_second_derivative_is_refused(self):
        # Torch makes every error of a backward but its own a RuntimeError.
        q, k, v = inputs()
        out, _ = torch.ops.longstride.dilated_attention(q, k, v, [8], [1])
        (dq,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
        with self.assertRaisesRegex(RuntimeError, "can be differentiated once"):
            dq.square().sum().backward()

    def test_gradcheck(self):
        q, k, v = (x.detach()[:1, :9].requires_grad_() for x in inputs(torch.float64))
        self.assertTrue(
            torch.autograd.gradcheck(
                lambda *t: torch.ops.longstride.dilated_attention(*t, [4, 8], [1, 2], causal=True), (q, k, v)
            )
        )

    def test_opcheck(self):
        op = torch.ops.longstride.dilated_attention.default
        for options in (
            {},
            {"causal": True, "cu_seqlens": [0, 7, 24]},
            {"lengths": [24, 3], "padding": "zero_keys"},
            {"dropout_p": 0.25, "dropout_seed": torch.tensor([7])},
        ):
            with self.subTest(options=options):
                torch.library.opcheck(op, (*inputs(), [4, 16], [1, 2]), options)
        q, k, v = inputs(grad=False)
        out, lse = op(q, k, v, [4, 16], [1, 2])
        backward = torch.ops.longstride.dilated_attention_backward.default
        torch.library.opcheck(backward, (torch.ones_like(out), None, q, k, v, out, lse, [4, 16], [1, 2]))

    def test_traced_with_symbolic_lengths(self):
        def step(q, k, v):
            out, lse = torch.ops.longstride.dilated_attention(q, k, v, [4, 16], [1, 2], causal=True)
            return (out.sum() + lse.sum(),)

        graph = make_fx(step, tracing_mode="symbolic")(*inputs(grad=False))
        for length in (24, 37):  # one graph serves every length
            x = inputs(length=length, grad=False)
            torch.testing.assert_close(graph(*x)[0], step(*x)[0])


if __name__ == "__main__":
    torch.ops.load_library(LIBRARY)
    unittest.main()
