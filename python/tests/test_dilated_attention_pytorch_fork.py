"""compat.dilated_attention_pytorch, the larger fork: names, forms of modules, the factory, configs, validation."""

import copy
import dataclasses
import inspect
import math
import pickle
import subprocess
import sys

import definition
import dilated_attention_pytorch_algorithm as algorithm
import pytest
import torch
from support import close, inputs
from torch import nn

from longstride.compat import dilated_attention_pytorch as dap
from longstride.compat.dilated_attention_pytorch import _factory, core
from longstride.compat.dilated_attention_pytorch.core import DilatedAttentionConfig, MultiheadConfig
from longstride.compat.dilated_attention_pytorch.core import factory as their_factory
from longstride.compat.dilated_attention_pytorch.distributed_dilated_attention import DistributedMultiheadDilatedAttention
from longstride.compat.dilated_attention_pytorch.ring_distributed_dilated_attention import RingDistributedDilatedAttention
from longstride.compat.dilated_attention_pytorch.ring_multihead_dilated_attention import RingMultiheadDilatedAttention
from longstride.compat.dilated_attention_pytorch.simulated_ring_dilated_attention import SimulatedRingDilatedAttention
from longstride.compat.dilated_attention_pytorch.true_ring_dilated_attention import TrueRingDilatedAttention
from longstride.compat.dilated_attention_pytorch.utils.validation import ValidationMixin

HEADS, WIDTH, GROUPS = 5, 40, ([8, 16], [1, 2])
SEGMENTS, RATES = GROUPS
NAMED = {"segment_lengths": SEGMENTS, "dilation_rates": RATES}

# As a program of that library imports it: in a process of its own, since sys.modules is pointed at it.
PROGRAM = """
import importlib, pickle, pkgutil, sys
sys.path[:0] = {path!r}
from longstride.compat import dilated_attention_pytorch
sys.modules["dilated_attention_pytorch"] = dilated_attention_pytorch
found = [m.name for m in pkgutil.walk_packages(dilated_attention_pytorch.__path__, "dilated_attention_pytorch.")]
for name in found:
    if "._" in name:
        continue
    theirs = importlib.import_module(name)
    ours = importlib.import_module("longstride.compat." + name)
    for public in theirs.__all__:
        assert getattr(theirs, public) is getattr(ours, public), (name, public)
from dilated_attention_pytorch import DilatedAttention, MultiheadDilatedAttention
from dilated_attention_pytorch.core import create_multihead_dilated_attention, register_attention
from dilated_attention_pytorch.core.factory import _ensure_implementations_registered
from dilated_attention_pytorch.dilated_attention import DilatedAttention as same, MultiheadDilatedAttention as original
from dilated_attention_pytorch.long_net import LongNet, LongNetLM
from dilated_attention_pytorch.transformer import DilatedTransformerEncoderLayer
assert same is DilatedAttention and original is not MultiheadDilatedAttention
pickle.loads(pickle.dumps(original(16, 2, [1], [8])))
for module, name in (("core", "UnifiedMemoryPool"), ("utils", "SparsePatternGenerator"), ("block_sparse_adaptive", "ImportanceScorer")):
    try:
        exec(f"from dilated_attention_pytorch.{{module}} import {{name}}")
    except ImportError as error:
        print(error)
print(len([name for name in found if "._" not in name]))
"""


