"""The factory of the larger fork: its functions, its registries, and the classes that they build."""

from __future__ import annotations

import dataclasses
import difflib
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from ... import factory
from ..._refusal import refuse
from ...factory._sparse import TAKES
from . import _attention, _multihead
from ._attention import Attention, Legacy
from ._configs import DilatedAttentionConfig, MultiheadConfig, RingAttentionConfig, SparseAttentionConfig
from ._multihead import LN_OF_QK, Multihead
from ._validation import ValidationMixin

SEGMENTS, RATES = (2048, 4096, 8192), (1, 2, 4)
OF_POOLS = ("enable_memory_pool", "lightweight_pool", "enable_profiling")


class BaseDilatedAttention(nn.Module, ValidationMixin, ABC):
    """For subclasses of one's own: keeps a config and its fields. The classes of this package count as subclasses.

    Args:
        config: a `DilatedAttentionConfig`.
    """

    def __init__(self, config: DilatedAttentionConfig):
        super().__init__()
        self.config = config
        self.segment_lengths, self.dilation_rates = config.segment_lengths, config.dilation_rates
        self.dropout, self.num_groups = config.dropout, config.num_groups
        self.device, self.dtype = config.device, config.dtype

    @abstractmethod
    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False, attention_mask: Tensor | None = None
    ) -> Tensor:
        """q, k, v [batch, len, heads, dim] -> [batch, len, heads, dim]."""


class BaseMultiheadDilatedAttention(nn.Module, ValidationMixin, ABC):
    """For subclasses of one's own: calls `_create_attention_module` and `_init_qkv_projections`, then makes out_proj,
    and q_ln and k_ln if layer_norm. The classes of this package count as subclasses.

    Args:
        multihead_config, attention_config: `MultiheadConfig` and `DilatedAttentionConfig`.
    """

    def __init__(self, multihead_config: MultiheadConfig, attention_config: DilatedAttentionConfig):
        super().__init__()
        self.multihead_config, self.attention_config = multihead_config, attention_config
        self.embed_dim, self.num_heads = multihead_config.embed_dim, multihead_config.num_heads
        self.head_dim, self.bias = multihead_config.head_dim, multihead_config.bias
        self.device, self.dtype = multihead_config.device, multihead_config.dtype
        made: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        self.attention = self._create_attention_module()
        self._init_qkv_projections(made)
        self.out_proj = nn.Linear(self.embed_dim, self.embed_dim, self.bias, **made)
        self.q_ln = self.k_ln = None
        if multihead_config.layer_norm:
            self.q_ln = nn.LayerNorm(self.embed_dim, multihead_config.layer_norm_eps, **made)
            self.k_ln = nn.LayerNorm(self.embed_dim, multihead_config.layer_norm_eps, **made)

    @abstractmethod
    def _create_attention_module(self) -> nn.Module: ...

    @abstractmethod
    def _init_qkv_projections(self, factory_kwargs: dict[str, Any]) -> None: ...

    @abstractmethod
    def forward(self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None, **call: Any) -> Any: ...


BaseDilatedAttention.register(Attention)
BaseMultiheadDilatedAttention.register(Multihead)


class RingMultihead(Multihead):
    """What the type "ring" is: three projections, `q_ln` and `k_ln` over q and k, no norm before the output."""

    legacy = "RingMultiheadDilatedAttention"
    form = LN_OF_QK
    scales_qk = True


BUILTIN = {
    "standard": _attention.DilatedAttention,
    "improved": _attention.ImprovedDilatedAttention,
    "ring": _attention.RingDilatedAttentionV2Collective,
    "distributed": _attention.DistributedImprovedDilatedAttention,
    "improved_distributed": _attention.DistributedImprovedDilatedAttention,
    "block_sparse_ring": _attention.BlockSparseRingDilatedAttention,
}
BUILTIN_MULTIHEAD = {
    "multihead_standard": _multihead.MultiheadDilatedAttention,
    "multihead_improved": _multihead.ImprovedMultiheadDilatedAttention,
    "multihead_ring": RingMultihead,
    "multihead_distributed": _multihead.DistributedImprovedMultiheadDilatedAttention,
    "multihead_improved_distributed": _multihead.DistributedImprovedMultiheadDilatedAttention,
    "multihead_ring_distributed": _multihead.RingDistributedDilatedAttention,
    "multihead_block_sparse_ring": _multihead.BlockSparseRingMultiheadDilatedAttention,
}
# The registries there, under their names: users' tests look into them.
_ATTENTION_REGISTRY: dict[str, type] = dict(BUILTIN)
_MULTIHEAD_REGISTRY: dict[str, type] = dict(BUILTIN_MULTIHEAD)
CONFIGS = {"ring": RingAttentionConfig, "block_sparse_ring": SparseAttentionConfig}


