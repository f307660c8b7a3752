"""ImprovedMultiheadDilatedAttention."""

from longstride.compat.dilated_attention_pytorch._multihead import ImprovedMultiheadDilatedAttention

__all__ = ["ImprovedMultiheadDilatedAttention"]
