"""Modules: checkpoints of the C++ ones, projections of either kind, norms, positions, dropout, refusals."""

import copy
import json
import pathlib
import pickle

import definition
import plain_models
import pytest
import torch
import torch._dynamo
from safetensors.torch import load_file
from support import close, inputs

import longstride as ls
from longstride.nn import DilatedAttention, LongNet, LongNetLM, MultiheadDilatedAttention, load_model, save_model

SAVED = pathlib.Path(__file__).resolve().parents[2] / "test" / "nn" / "saved"
GROUPS = {"segment_lengths": [4, 16], "dilation_rates": [1, 2], "causal": True}


def x_of(length=20, width=32, seed=2):
    return torch.randn(2, length, width, generator=torch.Generator().manual_seed(seed))


def test_a_checkpoint_of_the_cpp_module_gives_its_numbers():
    folder = SAVED / "multihead"
    config = json.loads((folder / "config.json").read_text())["config"]
    run = load_file(folder / "run.safetensors")
    weights = load_file(folder / "model.safetensors")
    module = MultiheadDilatedAttention(**config)
    assert set(module.state_dict()) == set(weights)
    module.load_state_dict(weights)
    out, lse = module.eval()(run["in"])
    assert lse is None
    close(out, run["out"], 1e-5)  # products are summed in an order of the processor's own
    fused = MultiheadDilatedAttention(**{**config, "fused_qkv": True}).eval()
    fused.load_state_dict(weights)
    close(fused(run["in"])[0], run["out"], 1e-5)
    module.load_state_dict(fused.state_dict())
    close(module(run["in"])[0], run["out"], 1e-5)


def test_options_of_the_cpp_attention_alone():
    config = json.loads((SAVED / "attention" / "config.json").read_text())["config"]
    module = DilatedAttention(**config)
    assert module.pattern == ls.Pattern.dilated(
        [4, 12], [1, 2], head_offset="group", mixing="head_partition", average=True, padding="zero_keys"
    )
    assert not module.state_dict()
    q, k, v = inputs(length=20)
    out, lse = module(q, k, v)
    wanted, wanted_lse = ls.attention(q, k, v, module.pattern, return_lse=True)
    assert torch.equal(out, wanted) and torch.equal(lse, wanted_lse)


