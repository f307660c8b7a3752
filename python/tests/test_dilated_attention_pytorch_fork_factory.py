"""compat.dilated_attention_pytorch, the larger fork: its factory, registries, configs and validation."""

import dataclasses

import pytest
import torch
from support import close
from torch import nn

from longstride.compat import dilated_attention_pytorch as dap
from longstride.compat.dilated_attention_pytorch import _factory, core
from longstride.compat.dilated_attention_pytorch.core import DilatedAttentionConfig, MultiheadConfig
from longstride.compat.dilated_attention_pytorch.core import factory as their_factory
from longstride.compat.dilated_attention_pytorch.ring_distributed_dilated_attention import RingDistributedDilatedAttention
from longstride.compat.dilated_attention_pytorch.utils.validation import ValidationMixin

GROUPS = SEGMENTS, RATES = ([8, 16], [1, 2])
NAMED = {"segment_lengths": SEGMENTS, "dilation_rates": RATES}


# The tests that the known library called flaky, by their names there, on its own factory.
def test_auto_selection_creates_valid_module():
    module = dap.create_multihead_dilated_attention(
        "auto", embed_dim=64, num_heads=8, segment_lengths=[16, 32], dilation_rates=[1, 2], device=torch.device("cpu"),
        dtype=torch.float32,
    )  # fmt: skip
    assert isinstance(module, nn.Module)
    x = torch.randn(2, 32, 64)
    out, nothing = module(x, x, x)
    assert out.shape == x.shape and out.dtype == torch.float32 and out.device == x.device and nothing is None


def test_config_objects_work_correctly():
    attention = DilatedAttentionConfig([16, 32, 64], [1, 2, 4], dropout=0.2)
    multihead = MultiheadConfig(embed_dim=96, num_heads=12, gamma_init=2.0, dtype=torch.float64)
    before = dataclasses.asdict(attention), dataclasses.asdict(multihead)
    for kind in ("auto", "standard", "ring"):
        module = dap.create_multihead_dilated_attention(
            kind, multihead_config=multihead, attention_config=attention, device="cpu"
        )
        assert (module.multihead_config.embed_dim, module.multihead_config.num_heads) == (96, 12)
        assert (module.multihead_config.gamma_init, module.out_proj.weight.dtype) == (2.0, torch.float64)
        assert (module.attention_config.dropout, module.attention_config.segment_lengths) == (0.2, [16, 32, 64])
        x = torch.randn(1, 64, 96, dtype=torch.float64)
        assert module(x, x, x, need_weights=True)[0].shape == x.shape
    assert (dataclasses.asdict(attention), dataclasses.asdict(multihead)) == before
    module = dap.create_multihead_dilated_attention("auto", 48, 6, multihead_config=multihead, attention_config=attention)
    assert (module.embed_dim, module.num_heads) == (48, 6)


def test_backward_compatibility():
    options = {"embed_dim": 64, "num_heads": 8, "segment_lengths": [16, 32], "dilation_rates": [1, 2]}
    old = dap.MultiheadDilatedAttention(**options)
    new = dap.create_multihead_dilated_attention("improved", **options)
    x = torch.randn(2, 32, 64)
    assert old(x, x, x).shape == new(x, x, x)[0].shape
    # More than there: one attention in both, so the same weights give the same but for the norms of q and k.
    bare_old = dap.MultiheadDilatedAttention(**options, layer_norm=False)
    bare_new = dap.create_multihead_dilated_attention("improved", **options, layer_norm=False)
    bare_new.load_state_dict(bare_old.state_dict())
    close(bare_old(x, x, x), bare_new(x, x, x)[0], 1e-6)


def test_in_transformer_model():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(
                dap.create_multihead_dilated_attention(
                    "auto", embed_dim=64, num_heads=8, segment_lengths=[16, 32], dilation_rates=[1, 2], dropout=0.1
                )
                for _ in range(2)
            )
            self.norm = nn.LayerNorm(64)

        def forward(self, x):
            for layer in self.layers:
                x = x + layer(self.norm(x), self.norm(x), self.norm(x))[0]
            return x

    model, x = Model(), torch.randn(2, 32, 64)
    out = model(x)
    out.sum().backward()
    assert out.shape == x.shape
    # k_ln is held and has no part.
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {f"layers.{i}.k_ln.{leaf}" for i in range(2) for leaf in ("weight", "bias")}


