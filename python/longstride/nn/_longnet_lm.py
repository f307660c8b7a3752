"""LongNetLM: a decoder-only language model over dilated attention. The options and parameters' names of the C++ one."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .._attention import Lengths
from .._pattern import Pattern
from .._refusal import dtype as dtype_name
from .._refusal import refuse, shape
from .._rules import RULES
from ..parallel import ContextParallel
from ..parallel._shards import Boundaries
from ._cache import KeyValueCache
from ._checks import attention_dtype, require_gain, require_positive
from ._config import flat, require_alone, require_types
from ._generate import generate
from ._layers import TransformerLayer, layers_of, run_layers

# Logits of one chunk of the loss: 2^22 float32 make 16 MiB, a few of which live at a time.
CHUNK_LOGITS = 1 << 22
IGNORED = -100


@dataclass
class DecodeState:
    """The caches of all layers: what decoding carries from step to step.

    Attributes:
        layers: one cache a layer.
        length: tokens seen.
        capacity: tokens that fit.
    """

    layers: list[KeyValueCache]
    length: int
    capacity: int

    def __reduce__(self) -> tuple:
        """A copied or pickled state is at its beginning, since copied caches are empty."""
        return DecodeState, ([copy.copy(cache) for cache in self.layers], 0, self.capacity)


class LongNetLM(nn.Module):
    """A language model of causal MAGNETO layers (LongNet, Ding et al., arXiv 2307.02486; Wang et al., 2210.06423).

    The constructor takes the keys of the C++ module's config.json, and the parameters have its names.

    Args:
        vocab: tokens are in [0, vocab).
        dim, layers, heads: width, a multiple of heads; number of layers.
        segment_lengths, dilation_rates, activation, dropout, layer_options: as in `TransformerLayer`; always causal. A
            rule of blocks that changes as the sequence grows is refused, since a prefix's logits would depend on how
            much follows.
        dim_feedforward: 0: 4 * dim.
        positions: "rope", "xpos", "alibi" or "none".
        max_len: longest input, in tokens.
        gamma_init: 0: MAGNETO's for a decoder, sqrt(ln(2 * layers)).
        tied_head: the head shares the embedding's weights.
        activation_checkpointing: keeps one input a layer and runs the layer again in the backward. The attribute may be
            switched at any time.
        pattern: of all layers, a causal `Pattern` in place of the options that say one.
    Raises:
        ValueError: what `TransformerLayer` refuses, and such rules of blocks.
    """

    def __init__(
        self,
        vocab: int = 256,
        dim: int = 256,
        layers: int = 4,
        heads: int = 8,
        segment_lengths: Sequence[int] = (2048, 4096, 8192, 16384, 32768),
        dilation_rates: Sequence[int] = (1, 2, 4, 6, 12),
        *,
        dim_feedforward: int = 0,
        dropout: float = 0.0,
        activation: str = "gelu",
        positions: str = "rope",
        max_len: int = 1 << 20,
        gamma_init: float = 0.0,
        tied_head: bool = False,
        activation_checkpointing: bool = False,
        pattern: Pattern | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **layer_options: Any,
    ):
        super().__init__()
        given = dict(locals())
        require_types(LongNetLM, given)
        for name, size in (("vocab", vocab), ("dim", dim), ("layers", layers), ("heads", heads)):
            require_positive(name, size)
        if dim % heads:
            refuse("dim", f"must be a multiple of heads {heads}", dim)
        if dim_feedforward < 0:
            refuse("dim_feedforward", "must be positive, or 0 for 4 * dim", dim_feedforward)
        require_gain("gamma_init", gamma_init)
        for name, wanted, remedy in (
            ("causal", "True", "it predicts what follows"),
            ("learned", "None", "it decodes token by token, and a block is chosen by all of its row; give blocks"),
        ):
            if str(layer_options.pop(name, wanted)) != wanted:
                refuse(name, f"must be {wanted} in a language model", "another value", remedy)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.vocab, self.dim, self.max_len = vocab, dim, max_len
        self.activation_checkpointing = activation_checkpointing
        # With their zeros, which the layers do not have.
        self.given = {"dim_feedforward": dim_feedforward, "gamma_init": gamma_init}
        of_layer: dict[str, Any] = {
            "segment_lengths": segment_lengths, "dilation_rates": dilation_rates, "causal": True,
            "dim_feedforward": dim_feedforward or 4 * dim, "dropout": dropout, "activation": activation,
            "positions": positions, "max_len": max_len, "gamma_init": gamma_init or math.sqrt(math.log(2 * layers)),
            **made,
        }  # fmt: skip
        if pattern is not None:
            require_alone(pattern, LongNetLM, {**given, **layer_options})
            if not pattern.causal:
                remedy = "it predicts what follows; call with_causal(True)"
                refuse("causal of pattern", "must be True in a language model", False, remedy)
            of_layer.update(flat(pattern))
        self.embedding = nn.Embedding(vocab, dim, **made)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(TransformerLayer(dim, heads, **of_layer, **layer_options) for _ in range(layers))
        require_steady(layers_of(self.layers)[0].attention.attention.config["blocks"])
        self.heads = heads
        self.final_norm = nn.LayerNorm(dim, layers_of(self.layers)[0].attention_norm.eps, **made)
        self.head = None if tied_head else nn.Linear(dim, vocab, bias=False, **made)
        self.reset_own_parameters()

    @property
    def config(self) -> dict[str, Any]:
        """Every option by name, as in config.json: the constructor's arguments."""
        layer = layers_of(self.layers)[0].config
        for name in ("embed_dim", "num_heads", "causal", "learned"):
            del layer[name]
        sizes = {"vocab": self.vocab, "dim": self.dim, "layers": len(self.layers), "heads": self.heads}
        own = {"tied_head": self.head is None, "activation_checkpointing": self.activation_checkpointing}
        return {**sizes, **layer, **self.given, **own}

    def reset_own_parameters(self) -> None:
        # Rows of norm 1: with the factor sqrt(dim) of embed() the stream starts at unit variance, and logits of a
        # normalised hidden state do too.
        deviation = 1 / math.sqrt(self.dim)
        nn.init.normal_(self.embedding.weight, 0, deviation)
        if self.head is not None:
            nn.init.normal_(self.head.weight, 0, deviation)
        self.final_norm.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all weights anew, from torch's generator."""
        self.reset_own_parameters()
        for layer in layers_of(self.layers):
            layer.reset_parameters()

    def check_ids(self, name: str, ids: Tensor, also: int | None = None) -> None:
        if ids.dim() != 2 or ids.dtype != torch.int64:
            refuse(name, "must be int64 [batch, len]", f"{dtype_name(ids.dtype)} {shape(ids)}")
        weight = self.embedding.weight
        if ids.device != weight.device:
            refuse(name, f"must be on the model's device {weight.device}", ids.device, "move one of them with to()")
        # While a graph is traced, or under vmap, there are no values to look at.
        if ids.numel() == 0 or ids.is_meta or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return
        outside = (ids < 0) | (ids >= self.vocab)
        if also is not None:
            outside &= ids != also
        if outside.any():
            refuse(name, f"must be in [0, {self.vocab})", int(ids[outside][0]))

    def embed(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.embedding(tokens) * math.sqrt(self.dim))

    def factors(self, x: Tensor, position0: int, boundaries: Boundaries = None) -> tuple[Tensor, Tensor] | None:
        attention = layers_of(self.layers)[0].attention
        return attention.rotary_factors(position0, x.size(1), attention_dtype(x), x.device, boundaries)

    def hidden(self, tokens: Tensor, **call: Any) -> Tensor:
        self.check_ids("tokens", tokens)
        length, boundaries = tokens.size(1), call["boundaries"]
        if (ranks := self.over_ranks) is not None:
            length = ranks.length(length, boundaries)
        if length > self.max_len:
            remedy = "raise max_len in the config"
            refuse("tokens", f"must not be longer than max_len {self.max_len}", length, remedy)
        x = self.embed(tokens)
        rotary = self.factors(x, 0, boundaries)
        x = run_layers(self.layers, x, checkpointing=self.activation_checkpointing, rotary=rotary, **call)
        return self.final_norm(x)

    @property
    def over_ranks(self) -> ContextParallel | None:
        """Where its sequences lie, if it is with more than this process (`longstride.parallel.place`)."""
        return layers_of(self.layers)[0].attention.attention.over_ranks

    @property
    def head_weight(self) -> Tensor:
        """[vocab, dim]."""
        return self.embedding.weight if self.head is None else self.head.weight

    def forward(
        self,
        tokens: Tensor,
        *,
        lengths: Lengths = None,
        cu_seqlens: Lengths = None,
        deterministic: bool = False,
        boundaries: Boundaries = None,
    ) -> Tensor:
        """tokens int64 [batch, len] -> logits [batch, len, vocab]; those of a prefix never depend on what follows it.

        Args:
            lengths, cu_seqlens, deterministic: as in `attention`.
            boundaries: of a model whose sequences lie with several ranks, as in `longstride.parallel.cp_attention`;
                tokens are this rank's then.
        Raises:
            ValueError: tokens of another dtype, shape or device, outside of [0, vocab) (not looked at while a graph is
                traced or under torch.func's transforms), or more than max_len.
        """
        call = {"lengths": lengths, "cu_seqlens": cu_seqlens, "deterministic": deterministic}
        h = self.hidden(tokens, **call, boundaries=boundaries)
        return nn.functional.linear(h, self.head_weight)

    def token_losses(
        self,
        tokens: Tensor,
        targets: Tensor,
        *,
        lengths: Lengths = None,
        cu_seqlens: Lengths = None,
        deterministic: bool = False,
        boundaries: Boundaries = None,
    ) -> Tensor:
        """-ln p(targets[b, i] | tokens[b, 0..i]), in nats: float32 [batch, len] (float64 for a float64 model).

        0 where the target is -100. Computed over chunks of positions that are run again in the backward, so that the
        logits of all positions never exist at once.

        Args:
            targets: int64 [batch, len], in [0, vocab), or -100.
            tokens and the others: as in `forward`.
        Raises:
            ValueError: what `forward` raises; targets that do not fit.
        """
        self.check_ids("targets", targets, IGNORED)
        self.check_ids("tokens", tokens)
        if tokens.shape != targets.shape:
            refuse("targets", f"must have the shape of tokens, {shape(tokens)}", shape(targets))
        call = {"lengths": lengths, "cu_seqlens": cu_seqlens, "deterministic": deterministic}
        h = self.hidden(tokens, **call, boundaries=boundaries).flatten(0, 1)
        wide = torch.float64 if h.dtype == torch.float64 else torch.float32
        if h.size(0) == 0:  # with a gradient all the same: an empty shard takes part in its group's backward
            return h.sum(1).to(wide).view(targets.shape)

        def losses(rows: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
            logits = nn.functional.linear(rows, weight).to(wide)
            return nn.functional.cross_entropy(logits, wanted, reduction="none", ignore_index=IGNORED)

        chunk = max(1, CHUNK_LOGITS // self.vocab)
        parts = zip(h.split(chunk), targets.flatten().split(chunk))
        weight = self.head_weight
        kept: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        return torch.cat([checkpoint(losses, *part, weight, **kept) for part in parts]).view(targets.shape)

    def loss(self, tokens: Tensor, targets: Tensor, **call: Any) -> Tensor:
        """The mean of `token_losses` over the targets that count, in nats; a scalar. Raises ValueError if none does.

        Where sequences lie with several ranks: this rank's part of the mean over all of them, which is the ranks' sum.
        """
        counted = int((targets != IGNORED).sum())
        if (ranks := self.over_ranks) is not None:
            counted = ranks.sum("the count of targets", counted)
        if counted == 0:
            refuse("targets", "must hold one that counts", "none")
        return self.token_losses(tokens, targets, **call).sum() / counted

    def start_decoding(self, batch: int, capacity: int) -> DecodeState:
        """Caches for `capacity` tokens, at most max_len, in each of `batch` rows."""
        require_positive("batch", batch)
        if not 0 < capacity <= self.max_len:
            remedy = "ask for fewer tokens, or raise max_len in the config" if capacity > 0 else ""
            refuse("capacity", f"must be in [1, max_len {self.max_len}]", capacity, remedy)
        return DecodeState([layer.attention.make_cache(batch, capacity) for layer in layers_of(self.layers)], 0, capacity)

    @torch.no_grad()
    def decode(self, tokens: Tensor, state: DecodeState) -> Tensor:
        """One step in eval mode: appends tokens [batch, n] and returns the logits [batch, vocab] behind the last.

        They are those of `forward` on all tokens so far, with the work of n tokens.

        Args:
            state: of `start_decoding` of this model; it takes the tokens in.
        Raises:
            ValueError: training mode; no tokens, or more than fit; a state of another model.
        """
        if self.training:
            refuse("model", "must be in eval mode to decode", "training mode", "call eval()")
        self.check_ids("tokens", tokens)
        if len(state.layers) != len(self.layers):
            got = f"one of {len(state.layers)} layers for a model of {len(self.layers)}"
            refuse("state", "must be made by start_decoding() of this model", got)
        n = tokens.size(1)
        if n == 0:
            refuse("tokens", "must hold at least one token a row", shape(tokens))
        if not 0 <= state.length <= state.capacity - n:
            wanted = f"must fit behind {state.length} of {state.capacity} tokens"
            refuse("tokens", wanted, n, "start decoding with a larger capacity")
        x = self.embed(tokens)
        rotary = self.factors(x, state.length)
        for layer, cache in zip(self.layers, state.layers):
            cache.length = state.length  # so that a step that failed half-way can be run again
            x = layer(x, cache=cache, rotary=rotary)
        state.length += n
        return nn.functional.linear(self.final_norm(x[:, -1]), self.head_weight)

    def generate(self, prompt: Tensor, **options: Any) -> Tensor:
        """Tokens that continue a prompt: `longstride.nn.generate` of this model."""
        return generate(self, prompt, **options)


def require_steady(blocks: Sequence[dict[str, Any]]) -> None:
    """Refuses rules whose causal rows are not those of every longer sequence."""
    for block in blocks:
        needed = RULES[block["pattern"]].needed_to_stay(block)
        if needed:
            wanted = "must be the same for a prefix as for what it grows into, or decoding is not the model"
            refuse("blocks", wanted, block["pattern"], f"give {needed}")
