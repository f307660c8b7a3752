"""MultiheadDilatedAttention: the options and the parameters' names of the C++ module."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._attention import Lengths
from .._merge import with_sink
from .._refusal import dtype as dtype_name
from .._refusal import refuse, shape
from ..parallel._shards import Boundaries
from . import _positions
from ._attention import DilatedAttention
from ._cache import KeyValueCache
from ._checks import attention_dtype, check_input, require_positive, require_positive_finite
from ._config import refuse_unknown, require_types
from ._learned import BlockChoice
from ._retention import Retention


def lengths_of(mask: Tensor, batch: int, length: int) -> Tensor:
    """The lengths that a mask of trailing padding says. Read to the host, which waits for a device."""
    remedy = "padding at the end of rows only; say anything else with lengths or cu_seqlens"
    if mask.dtype != torch.bool or mask.shape != (batch, length):
        wanted = f"must be bool [{batch}, {length}], true where a key is padding"
        refuse("key_padding_mask", wanted, f"{dtype_name(mask.dtype)} {shape(mask)}", remedy)
    rows = mask.cpu()
    lengths = length - rows.sum(1)
    if not torch.equal(rows, torch.arange(length, device="cpu") >= lengths[:, None]):
        refuse("key_padding_mask", "must be true at the end of rows only", "a mask of another kind", remedy)
    return lengths


class MultiheadDilatedAttention(nn.Module):
    """Multi-head attention: projections, norms and positions around `DilatedAttention`.

    The constructor takes the fields of the C++ module's config.json by their names, and the parameters have its names,
    so that its model.safetensors loads; one fused q/k/v projection loads three, and three load one.

    Args:
        embed_dim, num_heads: width of the input, a multiple of num_heads.
        segment_lengths ... attention_dropout, blocks, learned, pattern: as in `DilatedAttention`.
        kv_heads: divides num_heads; 0: num_heads.
        fused_qkv: one projection `qkv_proj` (rows of q, then k, then v), or `q_proj`, `k_proj`, `v_proj`.
        bias: of all projections.
        sub_layer_norm: LayerNorm `inner_norm` before the output projection (MAGNETO, arXiv 2210.06423).
        qk_norm: LayerNorm `q_norm`, `k_norm` over each head of q and of k, before positions.
        layer_norm_eps: of all norms.
        gamma_init: Xavier gain of the value and output projections; q and k have gain 1.
        positions: "none"; "rope" or "xpos", on q and k; "alibi": a slope of each head times the distance is taken off
            scores.
        alibi_slopes: of "alibi", one number for each of num_heads; empty: the paper's, `longstride.nn.alibi_slopes`.
        rope_base: of the angles, > 1.
        xpos_scale_base: in tokens; 0: max(512, max_len / 32).
        max_len: in tokens; what xpos_scale_base is derived from.
        sinks: a learned logit of each query head, parameter `sinks` [num_heads], of one key more of value 0 that every
            query sees (`longstride.with_sink`; GPT-OSS). At first 0.
    Raises:
        ValueError: sizes that do not fit, and what `DilatedAttention` refuses.
    """

    q_proj: nn.Linear | None  # these three or qkv_proj
    k_proj: nn.Linear | None
    v_proj: nn.Linear | None
    sinks: nn.Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        segment_lengths: Sequence[int] = (),
        dilation_rates: Sequence[int] = (),
        *,
        kv_heads: int = 0,
        fused_qkv: bool = True,
        bias: bool = True,
        sub_layer_norm: bool = False,
        qk_norm: bool = False,
        layer_norm_eps: float = 1e-5,
        gamma_init: float = 1.0,
        positions: str = "none",
        rope_base: float = 10000.0,
        xpos_scale_base: float = 0.0,
        max_len: int = 1 << 20,
        alibi_slopes: Sequence[float] = (),
        sinks: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **attention_options: Any,
    ):
        super().__init__()
        require_types(MultiheadDilatedAttention, locals())
        require_positive("embed_dim", embed_dim)
        require_positive("num_heads", num_heads)
        if embed_dim % num_heads:
            refuse("embed_dim", f"must be a multiple of num_heads {num_heads}", embed_dim)
        if kv_heads < 0 or num_heads % (kv_heads or num_heads):
            refuse("kv_heads", f"must divide num_heads {num_heads}, or be 0 for as many", kv_heads)
        require_positive_finite("layer_norm_eps", layer_norm_eps)
        require_positive_finite("gamma_init", gamma_init)
        self.own = {
            "fused_qkv": fused_qkv, "bias": bias, "sub_layer_norm": sub_layer_norm, "qk_norm": qk_norm,
            "layer_norm_eps": layer_norm_eps, "gamma_init": gamma_init, "positions": positions, "rope_base": rope_base,
            "xpos_scale_base": xpos_scale_base, "max_len": max_len, "alibi_slopes": list(alibi_slopes), "sinks": sinks,
        }  # fmt: skip
        self.sizes = {"embed_dim": embed_dim, "num_heads": num_heads, "kv_heads": kv_heads}
        self.embed_dim, self.num_heads, self.kv_heads = embed_dim, num_heads, kv_heads or num_heads
        self.head_dim = embed_dim // num_heads
        self.gamma_init = gamma_init
        self.set_positions(positions, rope_base, xpos_scale_base, max_len, list(alibi_slopes))
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        key_value = self.kv_heads * self.head_dim
        self.parts = (embed_dim, key_value, key_value)
        self.qkv_proj = nn.Linear(embed_dim, sum(self.parts), bias, **made) if fused_qkv else None
        for name, rows in zip("qkv", self.parts):
            self.register_module(f"{name}_proj", None if fused_qkv else nn.Linear(embed_dim, rows, bias, **made))
        self.q_norm = nn.LayerNorm(self.head_dim, layer_norm_eps, **made) if qk_norm else None
        self.k_norm = nn.LayerNorm(self.head_dim, layer_norm_eps, **made) if qk_norm else None
        self.inner_norm = nn.LayerNorm(embed_dim, layer_norm_eps, **made) if sub_layer_norm else None
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias, **made)
        self.register_parameter("sinks", nn.Parameter(torch.empty(num_heads, **made)) if sinks else None)
        learned = attention_options.get("learned")
        if isinstance(learned, Mapping):
            sizes = [learned.get(name, 0) for name in ("head_dim", "kv_heads")]
            if any(sizes):
                remedy = "they follow from embed_dim, num_heads and kv_heads"
                got = f"{sizes[0]} and {sizes[1]}"
                refuse("learned.head_dim and learned.kv_heads", "must be 0 in a multihead module", got, remedy)
            attention_options["learned"] = {**learned, "head_dim": self.head_dim, "kv_heads": self.kv_heads}
        self.attention = DilatedAttention(segment_lengths, dilation_rates, **attention_options, **made)
        self.check_heads()
        self.register_load_state_dict_pre_hook(adapt_projections)
        self.reset_parameters()

    @property
    def config(self) -> dict[str, Any]:
        """Every option by name, as in config.json: the constructor's arguments."""
        of_attention = self.attention.config
        if of_attention["learned"] is not None:
            of_attention["learned"] |= {"head_dim": 0, "kv_heads": 0}  # they follow from the sizes
        return {**self.sizes, **of_attention, **self.own}

    def check_heads(self) -> None:
        parts = self.attention.config
        groups = len(parts["segment_lengths"])
        if parts["mixing"] == "head_partition" and self.kv_heads < groups:
            wanted = f"must be at least the number of groups {groups} under head_partition"
            refuse("kv_heads", wanted, self.kv_heads, "use joint mixing, which has no such limit")
        offsets = parts["offsets"]
        if offsets is not None and len(offsets) != groups * self.kv_heads:
            refuse("offsets", f"must have groups x kv_heads = {groups * self.kv_heads} entries", len(offsets))

    def make_cache(self, batch: int, capacity: int) -> KeyValueCache:
        """An empty cache for `capacity` tokens of this module's keys and values.

        It drops what no later token sees, unless positions are "alibi" and there are sinks, whose distance must stay.
        Its dtype is that in which attention runs now: the module's, or that of autocast.
        """
        require_positive("batch", batch)
        require_positive("capacity", capacity)
        weight = self.out_proj.weight
        retention = Retention.of(self.attention.pattern)
        if self.positions == "alibi" and retention is not None and retention.sinks:
            retention = None
        dtype = attention_dtype(weight)
        return KeyValueCache.empty(batch, capacity, self.kv_heads, self.head_dim, retention, dtype, weight.device)

    def rotary_factors(
        self, position0: int, length: int, dtype: torch.dtype, device: torch.device, boundaries: Boundaries = None
    ) -> tuple[Tensor, Tensor] | None:
        """Factors of positions [position0, position0 + length), for `rotary` of forward(); None unless they turn q and k.

        Where the sequence lies with several ranks: of this rank's `length` tokens of it, position0 being its first's.
        """
        if self.positions not in _positions.ROTARY:
            return None
        rows = None
        if (ranks := self.attention.over_ranks) is not None:
            rows, length = ranks.positions(length, boundaries, device), ranks.length(length, boundaries)
        return _positions.rotary_factors(
            self.positions, position0, length, self.head_dim, dtype, device, rope_base=self.rope_base,
            xpos_base=self.xpos_base, rows=rows,
        )  # fmt: skip

    def set_positions(
        self, positions: str, rope_base: float, xpos_scale_base: float, max_len: int, alibi_slopes: Sequence[float]
    ) -> None:
        if positions not in _positions.KINDS:
            refuse_unknown("positions", positions, _positions.KINDS)
        if not (rope_base > 1 and math.isfinite(rope_base)):
            refuse("rope_base", "must be finite and above 1", rope_base)
        if not (xpos_scale_base >= 0 and math.isfinite(xpos_scale_base)):
            refuse("xpos_scale_base", "must be positive, or 0 for the default", xpos_scale_base)
        require_positive("max_len", max_len)
        if positions in _positions.ROTARY and self.head_dim % 2:
            refuse("embed_dim / num_heads", f"must be even for {positions} positions", self.head_dim)
        if alibi_slopes and positions != "alibi":
            got = f"{len(alibi_slopes)} slopes with positions {positions}"
            refuse("alibi_slopes", "must be empty without positions alibi", got, "set positions to alibi")
        for head, slope in enumerate(alibi_slopes):
            if not math.isfinite(slope):
                refuse(f"alibi_slopes[{head}]", "must be finite", slope)
        if alibi_slopes and len(alibi_slopes) != self.num_heads:
            wanted = f"must have one slope for each of num_heads {self.num_heads}, or none"
            refuse("alibi_slopes", wanted, len(alibi_slopes))
        self.positions, self.rope_base, self.alibi_slopes = positions, rope_base, alibi_slopes
        self.xpos_base = _positions.scale_base(xpos_scale_base, max_len)

    def reset_parameters(self) -> None:
        """MAGNETO's initialisation from torch's generator; biases and sinks are 0."""
        with torch.no_grad():
            if self.qkv_proj is not None:
                q, k, v = self.qkv_proj.weight.split(self.parts)  # each part has the fans of its own projection
            else:
                assert self.q_proj is not None and self.k_proj is not None and self.v_proj is not None
                q, k, v = self.q_proj.weight, self.k_proj.weight, self.v_proj.weight
            nn.init.xavier_uniform_(q)
            nn.init.xavier_uniform_(k)
            nn.init.xavier_uniform_(v, self.gamma_init)
            nn.init.xavier_uniform_(self.out_proj.weight, self.gamma_init)
            for projection in (self.qkv_proj, self.q_proj, self.k_proj, self.v_proj, self.out_proj):
                if projection is not None and projection.bias is not None:
                    projection.bias.zero_()
            for norm in (self.q_norm, self.k_norm, self.inner_norm):
                if norm is not None:
                    norm.reset_parameters()
            if self.sinks is not None:
                self.sinks.zero_()
            self.attention.reset_parameters()

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.qkv_proj is None:
            assert self.q_proj is not None and self.k_proj is not None and self.v_proj is not None
            parts = [self.q_proj(query), self.k_proj(key), self.v_proj(value)]
        elif query is key and query is value:
            # Views of one product: attention takes any strides with dim contiguous.
            parts = list(self.qkv_proj(query).split(self.parts, 2))
        else:
            weights = self.qkv_proj.weight.split(self.parts)
            biases = (None,) * 3 if self.qkv_proj.bias is None else self.qkv_proj.bias.split(self.parts)
            parts = [nn.functional.linear(*of) for of in zip((query, key, value), weights, biases)]
        q, k, v = (part.unflatten(2, (-1, self.head_dim)) for part in parts)
        return q, k, v

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        key_padding_mask: Tensor | None = None,
        lengths: Lengths = None,
        cu_seqlens: Lengths = None,
        position0: int = 0,
        deterministic: bool = False,
        cache: KeyValueCache | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        need_lse: bool = False,
        choices: list[BlockChoice] | None = None,
        boundaries: Boundaries = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Self-attention of query [batch, len, embed_dim], or attention of it over key and value of equal shapes.

        Args:
            key_padding_mask: bool [batch, len], True where a key is padding, at the end of rows only. It is read to the
                host; `lengths` costs less.
            lengths, cu_seqlens, deterministic: as in `attention`.
            position0: global position of row 0, >= 0.
            cache: for decoding, of `make_cache`: rows are appended behind cache.length, whose positions they see too.
                Needs self-attention and grad mode off; takes no lengths.
            rotary: factors of exactly these rows, of `rotary_factors`, where a caller has them already.
            need_lse: whether to return lse, sinks included.
            choices: with learned blocks, a list to which the choice of this call is appended, with its density_loss.
            boundaries: as in `DilatedAttention.forward`.
        Returns:
            (output [batch, len, embed_dim], lse [batch, heads, len] or None).
        Raises:
            ValueError: shapes or dtypes that do not fit, padding that is not at the end of rows.
        """
        key = query if key is None else key
        value = key if value is None else value
        for name, x in (("query", query), ("key", key), ("value", value)):
            check_input(name, x, self.embed_dim, self.out_proj.weight)
        if query.shape != key.shape or key.shape != value.shape:
            got = f"{shape(query)}, {shape(key)} and {shape(value)}"
            refuse("query, key and value", "must have equal shapes", got, "mark shorter rows with lengths")
        if position0 < 0:
            refuse("position0", "must not be negative", position0)
        if key_padding_mask is not None:
            if self.attention.over_ranks is not None:
                remedy = "give lengths of the whole sequence"
                refuse("key_padding_mask", "must be None where the sequence lies with several ranks", "a mask", remedy)
            if lengths is not None or cu_seqlens is not None:
                refuse(
                    "key_padding_mask", "must not come together with lengths or cu_seqlens", "both", "give one of them"
                )
            lengths = lengths_of(key_padding_mask, query.size(0), query.size(1))
        if cache is not None:
            if lengths is not None or cu_seqlens is not None:
                remedy = "a cache holds one document a batch row"
                refuse("cache", "must not come together with lengths, cu_seqlens or a mask", "both", remedy)
            if self.attention.scorer is not None:
                refuse("cache", "must be None with learned blocks", "a cache", "run whole sequences")
            if query is not key or key is not value:
                refuse("cache", "needs self-attention", "different query, key and value", "pass one tensor")
            if torch.is_grad_enabled():
                refuse("cache", "needs grad mode off", "grad mode on", "put torch.no_grad() around decoding")
            cache.check_room(query.size(1))
        if rotary is not None and self.positions not in _positions.ROTARY:
            wanted = "must be None in a module whose positions are not rope or xpos"
            refuse("rotary", wanted, "factors", "set positions")
        q, k, v = self.project(query, key, value)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotary is None:
            before = position0 if cache is None else position0 + cache.length
            rotary = self.rotary_factors(before, query.size(1), v.dtype, v.device, boundaries)
        if rotary is not None:
            q, k = _positions.rotate(q, rotary[0]), _positions.rotate(k, rotary[1])
        # Under autocast norms return float32 where projections return a lower type.
        q, k = q.to(v.dtype), k.to(v.dtype)
        slopes = None
        if self.alibi_slopes:
            slopes = torch.tensor(self.alibi_slopes, dtype=torch.float32, device=q.device)
        elif self.positions == "alibi":
            slopes = _positions.alibi_slopes(self.num_heads, q.device)
        query_start = None
        if cache is not None:
            k, v = cache.append(k, v)
            query_start = cache.length - cache.dropped
        out, lse = self.attention(
            q, k, v, cu_seqlens=cu_seqlens, lengths=lengths, query_start=query_start, deterministic=deterministic,
            alibi_slopes=slopes, choices=choices, boundaries=boundaries,
        )  # fmt: skip
        if cache is not None:
            cache.length += query.size(1)
        if self.sinks is not None:
            out, lse = with_sink(out, lse, self.sinks)
        out = out.flatten(2)
        if self.inner_norm is not None:
            out = self.inner_norm(out)
        return self.out_proj(out), lse if need_lse else None


def adapt_projections(module: MultiheadDilatedAttention, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before weights are loaded: projections fused or split where the module has them the other way."""
    for leaf in ("weight", "bias"):
        fused = f"{prefix}qkv_proj.{leaf}"
        parts = [f"{prefix}{name}_proj.{leaf}" for name in "qkv"]
        if module.qkv_proj is not None and fused not in state and all(part in state for part in parts):
            rows_of = [state[part] for part in parts]
            if all(rows.dim() and rows.shape[1:] == rows_of[0].shape[1:] for rows in rows_of):
                state[fused] = torch.cat([state.pop(part) for part in parts])
        elif module.qkv_proj is None and fused in state and state[fused].shape[:1] == (sum(module.parts),):
            for part, rows in zip(parts, state.pop(fused).split(module.parts)):
                state[part] = rows
