"""compat.dilated_attention_pytorch, the larger fork: names and forms of modules."""

import copy
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

from longstride.compat import dilated_attention_pytorch as dap
from longstride.compat.dilated_attention_pytorch import _factory, core
from longstride.compat.dilated_attention_pytorch.distributed_dilated_attention import DistributedMultiheadDilatedAttention
from longstride.compat.dilated_attention_pytorch.ring_distributed_dilated_attention import RingDistributedDilatedAttention
from longstride.compat.dilated_attention_pytorch.ring_multihead_dilated_attention import RingMultiheadDilatedAttention
from longstride.compat.dilated_attention_pytorch.simulated_ring_dilated_attention import SimulatedRingDilatedAttention
from longstride.compat.dilated_attention_pytorch.true_ring_dilated_attention import TrueRingDilatedAttention

HEADS, WIDTH, GROUPS = 5, 40, ([8, 16], [1, 2])
SEGMENTS, RATES = GROUPS

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
