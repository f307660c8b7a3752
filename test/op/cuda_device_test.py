"""The operator on CUDA tensors, as a Python user calls it, against the same operator on the CPU in float32.

Needs a GPU, and a torch built for CUDA of the version that the library was built with; without one it fails. Without a
path the operator is the Python package's, for which any torch will do that the package takes.

usage: cuda_device_test.py [PATH/TO/liblongstride.so]
"""

import json
import sys
import unittest

import torch

LIBRARY = sys.argv.pop() if sys.argv[-1].endswith(".so") else None
OUT_OF_MEMORY = torch.OutOfMemoryError if LIBRARY else RuntimeError  # the package's library has but one kind of error
DILATED = {"head_offset", "offsets", "mixing", "average", "padding"}
OPTIONS = {
    "causal": {"causal": True},
    "documents": {"causal": True, "cu_seqlens": [0, 17, 17, 150, 389]},
    "lengths": {"lengths": [389, 200]},
    "zero_keys": {"padding": "zero_keys", "head_offset": "block"},
    "partition": {"mixing": "head_partition", "average": True},
    "scale": {"scale": -0.3},
    "offsets": {"offsets": [0, 0, 1, 0, 3, 1, 0, 2, 1]},
    "deterministic": {"deterministic": True, "causal": True},
}


def inputs(dtype, dim=64, length=389, heads=6, kv_heads=3, batch=2, device="cuda", grad=True):
    generator = torch.Generator().manual_seed(1)

    def one(count):
        return torch.randn(batch, length, count, dim, generator=generator).to(dtype).to(device).requires_grad_(grad)

    return one(heads), one(kv_heads), one(kv_heads)


def attention(q, k, v, segments=(64, 128, 512), rates=(1, 2, 4), **options):
    """The names of OPTIONS, sorted into the pattern's text and the operator's arguments."""
    dilated = {name: options.pop(name) for name in DILATED & options.keys()}
    text = json.dumps(
        {
            "causal": options.pop("causal", False),
            "dilated": {"segment_lengths": list(segments), "dilation_rates": list(rates), **dilated},
        }
    )
    for name in ("cu_seqlens", "lengths"):
        if name in options:
            options[name] = torch.tensor(options[name], dtype=torch.int32)
    return torch.ops.longstride.attention(q, k, v, text, **options)


