"""BlockSparseOptimized."""

from longstride.compat.dilated_attention_pytorch._attention import BlockSparseOptimized
from longstride.compat.dilated_attention_pytorch._missing import PLANS, missing

__all__ = ["BlockSparseOptimized"]

__getattr__ = missing(
    __name__,
    {
        "PersistentPatternCache": PLANS,
    },
)
