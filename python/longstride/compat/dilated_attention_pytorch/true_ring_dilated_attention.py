"""TrueRingDilatedAttention."""

from longstride.compat.dilated_attention_pytorch._attention import TrueRingDilatedAttention

__all__ = ["TrueRingDilatedAttention"]
