"""Modules by the name of their type, and configs as values: what C++ has in longstride/factory.h (docs/factory.md).

    from longstride import factory

    attention = factory.create_multihead_dilated_attention("auto", embed_dim=768, num_heads=12)
    attention.choice    # Choice(type="standard", reason="dilated groups; one rank holds the whole sequence; ...")
"""

from ._builtin import builtin_registry, register_builtin
from ._configs import (
    DilatedAttentionConfig,
    DistributedConfig,
    LongNetConfig,
    MemoryPoolConfig,
    MultiheadConfig,
    RingAttentionConfig,
    ranks_of,
)
from ._create import (
    Choice,
    available,
    choose_attention,
    create_adaptive_sparse_attention,
    create_block_sparse_attention,
    create_dilated_attention,
    create_multihead_dilated_attention,
)
from ._legacy import (
    from_legacy_attention,
    from_legacy_decoder_layer,
    from_legacy_encoder_layer,
    from_legacy_longnet,
    from_legacy_multihead,
    legacy_class_names,
)
from ._registry import AttentionBuilder, OptionInfo, Registry
from ._sparse import SparseAttentionConfig

__all__ = [
    "AttentionBuilder",
    "Choice",
    "DilatedAttentionConfig",
    "DistributedConfig",
    "LongNetConfig",
    "MemoryPoolConfig",
    "MultiheadConfig",
    "OptionInfo",
    "Registry",
    "RingAttentionConfig",
    "SparseAttentionConfig",
    "available",
    "builtin_registry",
    "choose_attention",
    "create_adaptive_sparse_attention",
    "create_block_sparse_attention",
    "create_dilated_attention",
    "create_multihead_dilated_attention",
    "from_legacy_attention",
    "from_legacy_decoder_layer",
    "from_legacy_encoder_layer",
    "from_legacy_longnet",
    "from_legacy_multihead",
    "legacy_class_names",
    "ranks_of",
    "register_builtin",
]