class CudaTest(unittest.TestCase):
    def compare(self, q, k, v, call, tolerance):
        """Results and gradients on the GPU beside those of the CPU's engine in float32, from the same values."""
        host = [x.detach().float().cpu().requires_grad_() for x in (q, k, v)]
        out, lse = call(q, k, v)
        expected_out, expected_lse = call(*host)
        self.assertEqual(out.device, q.device)
        self.assertEqual(out.dtype, q.dtype)
        weights = torch.randn(expected_out.shape, generator=torch.Generator().manual_seed(2))
        lse_weights = torch.randn(expected_lse.shape, generator=torch.Generator().manual_seed(3))

        def loss(out, lse):
            seen = torch.where(lse.isinf(), torch.zeros_like(lse), lse)
            return (out.float() * weights.to(out.device)).sum() + (seen * lse_weights.to(out.device)).sum()

        grads = torch.autograd.grad(loss(out, lse), (q, k, v))
        expected = torch.autograd.grad(loss(expected_out, expected_lse), host)
        for name, got, want in zip(
            ("out", "lse", "dq", "dk", "dv"), (out, lse, *grads), (expected_out, expected_lse, *expected)
        ):
            want = want.detach()
            finite = want[want.isfinite()]
            self.assertEqual(want.isinf().sum(), got.isinf().sum(), name)
            bound = tolerance * max(1.0, finite.abs().max().item())
            torch.testing.assert_close(got.detach().float().cpu(), want, atol=bound, rtol=tolerance, msg=lambda m: f"{name}: {m}")

    def test_options(self):
        for dtype, tolerance in ((torch.bfloat16, 2e-2), (torch.float16, 3e-3), (torch.float32, 2e-6)):
            for name, options in OPTIONS.items():
                with self.subTest(dtype=dtype, options=name):
                    self.compare(*inputs(dtype), lambda *t: attention(*t, **options), tolerance)

    def test_decoding_steps(self):
        """Positions that share a plan and some that do not, in a cache whose end is not written yet."""
        q, k, v = inputs(torch.bfloat16, length=1400, grad=False)
        for position in (0, 3, 500, 1023, 1024, 1031, 1035, 1036, 1039, 1100, 1103, 1398, 1399):
            with self.subTest(position=position), torch.no_grad():
                step = q[:, position : position + 1].contiguous()
                cache = [x.clone() for x in (k, v)]
                for x in cache:
                    x[:, position + 1 :] = float("nan")
                host = [x.float().cpu() for x in (step, k[:, : position + 1], v[:, : position + 1])]
                call = lambda *t: attention(*t, (256, 1024, 4096), causal=True, query_start=position)
                for got, want in zip(call(step, *cache), call(*host)):
                    torch.testing.assert_close(got.float().cpu(), want, atol=2e-2, rtol=2e-2)

    def test_lengths_on_the_device(self):
        for name in ("cu_seqlens", "lengths"):
            numbers = next(options[name] for options in OPTIONS.values() if name in options)
            results = []
            for device in ("cpu", "cuda"):
                q, k, v = inputs(torch.bfloat16)
                text = '{"dilated": {"segment_lengths": [64, 128], "dilation_rates": [1, 2]}}'
                given = {name: torch.tensor(numbers, dtype=torch.int32, device=device)}
                out, lse = torch.ops.longstride.attention(q, k, v, text, **given)
                results.append((out, lse, *torch.autograd.grad(out.float().square().sum(), (q, k, v))))
            for host, device in zip(*results):  # but for the order in which dQ is added
                torch.testing.assert_close(host, device, atol=1e-3, rtol=1.6e-2)

    def test_large_scores_are_as_exact_as_dense_attention(self):
        """Against float64, beside torch's own attention where that is finite, in one group and as two copies of it."""

        def dense(q, k, v, scale):
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)

        def results(call, tensors):
            out = call(*tensors)
            weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.device, out.dtype)
            return [x.detach().double().cpu() for x in (out, *torch.autograd.grad((out * weights).sum(), tensors))]

        for dtype, unit in ((torch.bfloat16, 2**-8), (torch.float32, 2**-20)):
            for scale in (1.0, 1e3, 1e4, -1e4, 3e5, 1e8, 1e9, 1e12):
                for dim in (16, 64):
                    tensors = inputs(dtype, dim, length=70, heads=2, kv_heads=2, batch=1)
                    exact = [x.detach().double().cpu().requires_grad_() for x in tensors]
                    want = results(lambda *t: dense(*t, scale), exact)
                    theirs = results(lambda *t: dense(*t, scale), tensors)
                    for groups in (1, 2):
                        call = lambda *t: attention(*t, [70] * groups, [1] * groups, scale=scale)[0]
                        ours = results(call, tensors)
                        for name, got, other, right in zip(("out", "dq", "dk", "dv"), ours, theirs, want):
                            with self.subTest(dtype=dtype, scale=scale, dim=dim, groups=groups, of=name):
                                size = abs(scale) * dim if name in ("dq", "dk") else 1.0
                                bound = 4 * unit * max(size, right.abs().max().item())
                                if groups == 2:  # lse, of float32, holds the logarithm of 2 up to its own rounding
                                    bound += size * min(1.0, abs(scale) * dim * 2**-23) if abs(scale) < 1e8 else 0
                                error = (got - right).abs().max().item()
                                granted = 2 * (other - right).nan_to_num(0, 0, 0).abs().max().item()
                                self.assertLessEqual(error, bound + granted)

    def test_dims_and_strides(self):
        for dim in (5, 48, 100, 128, 256):
            with self.subTest(dim=dim):
                self.compare(*inputs(torch.bfloat16, dim), lambda *t: attention(*t, causal=True), 2e-2)
        fused = torch.randn(2, 300, 3, 4, 64, device="cuda", dtype=torch.bfloat16)  # one projection for q, k and v
        q, k, v = (x.detach().requires_grad_() for x in fused.unbind(2))
        self.assertFalse(q.is_contiguous())
        self.compare(q, k, v, attention, 2e-2)
        for dim in (1, 64, 129):
            with self.subTest(dim=dim):
                self.compare(*inputs(torch.float32, dim), lambda *t: attention(*t, causal=True), 2e-6)

    def test_query_start(self):
        q, k, v = inputs(torch.bfloat16)
        q = q.detach()[:, :20].requires_grad_()
        self.compare(q, k, v, lambda *t: attention(*t, causal=True, query_start=300), 2e-2)

    def test_blocks(self):
        pattern = '{"blocks": [{"pattern": "list", "block_size": 32}], "causal": true}'
        blocks = torch.tensor([[-1, -1, i, j] for i in range(13) for j in (0, i)], dtype=torch.int32)
        op = torch.ops.longstride.attention
        self.compare(*inputs(torch.bfloat16), lambda q, k, v: op(q, k, v, pattern, blocks.to(q.device)), 2e-2)

    def gate_gradients(self, dtype, device, block_size, causal, **options):
        """Of blocks of every batch row and KV head, of one, and of blocks that are named twice."""
        q, k, v = inputs(torch.bfloat16, device=device, grad=False)  # values that every dtype here holds
        q, k, v = (x.to(dtype) for x in (q, k, v))
        width = -(-q.size(1) // block_size)
        rows = [[-1, -1, i, j] for i in range(width) for j in (0, i)]
        rows += [[b, j, width - 1, i] for i in range(width) for b in (0, 1) for j in (0, 2)]
        rows += [[0, -1, 1, 0], [-1, 1, 0, 1]]
        blocks = torch.tensor(rows, dtype=torch.int32)  # a scorer's list lies on the host
        gates = torch.ones(len(rows), device=device, requires_grad=True)
        if "dropout_p" in options:
            options["dropout_seed"] = torch.tensor(12345, device=device)
        pattern = f'{{"blocks": [{{"pattern": "list", "block_size": {block_size}}}], "causal": {str(causal).lower()}}}'
        if "lengths" in options:
            options["lengths"] = torch.tensor(options["lengths"])
        out, lse = torch.ops.longstride.attention(q, k, v, pattern, blocks, gates=gates, **options)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(device)
        lse_weights = torch.randn(lse.shape, generator=torch.Generator().manual_seed(3)).to(device)
        seen = torch.where(lse.isinf(), torch.zeros_like(lse), lse)
        return torch.autograd.grad((out.float() * weights).sum() + (seen * lse_weights).sum(), gates)[0]

    def test_gates(self):
        calls = {
            "plain": {},
            "lengths": {"lengths": [389, 200]},
            "dropout": {"dropout_p": 0.3},
            "scale": {"scale": -0.3},
            "deterministic": {"deterministic": True},
        }
        for dtype, tolerance in ((torch.bfloat16, 2e-2), (torch.float16, 3e-3), (torch.float32, 2e-5)):
            for block_size in (32, 100):
                for causal in (False, True):
                    for name, options in calls.items():
                        with self.subTest(dtype=dtype, block_size=block_size, causal=causal, options=name):
                            want = self.gate_gradients(torch.float32, "cpu", block_size, causal, **options)
                            got = self.gate_gradients(dtype, "cuda", block_size, causal, **options)
                            self.assertEqual(got.device.type, "cuda")
                            bound = tolerance * want.abs().max().item()
                            torch.testing.assert_close(got.cpu(), want, atol=bound, rtol=tolerance)
                            self.assertGreater(want.ne(0).sum().item(), len(want) // 2)

    def test_gates_are_the_same_bits_in_every_repeat(self):
        first = self.gate_gradients(torch.bfloat16, "cuda", 32, True, deterministic=True)
        for _ in range(10):
            again = self.gate_gradients(torch.bfloat16, "cuda", 32, True, deterministic=True)
            self.assertTrue(torch.equal(first, again))

    def test_dropout_is_that_of_the_cpu(self):
        def call(q, k, v):
            seed = torch.tensor(12345, device=q.device)
            return attention(q, k, v, dropout_p=0.3, dropout_seed=seed)

        self.compare(*inputs(torch.bfloat16), call, 3e-2)

    def test_autocast(self):
        q, k, v = inputs(torch.float32)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            out, lse = attention(q, k, v)
        self.assertEqual(out.dtype, torch.bfloat16)
        out.float().sum().backward()
        self.assertEqual(q.grad.dtype, torch.float32)
        plain, _ = attention(*(x.detach().bfloat16() for x in (q, k, v)))
        self.assertTrue(torch.equal(out, plain))

    def test_refusals_say_why(self):
        q, k, v = inputs(torch.float64, grad=False)
        with self.assertRaisesRegex(ValueError, "float64"):
            attention(q, k, v)
        q, k, v = inputs(torch.bfloat16, dim=264, grad=False)
        with self.assertRaisesRegex(ValueError, "dim must be 1 to 256, got 264"):
            attention(q, k, v)

    def test_where_memory_ends_torchs_own_error_is_raised_and_nothing_is_lost(self):
        q = torch.zeros(1, 1 << 18, 8, 64, device="cuda", dtype=torch.bfloat16)  # 256 MiB; the result as much
        held = torch.cuda.memory_allocated()
        _, total = torch.cuda.mem_get_info()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (64 << 20)) / total)
        try:
            with self.assertRaisesRegex(OUT_OF_MEMORY, "CUDA out of memory.*cuda:0.*fewer"):
                attention(q, q, q)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        self.assertEqual(torch.cuda.memory_allocated(), held)
        out, _ = attention(q, q, q)
        self.assertEqual(out.shape, q.shape)

    def step(self, q, k, v, causal=True):
        out, lse = attention(q, k, v, causal=causal)
        return (out, *torch.autograd.grad(out.float().square().sum() + lse.sum(), (q, k, v)))

    def test_a_warm_call_waits_for_nothing(self):
        q, k, v = inputs(torch.bfloat16, length=1000)
        self.step(q, k, v)
        torch.cuda.synchronize()
        free_before, _ = torch.cuda.mem_get_info()
        # The GPU is busy for a while; a call that waited for it would return after it only.
        busy_begin, busy_end = torch.cuda.Event(), torch.cuda.Event()
        busy_begin.record()
        torch.cuda._sleep(400_000_000)  # cycles
        busy_end.record()
        torch.cuda.set_sync_debug_mode("error")
        try:
            self.step(q, k, v)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        self.assertFalse(busy_end.query(), "the call waited for the device")
        torch.cuda.synchronize()
        free_after, _ = torch.cuda.mem_get_info()
        self.assertEqual(free_before, free_after, "memory was taken beside torch's allocator")

    def test_runs_on_the_current_stream(self):
        q, k, v = inputs(torch.bfloat16, grad=False)
        expected, _ = attention(q, k, v)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            late = torch.zeros_like(q)
            torch.cuda._sleep(100_000_000)
            late.copy_(q)
            out, _ = attention(late, k, v)
        side.synchronize()
        self.assertTrue(torch.equal(out, expected))

    def test_graph_capture(self):
        for warm in (True, False):  # a plan that is new under capture is copied beside it
            with self.subTest(warm=warm):
                length = 700 if warm else 701
                q, k, v = inputs(torch.bfloat16, length=length, grad=False)
                side = torch.cuda.Stream()
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    if warm:
                        attention(q, k, v, deterministic=True)
                torch.cuda.current_stream().wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    out, lse = attention(q, k, v, deterministic=True)
                for seed in (5, 6):
                    generator = torch.Generator().manual_seed(seed)
                    for x in (q, k, v):
                        x.copy_(torch.randn(x.shape, generator=generator))
                    graph.replay()
                    torch.cuda.synchronize()
                    expected, expected_lse = attention(q, k, v, deterministic=True)
                    self.assertTrue(torch.equal(out, expected))
                    self.assertTrue(torch.equal(lse, expected_lse))

    def test_graph_capture_of_a_training_step(self):
        q, k, v = inputs(torch.bfloat16, length=640)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self.step(q, k, v)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = self.step(q, k, v)
        with torch.no_grad():
            for x in (q, k, v):
                x.mul_(0.5)
        graph.replay()
        for name, got, want in zip(("out", "dq", "dk", "dv"), captured, self.step(q, k, v)):
            torch.testing.assert_close(got, want, atol=2e-2, rtol=2e-2, msg=lambda m: f"{name}: {m}")

    def test_the_kernels_that_ran_are_ours(self):
        q, k, v = inputs(torch.bfloat16, grad=False)
        attention(q, k, v)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            attention(q, k, v)
            torch.cuda.synchronize()
        names = [event.key for event in profile.key_averages()]
        self.assertTrue(any("longstride" in name and "forward_kernel" in name for name in names), names)


if __name__ == "__main__":
    if LIBRARY:
        torch.ops.load_library(LIBRARY)
    else:
        import longstride  # noqa: F401
    unittest.main()
