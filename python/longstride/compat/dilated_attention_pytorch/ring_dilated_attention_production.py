"""RingDilatedAttentionProduction and its config."""

from longstride.compat.dilated_attention_pytorch._attention import RingDilatedAttentionProduction
from longstride.compat.dilated_attention_pytorch._configs import ProductionRingConfig as RingAttentionConfig
from longstride.compat.dilated_attention_pytorch._factory import create_production_ring_attention
from longstride.compat.dilated_attention_pytorch._missing import POOLS, missing

__all__ = ["RingAttentionConfig", "RingDilatedAttentionProduction", "create_production_ring_attention"]

__getattr__ = missing(
    __name__,
    {
        "MemoryPool": POOLS,
    },
)
