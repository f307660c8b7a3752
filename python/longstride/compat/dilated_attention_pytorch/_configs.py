"""Config objects of the larger fork: their fields, orders and defaults. They are checked when they are made.

`device` and `dtype` stay as given: None is the default of whoever builds a module of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..._refusal import refuse
from ...factory._configs import BACKENDS
from ...nn._checks import require_positive
from ...nn._config import refuse_unknown
from ._validation import ValidationMixin


def positive_fields(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) is not None:
            require_positive(name, getattr(config, name))


def require_ratio(name: str, value: float) -> None:
    if not 0 < value < 1:
        refuse(name, "must be between 0 and 1, without them", value)


@dataclass
class DilatedAttentionConfig(ValidationMixin):
    """Of attention without projections."""

    segment_lengths: list[int]
    dilation_rates: list[int]
    dropout: float = 0.0
    use_tf32: bool = True
    device: Any = None
    dtype: Any = None

    def __post_init__(self):
        self.validate_segment_dilation_match(self.segment_lengths, self.dilation_rates)
        self.validate_positive_values(self.segment_lengths, "segment_lengths")
        self.validate_positive_values(self.dilation_rates, "dilation_rates")
        self.validate_dropout_prob(self.dropout)

    @property
    def num_groups(self) -> int:
        return len(self.segment_lengths)

    @property
    def max_segment_length(self) -> int:
        return max(self.segment_lengths)


@dataclass
class MultiheadConfig(ValidationMixin):
    """Of the projections around it."""

    embed_dim: int
    num_heads: int
    bias: bool = True
    layer_norm: bool = True
    layer_norm_eps: float = 1e-5
    gamma_init: float = 1.0
    device: Any = None
    dtype: Any = None

    def __post_init__(self):
        require_positive("embed_dim", self.embed_dim)
        require_positive("num_heads", self.num_heads)
        self.head_dim = self.validate_head_dim(self.embed_dim, self.num_heads)
        for name in ("layer_norm_eps", "gamma_init"):
            if not getattr(self, name) > 0:
                refuse(name, "must be positive", getattr(self, name))


@dataclass
class RingAttentionConfig(DilatedAttentionConfig):
    """Of core.config; that of RingDilatedAttentionProduction is another one."""

    block_size: int = 1024
    ring_size: int | None = None
    use_checkpointing: bool = True
    use_memory_pool: bool = True
    max_cached_buffers: int = 50

    def __post_init__(self):
        super().__post_init__()
        positive_fields(self, "block_size", "ring_size")
        if self.max_cached_buffers < 0:
            refuse("max_cached_buffers", "must not be negative", self.max_cached_buffers)


@dataclass
class SparseAttentionConfig(DilatedAttentionConfig):
    """Of block-sparse attention; sparsity_ratio is the share of blocks that is computed."""

    pattern_type: str = "dilated_sparse"
    sparsity_ratio: float = 0.25
    block_size: int = 128
    enable_adaptive: bool = False
    min_sparsity: float = 0.1
    max_sparsity: float = 0.9

    def __post_init__(self):
        super().__post_init__()
        known = ("dilated_sparse", "local_window", "global_local", "axial", "random", "learned", "hybrid")
        if self.pattern_type not in known:
            refuse_unknown("pattern_type", self.pattern_type, known)
        for name in ("sparsity_ratio", "min_sparsity", "max_sparsity"):
            require_ratio(name, getattr(self, name))
        if self.min_sparsity >= self.max_sparsity:
            refuse("min_sparsity", f"must be less than max_sparsity {self.max_sparsity}", self.min_sparsity)
        positive_fields(self, "block_size")


@dataclass
class DistributedConfig:
    """Of a training job."""

    world_size: int | None = None
    rank: int | None = None
    backend: str = "nccl"
    sequence_parallel: bool = False
    model_parallel: bool = False
    pipeline_parallel: bool = False
    gradient_checkpointing: bool = False
    communication_optimization: bool = True
    bucket_size_mb: int = 25
    enable_async_communication: bool = True
    gradient_compression_ratio: float | None = None
    zero_stage: int = 0

    def __post_init__(self):
        if self.backend not in BACKENDS:
            refuse_unknown("backend", self.backend, BACKENDS)
        positive_fields(self, "world_size", "bucket_size_mb")
        if self.rank is not None and self.rank < 0:
            refuse("rank", "must not be negative", self.rank)
        if self.rank is not None and self.world_size is not None and self.rank >= self.world_size:
            refuse("rank", f"must be below world_size {self.world_size}", self.rank)
        ratio = self.gradient_compression_ratio
        if ratio is not None and not 0 < ratio <= 1:
            refuse("gradient_compression_ratio", "must be above 0 and at most 1", ratio)
        if self.zero_stage not in (0, 1, 2, 3):
            refuse("zero_stage", "must be 0, 1, 2 or 3", self.zero_stage)


@dataclass
class MemoryPoolConfig:
    """Of a memory pool, which longstride has none of in Python."""

    hot_cache_size: int = 50
    hot_cache_threshold: int = 10
    allow_buffer_slicing: bool = True
    cleanup_threshold_mb: int = 100
    max_pool_size_mb: int = 1024
    enable_statistics: bool = True
    device: Any = None

    def __post_init__(self):
        positive_fields(self, "hot_cache_size", "hot_cache_threshold", "cleanup_threshold_mb", "max_pool_size_mb")


@dataclass
class SparsePatternConfig:
    """Of the block-sparse classes; sparsity_ratio is the share of blocks that is computed."""

    pattern_type: str = "dilated_sparse"
    sparsity_ratio: float = 0.1
    block_size: int = 128
    local_window_size: int = 512
    global_tokens: int = 64


# Of each preset the levels, as (stride, window_size, block_size).
PRESETS = {
    "standard": ((64, 256, 64), (256, 1024, 128), (1024, -1, 256)),
    "fine_grained": ((1, 128, 32), (2, 512, 64), (8, 2048, 128), (32, -1, 256)),
    "long_range": ((1, 512, 128), (8, 4096, 256), (64, -1, 512)),
    "ultra_sparse": ((1, 64, 16), (16, 1024, 128), (256, -1, 512)),
}


def preset(name: str) -> list[dict[str, int]]:
    return [dict(zip(("stride", "window_size", "block_size"), level)) for level in PRESETS[name]]


@dataclass
class HierarchicalConfig:
    """Of BlockSparseHierarchical: strides and windows in tokens; window_size -1 is everything."""

    level_configs: list[dict[str, int]] | None = None

    def __post_init__(self):
        if self.level_configs is None:
            self.level_configs = preset("standard")

    @property
    def num_levels(self) -> int:
        return len(self.level_configs)


def get_hierarchical_presets() -> dict[str, HierarchicalConfig]:
    """Hierarchies by name: "standard", "fine_grained", "long_range", "ultra_sparse"."""
    return {name: HierarchicalConfig(preset(name)) for name in PRESETS}


@dataclass
class AdaptiveConfig:
    """Of BlockSparseAdaptive; base_sparsity is the share that is left out."""

    base_sparsity: float = 0.9
    temperature: float = 1.0
    learnable_temperature: bool = True
    min_temperature: float = 0.1
    hidden_dim: int = 128
    num_layers: int = 2
    share_across_heads: bool = False
    sparsity_reg_weight: float = 0.01
    hard_sparsity: bool = False


@dataclass
class ProductionRingConfig:
    """RingAttentionConfig of ring_dilated_attention_production."""

    segment_lengths: list[int]
    dilation_rates: list[int]
    dropout: float = 0.0
    ring_size: int | None = None
    use_gradient_checkpointing: bool = True
    use_memory_pool: bool = True
    memory_pool_size: int = 10
    enable_error_recovery: bool = True
    mixed_precision: bool = True
    log_memory_usage: bool = False
    attention_scale: float | None = None

    def __post_init__(self):
        ValidationMixin.validate_segment_dilation_match(self.segment_lengths, self.dilation_rates)
        ValidationMixin.validate_positive_values(self.segment_lengths, "segment_lengths")
        ValidationMixin.validate_positive_values(self.dilation_rates, "dilation_rates")
        ValidationMixin.validate_dropout_prob(self.dropout)
        positive_fields(self, "ring_size", "memory_pool_size")
