"""with_sink() and the modules' option: one key more, of value 0, against the definition with that key among the others."""

import os
import pathlib
import subprocess

import definition
import plain_models
import pytest
import torch
from support import close, inputs

import longstride as ls
from longstride.nn import LongNet, LongNetLM, MultiheadDilatedAttention, generate, load_model, load_weights, save_model

LEFT = 5


def extended(q, k, v, sink):
    """q, k, v with a first key whose score is `sink` [batch, heads] and whose value is 0, which all queries see."""
    batch, length, heads, dim = q.shape
    one = q.new_ones(batch, length + 1, heads, 1)
    first = q.new_zeros(batch, 1, heads, dim)
    logit = torch.cat([sink[:, None, :, None] * dim**0.5, 0 * one[:, 1:]], 1)
    return tuple(torch.cat([torch.cat([first, x], 1), last], 3) for x, last in ((q, one), (k, logit), (v, 0 * one)))


def in_definition(q, k, v, sink, causal):
    """(out, lse) of the queries that are there without the sink too."""
    pattern = {"causal": causal, "blocks": [{"pattern": "sliding_window", "left": LEFT, "sink_tokens": 1}]}
    if not causal:
        pattern["blocks"][0]["right"] = 2
    out, lse = definition.attention(*extended(q, k, v, sink), pattern, scale=q.size(3) ** -0.5)
    return out[:, 1:, :, :-1], lse[:, :, 1:]


def attention(q, k, v, causal):
    return ls.sliding_window_attention(q, k, v, LEFT, None if causal else 2, causal=causal, return_lse=True)


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("of_batch", (False, True))
def test_it_is_one_key_more(causal, of_batch):
    q, k, v = inputs(heads=3, kv_heads=3, dtype=torch.float64, grad=True)
    sink = torch.tensor([[0.7, -2.0, 4.0], [1.0, 0.0, -1.0]], dtype=torch.float64)[slice(None) if of_batch else 0]
    sink.requires_grad_()
    got = ls.with_sink(*attention(q, k, v, causal), sink)
    wanted = in_definition(q, k, v, sink if of_batch else sink.expand(2, 3), causal)
    weights = [torch.linspace(-1, 1, one.numel(), dtype=torch.float64).view(one.shape) for one in got]
    for ours, theirs in zip(got, wanted):
        close(ours, theirs, 1e-11)
    gradients = [
        torch.autograd.grad(sum((one * weight).sum() for one, weight in zip(result, weights)), (q, k, v, sink))
        for result in (got, wanted)
    ]
    for ours, theirs in zip(*gradients):
        close(ours, theirs, 1e-11)


def test_it_is_a_merge_with_a_result_of_zeros():
    q, k, v = inputs(heads=3, kv_heads=3)
    out, lse = attention(q, k, v, True)
    sink = torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(2))
    for ours, merged in zip(ls.with_sink(out, lse, sink), ls.merge([(out, lse), (torch.zeros_like(out), sink)])):
        close(ours, merged, 1e-6)


def test_rows_that_see_nothing_and_sinks_that_are_none():
    q, k, v = inputs(heads=2, kv_heads=2, grad=True)
    sink = torch.tensor([0.5, -torch.inf], requires_grad=True)
    lengths = torch.tensor([24, 3])
    out, lse = ls.dilated_attention(q, k, v, [24], [1], lengths=lengths, return_lse=True)
    got, total = ls.with_sink(out, lse, sink)
    assert torch.equal(got[:, :, 1], out[:, :, 1]) and torch.equal(total[:, 1], lse[:, 1])
    assert (got[1, 3:] == 0).all() and (total[1, 0, 3:] == 0.5).all()
    (got.sum() + total.masked_fill(total == -torch.inf, 0).sum()).backward()
    assert all(t.grad.isfinite().all() for t in (q, k, v, sink))


def test_second_derivatives():
    generator = torch.Generator().manual_seed(3)
    sizes = ((1, 4, 2, 3), (1, 2, 4), (2,))
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in sizes]
    assert torch.autograd.gradgradcheck(ls.with_sink, tensors)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_lower_types_and_compiled(dtype):
    q, k, v = inputs(heads=2, kv_heads=2, dtype=dtype)
    sink = torch.tensor([0.3, 1.0], dtype=dtype)
    out, lse = attention(q, k, v, True)
    got, total = ls.with_sink(out, lse, sink)
    assert got.dtype == dtype and total.dtype == torch.float32
    close(got, ls.with_sink(out.float(), lse, sink.float())[0], 1e-2)
    compiled = torch.compile(ls.with_sink, backend="eager", fullgraph=True)
    assert torch.equal(compiled(out, lse, sink)[0], got)


