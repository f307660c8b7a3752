"""compat.dilated_attention_pytorch, the original line: values, keys, orders, seeds and refusals."""

import copy
import inspect
import io
import pathlib
import pickle
import re
import subprocess
import sys

import dilated_attention_pytorch_algorithm as algorithm
import pytest
import torch
from support import close, inputs
from torch import nn


from longstride.compat.dilated_attention_pytorch.dilated_attention import DilatedAttention, MultiheadDilatedAttention
from longstride.compat.dilated_attention_pytorch.long_net import XPOS, LongNet, LongNetLM
from longstride.compat.dilated_attention_pytorch.transformer import (
    DilatedTransformerDecoderLayer,
    DilatedTransformerEncoderLayer,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADS, WIDTH, GROUPS = 5, 40, ([8, 16], [1, 2])
SEGMENTS, RATES = GROUPS


def made(cls, *arguments, seed=3, **options):
    """A module in float64 whose norms are not the identity, in eval mode."""
    torch.manual_seed(seed)
    module = cls(*arguments, **options).double().eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def x_of(length=32, batch=2, width=WIDTH, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, width, generator=generator, dtype=torch.float64)


def weights(module):
    return algorithm.Weights(dict(module.named_parameters()))


# (segments, rates, length, heads)
SHAPES = {
    "whole segments": ([8, 16], [1, 2], 32, 4),
    "heads that do not divide": ([8, 16, 32], [1, 2, 4], 64, 7),
    "the paper's 12 heads over 5 groups": ([8, 16, 32, 64, 128], [1, 2, 4, 6, 12], 128, 12),
    "a length that is no multiple": ([8, 16], [1, 2], 29, 4),
    "shorter than every segment": ([64, 128], [2, 4], 9, 3),
    "a rate above the segment": ([2, 4], [4, 8], 16, 2),
    "one token": ([8, 16], [1, 2], 1, 2),
}


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_is_what_it_says(shape, causal):
    segments, rates, length, heads = SHAPES[shape]
    q, k, v = inputs(heads=heads, kv_heads=heads, length=length, dtype=torch.float64, grad=True)
    module = DilatedAttention(segments, rates)
    out = module(q, k, v, is_causal=causal)
    wanted = algorithm.attention(q, k, v, segments, rates, causal)
    assert isinstance(out, torch.Tensor) and out.dtype == q.dtype
    close(out, wanted, 1e-12)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
    for ours, theirs in zip(*(torch.autograd.grad((o * weight).sum(), (q, k, v)) for o in (out, wanted))):
        close(ours, theirs, 1e-12)
    single = module(*(t.float() for t in (q, k, v)), causal)
    close(single, wanted, 1e-6)


def test_scale_and_dropout_are_honoured():
    q, k, v = inputs(heads=4, kv_heads=4, length=32, dtype=torch.float64)
    close(DilatedAttention(*GROUPS, 0.3)(q, k, v), algorithm.attention(q, k, v, *GROUPS, scale=0.3), 1e-12)
    module = DilatedAttention(*GROUPS, attention_dropout=0.5)
    torch.manual_seed(0)
    dropped = module(q, k, v)
    torch.manual_seed(0)
    assert torch.equal(dropped, module(q, k, v))
    close(module.eval()(q, k, v), algorithm.attention(q, k, v, *GROUPS), 1e-12)
    assert (dropped - module(q, k, v)).abs().max() > 0.1
    assert (module.segment_lengths, module.dilation_rates, module.dropout_p) == (SEGMENTS, RATES, 0.5)


MULTIHEAD = {
    "q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias", "out_proj.weight",
    "out_proj.bias",
}  # fmt: skip
NORM = {"norm.weight", "norm.bias"}


def under(prefix, *keys):
    return {f"{prefix}.{key}" for some in keys for key in some}


LINEAR = {"weight", "bias"}
ENCODER = under("self_attn", MULTIHEAD, NORM).union(
    *(under(name, LINEAR) for name in ("norm1", "norm2", "norm3", "linear1", "linear2"))
)
DECODER = (under("self_attn", MULTIHEAD) | under("multihead_attn", MULTIHEAD, NORM)).union(
    *(under(name, LINEAR) for name in ("norm1", "norm2", "norm3", "norm4", "linear1", "linear2"))
)
LAYERS = set().union(*(under(f"encoder.layers.{i}", ENCODER) | under(f"decoder.layers.{i}", DECODER) for i in range(2)))
LM = {"token_embedding.weight", "pos_embedding.scale", "norm.weight", "norm.bias", "out.weight", "out.bias"}


def small(cls, *first, **options):
    return cls(*first, d_model=WIDTH, nhead=HEADS, num_encoder_layers=2, num_decoder_layers=2, dim_feedforward=24,
               segment_lengths=SEGMENTS, dilation_rates=RATES, **options)  # fmt: skip


@pytest.mark.parametrize(
    "module, keys",
    (
        (lambda: DilatedAttention(*GROUPS), set()),
        (lambda: MultiheadDilatedAttention(WIDTH, HEADS, RATES, SEGMENTS), MULTIHEAD | NORM),
        (lambda: MultiheadDilatedAttention(WIDTH, HEADS, RATES, SEGMENTS, layer_norm=False), MULTIHEAD),
        (lambda: DilatedTransformerEncoderLayer(WIDTH, HEADS, *GROUPS), ENCODER),
        (lambda: DilatedTransformerDecoderLayer(WIDTH, HEADS, *GROUPS), DECODER),
        (lambda: small(LongNet), LAYERS),
        (lambda: small(LongNetLM, 11), LM | under("long_net", LAYERS)),
    ),
)
def test_keys_are_theirs(module, keys):
    assert set(module().state_dict()) == keys


ORDERS = {
    DilatedAttention: "segment_lengths dilation_rates softmax_scale attention_dropout op",
    MultiheadDilatedAttention: "embed_dim num_heads dilation_rates segment_lengths dropout bias layer_norm layer_norm_eps "
    "gamma_init device dtype op",
    DilatedTransformerEncoderLayer: "d_model nhead segment_lengths dilation_rates dim_feedforward dropout activation "
    "layer_norm_eps gamma_init device dtype",
    DilatedTransformerDecoderLayer: "d_model nhead segment_lengths dilation_rates dim_feedforward dropout activation "
    "layer_norm_eps gamma_init device dtype",
    LongNet: "d_model nhead num_encoder_layers num_decoder_layers dim_feedforward segment_lengths dilation_rates dropout "
    "activation layer_norm_eps device dtype",
    LongNetLM: "num_tokens d_model nhead num_encoder_layers num_decoder_layers dim_feedforward segment_lengths "
    "dilation_rates dropout activation layer_norm_eps device dtype",
}
CALLS = {
    DilatedAttention: "query key value is_causal",
    MultiheadDilatedAttention: "query key value is_causal",
    DilatedTransformerEncoderLayer: "src is_causal",
    DilatedTransformerDecoderLayer: "tgt memory tgt_is_causal memory_is_causal",
    LongNet: "x is_causal",
    LongNetLM: "x is_causal",
}


@pytest.mark.parametrize("cls", ORDERS)
def test_orders_are_theirs(cls):
    for function, names in ((cls.__init__, ORDERS[cls]), (cls.forward, CALLS[cls])):
        given = list(inspect.signature(function).parameters)[1:]
        assert given[: len(names.split())] == names.split()


@pytest.mark.parametrize("options", ({}, {"layer_norm": False}, {"bias": False, "gamma_init": 2.0}))
@pytest.mark.parametrize("causal", (False, True))
def test_multihead_is_what_it_says(options, causal):
    module = made(MultiheadDilatedAttention, WIDTH, HEADS, RATES, SEGMENTS, **options)
    x, other = x_of(), x_of(seed=2)
    for key in (x, other):
        out, nothing = module(x, key, key, is_causal=causal)
        assert nothing is None
        close(out, algorithm.multihead(weights(module), x, key, HEADS, GROUPS, causal), 1e-12)


@pytest.mark.parametrize("activation", (nn.functional.relu, "gelu", torch.tanh))
def test_layers_are_what_they_say(activation):
    function = nn.functional.gelu if activation == "gelu" else activation
    of = (WIDTH, HEADS, SEGMENTS, RATES, 24, 0.1, activation)
    x, memory = x_of(), x_of(seed=2)
    layer = made(DilatedTransformerEncoderLayer, *of)
    for causal in (False, True):
        wanted = algorithm.encoder_layer(weights(layer), x, HEADS, GROUPS, causal, function)
        close(layer(x, is_causal=causal), wanted, 1e-12)
    layer = made(DilatedTransformerDecoderLayer, *of)
    for causal, of_memory in ((False, False), (True, False), (False, True)):
        wanted = algorithm.decoder_layer(weights(layer), x, memory, HEADS, GROUPS, causal, of_memory, function)
        close(layer(x, memory, causal, of_memory), wanted, 1e-12)


@pytest.mark.parametrize("causal", (False, True))
def test_long_net_is_what_it_says(causal):
    module = made(small, LongNet)
    x = x_of()
    close(module(x, is_causal=causal), algorithm.long_net(weights(module), x, HEADS, GROUPS, 2, causal), 1e-12)
    if causal:
        assert torch.equal(module(x), module(x, True))


@pytest.mark.parametrize("origin, counted", ((0, 0), (None, 16), (7, 7)))
def test_long_net_lm_is_what_it_says(origin, counted):
    module = made(small, LongNetLM, 11)
    module.pos_embedding.origin = origin
    tokens = torch.randint(11, (2, 31), generator=torch.Generator().manual_seed(4))
    wanted = algorithm.long_net_lm(weights(module), tokens, HEADS, GROUPS, 2, counted)
    close(module(tokens), wanted, 1e-11)
    # With an origin of its own a prefix's logits never depend on what follows, and without one they do.
    moved = (module(tokens[:, :13]) - module(tokens)[:, :13]).abs().max()
    assert moved > 1e-4 if origin is None else moved < 1e-12


def test_gradients_reach_every_parameter():
    module = small(LongNetLM, 11, dropout=0.1)
    module(torch.randint(11, (1, 32))).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_gains_are_those_of_magneto():
    torch.manual_seed(1)
    module = LongNet(96, 4, 3, 5, 64, [16], [1])
    encoder, decoder = module.encoder.layers[2], module.decoder.layers[4]
    assert encoder.gamma_init == pytest.approx((torch.log(torch.tensor(15.0)) * torch.log(torch.tensor(6.0)) / 3).sqrt())
    assert decoder.gamma_init == pytest.approx(torch.log(torch.tensor(15.0)).sqrt())
    for layer in (encoder, decoder):
        for weight, gain in (
            (layer.self_attn.q_proj.weight, 1),
            (layer.self_attn.v_proj.weight, layer.gamma_init),
            (layer.self_attn.out_proj.weight, layer.gamma_init),
            (layer.linear1.weight, layer.gamma_init),
        ):
            expected = gain * (2 / sum(weight.shape)) ** 0.5
            assert weight.std().item() == pytest.approx(expected, rel=0.05)


def test_a_seed_draws_what_it_draws_there():
    """The projections are made in the order q, k, v, out and drawn anew in it."""
    torch.manual_seed(7)
    linears = [nn.Linear(WIDTH, WIDTH) for _ in range(4)]
    for linear, gain in zip(linears, (1, 1, 1.5, 1.5)):
        nn.init.xavier_normal_(linear.weight, gain)
    torch.manual_seed(7)
    module = MultiheadDilatedAttention(WIDTH, HEADS, RATES, SEGMENTS, gamma_init=1.5)
    for linear, name in zip(linears, "q_proj k_proj v_proj out_proj".split()):
        assert torch.equal(linear.weight, getattr(module, name).weight)


def test_layers_of_a_stack_draw_their_own_weights():
    module = small(LongNet)
    for stack in (module.encoder, module.decoder):
        first, second = (layer.linear1.weight for layer in stack.layers)
        assert (first != second).all()


def test_state_dicts_copies_and_pickles():
    module = made(small, LongNetLM, 11)
    tokens = torch.randint(11, (1, 24))
    other = small(LongNetLM, 11).double().eval()
    other.load_state_dict(module.state_dict())
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for copied in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(file, weights_only=False)):
        assert torch.equal(copied(tokens), module(tokens))
        copied.out.bias.data += 1
    assert not torch.equal(other(tokens), module(tokens))


