"""longstride.factory: the registry as a value, every type on every option, auto, and what each of them refuses."""

import copy
import json
import math
import os
import pathlib
import pickle
import subprocess

import definition
import pytest
import torch
from support import close, inputs
from torch import nn

import longstride as ls
from longstride import factory

HERE = factory.builtin_registry()
LEARNED = ("min_sparsity_ratio", "max_sparsity_ratio", "hidden", "temperature", "head_dim")
TYPES = [name for name in HERE.names() if name != "block_sparse_adaptive"]
WIDE = {"embed_dim": 32, "num_heads": 4}
GROUPS = {"segment_lengths": [4, 12], "dilation_rates": [1, 3]}


def rule(name, block_size=4, **fields):
    return {"causal": False, "blocks": [{"pattern": name, "block_size": block_size, **fields}]}


def dilated(causal=False, **fields):
    return {"causal": causal, "dilated": {**GROUPS, **fields}}


@pytest.mark.skipif("LONGSTRIDE_INSTALLED" in os.environ, reason="a wheel has no C++ program")
def test_the_types_and_options_are_those_of_the_cpp_program():
    program = pathlib.Path(os.environ["LONGSTRIDE_LIBRARY"]).parents[1] / "bin" / "longstride"
    done = subprocess.run([program, "doctor", "--types", "--json"], capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout)["types"]
    assert sorted(theirs) == HERE.names()
    for name, told in theirs.items():
        assert HERE[name].summary == told["summary"]
        for which in ("options", "multihead_options"):
            ours = [{"name": o.name, "default": o.default, "meaning": o.meaning} for o in getattr(HERE[name], which)]
            assert ours == told[which], (name, which)


# Option: (type, what is said, the pattern that it means). Every option that shows in a result of q, k and v.
SAID = {
    "segment_lengths": ("standard", GROUPS, dilated()),
    "dilation_rates": ("improved", {"segment_lengths": [8], "dilation_rates": [2]},
                       {"causal": False, "dilated": {"segment_lengths": [8], "dilation_rates": [2]}}),
    "causal": ("ring", {**GROUPS, "causal": True}, dilated(True)),
    "head_offset": ("distributed", {**GROUPS, "head_offset": "block"}, dilated(head_offset="block")),
    "offsets": ("standard", {**GROUPS, "offsets": [0, 0, 0, 0, 2, 1, 0, 2]}, dilated(offsets=[0, 0, 0, 0, 2, 1, 0, 2])),
    "mixing": ("standard", {**GROUPS, "mixing": "head_partition"}, dilated(mixing="head_partition")),
    "average": ("standard", {**GROUPS, "mixing": "head_partition", "average": True},
                dilated(mixing="head_partition", average=True)),
    "padding": ("standard", {**GROUPS, "padding": "zero_keys"}, dilated(padding="zero_keys")),
    "pattern": ("block_sparse", {"pattern": "axial", "block_size": 4}, rule("axial")),
    "block_size": ("block_sparse", {"pattern": "strided", "block_size": 3}, rule("strided", 3, stride_blocks=4)),
    "window": ("block_sparse_ring", {"pattern": "local_window", "block_size": 4, "window": 9},
               rule("local_window", window=9)),
    "rates": ("block_sparse", {"rates": [1, 2], "reach": 1, "block_size": 4},
              rule("dilated_sparse", rates=[1, 2], reach=1)),
    "reach": ("block_sparse", {"reach": 2, "block_size": 4}, rule("dilated_sparse", rates=[1], reach=2)),
    "global_tokens": ("block_sparse_ring_distributed",
                      {"pattern": "global_local", "block_size": 4, "window": 4, "global_tokens": 5},
                      rule("global_local", window=4, global_tokens=5)),
    "stride_blocks": ("block_sparse", {"pattern": "strided", "block_size": 4, "stride_blocks": 3},
                      rule("strided", stride_blocks=3)),
    "grid_columns": ("block_sparse", {"pattern": "axial", "block_size": 4, "grid_columns": 2},
                     rule("axial", grid_columns=2)),
    "levels": ("block_sparse", {"pattern": "hierarchical", "block_size": 4,
                                "levels": [{"stride": 4, "window": 8}, {"stride": 12, "global": True}]},
               rule("hierarchical", levels=[{"stride": 4, "window": 8}, {"stride": 12, "global": True}])),
    "left": ("block_sparse", {"pattern": "sliding_window", "left": 5},
             {"causal": False, "blocks": [{"pattern": "sliding_window", "left": 5}]}),
    "right": ("block_sparse", {"pattern": "sliding_window", "left": 6, "right": 1},
              {"causal": False, "blocks": [{"pattern": "sliding_window", "left": 6, "right": 1}]}),
    "sink_tokens": ("block_sparse", {"pattern": "sliding_window", "left": 2, "right": 0, "sink_tokens": 3},
                    {"causal": False, "blocks": [
                        {"pattern": "sliding_window", "left": 2, "right": 0, "sink_tokens": 3}]}),
    "blocks": ("block_sparse", {"pattern": "hybrid", "blocks": [
        {"pattern": "local_window", "block_size": 4, "window": 4}, {"pattern": "strided", "block_size": 8, "stride_blocks": 2}]},
        {"causal": False, "blocks": [{"pattern": "local_window", "block_size": 4, "window": 4},
                                     {"pattern": "strided", "block_size": 8, "stride_blocks": 2}]}),
    "group": ("ring", {**GROUPS, "group": "none"}, dilated()),
    "ring_size": ("ring", {**GROUPS, "ring_size": 1}, dilated()),
    "world_size": ("distributed", {**GROUPS, "world_size": 1}, dilated()),
    "rank": ("distributed", {**GROUPS, "rank": 0}, dilated()),
    "groups and blocks": ("block_sparse", {**GROUPS, "pattern": "local_window", "block_size": 4, "window": 4},
                          {**dilated(), **rule("local_window", window=4)}),
}  # fmt: skip
# Options that the oracle has no word for: what they are is another option, or a field of the module.
OTHERWISE = {"density", "sparsity_ratio", "seed", "softmax_scale", "attention_dropout", "backend", "kv_heads", *LEARNED}