UNION = ls.Pattern.dilated([4, 12], [1, 2], head_offset="block") | ls.Pattern.sliding_window(3, 1, sink_tokens=1)
PATTERNS = {
    "groups": ls.Pattern.dilated([4, 12], [1, 2], head_offset="group", mixing="head_partition", average=True),
    "groups and a window": UNION,
    "rules": ls.Pattern.block_sparse("strided", 4, stride_blocks=2)
    | ls.Pattern.block_sparse("list", 4, blocks=[[-1, -1, 3, 0], [1, 0, 0, 2]]),
    "a window": ls.Pattern.sliding_window(5, 0),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_any_pattern_makes_a_module(name, tmp_path):
    pattern = PATTERNS[name]
    q, k, v = inputs(length=20, dtype=torch.float64)
    module = DilatedAttention(pattern=pattern)
    assert module.pattern == pattern and DilatedAttention(**module.config).pattern == pattern
    wanted, wanted_lse = definition.attention(q, k, v, json.loads(pattern.json()))
    out, lse = module(q, k, v)
    close(out, wanted, 1e-10)
    close(lse, wanted_lse, 1e-10)
    torch.manual_seed(1)
    sizes = {"d_model": 16, "nhead": 2, "num_encoder_layers": 1, "num_decoder_layers": 1, "dim_feedforward": 8}
    model = LongNet(**sizes, pattern=pattern, dtype=torch.float64)
    parts = model.encoder_layers[0].attention, model.decoder_layers[0].attention, model.decoder_layers[0].memory_attention
    assert [part.attention.pattern for part in parts] == [pattern, pattern.with_causal(True), pattern]
    x = x_of(width=16).double()
    close(model(x), plain_models.longnet(model.state_dict(), model.config, x), 1e-9)
    save_model(tmp_path / "made", model)
    again = load_model(tmp_path / "made")
    assert again.config == model.config and "pattern" not in again.config and torch.equal(again(x), model(x))


def test_a_pattern_comes_alone():
    causal = UNION.with_causal(True)
    model = LongNetLM(11, 16, 1, 2, pattern=causal)
    assert model.layers[0].attention.attention.pattern == causal
    for wrong, words in (
        (lambda: DilatedAttention([4], [1], pattern=UNION), r"^segment_lengths must be unset beside a pattern.*got \[4\]"),
        (lambda: DilatedAttention(causal=True, pattern=UNION), "^causal must be unset beside a pattern"),
        (lambda: MultiheadDilatedAttention(16, 2, padding="zero_keys", pattern=UNION), "^padding must be unset beside"),
        (lambda: MultiheadDilatedAttention(16, 2, pattern=UNION.json()), "^pattern must be a Pattern, got str; give its"),
        (lambda: LongNet(pattern=causal), "^causal of pattern must be False in a LongNet.*say encoder_causal"),
        (lambda: LongNet(segment_lengths=[4], dilation_rates=[1], pattern=UNION), "^segment_lengths must be unset beside"),
        (lambda: LongNet(blocks=[{}], pattern=UNION), "^blocks must be unset beside a pattern"),
        (lambda: LongNetLM(pattern=UNION), r"^causal of pattern must be True in a language model.*with_causal\(True\)"),
        (lambda: LongNetLM(dilation_rates=[1], pattern=causal), "^dilation_rates must be unset beside a pattern"),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()


@pytest.mark.parametrize("options", ({}, {"qk_norm": True, "sub_layer_norm": True}, {"bias": False, "kv_heads": 2}))
@pytest.mark.parametrize("positions", ("none", "rope", "xpos", "alibi"))
def test_fused_and_split_agree_and_cross_attention_is_self_attention(options, positions):
    options = {**GROUPS, **options, "positions": positions}
    torch.manual_seed(1)
    fused = MultiheadDilatedAttention(32, 4, **options)
    split = MultiheadDilatedAttention(32, 4, **options, fused_qkv=False)
    split.load_state_dict(fused.state_dict())
    x = x_of()
    out, lse = fused(x, need_lse=True)
    assert out.shape == x.shape and lse.shape == (2, 4, 20)
    close(split(x)[0], out)
    close(fused(x, x.clone(), x.clone())[0], out)
    out.sum().backward()
    assert all(p.grad is not None for p in fused.parameters())


def test_positions_are_relative():
    torch.manual_seed(1)
    module = MultiheadDilatedAttention(32, 4, [64], [1], positions="rope").double()
    x = x_of().double()
    near, far = module(x)[0], module(x, position0=1000)[0]
    close(near, far, 1e-9)
    plain = MultiheadDilatedAttention(32, 4, [64], [1]).double()
    plain.load_state_dict(module.state_dict())
    assert (plain(x)[0] - near).abs().max() > 1e-3


def test_padding_masks_and_lengths():
    module, x = MultiheadDilatedAttention(32, 4, **GROUPS), x_of()
    mask = torch.arange(20) >= torch.tensor([20, 7])[:, None]
    assert torch.equal(module(x, key_padding_mask=mask)[0], module(x, lengths=[20, 7])[0])
    assert not torch.equal(module(x)[0], module(x, lengths=[20, 7])[0])
    for wrong, words in ((mask.flip(1), "at the end of rows only"), (mask.int(), r"must be bool \[2, 20\]")):
        with pytest.raises(ValueError, match=words):
            module(x, key_padding_mask=wrong)


def test_dropout_is_drawn_in_training_alone():
    module, x = MultiheadDilatedAttention(32, 4, **GROUPS, attention_dropout=0.5), x_of()
    torch.manual_seed(3)
    first, second = module(x)[0], module(x)[0]
    torch.manual_seed(3)
    assert torch.equal(first, module(x)[0]) and not torch.equal(first, second)
    module.eval()
    assert torch.equal(module(x)[0], module(x)[0])


def test_copies_share_nothing():
    module, x = MultiheadDilatedAttention(32, 4, **GROUPS).eval(), x_of()
    wanted = module(x)[0]
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x)[0], wanted)
        with torch.no_grad():
            other.out_proj.weight.zero_()
    assert torch.equal(module(x)[0], wanted)


def test_it_is_compiled_once():
    torch._dynamo.reset()
    module = MultiheadDilatedAttention(32, 4, **GROUPS, positions="rope")
    step = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    close(step(x_of(20))[0], module(x_of(20))[0], 1e-6)
    with torch.compiler.set_stance("fail_on_recompile"):
        for length in (33, 47):
            close(step(x_of(length))[0], module(x_of(length))[0], 1e-6)


@pytest.mark.parametrize(
    "options, words",
    (
        ({"embed_dim": 30}, "^embed_dim must be a multiple of num_heads 4, got 30"),
        ({"num_heads": 0}, "^num_heads must be positive, got 0"),
        ({"kv_heads": 3}, "^kv_heads must divide num_heads 4"),
        ({"segment_lengths": []}, "^segment_lengths cannot be empty"),
        ({"attention_dropout": 1.0}, r"^attention_dropout must be in \[0, 1\), got 1.0"),
        ({"softmax_scale": float("nan")}, "^softmax_scale must be finite"),
        ({"layer_norm_eps": 0.0}, "^layer_norm_eps must be positive and finite"),
        ({"positions": "ropes"}, r"unknown positions 'ropes'; one of \[none, rope, xpos, alibi\]"),
        ({"positions": "rope", "embed_dim": 12}, "must be even for rope positions, got 3"),
        ({"learned": {"density": 2}}, r"^density must be in \(0, 1\), got 2"),
    ),
)
def test_what_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        MultiheadDilatedAttention(**{"embed_dim": 32, "num_heads": 4, **GROUPS, **options})


def test_inputs_that_do_not_fit():
    module = MultiheadDilatedAttention(32, 4, **GROUPS)
    for call, words in (
        (lambda: module(x_of(width=16)), r"^query must be \[batch, len, 32\], got shape \[2, 20, 16\]"),
        (lambda: module(x_of().double()), "^query must have the module's dtype Float, got Double"),
        (lambda: module(x_of(), x_of(5)), "^query, key and value must have equal shapes"),
        (lambda: module(x_of(), position0=-1), "^position0 must not be negative"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