def test_checkpoints_of_the_fork_load_into_layers():
    """There MultiheadDilatedAttention has q_ln and k_ln in place of norm; layers take that form, and back."""
    net, source = made(small, LongNet), made(small, LongNet, seed=5)
    x = x_of()
    kept = net.state_dict()
    fork = {}
    for key, value in source.state_dict().items():
        for name in ("q_ln", "k_ln") if ".norm." in key else ("norm",):
            fork[key.replace(".norm.", f".{name}.")] = value + 0.1 * (name == "k_ln")
    net.load_state_dict(fork)
    assert set(net.state_dict()) == set(fork)
    close(net(x), algorithm.long_net(weights(net), x, HEADS, GROUPS, 2), 1e-12)
    net.load_state_dict(kept)
    assert set(net.state_dict()) == set(kept)


def test_autocast_and_lower_types():
    module = small(LongNet).eval()
    x = x_of().float()
    with torch.autocast("cpu", torch.bfloat16):
        close(module(x).float(), module(x), 1)
    half = small(LongNetLM, 11, dtype=torch.bfloat16)
    assert half(torch.randint(11, (1, 20))).dtype == torch.bfloat16


def test_compiled_it_is_one_graph_for_all_lengths():
    module = DilatedAttention(*GROUPS)
    compiled = torch.compile(module, backend="eager", fullgraph=True, dynamic=True)
    for length in (32, 48):
        q, k, v = inputs(heads=4, kv_heads=4, length=length)
        assert torch.equal(compiled(q, k, v, True), module(q, k, v, True))