TYPES = {
    "standard": dap.DilatedAttention,
    "improved": dap.ImprovedDilatedAttention,
    "auto": dap.ImprovedDilatedAttention,
    "ring": dap.RingDilatedAttention,
    "distributed": dap.DistributedImprovedDilatedAttention,
    "improved_distributed": dap.DistributedImprovedDilatedAttention,
    "block_sparse_ring": dap.BlockSparseRingDilatedAttention,
}


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_built(kind):
    module = dap.create_dilated_attention(kind, SEGMENTS, RATES, dropout=0.1, device="cpu", dtype=torch.float32)
    assert type(module) is TYPES[kind] and module.dropout == 0.1 and module.segment_lengths == SEGMENTS
    assert dap.create_dilated_attention(kind).segment_lengths == [2048, 4096, 8192]
    wide = dap.create_multihead_dilated_attention(kind, 40, 5, SEGMENTS, RATES, dropout=0.1, dtype=torch.bfloat16)
    assert wide.dropout == 0.1 and wide.out_proj.weight.dtype == torch.bfloat16
    assert dap.create_multihead_dilated_attention(kind, dtype=torch.bfloat16).embed_dim == 768


def test_block_sparse_by_its_own_name():
    def block(**options):
        module = dap.create_block_sparse_attention(embed_dim=40, num_heads=5, **NAMED, **options)
        return repr(module.attention.pattern)

    assert block(sparsity_ratio=0.75) == (
        "Pattern.block_sparse('dilated_sparse', 128, density=0.25, rates=[1, 2])"
    )
    assert "density=0.09999" in block()
    assert block(pattern_type="local_window", sparsity_ratio=0.5, block_size=8).startswith(
        "Pattern.block_sparse('local_window', 8, density=0.5"
    )
    assert "global_tokens=64, window=512" in block(pattern_type="global_local")
    with pytest.raises(ValueError, match="unknown option of pattern global_local"):
        block(pattern_type="global_local", sparsity_ratio=0.5)
    with pytest.raises(ValueError, match="sparsity_ratio must be between 0 and 1"):
        block(sparsity_ratio=1.0)


@pytest.fixture
def registries():
    kept = dict(_factory._ATTENTION_REGISTRY), dict(_factory._MULTIHEAD_REGISTRY)
    yield
    for registry, before in zip((_factory._ATTENTION_REGISTRY, _factory._MULTIHEAD_REGISTRY), kept):
        registry.clear()
        registry.update(before)


def test_classes_of_ones_own_are_registered(registries):
    class Own(core.BaseDilatedAttention):
        def forward(self, q, k, v, is_causal=False, attention_mask=None):
            return v

    class OwnMultihead(core.BaseMultiheadDilatedAttention):
        def _create_attention_module(self):
            return Own(self.attention_config)

        def _init_qkv_projections(self, factory_kwargs):
            self.v_proj = nn.Linear(self.embed_dim, self.embed_dim, **factory_kwargs)

        def forward(self, query, key=None, value=None, **call):
            return self.out_proj(self.attention(query, query, self.v_proj(query)))

    their_factory.register_attention("own", Own)
    their_factory.register_multihead_attention("multihead_own", OwnMultihead)
    module = dap.create_dilated_attention("own", SEGMENTS, RATES, dropout=0.5)
    assert (module.segment_lengths, module.num_groups, module.dropout) == (SEGMENTS, 2, 0.5)
    module = dap.create_multihead_dilated_attention("own", 40, 5, SEGMENTS, RATES)
    assert module(torch.randn(1, 8, 40)).shape == (1, 8, 40) and module.q_ln is not None
    _factory._ATTENTION_REGISTRY.clear()
    their_factory._ensure_implementations_registered()
    assert set(_factory._ATTENTION_REGISTRY) == set(TYPES) - {"auto"}


