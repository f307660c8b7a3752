"""RingDilatedAttentionV2Collective."""

from longstride.compat.dilated_attention_pytorch._attention import RingDilatedAttentionV2Collective

__all__ = ["RingDilatedAttentionV2Collective"]
