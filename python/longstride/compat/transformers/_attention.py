"""The attention function that transformers' models call, and how their padding and caches become longstride's calls."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._attention import NO_DROPOUT
from ..._attention import attention as longstride_attention
from ..._merge import draw_dropout_seed
from ..._refusal import dtype as dtype_name
from ..._refusal import refuse, shape
from . import _documents, _masks
from ._masks import OTHER
from ._patterns import Choice, text_for

# Arguments of models that do not say who attends to what, or say what longstride has been told in another way.
HARMLESS = {
    *("layer_idx", "logits_to_keep", "max_length_k", "max_length_q", "num_items_in_batch", "output_hidden_states"),
    *("output_router_logits", "return_dict", "seq_idx", "use_cache"),
}
# What others change, in words.
WANTING = {
    "output_attentions": "attention weights as an output",
    "position_bias": "bias of scores",
    "softcap": "cap of scores",
}


class Call(NamedTuple):
    """What every call of one layer's forward has."""

    text: str
    scale: float | None
    dropout: float
    deterministic: bool
    sink: Tensor | None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, **where: Any) -> Tensor:
        """q [batch, len_q, heads, dim] over k and v; `where` is of longstride.attention: lengths, query_start, ..."""
        if self.dropout > 0:
            where |= {"dropout_p": self.dropout, "dropout_seed": draw_dropout_seed(q.device)}
        where |= {"scale": self.scale, "deterministic": self.deterministic}
        if self.sink is None:
            return longstride_attention(q, k, v, self.text, **where)
        out, lse = longstride_attention(q, k, v, self.text, return_lse=True, **where)
        # A key more whose value is 0: e^lse / (e^lse + e^sink) of the result is left.
        share = torch.sigmoid(lse - self.sink.to(lse.dtype).view(-1, 1)).transpose(1, 2).unsqueeze(-1)
        return (out * share).to(out.dtype)


def check_options(module: Any, options: dict[str, Any]) -> None:
    for name, value in options.items():
        if value is None or value is False or name in HARMLESS:
            continue
        got = shape(value) if isinstance(value, Tensor) else repr(value)
        why = f"longstride has no {WANTING[name]}" if name in WANTING else "longstride does not know what it does"
        refuse(name, f"must be None, as {why}", got, OTHER)
    if getattr(getattr(module, "config", None), "output_attentions", False):
        refuse("config.output_attentions", "must be False", "True", OTHER)


def check_mask(mask: Tensor | None, batch: int, len_q: int, len_k: int) -> None:
    if mask is None or mask.dtype in (torch.int32, torch.int64) and mask.dim() == 1:
        return
    if mask.dim() != 2 or mask.dtype != torch.bool:
        wanted = "must be None or the mask of padding that the model was given, [batch, keys]"
        refuse("attention_mask", wanted, f"{dtype_name(mask.dtype)} of {shape(mask)}", OTHER)
    if mask.size(0) != batch or mask.size(1) < len_q or mask.size(1) > len_k:
        refuse("attention_mask", f"must be [{batch}, keys] with {len_q} to {len_k} keys", shape(mask))


def check_own_keys(config: Any, causal: bool, len_q: int, len_k: int) -> None:
    """Queries and keys are of one sequence. Modules that are not causal may attend to another, and do not say so."""
    if causal:
        return
    two = getattr(config, "is_encoder_decoder", False) or getattr(config, "add_cross_attention", False)
    if two or len_q != len_k:
        got = "a model with cross-attention" if two else f"{len_q} queries and {len_k} keys"
        refuse("keys", "must be those of the queries' own sequence where attention is not causal", got, OTHER)


def members(rows: list[int]) -> slice | list[int]:
    """An index of these rows: no copy where they follow each other."""
    first, last = rows[0], rows[-1]
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows


def by_rows(call: Call, q: Tensor, k: Tensor, v: Tensor, rows: _masks.Rows) -> Tensor:
    """Each row over its own tokens, as if it were alone: one call for all rows that begin at one place."""
    first = rows.keys - q.size(1)  # the place of query 0 among the keys
    together: dict[int, list[int]] = {}
    for row, start in enumerate(rows.starts):
        together.setdefault(start, []).append(row)
    parts = []
    for start, of in together.items():
        which = members(of)
        padding = max(start - first, 0)
        where: dict[str, Any] = {"query_start": max(first - start, 0)}
        lengths = [rows.lengths[row] for row in of]
        if min(lengths) < rows.keys - start:
            where["lengths"] = lengths
        out = call(q[which, padding:], k[which, start : rows.keys], v[which, start : rows.keys], **where)
        parts.append(torch.nn.functional.pad(out, (0, 0, 0, 0, padding, 0)))
    if len(parts) == 1:
        return parts[0]
    order = torch.tensor([row for of in together.values() for row in of])
    return torch.cat(parts)[order.argsort().to(q.device)]


