"""FeedForward and the layers: values against plain torch, gradients, dropout, compilation, copies, refusals."""

import copy
import pickle

import plain_models
import pytest
import torch
import torch._dynamo
from support import close

from longstride.nn import (
    DilatedTransformerDecoderLayer,
    DilatedTransformerEncoderLayer,
    FeedForward,
    LongNet,
    TransformerLayer,
)

BASE = {
    "embed_dim": 16, "num_heads": 2, "segment_lengths": [4, 12], "dilation_rates": [1, 2], "dim_feedforward": 24,
}  # fmt: skip
RICH = {
    **BASE, "kv_heads": 1, "qk_norm": True, "positions": "xpos", "causal": True, "softmax_scale": 0.3,
    "activation": "silu", "layer_norm_eps": 1e-3, "fused_qkv": False,
    "blocks": [{"pattern": "local_window", "block_size": 4, "window": 8}],
}  # fmt: skip
OPTIONS = {
    "defaults": BASE,
    "rich": RICH,
    "no norms, no bias": {**BASE, "sub_layer_norm": False, "bias": False, "activation": "gelu_tanh"},
    "sinks": {**BASE, "sinks": True, "mixing": "head_partition", "average": True},
    "rules alone": {
        **BASE,
        "segment_lengths": [],
        "dilation_rates": [],
        "blocks": [
            {"pattern": "sliding_window", "left": 3, "right": 1, "sink_tokens": 1},
            {"pattern": "strided", "block_size": 2, "stride_blocks": 3},
        ],
    },
}
SMALL = {
    "d_model": 16, "nhead": 2, "num_encoder_layers": 2, "num_decoder_layers": 2, "segment_lengths": [4, 12],
    "dilation_rates": [1, 2], "dim_feedforward": 24,
}  # fmt: skip
FORMS = {
    "encoder": {**SMALL, "form": "encoder", "encoder_causal": True, "activation": "tanh"},
    "decoder": {**SMALL, "form": "decoder", "positions": "rope", "kv_heads": 1},
    "decoder, alibi": {**SMALL, "form": "decoder", "positions": "alibi", "kv_heads": 1},
    "encoder_decoder": {**SMALL, "qk_norm": True, "memory_causal": True},
    "encoder_decoder of groups and rules, with sinks": {
        **SMALL,
        "sinks": True,
        "kv_heads": 1,
        "blocks": [{"pattern": "global_local", "block_size": 4, "window": 4, "global_tokens": 2}],
    },
}


