"""BlockSparseRingDilatedAttention and its config."""

from longstride.compat.dilated_attention_pytorch._attention import BlockSparseRingDilatedAttention
from longstride.compat.dilated_attention_pytorch._configs import SparsePatternConfig

__all__ = ["BlockSparseRingDilatedAttention", "SparsePatternConfig"]