@torch.compiler.disable
def by_rows_read(call: Call, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return by_rows(call, q, k, v, _masks.read(mask))


def packed(call: Call, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Documents of all rows, one row after the other, as transformers counts them."""
    if q.size(1) != k.size(1):
        refuse("keys", f"must be as many as queries in packed rows, {q.size(1)}", k.size(1), "decode one text a row")
    flat = (x.reshape(1, -1, x.size(2), x.size(3)) for x in (q, k, v))
    return call(*flat, cu_seqlens=cu_seqlens).view(q.shape)


def documents_of(mask: Tensor | None, position_ids: Tensor | None, batch: int, length: int) -> Tensor | None:
    """The bounds of packed rows that the mask has or that positions say, for rows without padding."""
    of_mask = mask if mask is not None and mask.dim() == 1 else None
    if of_mask is not None and not torch.compiler.is_compiling():
        return of_mask
    of_positions = _documents.of_positions(position_ids, batch, length)
    if of_mask is None or of_positions is None:
        return of_mask if of_positions is None else of_positions
    return torch.maximum(of_mask, of_positions)  # in a graph: where the document of each token begins


def in_graph(call: Call, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, position_ids: Tensor | None) -> Tensor:
    """by_rows for a graph, in which starts are no numbers: a row's tokens are a document, and so is its padding."""
    if q.size(1) != mask.size(1):
        return by_rows_read(call, q, k, v, mask)
    changes = torch.nn.functional.pad(mask[:, 1:] != mask[:, :-1], (1, 0))
    torch._assert_async(((changes & mask).sum(1) + mask[:, 0] <= 1).all(), f"attention_mask {_masks.AT_ENDS}")
    cu_seqlens = documents_of(_masks.bounds(changes), position_ids, q.size(0), q.size(1))
    return packed(call, q, k, v, cu_seqlens) * mask[:, :, None, None]


def apply(call: Call, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, position_ids: Any, given: dict) -> Tensor:
    """The call, or the calls, that a layer's mask asks for; `given`: cu_seq_lens."""
    cu_seqlens = _documents.given(given)
    padding = mask is not None and mask.dim() == 2
    if padding and cu_seqlens is None:
        k, v = k[:, : mask.size(1)], v[:, : mask.size(1)]
        if torch.compiler.is_compiling():
            return in_graph(call, q, k, v, mask, position_ids)
        rows = _masks.rows_of(mask)
        if not rows.whole:
            return by_rows(call, q, k, v, rows)
    if cu_seqlens is None and q.size(1) == k.size(1):
        cu_seqlens = documents_of(mask, position_ids, q.size(0), q.size(1))
    if cu_seqlens is not None:
        return packed(call, q, k, v, cu_seqlens)
    return call(q, k, v) if q.size(1) == k.size(1) else call(q, k, v, query_start=k.size(1) - q.size(1))


def attention(
    bound: Choice,
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = NO_DROPOUT,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    position_ids: Tensor | None = None,
    deterministic: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of query [batch, heads, len, dim] over key and value [batch, kv_heads, keys, dim].

    Args:
        bound: the pattern of register().
        module: the layer: its config may have a pattern, `longstride`, and it says whether it is causal.
        attention_mask: what mask() made.
        dropout, scaling: of the probabilities and of the scores; None: 1 / sqrt(dim).
        is_causal: in place of the module's.
        sliding_window: the tokens that a query sees, itself included, and as many behind it if it is not causal.
        s_aux: a sink for each head: a score of a key more, whose value is 0 (gpt-oss).
        position_ids: where they restart at 0 without a mask, another document begins.
        **options: cu_seq_lens_q in their place; others are refused, if they are not harmless.
    Returns:
        (output [batch, len, heads, dim of value], None).
    Raises:
        ValueError: what cannot be honoured, with the argument, what it must be, what it was and what to do.
    """
    cu_seqlens = {name: options.pop(name, None) for name in _documents.NAMES}
    check_options(module, options)
    config = getattr(module, "config", None)
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    mask, window = _masks.split_window(attention_mask)
    window = sliding_window if window is None else window  # the mask's is what the model's own attention hides
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    check_mask(mask, q.size(0), q.size(1), k.size(1))
    keys = k.size(1) if mask is None or mask.dim() == 1 else mask.size(1)
    check_own_keys(config, causal, q.size(1), keys)
    text = text_for(config, bound, causal, window, keys)
    dim = v.size(3)
    if dim < q.size(3):  # longstride has one dim for all three: zeros beyond the values' own
        v = torch.nn.functional.pad(v, (0, q.size(3) - dim))
    q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
    call = Call(text, scaling, dropout, bool(deterministic), s_aux)
    return apply(call, q, k, v, mask, position_ids, cu_seqlens)[..., :dim], None
