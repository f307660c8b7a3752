"""RingDistributedDilatedAttention."""

from longstride.compat.dilated_attention_pytorch._multihead import RingDistributedDilatedAttention

__all__ = ["RingDistributedDilatedAttention"]
