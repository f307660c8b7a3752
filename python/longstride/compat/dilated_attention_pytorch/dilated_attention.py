"""DilatedAttention of both lines, and MultiheadDilatedAttention of the original one."""

from longstride.compat.dilated_attention_pytorch._attention import DilatedAttention
from longstride.compat.dilated_attention_pytorch._original import MultiheadDilatedAttention

__all__ = ["DilatedAttention", "MultiheadDilatedAttention"]
