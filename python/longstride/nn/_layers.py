"""FeedForward and the transformer layers of LongNet: the options and the parameters' names of the C++ modules.

Pre-LN with sub-LN in attention and feed-forward, as in MAGNETO (Wang et al., arXiv 2210.06423).
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .._refusal import refuse, shape
from ._checks import check_input, check_type, require_dropout, require_positive, require_positive_finite
from ._config import refuse_unknown, require_types
from ._multihead import MultiheadDilatedAttention

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
    "gelu_tanh": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "silu": nn.functional.silu,
    "swish": nn.functional.silu,
    "tanh": torch.tanh,
}


class FeedForward(nn.Module):
    """fc2(inner_norm(dropout(activation(fc1(x))))).

    Args:
        dim, hidden: width of the input, and between the projections.
        activation: "relu", "gelu", "gelu_tanh", "silu", "swish" or "tanh".
        dropout: behind the activation, in [0, 1), while training.
        sub_layer_norm: LayerNorm `inner_norm` between the projections.
        layer_norm_eps: its eps.
        gamma_init: Xavier gain of both projections.
    Raises:
        ValueError: sizes that are not positive, an unknown activation, dropout outside [0, 1).
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        activation: str = "relu",
        dropout: float = 0.0,
        sub_layer_norm: bool = True,
        layer_norm_eps: float = 1e-5,
        gamma_init: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        require_types(FeedForward, locals())
        require_positive("dim", dim)
        require_positive("dim_feedforward", hidden)
        if activation not in ACTIVATIONS:
            refuse_unknown("activation", activation, ACTIVATIONS)
        require_dropout("dropout", dropout)
        require_positive_finite("layer_norm_eps", layer_norm_eps)
        require_positive_finite("gamma_init", gamma_init)
        self.dim, self.hidden, self.activation, self.gamma_init = dim, hidden, activation, gamma_init
        self.layer_norm_eps = layer_norm_eps
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.fc1 = nn.Linear(dim, hidden, **made)
        self.fc2 = nn.Linear(hidden, dim, **made)
        self.inner_norm = nn.LayerNorm(hidden, layer_norm_eps, **made) if sub_layer_norm else None
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    @property
    def config(self) -> dict[str, Any]:
        """Every option by name, as in config.json: the constructor's arguments."""
        return {
            "dim": self.dim, "hidden": self.hidden, "activation": self.activation, "dropout": self.dropout.p,
            "sub_layer_norm": self.inner_norm is not None, "layer_norm_eps": self.layer_norm_eps,
            "gamma_init": self.gamma_init,
        }  # fmt: skip

    def reset_parameters(self) -> None:
        """Xavier's initialisation with gain gamma_init, from torch's generator; biases are 0."""
        for projection in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(projection.weight, self.gamma_init)
            nn.init.zeros_(projection.bias)
        if self.inner_norm is not None:
            self.inner_norm.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., dim]."""
        if x.dim() < 1 or x.size(-1) != self.dim:
            refuse("x", f"must be [..., {self.dim}]", shape(x))
        check_type("x", x, self.fc1.weight)
        h = self.dropout(ACTIVATIONS[self.activation](self.fc1(x)))
        return self.fc2(h if self.inner_norm is None else self.inner_norm(h))


class TransformerLayer(nn.Module):
    """x + dropout(attention(attention_norm(x))), then x + dropout(feed_forward(feed_forward_norm(x))).

    Also called `DilatedTransformerEncoderLayer`.

    Args:
        embed_dim, num_heads, segment_lengths, dilation_rates, attention_options: as in `MultiheadDilatedAttention`;
            sub_layer_norm, layer_norm_eps and gamma_init are those of the whole layer.
        dim_feedforward: width between the projections of the feed-forward.
        dropout: on both residual branches and behind the activation, in [0, 1), while training.
        activation: as in `FeedForward`.
    Raises:
        ValueError: what `MultiheadDilatedAttention` and `FeedForward` refuse.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        segment_lengths: Sequence[int] = (),
        dilation_rates: Sequence[int] = (),
        *,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        sub_layer_norm: bool = True,
        layer_norm_eps: float = 1e-5,
        gamma_init: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **attention_options: Any,
    ):
        super().__init__()
        require_types(TransformerLayer, locals())
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        of_all: dict[str, Any] = {"sub_layer_norm": sub_layer_norm, "layer_norm_eps": layer_norm_eps, "gamma_init": gamma_init}
        attention_options = {**attention_options, **of_all, **made}
        self.attention = MultiheadDilatedAttention(
            embed_dim, num_heads, segment_lengths, dilation_rates, **attention_options
        )
        self.feed_forward = FeedForward(
            embed_dim, dim_feedforward, activation=activation, dropout=dropout, **of_all, **made
        )
        self.attention_norm = nn.LayerNorm(embed_dim, layer_norm_eps, **made)
        self.feed_forward_norm = nn.LayerNorm(embed_dim, layer_norm_eps, **made)
        self.dropout = nn.Dropout(dropout)

    @property
    def config(self) -> dict[str, Any]:
        """Every option by name, as in config.json: the constructor's arguments."""
        inner = self.feed_forward
        own = {"dim_feedforward": inner.hidden, "dropout": self.dropout.p, "activation": inner.activation}
        return {**self.attention.config, **own}

    @property
    def draws_random(self) -> bool:
        """Whether a forward in training mode draws from torch's generator."""
        return self.dropout.p > 0 or self.attention.attention.attention_dropout > 0

    def reset_parameters(self) -> None:
        """MAGNETO's initialisation from torch's generator."""
        for part in self.children():
            if not isinstance(part, nn.Dropout):
                part.reset_parameters()

    def forward(self, x: Tensor, **call: Any) -> Tensor:
        """[batch, len, embed_dim] -> [batch, len, embed_dim].

        Args:
            x: of the module's dtype and device.
            **call: lengths, cu_seqlens, key_padding_mask, position0, deterministic, cache, rotary and boundaries, as in
                `MultiheadDilatedAttention.forward`.
        Raises:
            ValueError: what that raises; need_lse.
        """
        refuse_lse(call)
        check_input("x", x, self.attention.embed_dim, self.attention.out_proj.weight)
        x = x + self.dropout(self.attention(self.attention_norm(x), **call)[0])
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


