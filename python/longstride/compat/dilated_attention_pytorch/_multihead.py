"""The classes of dilated-attention-pytorch that take embed_dim and num_heads: projections and norms around attention.

They differ in their projections (one fused or three), in the norms that they hold, and in what they return. Weights of
one form load into another: fused and split projections are turned into each other, and a module takes the norms that a
checkpoint has, so that layers of both lines load.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ... import factory
from ..._refusal import refuse, shape
from ...factory._legacy import class_named, factory_options
from ...nn._multihead import MultiheadDilatedAttention as Projections
from ...nn._multihead import adapt_projections, lengths_of
from ...nn._checks import check_input, require_positive, require_positive_finite
from ._attention import Attention, arguments_of, refuse_mask, signature_of
from ._configs import DilatedAttentionConfig, MultiheadConfig
from ._validation import ValidationMixin

OWN = ("embed_dim", "num_heads", "bias", "sub_layer_norm", "layer_norm_eps", "gamma_init", "device", "dtype")
# What some modules of the fork hold their parameters under.
WRAPPERS = ("_impl.", "attention_core.")
# What a module has where its norms are on.
NORM = "norm"  # `norm` before the output projection
LN = "q_ln, k_ln"  # `q_ln` and `k_ln` over all of q and of k, and `q_ln` again before the output projection
LN_BEFORE_OUT = "q_ln before out_proj"  # `q_ln` before the output projection; `k_ln` is held and has no part
LN_OF_QK = "q_ln, k_ln of q and k"  # `q_ln` and `k_ln` over all of q and of k


class Multihead(nn.Module):
    """What these classes share.

    Attributes:
        legacy: the class there, whose constructor it takes.
        fused: whether it is made with one q/k/v projection.
        form: of its norms, one of those above.
        scales_qk: whether q and k are drawn with gain gamma_init too.
        returns_pair: whether the result is (output, None) even without need_weights.
    """

    legacy: ClassVar[str]
    fused: ClassVar[bool] = False
    form: str = NORM
    scales_qk: ClassVar[bool] = False
    returns_pair: ClassVar[bool] = True

    def __init__(self, *arguments: Any, **keywords: Any):
        super().__init__()
        of = class_named(self.legacy, "multihead")
        given = arguments_of(self.legacy, arguments, keywords)
        options = factory_options(self.legacy, of, arguments, keywords)
        own = {name: options.pop(name) for name in OWN if name in options}
        self.build(factory.create_dilated_attention(of.type, **options), **own)
        self.segment_lengths, self.dilation_rates = list(given["segment_lengths"]), list(given["dilation_rates"])

    def __init_subclass__(cls, **keywords: Any):
        super().__init_subclass__(**keywords)
        if "legacy" in vars(cls) and "__init__" not in vars(cls):
            cls.__signature__ = signature_of(cls.legacy)

    def build(
        self, attention: nn.Module, embed_dim: int, num_heads: int, bias: bool = True, sub_layer_norm: bool = False,
        layer_norm_eps: float = 1e-5, gamma_init: float = 1.0, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        require_positive("embed_dim", embed_dim)
        require_positive("num_heads", num_heads)
        require_positive_finite("layer_norm_eps", layer_norm_eps)
        require_positive_finite("gamma_init", gamma_init)
        groups = len(attention.config["segment_lengths"])
        if num_heads < groups:
            refuse("num_heads", f"must be at least the number of groups {groups}", num_heads)
        self.embed_dim, self.num_heads = embed_dim, num_heads
        self.head_dim = ValidationMixin.validate_head_dim(embed_dim, num_heads)
        self.layer_norm, self.layer_norm_eps, self.gamma_init = sub_layer_norm, layer_norm_eps, gamma_init
        self.parts = (embed_dim,) * 3  # as adapt_projections wants them
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        # Drawn in the order of that library, so that a seed gives the weights that it gives there.
        self.qkv_proj = nn.Linear(embed_dim, 3 * embed_dim, bias, **made) if self.fused else None
        for name in ("q_proj", "k_proj", "v_proj"):
            self.register_module(name, None if self.fused else nn.Linear(embed_dim, embed_dim, bias, **made))
        self.attention = Attention(attention)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias, **made)
        self.norm = self.q_ln = self.k_ln = None
        if sub_layer_norm:
            self.take_form(type(self).form)
        self.register_load_state_dict_pre_hook(adapt)
        self.reset_parameters()

    @property
    def dropout(self) -> float:
        return self.attention.dropout

    @property
    def multihead_config(self) -> MultiheadConfig:
        """What it was made of, as the fork's configs have it. A copy: changing it changes nothing."""
        weight, bias = self.out_proj.weight, self.out_proj.bias is not None
        of_norms = self.layer_norm, self.layer_norm_eps
        return MultiheadConfig(
            self.embed_dim, self.num_heads, bias, *of_norms, self.gamma_init, weight.device, weight.dtype
        )

    @property
    def attention_config(self) -> DilatedAttentionConfig:
        """The rest of it."""
        return DilatedAttentionConfig(list(self.segment_lengths), list(self.dilation_rates), self.dropout)

    def take_form(self, form: str) -> None:
        """Makes the norms of a form in place of those that are there."""
        weight = self.out_proj.weight

        def made() -> nn.LayerNorm:
            return nn.LayerNorm(self.embed_dim, self.layer_norm_eps, device=weight.device, dtype=weight.dtype)

        self.form = form
        self.norm = made() if form == NORM else None
        self.q_ln, self.k_ln = (None, None) if form == NORM else (made(), made())

    def reset_parameters(self) -> None:
        """MAGNETO's initialisation (arXiv 2210.06423) from torch's generator, as there: normal; biases are 0."""
        gain = self.gamma_init if self.scales_qk else 1.0
        with torch.no_grad():
            if self.qkv_proj is not None:
                weights = self.qkv_proj.weight.split(self.parts)
            else:
                weights = [projection.weight for projection in (self.q_proj, self.k_proj, self.v_proj)]
            for weight, one in zip((*weights, self.out_proj.weight), (gain, gain, self.gamma_init, self.gamma_init)):
                nn.init.xavier_normal_(weight, one)
            for projection in (self.qkv_proj, self.q_proj, self.k_proj, self.v_proj, self.out_proj):
                if projection is not None and projection.bias is not None:
                    projection.bias.zero_()
            for norm in (self.norm, self.q_ln, self.k_ln):
                if norm is not None:
                    norm.reset_parameters()

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, layer_norm={self.layer_norm}"

    def attend(
        self, query: Tensor, key: Tensor | None, value: Tensor | None, is_causal: bool, padding: Tensor | None = None
    ) -> Tensor:
        """[batch, len, embed_dim] -> [batch, len, embed_dim]."""
        key = query if key is None else key
        value = query if value is None else value
        for name, x in (("query", query), ("key", key), ("value", value)):
            check_input(name, x, self.embed_dim, self.out_proj.weight)
        if query.shape != key.shape or key.shape != value.shape:
            got = f"{shape(query)}, {shape(key)} and {shape(value)}"
            refuse("query, key and value", "must have equal shapes", got)
        if padding is not None and self.attention.over_ranks is not None:
            refuse("key_padding_mask", "must be None where the sequence lies with several ranks", "a mask")
        lengths = None if padding is None else lengths_of(padding, query.size(0), query.size(1))
        q, k, v = Projections.project(self, query, key, value)
        if self.q_ln is not None and self.form in (LN, LN_OF_QK):
            # Under autocast norms return float32 where projections return a lower type.
            q, k = (norm(x.flatten(2)).to(v.dtype).view_as(x) for norm, x in ((self.q_ln, q), (self.k_ln, k)))
        out = self.attention(q, k, v, is_causal, lengths=lengths).flatten(2)
        if self.norm is not None:
            out = self.norm(out)
        elif self.q_ln is not None and self.form in (LN, LN_BEFORE_OUT):
            out = self.q_ln(out)
        return self.out_proj(out)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: None = None,
        is_causal: bool = False,
        average_attn_weights: bool = True,
    ) -> Tensor | tuple[Tensor, None]:
        """Self-attention of query [batch, len, embed_dim], or attention of it over key and value of its shape.

        Args:
            key_padding_mask: bool [batch, len], True where a key is padding, at the end of rows only. Read to the host.
            need_weights: whether the result is a pair; there are no weights in it, as there.
            attn_mask: must be None.
            is_causal: whether a query sees only keys at its own and earlier positions.
            average_attn_weights: of no effect, as there.
        Returns:
            The output [batch, len, embed_dim], or (output, None): always in the classes that return pairs, else with
            need_weights.
        Raises:
            ValueError: shapes or dtypes that do not fit, padding that is not at the end of rows, a mask.
        """
        refuse_mask("attn_mask", attn_mask)
        out = self.attend(query, key, value, is_causal, key_padding_mask)
        return (out, None) if need_weights or self.returns_pair else out


