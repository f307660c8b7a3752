"""Layers and models of dilated-attention-pytorch, with its keys: the original line, and the fork's by its checkpoints.

Pre-LN with sub-LN as in MAGNETO (Wang et al., arXiv 2210.06423); LongNet (Ding et al., arXiv 2307.02486).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..._refusal import dtype as dtype_name
from ..._refusal import refuse, shape
from ...nn._checks import check_input, require_dropout, require_positive
from ...nn._config import refuse_unknown
from ...nn._layers import ACTIVATIONS
from ...nn._positions import RANGE_LOG2, WIDE_RANGE_LOG2, XPOS_LOG2, rotate
from ._original import MultiheadDilatedAttention

Activation = str | Callable[[Tensor], Tensor]
Device = torch.device | str | None


def function_of(activation: Activation) -> Callable[[Tensor], Tensor]:
    if isinstance(activation, str) and activation not in ACTIVATIONS:
        refuse_unknown("activation", activation, ACTIVATIONS)
    return ACTIVATIONS[activation] if isinstance(activation, str) else activation


class Layer(nn.Module):
    """What both layers share: the feed-forward behind their attention."""

    # The norms before and between its projections.
    before, between = "norm2", "norm3"

    def add_feed_forward(
        self, d_model: int, hidden: int, dropout: float, activation: Activation, eps: float, gamma: float, **made
    ) -> None:
        require_positive("dim_feedforward", hidden)
        require_dropout("dropout", dropout)
        self.activation, self.gamma_init = function_of(activation), gamma
        self.dropout = nn.Dropout(dropout)
        self.register_module(self.before, nn.LayerNorm(d_model, eps, **made))
        self.linear1 = nn.Linear(d_model, hidden, **made)
        self.register_module(self.between, nn.LayerNorm(hidden, eps, **made))
        self.linear2 = nn.Linear(hidden, d_model, **made)
        self.reset_feed_forward()

    def reset_feed_forward(self) -> None:
        for projection in (self.linear1, self.linear2):
            nn.init.xavier_normal_(projection.weight, self.gamma_init)
            nn.init.zeros_(projection.bias)

    def reset_parameters(self) -> None:
        """MAGNETO's initialisation from torch's generator."""
        for part in self.children():
            if not isinstance(part, nn.Dropout):
                part.reset_parameters()
        self.reset_feed_forward()

    def feed_forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.linear1(getattr(self, self.before)(x)))
        return self.dropout(self.linear2(getattr(self, self.between)(self.dropout(x))))


class DilatedTransformerEncoderLayer(Layer):
    """x + dropout(self_attn(norm1(x))), then x + the feed-forward of norm2(x), with norm3 between its projections.

    Args:
        d_model, nhead: width, a multiple of nhead.
        segment_lengths, dilation_rates: in this order.
        dim_feedforward: width between the projections of the feed-forward.
        dropout: of the attention probabilities, behind the activation and on both branches, in [0, 1), while training.
        activation: a function, or a name as in `longstride.nn.FeedForward`.
        layer_norm_eps: of all norms.
        gamma_init: Xavier gain of value, output and feed-forward projections.
    Raises:
        ValueError: what `MultiheadDilatedAttention` refuses; an unknown activation.
    """

    def __init__(
        self, d_model: int, nhead: int, segment_lengths: Sequence[int], dilation_rates: Sequence[int],
        dim_feedforward: int = 2048, dropout: float = 0.1, activation: Activation = nn.functional.relu,
        layer_norm_eps: float = 1e-5, gamma_init: float = 1.0, device: Device = None, dtype: torch.dtype | None = None,
    ):  # fmt: skip
        super().__init__()
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.norm1 = nn.LayerNorm(d_model, layer_norm_eps, **made)
        self.self_attn = MultiheadDilatedAttention(
            d_model, nhead, dilation_rates, segment_lengths, dropout, layer_norm_eps=layer_norm_eps,
            gamma_init=gamma_init, **made,
        )  # fmt: skip
        self.add_feed_forward(d_model, dim_feedforward, dropout, activation, layer_norm_eps, gamma_init, **made)

    def forward(self, src: Tensor, is_causal: bool = False) -> Tensor:
        """[batch, len, d_model] -> [batch, len, d_model]."""
        check_input("src", src, self.self_attn.embed_dim, self.linear1.weight)
        x = self.norm1(src)
        x = src + self.dropout(self.self_attn(x, x, x, is_causal)[0])
        return x + self.feed_forward(x)


class DilatedTransformerDecoderLayer(Layer):
    """An encoder layer with x + dropout(multihead_attn(norm2(x), memory)) between its two lines; norm3 and norm4 are of
    its feed-forward, and self_attn has no norm before its output projection.

    Args:
        As `DilatedTransformerEncoderLayer`.
    """

    before, between = "norm3", "norm4"

    def __init__(
        self, d_model: int, nhead: int, segment_lengths: Sequence[int], dilation_rates: Sequence[int],
        dim_feedforward: int = 2048, dropout: float = 0.1, activation: Activation = nn.functional.relu,
        layer_norm_eps: float = 1e-5, gamma_init: float = 1.0, device: Device = None, dtype: torch.dtype | None = None,
    ):  # fmt: skip
        super().__init__()
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        attention = {"gamma_init": gamma_init, **made}
        groups = dilation_rates, segment_lengths
        self.norm1 = nn.LayerNorm(d_model, layer_norm_eps, **made)
        self.self_attn = MultiheadDilatedAttention(d_model, nhead, *groups, dropout, layer_norm=False, **attention)
        self.norm2 = nn.LayerNorm(d_model, layer_norm_eps, **made)
        self.multihead_attn = MultiheadDilatedAttention(
            d_model, nhead, *groups, dropout, layer_norm_eps=layer_norm_eps, **attention
        )
        self.add_feed_forward(d_model, dim_feedforward, dropout, activation, layer_norm_eps, gamma_init, **made)

    def forward(
        self, tgt: Tensor, memory: Tensor, tgt_is_causal: bool = False, memory_is_causal: bool = False
    ) -> Tensor:
        """tgt and memory [batch, len, d_model], of equal shapes -> [batch, len, d_model]."""
        for name, x in (("tgt", tgt), ("memory", memory)):
            check_input(name, x, self.self_attn.embed_dim, self.linear1.weight)
        if tgt.shape != memory.shape:
            refuse("memory", f"must have the shape of tgt, {shape(tgt)}", shape(memory))
        x = self.norm1(tgt)
        x = tgt + self.dropout(self.self_attn(x, x, x, tgt_is_causal)[0])
        x = x + self.dropout(self.multihead_attn(self.norm2(x), memory, memory, memory_is_causal)[0])
        return x + self.feed_forward(x)


class LongNet(nn.Module):
    """An encoder and a decoder of these layers over embeddings; the defaults are the paper's base model.

    Keys are encoder.layers.i.* and decoder.layers.i.*. Xavier gains are MAGNETO's, with N encoder and M decoder layers
    sqrt(ln(3M) ln(2N) / 3) and sqrt(ln(3M)). Each layer draws its own weights.

    Args:
        d_model, nhead, dim_feedforward, segment_lengths, dilation_rates, dropout, activation, layer_norm_eps: as in
            `DilatedTransformerEncoderLayer`.
        num_encoder_layers, num_decoder_layers: >= 1.
    """

    def __init__(
        self, d_model: int = 768, nhead: int = 12, num_encoder_layers: int = 12, num_decoder_layers: int = 12,
        dim_feedforward: int = 3072, segment_lengths: Sequence[int] = (2048, 4096, 8192, 16384, 32768),
        dilation_rates: Sequence[int] = (1, 2, 4, 6, 12), dropout: float = 0.0,
        activation: Activation = nn.functional.relu, layer_norm_eps: float = 1e-5, device: Device = None,
        dtype: torch.dtype | None = None,
    ):  # fmt: skip
        super().__init__()
        require_positive("num_encoder_layers", num_encoder_layers)
        require_positive("num_decoder_layers", num_decoder_layers)
        of_decoder = math.log(3 * num_decoder_layers)
        gamma = math.sqrt(of_decoder * math.log(2 * num_encoder_layers) / 3)
        layer = (d_model, nhead, segment_lengths, dilation_rates, dim_feedforward, dropout, activation, layer_norm_eps)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.encoder = nn.TransformerEncoder(
            DilatedTransformerEncoderLayer(*layer, gamma, **made), num_encoder_layers, enable_nested_tensor=False,
            mask_check=False,
        )  # fmt: skip
        self.decoder = nn.TransformerDecoder(
            DilatedTransformerDecoderLayer(*layer, math.sqrt(of_decoder), **made), num_decoder_layers
        )
        # torch's stacks are copies of their first layer.
        for copied in (*self.encoder.layers[1:], *self.decoder.layers[1:]):
            copied.reset_parameters()

    def forward(self, x: Tensor, is_causal: bool = True) -> Tensor:
        """[batch, len, d_model] -> [batch, len, d_model]; the decoder reads x and attends to the encoded x.

        Args:
            is_causal: of all attention.
        """
        memory = x
        for layer in self.encoder.layers:
            memory = layer(memory, is_causal)
        if self.encoder.norm is not None:
            memory = self.encoder.norm(memory)
        for layer in self.decoder.layers:
            x = layer(x, memory, is_causal, is_causal)
        return x if self.decoder.norm is None else self.decoder.norm(x)


class XPOS(nn.Module):
    """torchscale's xPos over embeddings, which LongNetLM there adds to its tokens: x rotated by its position and scaled.

    Attributes:
        scale: buffer [head_dim / 2], what each pair of numbers is scaled by in scale_base tokens.
        origin: the position where the scale is 1, 0. None, as there: the middle of each sequence, so that a token's
            embedding depends on how many follow it, and leaves the range of float16 in long ones.
    """

    origin: int | None = 0

    def __init__(self, head_dim: int, scale_base: int = 512):
        super().__init__()
        if head_dim % 2:
            refuse("d_model", "must be even, for positions turn pairs", head_dim)
        self.head_dim, self.scale_base = head_dim, scale_base
        self.register_buffer("scale", (torch.arange(0, head_dim, 2) + 0.4 * head_dim) / (1.4 * head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, len, head_dim] -> [batch, len, head_dim]. Angles are computed in float64."""
        length = x.size(1)
        origin = (length + 1) // 2 if self.origin is None else self.origin
        limit = RANGE_LOG2.get(x.dtype, WIDE_RANGE_LOG2)
        if XPOS_LOG2 * max(origin, 0) / self.scale_base > limit:
            most = int(limit * self.scale_base / XPOS_LOG2)
            remedy = "set pos_embedding.origin = 0, or take another dtype"
            wanted = f"must be at most {most} tokens after the first one in {dtype_name(x.dtype)}"
            refuse("the origin of positions", wanted, origin, remedy)
        n = torch.arange(length, dtype=torch.float64, device=x.device).view(-1, 1, 1)
        pair = torch.arange(self.head_dim // 2, dtype=torch.float64, device=x.device)
        angle = n * torch.pow(10000.0, pair * (-2.0 / self.head_dim))
        scale = torch.exp((n - origin) * (torch.log((pair * 2 / self.head_dim + 0.4) / 1.4) / self.scale_base))
        wide = torch.complex128 if x.dtype == torch.float64 else torch.complex64
        return rotate(x.unsqueeze(2), torch.polar(scale, angle).to(wide)).squeeze(2)


class LongNetLM(nn.Module):
    """LongNet over tokens: token_embedding plus its own xPos (`pos_embedding`), an encoder and a decoder, norm, out.

    With is_causal the logits of a prefix never depend on what follows it, for pos_embedding.origin is 0.

    Args:
        num_tokens: tokens are in [0, num_tokens).
        The others: as in `LongNet`.
    """

    def __init__(
        self, num_tokens: int, d_model: int = 768, nhead: int = 12, num_encoder_layers: int = 12,
        num_decoder_layers: int = 12, dim_feedforward: int = 3072,
        segment_lengths: Sequence[int] = (2048, 4096, 8192, 16384, 32768),
        dilation_rates: Sequence[int] = (1, 2, 4, 6, 12), dropout: float = 0.0,
        activation: Activation = nn.functional.relu, layer_norm_eps: float = 1e-5, device: Device = None,
        dtype: torch.dtype | None = None,
    ):  # fmt: skip
        super().__init__()
        require_positive("num_tokens", num_tokens)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.token_embedding = nn.Embedding(num_tokens, d_model, **made)
        self.pos_embedding = XPOS(d_model).to(**made)
        self.long_net = LongNet(
            d_model, nhead, num_encoder_layers, num_decoder_layers, dim_feedforward, segment_lengths, dilation_rates,
            dropout, activation, layer_norm_eps, **made,
        )  # fmt: skip
        self.norm = nn.LayerNorm(d_model, layer_norm_eps, **made)
        self.out = nn.Linear(d_model, num_tokens, **made)

    def forward(self, x: Tensor, is_causal: bool = True) -> Tensor:
        """x int64 [batch, len] -> logits [batch, len, num_tokens].

        Raises:
            ValueError: no tokens of int64 or int32; with origin None, positions that leave the range of the dtype.
        """
        if x.dim() != 2 or x.dtype not in (torch.int64, torch.int32):
            refuse("x", "must be int64 [batch, len]", f"{dtype_name(x.dtype)} {shape(x)}")
        x = self.token_embedding(x)
        x = x + self.pos_embedding(x)
        return self.out(self.norm(self.long_net(x, is_causal)))