def x_of(seed=2, length=14, width=16, dtype=torch.float64):
    return torch.randn(2, length, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def made(kind, options, dtype=torch.float64, **more):
    """A module whose norms and biases are not at 1 and 0, where mistakes would hide."""
    torch.manual_seed(5)
    module = kind(**options, **more, dtype=dtype)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return module


@pytest.mark.parametrize("call", ({}, {"lengths": [14, 5]}, {"cu_seqlens": [0, 6, 14]}), ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_layers_are_the_definition(name, call):
    x, memory, options = x_of(), x_of(3), OPTIONS[name]
    encoder = made(TransformerLayer, options).eval()
    close(encoder(x, **call), plain_models.layer(encoder.state_dict(), "", options, x, **call), 1e-9)
    decoder = made(DilatedTransformerDecoderLayer, options, memory_causal=name == "defaults").eval()
    wanted = plain_models.layer(decoder.state_dict(), "", decoder.config, x, memory, **call)
    close(decoder(x, memory, **call), wanted, 1e-9)


@pytest.mark.parametrize("activation", plain_models.ACTIVATIONS)
def test_feed_forward_is_the_definition(activation):
    module = made(FeedForward, {"dim": 16, "hidden": 12, "activation": activation})
    wanted = plain_models.feed_forward({f"f.{k}": v for k, v in module.state_dict().items()}, "f", module.config, x_of())
    close(module(x_of()), wanted, 1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_longnet_is_the_definition(form):
    model = made(LongNet, FORMS[form]).eval()
    weights = model.state_dict()
    close(model(x_of()), plain_models.longnet(weights, FORMS[form], x_of()), 1e-8)
    if form.startswith("encoder_decoder"):
        call = {"lengths": [14, 9]}
        wanted = plain_models.longnet(weights, FORMS[form], x_of(), x_of(3), **call)
        close(model(x_of(), x_of(3), **call), wanted, 1e-8)
        close(model.decode(x_of(3), model.encode(x_of(), **call), **call), wanted, 1e-8)


def test_gains_are_magnetos():
    torch.manual_seed(1)
    wide = {**SMALL, "d_model": 128, "num_encoder_layers": 3, "num_decoder_layers": 5}
    for options, encoder, decoder in (
        ({}, (2.7080502 * 1.7917595 / 3) ** 0.5, 2.7080502**0.5),  # ln 15, ln 6
        ({"form": "encoder"}, 1.7917595**0.5, None),
        ({"form": "decoder"}, None, 2.3025851**0.5),  # ln 10
        ({"encoder_gamma_init": 0.5, "decoder_gamma_init": 0.25}, 0.5, 0.25),
    ):
        model = LongNet(**wide, **options)
        for layers, gain in ((model.encoder_layers, encoder), (model.decoder_layers, decoder)):
            if gain is None:
                assert layers is None
                continue
            bound = gain * (6 / (128 + 128)) ** 0.5
            q, _, v = layers[0].attention.qkv_proj.weight.abs().split(128)
            # The largest of 16384 uniform numbers is within 1 % of the bound.
            for weight, wanted in ((v, bound), (q, bound / gain), (layers[-1].attention.out_proj.weight.abs(), bound)):
                assert 0.99 * wanted < weight.max() <= wanted * 1.0001


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_every_parameter_and_checkpointing_repeats_them(form):
    model = made(LongNet, FORMS[form], torch.float32, dropout=0.2, attention_dropout=0.1)
    results, kept = [], []
    for model.activation_checkpointing in (False, True):
        bytes_kept = 0

        def count(t):
            nonlocal bytes_kept
            bytes_kept += t.nbytes
            return t

        model.zero_grad()
        torch.manual_seed(7)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            out = model(x_of(dtype=torch.float32))
        out.square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
        results.append([out.detach(), *(p.grad.clone() for p in model.parameters())])
        kept.append(bytes_kept)
    assert all(torch.equal(a, b) for a, b in zip(*results))
    assert kept[1] < kept[0] / 4


def test_dropout_is_drawn_in_training_alone_and_seeds_repeat():
    x = x_of()
    for options in ({"dropout": 0.5}, {"dropout": 0.0, "attention_dropout": 0.5}):
        layer = made(TransformerLayer, BASE, **options)
        torch.manual_seed(3)
        first, second = layer(x), layer(x)
        torch.manual_seed(3)
        assert torch.equal(first, layer(x)) and not torch.equal(first, second)
        layer.eval()
        assert torch.equal(layer(x), layer(x)) and not torch.equal(layer(x), first)
    still = made(TransformerLayer, BASE, dropout=0.0)
    assert torch.equal(still(x), still.eval()(x))


def test_a_layer_is_compiled_once():
    torch._dynamo.reset()
    assert DilatedTransformerEncoderLayer is TransformerLayer
    layer = made(TransformerLayer, RICH, torch.float32).eval()
    step = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    close(step(x_of(dtype=torch.float32)), layer(x_of(dtype=torch.float32)), 1e-5)
    with torch.compiler.set_stance("fail_on_recompile"):
        x = x_of(length=23, dtype=torch.float32)
        close(step(x), layer(x), 1e-5)


@pytest.mark.parametrize("kind", (TransformerLayer, LongNet))
def test_copies_share_nothing_and_weights_can_be_drawn_anew(kind):
    module = made(kind, BASE if kind is TransformerLayer else SMALL).eval()
    wanted = module(x_of())
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x_of()), wanted) and other.config == module.config
        other.reset_parameters()
        assert (other(x_of()) - wanted).abs().max() > 0.1
    assert torch.equal(module(x_of()), wanted)
    again = kind(**module.config, dtype=torch.float64).eval()
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(x_of()), wanted)


def test_models_on_the_meta_device_have_shapes():
    model = LongNet(device="meta")  # the paper's base model
    assert sum(p.numel() for p in model.parameters()) > 150e6
    assert model(torch.empty(1, 100, 768, device="meta")).shape == (1, 100, 768)