def adapt(module: Multihead, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Before weights are loaded: projections and norms of the checkpoint's form, without a wrapper's prefix."""
    for wrapper in WRAPPERS:
        for key in [key for key in state if key.startswith(prefix + wrapper)]:
            state[prefix + key.removeprefix(prefix + wrapper)] = state.pop(key)
    adapt_projections(module, state, prefix)
    if not module.layer_norm:
        return
    if module.norm is not None and f"{prefix}q_ln.weight" in state:
        module.take_form(LN)
    elif module.norm is None and f"{prefix}norm.weight" in state:
        module.take_form(NORM)


class MultiheadDilatedAttention(Multihead):
    """MultiheadDilatedAttention of the larger fork: `q_ln` and `k_ln` over q and k, `q_ln` again before the output.

    dilation_rates come before segment_lengths. Returns the output alone unless need_weights.
    """

    legacy = "MultiheadDilatedAttention"
    form = LN
    scales_qk = True
    returns_pair = False


class ImprovedMultiheadDilatedAttention(Multihead):
    """One fused projection, `q_ln` before the output; `k_ln` is held and has no part, as there."""

    legacy = "ImprovedMultiheadDilatedAttention"
    fused = True
    form = LN_BEFORE_OUT


class RingMultiheadDilatedAttention(Multihead):
    """One fused projection, `norm` before the output; over shards of the sequence."""

    legacy = "RingMultiheadDilatedAttention"
    fused = True


class DistributedMultiheadDilatedAttention(Multihead):
    """Three projections, `norm` before the output; over shards of the sequence."""

    legacy = "DistributedMultiheadDilatedAttention"

    def build(self, attention: nn.Module, **own: Any) -> None:
        super().build(attention, **own, sub_layer_norm=True)  # there without a word in the constructor


class DistributedImprovedMultiheadDilatedAttention(Multihead):
    """Three projections and the norms of MultiheadDilatedAttention; over shards of the sequence."""

    legacy = "DistributedImprovedMultiheadDilatedAttention"
    form = LN
    scales_qk = True
    returns_pair = False


class RingDistributedDilatedAttention(RingMultiheadDilatedAttention):
    """RingMultiheadDilatedAttention with the arguments of a training job, at their defaults only."""

    legacy = "RingDistributedDilatedAttention"


class BlockSparseRingMultiheadDilatedAttention(Multihead):
    """Three projections around BlockSparseRingDilatedAttention, no norms. Returns the output, a pair with need_weights."""

    legacy = "BlockSparseRingMultiheadDilatedAttention"
    returns_pair = False
