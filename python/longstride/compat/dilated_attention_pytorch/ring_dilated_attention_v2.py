"""RingDilatedAttentionV2."""

from longstride.compat.dilated_attention_pytorch._attention import RingDilatedAttentionV2

__all__ = ["RingDilatedAttentionV2"]
