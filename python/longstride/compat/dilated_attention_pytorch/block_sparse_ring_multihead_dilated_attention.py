"""BlockSparseRingMultiheadDilatedAttention."""

from longstride.compat.dilated_attention_pytorch._multihead import BlockSparseRingMultiheadDilatedAttention

__all__ = ["BlockSparseRingMultiheadDilatedAttention"]