def test_sys_modules_can_be_pointed_at_it():
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(path=sys.path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pool, generator, scorer, count = done.stdout.splitlines()
    assert pool == (
        "dilated_attention_pytorch.core.UnifiedMemoryPool has no counterpart in longstride: torch's own allocator keeps freed "
        "memory; leave pools out"
    )
    assert "longstride.Pattern has the patterns" in generator and "longstride.nn.BlockScorer chooses" in scorer and count == "30"


def test_names_of_the_package_are_there_or_say_why_not():
    for name in dap.__all__:
        assert getattr(dap, name) is not None
    with pytest.raises(ImportError, match="BlockSparseRingDistributedDilatedAttention has no counterpart in longstride"):
        dap.BlockSparseRingDistributedDilatedAttention  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'DilatedAtention'"):
        dap.DilatedAtention  # noqa: B018
    assert dap.RingDilatedAttention is dap.RingDilatedAttentionV2Collective and dap.__version__ == "0.2.0"


def made(cls, *arguments, seed=3, **options):
    """A module in float64 whose norms are not the identity, in eval mode."""
    torch.manual_seed(seed)
    module = cls(*arguments, **options).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def x_of(length=32, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, WIDTH, generator=generator, dtype=torch.float64)


ATTENTION = (
    dap.DilatedAttention,
    dap.ImprovedDilatedAttention,
    dap.RingDilatedAttention,
    dap.RingDilatedAttentionV2,
    dap.RingDilatedAttentionV2Flash,
    dap.RingDilatedAttentionProduction,
    dap.DistributedImprovedDilatedAttention,
    SimulatedRingDilatedAttention,
    TrueRingDilatedAttention,
)


@pytest.mark.parametrize("cls", ATTENTION)
def test_attention_classes_are_one_attention(cls):
    q, k, v = inputs(heads=HEADS, kv_heads=HEADS, length=29, dtype=torch.float64)
    module = cls(SEGMENTS, RATES)
    for causal in (False, True):
        out = module(q, k, v, is_causal=causal)
        assert isinstance(out, torch.Tensor)
        close(out, algorithm.attention(q, k, v, *GROUPS, causal), 1e-12)
    assert (module.segment_lengths, module.dilation_rates, module.num_groups) == (SEGMENTS, RATES, 2)
    placed = cls(SEGMENTS, RATES, device="cpu", dtype=torch.float32)
    assert placed.device == "cpu" and placed.dtype == torch.float32
    dropping = cls(SEGMENTS, RATES, **{"attention_dropout" if cls is dap.DilatedAttention else "dropout": 0.5})
    assert dropping.dropout == 0.5 and not torch.equal(dropping(q, k, v), dropping(q, k, v))
    copied = pickle.loads(pickle.dumps(copy.deepcopy(module)))
    assert torch.equal(copied(q, k, v), module(q, k, v)) and isinstance(module, core.BaseDilatedAttention)
    with pytest.raises(ValueError, match="attention_mask must be None"):
        module(q, k, v, attention_mask=torch.ones(29, 29))


def test_a_ring_of_several_is_refused():
    for cls in (dap.RingDilatedAttention, dap.RingDilatedAttentionProduction, SimulatedRingDilatedAttention):
        with pytest.raises(ValueError, match="ring_size must divide the 1 ranks of the group, got 4"):
            cls(SEGMENTS, RATES, ring_size=4)


def test_the_production_ring_takes_its_config():
    config = dap.RingAttentionConfig(SEGMENTS, RATES, dropout=0.25, attention_scale=0.5)
    for module in (
        dap.RingDilatedAttentionProduction(config),
        dap.RingDilatedAttentionProduction(config=config),
        dap.create_production_ring_attention(SEGMENTS, RATES, dropout=0.25, attention_scale=0.5),
    ):
        assert (module.dropout, module.softmax_scale, module.segment_lengths) == (0.25, 0.5, SEGMENTS)
    with pytest.raises(ValueError, match="memory_pool_size must be its default 10"):
        dap.RingDilatedAttentionProduction(dap.RingAttentionConfig(SEGMENTS, RATES, memory_pool_size=3))


# Class: (pattern's fields, its config).
BLOCKS = {
    "local_window": ({"window": 16}, {"local_window_size": 16}),
    "global_local": ({"window": 8, "global_tokens": 4}, {"local_window_size": 8, "global_tokens": 4}),
}


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize(
    "cls", (dap.BlockSparseRingDilatedAttention, dap.BlockSparseOptimized, dap.BlockSparseTorchSparse)
)
def test_block_sparse_classes(cls, kind):
    fields, config = BLOCKS[kind]
    config = {"pattern_type": kind, "block_size": 4, **config}
    q, k, v = inputs(heads=2, kv_heads=2, length=30, dtype=torch.float64)
    for given in (config, dap.SparsePatternConfig(**config)):
        module = cls(SEGMENTS, RATES, given)
        for causal in (False, True):
            pattern = {"causal": causal, "blocks": [{"pattern": kind, "block_size": 4, **fields}]}
            close(module(q, k, v, causal), definition.attention(q, k, v, pattern)[0], 1e-12)
    with pytest.raises(ValueError, match="return_attention_weights must be False, got True; call longstride.attention_weights"):
        module(q, k, v, return_attention_weights=True)


def test_hierarchies():
    presets = dap.get_hierarchical_presets()
    assert set(presets) == {"standard", "fine_grained", "long_range", "ultra_sparse"}
    assert presets["standard"] == dap.HierarchicalConfig() and presets["standard"].num_levels == 3
    q, k, v = inputs(heads=2, kv_heads=2, length=30, dtype=torch.float64)
    config = dap.HierarchicalConfig([{"stride": 4, "window_size": 8}, {"stride": 12, "window_size": -1}])
    module = dap.BlockSparseHierarchical(SEGMENTS, RATES, config, {"block_size": 4})
    levels = [{"stride": 4, "window": 8}, {"stride": 12, "global": True}]
    pattern = {"causal": False, "blocks": [{"pattern": "hierarchical", "block_size": 4, "levels": levels}]}
    close(module(q, k, v), definition.attention(q, k, v, pattern)[0], 1e-12)
    assert dap.create_hierarchical_attention(64, 8).pattern == dap.BlockSparseHierarchical([64], [1]).pattern


@pytest.mark.parametrize("causal", (False, True))
def test_learned_blocks(causal):
    config = dap.AdaptiveConfig(base_sparsity=0.6, hidden_dim=16)
    module = dap.BlockSparseAdaptive([64], [1], 4, 16, config, block_size=4).double()
    q, k, v = inputs(4, 4, 48, 16, dtype=torch.float64)
    choices = []
    out = module(q, k, v, causal, choices=choices)
    rule = {"pattern": "list", "block_size": 4, "blocks": choices[0].blocks.tolist()}
    close(out, definition.attention(q, k, v, {"causal": causal, "blocks": [rule]})[0], 1e-12)
    pairs = 12 * 13 / 2 if causal else 12 * 12
    assert abs(len(rule["blocks"]) / (len(q) * 4) - 0.4 * pairs) <= 0.5
    assert torch.autograd.grad((out * q).sum(), module.scorer.query_in)[0].abs().max() > 0
    with pytest.raises(ValueError, match="return_attention_weights must be False"):
        module(q, k, v, return_attention_weights=True)
    wide = dap.create_adaptive_sparse_attention(64, 8)
    assert math.isclose(wide.attention.config["learned"]["density"], 0.5)
    with pytest.raises(ValueError, match="num_layers must be its default 2"):
        dap.BlockSparseAdaptive([64], [1], 4, 16, dap.AdaptiveConfig(num_layers=3))


SPLIT = {f"{name}_proj.{leaf}" for name in ("q", "k", "v", "out") for leaf in ("weight", "bias")}
FUSED = {f"{name}_proj.{leaf}" for name in ("qkv", "out") for leaf in ("weight", "bias")}
NORM = {"norm.weight", "norm.bias"}
LN = {"q_ln.weight", "q_ln.bias", "k_ln.weight", "k_ln.bias"}
# Class: (keys, whether q and k are normed, whether the output is, whether it returns a pair, rates before segments).
FORMS = {
    dap.MultiheadDilatedAttention: (SPLIT | LN, True, True, False, True),
    dap.ImprovedMultiheadDilatedAttention: (FUSED | LN, False, True, True, True),
    dap.DistributedImprovedMultiheadDilatedAttention: (SPLIT | LN, True, True, False, False),
    _factory.RingMultihead: (SPLIT | LN, True, False, True, False),
    RingMultiheadDilatedAttention: (FUSED | NORM, False, True, True, False),
    RingDistributedDilatedAttention: (FUSED | NORM, False, True, True, False),
    DistributedMultiheadDilatedAttention: (SPLIT | NORM, False, True, True, True),
}


@pytest.mark.parametrize("cls", FORMS)
def test_multihead_classes_are_what_they_say(cls):
    keys, of_qk, of_out, pair, rates_first = FORMS[cls]
    groups = (RATES, SEGMENTS) if rates_first else GROUPS
    module = made(cls, WIDTH, HEADS, *groups)
    assert set(module.state_dict()) == keys
    names = list(inspect.signature(cls).parameters)
    order = ["dilation_rates", "segment_lengths"]
    assert names[:4] == ["embed_dim", "num_heads", *(order if rates_first else order[::-1])]
    weights = algorithm.Weights(dict(module.named_parameters()))
    x, other = x_of(), x_of(seed=2)
    for memory, causal in ((x, False), (x, True), (other, False)):
        result = module(x, memory, memory, is_causal=causal)
        assert isinstance(result, tuple) == pair
        out = result[0] if pair else result
        wanted = algorithm.multihead(weights, x, memory, HEADS, GROUPS, causal, of_qk, of_out)
        close(out, wanted, 1e-12)
        assert torch.equal(module(x, memory, memory, need_weights=True, is_causal=causal)[0], out)
    assert module(x, need_weights=True)[1] is None and isinstance(module, core.BaseMultiheadDilatedAttention)
    config, attention = module.multihead_config, module.attention_config
    assert (config.embed_dim, config.num_heads, config.layer_norm, config.dtype) == (WIDTH, HEADS, True, torch.float64)
    assert (attention.segment_lengths, attention.dilation_rates, attention.dropout) == (SEGMENTS, RATES, 0.0)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(module)))
    assert torch.equal(copied(x, need_weights=True)[0], module(x, need_weights=True)[0])


