"""ImprovedDilatedAttention."""

from longstride.compat.dilated_attention_pytorch._attention import ImprovedDilatedAttention

__all__ = ["ImprovedDilatedAttention"]