DilatedTransformerEncoderLayer = TransformerLayer


def layers_of(stack: nn.ModuleList) -> Sequence[TransformerLayer]:
    """A stack's layers, which type checkers take for any modules."""
    return cast(Sequence[TransformerLayer], stack)


class DilatedTransformerDecoderLayer(TransformerLayer):
    """An encoder layer with x + dropout(memory_attention(memory_norm(x), memory)) between its two lines.

    The memory is taken as it comes: an encoder ends in a LayerNorm. Positions, where there are any, are those of the
    rows in both, so that row i of x and row i of the memory stand at one place.

    Args:
        memory_causal: of cross-attention: row i sees rows of the memory up to i. `causal` is that of self-attention.
        The others are those of `TransformerLayer`; cross-attention has them too.
    Raises:
        ValueError: what `TransformerLayer` refuses.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        segment_lengths: Sequence[int] = (),
        dilation_rates: Sequence[int] = (),
        *,
        memory_causal: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **layer_options: Any,
    ):
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(embed_dim, num_heads, segment_lengths, dilation_rates, **layer_options, **made)
        require_types(DilatedTransformerDecoderLayer, locals())
        of_memory = {**self.attention.config, "causal": memory_causal}
        self.memory_attention = MultiheadDilatedAttention(**of_memory, **made)
        self.memory_norm = nn.LayerNorm(embed_dim, self.attention_norm.eps, **made)
        self.memory_causal = memory_causal

    @property
    def config(self) -> dict[str, Any]:
        """Every option by name, as in config.json: the constructor's arguments."""
        return {**super().config, "memory_causal": self.memory_causal}

    def forward(self, x: Tensor, memory: Tensor, **call: Any) -> Tensor:
        """x and memory [batch, len, embed_dim], of equal shapes -> [batch, len, embed_dim].

        Args:
            **call: as in `TransformerLayer.forward`, but for the cache. Lengths, documents and masks hold for x and the
                memory alike.
        Raises:
            ValueError: shapes that differ; a cache; what `TransformerLayer.forward` raises.
        """
        refuse_lse(call)
        if call.get("cache") is not None:
            remedy = "decode with TransformerLayer; cross-attention takes whole sequences"
            refuse("cache", "must be None in a decoder layer", "a cache", remedy)
        for name, given in (("x", x), ("memory", memory)):
            check_input(name, given, self.attention.embed_dim, self.attention.out_proj.weight)
        if x.shape != memory.shape:
            remedy = "pad the shorter one and mark its rows with lengths"
            refuse("memory", f"must have the shape of x, {shape(x)}", shape(memory), remedy)
        x = x + self.dropout(self.attention(self.attention_norm(x), **call)[0])
        x = x + self.dropout(self.memory_attention(self.memory_norm(x), memory, memory, **call)[0])
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


def refuse_lse(call: dict[str, Any]) -> None:
    if call.get("need_lse"):
        remedy = "call MultiheadDilatedAttention for the lse"
        refuse("need_lse", "must be False in a layer, which returns one tensor", True, remedy)


def run_layers(layers: nn.ModuleList, x: Tensor, *memory: Tensor, checkpointing: bool, **call: Any) -> Tensor:
    """x through all layers, which share one set of positions.

    With `checkpointing` each layer keeps its input alone and is run again in the backward, dropout included: the same
    numbers.
    """
    for layer in layers:
        if checkpointing and torch.is_grad_enabled():
            draws = layer.training and layer.draws_random
            x = checkpoint(layer, x, *memory, use_reentrant=False, preserve_rng_state=draws, **call)
        else:
            x = layer(x, *memory, **call)
    return x
