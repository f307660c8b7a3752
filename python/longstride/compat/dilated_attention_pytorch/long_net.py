"""LongNet, LongNetLM and the positions that it adds."""

from longstride.compat.dilated_attention_pytorch._layers import XPOS, LongNet, LongNetLM

__all__ = ["LongNet", "LongNetLM", "XPOS"]