def test_what_is_refused():
    out, lse = torch.zeros(2, 5, 3, 4), torch.zeros(2, 3, 5)
    for arguments, words in (
        ((out[0], lse, torch.zeros(3)), r"parts\[0\].out must have the 4 dimensions"),
        ((out, lse[:, :2], torch.zeros(3)), r"parts\[0\].lse must be"),
        ((out, lse, 0.5), "sink must be a floating-point tensor, got float"),
        ((out, lse, torch.zeros(3, dtype=torch.int64)), "sink must be a floating-point tensor, got Long"),
        ((out, lse, torch.zeros(2)), r"sink must be \[heads\], .* one of \[3\], \[2, 3\], \[2, 3, 5\], got shape \[2\]"),
        ((out, lse, torch.zeros(())), "sink must be"),
        ((out, lse, torch.zeros(3, device="meta")), "sink must be on the device of out, cpu, got meta"),
    ):
        with pytest.raises(ValueError, match=words):
            ls.with_sink(*arguments)


GROUPS = {"segment_lengths": [4, 16], "dilation_rates": [1, 2], "causal": True}


def made(**options):
    torch.manual_seed(2)
    module = MultiheadDilatedAttention(32, 4, **GROUPS, kv_heads=2, sinks=True, **options, dtype=torch.float64)
    with torch.no_grad():
        module.sinks.copy_(torch.tensor([-2.0, 0.5, 3.0, 1.0]))
    return module


def test_a_module_with_sinks_is_the_definition_with_its_gradients():
    module = made()
    x = torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    config = {**module.config, "num_heads": 4}
    weights = {f"a.{name}": p for name, p in module.named_parameters()}
    got, lse = module(x, need_lse=True)
    wanted = plain_models.multihead(weights, "a", config, x, x, True)
    close(got, wanted, 1e-10)
    weight = torch.randn(got.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    parameters = list(module.parameters())
    ours, theirs = (torch.autograd.grad((out * weight).sum(), parameters, retain_graph=True) for out in (got, wanted))
    assert ours[[id(p) for p in parameters].index(id(module.sinks))].abs().min() > 1e-3
    for a, b in zip(ours, theirs):
        close(a, b, 1e-9)
    # lse counts the sink: it is never below it.
    assert (lse > module.sinks[:, None]).all()


def test_they_begin_at_zero_draw_nothing_and_are_saved():
    torch.manual_seed(7)
    plain = MultiheadDilatedAttention(32, 4, **GROUPS)
    torch.manual_seed(7)
    module = MultiheadDilatedAttention(32, 4, **GROUPS, sinks=True)
    assert module.sinks.shape == (4,) and not module.sinks.any()
    assert plain.sinks is None and "sinks" not in plain.state_dict() and plain.config["sinks"] is False
    weights = module.state_dict()
    assert torch.equal(weights.pop("sinks"), torch.zeros(4)) and module.config["sinks"] is True
    assert all(torch.equal(p, weights[name]) for name, p in plain.state_dict().items())
    with pytest.raises(ValueError, match="missing sinks"):
        load_weights(module, weights)
    with pytest.raises(ValueError, match="unknown sinks"):
        load_weights(plain, module.state_dict())
    assert {name for name, _ in LongNet("encoder", 2, d_model=8, nhead=2, sinks=True).named_parameters() if "sinks" in name} == {
        f"encoder_layers.{i}.attention.sinks" for i in range(2)
    }


def test_a_folder_with_sinks_loads(tmp_path):
    module = made()
    save_model(tmp_path / "made", module)
    again = load_model(tmp_path / "made", MultiheadDilatedAttention)
    assert torch.equal(again.sinks, module.sinks) and again.config == module.config
    x = torch.randn(2, 20, 32, dtype=torch.float64)
    assert torch.equal(again(x)[0], module(x)[0])


@pytest.mark.skipif("LONGSTRIDE_INSTALLED" in os.environ, reason="a wheel has no C++ program")
def test_the_cpp_program_goes_on_as_a_model_with_sinks_does_here(tmp_path):
    program = pathlib.Path(os.environ["LONGSTRIDE_LIBRARY"]).parents[1] / "bin" / "longstride"
    torch.manual_seed(5)
    model = LongNetLM(256, 16, 1, 2, [4, 16], [1, 2], causal=True, sinks=True)
    prompt, said = torch.tensor([list(b"ab")]), []
    for sink in (0.0, 3.0):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("sinks"):
                    parameter.fill_(sink)
                elif name.endswith("attention.out_proj.weight") and sink == 0:
                    parameter.mul_(30)  # so that attention says which token comes
        save_model(tmp_path / "made", model)
        words = ["--prompt=ab", "--length=12", "--temperature=0", "--raw", "--quiet"]
        done = subprocess.run([program, "generate", tmp_path / "made", *words], capture_output=True, timeout=600)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
        assert said[-1].endswith(bytes(generate(model.eval(), prompt, max_tokens=12, temperature=0)[0].tolist()))
    assert said[0] != said[1]