def test_every_option_is_tried():
    listed = {option.name for name in HERE.names() for option in HERE[name].options}
    assert listed == (SAID.keys() - {"groups and blocks"}) | OTHERWISE


@pytest.mark.parametrize("option", SAID)
def test_a_module_computes_what_its_options_say(option):
    kind, said, pattern = SAID[option]
    given = copy.deepcopy(said)
    module = factory.create_dilated_attention(kind, **said)
    assert said == given and module.choice == factory.Choice(kind, "asked for by name")
    q, k, v = inputs(heads=4, kv_heads=4, grad=True)
    out, lse = module(q, k, v)
    true = definition.attention(q, k, v, pattern)
    close(out, true[0])
    close(lse, true[1])
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
    got, wanted = (torch.autograd.grad((one.double() * weight).sum(), (q, k, v)) for one in (out, true[0]))
    for ours, theirs in zip(got, wanted):
        close(ours, theirs)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(module)))
    assert torch.equal(copied(q, k, v)[0], out) and copied.choice == module.choice


def test_options_that_are_another_option_or_a_field_of_the_module():
    made = factory.create_dilated_attention
    for said in ({"density": 0.25}, {"sparsity_ratio": 0.75}):
        for pattern in ("local_window", "dilated_sparse", "random"):
            module = made("block_sparse", pattern=pattern, block_size=4, **said)
            assert json.loads(module.pattern.json())["blocks"][0]["density"] == 0.25
    assert made("block_sparse", pattern="random", density=0.5, seed=7).config["blocks"][0]["seed"] == 7
    module = made(**GROUPS, softmax_scale=0.3, attention_dropout=0.25)
    assert (module.softmax_scale, module.attention_dropout) == (0.3, 0.25)
    assert made().config["segment_lengths"] == [2048, 4096, 8192]


@pytest.mark.parametrize("kind", TYPES)
def test_a_multihead_type_is_the_module_of_its_options(kind):
    options = {**WIDE, **GROUPS, "causal": True, "kv_heads": 2, "fused_qkv": False, "bias": False, "qk_norm": True}
    options |= {"sub_layer_norm": True, "layer_norm_eps": 1e-4, "gamma_init": 0.5, "positions": "xpos"}
    options |= {"rope_base": 500.0, "xpos_scale_base": 64.0, "max_len": 128, "attention_dropout": 0.1}
    blocks = {}
    if kind.startswith("block_sparse"):
        blocks = {"pattern": "local_window", "block_size": 4, "window": 4}
    torch.manual_seed(3)
    module = factory.create_multihead_dilated_attention(kind, **options, **blocks)
    torch.manual_seed(3)
    by_hand = ls.nn.MultiheadDilatedAttention(
        **options, blocks=[{**blocks}] if blocks else ()
    )
    assert module.config == by_hand.config
    x = torch.randn(2, 24, 32)
    assert torch.equal(module.eval()(x)[0], by_hand.eval()(x)[0])
    half = factory.create_multihead_dilated_attention(kind, **WIDE, dtype="bfloat16", device="cpu")
    also = factory.create_multihead_dilated_attention(
        kind, **WIDE, dtype=torch.bfloat16, device=torch.device("cpu")
    )
    assert half.out_proj.weight.dtype == also.out_proj.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", TYPES)
