"""RingDilatedAttentionV2Flash."""

from longstride.compat.dilated_attention_pytorch._attention import RingDilatedAttentionV2Flash

__all__ = ["RingDilatedAttentionV2Flash"]