def _ensure_implementations_registered() -> None:
    """Registers the classes of this package whose names are free."""
    for registry, builtin in ((_ATTENTION_REGISTRY, BUILTIN), (_MULTIHEAD_REGISTRY, BUILTIN_MULTIHEAD)):
        for name, cls in builtin.items():
            registry.setdefault(name, cls)


def register_attention(name: str, cls: type) -> None:
    """Makes a class, which takes a `DilatedAttentionConfig`, a type of `create_dilated_attention`."""
    _ATTENTION_REGISTRY[name] = cls


def register_multihead_attention(name: str, cls: type) -> None:
    """Makes a class, which takes both configs, a type of `create_multihead_dilated_attention`, as "multihead_" + type."""
    _MULTIHEAD_REGISTRY[name] = cls


def found(registry: dict[str, type], prefix: str, kind: str) -> type:
    # "auto" is always the improved one there.
    kind = "improved" if kind == "auto" else kind
    if prefix + kind in registry:
        return registry[prefix + kind]
    known = sorted(name.removeprefix(prefix) for name in registry)
    near = difflib.get_close_matches(str(kind), known, 1)
    remedy = f"; did you mean '{near[0]}'?" if near else ""
    raise ValueError(f"Unknown attention type '{kind}'; one of [auto, {', '.join(known)}]{remedy}")


def split(config: type, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that are fields of a config, and the others."""
    names = {field.name for field in dataclasses.fields(config)}
    return (
        {name: value for name, value in options.items() if name in names},
        {name: value for name, value in options.items() if name not in names},
    )


def said(config: Any, *without: str) -> dict[str, Any]:
    """The fields of a config that are not at their defaults."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in without and getattr(config, field.name) != field.default
    }


def sparse_words(options: dict[str, Any]) -> dict[str, Any]:
    """SparsePatternConfig's words among the options, as its mapping."""
    words = {name: options.pop(name) for name in ("pattern_type", "block_size", "sparsity_ratio") if name in options}
    if words:
        if options.get("sparse_config") is not None:
            refuse("sparse_config", "must be given once", "beside its own fields", "leave one of them out")
        options["sparse_config"] = words
    return options


def options_of(cls: type, options: dict[str, Any]) -> dict[str, Any]:
    """A class's arguments, of the words that the factory has for them."""
    if "BlockSparse" in cls.legacy:
        options = sparse_words(options)
    if cls.legacy == "DilatedAttention" and "dropout" in options:
        options["attention_dropout"] = options.pop("dropout")
    return options


def create_dilated_attention(
    attention_type: str = "auto", segment_lengths: Any = None, dilation_rates: Any = None, **kwargs: Any
) -> nn.Module:
    """A module over q, k and v.

    Args:
        attention_type: "auto" (improved), "standard", "improved", "ring", "distributed", "improved_distributed",
            "block_sparse_ring", or a registered one.
        segment_lengths, dilation_rates: None: [2048, 4096, 8192] and [1, 2, 4].
        **kwargs: of the class. `device` and `dtype` of modules without weights say nothing, as there.
    Raises:
        ValueError: an unknown type or argument, or one that cannot be honoured.
    """
    cls = found(_ATTENTION_REGISTRY, "", attention_type)
    groups = {"segment_lengths": list(segment_lengths or SEGMENTS), "dilation_rates": list(dilation_rates or RATES)}
    config = CONFIGS.get(attention_type, DilatedAttentionConfig)
    own, more = split(config, {name: value for name, value in kwargs.items() if value is not None})
    checked = config(**groups, **own)
    if not issubclass(cls, Legacy):
        return cls(checked)
    place = {name: own.pop(name) for name in ("device", "dtype") if name in own}
    return cls(**groups, **without_effect(cls, options_of(cls, {**own, **more})), **place)


def without_effect(cls: type, options: dict[str, Any]) -> dict[str, Any]:
    """The options without those that the class does not know and that are at the config's own default."""
    known = _attention.signature_of(cls.legacy).parameters
    for config in (DilatedAttentionConfig, RingAttentionConfig, SparseAttentionConfig):
        for field in dataclasses.fields(config):
            if field.name in options and field.name not in known and options[field.name] == field.default:
                options = {name: value for name, value in options.items() if name != field.name}
    return options


