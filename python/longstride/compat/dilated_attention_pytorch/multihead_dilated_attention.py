"""MultiheadDilatedAttention of the larger fork."""

from longstride.compat.dilated_attention_pytorch._multihead import MultiheadDilatedAttention

__all__ = ["MultiheadDilatedAttention"]
