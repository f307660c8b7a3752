"""BlockSparseTorchSparse."""

from longstride.compat.dilated_attention_pytorch._attention import BlockSparseTorchSparse

__all__ = ["BlockSparseTorchSparse"]