def test_what_is_refused():
    x, q = torch.randn(1, 16, WIDTH), torch.randn(1, 16, 4, 8)
    module = MultiheadDilatedAttention(WIDTH, HEADS, RATES, SEGMENTS)
    for call, words in (
        (lambda: DilatedAttention([8], [1, 2]), "must have the same length: 1 != 2"),
        (lambda: DilatedAttention([], []), "segment_lengths cannot be empty"),
        (lambda: DilatedAttention([8], [1], attention_dropout=1.0), r"attention_dropout must be in \[0, 1\)"),
        (lambda: DilatedAttention([8], [1], op=object()), "op must be its default null, for it has no counterpart"),
        (lambda: DilatedAttention([8], [1], enable_memory_pool=True), "enable_memory_pool must be its default false"),
        (lambda: DilatedAttention([8], [1], pool=1), "unknown argument of DilatedAttention 'pool'"),
        (lambda: DilatedAttention([8], [1])(q, q, q, attention_mask=q), "attention_mask must be None, got Tensor"),
        (lambda: DilatedAttention([8] * 5, [1] * 5)(q, q, q), "5"),
        (lambda: MultiheadDilatedAttention(40, 3, [1], [8]), r"embed_dim must be divisible by num_heads \(3\), got 40"),
        (lambda: MultiheadDilatedAttention(0, 1, [1], [8]), "embed_dim must be positive, got 0"),
        (lambda: MultiheadDilatedAttention(8, 1, [1, 2], [8, 8]), "num_heads must be at least the number of groups 2, got 1"),
        (lambda: MultiheadDilatedAttention(40, 5, [1], [8], gamma_init=0.0), "gamma_init must be positive"),
        (lambda: module(x, x[:, :8], x[:, :8]), "query, key and value must have equal shapes"),
        (lambda: module(x.double(), x, x), "query must have the module's dtype Float, got Double"),
        (lambda: DilatedTransformerEncoderLayer(40, 5, [8], [1], activation="rel"), "did you mean 'relu'"),
        (lambda: DilatedTransformerEncoderLayer(40, 5, [8], [1], dropout=1.0), "dropout must be in"),
        (lambda: DilatedTransformerDecoderLayer(40, 5, [8], [1])(x, x[:, :8]), "memory must have the shape of tgt"),
        (lambda: small(LongNet)(x[:, 0]), r"src must be \[batch, len, 40\]"),
        (lambda: LongNet(num_encoder_layers=0), "num_encoder_layers must be positive, got 0"),
        (lambda: small(LongNetLM, 11)(x), r"x must be int64 \[batch, len\], got Float"),
        (lambda: small(LongNetLM, 0), "num_tokens must be positive, got 0"),
        (lambda: XPOS(5), "d_model must be even"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    for width in (36, 264):
        with pytest.warns(UserWarning, match="should be divisible by 8"):
            with pytest.raises(ValueError, match="embed_dim / num_heads must be divisible by 8 and at most 128"):
                MultiheadDilatedAttention(width, 3 if width == 36 else 2, [1], [8])


def test_positions_that_leave_the_range_of_float16():
    positions, x = XPOS(16), torch.ones(1, 16384, 16).half()
    assert positions(x).isfinite().all()
    positions.origin = None
    with pytest.raises(ValueError, match="the origin of positions must be at most 3394 tokens .* got 8192; set pos_embedding"):
        positions(x)
    assert positions(x.float()).isfinite().all()


def test_the_numbers_of_the_page_are_those_of_the_script():
    page = (ROOT / "docs" / "coming_from_dilated_attention_pytorch.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"```\n(case .*?)```", page, re.S)
    # The tests' own search path finds the package, in the checkout or where it is installed.
    script = str(ROOT / "examples" / "dilated_attention_pytorch_cases.py")
    program = f"import runpy, sys\nsys.path[:0] = {sys.path!r}\nrunpy.run_path({script!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert done.stdout == table
