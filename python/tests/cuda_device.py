"""The package on a GPU: values and gradients beside the CPU's, the ways in which models call it, and what bad luck gets.

Needs a GPU and a library built with CUDA (LONGSTRIDE_LIBRARY); pytest does not collect it.

usage: cuda_device.py
"""

import unittest

import torch

import longstride as ls

SEGMENTS, RATES = [64, 128, 512], [1, 2, 4]
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
HYBRID = ls.Pattern.dilated(SEGMENTS, RATES, causal=True) | ls.Pattern.block_sparse(
    "global_local", 64, window=128, global_tokens=64, causal=True
)
CALLS = {
    "dilated": lambda q, k, v: ls.dilated_attention(q, k, v, SEGMENTS, RATES, causal=True),
    "block_sparse": lambda q, k, v: ls.block_sparse_attention(q, k, v, "local_window", 64, window=128),
    "window": lambda q, k, v: ls.sliding_window_attention(q, k, v, left=99, right=30, sink_tokens=3),
    "alibi": lambda q, k, v: ls.attention(q, k, v, HYBRID, alibi_slopes=torch.arange(1, 7, device=q.device) / 8),
    "documents": lambda q, k, v: ls.attention(q, k, v, HYBRID, cu_seqlens=[0, 17, 17, 150, q.shape[1]]),
    "lengths": lambda q, k, v: ls.dilated_attention(q, k, v, SEGMENTS, RATES, lengths=[q.shape[1], 200]),
}


LISTED = ls.Pattern.block_sparse("list", 32, causal=True)


