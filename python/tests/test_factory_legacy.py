"""The constructors of dilated-attention-pytorch: every class, by position and by name, and what they compute."""

import json

import pytest
import torch
from support import close, inputs

from longstride import factory
from longstride.factory import from_legacy_attention, from_legacy_multihead

SEGMENTS, RATES = [8, 16], [1, 2]


def known_library(q, k, v, segments, rates, causal):
    """That library's own algorithm, where it is right: heads cut into one range a group, group g taking rows g mod r of
    every segment, attention within each, divided by the number of groups."""
    out, groups, first = torch.zeros_like(q), len(segments), 0
    for g, (w, r) in enumerate(zip(segments, rates)):
        count = q.size(2) // groups + (g < q.size(2) % groups)
        for begin in range(0, q.size(1), w):
            rows = slice(begin + g % r, begin + w, r)
            part = [t[:, rows, first : first + count].transpose(1, 2) for t in (q, k, v)]
            x = torch.nn.functional.scaled_dot_product_attention(*part, is_causal=causal)
            out[:, rows, first : first + count] = x.transpose(1, 2)
        first += count
    return out / groups


@pytest.mark.parametrize("causal", (False, True))
def test_attention_is_what_the_known_library_computes(causal):
    q, k, v = inputs(heads=7, kv_heads=7, length=64, dtype=torch.float64)
    module = from_legacy_attention("DilatedAttention", [8, 16, 32], [1, 2, 4], is_causal=causal)
    close(module(q, k, v)[0], known_library(q, k, v, [8, 16, 32], [1, 2, 4], causal), 1e-12)


def test_positional_orders_are_those_of_each_class():
    config = from_legacy_attention("DilatedAttention", SEGMENTS, RATES, 0.5, 0.25).config
    assert (config["segment_lengths"], config["dilation_rates"]) == (SEGMENTS, RATES)
    assert (config["softmax_scale"], config["attention_dropout"]) == (0.5, 0.25)
    # Here rates come first.
    config = from_legacy_multihead("MultiheadDilatedAttention", 32, 4, RATES, SEGMENTS, 0.1, False, False, 1e-3, 2.0).config
    assert (config["segment_lengths"], config["dilation_rates"], config["attention_dropout"]) == (SEGMENTS, RATES, 0.1)
    assert not (config["bias"] or config["sub_layer_norm"] or config["fused_qkv"])
    assert (config["layer_norm_eps"], config["gamma_init"]) == (1e-3, 2.0)
    # And here segments do.
    config = from_legacy_multihead("RingMultiheadDilatedAttention", 32, 4, SEGMENTS, RATES).config
    assert config["segment_lengths"] == SEGMENTS and config["sub_layer_norm"] and config["bias"] and config["fused_qkv"]
    layer = factory.from_legacy_encoder_layer(32, 4, SEGMENTS, RATES, 64, 0.2, torch.nn.functional.gelu, 1e-4, 1.5)
    said = {"embed_dim": 32, "segment_lengths": SEGMENTS, "dim_feedforward": 64, "dropout": 0.2, "attention_dropout": 0.2}
    said |= {"activation": "gelu", "layer_norm_eps": 1e-4, "gamma_init": 1.5, "causal": False, "fused_qkv": False}
    assert {name: layer.config[name] for name in said} == said
    net = factory.from_legacy_longnet(32, 4, 2, 3, 48, SEGMENTS, RATES, 0.1, "tanh", 1e-4)
    said = {"num_encoder_layers": 2, "num_decoder_layers": 3, "dim_feedforward": 48, "segment_lengths": SEGMENTS}
    said |= {"dropout": 0.1, "attention_dropout": 0.1, "activation": "tanh", "layer_norm_eps": 1e-4}
    said |= {"encoder_causal": True, "decoder_causal": True, "memory_causal": True}
    assert {name: net.config[name] for name in said} == said


SPARSE = {"block_size": 4, "sparsity_ratio": 0.4}
MORE = {
    "BlockSparseHierarchical": {"sparse_config": {"block_size": 4}},
    "BlockSparseAdaptive": {"num_heads": 4, "head_dim": 8, "block_size": 4, "adaptive_config": {"base_sparsity": 0.6}},
}


def test_the_classes_are_all_tried():
    assert len(factory.legacy_class_names()) == 25


@pytest.mark.parametrize("name", factory.legacy_class_names())
def test_every_class_is_built_and_runs_by_name(name):
    groups = {"segment_lengths": SEGMENTS, "dilation_rates": RATES}
    x, heads = torch.randn(1, 32, 32), torch.randn(1, 32, 4, 8)
    wide = {"d_model": 32, "nhead": 4, **groups}
    if name == "LongNet":
        layers = {"num_encoder_layers": 1, "num_decoder_layers": 1}
        assert factory.from_legacy_longnet(**wide, **layers)(x).shape == x.shape
    elif name == "DilatedTransformerEncoderLayer":
        assert factory.from_legacy_encoder_layer(**wide)(x).shape == x.shape
    elif name == "DilatedTransformerDecoderLayer":
        layer = factory.from_legacy_decoder_layer(**wide, tgt_is_causal=True)
        assert layer.config["causal"] and not layer.config["memory_causal"] and layer(x, x).shape == x.shape
    elif "Multihead" in name or name == "RingDistributedDilatedAttention":
        more = {"sparse_config": SPARSE} if name.startswith("BlockSparse") else {}
        assert from_legacy_multihead(name, embed_dim=32, num_heads=4, **groups, **more)(x)[0].shape == x.shape
    else:
        more = MORE.get(name, {"sparse_config": SPARSE} if name.startswith("BlockSparse") else {})
        module = from_legacy_attention(name, SEGMENTS, RATES, **more, causal=True)
        assert module.pattern.causal and module(heads, heads, heads)[0].shape == heads.shape


