"""MultiheadDilatedAttention of the original line, in a file of its own: the fork's has the same name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..._refusal import refuse
from ._multihead import Multihead


class MultiheadDilatedAttention(Multihead):
    """MultiheadDilatedAttention of the original line (fkodom's): `dilated_attention.MultiheadDilatedAttention`.

    Args:
        embed_dim, num_heads: width, a multiple of num_heads; embed_dim / num_heads a multiple of 8, at most 128, as there.
        dilation_rates, segment_lengths: in this order.
        dropout: of the attention probabilities, in [0, 1), while training.
        bias: of all projections. layer_norm, layer_norm_eps: of a LayerNorm before the output projection.
        gamma_init: Xavier gain of the value and output projections.
        op: must be None.
    Raises:
        ValueError: sizes that do not fit.
    """

    legacy = "MultiheadDilatedAttention"

    def __init__(
        self, embed_dim: int, num_heads: int, dilation_rates: Sequence[int], segment_lengths: Sequence[int],
        dropout: float = 0.0, bias: bool = True, layer_norm: bool = True, layer_norm_eps: float = 1e-5,
        gamma_init: float = 1.0, device: torch.device | str | None = None, dtype: torch.dtype | None = None,
        op: None = None,
    ):  # fmt: skip
        super().__init__(
            embed_dim, num_heads, dilation_rates, segment_lengths, dropout, bias, layer_norm, layer_norm_eps, gamma_init,
            device, dtype, op,
        )  # fmt: skip
        if self.head_dim % 8 or self.head_dim > 128:
            remedy = "longstride.nn.MultiheadDilatedAttention takes any"
            refuse("embed_dim / num_heads", "must be divisible by 8 and at most 128", self.head_dim, remedy)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, is_causal: bool = False) -> tuple[Tensor, None]:
        """Attention of query [batch, len, embed_dim] over key and value of its shape.

        Returns:
            (output [batch, len, embed_dim], None).
        """
        return self.attend(query, key, value, is_causal), None
