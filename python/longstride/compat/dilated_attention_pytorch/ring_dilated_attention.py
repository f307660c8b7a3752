"""RingDilatedAttention."""

from longstride.compat.dilated_attention_pytorch._attention import (
    RingDilatedAttentionV2Collective as RingDilatedAttention,
)

__all__ = ["RingDilatedAttention"]
