"""The config objects."""

from longstride.compat.dilated_attention_pytorch._configs import (
    DilatedAttentionConfig,
    DistributedConfig,
    MemoryPoolConfig,
    MultiheadConfig,
    RingAttentionConfig,
    SparseAttentionConfig,
)
from longstride.compat.dilated_attention_pytorch._validation import ValidationMixin

__all__ = [
    "DilatedAttentionConfig",
    "DistributedConfig",
    "MemoryPoolConfig",
    "MultiheadConfig",
    "RingAttentionConfig",
    "SparseAttentionConfig",
    "ValidationMixin",
]
