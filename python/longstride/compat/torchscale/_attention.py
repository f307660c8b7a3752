"""DilatedAttention with torchscale's constructor, call and keys, and the forward that patched models get."""

import math
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from ..._attention import dilated_attention
from ..._merge import draw_dropout_seed
from ..._refusal import refuse, shape
from ...nn._checks import require_dropout, require_positive, require_positive_finite
from . import _arguments, _parts


def after(state: MutableMapping[str, Tensor], k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The cache's keys and values and behind them k and v [batch, len, heads, dim]. The cache has them as torchscale's,
    [batch, heads, len, dim], and not rotated."""
    if "prev_key" not in state:
        return k, v
    wanted = (k.size(0), k.size(2), k.size(3))
    for name in ("prev_key", "prev_value"):
        past = state[name]
        if past.dim() != 4 or (past.size(0), past.size(1), past.size(3)) != wanted:
            refuse(f"incremental_state['{name}']", f"must be [{wanted[0]}, {wanted[1]}, len, {wanted[2]}]", shape(past))
    return torch.cat([state["prev_key"].transpose(1, 2), k], 1), torch.cat([state["prev_value"].transpose(1, 2), v], 1)


def forward(
    self: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    incremental_state: MutableMapping[str, Tensor] | None = None,
    key_padding_mask: Tensor | None = None,
    attn_mask: None = None,
    rel_pos: None = None,
    is_first_step: bool = False,
    is_causal: bool = False,
) -> tuple[Tensor, None]:
    """Dilated attention of query [batch, len, embed_dim] over key and value of its shape.

    Args:
        incremental_state: a cache, a dict of this layer's own. The tokens follow those in it, which it then holds too,
            as prev_key and prev_value [batch, heads, len, dim].
        key_padding_mask: [batch, len], True where a key is padding. As in torchscale such keys are attended to, and on
            a device the mask is not read. With `honour_key_padding` each row is what it is without its padding, which
            is at the end of rows; the mask is then read to the host.
        attn_mask, rel_pos: must be None.
        is_first_step: not needed: an empty cache says so.
        is_causal: whether a query sees only keys at its own and earlier positions.
    Returns:
        (output [batch, len, embed_dim], None).
    Raises:
        ValueError: shapes that do not fit, a mask or bias, segments over several ranks.
    """
    _arguments.check_options(attn_mask, rel_pos)
    _arguments.check_inputs(self.embed_dim, query, key, value, incremental_state is not None)
    segments, rates = _arguments.groups_of(self.args)
    q, k, v = (
        projection(x).unflatten(2, (self.num_heads, self.head_dim))
        for projection, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
    )
    if incremental_state is not None:
        k, v = after(incremental_state, k, v)
    _arguments.check_ranks(self.args, segments, k.size(1))
    lengths = _arguments.lengths_to_honour(key_padding_mask, self.honour_key_padding, k.size(0), k.size(1))
    rotated = (q, k) if self.xpos is None else _parts.xpos_rotated(self.xpos, q, k)
    drops = self.training and self.dropout > 0
    out = dilated_attention(
        *rotated, v, segments, rates, causal=is_causal, head_offset="block", padding="zero_keys", lengths=lengths,
        query_start=None if incremental_state is None else k.size(1) - q.size(1),
        dropout_p=self.dropout if drops else 0, dropout_seed=draw_dropout_seed(q.device) if drops else None,
    )  # fmt: skip
    if incremental_state is not None:  # once nothing is refused any more
        incremental_state["prev_key"], incremental_state["prev_value"] = k.transpose(1, 2), v.transpose(1, 2)
    attn = out.flatten(2)
    if self.inner_attn_ln is not None:
        attn = self.inner_attn_ln(attn)
    return self.out_proj(attn), None


class DilatedAttention(nn.Module):
    """torchscale's multi-head dilated attention (LongNet, arXiv 2307.02486) over longstride's.

    Offsets by blocks of heads, zero keys in place of padding, segments no longer than the sequence, groups mixed by
    their softmax denominators: what torchscale's pretrained models were trained with, with its parameters' names.

    Args:
        args: torchscale's config, or any object with `segment_length` and `dilated_ratio`, lists or their texts
            ('[2048, 4096]'), both read in each call. `layernorm_eps`, `multiway`, `xpos_rel_pos`, `xpos_scale_base` and
            `seq_parallel` are torchscale's defaults where it has none; flash_attention is not asked for.
        embed_dim, num_heads: width of the input, a multiple of num_heads.
        dropout: of the attention probabilities, in [0, 1), while training.
        self_attention, encoder_decoder_attention: one of them is True. xPos and the inner norm are self-attention's.
        subln: whether a norm stands before out_proj.
    Attributes:
        honour_key_padding: whether forward honours key_padding_mask; False, as in torchscale.
    Raises:
        ValueError: a value out of range, with the argument, what it must be and what it was.
    """

    honour_key_padding = False

    def __init__(
        self,
        args: Any,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        self_attention: bool = False,
        encoder_decoder_attention: bool = False,
        subln: bool = False,
    ):
        super().__init__()
        require_positive("embed_dim", embed_dim)
        require_positive("num_heads", num_heads)
        if embed_dim % num_heads:
            refuse("embed_dim", f"must be a multiple of num_heads {num_heads}", embed_dim)
        require_dropout("dropout", dropout)
        if bool(self_attention) == bool(encoder_decoder_attention):
            wanted = "must be True, or encoder_decoder_attention in its place"
            refuse("self_attention", wanted, f"both {self_attention}")
        _arguments.groups_of(args)
        self.args = args
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.scaling = self.head_dim**-0.5
        self.dropout = dropout
        self.self_attention, self.encoder_decoder_attention = self_attention, encoder_decoder_attention
        # In this order: a seed gives the weights that it gives in torchscale.
        self.k_proj = self.part(nn.Linear, embed_dim, embed_dim)
        self.v_proj = self.part(nn.Linear, embed_dim, embed_dim)
        self.q_proj = self.part(nn.Linear, embed_dim, embed_dim)
        self.out_proj = self.part(nn.Linear, embed_dim, embed_dim)
        epsilon = _arguments.setting(args, "layernorm_eps")
        require_positive_finite("args.layernorm_eps", epsilon)
        self.inner_attn_ln = self.part(nn.LayerNorm, embed_dim, epsilon) if subln and self_attention else None
        self.xpos = self.positions() if _arguments.setting(args, "xpos_rel_pos") and self_attention else None

    def part(self, kind: type[nn.Module], *of: Any) -> Any:
        if _arguments.setting(self.args, "multiway"):
            return _parts.MultiwayNetwork(lambda: kind(*of))
        return kind(*of)

    def positions(self) -> _parts.XPOS:
        if self.head_dim % 2:
            refuse("embed_dim / num_heads", "must be even for args.xpos_rel_pos", self.head_dim)
        base = _arguments.setting(self.args, "xpos_scale_base")
        require_positive_finite("args.xpos_scale_base", base)
        return _parts.XPOS(self.head_dim, base)

    def reset_parameters(self) -> None:
        """torchscale's initialisation from torch's generator, which its constructor does not call either."""
        for projection in (self.k_proj, self.v_proj, self.q_proj):
            for one in _parts.halves(projection):
                nn.init.xavier_uniform_(one.weight, 1 / math.sqrt(2))
        for one in _parts.halves(self.out_proj):
            nn.init.xavier_uniform_(one.weight)
            nn.init.zeros_(one.bias)

    def extra_repr(self) -> str:
        segments, rates = _arguments.groups_of(self.args)
        return f"{self.embed_dim}, {self.num_heads}, {list(segments)}, {list(rates)}, dropout={self.dropout}"

    forward = forward
