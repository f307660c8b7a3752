"""DistributedMultiheadDilatedAttention."""

from longstride.compat.dilated_attention_pytorch._multihead import DistributedMultiheadDilatedAttention

__all__ = ["DistributedMultiheadDilatedAttention"]
