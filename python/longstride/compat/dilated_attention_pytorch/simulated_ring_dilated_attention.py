"""SimulatedRingDilatedAttention."""

from longstride.compat.dilated_attention_pytorch._attention import SimulatedRingDilatedAttention

__all__ = ["SimulatedRingDilatedAttention"]
