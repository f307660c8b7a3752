"""Memory pools, which longstride has none of in Python."""

from longstride.compat.dilated_attention_pytorch._configs import MemoryPoolConfig
from longstride.compat.dilated_attention_pytorch._missing import POOLS, missing

__all__ = ["MemoryPoolConfig"]

__getattr__ = missing(
    __name__,
    {
        "UnifiedMemoryPool": POOLS,
        "get_global_memory_pool": POOLS,
        "reset_global_memory_pool": POOLS,
    },
)