def test_saying_every_default_is_saying_nothing(kind):
    for which, made in (
        ("options", factory.create_dilated_attention), ("multihead_options", factory.create_multihead_dilated_attention)
    ):  # fmt: skip
        defaults = {option.name: option.default for option in getattr(HERE[kind], which)}
        assert made(kind, **defaults).config == made(kind).config


def test_learned_blocks():
    made = (
        factory.create_adaptive_sparse_attention(**WIDE).attention,
        factory.create_multihead_dilated_attention("block_sparse_adaptive", **WIDE).attention,
        factory.create_dilated_attention("block_sparse", pattern="learned", head_dim=16, kv_heads=3),
    )
    for attention in made:
        learned = attention.config["learned"]
        assert (learned["block_size"], learned["temperature"]) == (128, 1.0) and math.isclose(learned["density"], 0.1)
    assert made[2].config["learned"]["kv_heads"] == 3 and made[2].scorer.bias.shape == (3, 1, 1)
    for options, words in (
        ({"min_sparsity_ratio": 0.95, "max_sparsity_ratio": 0.9}, "min_sparsity_ratio must be below max_sparsity_ratio 0.9"),
        ({"max_sparsity_ratio": 1.0}, r"max_sparsity_ratio must be in \(0, 1\), got 1"),
        ({"pattern": "axial"}, "unknown option of type block_sparse_adaptive 'pattern'"),
        ({"min_sparsity": 0.5}, "did you mean 'min_sparsity_ratio'"),
    ):
        with pytest.raises(ValueError, match=words):
            factory.create_adaptive_sparse_attention(**options)


def some_builder(summary):
    def build(options):
        return ls.nn.DilatedAttention([options.get("w", 8)], [1])

    def multihead(options):
        return ls.nn.MultiheadDilatedAttention(16, 2, [options.get("w", 8)], [1])

    listed = (factory.OptionInfo("w", 8, "tokens"),)
    return factory.AttentionBuilder(summary, listed, build, listed, multihead)


def test_a_registry_is_a_value():
    mine = factory.Registry()
    mine.register_attention("own", some_builder("first"))
    other = copy.copy(mine)
    other.register_attention("other", some_builder("second"))
    assert mine.names() == ["own"] and other.names() == ["other", "own"] and "own" not in factory.builtin_registry()
    assert factory.available(mine) == ["auto", "own"]
    assert factory.create_dilated_attention("own", w=5, registry=mine).config["segment_lengths"] == [5]
    assert factory.create_multihead_dilated_attention("own", registry=mine).embed_dim == 16
    with pytest.raises(ValueError, match=r"unknown option of type own 'v'; one of \[w\]"):
        factory.create_dilated_attention("own", v=5, registry=mine)


def test_a_name_is_taken_once_unless_asked():
    registry = factory.Registry()
    registry.register_attention("ring", some_builder("first"))
    with pytest.raises(ValueError, match="name must not be registered twice, got 'ring'; pass replace"):
        registry.register_attention("ring", some_builder("second"))
    registry.register_attention("ring", some_builder("second"), replace=True)
    assert registry["ring"].summary == "second"
    for name, builder, words in (
        ("auto", some_builder("x"), 'must be a word other than "auto"'),
        ("", some_builder("x"), "must be a word"),
        ("half", None, "builder must have build and build_multihead"),
    ):
        with pytest.raises(ValueError, match=words):
            registry.register_attention(name, builder)
    with pytest.raises(ValueError, match="got 'ring'"):
        factory.register_builtin(registry)
    assert registry.names() == ["ring"]