def listed(size, seed=3, length=389, batch=2, kv_heads=3):
    """Some blocks of every batch row and KV head or of one, some of them named twice."""
    generator = torch.Generator().manual_seed(seed)
    blocks = -(-length // size)
    ranges = ((-1, batch), (-1, kv_heads), (0, blocks), (0, blocks))
    columns = [torch.randint(low, high, (60,), generator=generator) for low, high in ranges]
    rows = torch.stack(columns, 1).int()
    return torch.cat((rows, rows[:5]))


def inputs(dtype, length=389, heads=6, kv_heads=3, dim=64, device="cuda", grad=True):
    generator = torch.Generator().manual_seed(1)

    def one(count):
        values = torch.randn(2, length, count, dim, generator=generator)
        return values.to(dtype).to(device).requires_grad_(grad)

    return one(heads), one(kv_heads), one(kv_heads)


def gradients(call, tensors):
    out = call(*tensors)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    return out, *torch.autograd.grad((out.float() * weights.to(out.device)).sum(), tensors)


class CudaTest(unittest.TestCase):
    def agree(self, got, wanted, tolerance):
        for name, one, other in zip(("out", "dq", "dk", "dv"), got, wanted):
            torch.testing.assert_close(
                one.float().cpu(), other.float().cpu(), atol=tolerance, rtol=tolerance, msg=lambda m: f"{name}: {m}"
            )

    def test_values_and_gradients_are_those_of_the_cpu(self):
        for name, call in CALLS.items():
            for dtype, tolerance in TOLERANCE.items():
                with self.subTest(name, dtype=dtype):
                    tensors = inputs(dtype)
                    host = tuple(t.detach().float().cpu().requires_grad_() for t in tensors)
                    got = gradients(call, tensors)
                    self.assertEqual((got[0].device.type, got[0].dtype), ("cuda", dtype))
                    self.agree(got, gradients(call, host), tolerance)

    def test_without_a_gradient_the_values_are_the_same_bits(self):
        tensors = inputs(torch.bfloat16)
        for name, call in CALLS.items():
            with self.subTest(name):
                with torch.no_grad():
                    plain = call(*tensors)
                self.assertTrue(torch.equal(plain, gradients(call, tensors)[0]))

    def test_compiled_in_one_graph_for_all_lengths(self):
        graphs = []

        def backend(module, example):
            graphs.append(module)
            return module.forward

        def call(q, k, v):  # deterministic: what atomics add up differs by a rounding from call to call
            return ls.dilated_attention(q, k, v, SEGMENTS, RATES, causal=True, deterministic=True)

        compiled = torch.compile(call, fullgraph=True, dynamic=True, backend=backend)
        for length in (300, 389, 512, 700):
            tensors = inputs(torch.bfloat16, length)
            self.agree(gradients(compiled, tensors), gradients(call, tensors), 1e-6)
        self.assertEqual(len(graphs), 1)

    def test_inductor(self):
        tensors = inputs(torch.bfloat16)

        def block(q, k, v):
            return CALLS["dilated"](q * 2, k, v).relu()

        self.agree(gradients(torch.compile(block, fullgraph=True), tensors), gradients(block, tensors), 2e-2)

    def test_autocast(self):
        tensors = inputs(torch.float32)
        with torch.autocast("cuda", dtype=torch.float16):
            out = CALLS["dilated"](*tensors)
        self.assertEqual(out.dtype, torch.float16)
        self.assertTrue(torch.equal(out, CALLS["dilated"](*(t.detach().half() for t in tensors))))

    def test_graph_capture(self):
        tensors = inputs(torch.bfloat16, grad=False)
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            CALLS["dilated"](*tensors)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = CALLS["dilated"](*tensors)
        tensors[0].copy_(torch.randn_like(tensors[0]))
        graph.replay()
        torch.cuda.synchronize()
        self.assertTrue(torch.equal(out, CALLS["dilated"](*tensors)))

    def test_a_module_trains_as_on_the_cpu(self):
        torch.manual_seed(3)
        module = ls.nn.MultiheadDilatedAttention(64, 4, SEGMENTS, RATES, causal=True)
        x = torch.randn(2, 300, 64)
        losses = []
        for device in ("cpu", "cuda"):
            copy = type(module)(64, 4, SEGMENTS, RATES, causal=True).to(device)
            copy.load_state_dict(module.state_dict())
            optimizer = torch.optim.SGD(copy.parameters(), lr=0.1)
            of_device = []
            for _ in range(3):
                loss = copy(x.to(device))[0].square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                of_device.append(loss.item())
            losses.append(of_device)
        torch.testing.assert_close(losses[0], losses[1], atol=1e-4, rtol=1e-4)

    def test_blocks_on_the_gpu_are_those_on_the_cpu(self):
        for causal, size, lengths in ((False, 32, None), (True, 64, None), (True, 48, [389, 200]), (False, 150, [100, 389])):
            for dtype, tolerance in TOLERANCE.items():
                with self.subTest(causal=causal, size=size, lengths=lengths, dtype=dtype):
                    tensors = inputs(dtype)
                    host = tuple(t.detach().float().cpu().requires_grad_() for t in tensors)
                    rows = listed(size)
                    of_gates = []
                    for given in (tensors, host):
                        device = given[0].device
                        gates = torch.ones(len(rows), device=device, requires_grad=True)

                        def call(q, k, v, gates=gates):
                            pattern = ls.Pattern.block_sparse("list", size, causal=causal)
                            return ls.attention(q, k, v, pattern, blocks=rows.to(q.device), gates=gates, lengths=lengths)

                        of_gates.append((gradients(call, given), gradients(call, (*given, gates))[-1]))
                    self.agree(of_gates[0][0], of_gates[1][0], tolerance)
                    wanted = of_gates[1][1]
                    error = (of_gates[0][1].cpu() - wanted).abs().max() / wanted.abs().max()
                    self.assertLess(error, tolerance)

    def test_blocks_on_the_gpu_wait_for_nothing(self):
        q, k, v = inputs(torch.bfloat16)
        rows = listed(32).cuda()
        gates = torch.ones(len(rows), device="cuda", requires_grad=True)

        def step():
            out = ls.attention(q, k, v, LISTED, blocks=rows, gates=gates)
            return torch.autograd.grad(out, (q, k, v, gates), torch.ones_like(out))

        self.waits_for_nothing(step)

    def waits_for_nothing(self, step):
        step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            torch.cuda._sleep(2_000_000_000)
            step()
            self.assertFalse(torch.cuda.current_stream().query())
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()

    def test_a_graph_goes_by_the_blocks_that_are_there_when_it_is_replayed(self):
        q, k, v = inputs(torch.bfloat16)
        rows = listed(32).cuda()
        gates = torch.ones(len(rows), device="cuda", requires_grad=True)

        def step():
            out = ls.attention(q, k, v, LISTED, blocks=rows, gates=gates, deterministic=True)
            return out, *torch.autograd.grad(out, (q, k, v, gates), torch.ones_like(out))

        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        outs = []
        for seed in (5, 6):
            rows.copy_(listed(32, seed))
            graph.replay()
            torch.cuda.synchronize()
            for name, one, other in zip(("out", "dq", "dk", "dv", "gates"), captured, step()):
                self.assertTrue(torch.equal(one, other), name)
            outs.append(captured[0].clone())
        self.assertFalse(torch.equal(*outs))

    def test_learned_blocks_train_as_on_the_cpu_and_wait_for_nothing(self):
        for causal, bounds in ((False, {}), (True, {}), (True, {"min_density": 0.2, "max_density": 0.5})):
            with self.subTest(causal=causal, bounds=bounds):
                torch.manual_seed(4)
                learned = {"block_size": 32, "density": 0.3, "temperature": 0.0, **bounds}
                module = ls.nn.MultiheadDilatedAttention(64, 4, learned=learned, causal=causal)
                x = torch.randn(2, 300, 64)
                losses, counts = [], []
                for device in ("cpu", "cuda"):
                    copy = type(module)(64, 4, learned=learned, causal=causal).to(device)
                    copy.load_state_dict(module.state_dict())
                    optimizer = torch.optim.SGD(copy.parameters(), lr=0.1)
                    given = x.to(device)

                    def step():
                        choices = []
                        loss = copy(given, choices=choices)[0].square().mean() + choices[0].density_loss
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step()
                        return loss.detach(), choices[0].blocks

                    of_device = []
                    for _ in range(3):
                        loss, blocks = step()
                        of_device.append(loss.item())
                    losses.append(of_device)
                    counts.append(len(torch.unique(blocks.cpu(), dim=0)))
                torch.testing.assert_close(losses[0], losses[1], atol=1e-4, rtol=1e-4)
                self.assertEqual(*counts)
                self.assertEqual(blocks.device.type, "cuda")
                self.waits_for_nothing(step)

    def test_merge(self):
        tensors = inputs(torch.float32, grad=False)
        parts = [ls.attention(*tensors, ls.Pattern.dilated([w], [r]), return_lse=True) for w, r in ((64, 1), (512, 4))]
        whole = ls.dilated_attention(*tensors, [64, 512], [1, 4])
        merged, _ = ls.merge(parts)
        torch.testing.assert_close(merged, whole, atol=1e-4, rtol=1e-4)

    def test_refusals_say_why(self):
        with self.assertRaisesRegex(ValueError, "dim must be 1 to 256, got 264"):
            CALLS["dilated"](*inputs(torch.bfloat16, dim=264, grad=False))

    def test_where_memory_ends_torchs_error_is_raised(self):
        q = torch.zeros(1, 1 << 18, 8, 64, device="cuda", dtype=torch.bfloat16)
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (64 << 20)) / total)
        try:
            with self.assertRaisesRegex(RuntimeError, "CUDA out of memory.*cuda:0.*fewer"):
                ls.dilated_attention(q, q, q, SEGMENTS, RATES)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)


if __name__ == "__main__":
    unittest.main()