def create_multihead_dilated_attention(
    attention_type: str = "auto",
    embed_dim: int = 768,
    num_heads: int = 12,
    segment_lengths: Any = None,
    dilation_rates: Any = None,
    *,
    multihead_config: MultiheadConfig | None = None,
    attention_config: DilatedAttentionConfig | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A module with projections.

    Args:
        attention_type: as in `create_dilated_attention`, also "ring_distributed".
        embed_dim, num_heads, segment_lengths, dilation_rates: where a config is given too, they are its own unless they
            are not at their defaults.
        multihead_config, attention_config: what they say, as arguments; they are not changed.
        **kwargs: of the class.
    Raises:
        ValueError: an unknown type or argument, or one that cannot be honoured.
    """
    cls = found(_MULTIHEAD_REGISTRY, "multihead_", attention_type)
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    of_config = CONFIGS.get(attention_type, DilatedAttentionConfig)
    width = {"embed_dim": embed_dim, "num_heads": num_heads}
    groups = {"segment_lengths": segment_lengths, "dilation_rates": dilation_rates}
    groups = {name: list(value) for name, value in groups.items() if value is not None}
    of_multihead, rest = split(MultiheadConfig, kwargs)
    of_attention, more = split(of_config, rest)
    if multihead_config is not None:
        width = {name: value for name, value in width.items() if value not in (768, 12)}
        of_multihead = {**said(multihead_config), **of_multihead, **width}
    else:
        of_multihead |= width
    if attention_config is not None:
        of_attention = {**said(attention_config), **of_attention, **groups}
    else:
        of_attention |= {"segment_lengths": list(SEGMENTS), "dilation_rates": list(RATES), **groups}
    # Checked in the words of the configs, whoever takes them then.
    configs = MultiheadConfig(**of_multihead), (type(attention_config) if attention_config else of_config)(**of_attention)
    if not issubclass(cls, Multihead):
        return cls(*configs)
    place = {name: of_multihead.pop(name) for name in ("device", "dtype") if name in of_multihead}
    of_attention = {name: value for name, value in of_attention.items() if name not in ("device", "dtype")}
    options = options_of(cls, {**of_attention, **more})
    return cls(**without_effect(cls, {**of_multihead, **options}), **place)


def create_block_sparse_attention(
    sparsity_ratio: float = 0.9, pattern_type: str = "dilated_sparse", embed_dim: int = 768, num_heads: int = 12,
    **kwargs: Any,
) -> nn.Module:  # fmt: skip
    """Block-sparse attention with projections.

    Args:
        sparsity_ratio: share of block pairs that is left out, as the function there says; there the share is computed.
        pattern_type: "dilated_sparse", "local_window", "random", or "global_local", which takes no ratio.
        **kwargs: of `create_multihead_dilated_attention`.
    """
    if not 0 < sparsity_ratio < 1:
        refuse("sparsity_ratio", "must be between 0 and 1, without them", sparsity_ratio)
    said = {"pattern_type": pattern_type}
    if "sparsity_ratio" in TAKES.get(pattern_type, ("sparsity_ratio",)) or sparsity_ratio != 0.9:
        said["sparsity_ratio"] = 1 - sparsity_ratio
    return create_multihead_dilated_attention("block_sparse_ring", embed_dim, num_heads, **said, **kwargs)


def create_adaptive_sparse_attention(
    embed_dim: int = 768, num_heads: int = 12, min_sparsity: float = 0.1, max_sparsity: float = 0.9, **kwargs: Any
) -> nn.Module:
    """Learned blocks of multi-head attention: `longstride.factory.create_adaptive_sparse_attention`."""
    middle = (min_sparsity + max_sparsity) / 2
    bounds = {"min_sparsity_ratio": min_sparsity, "max_sparsity_ratio": max_sparsity, "sparsity_ratio": middle}
    return factory.create_adaptive_sparse_attention(embed_dim=embed_dim, num_heads=num_heads, **bounds, **kwargs)


def create_production_ring_attention(
    segment_lengths: Any, dilation_rates: Any, **kwargs: Any
) -> _attention.RingDilatedAttentionProduction:
    """RingDilatedAttentionProduction by its config's fields."""
    return _attention.RingDilatedAttentionProduction(
        segment_lengths=segment_lengths, dilation_rates=dilation_rates, **kwargs
    )


def create_hierarchical_attention(
    embed_dim: int, num_heads: int, segment_lengths: Any = None, dilation_rates: Any = None,
    hierarchical_config: Any = None, **kwargs: Any,
) -> _attention.BlockSparseHierarchical:  # fmt: skip
    """BlockSparseHierarchical. embed_dim and num_heads have no part in it, as there: its tensors bring their own."""
    return _attention.BlockSparseHierarchical(
        list(segment_lengths or SEGMENTS), list(dilation_rates or RATES), hierarchical_config, **kwargs
    )
