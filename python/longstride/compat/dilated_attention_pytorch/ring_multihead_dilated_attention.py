"""RingMultiheadDilatedAttention."""

from longstride.compat.dilated_attention_pytorch._multihead import RingMultiheadDilatedAttention

__all__ = ["RingMultiheadDilatedAttention"]