def test_the_block_sparse_multihead():
    config = {"pattern_type": "local_window", "block_size": 4, "local_window_size": 16}
    module = made(dap.BlockSparseRingMultiheadDilatedAttention, WIDTH, HEADS, *GROUPS, sparse_config=config)
    assert set(module.state_dict()) == SPLIT
    x = x_of(30)
    w = algorithm.Weights(dict(module.named_parameters()))
    q, k, v = (w[name].linear(x).unflatten(2, (HEADS, -1)) for name in ("q_proj", "k_proj", "v_proj"))
    pattern = {"causal": True, "blocks": [{"pattern": "local_window", "block_size": 4, "window": 16}]}
    wanted = w["out_proj"].linear(definition.attention(q, k, v, pattern)[0].flatten(2))
    out = module(x, x, x, is_causal=True)
    assert isinstance(out, torch.Tensor)
    close(out, wanted, 1e-12)


def test_padding_at_the_end_of_rows_is_honoured_and_other_masks_are_refused():
    module = made(dap.MultiheadDilatedAttention, WIDTH, HEADS, RATES, SEGMENTS)
    x = x_of()
    mask = torch.arange(32) >= torch.tensor([[32], [21]])
    out = module(x, key_padding_mask=mask)
    close(out[0], module(x)[0], 1e-12)
    close(out[1, :21], module(x[1:, :21])[0], 1e-12)
    with pytest.raises(ValueError, match="key_padding_mask must be true at the end of rows only"):
        module(x, key_padding_mask=mask.flip(1))
    with pytest.raises(ValueError, match="attn_mask must be None, got Tensor; is_causal=True"):
        module(x, attn_mask=torch.zeros(32, 32))