def rule(config):
    module = from_legacy_attention("BlockSparseRingDilatedAttention", [64], [3], config)
    (block,) = module.config["blocks"]
    assert module.config["segment_lengths"] == []
    return block


def test_block_sparse_ratios_are_shares_that_are_computed():
    assert rule({}) == {"pattern": "dilated_sparse", "block_size": 128, "rates": [3], "density": 0.1}
    assert rule({"sparsity_ratio": 0.25})["density"] == 0.25
    assert rule({"pattern_type": "local_window"})["window"] == 512
    assert rule({"pattern_type": "local_window", "local_window_size": 64})["window"] == 64
    found = rule({"pattern_type": "global_local", "global_tokens": 16})
    assert (found["window"], found["global_tokens"]) == (512, 16)
    for config, words in (
        ({"window_size": 3}, "unknown key of sparse_config 'window_size'"),
        ({"sparsity_ratio": 1.5}, r"must be in \(0, 1\)"),
        (3, "sparse_config must be an object, got 3"),
    ):
        with pytest.raises(ValueError, match=words):
            rule(config)


def test_the_hierarchy_is_that_of_the_known_library():
    def made(config=None, sparse=None):
        module = from_legacy_attention("BlockSparseHierarchical", [64], [1], config, sparse)
        return module.config["blocks"][0]

    levels = [{"stride": 64, "window": 256}, {"stride": 256, "window": 1024}, {"stride": 1024, "global": True}]
    assert (made()["block_size"], made()["levels"]) == (64, levels)
    config = {"level_configs": [{"stride": 1, "window_size": 50, "block_size": 8}, {"stride": 70, "window_size": -1}]}
    # Strides and windows in whole blocks, floored, at least one.
    levels = [{"stride": 16, "window": 48}, {"stride": 64, "global": True}]
    assert made(config, {"block_size": 16})["levels"] == levels
    for config, sparse, words in (
        ({"levels": []}, None, "unknown key of hierarchical_config 'levels'"),
        ({"level_configs": [{"stride": 4}]}, None, "needs window_size in every level"),
        ({"level_configs": [{"stride": 0, "window_size": 4}]}, None, "stride must be positive"),
        ({"level_configs": [{"stride": 4, "window_size": -2}]}, None, "window_size must be positive, got -2"),
        ({"level_configs": 4}, None, "level_configs must be a list"),
        (None, {"pattern_type": "local_window"}, "must be hierarchical"),
        (None, {"block_size": 0}, "block_size must be positive"),
        (None, {"global_tokens": 4}, "unknown key of sparse_config 'global_tokens'"),
    ):
        with pytest.raises(ValueError, match=words):
            made(config, sparse)


def test_adaptive_arguments():
    config = {"base_sparsity": 0.75, "hidden_dim": 8, "num_layers": 2}
    learned = from_legacy_attention("BlockSparseAdaptive", [64], [1], 3, 16, config).config["learned"]
    assert (learned["density"], learned["hidden"], learned["head_dim"], learned["kv_heads"]) == (0.25, 8, 16, 3)
    for config, words in (
        ({"num_layers": 3}, "num_layers must be its default 2, for it has no counterpart, got 3; a scorer has two layers"),
        ({"hard_sparsity": True}, "hard_sparsity must be its default"),
        ({"base_sparsity": 1.0}, r"must be in \(0, 1\)"),
        ({"sparsity": 0.5}, "unknown key of adaptive_config 'sparsity'"),
    ):
        with pytest.raises(ValueError, match=words):
            from_legacy_attention("BlockSparseAdaptive", [64], [1], 3, 16, config)


def test_what_cannot_be_honoured_is_refused():
    for arguments, keywords, words in (
        ((), {}, "DilatedAttention needs segment_lengths"),
        (([8],), {}, "needs dilation_rates"),
        (([8], [1]), {"segment_length": 1}, "unknown argument of DilatedAttention 'segment_length'.*'segment_lengths'"),
        (([8], [1]), {"dilation_rates": [1]}, "dilation_rates must be given once"),
        (([8], [1]), {"causal": True, "is_causal": True}, "must be given once, got under two names"),
        ((None,) * 9, {}, "at most 8 positional arguments, got 9"),
        (([8], [1]), {"enable_profiling": True},
         "enable_profiling must be its default false, for it has no counterpart, got true; "),
        (([8], [1]), {"attention_dropout": 1.0}, r"must be in \[0, 1\)"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            from_legacy_attention("DilatedAttention", *arguments, **keywords)
    assert from_legacy_attention("DilatedAttention", [8], [1], enable_profiling=False, op=None)
    assert json.dumps(from_legacy_attention("RingDilatedAttentionV2Collective", [8], [1], memory_pool_threshold_mb=16).config)
    for call, words in (
        (lambda: from_legacy_attention("DilatedAtention"), "did you mean 'DilatedAttention'"),
        (lambda: from_legacy_attention("MultiheadDilatedAttention"), "unknown class"),
        (lambda: from_legacy_attention("RingDilatedAttentionV2", [8], [1], ring_size=4), "ring_size .*got 4"),
        (lambda: from_legacy_multihead("MultiheadDilatedAttention", 32, 1, [1, 2], [8, 16]), "number of groups 2 .*got 1"),
        (lambda: factory.from_legacy_encoder_layer(32, 4, [8], [1], activation=len), "activation must be a name"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    half = from_legacy_multihead("MultiheadDilatedAttention", 32, 4, [1], [8], dtype="bfloat16", device="cpu")
    assert half.out_proj.weight.dtype == torch.bfloat16