@pytest.mark.parametrize(
    "kind, options, words",
    (
        (FeedForward, {"hidden": 0}, "^dim_feedforward must be positive, got 0"),
        (FeedForward, {"activation": "relo"}, r"^unknown activation 'relo'; one of \[relu, gelu.*did you mean 'relu'"),
        (FeedForward, {"dropout": 1.0}, r"^dropout must be in \[0, 1\), got 1.0"),
        (FeedForward, {"dropout": "much"}, "^dropout must be a number, got 'much'"),
        (FeedForward, {"sub_layer_norm": 1}, "^sub_layer_norm must be true or false, got 1"),
        (TransformerLayer, {"embed_dim": 15}, "^embed_dim must be a multiple of num_heads 2, got 15"),
        (TransformerLayer, {"dim_feedforward": -1}, "^dim_feedforward must be positive"),
        (TransformerLayer, {"layer_norm_eps": 0.0}, "^layer_norm_eps must be positive and finite"),
        (TransformerLayer, {"segment_lengths": [4]}, "segment_lengths"),
        (TransformerLayer, {"offsets": [0, 1]}, "^offsets must have groups x kv_heads = 4 entries, got 2"),
        (TransformerLayer, {"mixing": "head_partition", "kv_heads": 1}, "^kv_heads must be at least.*groups 2"),
        (DilatedTransformerDecoderLayer, {"memory_causal": None}, "^memory_causal must be true or false, got None"),
        (LongNet, {"form": "encode"}, "^unknown form 'encode'.*did you mean 'encoder'"),
        (LongNet, {"d_model": 15}, "^d_model must be a multiple of nhead 2"),
        (LongNet, {"causal": True}, "^causal must be unset in a LongNet.*say encoder_causal"),
        (LongNet, {"gamma_init": 2.0}, "^gamma_init must be unset.*say encoder_gamma_init"),
        (LongNet, {"num_encoder_layers": 0}, "^num_encoder_layers must be positive"),
        (LongNet, {"encoder_gamma_init": -1.0}, "^encoder_gamma_init must be positive, or 0 for the default"),
        (LongNet, {"form": "decoder", "encoder_causal": True}, "^encoder_causal must have its default in the form dec"),
        (LongNet, {"form": "encoder", "decoder_causal": False}, "^decoder_causal must have its default in the form enc"),
        (LongNet, {"form": "encoder", "memory_causal": True}, "^memory_causal must have its default"),
    ),
)
def test_options_that_are_refused(kind, options, words):
    base = {FeedForward: {"dim": 16, "hidden": 8}, LongNet: SMALL}.get(kind, BASE)
    with pytest.raises(ValueError, match=words):
        kind(**{**base, **options})


def test_names_of_other_classes_are_no_options():
    for kind, base, name in ((LongNet, SMALL, "embed_dim"), (TransformerLayer, BASE, "memory_causal")):
        with pytest.raises(TypeError, match=name):
            kind(**base, **{name: 8})


def test_inputs_that_are_refused():
    layer, decoder = TransformerLayer(**BASE), DilatedTransformerDecoderLayer(**BASE)
    model, encoder = LongNet(**SMALL, max_len=20), LongNet(**SMALL, form="encoder")
    x = x_of(dtype=torch.float32)
    cache = layer.attention.make_cache(2, 20)
    for call, words in (
        (lambda: layer(x[0]), r"^x must be \[batch, len, 16\], got shape \[14, 16\]"),
        (lambda: layer(x.double()), "^x must have the module's dtype Float, got Double; convert"),
        (lambda: layer(x.to("meta")), "^x must be on the module's device cpu, got meta"),
        (lambda: layer(x, need_lse=True), "^need_lse must be False in a layer"),
        (lambda: layer(x, cache=cache), "^cache needs grad mode off"),
        (lambda: layer(x, rotary=(x, x)), "^rotary must be None in a module whose positions are not rope or xpos"),
        (lambda: decoder(x, x[:, :3]), r"^memory must have the shape of x, shape \[2, 14, 16\].*pad the shorter"),
        (lambda: decoder(x, x, cache=cache), "^cache must be None in a decoder layer"),
        (lambda: model(x, x[:, :3]), "^target must have the shape of the source"),
        (lambda: model(x_of(length=21, dtype=torch.float32)), "^source must not be longer than max_len 20, got 21"),
        (lambda: encoder(x, x), "^target must be None in the form encoder"),
        (lambda: encoder.decode(x, x), r"^decode\(\) needs the form encoder_decoder, got encoder"),
        (lambda: LongNet(**SMALL, form="decoder").encode(x), r"^encode\(\) needs a form with an encoder"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_a_cache_decodes_as_the_layer_does_whole():
    layer, x = made(TransformerLayer, RICH).eval(), x_of()
    with torch.no_grad():
        whole, cache = layer(x), layer.attention.make_cache(2, 14)
        parts = [layer(part, cache=cache) for part in x.split((5, 1, 8), 1)]
        close(torch.cat(parts, 1), whole, 1e-9)
        assert cache.length == cache.capacity == 14
        assert copy.deepcopy(cache).length == 0
        for call, words in (
            (lambda: layer(x, cache=cache), "^cache must have room for 14 more rows, got 14 of 14 filled"),
            (lambda: layer(x[:1], cache=layer.attention.make_cache(2, 20)), r"^cache must be \[1, rows, 1, 8\] Dou"),
            (lambda: layer(x, cache=layer.attention.make_cache(2, 20), lengths=[1, 2]), "^cache must not come together"),
        ):
            with pytest.raises(ValueError, match=words):
                call()