def test_auto_says_what_it_chose_and_why():
    module = factory.create_dilated_attention()
    assert module.choice.type == "standard"
    assert module.choice.reason == "dilated groups; one rank holds the whole sequence; device cpu: engine cpu"
    for options, kind in (
        ({"group": "none"}, "ring"),
        ({"world_size": 1}, "distributed"),
        ({"pattern": "axial"}, "block_sparse"),
        ({"density": 0.5, "ring_size": 1}, "block_sparse_ring"),
        ({"density": 0.5, "rank": 0}, "block_sparse_ring_distributed"),
    ):
        assert factory.choose_attention(**options).type == kind
        assert factory.create_dilated_attention(**options).choice.type == kind
    assert "a block pattern is asked for (pattern)" in factory.choose_attention(pattern="axial").reason
    module = factory.create_block_sparse_attention(**WIDE)
    assert module.choice.type == "block_sparse" and module.config["blocks"][0]["pattern"] == "dilated_sparse"
    strided = factory.create_block_sparse_attention(**WIDE, pattern="strided")
    assert strided.config["blocks"][0]["pattern"] == "strided"


def test_auto_selection_creates_valid_module():
    module = factory.create_multihead_dilated_attention(
        "auto", embed_dim=64, num_heads=8, segment_lengths=[16, 32], dilation_rates=[1, 2], dtype=torch.float32
    )
    assert isinstance(module, nn.Module)
    x = torch.randn(2, 32, 64)
    out, lse = module(x, x, x)
    assert out.shape == x.shape and out.dtype == x.dtype and out.device == x.device and lse is None


def test_config_objects_work_correctly():
    attention = factory.DilatedAttentionConfig([16, 32], [1, 2], causal=True, attention_dropout=0.2)
    multihead = factory.MultiheadConfig(
        embed_dim=48, num_heads=4, segment_lengths=[16, 32], dilation_rates=[1, 2], sub_layer_norm=True
    )
    before = multihead.to_json(), attention.to_json()
    module = factory.create_multihead_dilated_attention("auto", multihead, attention, qk_norm=True)
    assert (multihead.to_json(), attention.to_json()) == before
    config = module.config
    assert (config["embed_dim"], config["attention_dropout"], config["causal"]) == (48, 0.2, True)
    assert config["sub_layer_norm"] and config["qk_norm"]
    x = torch.randn(1, 32, 48)
    assert module(x, x, x)[0].shape == x.shape
    sparse = factory.SparseAttentionConfig(pattern="global_local", block_size=8, window=16, global_tokens=8)
    module = factory.create_dilated_attention("auto", sparse, factory.RingAttentionConfig(ring_size=1), causal=True)
    assert module.choice.type == "block_sparse_ring"
    assert module.pattern == ls.Pattern.block_sparse("global_local", 8, window=16, global_tokens=8, causal=True)
    rules = factory.DilatedAttentionConfig(blocks=[{"pattern": "strided", "block_size": 8, "stride_blocks": 3}])
    assert factory.create_dilated_attention("auto", rules).pattern == ls.Pattern.block_sparse("strided", 8, stride_blocks=3)


def test_backward_compatibility():
    """The known library's constructor, and the factory: one module."""
    old = factory.from_legacy_multihead("MultiheadDilatedAttention", 64, 8, [1, 2], [16, 32])
    new = factory.create_multihead_dilated_attention(
        "improved", embed_dim=64, num_heads=8, segment_lengths=[16, 32], dilation_rates=[1, 2], sub_layer_norm=True,
        head_offset="group", mixing="head_partition", average=True,
    )  # fmt: skip
    new.load_state_dict(old.state_dict())  # three projections become one
    x = torch.randn(2, 32, 64)
    close(old(x, x, x)[0], new(x, x, x)[0])


def test_in_transformer_model():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            options = {"segment_lengths": [16, 32], "dilation_rates": [1, 2], "attention_dropout": 0.1}
            self.layers = nn.ModuleList(
                factory.create_multihead_dilated_attention("auto", embed_dim=64, num_heads=8, **options) for _ in range(2)
            )
            self.norm = nn.LayerNorm(64)

        def forward(self, x):
            for layer in self.layers:
                y = self.norm(x)
                x = x + layer(y, y, y)[0]
            return x

    model = Model()
    x = torch.randn(2, 32, 64)
    out = model(x)
    out.sum().backward()
    assert out.shape == x.shape and all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