def test_weights_of_one_form_load_into_another():
    x = x_of()
    original = made(dap.dilated_attention.MultiheadDilatedAttention, WIDTH, HEADS, RATES, SEGMENTS)
    ring = made(RingMultiheadDilatedAttention, WIDTH, HEADS, *GROUPS, seed=4)
    ring.load_state_dict(original.state_dict())
    close(ring(x)[0], original(x, x, x)[0], 1e-12)
    improved = made(dap.ImprovedMultiheadDilatedAttention, WIDTH, HEADS, RATES, SEGMENTS, seed=5)
    improved.load_state_dict(original.state_dict())
    close(improved(x)[0], original(x, x, x)[0], 1e-12)
    original.load_state_dict(ring.state_dict())
    # The fork's factory wraps its block-sparse module in another one.
    sparse = dap.create_multihead_dilated_attention("block_sparse_ring", WIDTH, HEADS, block_size=4).double()
    bare = {key: value for key, value in original.state_dict().items() if "norm" not in key}
    sparse.load_state_dict({f"_impl.{key}": value for key, value in bare.items()})
    assert torch.equal(sparse.q_proj.weight, original.q_proj.weight)
    with pytest.raises(RuntimeError, match="size mismatch"):
        original.load_state_dict(made(RingMultiheadDilatedAttention, 80, HEADS, *GROUPS).state_dict())


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
