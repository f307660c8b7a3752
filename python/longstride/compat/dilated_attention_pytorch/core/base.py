"""The base classes, for subclasses of one's own."""

from longstride.compat.dilated_attention_pytorch._factory import BaseDilatedAttention, BaseMultiheadDilatedAttention

__all__ = ["BaseDilatedAttention", "BaseMultiheadDilatedAttention"]