REFUSED = (
    (("standart",), {}, r"unknown attention type 'standart'; one of \[auto, .*; did you mean 'standard'"),
    ((3,), {}, "type must be a name, got int; one of auto, "),
    (("auto",), {"casual": True}, "unknown option of type standard 'casual'; one of .*; did you mean 'causal'"),
    (("standard",), {"embed_dim": 32, "num_head": 4}, "did you mean 'num_heads'"),
    (("standard",), {"causal": 1}, "causal must be true or false, got 1"),
    (("standard",), {"segment_lengths": [4]}, "must be given together, got segment_lengths alone"),
    (("standard",), {"segment_lengths": [], "dilation_rates": []}, "segment_lengths cannot be empty"),
    (("standard",), {"segment_lengths": [1, 2], "dilation_rates": [1]}, "must have the same length: 2 != 1"),
    (("standard",), {"segment_lengths": [4, -1], "dilation_rates": [1, 1]}, r"segment_lengths\[1\] must be positive, got -1"),
    (("standard",), {"segment_lengths": "8", "dilation_rates": [1]}, "segment_lengths must be a list of integers"),
    (("standard",), {"attention_dropout": 1.0}, r"attention_dropout must be in \[0, 1\)"),
    (("standard",), {"attention_dropout": float("nan")}, r"attention_dropout must be in \[0, 1\), got nan"),
    (("standard",), {"softmax_scale": float("nan")}, "softmax_scale must be finite"),
    (("standard",), {"embed_dim": 0}, "embed_dim must be positive, got 0"),
    (("standard",), {"num_heads": -4}, "num_heads must be positive, got -4"),
    (("standard",), {"embed_dim": 100}, "embed_dim must be a multiple of num_heads 12, got 100"),
    (("standard",), {"embed_dim": 2.5}, "embed_dim must be an integer, got 2.5"),
    (("standard",), {"layer_norm_eps": 0}, "layer_norm_eps must be positive"),
    (("standard",), {"gamma_init": -1.0}, "gamma_init must be positive"),
    (("standard",), {"mixing": "head_partition", "kv_heads": 1}, "groups 3 .*got 1"),
    (("standard",), {"head_offset": "blok"}, "did you mean 'block'"),
    (("standard",), {"device": "gpu"}, "device must be a device such as cpu or cuda:0, got 'gpu'"),
    (("standard",), {"device": "meta"}, "device must be one that this torch and machine have"),
    (("standard",), {"device": "cuda:99"}, "device must be one that this torch and machine have"),
    (("standard",), {"dtype": "float23"}, r"unknown dtype 'float23'; one of \[float32, float64, bfloat16, float16\]"),
    (("standard", 3), {}, "config must be a config of longstride.factory, got int"),
    (("standard", factory.MultiheadConfig(8, 2, segment_lengths=[4], dilation_rates=[1])), {"num_heads": 2},
     "num_heads must be given once, got in a config and by name"),
    (("standard", factory.MemoryPoolConfig(1)), {}, "unknown option of type standard 'most_cached_bytes'"),
    (("block_sparse",), {"pattern": "axial", "mixing": "head_partition"}, "dilated groups"),
    (("block_sparse",), {"pattern": "axial", "sparsity_ratio": 0.5},
     r"unknown option of pattern axial 'sparsity_ratio'; one of \[grid_columns\]"),
    (("ring",), {"ring_size": 0}, "ring_size must be positive, got 0"),
    (("ring",), {"ring_size": 2}, "ring_size must divide the 1 ranks of the group, got 2; there is no process group"),
    (("ring",), {"group": "nowhere"}, 'group must be "none" or the name of a process group of this process, got \'nowhere\''),
    (("distributed",), {"backend": "gloo"}, "backend must be unset without a process group"),
    (("distributed",), {"world_size": 2}, "world_size must be that of the group, 1, got 2"),
    (("distributed",), {"rank": 1}, "rank must be that of the group, 0, got 1"),
)  # fmt: skip


@pytest.mark.parametrize("arguments, options, words", REFUSED)
def test_bad_options_are_refused(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        factory.create_multihead_dilated_attention(*arguments, **options)


def test_options_of_modules_without_projections():
    with pytest.raises(ValueError, match="unknown option of type standard 'embed_dim'"):
        factory.create_dilated_attention("standard", embed_dim=32)
    with pytest.raises(ValueError, match="head_dim and kv_heads must be unset without learned blocks"):
        factory.create_dilated_attention("block_sparse", pattern="axial", head_dim=16)


def test_learned_blocks_of_a_modules_config_are_refused():
    config = factory.DilatedAttentionConfig([8], [1], learned={"density": 0.5})
    with pytest.raises(ValueError, match="learned must be None in a config that a type is built of.*SparseAttentionConfig"):
        factory.create_dilated_attention("auto", config)
