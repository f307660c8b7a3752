"""The kernels alone, as a wheel carries them: one library in LibTorch's stable ABI, without what the full ABI adds.

usage: kernels_test.py PATH/TO/liblongstride_kernels.so
"""

import json
import resource
import subprocess
import sys
import unittest

import torch

LIBRARY = sys.argv.pop()


def inputs(dtype=torch.float32, kv_heads=4, length=24):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, length, h, 8, generator=generator).to(dtype) for h in (4, kv_heads, kv_heads))


def pattern(segment_lengths, rates, causal=False):
    return json.dumps({"causal": causal, "dilated": {"segment_lengths": segment_lengths, "dilation_rates": rates}})


DENSE = pattern([1 << 20], [1], causal=True)


def dense(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), is_causal=True
    ).transpose(1, 2)


def attention(*arguments, **options):
    return torch.ops.longstride.attention(*arguments, **options)


class KernelsTest(unittest.TestCase):
    def test_nothing_of_the_full_abi_is_here(self):
        for name in ("longstride::attention", "longstride::attention_backward"):
            for key in ("CPU", "CUDA"):
                self.assertTrue(torch._C._dispatch_has_kernel_for_dispatch_key(name, key))
            for key in ("Autograd", "Meta", "AutocastCPU"):
                self.assertFalse(torch._C._dispatch_has_kernel_for_dispatch_key(name, key))

    def test_tags_where_torch_takes_them(self):
        tags = torch.ops.longstride.attention.default.tags
        later = "torch_library_def_with_tags" in subprocess.run(
            ["nm", "-D", torch.__path__[0] + "/lib/libtorch_cpu.so"], capture_output=True, text=True, check=True
        ).stdout
        self.assertEqual(torch.Tag.needs_fixed_stride_order in tags, later)

    def test_forward_and_backward(self):
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
            with self.subTest(dtype=dtype):
                q, k, v = inputs(dtype)
                out, lse = attention(q, k, v, DENSE)
                leaves = [x.to(torch.float64).requires_grad_() for x in (q, k, v)]
                wanted = dense(*leaves)
                torch.testing.assert_close(out.to(torch.float64), wanted, rtol=tolerance, atol=tolerance)
                self.assertEqual(lse.dtype, torch.float64 if dtype == torch.float64 else torch.float32)
                d_out = torch.ones_like(out)[:, :, :, :1].expand_as(out)  # of no contiguous dim: copied
                *got, d_gates = torch.ops.longstride.attention_backward(d_out, None, q, k, v, out, lse, DENSE)
                self.assertEqual(d_gates.numel(), 0)
                for a, b in zip(got, torch.autograd.grad(wanted.sum(), leaves)):
                    torch.testing.assert_close(a.to(torch.float64), b, rtol=10 * tolerance, atol=10 * tolerance)

    def test_lengths_of_either_width_and_any_layout(self):
        q, k, v = inputs()
        for name, numbers in (("cu_seqlens", [0, 7, 7, 24]), ("lengths", [24, 3])):
            wanted = attention(q, k, v, pattern([4, 16], [1, 2]), **{name: torch.tensor(numbers)})
            self.assertFalse(torch.equal(wanted[0], attention(q, k, v, pattern([4, 16], [1, 2]))[0]))
            for same in (torch.tensor(numbers, dtype=torch.int32), torch.tensor([numbers, numbers]).t()[:, 0]):
                got = attention(q, k, v, pattern([4, 16], [1, 2]), **{name: same})
                self.assertTrue(torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1]))

    def test_describes_without_running(self):
        q, k, v = inputs()
        found = json.loads(torch.ops.longstride.describe(q, k, v, DENSE))
        self.assertEqual(found["engine"], "cpu")
        for name, words in (("forward", "forward plan: 24 queries"), ("backward", "transposed plan: 24 queries")):
            self.assertEqual(found[name]["pairs"], 2 * 4 * 24 * 25 // 2)
            self.assertIn(words, found[name]["plan"])
        with self.assertRaisesRegex(ValueError, "v must have the shape of k"):
            torch.ops.longstride.describe(q, k, v[:, 1:], DENSE)

    def test_gradient_of_gates(self):
        q, k, v = inputs(torch.float64)
        text = '{"blocks": [{"pattern": "list", "block_size": 8}]}'
        rows = torch.tensor([[-1, -1, 0, 0], [-1, -1, 1, 1], [-1, -1, 2, 1], [0, -1, 2, 2]], dtype=torch.int32)
        options = {"blocks": rows, "gates": torch.ones(4, dtype=torch.float64)}
        out, lse = attention(q, k, v, text, **options)
        d_gates = torch.ops.longstride.attention_backward(out, None, q, k, v, out, lse, text, **options)[3]
        # e^score times 1 + s of a block: the loss sum(out^2) / 2 by differences of a bias on its scores.
        def loss(gates):
            bias = torch.full((2, 4, 24, 24), -torch.inf, dtype=torch.float64)
            for (b, _, i, j), gate in zip(rows.tolist(), gates):
                bias[slice(None) if b < 0 else b, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] = gate.log()
            got = torch.nn.functional.scaled_dot_product_attention(
                *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=bias
            )
            return got.nan_to_num().square().sum() / 2

        for row in range(4):
            step = torch.zeros(4, dtype=torch.float64)
            step[row] = 1e-6
            slope = (loss(1 + step) - loss(1 - step)) / 2e-6
            self.assertAlmostEqual(d_gates[row].item(), slope.item(), delta=1e-6 * max(1, abs(slope.item())))
        with self.assertRaisesRegex(ValueError, "^gates must all be 1"):
            attention(q, k, v, text, blocks=rows, gates=torch.tensor([1, 1, 1, 1.5], dtype=torch.float64))

    def test_bad_input_is_a_value_error(self):
        q, k, v = inputs()
        freed = v.clone()
        freed.untyped_storage().resize_(0)
        wrong = torch.tensor([1, 0], dtype=torch.int16)
        for call, words in (
            (lambda: attention(q, k, v, pattern([4, 8], [1])), "must have the same length: 2 != 1"),
            (lambda: attention(q, k[0], v, DENSE), r"^k must have the 4 dimensions.*\[24, 4, 8\]"),
            (lambda: attention(q, k, v.to(torch.float64), DENSE), "^v must have the dtype of q, Float, got Double"),
            (lambda: attention(q, k, v.transpose(2, 3).contiguous().transpose(2, 3), DENSE), "dim. contiguous"),
            (lambda: attention(q, k, freed, DENSE), "^v must have its memory, 6144 bytes, got 0 bytes"),
            (lambda: attention(q, k, v, DENSE, lengths=wrong), "^lengths must be an int32 or int64.*got Short of"),
            (lambda: attention(q, k, v, DENSE, query_start=1), r"^query_start must be in \[0"),
            (lambda: attention(q, k, v, DENSE, dropout_p=0.5), "^dropout_seed must be given"),
        ):
            with self.subTest(words=words), self.assertRaisesRegex(ValueError, words):
                call()

    def test_large_results(self):
        q = torch.ones(1, (33 << 20) // 4 // 64, 1, 64)
        for _ in range(3):
            out, _ = attention(q, q, q, pattern([16], [1]))
            self.assertTrue(torch.equal(out, q))
            self.assertGreater(out.untyped_storage().nbytes(), 32 << 20)

    def test_texts_are_given_back(self):
        q, k, v = (x[:, :1] for x in inputs())
        text = DENSE + " " * 4000  # kept by the store of texts: a leak would be the argument's
        attention(q, k, v, text)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(20000):
            attention(q, k, v, text)
        self.assertLess(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, 40000)  # kB; a leak is 80000


if __name__ == "__main__":
    torch.ops.load_library(LIBRARY)
    unittest.main()
