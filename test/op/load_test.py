"""Loads liblongstride as a Python user would and calls the operators: errors, gradients, tracing, torch's own checks.

usage: load_test.py PATH/TO/liblongstride.so
"""

import json
import sys
import unittest

import torch
import torch._dynamo
from torch.fx.experimental.proxy_tensor import make_fx

LIBRARY = sys.argv.pop()


def inputs(dtype=torch.float32, kv_heads=2, length=24, grad=True):
    generator = torch.Generator().manual_seed(1)

    def one(heads):
        return torch.randn(2, length, heads, 8, generator=generator).to(dtype).requires_grad_(grad)

    return one(4), one(kv_heads), one(kv_heads)


def pattern(segment_lengths, rates, causal=False, **dilated):
    """The text of a pattern of dilated groups."""
    return json.dumps(
        {"causal": causal, "dilated": {"segment_lengths": segment_lengths, "dilation_rates": rates, **dilated}}
    )


def int32(*numbers):
    return torch.tensor(numbers, dtype=torch.int32)


class LoadTest(unittest.TestCase):
    def test_plain_attention(self):
        q, k, v = inputs(kv_heads=4)
        out, lse = torch.ops.longstride.attention(q, k, v, pattern([100], [1], causal=True))
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
            torch.ops.longstride.attention(q, k, v, pattern([4, 8], [1]))
        with self.assertRaisesRegex(ValueError, "did you mean 'modulo'"):
            torch.ops.longstride.attention(q, k, v, pattern([4], [1], head_offset="modul"))

    def test_what_is_no_array_is_a_value_error(self):
        def freed(t):
            t = t.detach().clone()
            t.untyped_storage().resize_(0)
            return t

        made = {
            " have its memory": freed,
            "got one of layout Sparse": lambda t: t.detach().to_sparse(),
            "got a nested one": lambda t: torch.nested.nested_tensor(list(t.detach().unbind())),
            "got a quantized one": lambda t: torch.quantize_per_tensor(t.detach(), 0.1, 8, torch.quint8),
            "got one of layout Mkldnn": lambda t: t.detach().to_mkldnn(),
        }
        for text, make in made.items():
            for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
                with self.subTest(text=text, mode=mode.__name__), mode():
                    q, k, v = inputs(kv_heads=4)
                    with self.assertRaisesRegex(ValueError, "^v must.*" + text):
                        torch.ops.longstride.attention(q, k, make(v), pattern([4], [1]))

    def test_second_derivative_is_refused(self):
        # Torch makes every error of a backward but its own a RuntimeError.
        q, k, v = inputs()
        out, _ = torch.ops.longstride.attention(q, k, v, pattern([8], [1]))
        (dq,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
        with self.assertRaisesRegex(RuntimeError, "can be differentiated once"):
            dq.square().sum().backward()

    def test_gradcheck(self):
        q, k, v = (x.detach()[:1, :9].requires_grad_() for x in inputs(torch.float64))
        self.assertTrue(
            torch.autograd.gradcheck(
                lambda *t: torch.ops.longstride.attention(*t, pattern([4, 8], [1, 2], causal=True)), (q, k, v)
            )
        )

    def test_opcheck(self):
        op = torch.ops.longstride.attention.default
        groups = [4, 16], [1, 2]
        blocks = '{"blocks": [{"pattern": "list", "block_size": 8}]}'
        rows = torch.tensor([[-1, -1, 0, 0], [0, -1, 2, 1], [1, 1, 1, 1]], dtype=torch.int32)
        for text, options in (
            (pattern(*groups), {}),
            (pattern(*groups, causal=True), {"cu_seqlens": int32(0, 7, 24)}),
            (pattern(*groups, padding="zero_keys"), {"lengths": torch.tensor([24, 3])}),
            (pattern(*groups), {"dropout_p": 0.25, "dropout_seed": torch.tensor([7])}),
            (blocks, {"blocks": rows, "gates": torch.ones(3, requires_grad=True)}),
        ):
            with self.subTest(text=text, options=options):
                torch.library.opcheck(op, (*inputs(), text), options)
        q, k, v = inputs(grad=False)
        out, lse = op(q, k, v, pattern(*groups))
        backward = torch.ops.longstride.attention_backward.default
        torch.library.opcheck(backward, (torch.ones_like(out), None, q, k, v, out, lse, pattern(*groups)))

    def test_lengths_of_either_width_and_any_layout(self):
        q, k, v = inputs(grad=False)
        for name, numbers in (("cu_seqlens", [0, 7, 7, 24]), ("lengths", [24, 3])):
            wanted = torch.ops.longstride.attention(q, k, v, pattern([4, 16], [1, 2]), **{name: torch.tensor(numbers)})
            plain = torch.ops.longstride.attention(q, k, v, pattern([4, 16], [1, 2]))
            self.assertFalse(torch.equal(wanted[0], plain[0]))
            for same in (int32(*numbers), torch.tensor([numbers, numbers]).t()[:, 0]):
                got = torch.ops.longstride.attention(q, k, v, pattern([4, 16], [1, 2]), **{name: same})
                self.assertTrue(torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1]))

    def compiled(self, call):
        """call(q, k, v, numbers) compiled, and the list that counts its graphs."""
        graphs = []

        def backend(graph, example):
            graphs.append(graph)
            return torch._dynamo.lookup_backend("aot_eager")(graph, example)

        torch._dynamo.reset()
        return torch.compile(call, fullgraph=True, dynamic=True, backend=backend), graphs

    def test_one_graph_serves_all_lengths(self):
        text = pattern([4, 16], [1, 2], causal=True)

        def documents(q, k, v, cu_seqlens):
            return torch.ops.longstride.attention(q, k, v, text, cu_seqlens=cu_seqlens)[0]

        def rows(q, k, v, lengths):
            return torch.ops.longstride.attention(q, k, v, text, lengths=lengths)[0]

        calls = {
            documents: ((24, [0, 7, 24]), (37, [0, 37, 37]), (50, [0, 1, 50]), (64, [0, 30, 64]), (101, [0, 100, 101])),
            rows: ((24, [24, 3]), (37, [0, 37]), (50, [50, 50]), (64, [1, 63]), (101, [99, 7])),
        }
        for call, lengths in calls.items():
            step, graphs = self.compiled(call)
            for length, numbers in lengths:
                with self.subTest(call=call.__name__, length=length):
                    x, y = inputs(length=length), inputs(length=length)
                    got, wanted = step(*x, int32(*numbers)), call(*y, int32(*numbers))
                    self.assertTrue(torch.equal(got, wanted))
                    got.square().sum().backward()
                    wanted.square().sum().backward()
                    for a, b in zip(x, y):
                        self.assertTrue(torch.equal(a.grad, b.grad))
            self.assertEqual(len(graphs), 1, call.__name__)

    def test_traced_with_symbolic_lengths(self):
        def step(q, k, v):
            out, lse = torch.ops.longstride.attention(q, k, v, pattern([4, 16], [1, 2], causal=True))
            return (out.sum() + lse.sum(),)

        graph = make_fx(step, tracing_mode="symbolic")(*inputs(grad=False))
        for length in (24, 37):  # one graph serves every length
            x = inputs(length=length, grad=False)
            torch.testing.assert_close(graph(*x)[0], step(*x)[0])


if __name__ == "__main__":
    torch.ops.load_library(LIBRARY)
    unittest.main()
