"""The encoder and the decoder layer."""

from longstride.compat.dilated_attention_pytorch._layers import (
    DilatedTransformerDecoderLayer,
    DilatedTransformerEncoderLayer,
)

__all__ = ["DilatedTransformerDecoderLayer", "DilatedTransformerEncoderLayer"]
