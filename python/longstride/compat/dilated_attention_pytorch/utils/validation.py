"""ValidationMixin."""

from longstride.compat.dilated_attention_pytorch._validation import ValidationMixin

__all__ = ["ValidationMixin"]