def test_what_is_refused():
    q = torch.randn(1, 16, 5, 8)
    for call, words in (
        (lambda: dap.create_multihead_dilated_attention("invalid"), r"Unknown attention type 'invalid'; one of \[auto, "),
        (lambda: dap.create_dilated_attention("improvd"), "did you mean 'improved'"),
        (lambda: dap.create_multihead_dilated_attention("auto", 256, 7), r"embed_dim must be divisible by num_heads \(7\)"),
        (lambda: dap.create_dilated_attention("ring", ring_size=3), "ring_size must divide the 1 ranks"),
        (lambda: dap.create_dilated_attention("auto", enable_memory_pool=True), "enable_memory_pool must be its default"),
        (lambda: dap.create_dilated_attention("auto", dropuot=0.1), "unknown argument of ImprovedDilatedAttention 'dropuot'"),
        (lambda: dap.create_dilated_attention("ring", block_size=8), "unknown argument of RingDilatedAttentionV2Collective"),
        (lambda: dap.MultiheadDilatedAttention(8, 1, [1, 2], [8, 8]), "num_heads must be at least the number of groups 2"),
        (lambda: dap.ImprovedDilatedAttention([8] * 6, [1] * 6)(q, q, q), "6"),
        (lambda: dap.BlockSparseRingDilatedAttention([8], [1, 2]), "must have the same length: 1 != 2"),
        (lambda: dap.BlockSparseRingMultiheadDilatedAttention(40, 5, [8], [1, 2]), "must have the same length: 1 != 2"),
        (lambda: dap.BlockSparseRingDilatedAttention([-8], [1]), r"segment_lengths\[0\] must be positive, got -8"),
        (lambda: dap.RingDilatedAttentionV2([8]), "RingDilatedAttentionV2 needs dilation_rates"),
        (lambda: RingDistributedDilatedAttention(40, 5, *GROUPS, zero_stage=1), "zero_stage must be its default 3"),
        (lambda: dap.BlockSparseRingMultiheadDilatedAttention(40, 5, *GROUPS, batch_first=False), "batch_first must be"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


CONFIGS = (
    (DilatedAttentionConfig, ([], []), {}, "segment_lengths cannot be empty"),
    (DilatedAttentionConfig, ([8], [1, 2]), {}, "must have the same length: 1 != 2"),
    (DilatedAttentionConfig, ([8, -1], [1, 2]), {}, r"segment_lengths\[1\] must be positive, got -1"),
    (DilatedAttentionConfig, ([8], [0]), {}, r"dilation_rates\[0\] must be positive, got 0"),
    (DilatedAttentionConfig, ([8], [1]), {"dropout": 1.5}, "dropout must be between 0.0 and 1.0, got 1.5"),
    (MultiheadConfig, (0, 4), {}, "embed_dim must be positive, got 0"),
    (MultiheadConfig, (40, 0), {}, "num_heads must be positive, got 0"),
    (MultiheadConfig, (41, 4), {}, r"embed_dim must be divisible by num_heads \(4\), got 41"),
    (MultiheadConfig, (64, 4), {"gamma_init": 0.0}, "gamma_init must be positive"),
    (MultiheadConfig, (64, 4), {"layer_norm_eps": -1.0}, "layer_norm_eps must be positive"),
    (core.RingAttentionConfig, ([8], [1]), {"block_size": 0}, "block_size must be positive, got 0"),
    (core.RingAttentionConfig, ([8], [1]), {"ring_size": -1}, "ring_size must be positive, got -1"),
    (core.RingAttentionConfig, ([8], [1]), {"max_cached_buffers": -1}, "max_cached_buffers must not be negative"),
    (core.SparseAttentionConfig, ([8], [1]), {"pattern_type": "axal"}, "did you mean 'axial'"),
    (core.SparseAttentionConfig, ([8], [1]), {"sparsity_ratio": 1.0}, "sparsity_ratio must be between 0 and 1"),
    (core.SparseAttentionConfig, ([8], [1]), {"min_sparsity": 0.95}, "min_sparsity must be less than max_sparsity 0.9"),
    (core.DistributedConfig, (0,), {}, "world_size must be positive, got 0"),
    (core.DistributedConfig, (4, 4), {}, "rank must be below world_size 4, got 4"),
    (core.DistributedConfig, (), {"rank": -1}, "rank must not be negative"),
    (core.DistributedConfig, (), {"backend": "ncl"}, "did you mean 'nccl'"),
    (core.DistributedConfig, (), {"zero_stage": 4}, "zero_stage must be 0, 1, 2 or 3, got 4"),
    (core.DistributedConfig, (), {"gradient_compression_ratio": 0.0}, "gradient_compression_ratio must be above 0"),
    (core.MemoryPoolConfig, (0,), {}, "hot_cache_size must be positive, got 0"),
    (dap.RingAttentionConfig, ([8], []), {}, "dilation_rates cannot be empty"),
    (dap.RingAttentionConfig, ([8], [-1]), {}, r"dilation_rates\[0\] must be positive"),
)


@pytest.mark.parametrize("config, arguments, options, words", CONFIGS)
def test_bad_configs_are_refused(config, arguments, options, words):
    with pytest.raises(ValueError, match=words):
        config(*arguments, **options)


def test_configs_have_their_fields_in_their_order():
    config = core.SparseAttentionConfig([8, 16], [1, 2], 0.1, False, "cpu", torch.float64, "axial", 0.5, 64)
    assert (config.num_groups, config.max_segment_length, config.block_size, config.dropout) == (2, 16, 64, 0.1)
    assert MultiheadConfig(64, 8).head_dim == 8
    assert core.DistributedConfig().backend == "nccl" and core.RingAttentionConfig([8], [1]).block_size == 1024
    with pytest.warns(UserWarning, match="should be divisible by 8"):
        MultiheadConfig(36, 3)


def test_validation_says_what_is_wrong():
    a, b = torch.zeros(2, 16, 4), torch.zeros(2, 8, 4)
    check = ValidationMixin
    check.validate_tensor_shape(a, 3, "x")
    check.validate_tensor_shapes_match([a, b], ["a", "b"], [0, 2])
    check.validate_tensor_shapes_match([], [])
    check.validate_sequence_length(16, [4, 8])
    check.validate_device_dtype_consistency([a, b], ["a", "b"])
    check.validate_attention_mask(None, 2, 16)
    check.validate_attention_mask(torch.zeros(16, 16), 2, 16)
    check.validate_attention_mask(torch.zeros(2, 1, 16, 16, dtype=torch.bool), 2, 16)
    assert check.validate_head_dim(64, 8) == 8
    for call, words in (
        (lambda: check.validate_tensor_shape(a, 4, "query"), "query expected 4D tensor, got 3D, shape"),
        (lambda: check.validate_batch_first_format(a, "x"), "x must be 4D tensor in batch-first format"),
        (lambda: check.validate_tensor_shapes_match([a, b], ["a", "b"]), "Shape mismatch: a has shape"),
        (lambda: check.validate_tensor_shapes_match([a, b], ["a", "b"], [1]), "at dimension 1: a has size 16, b has size 8"),
        (lambda: check.validate_sequence_length(20, [4, 8]), "divisible by the largest segment length 8, got 20; pad it to 24"),
        (lambda: check.validate_sequence_length(20, []), "segment_lengths cannot be empty"),
        (lambda: check.validate_device_dtype_consistency([a, b.half()], ["a", "b"]), "Dtype mismatch: a has Float, b has Half"),
        (lambda: check.validate_device_dtype_consistency([a, b.to("meta")], ["a", "b"]), "Device mismatch: a on cpu, b on meta"),
        (lambda: check.validate_attention_mask(torch.zeros(4), 2, 16), "attention_mask must be either 2D or 4D, got 1D"),
        (lambda: check.validate_attention_mask(torch.zeros(8, 16), 2, 16), r"attention_mask must be \[16, 16\]"),
        (lambda: check.validate_attention_mask(torch.zeros(1, 1, 16, 16), 2, 16), r"must be \[2, 1, 16, 16\]"),
        (lambda: check.validate_attention_mask(torch.zeros(16, 16).long(), 2, 16), "boolean or float dtype, got Long"),
        (lambda: check.validate_dropout_prob(-0.1), "dropout must be between 0.0 and 1.0"),
        (lambda: check.validate_head_dim(65, 8), r"embed_dim must be divisible by num_heads \(8\)"),
        (lambda: check.validate_num_heads(2, 3), r"num_heads must be >= num_groups \(3\), got 2"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
